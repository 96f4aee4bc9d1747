"""The redo log: what makes a batch durable with one short sequential write instead of a walk over the file system.

Theory of operation. `RedoDisk` does every operation at once, as `Disk` does, and within a batch of the committer also
notes it, data included. At the batch's end the notes are appended to a preallocated file and that file alone is
flushed (fdatasync): from then on the batch cannot be lost, whatever the file system has of it. After a power cut
`replay` does the noted operations once more, in order, over whatever is there.

    log        a header (the epoch), then frames: magic, epoch, number, length, crc32 of all, operations as msgpack
    replay     frames of the header's epoch, numbered without a gap, up to the first that is not whole
    checkpoint the whole file system is flushed (syncfs), then the header gets the next epoch: the log is empty

A checkpoint comes when the log is full, when nothing has been committed for a while, and at the end. What replay can't
bring back needs a flush of the file system in its own batch: what is large, or was written outside of batches
(`storage.draft`), and links to files that are not in the log. Their batches end with syncfs.

Why replay over a newer state comes out right: operations set, they do not add. A file is made anew, a write has its
offset, a name that is gone is passed over; a write to a file that was renamed later finds it under its later name.
It takes one rule: a name is one file's for ever (as the spool's and the Maildir's are, being unique), or is replaced
whole (`Disk.replace_file`): by a logged file in order, by an unlogged one with a checkpoint.
What others did to a file meanwhile (Dovecot moving new mail to cur/) the log does not know, so that replay brings it
back under the name that it had: `Mailbox.recover` puts that right, and a batch that removes such a file ends with a
checkpoint.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack

from appliance import events
from appliance.storage.disk import FILE_MODE, FOLDER_MODE, Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LOG_BYTES", "RedoDisk"]

LOG_BYTES: Final = 16 * 1024 * 1024
"""Preallocated: a hundred messages of 100 KB between two checkpoints."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LARGE_BYTES: Final = 32 * 1024
"""A new file with more than this in one write is flushed, not logged: to write it twice would cost more."""
HEADER_BYTES: Final = 4096
_HEADER: Final = struct.Struct(">8sQ")
_FRAME: Final = struct.Struct(">4sQQI")
_SUM: Final = struct.Struct(">I")
_HEADER_MAGIC: Final = b"phredo1\n"
_FRAME_MAGIC: Final = b"redo"

_OPERATIONS: Final = frozenset({"create", "write", "touch", "truncate", "rename", "link", "unlink", "mkdir"})

Operation = list[Any]
"""[name, path, …], paths relative to the root."""


@dataclass(frozen=True, slots=True)
class _Changes:
    """A batch's operations, and whether replay alone could not bring them back."""

    operations: list[Operation]
    needs_syncfs: bool
    needs_checkpoint: bool


class RedoDisk(Disk):
    """A `Disk` with a log in front of it. `inner` does the work; `root` holds everything that is written here.

    A batch is one thread's, from `begin_batch` to `end_batch`. What other threads do meanwhile (drafts) is not logged;
    they touch only files that no batch has named yet.
    """

    def __init__(self, inner: Disk, root: Path, *, log_bytes: int = LOG_BYTES, large_bytes: int = LARGE_BYTES) -> None:
        self._inner = inner
        self._root = root
        self._prefix = len(os.fspath(root)) + 1
        self._log_bytes = log_bytes
        self._large_bytes = large_bytes
        self._log_path = root / "redo"
        self._log = -1
        self._epoch = 0
        self._number = 0
        self._end = HEADER_BYTES
        self._paths: dict[int, str] = {}  # descriptor -> the name it was opened by
        self._unlogged: set[str] = set()  # written outside of batches, not flushed yet
        self._in_log: set[str] = set()  # made in this epoch: replay can make them again
        self._batch: list[Operation] | None = None
        self._batch_thread = 0
        self._needs_syncfs = False
        self._needs_checkpoint = False
        self._named: set[str] = set()  # what the log says something of
        self.dirty = False
        self.broken = False

    # ---- the log
    def open_log(self) -> int:
        """Makes the log, or replays it; -> how many operations were done again. Before anybody reads what lies below
        the root. Raises OSError."""
        redone = 0
        operations = self._found()
        if operations is not None:
            _Replay(self._inner, self._root, operations).run()
            redone = len(operations)
            if self._log_path.stat().st_size != self._log_bytes:  # another version's
                self._inner.syncfs(self._root)
                operations = None
        if operations is None and not self._make_log():
            return redone
        self._log = self._inner.open_write(self._log_path)
        self.dirty = True
        self.checkpoint()
        return redone

    def _found(self) -> list[Operation] | None:
        """What is noted in the log that is there; None where there is none, or it was never finished. A newer
        version's, or one that notes what this version can't do, is put aside: it may hold what was acknowledged."""
        if not self._log_path.exists():
            return None
        with self._log_path.open("rb") as file:
            magic = file.read(len(_HEADER_MAGIC))
        if magic == _HEADER_MAGIC:
            operations = list(self._noted())
            if all(op[0] in _OPERATIONS for op in operations):
                return operations
        if magic.strip(b"\0"):
            self._put_log_aside()
        return None

    def _put_log_aside(self) -> None:
        n = 1
        while (aside := self._root / f"redo.{n}").exists():
            n += 1
        self._inner.rename(self._log_path, aside)
        self._inner.fsync_folder(self._root)
        events.emit(events.NOT_UNDERSTOOD, file=aside, what="operations that were noted before the power went")

    def _make_log(self) -> bool:
        """False where the disk has no room for it: batches then end with syncfs, which is slower and no less safe."""
        if self._log_path.exists():
            self._inner.unlink(self._log_path)
        fd = self._inner.create(self._log_path)
        try:
            self._inner.write(fd, bytes(self._log_bytes))
        except OSError as error:
            self._inner.unlink(self._log_path)
            if error.errno not in _NO_ROOM:
                raise
            events.emit(events.NO_REDO_LOG, bytes=self._log_bytes)
            return False
        finally:
            self._inner.close(fd)
        return True

    def close_log(self) -> None:
        """Flushes everything and empties the log."""
        self.checkpoint()
        fd, self._log = self._log, -1
        if fd >= 0:
            self._inner.close(fd)

    def checkpoint(self) -> None:
        """Flushes the file system and empties the log, where there is anything in it. Raises OSError."""
        if not self.dirty or self.broken:
            return
        with self._or_broken():
            self._inner.syncfs(self._root)
            self._empty_log()

    def _empty_log(self) -> None:
        self._epoch += 1
        self._inner.pwrite(self._log, _HEADER.pack(_HEADER_MAGIC, self._epoch), 0)
        # Durable now, not with the next frame: an old log over a newer state would bring back what has gone.
        self._inner.fdatasync(self._log)
        self._number, self._end = 0, HEADER_BYTES
        self._in_log.clear()
        self._named.clear()
        self.dirty = False

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        """The kernel tells of a failed write once (fsync(2), syncfs(2)): from then on the log must stay as it is, since
        it alone may hold what did not reach the disk, and nothing more can be promised."""
        try:
            yield
        except OSError:
            self.broken = True
            raise

    def begin_batch(self) -> None:
        """From now on this thread's operations are noted."""
        self._batch = []
        self._batch_thread = threading.get_ident()
        self._needs_syncfs = self._needs_checkpoint = False

    def end_batch(self) -> _Changes:
        changes = _Changes(self._batch or [], self._needs_syncfs, self._needs_checkpoint)
        self._batch = None
        return changes

    def make_durable(self, changes: object, root: Path) -> None:
        assert isinstance(changes, _Changes)
        if not changes.operations:
            return
        if self._log < 0:
            self._inner.syncfs(self._root)
            return
        if self.broken:
            raise OSError(errno.EIO, "an earlier flush failed")
        self.dirty = True
        frame = self._frame(changes.operations)
        if changes.needs_checkpoint or self._end + len(frame) > self._log_bytes:
            self.checkpoint()
            return
        with self._or_broken():
            self._inner.pwrite(self._log, frame, self._end)
            if changes.needs_syncfs:
                self._inner.syncfs(self._root)  # the log's own bytes included
                self._unlogged.difference_update(op[1] for op in changes.operations)
            else:
                self._inner.fdatasync(self._log)
        self._end += len(frame)
        self._number += 1

    def _frame(self, operations: list[Operation]) -> bytes:
        body: bytes = msgpack.packb(operations, unicode_errors="surrogateescape")
        head = _FRAME.pack(_FRAME_MAGIC, self._epoch, self._number, len(body))
        return head + _SUM.pack(zlib.crc32(body, zlib.crc32(head))) + body

    def _noted(self) -> Iterator[Operation]:
        """The operations of the whole frames in the log, and its epoch. Reads no further than they go."""
        with self._log_path.open("rb") as file:
            magic, self._epoch = _HEADER.unpack(file.read(_HEADER.size))
            if magic != _HEADER_MAGIC:
                return
            file.seek(HEADER_BYTES)
            number = 0
            while len(head := file.read(_FRAME.size + _SUM.size)) == _FRAME.size + _SUM.size:
                magic, epoch, n, length = _FRAME.unpack_from(head)
                if (magic, epoch, n) != (_FRAME_MAGIC, self._epoch, number) or length > self._log_bytes:
                    return
                body = file.read(length)
                # The sum is over the head too: else a frame of zeros would be a whole one.
                if zlib.crc32(body, zlib.crc32(head[: _FRAME.size])) != _SUM.unpack_from(head, _FRAME.size)[0]:
                    return
                yield from msgpack.unpackb(body, unicode_errors="surrogateescape")
                number += 1

    # ---- operations
    @property
    def flushes(self) -> int:
        return self._inner.flushes

    @property
    def _noting(self) -> bool:
        return self._batch is not None and threading.get_ident() == self._batch_thread

    def _name(self, path: Path) -> str:
        return os.fspath(path)[self._prefix :]

    def _note(self, *operation: object) -> None:
        assert self._batch is not None
        self._batch.append(list(operation))
        self._named.add(str(operation[1]))

    def create(self, path: Path, *, mode: int = FILE_MODE) -> int:
        fd = self._inner.create(path, mode=mode)
        name = self._paths[fd] = self._name(path)
        if self._noting:
            self._in_log.add(name)
            self._note("create", name, mode)
        else:
            self._unlogged.add(name)
        return fd

    def open_append(self, path: Path) -> int:
        fd = self._inner.open_append(path)
        self._paths[fd] = self._name(path)
        return fd

    def open_write(self, path: Path) -> int:
        fd = self._inner.open_write(path)
        self._paths[fd] = self._name(path)
        return fd

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        offset = os.fstat(fd).st_size if self._noting else 0  # every write of ours appends
        self._inner.write(fd, data)
        self._written(fd, data, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._inner.pwrite(fd, data, offset)
        self._written(fd, data, offset)

    def _written(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        name = self._paths[fd]
        if not self._noting:
            self._unlogged.add(name)
            return
        if len(data) > self._large_bytes and self._was_made_now(name):
            self._in_log.discard(name)
            self._unlogged.add(name)
        if name in self._unlogged:
            self._needs_syncfs = True
            self._note("touch", name)
        else:
            self._note("write", name, offset, bytes(data))

    def _was_made_now(self, name: str) -> bool:
        """Whether this batch made the file and did nothing but write to it. All that is then forgotten: replay must not
        make an empty file of it."""
        assert self._batch is not None
        about = [op for op in self._batch if name in op[1:]]
        if not about or about[0][0] != "create" or any(op[0] not in ("create", "write", "truncate") for op in about):
            return False
        self._batch = [op for op in self._batch if name not in op[1:]]
        return True

    def truncate(self, fd: int, length: int) -> None:
        self._inner.truncate(fd, length)
        name = self._paths[fd]
        if self._noting and name in self._unlogged:
            self._needs_syncfs = True
            self._note("touch", name)
        elif self._noting:
            self._note("truncate", name, length)

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        self._inner.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._inner.rename(old, new)
        before, after = self._name(old), self._name(new)
        if self._noting:
            if before in self._unlogged:
                self._needs_syncfs = True
                # What the log says of the name was of another file, and must not be done again to this one.
                self._needs_checkpoint |= after in self._named
            self._note("rename", before, after)
            self._named.add(after)
            if before in self._in_log:
                self._in_log.add(after)
        self._in_log.discard(before)
        self._unlogged.discard(before)

    def link(self, old: Path, new: Path) -> None:
        self._inner.link(old, new)
        if self._noting:
            before, after = self._name(old), self._name(new)
            if before in self._in_log:
                self._in_log.add(after)
            else:
                self._needs_syncfs = True
            self._note("link", before, after)
            self._named.add(after)

    def unlink(self, path: Path, *, moved: bool = False) -> None:
        self._inner.unlink(path)
        # The log knows it by another name, or the disk may still have it under one: replay would not remove it.
        self._needs_checkpoint |= moved and self._noting
        name = self._name(path)
        self._unlogged.discard(name)
        self._in_log.discard(name)
        if self._noting:
            self._note("unlink", name)

    def mkdir(self, path: Path, *, mode: int = FOLDER_MODE) -> None:
        self._inner.mkdir(path, mode=mode)
        if self._noting:
            self._note("mkdir", self._name(path), mode)

    def fsync(self, fd: int) -> None:
        self._inner.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._inner.fdatasync(fd)

    def fsync_folder(self, path: Path) -> None:
        self._inner.fsync_folder(path)

    def syncfs(self, path: Path) -> None:
        self._inner.syncfs(path)


class _Replay:
    """Does operations again, in order."""

    def __init__(self, disk: Disk, root: Path, operations: list[Operation]) -> None:
        self._disk = disk
        self._root = root
        self._operations = operations

    def run(self) -> None:
        for n, (name, relative, *more) in enumerate(self._operations):
            path = self._root / relative
            match name:
                case "create":
                    self._forget(path)
                    self._disk.close(self._disk.create(path, mode=more[0]))
                case "write":
                    self._on_file(n, path, lambda fd, more=more: self._disk.pwrite(fd, more[1], more[0]))
                case "truncate":
                    self._on_file(n, path, lambda fd, more=more: self._disk.truncate(fd, more[0]))
                case "rename":
                    if path.exists():
                        self._disk.rename(path, self._root / more[0])
                case "link":
                    if path.exists():
                        self._forget(self._root / more[0])
                        self._disk.link(path, self._root / more[0])
                case "unlink":
                    self._forget(path)
                case "mkdir":
                    self._disk.mkdir(path, mode=more[0])

    def _forget(self, path: Path) -> None:
        if path.exists():
            self._disk.unlink(path)

    def _on_file(self, n: int, path: Path, change: Any) -> None:
        found = self._now_called(n, path)
        if found is None:
            return
        fd = self._disk.open_write(found)
        try:
            change(fd)
        finally:
            self._disk.close(fd)

    def _now_called(self, n: int, path: Path) -> Path | None:
        """The file that operation `n` calls `path`: under that name, or under a later one; None when it is gone."""
        if path.exists():
            return path
        relative = str(path.relative_to(self._root))
        for later, (name, old, *more) in enumerate(self._operations[n + 1 :], n + 1):
            if old == relative and name in ("create", "unlink"):
                return None
            if old == relative and name == "rename":
                return self._now_called(later, self._root / more[0])
        return None
