"""The disk's operations: the only code of Posthouse that writes files. Synchronous; callers off the event
loop are `committer` and start-up.

Each operation has a power-cut rule, which `recording` plays out in tests: what is certain to be there after
the power went, if it went right behind the operation.

| operation           | after a power cut                                                              |
|---------------------|--------------------------------------------------------------------------------|
| create, mkdir       | the entry may be there or not; a file is empty, or holds any part of its writes |
| write, pwrite       | any part of the bytes may be there, zeros in place of missing ones before others |
| truncate            | the old length or the new                                                      |
| rename, link, unlink| the old entry or the new, never neither (rename is atomic)                     |
| fsync, fdatasync    | the file's bytes are there, its entry need not be (fsync(2))                   |
| fsync_folder        | the folder's entries are there, the files' bytes need not be                   |
| syncfs              | everything before it on that file system is there (reports errors since Linux 5.8) |

Reading needs no rule and no door: rooms read with the standard library.
"""

from __future__ import annotations

import ctypes
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE_MODE", "FOLDER_MODE", "Disk"]

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The real one. Every method raises OSError. Descriptors are plain ints, closed by `close`."""

    def __init__(self) -> None:
        self._flushes = 0

    @property
    def flushes(self) -> int:
        """How often stable storage was waited for: the figure that wears flash and sets the pace of an SD card."""
        return self._flushes

    def create(self, path: Path, *, mode: int = FILE_MODE) -> int:
        """A new file, open for writing and reading; FileExistsError when there is one."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)

    def open_append(self, path: Path) -> int:
        """An existing file, open for appending."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def open_plain(self, path: Path, *, append: bool = False) -> int:
        """An existing file, open for reading, or for appending alone, in a folder that somebody has whom we trust less:
        no link, neither kind, and no FIFO or device that he has put there."""
        mode = os.O_WRONLY | os.O_APPEND if append else os.O_RDONLY
        fd = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(fd)
            raise OSError(f"{path} is no plain file")
        return fd

    def open_write(self, path: Path) -> int:
        """An existing file, open for writing at offsets."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """All of `data` at the descriptor's position."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        view = memoryview(data)
        while view:
            n = os.pwrite(fd, view, offset)
            view, offset = view[n:], offset + n

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def close(self, fd: int) -> None:
        os.close(fd)

    def fsync(self, fd: int) -> None:
        self._flushes += 1
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._flushes += 1
        os.fdatasync(fd)

    def fsync_folder(self, path: Path) -> None:
        self._flushes += 1
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def syncfs(self, path: Path) -> None:
        """Flushes the whole file system that holds `path`."""
        self._flushes += 1
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(path))
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        os.link(old, new)

    def unlink(self, path: Path, *, moved: bool = False) -> None:
        """`moved`: another program gave it this name, beside us and without a flush."""
        os.unlink(path)

    def mkdir(self, path: Path, *, mode: int = FOLDER_MODE) -> None:
        """The folder and those above it that are missing; no error when it is there."""
        if path.is_dir():
            return
        self.mkdir(path.parent, mode=mode)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            pass

    # ---- batches: what the committer makes durable at once
    dirty: bool = False
    """Whether `checkpoint` has something to do."""
    broken: bool = False
    """A flush failed: what is on the disk is known again only after a new start."""

    def begin_batch(self) -> None:
        """What this thread does from now on is one batch."""

    def end_batch(self) -> object:
        """Ends it; -> what `make_durable` takes."""
        return None

    def make_durable(self, changes: object, root: Path) -> None:
        """Returns when that batch is on stable storage; may run in another thread. This disk flushes the file system;
        `redo.RedoDisk` knows a shorter way. Raises OSError."""
        self.syncfs(root)

    def checkpoint(self) -> None:
        """Brings to rest what the shorter way left."""

    # ---- compositions that more than one room needs
    def replace_file(
        self, path: Path, data: bytes, *, mode: int = FILE_MODE, owner: tuple[int, int] | None = None
    ) -> None:
        """`path` holds `data`, whole and durably, or what it held before. `owner`: user and group, if not our own: to
        give a file away takes privileges. 2 flushes."""
        draft = path.with_name(path.name + ".new")
        if draft.exists():
            self.unlink(draft)
        fd = self.create(draft, mode=mode)
        try:
            self.write(fd, data)
            if owner is not None and owner != (os.fstat(fd).st_uid, os.fstat(fd).st_gid):
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            self.fsync(fd)
        finally:
            self.close(fd)
        self.rename(draft, path)
        self.fsync_folder(path.parent)
