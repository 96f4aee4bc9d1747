"""The time of a call: what the jobs wait for and how long, and what chrony is told. In simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from appliance.app.timekeeping import Timekeeper
from appliance.call import JobReport, OpenCall, Outcome, Reason
from appliance.calls.cycle import Cycle, Way
from appliance.calls.ledger import Ledger
from appliance.calls.window import TIME_DEADLINE_S
from appliance.clock import Seen, SystemClock
from appliance.config.model import Bearer, Line
from appliance.host.chrony import Chrony
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.committer import InlineCommitter
from fakes.host_clock import FakeHost
from fakes.line import FakeLine

BUILT = 1_760_000_000.0
SEEN = BUILT + 1_000_000
LATER = SEEN + 50_000

MODEM = Line(name="gsm", numbers=("111",), bearer=Bearer.PPP, attempts=1)


class FakeChrony(Chrony):
    """`takes_s`: so long after `online` the clock is right; `hangs`: it answers nothing."""

    def __init__(self, host: FakeHost, takes_s: float = 4.0, *, present: bool = True, hangs: bool = False) -> None:
        self.host, self.takes_s, self.hangs = host, takes_s, hangs
        self.there = present
        self.log: list[str] = []
        self._online: float | None = None

    @property
    def present(self) -> bool:
        return self.there

    async def online(self, dns: tuple[str, ...]) -> None:
        self.log.append(f"online {' '.join(dns)}".rstrip())
        await self._answer()
        self._online = trio.current_time()

    async def offline(self) -> None:
        self.log.append("offline")
        await self._answer()
        self._online = None

    async def synchronised(self) -> bool:
        await self._answer()
        if self._online is None or trio.current_time() - self._online < self.takes_s:
            return False
        self.host.step(LATER)
        return True

    async def _answer(self) -> None:
        if self.hangs:
            await trio.sleep(5)  # its deadline
        await trio.lowlevel.checkpoint()


class Job:
    name = "mail"

    def __init__(self, clock: SystemClock) -> None:
        self.clock = clock
        self.began: list[tuple[float, bool]] = []
        """When each run began, and whether the clock was trusted then."""

    async def run(self, call: OpenCall) -> JobReport:
        self.began.append((trio.current_time(), self.clock.trusted))
        await trio.sleep(20)
        return JobReport()

    async def wait_work(self) -> None:
        await trio.sleep_forever()


class Bench:
    def __init__(self, root: Path, host: float, **chrony: object) -> None:
        self.host = FakeHost(host)
        self.clock = SystemClock(built=BUILT, host=self.host)
        self.clock.begin(Seen(SEEN))
        self.chrony = FakeChrony(self.host, **chrony)  # type: ignore[arg-type]
        self.news = 0
        self.keeper = Timekeeper(self.clock, self.chrony, self._trusted)
        self.job = Job(self.clock)
        self.line = FakeLine("gsm")
        self.line.dns = ("192.0.2.53",)
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()

    def _trusted(self) -> None:
        self.news += 1

    def cycle(self) -> Cycle:
        return Cycle(
            reason=Reason.BY_HAND, due=None, ways=[Way(MODEM, self.line)], ledger=self.ledger, clock=self.clock,
            jobs=[self.job], linger_s=2.0, max_call_s=600.0, tell=lambda text: None, time=self.keeper,
        )  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper.run)
            await trio.sleep(0.1)
            yield
            nursery.cancel_scope.cancel()

    async def call(self) -> float:
        """-> how long its jobs waited."""
        began = trio.current_time()
        with trio.fail_after(100):
            entry = await self.cycle().run()
        assert entry.outcome is Outcome.COMPLETE
        assert len(self.job.began) == 1
        return self.job.began[0][0] - began


@pytest.mark.parametrize(
    ("host", "chrony", "least", "most", "trusted"),
    [
        (LATER, {}, 0, 0.01, True),  # trusted already: chrony beside the jobs
        (LATER, {"hangs": True}, 0, 0.01, True),
        (0.0, {}, 4, 5.1, True),
        (0.0, {"takes_s": 9.0}, 9, 10, True),
        (0.0, {"takes_s": 15.0}, TIME_DEADLINE_S, TIME_DEADLINE_S + 0.1, False),
        (0.0, {"hangs": True}, TIME_DEADLINE_S, TIME_DEADLINE_S + 0.1, False),
        (0.0, {"present": False}, 0, 0.01, False),  # nobody to ask
    ],
)
async def test_how_long_the_jobs_wait(
    tmp_path: Path, autojump_clock: MockClock, host: float, chrony: dict, least: float, most: float, trusted: bool
) -> None:
    bench = Bench(tmp_path, host, **chrony)
    async with bench.running():
        assert least <= await bench.call() <= most
        assert bench.job.began[0][1] == trusted
        await trio.sleep(61)
    if bench.chrony.present:
        assert bench.chrony.log == ["offline", "online 192.0.2.53", "offline"]
    assert bench.news == (host == 0.0 and bench.clock.trusted)


async def test_chrony_goes_on_beside_the_jobs(tmp_path: Path, autojump_clock: MockClock) -> None:
    bench = Bench(tmp_path, 0.0, takes_s=15.0)
    async with bench.running():
        await bench.call()
        assert bench.clock.trusted and bench.news == 1


async def test_the_lines_own_clock_comes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """And chrony makes it better, beside the jobs."""
    bench = Bench(tmp_path, 0.0)
    bench.line.time = datetime.fromtimestamp(LATER, UTC)
    async with bench.running():
        assert await bench.call() < 0.01
        assert bench.job.began[0][1]
        await trio.sleep(1)
        assert bench.news == 1
    assert "online 192.0.2.53" in bench.chrony.log


async def test_the_lines_own_clock_without_the_service(tmp_path: Path, autojump_clock: MockClock) -> None:
    bench = Bench(tmp_path, 0.0, present=False)
    bench.line.time = datetime.fromtimestamp(LATER, UTC)
    assert await bench.call() < 0.01
    assert bench.job.began[0][1]


@pytest.mark.parametrize("how", ["hang_up", "carrier", "service"])
async def test_a_call_that_ends_while_it_waits(tmp_path: Path, autojump_clock: MockClock, how: str) -> None:
    bench = Bench(tmp_path, 0.0, takes_s=60.0)
    cycle = bench.cycle()
    outcomes: list[Outcome | None] = []

    async def run() -> None:
        outcomes.append((await cycle.run()).outcome)

    async with trio.open_nursery() as nursery, bench.running():
        nursery.start_soon(run)
        await trio.sleep(3)
        assert bench.job.began == [] and bench.chrony.log[-1] == "online 192.0.2.53"
        if how == "service":  # it fails, and is started anew: the call does not wait for it
            bench.chrony.there = False
            bench.keeper._waited_enough.set()
            await trio.sleep(0.1)
            assert len(bench.job.began) == 1
            cycle.hang_up()
        else:
            {"hang_up": cycle.hang_up, "carrier": bench.line.drop}[how]()
        await trio.sleep(1)
        assert outcomes == [Outcome.CARRIER_LOST if how == "carrier" else Outcome.HUNG_UP]
        assert bench.chrony.log[-1] == "offline"


async def test_cancelled_it_leaves_chrony_offline(tmp_path: Path, autojump_clock: MockClock) -> None:
    bench = Bench(tmp_path, LATER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.keeper.run)
        await trio.sleep(0.1)
        await bench.keeper.begin(bench.line)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert bench.chrony.log == ["offline", "online 192.0.2.53", "offline"]


async def test_the_next_line_has_name_servers_of_its_own(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also where the first one ended while chrony was slow to answer."""
    bench = Bench(tmp_path, LATER, hangs=True)
    async with bench.running():
        await bench.keeper.begin(bench.line)
        await trio.sleep(7)  # `online` is on its way
        bench.keeper.end()
        bench.line.dns = ("198.51.100.53",)
        await bench.keeper.begin(bench.line)
        await trio.sleep(60)
        assert bench.chrony.log[-1] == "online 198.51.100.53"
        bench.keeper.end()
        await trio.sleep(10)
    assert bench.chrony.log[-1] == "offline"


async def test_between_calls_chrony_is_asked_while_the_clock_is_a_guess(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bench = Bench(tmp_path, 0.0)
    async with bench.running():
        await trio.sleep(130)
        assert not bench.clock.trusted
        bench.chrony._online = trio.current_time() - 10  # as a server on the LAN would make it
        await trio.sleep(61)
        assert bench.clock.trusted and bench.news == 1
    assert bench.chrony.log == ["offline"]
