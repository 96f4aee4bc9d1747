"""A message on its way to the disk: what lies in memory, what in the file, and what is left of one not taken."""

from __future__ import annotations

import errno
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest

from appliance.storage.disk import Disk
from appliance.storage.draft import BUFFER, Draft


class FullDisk(Disk):
    """Fails the operation named, with ENOSPC; a failing write has put half of its bytes down."""

    def __init__(self, fails: str) -> None:
        super().__init__()
        self.fails = fails

    def create(self, path: Path, *, mode: int = 0o600) -> int:
        if self.fails == "create":
            raise OSError(errno.ENOSPC, "full")
        return super().create(path, mode=mode)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        if self.fails == "write":
            super().write(fd, memoryview(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "full")
        super().write(fd, data)


def open_files() -> set[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.islink(link)}


@pytest.mark.parametrize("size", [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 17])
@pytest.mark.parametrize("piece", [1000, 65536, 1 << 20])
async def test_the_bytes_arrive(size: int, piece: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    draft = Draft(Disk(), tmp_path / "x")
    for at in range(0, size, piece):
        await draft.write(data[at : at + piece])
    draft.finish()
    assert (tmp_path / "x").read_bytes() == data
    assert (draft.size, draft.crc32) == (size, zlib.crc32(data))
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert str(tmp_path / "x") not in open_files()


async def test_a_small_message_makes_no_file_before_its_end(tmp_path: Path) -> None:
    draft = Draft(Disk(), tmp_path / "x")
    await draft.write(b"x" * (BUFFER - 1))
    assert list(tmp_path.iterdir()) == []
    await draft.discard()
    assert list(tmp_path.iterdir()) == []


async def test_memory_is_bounded(tmp_path: Path) -> None:
    draft, piece = Draft(Disk(), tmp_path / "x"), b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(200):
            await draft.write(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await draft.discard()
    assert peak < 3 * BUFFER


@pytest.mark.parametrize("size", [10, BUFFER + 10])
async def test_discard_leaves_nothing(size: int, tmp_path: Path) -> None:
    draft = Draft(Disk(), tmp_path / "x")
    await draft.write(b"x" * size)
    await draft.discard()
    await draft.discard()
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path / "x") not in open_files()


async def test_discard_of_what_was_moved_already(tmp_path: Path) -> None:
    draft = Draft(Disk(), tmp_path / "x")
    await draft.write(b"hi")
    draft.finish()
    (tmp_path / "x").rename(tmp_path / "y")
    await draft.discard()
    assert (tmp_path / "y").read_bytes() == b"hi"


@pytest.mark.parametrize("fails", ["create", "write"])
@pytest.mark.parametrize("size", [10, BUFFER + 10])
async def test_a_full_disk_leaves_nothing(fails: str, size: int, tmp_path: Path) -> None:
    draft = Draft(FullDisk(fails), tmp_path / "x")
    with pytest.raises(OSError, match="full"):
        await draft.write(b"x" * size)
        draft.finish()
    await draft.discard()
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path / "x") not in open_files()
