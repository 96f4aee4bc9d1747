"""What a call costs while it goes on: reserved before ATD, counted at each step, capped, and its paid time filled."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio
from trio.testing import MockClock

from appliance.call import Dialled, JobReport, OpenCall, Outcome, Prospect, Reason
from appliance.calls.budget import Estimate
from appliance.calls.caller import Caller, CallRefused
from appliance.calls.cycle import Cycle, Way
from appliance.calls.entry import FREE, Charge
from appliance.calls.ledger import Ledger
from appliance.calls.meter import Meter, Metering
from appliance.calls.tariff import Billed
from appliance.config.model import Bearer, Budget, Line, Period, Schedule, Tariff, Window
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import NOON, FakeClock
from fakes.committer import InlineCommitter
from fakes.line import BLOCK, FakeLine

UTC = ZoneInfo("UTC")
CONFIG = Line(name="pstn", numbers=("111",), bearer=Bearer.NONE, attempts=2, redial_wait_s=1.0, tariff="t")
TARIFF = Tariff(name="t", currency="JPY", periods=(Period(unit_s=60.0, price=Decimal(10)),), setup=Decimal(1))
ESTIMATE = Estimate(100.0, 0)
VOLUME = Tariff(name="t", currency="USD", volume_unit_bytes=1000, volume_price=Decimal("0.50"))

Run = Callable[[OpenCall], Awaitable[JobReport]]


class Work:
    """A job: its runs one after the other, with paid time waited for before each further one."""

    name = "spool"

    def __init__(self, *runs: Run, takes_s: float = 0.0) -> None:
        self.runs = list(runs) or [sleeps(takes_s)]
        self.call: OpenCall | None = None
        self.paid_s: list[float] = []

    async def run(self, call: OpenCall) -> JobReport:
        self.call = call
        self.paid_s.append(call.paid.left_s())
        return await self.runs.pop(0)(call)

    async def wait_work(self) -> None:
        if not self.runs:
            await trio.sleep_forever()
        assert self.call is not None
        await self.call.paid.wait_begun()


def sleeps(seconds: float) -> Run:
    async def run(call: OpenCall) -> JobReport:
        await trio.sleep(seconds)
        return JobReport()

    return run


def bulk(seconds: float) -> Run:
    async def run(call: OpenCall) -> JobReport:
        call.paid.carries_bulk("spool", alone=True)
        await trio.sleep(seconds)
        call.count(sent=1)
        return JobReport()

    return run


class Bench:
    def __init__(self, root: Path, mock: MockClock) -> None:
        self.root = root
        self.clock = FakeClock(mock=mock)
        self.ledger = self.open()

    def open(self) -> Ledger:
        ledger = Ledger(InlineCommitter(Disk(), self.root), StatePaths(self.root))  # type: ignore[arg-type]
        ledger.open()
        return ledger

    async def call(
        self, *lines: FakeLine, job: Work | None = None, left: str = "", tariff: Tariff = TARIFF, **options: Any
    ) -> dict[str, Any]:
        cycle = Cycle(
            reason=Reason.AT,
            due=None,
            ways=[Way(replace(CONFIG, name=line.name), line) for line in lines],
            ledger=self.ledger,
            clock=self.clock,
            jobs=[job or Work(takes_s=10)],
            linger_s=2.0,
            max_call_s=1800.0,
            tell=lambda text: None,
            metering=Metering(
                billed={line.name: Billed(tariff, UTC) for line in lines},
                estimates={line.name: ESTIMATE for line in lines},
                left=Decimal(left) if left else None,
            ),
            **options,
        )
        await cycle.run()
        return self.ledger.calls()[-1]


@pytest.fixture
def bench(tmp_path: Path, autojump_clock: MockClock) -> Bench:
    return Bench(tmp_path, autojump_clock)


async def test_a_call_has_its_price(bench: Bench, autojump_clock: MockClock) -> None:
    call = await bench.call(FakeLine())
    assert (call["units"], call["cost"], call["currency"]) == (1, "11", "JPY")
    call = await bench.call(FakeLine(), job=Work(takes_s=70))
    assert (call["units"], call["cost"], call["duration_s"]) == (2, "21", 72.0)
    assert [(e.charge, e.reserved) for e in bench.open().entries()] == [
        (e.charge, e.reserved) for e in bench.ledger.entries()
    ]


@pytest.mark.parametrize(
    ("outcome", "cost", "units"),
    [
        (Outcome.BUSY, "0", 0),
        (Outcome.NO_ANSWER, "0", 0),
        (Outcome.NO_DIALTONE, "0", 0),
        (Outcome.NO_CARRIER, "22", 2),  # both dials may have been answered
    ],
)
async def test_what_a_dial_costs(
    bench: Bench, autojump_clock: MockClock, outcome: Outcome, cost: str, units: int
) -> None:
    call = await bench.call(FakeLine(dials=[outcome]))
    assert (call["dials"], call["cost"], call["units"], call["currency"]) == (2, cost, units, "JPY")


@pytest.mark.parametrize(
    ("outcome", "then"), [(Outcome.NO_ANSWER, FREE), (Outcome.NO_CARRIER, Charge(1, Decimal(11), "JPY", "t"))]
)
def test_a_free_line_behind_one_that_is_not(outcome: Outcome, then: Charge) -> None:
    meter, at = (
        Meter(Metering(billed={"pstn": Billed(TARIFF, UTC)}, estimates={"pstn": ESTIMATE}), lambda: 0),
        FakeClock(),
    )
    meter.before_dial("pstn", at.now())
    charge = meter.after_dial(outcome, at.now(), at.now())
    assert (charge.cost, charge.currency) == (then.cost, "JPY")
    meter.before_dial("lan", at.now())
    meter.connected(at.now())
    assert meter.so_far(at.now()) == then


async def test_a_dial_that_was_given_up_may_have_been_answered(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[BLOCK])
    call = await bench.call(line)  # dial_timeout and grace, 90 s each
    assert (call["outcome"], call["cost"]) == ("timeout", "42")


async def test_the_estimate_is_on_the_disk_before_atd(bench: Bench, autojump_clock: MockClock) -> None:
    seen = []

    def dialled() -> None:
        entry = bench.open().entries()[-1]  # as after a power cut in this moment
        seen.append((str(entry.reserved), str(entry.charge.cost), entry.outcome))

    line = FakeLine()
    line.hooks["dial"] = dialled
    await bench.call(line)
    assert seen == [("21", "11", Outcome.INTERRUPTED)]  # 100 s are two units; one more than nothing is one


async def test_after_a_power_cut_a_call_costs_a_unit_more_than_its_last_mark(
    bench: Bench, autojump_clock: MockClock
) -> None:
    costs = []

    async def look(call: OpenCall) -> JobReport:
        for _ in range(4):
            await trio.sleep(50)
            costs.append(str(bench.open().entries()[-1].charge.cost))
        return JobReport()

    await bench.call(FakeLine(), job=Work(look))
    # CONNECT, and marks after 60, 120 and 180 s: the unit that has just ended, and another
    assert costs == ["21", "21", "31", "41"]
    assert bench.ledger.calls()[-1]["cost"] == "41"


async def test_what_is_left_caps_the_call(bench: Bench, autojump_clock: MockClock) -> None:
    call = await bench.call(FakeLine(), job=Work(takes_s=1000), left="35")
    assert (call["outcome"], call["cost"], call["units"]) == ("max-call", "31", 3)
    assert call["duration_s"] == 177.0  # the margin for hanging up


async def test_what_failed_dials_cost_is_not_left_any_more(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[Outcome.NO_CARRIER, Dialled(None, 9600)])
    call = await bench.call(line, job=Work(takes_s=1000), left="35")
    assert (call["cost"], call["units"], call["duration_s"]) == ("32", 3, 117.0)
    line = FakeLine(dials=[Outcome.NO_CARRIER])
    call = await bench.call(line, left="21")  # nothing is left for the second
    assert (call["dials"], call["outcome"], call["cost"]) == (1, "no-carrier", "11")


async def test_volume_is_capped_too(bench: Bench, autojump_clock: MockClock) -> None:
    async def fills(call: OpenCall) -> JobReport:
        while True:
            await trio.sleep(1)
            call.tally.bytes_in += 100

    call = await bench.call(FakeLine(), job=Work(fills), left="2", tariff=VOLUME)
    assert (call["outcome"], call["cost"], call["units"]) == ("max-call", "2.00", 4)


# ---- time that is paid
async def test_a_started_unit_is_filled_and_left_before_the_next(bench: Bench, autojump_clock: MockClock) -> None:
    job = Work(sleeps(10), bulk(1000))
    call = await bench.call(FakeLine(), job=job)
    assert job.paid_s == [0.0, 47.0]  # 60 less the margin, from when the other work was done
    assert (call["outcome"], call["units"], call["duration_s"]) == ("complete", 1, 57.0)


async def test_a_unit_is_not_waited_out(bench: Bench, autojump_clock: MockClock) -> None:
    call = await bench.call(FakeLine(), job=Work(sleeps(10), bulk(5)))
    assert (call["units"], call["duration_s"], call["sent"]) == (1, 17.0, 1)


async def test_bulk_mail_that_is_joined_by_other_mail_goes_on_too(bench: Bench, autojump_clock: MockClock) -> None:
    async def joined(call: OpenCall) -> JobReport:
        call.paid.carries_bulk("spool", alone=True)
        await trio.sleep(20)
        call.paid.carries_bulk("spool", alone=False)
        await trio.sleep(60)
        return JobReport()

    call = await bench.call(FakeLine(), job=Work(sleeps(10), joined))
    assert (call["units"], call["duration_s"]) == (2, 92.0)


async def test_what_is_no_bulk_mail_goes_on_in_a_new_unit(bench: Bench, autojump_clock: MockClock) -> None:
    call = await bench.call(FakeLine(), job=Work(sleeps(10), sleeps(100)))
    assert (call["units"], call["duration_s"]) == (2, 112.0)


@pytest.mark.parametrize(("takes_s", "seconds"), [(54, 56.0), (56, 57.0), (58, 58.05)])
async def test_no_unit_is_begun_to_linger(
    bench: Bench, autojump_clock: MockClock, takes_s: float, seconds: float
) -> None:
    call = await bench.call(FakeLine(), job=Work(takes_s=takes_s))
    assert (call["units"], call["duration_s"]) == (1, seconds)


@pytest.mark.parametrize("tariff", [replace(TARIFF, fill_unit=False), VOLUME], ids=["not to be filled", "by volume"])
async def test_time_that_is_not_for_bulk(bench: Bench, autojump_clock: MockClock, tariff: Tariff) -> None:
    job = Work(sleeps(10), bulk(1000))
    if tariff is VOLUME:
        job.runs.pop()
    call = await bench.call(FakeLine(), job=job, tariff=tariff)
    assert job.paid_s == [math.inf if tariff is VOLUME else 0.0]
    assert call["duration_s"] == 12.0


# ---- the caller
def caller(
    bench: Bench, line: FakeLine, budget: Budget, job: Work, *tariffs: Tariff, ways: Sequence[Way] = (), **schedule: Any
) -> Caller:
    return Caller(
        schedule=Schedule(queued_messages=1, min_gap_s=0.0, linger_s=0.0, **schedule),
        timezone="UTC",
        bulk_max_age_s=86400.0,
        ways=ways or [Way(CONFIG, line)],
        ledger=bench.ledger,
        jobs=lambda: [job],
        prospect=Prospect,
        clock=bench.clock,
        started=bench.clock.now(),
        tariffs=tariffs or (TARIFF,),
        budget=budget,
    )


async def test_dial_obeys_the_budget_and_force_passes_it(bench: Bench, autojump_clock: MockClock) -> None:
    line, job = FakeLine(), Work(*[sleeps(300)] * 3)
    it = caller(bench, line, Budget(per_day=Decimal(30)), job)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        call = await it.dial()
        assert (call["outcome"], call["cost"]) == ("max-call", "21")  # capped to what the day has
        with pytest.raises(CallRefused, match="spent 21 of 30 JPY of the day; again 2026-01-06 00:00"):
            await it.dial()
        call = await it.dial(force=True)
        assert (call["outcome"], call["cost"]) == ("complete", "61")
        nursery.cancel_scope.cancel()
    assert len(line.dialled) == 2


@pytest.mark.parametrize(
    ("waits", "schedule", "per_day", "why"),
    [
        (Prospect(messages=1, bytes=500, oldest=NOON), {}, "30", ""),  # it is called
        (Prospect(messages=1, bytes=500, oldest=NOON), {}, "3", "of 3 JPY of the day"),
        (Prospect(), {}, "3", ""),  # nothing wants a call
        (Prospect(messages=1, bytes=500, oldest=NOON), {"queued": 2}, "3", ""),  # no condition holds
        (Prospect(messages=1, bytes=500, oldest=NOON), {"windows": True}, "3", ""),  # it is not the budget alone
        (Prospect(messages=1, bytes=500, oldest=NOON), {}, None, ""),
    ],
    ids=["money", "no money", "nothing", "no condition", "no window", "no budget"],
)
async def test_whether_it_is_for_want_of_money_that_no_call_is_made(
    bench: Bench, autojump_clock: MockClock, waits: Prospect, schedule: dict[str, Any], per_day: str | None, why: str
) -> None:
    more: dict[str, Any] = {"retry_s": ()}
    if "windows" in schedule:
        more["windows"] = (Window(frozenset({0}), time(13), time(14)),)
    budget = Budget(per_day=Decimal(per_day)) if per_day else Budget()
    it = caller(bench, FakeLine(), budget, Work(), **more)
    it._prospect = lambda: waits
    if "queued" in schedule:
        it._settings = replace(
            it._settings, schedule=replace(it._settings.schedule, queued_messages=schedule["queued"])
        )
    assert why in it.wants_money and bool(it.wants_money) == bool(why)


async def test_what_the_budget_says_to_a_connection_request(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine()
    it = caller(bench, line, Budget(per_day=Decimal(60)), Work(*[sleeps(1000)] * 2))
    assert it.line_budget() is None  # no call is made for one
    it = caller(bench, line, Budget(per_day=Decimal(60)), Work(*[sleeps(1000)] * 2), connection_request=True)
    assert it.line_budget() is None
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        it.dial_nowait()
        await trio.sleep(60)
        assert it.line_budget() is None
        await trio.sleep(225)  # five units from CONNECT on, less the margin and the half minute that a circuit takes
        assert it.line_budget() == pytest.approx(12 * 3600 - 285, abs=5)
        await it.wait_idle()
        assert it.line_budget() == pytest.approx(12 * 3600 - 297, abs=5)
        nursery.cancel_scope.cancel()
    assert caller(bench, line, Budget(per_day=Decimal(5)), Work(), connection_request=True).line_budget() == math.inf


BY_SECOND = replace(TARIFF, periods=(Period(unit_s=1.0, price=Decimal(1)),), setup=Decimal(0))


async def test_a_budget_that_a_circuit_does_not_fit_into_causes_no_call(
    bench: Bench, autojump_clock: MockClock
) -> None:
    line = FakeLine()
    it = caller(bench, line, Budget(), Work(sleeps(40)), BY_SECOND)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        cost = Decimal((await it.dial())["cost"])
        nursery.cancel_scope.cancel()
    # 20 s until the line is up, 30 s for a circuit, and the margin
    it = caller(bench, line, Budget(per_day=cost + 53), Work(), BY_SECOND, connection_request=True)
    assert it.line_budget() is None
    it = caller(bench, line, Budget(per_day=cost + 52), Work(sleeps(9)), BY_SECOND, connection_request=True)
    midnight = 12 * 3600 - 40
    assert it.line_budget() == pytest.approx(midnight, abs=5)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        it.request_connection(bench.clock.now().wall)
        await trio.sleep(3600)
        assert len(line.dialled) == 1
        assert it.next_call.reason.startswith("connection_request: a terminal asks for a connection; budget: ")
        with trio.fail_after(midnight):
            while len(line.dialled) == 1:
                await trio.sleep(1)
        it.request_connection(None)
        assert bench.clock.now().wall % 86400 < 120  # midnight, and a look each minute
        await it.wait_idle()
        nursery.cancel_scope.cancel()
    assert bench.ledger.calls()[-1]["reason"] == "connection-request"


async def test_a_line_on_which_a_circuit_costs_too_much_is_passed_over_for_one(
    bench: Bench, autojump_clock: MockClock
) -> None:
    dear, cheap, job = FakeLine("dear"), FakeLine("cheap"), Work(sleeps(1))
    prices = {
        "dear": BY_SECOND,
        "cheap": replace(BY_SECOND, name="cheap", periods=(Period(unit_s=60.0, price=Decimal(1)),)),
    }
    ways = [Way(replace(CONFIG, name=line.name, tariff=prices[line.name].name), line) for line in (dear, cheap)]
    it = caller(
        bench,
        dear,
        Budget(per_day=Decimal(40)),
        job,
        *prices.values(),
        ways=ways,
        connection_request=True,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        it.request_connection(bench.clock.now().wall)
        with trio.fail_after(60):
            while not cheap.dialled:
                await trio.sleep(0.1)
        it.request_connection(None)
        assert [len(line.dialled) for line in (dear, cheap)] == [0, 1]
        await it.wait_idle()
        job.runs.append(sleeps(1))
        await it.dial()  # for somebody who asks for it, the first will do
        assert [len(line.dialled) for line in (dear, cheap)] == [1, 1]
        nursery.cancel_scope.cancel()


async def test_the_bytes_of_a_circuit_must_be_paid_too(bench: Bench, autojump_clock: MockClock) -> None:
    said: list[float | None] = []

    async def fills(call: OpenCall) -> JobReport:
        for _ in range(4):
            said.append(it.line_budget())
            call.tally.bytes_in += 1000
            await trio.sleep(3)
        return JobReport()

    it = caller(bench, FakeLine(), Budget(per_day=Decimal(3)), Work(fills), VOLUME)  # six units of 1,000 bytes
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.dial()
        nursery.cancel_scope.cancel()
    assert [seconds is None for seconds in said] == [True, True, False, False]
