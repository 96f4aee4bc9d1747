"""The ledger: what was written is there again, whatever the power, the disk and the clocks did."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from appliance.call import Outcome, Reason
from appliance.calls import ledger as ledger_module
from appliance.calls.entry import Charge, Entry
from appliance.calls.ledger import Ledger
from appliance.calls.redial import CONNECTED
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "RESERVE", 4000)


class QuickDisk(Disk):
    """Flushes nothing: for tests that open a ledger a thousand times."""

    def fsync(self, fd: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def fsync_folder(self, path: Path) -> None: ...
    def syncfs(self, path: Path) -> None: ...


class FullDisk(Disk):
    """A file system with `room` bytes left; what is unlinked makes room again."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        part = bytes(data[: max(0, self.room)])
        super().write(fd, part)
        self.room -= len(part)
        if len(part) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def unlink(self, path: Path, *, moved: bool = False) -> None:
        self.room += path.stat().st_size
        super().unlink(path)


def open_ledger(root: Path, disk: Disk | None = None) -> Ledger:
    disk = disk or Disk()
    paths = StatePaths(root)
    disk.mkdir(root)
    ledger = Ledger(InlineCommitter(disk, root), paths)  # type: ignore[arg-type]
    ledger.open()
    return ledger


async def make_call(ledger: Ledger, clock: FakeClock, outcome: Outcome = Outcome.COMPLETE) -> None:
    """Busy at first, then connected for a minute and a half."""
    entry = await ledger.begin(Reason.AT, "pstn", clock.now(), due=clock.now().wall)
    clock.advance(1)
    await ledger.dial(entry, "pstn", "0570000111", clock.now())
    clock.advance(5)
    await ledger.result(entry, Outcome.BUSY, clock.now(), clock.now())
    await ledger.dial(entry, "pstn", "0570000222", clock.now())
    clock.advance(20)
    await ledger.result(entry, None, clock.now(), clock.now(), rate=9600)
    entry.tally.sent, entry.tally.bytes_out = 2, 5000
    clock.advance(60)
    await ledger.mark(entry, clock.now())
    entry.tally.fetched = 3
    clock.advance(30)
    await ledger.end(entry, outcome, clock.now())


CALL_KEYS = {
    "id", "line", "reason", "number", "dials", "started", "connected", "ended", "duration_s", "outcome", "rate",
    "bytes_in", "bytes_out", "sent", "fetched", "failed", "circuits", "units", "cost", "currency",
}  # fmt: skip


async def test_how_a_call_ended_outlives_the_process(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    assert ledger.last() is None
    entry = await ledger.begin(Reason.AT, "pstn", clock.now())
    await ledger.end(entry, Outcome.PARTIAL, clock.now(), job_done=True)
    served = ledger.summary().served_end
    entry = await ledger.begin(Reason.AT, "pstn", clock.now())
    await ledger.end(entry, Outcome.HUNG_UP, clock.now(), put_down=True)
    before = ledger.summary()
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.summary() == before
    assert (before.served_end, before.put_down, before.failures) == (served, entry.ended, 1)
    assert again.last() == entry
    old = entry.as_record()
    del old["job_done"], old["put_down"]  # as it was written before these were known
    assert not Entry.from_record(old).put_down
    again.close()


async def test_a_call_as_the_command_line_shows_it(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    await make_call(ledger, clock)
    ledger.close()
    expected = {
        "id": 1, "line": "pstn", "reason": "at", "number": "0570000222", "dials": 2,
        "started": "2026-01-05T12:00:00.000Z", "connected": "2026-01-05T12:00:26.000Z",
        "ended": "2026-01-05T12:01:56.000Z", "duration_s": 90.0, "outcome": "complete", "rate": 9600,
        "bytes_in": 0, "bytes_out": 5000, "sent": 2, "fetched": 3, "failed": 0, "circuits": 0,
        "units": 0, "cost": "0", "currency": "",
    }  # fmt: skip
    assert set(expected) == CALL_KEYS
    assert ledger.calls() == [expected]
    again = open_ledger(tmp_path)
    assert again.calls() == [expected]
    assert again.summary() == ledger.summary()
    assert again.totals() == (1, 2, 3)
    again.close()


async def test_each_piece_is_there_before_the_caller_goes_on(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()

    def on_disk() -> dict[str, object]:
        other = open_ledger_read_only(tmp_path)
        return other.calls()[-1]

    entry = await ledger.begin(Reason.BY_HAND, "pstn", clock.now())
    assert on_disk()["dials"] == 0
    await ledger.dial(entry, "pstn", "0570000111", clock.now())
    assert on_disk()["dials"] == 1
    assert on_disk()["connected"] is None
    clock.advance(9)
    await ledger.result(entry, None, clock.now(), clock.now(), rate=2400)
    assert on_disk()["rate"] == 2400
    entry.tally.sent = 7
    await ledger.mark(entry, clock.now())
    assert on_disk()["sent"] == 7
    assert on_disk()["ended"] is None
    await ledger.end(entry, Outcome.COMPLETE, clock.now())
    assert on_disk()["outcome"] == "complete"
    ledger.close()


def open_ledger_read_only(root: Path) -> Ledger:
    """What a reader of the file sees, without the mending that `open` does."""
    ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
    ledger._read()
    return ledger


async def test_torn_at_each_byte(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path / "whole"), FakeClock()
    await make_call(ledger, clock)
    first = (tmp_path / "whole" / "ledger").stat().st_size
    clock.advance(3600)
    await make_call(ledger, clock, Outcome.CARRIER_LOST)
    ledger.close()
    data = (tmp_path / "whole" / "ledger").read_bytes()
    complete = ledger.calls()
    for length in (*range(200), *range(first, len(data))):
        root = tmp_path / "torn"
        root.mkdir()
        (root / "ledger").write_bytes(data[:length])
        torn = open_ledger(root, QuickDisk())
        calls = torn.calls()
        whole_lines = data[:length].count(b"\n")
        assert len(calls) <= 2
        if length >= first:
            assert calls[0] == complete[0]
        for call in calls:
            assert call["ended"] is not None
            assert call == complete[call["id"] - 1] or call["outcome"] == "interrupted"
        if whole_lines and data[:length].endswith(b"\n"):
            assert not (root / "spool").exists()
        elif data[:length] and not data[:length].endswith(b"\n"):
            aside = b"".join(p.read_bytes() for p in (root / "spool" / "corrupt").iterdir())
            assert aside == data[:length].rpartition(b"\n")[2]
        torn.close()
        again = open_ledger(root, QuickDisk())
        assert again.calls() == calls
        again.close()
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()


async def test_interrupted_ends_when_it_was_last_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    entry = await ledger.begin(Reason.QUEUED_MESSAGES, "pstn", clock.now())
    await ledger.dial(entry, "pstn", "1", clock.now())
    await ledger.result(entry, None, clock.now(), clock.now(), rate=9600)
    clock.advance(60)
    entry.tally.sent = 4
    await ledger.mark(entry, clock.now())
    ledger.close()
    again = open_ledger(tmp_path)
    (call,) = again.calls()
    assert (call["outcome"], call["duration_s"], call["sent"]) == ("interrupted", 60.0, 4)
    assert "closed as interrupted" in caplog.text
    assert again.summary().failures == 1
    assert again.summary().unmet == {Reason.QUEUED_MESSAGES}
    clock.advance(5)
    entry = await again.begin(Reason.RETRY, "pstn", clock.now())
    assert entry.id == 2
    again.close()


async def test_damage_in_the_middle_costs_its_line_alone(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    for _ in range(3):
        await make_call(ledger, clock)
    ledger.close()
    path = tmp_path / "ledger"
    lines = path.read_bytes().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if b'"t":"end"' in line]
    lines[ends[1]] = lines[ends[1]].replace(b"complete", b"complexe")
    lines[ends[1] + 1] = b"\0" * 100 + b"\n"
    path.write_bytes(b"".join(lines))
    again = open_ledger(tmp_path)
    assert [call["id"] for call in again.calls()] == [1, 2, 3]
    assert [call["outcome"] for call in again.calls()] == ["complete", "interrupted", "complete"]
    again.close()
    assert (tmp_path / "spool" / "corrupt" / "ledger.1").read_bytes() == lines[ends[1]] + lines[ends[1] + 1]
    last = open_ledger(tmp_path)
    assert len(last.calls()) == 3
    assert not (tmp_path / "spool" / "corrupt" / "ledger.2").exists()
    last.close()


async def test_power_cut_after_every_operation(tmp_path: Path) -> None:
    """Whatever `begin`, `dial`, … have returned for is there after the power went."""
    (tmp_path / "disk").mkdir()
    disk = RecordingDisk(tmp_path / "disk")
    reached: list[tuple[int, int, int]] = []
    clock = FakeClock()
    ledger = open_ledger(tmp_path / "disk" / "state", disk)
    for n in range(2):
        entry = await ledger.begin(Reason.AT, "pstn", clock.now())
        reached.append((len(disk.operations), n + 1, 0))
        for dial in range(3):
            await ledger.dial(entry, "pstn", str(dial), clock.now())
            reached.append((len(disk.operations), n + 1, dial + 1))
            await ledger.result(entry, Outcome.BUSY, clock.now(), clock.now())
        await ledger.end(entry, Outcome.BUSY, clock.now())
    ledger.close()
    for n in range(len(disk.operations) + 1):
        for number, fate in enumerate(Fate):
            root = tmp_path / f"{n}-{number}"
            power_cut(disk, n, fate, root)
            after = open_ledger(root / "state")
            calls, dials = next(((c, d) for at, c, d in reversed(reached) if at <= n), (0, 0))
            have = after.calls()
            assert len(have) >= calls, (n, fate)
            if calls:
                assert have[calls - 1]["dials"] >= dials, (n, fate)
                assert len(after.summary().dials) >= dials
            after.close()


async def test_full_disk_uses_the_reserve_and_then_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk, clock = FullDisk(5000), FakeClock()
    ledger = open_ledger(tmp_path, disk)
    assert (tmp_path / "ledger.reserve").stat().st_size == 4000
    await make_call(ledger, clock)
    assert not (tmp_path / "ledger.reserve").exists()
    assert "goes on in the room that was kept for it" in caplog.text
    for _ in range(5):
        await make_call(ledger, clock)
    assert "records wait in memory" in caplog.text
    assert len(ledger.calls()) == 6
    kept = open_ledger_read_only(tmp_path).calls()
    assert 1 < len(kept) < 6
    disk.room = 100_000
    await make_call(ledger, clock)
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.calls() == ledger.calls()
    assert len(again.calls()) == 7
    assert (tmp_path / "ledger.reserve").exists()
    again.close()


@pytest.mark.parametrize("room", range(0, 2000, 97))
async def test_full_disk_at_the_start(tmp_path: Path, room: int) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    await make_call(ledger, clock)
    await ledger.begin(Reason.BY_HAND, "pstn", clock.now())
    ledger.close()
    (tmp_path / "ledger.reserve").unlink()
    path = tmp_path / "ledger"
    path.write_bytes(path.read_bytes().replace(b'"t":"mark"', b'"t":"murk"', 1) + b"torn")
    again = open_ledger(tmp_path, FullDisk(room))
    assert [c["outcome"] for c in again.calls()] == ["complete", "interrupted"]
    again.close()
    assert [c["id"] for c in open_ledger_read_only(tmp_path).calls()] == [1, 2]


async def test_file_is_kept_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LIMIT", 20_000)
    ledger, clock = open_ledger(tmp_path), FakeClock()
    sizes = []
    for _ in range(60):
        await make_call(ledger, clock)
        sizes.append((tmp_path / "ledger").stat().st_size)
    assert max(sizes) <= 20_000
    numbers = [call["id"] for call in ledger.calls()]
    assert numbers[-1] == 60
    assert numbers == list(range(numbers[0], 61))
    assert len(numbers) >= 15
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.calls() == ledger.calls()
    assert again.summary() == ledger.summary()
    again.close()


async def test_what_was_spent_outlives_the_calls_that_fall_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget by the month needs the money of more calls than the file may have room for."""
    monkeypatch.setattr(ledger_module, "LIMIT", 20_000)
    ledger, clock = open_ledger(tmp_path), FakeClock()
    for cycle in range(3):
        for n in range(40):
            entry = await ledger.begin(Reason.AT, "pstn", clock.now())
            clock.advance(1800.123456)
            await ledger.end(entry, Outcome.COMPLETE, clock.now(), charge=Charge(1, Decimal(n), "JPY", "t", 60.0))
        assert len(ledger.calls()) < 40
        ledger.close()
        before = ledger.summary().spent
        ledger = open_ledger(tmp_path)
        spent = ledger.summary().spent
        assert [s.charge for s in spent] == [s.charge for s in before]
        assert [s.at.wall for s in spent] == pytest.approx([s.at.wall for s in before], abs=0.001)
        assert len(spent) == 40 * (cycle + 1)
        assert sum(s.charge.cost for s in spent) == 780 * (cycle + 1)
    clock.advance(41 * 86400)
    for _ in range(2):
        entry = await ledger.begin(Reason.AT, "pstn", clock.now())
        await ledger.end(entry, Outcome.COMPLETE, clock.now(), charge=Charge(1, Decimal(5), "JPY", "t"))
    assert [s.charge.cost for s in ledger.summary().spent] == [5, 5]
    ledger.close()


async def test_dials_outlive_a_restart_and_are_forgotten_on_connect(tmp_path: Path) -> None:
    ledger, clock = open_ledger(tmp_path), FakeClock()
    entry = await ledger.begin(Reason.AT, "pstn", clock.now())
    for number in ("1", "1", "2"):
        await ledger.dial(entry, "pstn", number, clock.now())
        await ledger.result(entry, Outcome.NO_ANSWER, clock.now(), clock.now())
    await ledger.dial(entry, "pstn", "1", clock.now())
    ledger.close()
    again = open_ledger(tmp_path)
    made = again.summary().dials
    assert [(d.number, d.result) for d in made] == [
        ("1", "no-answer"),
        ("1", "no-answer"),
        ("2", "no-answer"),
        ("1", ""),
    ]
    entry = await again.begin(Reason.RETRY, "pstn", clock.now())
    await again.dial(entry, "pstn", "1", clock.now())
    await again.result(entry, None, clock.now(), clock.now())
    assert [(d.number, d.result) for d in again.summary().dials if d.result != CONNECTED] == [("2", "no-answer")]
    again.close()


@pytest.fixture
async def committer(tmp_path: Path) -> AsyncIterator[Committer]:
    committer = Committer(Disk(), tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        yield committer
        nursery.cancel_scope.cancel()


async def test_with_the_real_committer_and_cancelled(tmp_path: Path, committer: Committer) -> None:
    ledger, clock = Ledger(committer, StatePaths(tmp_path)), FakeClock()
    ledger.open()
    with trio.CancelScope() as scope:
        scope.cancel()
        await make_call(ledger, clock)
    assert len(open_ledger_read_only(tmp_path).calls()) == 1
    await make_call(ledger, clock)
    assert open_ledger_read_only(tmp_path).calls() == ledger.calls()
    ledger.close()


async def test_a_committer_that_has_stopped_stops_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    committer = Committer(Disk(), tmp_path)
    ledger, clock = Ledger(committer, StatePaths(tmp_path)), FakeClock()
    ledger.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        nursery.cancel_scope.cancel()
    await make_call(ledger, clock)
    assert ledger.calls()[0]["outcome"] == "complete"
    assert "the committer has stopped" in caplog.text
    ledger.close()
