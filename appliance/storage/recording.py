"""A disk that remembers what was done to it, so that a test can cut the power after any operation.

`RecordingDisk` does everything for real, below one root folder, and keeps the list of operations. `power_cut` then
builds, in another folder, what may be left when the power goes right behind operation `n`, by the rules in `disk`:
what was flushed is there, and what was not is dropped, kept or torn, as the `Fate` says:

    DROPPED   nothing unflushed reached the disk: neither bytes nor entries
    KEPT      all of it did
    TORN      the entries did, but of a file's unflushed bytes only the first half, the rest as zeros
    SHORT     the entries did, but unflushed bytes are cut off after the first half
    FIRST     as TORN, but only for the file that was written first: what was written behind it is whole
    MIXED     each unflushed operation on its own, by chance (`seed`): later ones may be there without earlier ones
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from appliance.storage.disk import FILE_MODE, FOLDER_MODE, Disk

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Fate", "RecordingDisk", "power_cut"]


class Fate(Enum):
    DROPPED = auto()
    KEPT = auto()
    TORN = auto()
    SHORT = auto()
    FIRST = auto()
    MIXED = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `file` numbers the inode it is about, paths are relative to the root."""

    name: str
    file: int = -1
    path: str = ""
    other: str = ""
    data: bytes = b""
    offset: int = 0


@dataclass(slots=True)
class RecordingDisk(Disk):
    """`root` must hold everything that is written through it. `marks` are the numbers of operations behind which
    something was promised: `mark(what)` from the test, at the moment when a client has its answer."""

    root: Path
    operations: list[Operation] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    _flushes: int = 0
    adopted: int = 0
    """Operations that `adopt` stands for; cuts come behind them."""
    _entries: dict[str, int] = field(default_factory=dict)  # path -> file, as it stands now
    _files: dict[int, int] = field(default_factory=dict)  # descriptor -> file

    def adopt(self) -> None:
        """Takes what lies below the root already as durable: for recording a start on what a cut has left."""
        for path in sorted(self.root.rglob("*")):
            if path.is_dir():
                self._record(Operation("mkdir", path=self._relative(path)))
            else:
                number = len(self.operations)
                self._record(Operation("create", number, self._relative(path)))
                self._record(Operation("write", number, data=path.read_bytes()))
        self._record(Operation("syncfs"))
        self.adopted = len(self.operations)

    def mark(self, what: str) -> None:
        self.marks.append((len(self.operations), what))

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _record(self, op: Operation) -> None:
        self.operations.append(op)
        apply(op, self._entries, {})

    def create(self, path: Path, *, mode: int = FILE_MODE) -> int:
        fd = Disk.create(self, path, mode=mode)
        self._files[fd] = len(self.operations)
        self._record(Operation("create", self._files[fd], self._relative(path)))
        return fd

    def open_append(self, path: Path) -> int:
        fd = Disk.open_append(self, path)
        self._files[fd] = self._entries[self._relative(path)]
        return fd

    def open_write(self, path: Path) -> int:
        fd = Disk.open_write(self, path)
        self._files[fd] = self._entries[self._relative(path)]
        return fd

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        offset = os.fstat(fd).st_size  # every write of ours appends
        Disk.write(self, fd, data)
        self._record(Operation("write", self._files[fd], data=bytes(data), offset=offset))

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        Disk.pwrite(self, fd, data, offset)
        self._record(Operation("write", self._files[fd], data=bytes(data), offset=offset))

    def truncate(self, fd: int, length: int) -> None:
        Disk.truncate(self, fd, length)
        self._record(Operation("truncate", self._files[fd], offset=length))

    def close(self, fd: int) -> None:
        self._files.pop(fd)
        Disk.close(self, fd)

    def fsync(self, fd: int) -> None:
        self._flushes += 1
        self._record(Operation("fsync", self._files[fd]))

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync_folder(self, path: Path) -> None:
        self._flushes += 1
        self._record(Operation("fsync_folder", path=self._relative(path)))

    def syncfs(self, path: Path) -> None:
        self._flushes += 1
        self._record(Operation("syncfs"))

    def rename(self, old: Path, new: Path) -> None:
        Disk.rename(self, old, new)
        self._record(Operation("rename", path=self._relative(old), other=self._relative(new)))

    def link(self, old: Path, new: Path) -> None:
        Disk.link(self, old, new)
        self._record(Operation("link", path=self._relative(old), other=self._relative(new)))

    def unlink(self, path: Path, *, moved: bool = False) -> None:
        Disk.unlink(self, path)
        self._record(Operation("unlink", path=self._relative(path)))

    def mkdir(self, path: Path, *, mode: int = FOLDER_MODE) -> None:
        Disk.mkdir(self, path, mode=mode)
        if path.is_relative_to(self.root):
            self._record(Operation("mkdir", path=self._relative(path)))


class _Cut:
    """Plays operations twice: as the running system saw them (`seen`), and as the disk certainly has them."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}  # path -> file
        self.sure: dict[str, int] = {}
        self.bytes_seen: dict[int, bytes] = {}
        self.bytes_sure: dict[int, bytes] = {}
        self.folders: list[str] = []
        self.unflushed: list[Operation] = []

    def play(self, op: Operation) -> None:
        if op.name == "mkdir":
            self.folders.append(op.path)  # folders are made at the first start: their loss is no state of ours
        elif op.name == "syncfs":
            self.sure, self.bytes_sure = dict(self.seen), dict(self.bytes_seen)
            self.unflushed.clear()
        elif op.name == "fsync":
            self.bytes_sure[op.file] = self.bytes_seen[op.file]
            self.unflushed = [u for u in self.unflushed if u.name not in ("write", "truncate") or u.file != op.file]
        elif op.name == "fsync_folder":
            self.sure = {p: f for p, f in self.sure.items() if _folder(p) != op.path}
            self.sure.update({p: f for p, f in self.seen.items() if _folder(p) == op.path})
            self.unflushed = [u for u in self.unflushed if op.path not in (_folder(u.path), _folder(u.other))]
        else:
            apply(op, self.seen, self.bytes_seen)
            self.unflushed.append(op)


def _folder(path: str) -> str:
    """As `fsync_folder` names it: the root itself is "."."""
    return path and (path.rpartition("/")[0] or ".")


def apply(op: Operation, entries: dict[str, int], contents: dict[int, bytes]) -> None:
    """One operation on a picture of the disk; one whose object is not there does nothing."""
    match op.name:
        case "create":
            entries[op.path] = op.file
            contents.setdefault(op.file, b"")
        case "write":
            old = contents.get(op.file, b"").ljust(op.offset, b"\0")
            contents[op.file] = old[: op.offset] + op.data + old[op.offset + len(op.data) :]
        case "truncate":
            contents[op.file] = contents.get(op.file, b"")[: op.offset].ljust(op.offset, b"\0")
        case "rename":
            if op.path in entries:
                entries[op.other] = entries.pop(op.path)
        case "link":
            if op.path in entries:
                entries[op.other] = entries[op.path]
        case "unlink":
            entries.pop(op.path, None)


def _torn(op: Operation, *, zeros: bool) -> Operation:
    if op.name != "write":
        return op
    half = op.data[: len(op.data) // 2]
    data = half.ljust(len(op.data), b"\0") if zeros else half
    return Operation("write", op.file, data=data, offset=op.offset)


def power_cut(disk: RecordingDisk, n: int, fate: Fate, into: Path, *, seed: int = 0) -> None:
    """Makes below `into` what is left when the power goes behind the first `n` operations."""
    cut = _Cut()
    for op in disk.operations[:n]:
        cut.play(op)
    entries, contents = dict(cut.sure), dict(cut.bytes_sure)
    rng = random.Random(seed)
    first = next((op.file for op in cut.unflushed if op.name == "write"), -1)
    for op in cut.unflushed:
        if fate is Fate.DROPPED or (fate is Fate.MIXED and rng.random() < 0.5):
            continue
        if fate in (Fate.TORN, Fate.SHORT) or (fate is Fate.FIRST and op.file == first):
            op = _torn(op, zeros=fate is not Fate.SHORT)
        elif fate is Fate.MIXED and rng.random() < 0.3:
            op = _torn(op, zeros=rng.random() < 0.5)
        apply(op, entries, contents)
    for folder in cut.folders:
        (into / folder).mkdir(parents=True, exist_ok=True)
    for path, file in entries.items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_bytes(contents.get(file, b""))
