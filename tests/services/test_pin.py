"""A PIN that a SIM has refused stops its line: in the ledger, in the policy, in a call, over restarts and power cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import trio
from trio.testing import MockClock

from appliance.app.lines import Pins
from appliance.call import Job, Outcome, PinState, Prospect, Reason
from appliance.calls import ledger as ledger_module
from appliance.calls.caller import Caller, CallRefused, Way
from appliance.calls.cycle import Cycle
from appliance.calls.entry import Summary
from appliance.calls.ledger import Ledger
from appliance.calls.policy import PIN_REFUSED, Decision, Requests, Settings, Times, WayOut, decide
from appliance.config.model import Bearer, Line, Schedule
from appliance.modem.line import ModemLine
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.line import FakeLine
from fakes.mobile import FakeMobile, Sim
from fakes.modem import FakePort, modem_with_lines

GSM = Line(name="gsm", numbers=("*99#",), bearer=Bearer.NONE, profile="gsm", attempts=2, pin="pin")
PSTN = Line(name="pstn", numbers=("111",), bearer=Bearer.NONE, attempts=1)


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "RESERVE", 4000)


def opened(root: Path, disk: Disk | None = None) -> Ledger:
    disk = disk or Disk()
    disk.mkdir(root)
    ledger = Ledger(InlineCommitter(disk, root), StatePaths(root))  # type: ignore[arg-type]
    ledger.open()
    return ledger


async def test_what_was_noted_is_there_after_a_power_cut(tmp_path: Path) -> None:
    """GIVEN before the PIN is given, and then what came of it."""
    (tmp_path / "disk").mkdir()
    disk = RecordingDisk(tmp_path / "disk")
    ledger = opened(tmp_path / "disk" / "state", disk)
    reached = [(0, PinState.NEW)]
    for state in (PinState.GIVEN, PinState.TAKEN, PinState.GIVEN, PinState.REFUSED):
        assert await ledger.pin("a").note(state)
        reached.append((len(disk.operations), state))
    ledger.close()
    order = [state for _, state in reached]
    for n in range(len(disk.operations) + 1):
        for number, fate in enumerate(Fate):
            root = tmp_path / f"{n}-{number}"
            power_cut(disk, n, fate, root)
            after = opened(root / "state")
            least = max(i for i, (at, _) in enumerate(reached) if at <= n)
            assert after.pin("a").state in order[least:], (n, fate)
            after.close()


async def test_it_outlives_the_calls_that_the_ledger_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LIMIT", 20_000)
    ledger, clock = opened(tmp_path), FakeClock()
    await ledger.pin("bad").note(PinState.REFUSED)
    await ledger.pin("good").note(PinState.TAKEN)
    for _ in range(100):
        entry = await ledger.begin(Reason.AT, "pstn", clock.now())
        await ledger.end(entry, Outcome.BUSY, clock.now())
    assert len(ledger.calls()) < 100
    for _ in range(2):
        assert ledger.summary().pins_refused == {"bad"}
        assert ledger.pin("good").state is PinState.TAKEN
        ledger.close()
        ledger = opened(tmp_path)
    assert not (tmp_path / "spool" / "corrupt").exists()
    ledger.close()


async def test_only_the_newest_pins_are_kept(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for n in range(ledger_module.PINS_LIMIT + 5):
        await ledger.pin(str(n)).note(PinState.REFUSED)
    assert "4" not in ledger.summary().pins_refused
    assert "5" in ledger.summary().pins_refused
    ledger.close()


def test_no_call_is_made_also_by_hand() -> None:
    clock = FakeClock()
    gsm, pstn = WayOut("gsm", ("*99#",), pin="a"), WayOut("pstn", ("111",))
    past = Summary(pins_refused=frozenset({"a"}))
    times = Times(now=clock.now(), started=clock.now())

    def decided(*ways: WayOut) -> Decision:
        settings = Settings(schedule=Schedule(), ways=ways, zone=ZoneInfo("UTC"), bulk_max_age_s=86400.0)
        return decide(settings, Prospect(urgent=1, messages=1, oldest=0.0), past, times, Requests(by_hand=True))

    alone = decided(gsm)
    assert (alone.reason, alone.refused) == (None, f"no line can be used: gsm: {PIN_REFUSED}")
    assert decided(gsm, pstn).reason is Reason.URGENT
    assert decided(replace(gsm, pin="b")).reason is Reason.URGENT


async def test_a_call_passes_the_line_over(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, clock = opened(tmp_path), FakeClock(mock=autojump_clock)
    await ledger.pin("a").note(PinState.REFUSED)
    gsm, pstn = FakeLine("gsm"), FakeLine("pstn")
    cycle = Cycle(
        reason=Reason.BY_HAND, due=None, ways=[Way(GSM, gsm, pin="a"), Way(PSTN, pstn)], ledger=ledger, clock=clock,
        jobs=(), linger_s=1.0, max_call_s=600.0, tell=lambda text: None,
    )  # fmt: skip
    entry = await cycle.run()
    assert (entry.line, entry.outcome, gsm.log) == ("pstn", Outcome.COMPLETE, [])
    assert f"gsm: {PIN_REFUSED}" in caplog.text
    ledger.close()


async def test_a_wrong_pin_is_given_once_in_the_life_of_a_site(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Everything together: restarts, calls by hand and by plan; then another PIN."""
    disk = Disk()
    sim = Sim("4711")
    outcomes = []
    async with modem_with_lines(FakeMobile) as modem:
        assert isinstance(modem, FakeMobile)
        modem.sim = sim

        async def open_port() -> FakePort:
            return FakePort(modem, has_lines=False)

        for pin in ("0000", "0000", "4711"):
            ledger, clock = opened(tmp_path), FakeClock(mock=autojump_clock)
            disk.mkdir(tmp_path / "keys")
            pins = Pins.stored(disk, tmp_path / "keys", ledger)
            identity = pins.identity("gsm", pin)
            line = ModemLine(GSM, pin=pin, pin_record=ledger.pin(identity), open_port=open_port)
            jobs: list[Job] = []
            caller = Caller(
                schedule=Schedule(every_s=600.0, retry_s=(60.0,)), timezone="UTC", bulk_max_age_s=86400.0,
                ways=[Way(GSM, line, pin=identity)], ledger=ledger, jobs=lambda jobs=jobs: jobs, prospect=Prospect,  # type: ignore[misc]
                clock=clock, started=clock.now(), free_lines=True,
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                await nursery.start(caller.run)
                await trio.sleep(7200)
                try:
                    outcomes.append((await caller.dial())["outcome"])
                except CallRefused as refusal:
                    outcomes.append(str(refusal))
                nursery.cancel_scope.cancel()
            ledger.close()
    refused = f"no line can be used: gsm: {PIN_REFUSED}"
    assert outcomes == [refused, refused, "complete"]
    assert sim.given == ["0000", "4711"]
    assert b"0000" not in (tmp_path / "keys" / "pin.key").read_bytes()
    kept = (tmp_path / "ledger").read_text()
    assert "4711" not in kept.replace(str(identity), "") and (tmp_path / "keys" / "pin.key").stat().st_mode & 0o77 == 0


def test_a_pins_identity_is_keyed(tmp_path: Path) -> None:
    disk, ledger = Disk(), opened(tmp_path)
    keys = tmp_path / "keys"
    disk.mkdir(keys)
    pins, again = Pins.stored(disk, keys, ledger), Pins.stored(disk, keys, ledger)
    assert pins.identity("gsm", "4711") == again.identity("gsm", "4711") != pins.identity("gsm", "4712")
    assert pins.identity("gsm", "4711") != pins.identity("gsm2", "4711")
    assert pins.identity("gsm", "") == ""
    assert Pins(ledger, b"another").identity("gsm", "4711") != pins.identity("gsm", "4711")
    ledger.close()
