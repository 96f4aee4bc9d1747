"""What QEMU's blklogwrites driver has noted of a disk, and the disk as a power cut at any place in it leaves it.

The log is the one of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a superblock, then
for each write a sector with its head and the sectors written, in the order in which they were done; a flush is a head
alone. Behind a flush all that stands before it is on the disk. What stands behind the last flush may be there or not, each
sector for itself, except for a write that was a flush of its own (FUA).
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SECTOR = 512
MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4


class Fate(Enum):
    """Of the writes that no flush has followed."""

    DROPPED = "dropped"
    MIXED = "each dropped, kept, or torn between its sectors"


@dataclass(frozen=True, slots=True)
class Entry:
    """`at`: where its sectors lie in the log. `end`: how long the log is with it."""

    sector: int
    sectors: int
    flags: int
    at: int
    end: int


class WriteLog:
    """One that nobody writes any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        with path.open("rb") as file:
            magic, version, count, size = _SUPER.unpack(file.read(_SUPER.size))
            assert (magic, version, size) == (MAGIC, 1, SECTOR), f"{path} is no write log"
            at = SECTOR
            for _ in range(count):
                file.seek(at)
                sector, sectors, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
                assert not flags & DISCARD, "the disk offers no discard"
                end = at + SECTOR + sectors * SECTOR
                self.entries.append(Entry(sector, sectors, flags, at + SECTOR, end))
                at = end

    def behind(self, length: int) -> int:
        """How many entries a log of that length has, whole ones."""
        return sum(entry.end <= length for entry in self.entries)

    def cut(self, base: Path, disk: Path, count: int, fate: Fate, rng: random.Random) -> Path:
        """Makes `disk`: `base` with the first `count` entries, as a power cut behind them leaves it."""
        subprocess.run(["cp", "--sparse=always", base, disk], check=True)
        done = self.entries[:count]
        flushed = max((n for n, e in enumerate(done) if e.flags & FLUSH), default=-1)
        with self.path.open("rb") as log, disk.open("r+b") as out:
            for n, entry in enumerate(done):
                if n > flushed and not entry.flags & FUA:
                    kept = _survivors(entry.sectors, fate, rng)
                else:
                    kept = range(entry.sectors)
                log.seek(entry.at)
                data = log.read(entry.sectors * SECTOR)
                for first, last in _runs(kept):
                    out.seek((entry.sector + first) * SECTOR)
                    out.write(data[first * SECTOR : last * SECTOR])
        return disk


def _survivors(sectors: int, fate: Fate, rng: random.Random) -> range | list[int]:
    if fate is Fate.DROPPED:
        return []
    match rng.choice(["dropped", "kept", "torn"]):
        case "dropped":
            return []
        case "kept":
            return range(sectors)
        case _:
            return [n for n in range(sectors) if rng.random() < 0.5]


def _runs(numbers: range | list[int]) -> list[tuple[int, int]]:
    """Neighbours together: (first, behind the last)."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n:
            runs[-1] = (runs[-1][0], n + 1)
        else:
            runs.append((n, n + 1))
    return runs


def whole(image: Path, disk: Path, size: int) -> Path:
    """The raw disk of that size that `image` was written to."""
    shutil.copyfile(image, disk)
    with disk.open("r+b") as file:
        file.truncate(size)
    return disk
