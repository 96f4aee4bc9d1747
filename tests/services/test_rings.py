"""Calls that a ring causes: what they obey, who has the line when. Simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.call import Dialled, JobReport, OpenCall, Outcome, Prospect
from appliance.calls.caller import Caller
from appliance.calls.cycle import Way
from appliance.calls.ledger import Ledger
from appliance.config.model import Bearer, Line, Schedule, Window
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import NOON, FakeClock
from fakes.committer import InlineCommitter
from fakes.line import FakeLine

NUMBER = "0312345678"
OFF = Schedule(urgent=False)
WINDOW = Window(frozenset(range(7)), time(13), time(14))
QUIET = Line(name="", numbers=("111",), bearer=Bearer.NONE, attempts=1)
WAKING = replace(QUIET, wake_numbers=(NUMBER,))


class Site:
    """Two lines, the second of which nobody wakes."""

    name = "mail"

    def __init__(self, root: Path, mock: MockClock, schedule: Schedule = OFF) -> None:
        self.clock = FakeClock(mock=mock)
        self.clock.set_wall(NOON)
        self.line, self.other = FakeLine("pstn"), FakeLine("spare")
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()
        self.caller = Caller(
            schedule=schedule,
            timezone="UTC",
            bulk_max_age_s=86400.0,
            ways=[
                Way(replace(WAKING, name="pstn"), self.line),
                Way(replace(QUIET, name="spare"), self.other),
            ],
            ledger=self.ledger,
            jobs=lambda: [self],
            prospect=Prospect,
            clock=self.clock,
            started=self.clock.now(),
        )

    async def run(self, call: OpenCall) -> JobReport:
        assert not self.line.listening
        await trio.sleep(30)
        return JobReport()

    async def wait_work(self) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.caller.run)
            await trio.sleep(1)
            yield
            nursery.cancel_scope.cancel()
        assert not self.line.listening

    def ring(self) -> None:
        self.line.rings.send_nowait(NUMBER)

    @property
    def calls(self) -> list[tuple[str, float]]:
        """(reason, started in seconds since noon) of each."""
        return [(e.reason.value, e.started.wall - NOON) for e in self.ledger._entries]


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=2)


async def test_a_ring_makes_a_call_and_a_second_one_another(tmp_path: Path, autojump_clock: Any) -> None:
    site = Site(tmp_path, autojump_clock, replace(OFF, min_gap_s=3600.0))
    async with site.serving():
        assert (site.line.listening, site.other.listening) == (True, False)
        site.ring()
        await trio.sleep(100)
        assert site.line.listening
        site.ring()
        await trio.sleep(100)
    assert site.calls == [("wake", near(1)), ("wake", near(101))]  # min_gap does not hold it


async def test_windows_hold_a_ring_until_they_open(tmp_path: Path, autojump_clock: Any) -> None:
    site = Site(tmp_path, autojump_clock, replace(OFF, windows=(WINDOW,)))
    async with site.serving():
        site.ring()
        await trio.sleep(1800)
        assert site.calls == []
        assert site.line.listening
        await trio.sleep(3600)
    assert site.calls == [("wake", near(3600))]


async def test_nobody_listens_while_a_call_has_a_line(tmp_path: Path, autojump_clock: Any) -> None:
    """FakeLine fails the test where a step of a call meets a listener."""
    site = Site(tmp_path, autojump_clock)
    site.line._steps["dial"].appendleft(Dialled(Outcome.BUSY))
    async with site.serving():
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.caller.dial)
                await trio.sleep(10)
                assert not site.line.listening
            await trio.sleep(1)
            assert site.line.listening
    assert [reason for reason, _ in site.calls] == ["by-hand"] * 3


async def test_rings_before_a_call_are_met_by_it(tmp_path: Path, autojump_clock: Any) -> None:
    site = Site(tmp_path, autojump_clock, replace(OFF, windows=(WINDOW,)))
    async with site.serving():
        site.ring()
        await trio.sleep(10)
        await site.caller.dial()
        await trio.sleep(7200)
    assert [reason for reason, _ in site.calls] == ["by-hand"]
