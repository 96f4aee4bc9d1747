"""A message on its way to the disk: bounded memory, whatever its size.

Up to `BUFFER` bytes gather in memory; what is more goes to the file in a thread, a hop a buffer. A message
that fits the buffer costs no hop of its own: its file is made, written and closed by `finish` inside the
committer's batch.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["BUFFER", "Draft"]

BUFFER: Final = 128 * 1024
"""Bytes of one message in memory; a message of 100 KB costs no hop of its own. 500 sessions at once: 64 MB. What its
first `write` brings comes on top until it is on the disk: a whole header, which a session gathers (256 KiB at most, so
128 MB more for 500 of them, each in the middle of the longest one)."""


class Draft:
    """One file being written at `path`. Owned by one task; `finish` or `discard` ends it."""

    __slots__ = ("_buffer", "_disk", "_fd", "_made", "crc32", "path", "size")

    def __init__(self, disk: Disk, path: Path) -> None:
        self.path = path
        self.size = 0
        self.crc32 = 0
        self._disk = disk
        self._fd: int | None = None
        self._made = False
        self._buffer = bytearray()

    @classmethod
    def resume(cls, disk: Disk, path: Path, size: int, crc32: int) -> Draft:
        """Goes on with a file that `keep` left: its first `size` bytes have that sum, what is behind them goes.
        Raises OSError."""
        draft = cls(disk, path)
        draft.size, draft.crc32 = size, crc32
        draft._fd = disk.open_append(path)
        draft._made = True
        disk.truncate(draft._fd, size)
        return draft

    @property
    def small(self) -> bool:
        """Whether all of it is still in memory: `finish` is then quick work (`committer`)."""
        return not self._made

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends `data`. Raises OSError; `discard` is then what is left to do."""
        self.write_nowait(data)
        if len(self._buffer) >= BUFFER:
            await trio.to_thread.run_sync(self._flush_buffer)

    def write_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Appends `data` in memory only: for what is short, as header fields are."""
        self._buffer += data
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def finish(self) -> None:
        """Writes what is still in memory and closes the file. Synchronous: part of a committer's work."""
        try:
            self._flush_buffer()
        finally:
            self._close()

    def flush(self) -> None:
        """Brings what has come to stable storage; more may follow. Synchronous: part of a committer's work."""
        self._flush_buffer()
        if self._fd is not None:
            self._disk.fsync(self._fd)

    def close(self) -> None:
        """Leaves the file as `flush` left it."""
        self._buffer = bytearray()
        self._close()

    async def discard(self) -> None:
        """Takes the file away again, if there is one. For a message that was not taken."""
        # Not cleared: the traceback of a write that failed still holds a view of it.
        self._buffer = bytearray()
        if self._made:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._discard)

    def _flush_buffer(self) -> None:
        if not self._made:
            self._fd = self._disk.create(self.path)
            self._made = True
        if self._buffer and self._fd is not None:
            self._disk.write(self._fd, self._buffer)
            self._buffer.clear()

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)

    def _discard(self) -> None:
        self._close()
        try:
            self._disk.unlink(self.path)
        except FileNotFoundError:
            pass  # it was moved to its place before something else failed
