"""A small record that is written often: overwritten in place, in two slots by turns.

Theory of operation. `Disk.replace_file` makes a file and renames it: two commits of the file system's journal, and in a
batch of the committer's a checkpoint behind them, 150 KB on a card for a line of text. Here the file is there, whole,
from the first write on, and a later one overwrites one block of it and flushes that: nothing of the file system changes
but the file's times, another 16 KB. Each slot is a block of its own:

    slot    crc32(8 hex) SPACE number SPACE record, spaces up to the block's last byte, LF

The sum is over all behind it. The whole slot with the highest number counts, and the next write takes the other one: a
power cut can tear only that one, and the record before it stays. Such a file must not be written in a batch of the
committer's by a disk with a redo log: replay would put an older record over a newer one.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["RECORD_BYTES", "SlotFile"]

SLOT_BYTES: Final = 4096
"""A block of the file system, and what a flash card at least writes at once."""
SLOTS: Final = 2
RECORD_BYTES: Final = 2048


class SlotFile:
    """`path` on `disk`, which has no redo log. One thread at a time."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def read(self) -> bytes | None:
        """The record that counts; None where no slot is whole, or the file is none of these. Raises OSError."""
        slots = self._slots()
        return slots[max(slots)][1] if slots else None

    def write(self, record: bytes) -> None:
        """`record` is on stable storage when this returns. It has no LF, and begins and ends with no space. Raises
        OSError; the record before it is then still there."""
        assert len(record) <= RECORD_BYTES and record == record.strip() and b"\n" not in record
        slots = self._slots()
        if not slots or self._path.stat().st_size != SLOTS * SLOT_BYTES:
            number = max(slots, default=0) + 1
            self._disk.replace_file(self._path, _slot(number, record) * SLOTS)
            return
        newest = max(slots)
        fd = self._disk.open_write(self._path)
        try:
            self._disk.pwrite(fd, _slot(newest + 1, record), (1 - slots[newest][0]) * SLOT_BYTES)
            self._disk.fdatasync(fd)
        finally:
            self._disk.close(fd)

    def _slots(self) -> dict[int, tuple[int, bytes]]:
        """number -> (which slot, record) of the whole ones."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        found: dict[int, tuple[int, bytes]] = {}
        for n in range(SLOTS):
            whole = _parse(data[n * SLOT_BYTES : (n + 1) * SLOT_BYTES])
            if whole is not None:
                found[whole[0]] = n, whole[1]
        return found


def _slot(number: int, record: bytes) -> bytes:
    body = (b"%d %b" % (number, record)).ljust(SLOT_BYTES - 10) + b"\n"
    return b"%08x %b" % (zlib.crc32(body), body)


def _parse(slot: bytes) -> tuple[int, bytes] | None:
    """-> (number, record)."""
    body = slot[9:]
    number, _, record = body.partition(b" ")
    if len(slot) != SLOT_BYTES or slot[:9] != b"%08x " % zlib.crc32(body) or not number.isdigit():
        return None
    return int(number), record.strip()
