"""Whether a call is worth its price: the estimate, what is left, and when there is enough again; then in the policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.call import Outcome, Prospect, Reason, Tally
from appliance.calls.budget import DEFAULT_OVERHEAD_S, Estimate, Purse, estimate
from appliance.calls.entry import Charge, Entry, Past, Spending, Summary
from appliance.calls.policy import Requests, Settings, Times, WayOut, decide
from appliance.clock import Mark
from appliance.config.model import Budget, Period, Schedule, Tariff, Window

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
ZONE = ZoneInfo("Asia/Tokyo")
TARIFF = Tariff(name="t", currency="JPY", periods=(Period(unit_s=180.0, price=Decimal(10)),))
SECONDS = replace(TARIFF, periods=(Period(unit_s=1.0, price=Decimal(1)),))
NIGHT = replace(
    TARIFF,
    periods=(
        Period(unit_s=180.0, price=Decimal(10), start=time(8), end=time(23)),
        Period(unit_s=180.0, price=Decimal(2)),
    ),
)


def jst(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


NOW = jst("2026-01-20 12:00")


def mark(wall: float) -> Mark:
    return Mark(wall, wall - NOW + 100 * DAY, "boot")


def spent(*calls: tuple[str, int], free_s: float = 0.0) -> list[Spending]:
    return [Spending(mark(jst(at)), Charge(1, Decimal(cost), "JPY", "t", free_s)) for at, cost in calls]


def purse(
    budget: Budget, *calls: tuple[str, int], month_day: int = 1, free_s: float = 0.0, trusted: bool = True
) -> Purse:
    past = spent(*calls, free_s=free_s)
    return Purse(budget, past, mark(NOW), zone=ZONE, month_day=month_day, trusted=trusted)


DAILY, MONTHLY = Budget(per_day=Decimal(100)), Budget(per_month=Decimal(1000), urgent_reserve=Decimal(200))


@pytest.mark.parametrize(
    ("budget", "calls", "day", "left", "with_reserve"),
    [
        (Budget(), [("2026-01-20 11:00", 50)], 1, None, None),
        (DAILY, [], 1, 100, 100),
        (DAILY, [("2026-01-20 00:00", 30), ("2026-01-20 11:00", 30), ("2026-01-19 23:59", 30)], 1, 40, 40),
        (DAILY, [("2026-01-20 11:00", 130)], 1, 0, 0),
        (MONTHLY, [("2026-01-01 00:00", 300), ("2025-12-31 23:59", 300)], 1, 500, 700),
        (MONTHLY, [("2026-01-14 23:59", 300), ("2026-01-15 00:00", 100)], 15, 700, 900),
        (MONTHLY, [("2025-12-24 23:59", 300), ("2025-12-25 00:00", 100)], 25, 700, 900),
        (replace(MONTHLY, per_day=Decimal(50)), [("2026-01-20 11:00", 20)], 1, 30, 30),
    ],
)
def test_what_is_left(
    budget: Budget, calls: list[tuple[str, int]], day: int, left: int | None, with_reserve: int | None
) -> None:
    it = purse(budget, *calls, month_day=day)
    assert it.left(NOW, reserve=False) == left
    assert it.left(NOW, reserve=True) == with_reserve


def test_free_seconds_of_the_month_that_the_bill_has() -> None:
    tariff = replace(TARIFF, free_per_month_s=600.0, month_day=15)
    it = purse(Budget(), ("2026-01-14 12:00", 0), ("2026-01-16 12:00", 0), free_s=180.0)
    assert it.billed(tariff, NOW).free_s == 420.0
    assert it.billed(tariff, jst("2026-02-16 12:00")).free_s == 600.0
    assert it.billed(replace(tariff, name="another"), NOW).free_s == 600.0


CALL = Estimate(200.0, 10_000)  # 20 yen by day


@pytest.mark.parametrize(
    ("tariff", "budget", "calls", "what", "when"),
    [
        (TARIFF, Budget(), [("2026-01-20 11:00", 10_000)], CALL, NOW),
        (TARIFF, DAILY, [("2026-01-20 11:00", 80)], CALL, NOW),
        (TARIFF, DAILY, [("2026-01-20 11:00", 81)], CALL, jst("2026-01-21 00:00")),
        (TARIFF, MONTHLY, [("2026-01-02 11:00", 790)], CALL, jst("2026-02-01 00:00")),
        # a cheaper hour comes before the new day
        (NIGHT, DAILY, [("2026-01-20 11:00", 95)], CALL, jst("2026-01-20 23:00")),
        # what costs more than a whole day's budget goes when nothing of it is spent
        (TARIFF, DAILY, [], Estimate(9999.0, 0), NOW),
        (TARIFF, DAILY, [("2026-01-20 11:00", 10)], Estimate(9999.0, 0), jst("2026-01-21 00:00")),
        (TARIFF, Budget(per_day=Decimal(9)), [], CALL, None),
        # by the second: less than thirteen of them, with the margin, are no call
        (SECONDS, Budget(per_day=Decimal(13)), [], CALL, NOW),
        (SECONDS, Budget(per_day=Decimal(12)), [], CALL, None),
        (TARIFF, Budget(per_month=Decimal(9)), [], CALL, None),
    ],
)
def test_when_there_is_enough(
    tariff: Tariff, budget: Budget, calls: list[tuple[str, int]], what: Estimate, when: float | None
) -> None:
    moment, why = purse(budget, *calls).first_affordable([(tariff, what)], NOW, reserve=False)
    assert moment == when
    assert (why == "") == (when == NOW)


def test_one_of_the_lines_is_enough_and_one_without_a_tariff_is_free() -> None:
    it = purse(DAILY, ("2026-01-20 11:00", 95))
    cheap = replace(TARIFF, name="cheap", periods=(Period(unit_s=180.0, price=Decimal(1)),))
    assert it.first_affordable([(TARIFF, CALL), (cheap, CALL)], NOW, reserve=False) == (NOW, "")
    assert it.first_affordable([(TARIFF, CALL), (None, CALL)], NOW, reserve=False) == (NOW, "")


BYTES = Tariff(name="t", currency="JPY", volume_unit_bytes=1024, volume_price=Decimal(10))


@pytest.mark.parametrize(
    ("tariff", "what", "money", "enough"),
    [
        # by the second: half a minute once the line is up, which takes 20 s at most, and the margin
        (SECONDS, Estimate(200.0, 0), 52, False),
        (SECONDS, Estimate(200.0, 0), 53, True),
        (SECONDS, Estimate(5.0, 0), 37, False),
        (SECONDS, Estimate(5.0, 0), 38, True),
        # a call that would be as long by itself still costs what it costs, unless that is more than the whole day's
        (TARIFF, Estimate(200.0, 0), 9, False),
        (TARIFF, Estimate(200.0, 0), 10, True),
        # by volume: 4 KiB
        (BYTES, Estimate(20.0, 0), 39, False),
        (BYTES, Estimate(20.0, 0), 40, True),
    ],
)
def test_a_call_for_a_circuit_must_last_for_one(tariff: Tariff, what: Estimate, money: int, enough: bool) -> None:
    it = purse(Budget(per_day=Decimal(money)))
    assert it.affordable(tariff, what.with_circuit(), NOW, reserve=False) is enough


def test_an_untrusted_clock_waits_for_the_dearest_price() -> None:
    night = jst("2026-01-20 01:00")
    ways = [(NIGHT, CALL)]
    assert purse(DAILY, ("2026-01-20 00:30", 90)).first_affordable(ways, night, reserve=False)[0] == night
    late = purse(DAILY, ("2026-01-20 00:30", 90), trusted=False).first_affordable(ways, night, reserve=False)[0]
    assert late == jst("2026-01-21 00:00")


@pytest.mark.parametrize(
    ("waiting", "recent", "seconds", "volume"),
    [
        (Prospect(), [], DEFAULT_OVERHEAD_S, 0),
        (Prospect(messages=1, bytes=9600), [], DEFAULT_OVERHEAD_S + 10, 9600),
        (Prospect(messages=1, bytes=9600, upstream_bytes=9600), [], DEFAULT_OVERHEAD_S + 20, 19_200),
        # 9,600 bit/s: 30 s beyond its bytes, and 4,800 came in each time
        (Prospect(messages=1, bytes=9600), [Past("pstn", 9600, 40.0, 4800, 4800)] * 3, 30 + 15, 14_400),
        (Prospect(messages=1, bytes=9600, upstream_bytes=96_000), [Past("pstn", 9600, 40.0, 4800, 4800)], 140, 105_600),
        # no modem said a rate: the best that was seen
        (Prospect(messages=1, bytes=10_000), [Past("pstn", 0, 10.0, 0, 10_000), Past("pstn", 0, 20.0, 0, 5000)], 17.5,
         10_000),
        # another line's calls say nothing
        (Prospect(), [Past("gsm", 9600, 400.0, 4800, 4800)], DEFAULT_OVERHEAD_S, 0),
        (Prospect(messages=1, bytes=10**9), [], 1800.0, 10**9),
    ],
)  # fmt: skip
def test_the_estimate(waiting: Prospect, recent: list[Past], seconds: float, volume: int) -> None:
    assert estimate(waiting, recent, "pstn", max_call_s=1800.0) == Estimate(seconds, volume)


# ---- in the policy
WAITING = Prospect(messages=3, bytes=9000, oldest=NOW - 2 * HOUR)
AT_ONCE = Schedule(queued_messages=1)


def settings(schedule: Schedule = AT_ONCE, budget: Budget = DAILY, *ways: WayOut) -> Settings:
    ways = ways or (WayOut("pstn", ("111",), tariff=TARIFF),)
    return Settings(schedule=schedule, ways=ways, zone=ZONE, bulk_max_age_s=DAY, budget=budget)


def past(*calls: tuple[str, int]) -> Summary:
    """Complete calls by hand, which hold nothing else."""
    summary = Summary()
    for at, cost in calls:
        start = mark(jst(at))
        charge = Charge(1, Decimal(cost), "JPY", "t")
        end = mark(start.wall + 60)
        summary = summary.after(
            Entry(1, "pstn", Reason.BY_HAND, start, connected=start, ended=end, outcome=Outcome.COMPLETE, charge=charge,
                  tally=Tally(sent=1))
        )  # fmt: skip
    return summary


TIMES = Times(now=mark(NOW), started=mark(NOW - DAY))
USED = past(("2026-01-20 09:00", 95))
BY_HAND = Requests(by_hand=True)


@pytest.mark.parametrize(
    ("prospect", "summary", "requests", "budget", "reason", "at"),
    [
        (WAITING, past(), Requests(), DAILY, Reason.QUEUED_MESSAGES, NOW),
        (WAITING, USED, Requests(), DAILY, None, jst("2026-01-21 00:00")),
        (WAITING, USED, BY_HAND, DAILY, None, jst("2026-01-21 00:00")),
        (WAITING, USED, Requests(by_hand=True, force=True), DAILY, Reason.BY_HAND, NOW),
        (WAITING, past(("2026-01-03 09:00", 795)), Requests(), MONTHLY, None, jst("2026-02-01 00:00")),
        # the reserve is for urgent calls and calls by hand
        (replace(WAITING, urgent=1), past(("2026-01-03 09:00", 795)), Requests(), MONTHLY, Reason.URGENT, NOW),
        (WAITING, past(("2026-01-03 09:00", 795)), BY_HAND, MONTHLY, Reason.BY_HAND, NOW),
        (replace(WAITING, urgent=1), past(("2026-01-03 09:00", 995)), Requests(), MONTHLY, None,
         jst("2026-02-01 00:00")),
        (WAITING, USED, Requests(), Budget(), Reason.QUEUED_MESSAGES, NOW),
    ],
)  # fmt: skip
def test_the_budget_in_the_policy(
    prospect: Prospect, summary: Summary, requests: Requests, budget: Budget, reason: Reason | None, at: float
) -> None:
    decision = decide(settings(budget=budget), prospect, summary, TIMES, requests)
    assert (decision.reason, decision.next.at) == (reason, at)
    assert bool(decision.refused) == (requests.by_hand and reason is None)


def test_what_it_says() -> None:
    decision = decide(settings(), WAITING, USED, TIMES)
    assert decision.next.reason == (
        "queued_messages: 3 messages wait; budget: a call would cost about 10 JPY; spent 95 of 100 JPY of the day; "
        "again 2026-01-21 00:00"
    )
    refused = decide(settings(), Prospect(), USED, TIMES, BY_HAND).refused
    assert refused.startswith("by hand; budget: ") and "--force" in refused
    poor = decide(settings(budget=Budget(per_month=Decimal(9))), WAITING, past(), TIMES)
    assert (poor.next.at, poor.reason) == (None, None)
    assert "no day or month has enough" in poor.next.reason
    kept = decide(settings(budget=MONTHLY), WAITING, past(("2026-01-03 09:00", 795)), TIMES).next.reason
    assert "795 of 1000 JPY of the month (200 kept for urgent calls)" in kept


ASKED = Requests(connection_request=True)
BY_SECOND = WayOut("pstn", ("111",), tariff=SECONDS)


@pytest.mark.parametrize(
    ("spent", "reason", "at"),
    [
        (47, Reason.CONNECTION_REQUEST, NOW),
        (48, None, jst("2026-01-21 00:00")),  # 52 s, less the margin: a call for mail is made for 13
        (88, None, jst("2026-01-21 00:00")),
    ],
)
def test_no_call_is_made_for_a_connection_request_that_it_cannot_carry(
    spent: int, reason: Reason | None, at: float
) -> None:
    it = settings(Schedule(connection_request=True), DAILY, BY_SECOND)
    before = replace(past(("2026-01-20 09:00", spent)), recent=())
    decision = decide(it, Prospect(), before, TIMES, ASKED)
    assert (decision.reason, decision.next.at) == (reason, at)
    if reason is None:
        assert decision.next.reason == (
            "connection_request: a terminal asks for a connection; budget: a call would cost about 50 JPY; "
            f"spent {spent} of 100 JPY of the day; again 2026-01-21 00:00"
        )
    # the mail that waits is carried all the same, by as little
    mail = replace(it, schedule=replace(AT_ONCE, connection_request=True))
    expected = Reason.CONNECTION_REQUEST if reason else Reason.QUEUED_MESSAGES
    assert decide(mail, replace(WAITING, bytes=0), before, TIMES, ASKED).reason is (expected if spent < 80 else None)


def test_no_day_has_enough_for_a_circuit() -> None:
    it = settings(Schedule(connection_request=True), Budget(per_day=Decimal(52)), BY_SECOND)
    decision = decide(it, Prospect(), past(), TIMES, ASKED)
    assert (decision.reason, decision.next.at) == (None, None)
    assert "no day or month has enough" in decision.next.reason


def test_a_window_and_the_money_at_the_same_time() -> None:
    schedule = replace(AT_ONCE, windows=(Window(frozenset({1, 3}), time(11), time(13)),))  # NOW is a Tuesday
    decision = decide(settings(schedule), WAITING, USED, TIMES)
    assert decision.next.at == jst("2026-01-22 11:00")
    closed = decide(
        settings(replace(schedule, windows=(Window(frozenset({0}), time(11), time(13)),))), WAITING, USED, TIMES
    )
    assert closed.next.at == jst("2026-01-26 11:00")


@given(
    st.lists(st.tuples(st.integers(0, 40 * 24), st.integers(0, 60)), max_size=30), st.integers(10, 200),
    st.integers(10, 2000), st.integers(0, 200),
)  # fmt: skip
def test_a_planned_call_is_affordable_then(calls: list[tuple[int, int]], day: int, month: int, reserve: int) -> None:
    budget = Budget(per_day=Decimal(day), per_month=Decimal(month), urgent_reserve=Decimal(min(reserve, month)))
    made = [Spending(mark(NOW - hours * HOUR), Charge(1, Decimal(cost), "JPY", "t")) for hours, cost in calls]
    summary = replace(Summary(), spent=tuple(made))
    decision = decide(settings(budget=budget), WAITING, summary, TIMES)
    it = Purse(budget, made, mark(NOW), zone=ZONE, month_day=1, trusted=True)
    if decision.next.at is None:
        assert month - min(reserve, month) < 10
    else:
        left = it.left(decision.next.at, reserve=False)
        assert left is not None and left >= 10
        assert decision.next.at == NOW or datetime.fromtimestamp(decision.next.at, UTC).astimezone(ZONE).hour == 0
