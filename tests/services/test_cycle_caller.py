"""The service that makes the calls, in simulated time: when it dials, who joins, what it shows."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import time
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from appliance.call import Dialled, JobReport, LineState, OpenCall, Outcome, Prospect
from appliance.calls.caller import Caller, CallRefused, Told
from appliance.calls.cycle import Way
from appliance.calls.ledger import Ledger
from appliance.config.model import Bearer, Line, Schedule
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import NOON, FakeClock
from fakes.committer import InlineCommitter
from fakes.line import FakeLine

CONFIG = Line(name="pstn", numbers=("111",), bearer=Bearer.NONE, attempts=1)
CALL_STEPS = ("prepare", "dial", "negotiate", "hang_up")
OFF = Schedule(urgent=False)
CONNECT = Dialled(None, 9600, "CONNECT 9600")


class Site:
    """A caller, its line, and mail that goes with a call."""

    def __init__(self, root: Path, mock: MockClock, *, schedule: Schedule = OFF, country: str = "") -> None:
        self.clock = FakeClock(mock=mock)
        self.line = FakeLine()
        self.waiting = Prospect()
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()
        self.started = self.clock.now()
        self.work_s = 10.0
        self.caller = self.make(schedule, country)

    def make(self, schedule: Schedule, country: str = "") -> Caller:
        return Caller(
            schedule=schedule,
            timezone="UTC",
            bulk_max_age_s=86400.0,
            ways=[Way(replace(CONFIG, country=country), self.line)],
            ledger=self.ledger,
            jobs=lambda: [self],
            prospect=lambda: self.waiting,
            clock=self.clock,
            started=self.started,
        )

    name = "mail"

    async def run(self, call: OpenCall) -> JobReport:
        await trio.sleep(self.work_s)
        call.count(sent=self.waiting.messages)
        self.waiting = Prospect()
        return JobReport()

    async def wait_work(self) -> None:
        await trio.sleep_forever()

    def queue(self, messages: int = 1, *, urgent: int = 0) -> None:
        self.waiting = Prospect(messages=messages, bytes=1000, oldest=self.clock.now().wall, urgent=urgent)
        self.caller.poke()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.caller.run)
            yield
            nursery.cancel_scope.cancel()

    @property
    def calls(self) -> list[tuple[str, str, float]]:
        """(reason, outcome, started in seconds since noon) of each."""
        return [
            (e.reason.value, e.outcome.value if e.outcome else "", e.started.wall - NOON) for e in self.ledger._entries
        ]


@pytest.fixture
def site(tmp_path: Path, autojump_clock: MockClock) -> Site:
    return Site(tmp_path, autojump_clock)


def near(seconds: float) -> object:
    return pytest.approx(seconds + 0.0, abs=0.2)


async def test_dials_when_poked_and_not_before(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock, schedule=replace(OFF, queued_messages=2))
    start = trio.current_time()
    async with site.serving():
        site.queue(1)
        await trio.sleep(1000)
        assert site.calls == []
        site.queue(2)
        await trio.sleep(100)
    assert [(r, o) for r, o, _ in site.calls] == [("queued-messages", "complete")]
    assert site.calls[0][2] - start == near(1000)


async def test_at_and_every_by_themselves(tmp_path: Path, autojump_clock: MockClock) -> None:
    schedule = replace(OFF, at=(time(13), time(15)), every_s=5400.0, min_gap_s=0.0)
    site = Site(tmp_path, autojump_clock, schedule=schedule)
    site.clock.set_wall(NOON)
    async with site.serving():
        await trio.sleep(4.1 * 3600)
    made = [(r, s) for r, _, s in site.calls]
    assert made == [("at", near(3600)), ("every", near(3600 + 12 + 5400)), ("at", near(10800))]


async def test_a_jump_of_the_clock_is_noticed_within_a_minute(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock, schedule=replace(OFF, at=(time(18),)))
    async with site.serving():
        await trio.sleep(30)
        site.clock.set_wall(NOON + 6 * 3600 - 5)
        await trio.sleep(61)
        assert [r for r, _, _ in site.calls] == ["at"]


async def test_retry_ladder_and_its_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    schedule = replace(OFF, queued_messages=1, retry_s=(60.0, 300.0))
    site = Site(tmp_path, autojump_clock, schedule=schedule)
    site.line = FakeLine(dials=[Outcome.BUSY, Outcome.BUSY, Outcome.NO_ANSWER, CONNECT])
    site.caller = site.make(schedule)
    async with site.serving():
        site.queue(1)
        await trio.sleep(3600)
    starts = [s for _, _, s in site.calls]
    assert [b - a for a, b in pairwise(starts)] == [near(60), near(300), near(300)]
    assert [o for _, o, _ in site.calls] == ["busy", "busy", "no-answer", "complete"]


async def test_the_call_that_a_connection_request_would_have(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As the policy has it: behind a dial that nobody answered not at once."""
    schedule = replace(OFF, connection_request=True, retry_s=(60.0,))
    site = Site(tmp_path, autojump_clock)
    site.line = FakeLine(dials=[Outcome.NO_ANSWER, Outcome.LOGIN_REFUSED])
    site.caller = site.make(schedule, "us")
    now = site.clock.now().wall
    assert site.caller.call_for_connection(now).at == near(now)
    assert site.caller.call_for_connection(now + 600).at == near(now + 600)
    async with site.serving():
        await site.caller.dial()
        now = site.clock.now().wall
        held = site.caller.call_for_connection(now)
        assert held.at == near(now + 60) and "; retry after 1 failed call: not before " in held.reason
        assert site.caller.call_for_connection(now + 600).at == near(now + 600)
        await site.caller.dial()
        assert site.caller.call_for_connection(now).at is None
        assert "the provider refused the login" in site.caller.call_for_connection(now).reason
        assert len(site.calls) == 2, "it was only asked what would be"


async def test_by_hand_failure_causes_no_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock)
    site.line = FakeLine(dials=[Outcome.BUSY])
    site.caller = site.make(OFF)
    async with site.serving():
        site.queue(3)
        call = await site.caller.dial()
        assert (call["outcome"], call["reason"]) == ("busy", "by-hand")
        status = site.caller.status()
        assert (status["state"], status["reason"], status["number"]) == ("failed", "by-hand", "111")
        await trio.sleep(100_000)
    assert len(site.calls) == 1


async def test_idle_it_is_silent(site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "posthouse")
    async with site.serving():
        site.queue(3)  # no condition holds: there is no other plan
        await trio.sleep(86400)
    assert caplog.messages == ["next call: none: nothing waits"]


async def test_how_long_every_call_has_failed(tmp_path: Path, autojump_clock: MockClock) -> None:
    schedule = replace(OFF, queued_messages=1, retry_s=(3600.0,))
    site = Site(tmp_path, autojump_clock, schedule=schedule)
    site.line = FakeLine(dials=[CONNECT, Outcome.BUSY, Outcome.NO_ANSWER, CONNECT])
    site.caller = site.make(schedule)
    async with site.serving():
        assert site.caller.failing_s == 0
        site.queue(1)
        await trio.sleep(1000)
        assert site.caller.failing_s == 0
        site.queue(1)
        await trio.sleep(5)
        assert site.caller.failing_s == near(4.9)
        await trio.sleep(5000)
        assert site.caller.failing_s == near(5004.9)  # since the first of the two
        await trio.sleep(3600)
        assert site.caller.failing_s == 0
    assert [o for _, o, _ in site.calls] == ["complete", "busy", "no-answer", "complete"]


async def test_a_modem_is_told_things_while_the_line_is_idle(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock)
    asked: list[list[str]] = []

    async def ask() -> None:
        asked.append(await site.caller.tell_modem("ATI"))

    async with site.serving():
        site.line.hooks["dial"] = lambda: None
        assert await site.caller.tell_modem("ATI", "pstn") == ["ATI", "OK"]
        with pytest.raises(CallRefused, match="no line called x has a modem"):
            await site.caller.tell_modem("ATI", "x")
        site.caller.dial_nowait()
        await trio.sleep(1)
        with pytest.raises(CallRefused, match="not idle"):
            await site.caller.tell_modem("ATI")
        await site.caller.wait_idle()
        site.line.hooks["command"] = lambda: site.caller.dial_nowait() and None  # a call comes due meanwhile: it waits
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
        del site.line.hooks["command"]
        await site.caller.wait_idle()
        site.line._steps["command"].append(OSError("AT+X: no answer"))
        site.line._steps["command"].popleft()
        with pytest.raises(CallRefused, match="no answer"):
            await site.caller.tell_modem("AT+X")
    assert asked == [["ATI", "OK"]]
    steps = [entry.split()[0] for entry in site.line.log]
    assert steps == ["command", *CALL_STEPS, "command", *CALL_STEPS, "command"]


async def test_dial_joins_the_call_that_is_under_way(site: Site, autojump_clock: MockClock) -> None:
    got: list[object] = []

    async def dial(after: float) -> None:
        await trio.sleep(after)
        got.append(await site.caller.dial())

    async with site.serving():
        async with trio.open_nursery() as nursery:
            for after in (0.0, 0.0, 0.01, 1.0, 5.0, 11.0):
                nursery.start_soon(dial, after)
        assert site.caller.dial_nowait() is site.caller.dial_nowait()
        await site.caller.wait_idle()
    assert len(got) == 6
    assert all(call == got[0] for call in got)
    assert site.line.dialled == ["111", "111"]


async def test_dial_passes_windows_min_gap_and_retry(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock, schedule=replace(OFF, min_gap_s=86400.0))
    async with site.serving():
        for _ in range(3):
            assert (await site.caller.dial())["outcome"] == "complete"


async def test_dial_is_refused_by_redial_rules_with_a_sentence(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock)
    site.line = FakeLine(dials=[Outcome.BUSY])
    site.caller = site.make(OFF, "jp")
    async with site.serving():
        for _ in range(3):
            await site.caller.dial()
        with pytest.raises(
            CallRefused, match="redial rules: country jp allows two redials within three minutes; 111 again at"
        ):
            await site.caller.dial()
        with pytest.raises(CallRefused):
            site.caller.dial_nowait(force=True)
        await trio.sleep(183)
        assert (await site.caller.dial())["outcome"] == "busy"


async def test_no_line_is_configured(tmp_path: Path, autojump_clock: MockClock) -> None:
    site = Site(tmp_path, autojump_clock)
    site.caller._ways = ()
    caller = Caller(
        schedule=Schedule(), timezone="UTC", bulk_max_age_s=1.0, ways=(), ledger=site.ledger, jobs=list,
        prospect=lambda: Prospect(messages=1, urgent=1), clock=site.clock, started=site.started,
    )  # fmt: skip
    site.caller = caller
    async with site.serving():
        with pytest.raises(CallRefused, match=r"^no line is configured$"):
            await caller.dial()
        await trio.sleep(1000)
    assert site.calls == []
    assert caller.status()["name"] == ""
    assert caller.status()["next_call_reason"] == "no line is configured"


async def test_hang_up(site: Site, autojump_clock: MockClock) -> None:
    async with site.serving():
        assert not site.caller.hang_up()
        site.caller.dial_nowait()
        await trio.sleep(5)
        assert site.caller.hang_up()
        await site.caller.wait_idle()
        assert not site.caller.hang_up()
    assert [(reason, outcome) for reason, outcome, _ in site.calls] == [("by-hand", "hung-up")]
    assert site.line.log[-1] == "hang_up"


async def test_status_over_a_call(site: Site, autojump_clock: MockClock) -> None:
    keys = {"name", "state", "reason", "number", "since", "next_call", "next_call_reason"}
    async with site.serving():
        idle = site.caller.status()
        assert set(idle) == keys
        assert (idle["name"], idle["state"], idle["reason"], idle["number"]) == ("pstn", "idle", None, None)
        assert (idle["next_call"], idle["next_call_reason"]) == (None, "nothing waits")
        site.caller.dial_nowait()
        await trio.sleep(5)
        up = site.caller.status()
        assert (up["state"], up["reason"], up["number"]) == ("exchanging", "by-hand", "111")
        assert up["next_call_reason"] == "a call is under way"
        await site.caller.wait_idle()
        after = site.caller.status()
        assert (after["state"], after["reason"], after["number"]) == ("idle", None, None)
        assert after["since"] > idle["since"]


async def test_watchers_see_the_whole_call_also_late_ones(site: Site, autojump_clock: MockClock) -> None:
    first: list[Told] = []
    late: list[Told] = []

    async def watch(lines: list[Told], after: float) -> None:
        await trio.sleep(after)
        with site.caller.watch() as channel:
            async for told in channel:
                lines.append(told)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, first, 0)
        nursery.start_soon(watch, late, 5)
        async with site.serving():
            await trio.sleep(1)
            await site.caller.dial()
        # the channels end with `run`, and so do the watchers
    assert first == late
    assert [told.text for told in first[:3]] == ["call 1: by-hand", "dialling 111 (1 of 1)", "CONNECT 9600"]
    assert first[-1].text.startswith("on-hook after 12.0 s: complete")
    states = {told.text: told.state for told in first}
    assert states["dialling 111 (1 of 1)"] is LineState.DIALLING
    assert states["hanging up"] is LineState.HANGING_UP
    assert first[-1].state is LineState.IDLE
    with site.caller.watch() as channel:
        assert [line async for line in channel] == []


async def test_a_slow_watcher_stalls_nothing(site: Site, autojump_clock: MockClock) -> None:
    async with site.serving():
        with site.caller.watch() as channel:
            for _ in range(100):
                await site.caller.dial()
            assert channel.statistics().current_buffer_used == 500
    assert len(site.calls) == 100


async def test_stopped_while_a_call_is_up(site: Site, autojump_clock: MockClock) -> None:
    got: list[str] = []

    async def dial() -> None:
        got.append((await site.caller.dial())["outcome"])

    async with trio.open_nursery() as nursery, site.serving():
        nursery.start_soon(dial)
        await trio.sleep(5)
    assert got == ["hung-up"]
    assert not site.line.off_hook


async def test_asked_for_and_stopped_before_it_began(site: Site, autojump_clock: MockClock) -> None:
    async with site.serving():
        dialling = site.caller.dial_nowait()
    assert (dialling.entry, dialling.refused) == (None, "the service that dials is stopping")
    assert dialling.done.is_set()
    with pytest.raises(CallRefused, match="the service that dials is stopping"):
        site.caller.dial_nowait()  # nobody would ever make that call
    assert site.calls == []


async def test_a_defect_releases_who_waits(site: Site, autojump_clock: MockClock) -> None:
    def defect() -> None:
        raise ValueError("a defect")

    site.line.hooks["dial"] = defect
    with pytest.raises(ExceptionGroup):
        async with site.serving():
            call = await site.caller.dial()
            assert call["outcome"] == "modem-error"
    assert site.ledger.summary().failures == 1


async def test_a_new_caller_over_the_same_ledger(site: Site, autojump_clock: MockClock) -> None:
    async with site.serving():
        await site.caller.dial()
    site.caller = site.make(replace(OFF, every_s=3600.0))
    async with site.serving():
        await trio.sleep(3700)
    assert [r for r, _, _ in site.calls] == ["by-hand", "every"]


async def test_the_plan_is_said_when_it_changes(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    site = Site(tmp_path, autojump_clock, schedule=replace(OFF, every_s=3600.0, oldest_message_s=600.0))
    async with site.serving():
        await trio.sleep(300)
        for _ in range(5):
            site.queue(1)
            await trio.sleep(1)
        await trio.sleep(1)
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("next call")]
    assert len(said) == 2
    assert said[0].endswith(": every 1h")
    assert said[1].endswith(": oldest_message: the oldest has waited 10m")
