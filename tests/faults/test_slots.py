"""A record in two slots: the power behind every operation of many writes leaves the last one that was promised, or the one
that was under way; and a write is one block, flushed once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.storage.disk import Disk
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from appliance.storage.slots import RECORD_BYTES, SLOT_BYTES, SlotFile

RECORDS = [b'{"seen": %d}' % n for n in range(6)]


@pytest.mark.parametrize("fate", Fate)
def test_the_power_goes_behind_every_operation(tmp_path: Path, fate: Fate) -> None:
    root = tmp_path / "state"
    root.mkdir()
    disk = RecordingDisk(root)
    for record in RECORDS:
        SlotFile(disk, root / "clock").write(record)
        disk.mark(record.decode())
    ends = [0] + [n for n, _ in disk.marks]
    for n in range(1, len(disk.operations) + 1):
        left = tmp_path / str(n)
        left.mkdir()
        power_cut(disk, n, fate, left)
        promised = max(i for i, end in enumerate(ends) if end <= n)
        found = SlotFile(Disk(), left / "clock").read()
        assert found in [None if promised == 0 else RECORDS[promised - 1], *RECORDS[promised : promised + 1]]
        again = SlotFile(Disk(), left / "clock")
        again.write(b"after it")
        assert again.read() == b"after it"


def test_a_write_is_one_block_flushed_once(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    file = SlotFile(disk, tmp_path / "clock")
    file.write(RECORDS[0])
    for record in (*RECORDS, b"x" * RECORD_BYTES):
        before = len(disk.operations)
        file.write(record)
        assert file.read() == record
        assert [(op.name, len(op.data)) for op in disk.operations[before:]] == [("write", SLOT_BYTES), ("fsync", 0)]
    assert (tmp_path / "clock").stat().st_size == 2 * SLOT_BYTES


@pytest.mark.parametrize("was", [b"", b'{"seen": 1}\n', b"\0" * 2 * SLOT_BYTES, b"\xff" * 10_000, b"one slot"])
def test_what_is_no_such_file_is_made_anew(tmp_path: Path, was: bytes) -> None:
    (tmp_path / "clock").write_bytes(was)
    file = SlotFile(Disk(), tmp_path / "clock")
    assert file.read() is None
    file.write(b"new")
    assert file.read() == b"new"


@pytest.mark.parametrize("at", [0, 9, 12, 100, SLOT_BYTES - 1])
def test_a_damaged_slot_does_not_count(tmp_path: Path, at: int) -> None:
    path = tmp_path / "clock"
    file = SlotFile(Disk(), path)
    for record in (b"old", b"new"):  # the newer one is in the first slot
        file.write(record)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert file.read() == b"old"
    file.write(b"newest")
    assert (file.read(), SlotFile(Disk(), path).read()) == (b"newest", b"newest")
    path.write_bytes(path.read_bytes()[:SLOT_BYTES])  # cut off behind it
    assert file.read() == b"newest"
