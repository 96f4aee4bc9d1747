"""What a process that was killed left behind: the line is hung up at the start, and shown as the ledger has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from appliance.call import Job, JobReport, LineState, OpenCall, Outcome, Prospect, Reason
from appliance.calls.caller import Caller, Way
from appliance.calls.ledger import Ledger
from appliance.config.model import Bearer, Line, Schedule
from appliance.modem.line import ModemLine
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.line import BLOCK, FakeLine
from fakes.modem import FakePort, modem_with_lines

CONFIG = Line(name="pstn", numbers=("111",), bearer=Bearer.NONE, attempts=1)


class Site:
    """A caller over these lines and a ledger on `root`."""

    def __init__(self, root: Path, *ways: Way, mock: MockClock | None = None) -> None:
        self.clock = FakeClock(mock=mock)
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()
        self.ways = ways
        self.jobs: list[Job] = []
        self.caller = self.make(free_lines=True)

    def make(self, **more: Any) -> Caller:
        return Caller(
            schedule=Schedule(urgent=False),
            timezone="UTC",
            bulk_max_age_s=86400.0,
            ways=self.ways,
            ledger=self.ledger,
            jobs=lambda: self.jobs,
            prospect=Prospect,
            clock=self.clock,
            started=self.clock.now(),
            **more,
        )

    async def until(self, state: LineState) -> None:
        with trio.fail_after(30):
            while self.caller.status()["state"] != state.value:
                await trio.sleep(0.01)


def way(line: Any, name: str = "pstn") -> Way:
    return Way(replace(CONFIG, name=name), line)


async def test_each_line_is_hung_up_before_anything_is_dialled(tmp_path: Path, autojump_clock: MockClock) -> None:
    first, second = FakeLine("pstn"), FakeLine("gsm")
    unusable = Way(replace(CONFIG, name="sat"), None, "PPP is not built yet")
    site = Site(tmp_path, way(first), unusable, way(second, "gsm"), mock=autojump_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(site.caller.run)
        call = await site.caller.dial()
        assert call["outcome"] == "complete"
        assert first.log[:4] == ["prepare", "hang_up", "prepare", "dial 111"]
        assert second.log == ["prepare", "hang_up"]
        nursery.cancel_scope.cancel()


async def test_not_after_a_reload(tmp_path: Path, autojump_clock: MockClock) -> None:
    line = FakeLine()
    site = Site(tmp_path, way(line), mock=autojump_clock)
    caller = site.make()
    async with trio.open_nursery() as nursery:
        await nursery.start(caller.run)
        await trio.sleep(100)
        assert line.log == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "line",
    [
        FakeLine(prepare=[BLOCK]),
        FakeLine(hang_up=[BLOCK, None]),
        FakeLine(prepare=[OSError("no such port"), None]),
        FakeLine(hang_up=[OSError("the port is gone"), None]),
    ],
    ids=["a modem that blocks", "no end of the hang-up", "no port", "a port that goes"],
)
async def test_a_line_in_trouble_holds_nothing_up_for_ever(
    tmp_path: Path, autojump_clock: MockClock, line: FakeLine
) -> None:
    site = Site(tmp_path, way(line), mock=autojump_clock)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(1):
            await nursery.start(site.caller.run)  # ready, whatever the line does
        await trio.sleep(0.5)
        with trio.fail_after(500):
            await site.caller.dial()
        nursery.cancel_scope.cancel()
    assert line.log[:2] == ["prepare", "hang_up"]


async def test_stopped_meanwhile_it_still_hangs_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    line = FakeLine(prepare=[BLOCK])
    site = Site(tmp_path, way(line), mock=autojump_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(site.caller.run)
        await trio.sleep(1)
        assert site.caller.status()["state"] == "hanging-up"
        nursery.cancel_scope.cancel()
    assert line.log == ["prepare", "hang_up"]


@pytest.mark.parametrize("lines", [True, False], ids=["dtr and dcd", "no modem lines"])
async def test_a_modem_left_off_hook_in_virtual_time(tmp_path: Path, autojump_clock: MockClock, lines: bool) -> None:
    async def open_port() -> FakePort:
        return FakePort(modem, has_lines=lines)

    async with modem_with_lines() as modem:
        modem.obeys_dtr = False
        killed = ModemLine(CONFIG, open_port=open_port)
        assert await killed.prepare() is None
        assert (await killed.dial("111")).connected
        site = Site(tmp_path, way(ModemLine(CONFIG, open_port=open_port)), mock=autojump_clock)
        async with trio.open_nursery() as nursery:
            await nursery.start(site.caller.run)
            assert not modem.on_hook
            await trio.sleep(0.1)
            assert site.caller.status()["state"] == "hanging-up"
            await site.until(LineState.IDLE)
            assert modem.on_hook
            nursery.cancel_scope.cancel()
        assert modem.dialled == ["T111"]
        assert site.ledger.calls() == []
        await killed.hang_up()


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_after_a_restart_the_line_is_shown_as_the_last_call_left_it(
    tmp_path: Path, autojump_clock: MockClock, outcome: Outcome
) -> None:
    site = Site(tmp_path, way(FakeLine()), mock=autojump_clock)
    entry = await site.ledger.begin(Reason.AT, "pstn", site.clock.now())
    await site.ledger.dial(entry, "pstn", "111", site.clock.now())
    await site.ledger.end(entry, outcome, site.clock.now())
    site.clock.advance(100)
    status = site.make().status()
    worked = outcome in (Outcome.COMPLETE, Outcome.PARTIAL, Outcome.HUNG_UP, Outcome.MAX_CALL)
    expected = ("idle", None, None) if worked else ("failed", "at", "111")
    assert (status["state"], status["reason"], status["number"]) == expected
    assert status["since"] == entry.as_json()["ended"]
    site.ways = (way(FakeLine(), "another"),)
    status = site.make().status()
    assert (status["name"], status["state"], status["number"]) == ("another", "idle", None)


async def test_hung_up_by_hand_and_by_the_stop_are_two_things(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, way(FakeLine(dials=[BLOCK])), mock=autojump_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(site.caller.run)
        site.caller.dial_nowait()
        await trio.sleep(5)
        assert site.caller.hang_up()
        await site.caller.wait_idle()
        assert site.ledger.summary().put_down is not None
        site.caller.dial_nowait()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert [call["outcome"] for call in site.ledger.calls()] == ["hung-up", "hung-up"]
    assert site.ledger.summary().put_down is None


class FakeJob:
    """Connects, or has no reason to; leaves work, or not."""

    def __init__(self, name: str, *, connects: bool, left: bool) -> None:
        self.name, self.connects, self.left = name, connects, left

    async def run(self, call: OpenCall) -> JobReport:
        if self.connects:
            await (await call.open_stream("mail.isp.example", 110)).aclose()
        return JobReport(self.left, "it failed" if self.left else "")

    async def wait_work(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("other", "served"),
    [
        (FakeJob("other", connects=True, left=False), True),
        (FakeJob("other", connects=True, left=True), False),
        (FakeJob("other", connects=False, left=False), False),
    ],
    ids=["done", "failed", "had nothing to do"],
)
async def test_a_partial_call_serves_when_another_job_was_done(
    tmp_path: Path, autojump_clock: MockClock, other: FakeJob, served: bool
) -> None:
    line = FakeLine()

    async def open_stream(host: str, port: int) -> Any:
        return memory_stream_pair()[0]

    line.open_stream = open_stream  # type: ignore[method-assign]
    site = Site(tmp_path, way(line), mock=autojump_clock)
    site.jobs = [FakeJob("broken", connects=False, left=True), other]
    async with trio.open_nursery() as nursery:
        await nursery.start(site.caller.run)
        assert (await site.caller.dial())["outcome"] == "partial"
        nursery.cancel_scope.cancel()
    assert (site.ledger.summary().served_end is not None) == served
