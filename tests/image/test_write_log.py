"""The disk after a power cut, made from what QEMU's own driver has noted (`write_log`)."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from .write_log import FLUSH, SECTOR, Fate, WriteLog

BYTES = 1 << 20
WRITES = ["write -P 1 0 8k", "flush", "write -P 2 4k 8k", "write -f -P 3 64k 512", "write -P 4 4k 8k"]


@pytest.fixture
def log(tmp_path: Path) -> WriteLog:
    """Of WRITES, by QEMU's blklogwrites; the last flush is the third write's own."""
    for name in ("base", "done"):
        (tmp_path / name).write_bytes(bytes(BYTES))
    (tmp_path / "log").touch()
    disk = f"driver=blklogwrites,log-sector-size={SECTOR},log.driver=file,log.filename={tmp_path}/log,file.driver=file,file.filename={tmp_path}/done"
    words = [word for command in WRITES for word in ("-c", command)]
    subprocess.run(["qemu-io", "--image-opts", disk, *words], check=True, stdout=subprocess.DEVNULL, timeout=60)
    return WriteLog(tmp_path / "log")


def cut(log: WriteLog, count: int, fate: Fate, seed: int = 1) -> bytes:
    folder = log.path.parent
    return log.cut(folder / "base", folder / "cut", count, fate, random.Random(seed)).read_bytes()


def test_what_was_written_is_there_in_its_order(log: WriteLog) -> None:
    assert cut(log, len(log.entries), Fate.DROPPED) == (log.path.parent / "done").read_bytes()
    kinds = [bool(e.flags & FLUSH) for e in log.entries[:6]]
    assert kinds == [False, True, False, False, True, False]
    assert log.behind(log.entries[2].end) == 3 and log.behind(log.entries[2].end - 1) == 2


def test_what_no_flush_has_followed_is_dropped(log: WriteLog) -> None:
    assert cut(log, 1, Fate.DROPPED) == bytes(BYTES)
    first = b"\1" * 8192 + bytes(BYTES - 8192)
    assert cut(log, 2, Fate.DROPPED) == cut(log, 4, Fate.DROPPED) == first
    flushed = cut(log, 5, Fate.DROPPED)
    assert flushed[4096:12288] == b"\2" * 8192 and flushed[65536 : 65536 + SECTOR] == b"\3" * SECTOR
    assert cut(log, 6, Fate.DROPPED) == flushed


def test_or_kept_or_torn_between_its_sectors_and_nothing_else(log: WriteLog) -> None:
    flushed = cut(log, 5, Fate.DROPPED)
    seen = set()
    for seed in range(40):
        disk = cut(log, 6, Fate.MIXED, seed)
        assert disk[:4096] == flushed[:4096] and disk[12288:] == flushed[12288:]
        sectors = [set(disk[at : at + SECTOR]) for at in range(4096, 12288, SECTOR)]
        assert all(s in ({2}, {4}) for s in sectors)
        seen.add("kept" if {2} not in sectors else "dropped" if {4} not in sectors else "torn")
    assert seen == {"kept", "dropped", "torn"}
