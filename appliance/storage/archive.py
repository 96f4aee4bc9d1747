"""An archive of files with their sums: a tar (POSIX pax) that is known to be whole, or is refused.

    HEADER      first: JSON, {"format": 1, …} and what the writer says of it
    FOLDER/…    the files, each with its modification time (a Maildir's is the time of arrival)
    SUMS        last: `sha256sum`'s format, a line for each of the files before it, the header too

So `tar -xf` and `sha256sum -c` read it on any PC. What is cut off has no SUMS; what was changed has another sum; what
was added is in no line. It knows nothing of what the files are. A file's name on a stick may not hold what a Maildir's
does: hence an archive, and not a folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

from appliance.storage.disk import FILE_MODE, Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Damaged", "Reader", "Sink", "Writer"]

FORMAT: Final = 1
HEADER: Final = "HEADER.json"
SUMS: Final = "SHA256SUMS"
SMALL_BYTES: Final = 4 * 1024 * 1024
"""What is read into memory: the header, a configuration."""
SUMS_BYTES: Final = 1 << 28
"""A million mails."""
READ: Final = 1 << 20
_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")


class Damaged(Exception):
    """It is no archive of ours, or not as it was written; a sentence says what is wrong."""


class Sink(io.RawIOBase):
    """A descriptor of the disk's as a file to write to."""

    def __init__(self, disk: Disk, fd: int) -> None:
        super().__init__()
        self._disk, self._fd = disk, fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._disk.write(self._fd, data)
        return len(data)


class Writer:
    """Into a stream that need not seek. Ended by `close`, without which it is not whole. Raises OSError."""

    def __init__(self, stream: IO[bytes], about: dict[str, Any]) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by `close`
        self._sums: list[str] = []
        self.add_bytes(HEADER, json.dumps({"format": FORMAT, **about}, indent=1).encode() + b"\n")

    def add_bytes(self, name: str, data: bytes, *, mtime: float = 0.0) -> None:
        self._add(name, io.BytesIO(data), len(data), mtime)

    def add_file(self, name: str, path: Path) -> bool:
        """As it is now; False where it is gone."""
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        with file:
            status = os.fstat(file.fileno())
            self._add(name, file, status.st_size, status.st_mtime)
        return True

    def _add(self, name: str, source: IO[bytes], size: int, mtime: float) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, mtime, FILE_MODE
        counted = _Counted(source)
        self._tar.addfile(info, counted)
        self._sums.append(f"{counted.sum.hexdigest()}  {name}\n")

    def close(self) -> None:
        data = "".join(self._sums).encode("utf-8", "surrogateescape")
        info = tarfile.TarInfo(SUMS)
        info.size, info.mode = len(data), FILE_MODE
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()


@dataclass
class _Counted:
    """Passes on what it reads, and sums it up."""

    source: Any
    sum: Any = field(default_factory=hashlib.sha256)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.source.read(size)
        self.sum.update(data)
        return data


class Reader:
    """From a stream that need not seek. `about` is the header; then `members` once, to the end, each read or extracted
    before the next; then it is known to be whole. Raises Damaged and OSError."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._sums: dict[str, str] = {}
        try:
            self._tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - it owns nothing but the stream
        except tarfile.TarError as error:
            raise Damaged(f"it is no backup: {error}") from None
        first = self._next()
        if first is None or first.name != HEADER:
            raise Damaged("it is no backup")
        try:
            self.about = json.loads(self.read(first))
        except ValueError:
            raise Damaged("it is no backup") from None
        if not isinstance(self.about, dict) or self.about.get("format") != FORMAT:
            raise Damaged("it is a backup of a version of Posthouse that this one does not know")

    def members(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            if member.name == SUMS:
                self._check(self._content(member, SUMS_BYTES))
                return
            yield member
            if member.name not in self._sums:
                self._read(member, lambda data: None)
        raise Damaged("it is cut off: its end is missing")

    def read(self, member: tarfile.TarInfo) -> bytes:
        return self._content(member, SMALL_BYTES)

    def extract(self, member: tarfile.TarInfo, disk: Disk, path: Path) -> None:
        """As a new file, with its time; not flushed."""
        disk.mkdir(path.parent)
        fd = disk.create(path)
        try:
            self._read(member, lambda data: disk.write(fd, data))
        finally:
            disk.close(fd)
        os.utime(path, (member.mtime, member.mtime))

    def _content(self, member: tarfile.TarInfo, limit: int) -> bytes:
        if member.size > limit:
            raise Damaged(f"{member.name!r} is larger than {limit} bytes")
        parts: list[bytes] = []
        self._read(member, parts.append)
        return b"".join(parts)

    def _read(self, member: tarfile.TarInfo, take: Any) -> None:
        file = self._tar.extractfile(member)
        assert file is not None  # `_next` lets nothing else pass
        counted = _Counted(file)
        try:
            while data := counted.read(READ):
                take(data)
        except tarfile.TarError as error:
            raise Damaged(f"it is cut off or changed: {error}") from None
        self._sums[member.name] = counted.sum.hexdigest()

    def _next(self) -> tarfile.TarInfo | None:
        try:
            member = self._tar.next()
        except tarfile.TarError as error:
            raise Damaged(f"it is cut off or changed: {error}") from None
        if member is None:
            return None
        if not member.isreg() or not _is_safe(member.name) or member.name in self._sums:
            raise Damaged(f"it has an entry that no backup has: {member.name!r}")
        return member

    def _check(self, listed: bytes) -> None:
        sums = {}
        for line in listed.decode("utf-8", "surrogateescape").splitlines():
            found = _LINE.fullmatch(line)
            if found is None:
                raise Damaged("its list of sums is damaged")
            sums[found[2]] = found[1]
        del self._sums[SUMS]
        wrong = _differing(sums, self._sums)
        if wrong:
            raise Damaged(f"{wrong!r} is not as it was written")


def _differing(one: dict[str, str], other: dict[str, str]) -> str:
    return next((name for name in sorted({**one, **other}) if one.get(name) != other.get(name)), "")


def _is_safe(name: str) -> bool:
    """Whether it stays below where it is put."""
    return bool(name) and not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))
