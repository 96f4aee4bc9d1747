"""What a call costs: tables of tariffs as they are sold, calls across the borders of periods and the change of the
clocks, and what holds for every tariff and every call."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.call import Outcome
from appliance.calls.tariff import (
    LONGEST_S,
    Billed,
    Price,
    affordable_s,
    border_after,
    may_cost,
    paid_until_s,
    period_at,
    price,
)
from appliance.config.model import Period, Tariff

TOKYO, BERLIN, LONDON, UTC = (ZoneInfo(z) for z in ("Asia/Tokyo", "Europe/Berlin", "Europe/London", "UTC"))
WEEKDAYS, WEEKEND = frozenset(range(5)), frozenset({5, 6})
MINUTE, HOUR = 60.0, 3600.0


def tariff(*periods: Period, currency: str = "JPY", **more: object) -> Tariff:
    return Tariff(name="t", currency=currency, periods=periods, **more)  # type: ignore[arg-type]


def period(
    unit_s: float, cost: str, days: frozenset[int] = frozenset(range(7)), start: int = -1, end: int = -1
) -> Period:
    hours = (None, None) if start < 0 else (time(start), time(end % 24))
    return Period(unit_s=unit_s, price=Decimal(cost), days=days, start=hours[0], end=hours[1])


JP_LOCAL = tariff(period(180, "10", start=8, end=23), period(240, "10"))
"""A local call: 3 minutes by day, 4 by night, 10 yen each."""
JP_FAR = tariff(
    period(22.5, "10", WEEKDAYS, 8, 19), period(26, "10", start=19, end=23), period(26, "10", start=8, end=19),
    period(45, "10"),
)  # fmt: skip
"""A call over 100 km: how long 10 yen last."""
US_MINUTE = tariff(period(60, "0.05"), currency="USD")
TEN_SECONDS = tariff(period(10, "0.02"), currency="EUR", setup=Decimal("0.12"))
UK = tariff(period(1, "0.0015", WEEKDAYS, 7, 19), period(1, "0.0005"), currency="GBP", setup=Decimal("0.21"),
            minimum_s=60.0)  # fmt: skip
IRIDIUM = tariff(period(20, "0.45"), currency="USD", billed_before_connect_s=6.0)
SATELLITE = tariff(currency="USD", volume_unit_bytes=1 << 20, volume_price=Decimal("5.50"), setup=Decimal("0.10"))
GPRS = tariff(currency="EUR", volume_unit_bytes=10 * 1024, volume_price=Decimal("0.02"))
BOTH = tariff(period(60, "0.10"), currency="EUR", volume_unit_bytes=1024, volume_price=Decimal("0.01"))
INCLUDED = tariff(period(60, "0.10"), currency="EUR", free_per_month_s=600.0)


def at(text: str, zone: ZoneInfo, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


CALLS = [
    # a unit is a unit from its first moment to its last, and not beyond
    (JP_LOCAL, TOKYO, "2026-01-05 12:00", 0, 1, "10"),
    (JP_LOCAL, TOKYO, "2026-01-05 12:00", 1, 1, "10"),
    (JP_LOCAL, TOKYO, "2026-01-05 12:00", 180, 1, "10"),
    (JP_LOCAL, TOKYO, "2026-01-05 12:00", 180.001, 2, "20"),
    (JP_LOCAL, TOKYO, "2026-01-05 12:00", 3600, 20, "200"),
    (JP_LOCAL, TOKYO, "2026-01-05 02:00", 240, 1, "10"),
    (JP_LOCAL, TOKYO, "2026-01-05 02:00", 3600, 15, "150"),
    # into the night: 22:59 is a unit of 3 minutes to 23:02, then 4 to 23:06
    (JP_LOCAL, TOKYO, "2026-01-05 22:59", 180, 1, "10"),
    (JP_LOCAL, TOKYO, "2026-01-05 22:59", 181, 2, "20"),
    (JP_LOCAL, TOKYO, "2026-01-05 22:59", 420, 2, "20"),
    (JP_LOCAL, TOKYO, "2026-01-05 22:59", 421, 3, "30"),
    # into the day: 7:58 is 4 minutes to 8:02, then 3 to 8:05
    (JP_LOCAL, TOKYO, "2026-01-05 07:58", 420, 2, "20"),
    (JP_LOCAL, TOKYO, "2026-01-05 07:58", 421, 3, "30"),
    # the same clock time elsewhere is another moment
    (JP_LOCAL, UTC, "2026-01-05 22:59", 421, 3, "30"),
    (JP_FAR, TOKYO, "2026-01-05 12:00", 180, 8, "80"),
    (JP_FAR, TOKYO, "2026-01-10 12:00", 180, 7, "70"),  # a Saturday
    (JP_FAR, TOKYO, "2026-01-10 23:30", 180, 4, "40"),
    (US_MINUTE, UTC, "2026-01-05 12:00", 61, 2, "0.10"),
    (TEN_SECONDS, BERLIN, "2026-01-05 12:00", 61, 7, "0.26"),
    (TEN_SECONDS, BERLIN, "2026-01-05 12:00", 0.2, 1, "0.14"),
    # a minimum of 60 s, by the second then; the week's end begins at midnight from Friday to Saturday
    (UK, LONDON, "2026-01-05 12:00", 5, 60, "0.3000"),
    (UK, LONDON, "2026-01-05 12:00", 75, 75, "0.3225"),
    (UK, LONDON, "2026-01-10 12:00", 75, 75, "0.2475"),
    (UK, LONDON, "2026-01-05 18:59:30", 60, 60, "0.2700"),
    # the answer was 6 s before CONNECT
    (IRIDIUM, UTC, "2026-01-05 12:00", 14, 1, "0.45"),
    (IRIDIUM, UTC, "2026-01-05 12:00", 15, 2, "0.90"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "zone", "connect", "seconds", "units", "cost"), CALLS)
def test_a_call_by_time(what: Tariff, zone: ZoneInfo, connect: str, seconds: float, units: int, cost: str) -> None:
    assert price(Billed(what, zone), at(connect, zone), seconds) == Price(units, Decimal(cost))


@pytest.mark.parametrize(
    ("what", "seconds", "volume", "expected"),
    [
        (SATELLITE, 10, 0, Price(0, Decimal("0.10"))),
        (SATELLITE, 9999, 1, Price(1, Decimal("5.60"))),
        (SATELLITE, 10, 1 << 20, Price(1, Decimal("5.60"))),
        (SATELLITE, 10, (1 << 20) + 1, Price(2, Decimal("11.10"))),
        (GPRS, 10, 102_401, Price(11, Decimal("0.22"))),
        (BOTH, 61, 1025, Price(2, Decimal("0.22"))),
    ],
)
def test_a_call_by_volume(what: Tariff, seconds: float, volume: int, expected: Price) -> None:
    assert price(Billed(what, UTC), at("2026-01-05 12:00", UTC), seconds, volume) == expected


@pytest.mark.parametrize(
    ("free_s", "seconds", "units", "cost", "used_s"),
    [
        (600, 61, 2, "0", 120),
        (119, 61, 2, "0.10", 60),  # a unit that is free in part is paid
        (59, 61, 2, "0.20", 0),
        (600, 661, 12, "0.20", 600),
    ],
)
def test_free_minutes(free_s: float, seconds: float, units: int, cost: str, used_s: float) -> None:
    assert price(Billed(INCLUDED, UTC, free_s), 0.0, seconds) == Price(units, Decimal(cost), used_s)


SUMMER = tariff(period(60, "1", start=2, end=3), period(60, "100"))
"""One hour of the day is another price: the one that the clocks skip in March and have twice in October."""


@pytest.mark.parametrize(
    ("connect", "seconds", "cost"),
    [
        (at("2026-03-28 01:30", BERLIN), 2 * HOUR, 60 * 100 + 60),
        (at("2026-03-29 01:30", BERLIN), 2 * HOUR, 120 * 100),  # 2:00 to 3:00 does not come
        (at("2026-10-25 01:30", BERLIN), 2 * HOUR, 30 * 100 + 90),  # 2:00 to 3:00, then 2:00 to 2:30 once more
        (at("2026-10-25 01:30", BERLIN), 3 * HOUR, 60 * 100 + 120),
        (at("2026-10-25 02:30", BERLIN, fold=0), 2 * HOUR, 30 * 100 + 90),
        (at("2026-10-25 02:30", BERLIN, fold=1), 2 * HOUR, 90 * 100 + 30),
    ],
)
def test_the_clocks_are_changed(connect: float, seconds: float, cost: int) -> None:
    assert price(Billed(SUMMER, BERLIN), connect, seconds).cost == cost


def test_a_night_belongs_to_the_day_on_which_it_began() -> None:
    nights = tariff(period(60, "1", frozenset({4}), 22, 6), period(60, "100"))  # Friday's night
    costs = [price(Billed(nights, UTC), at(f"2026-01-{day:02} {hour:02}:00", UTC), 60).cost
             for day, hour in ((9, 5), (9, 23), (10, 5), (10, 7), (10, 23))]  # fmt: skip
    assert costs == [100, 1, 1, 100, 100]


@pytest.mark.parametrize(
    ("seconds", "cost"), [(200, "20"), (180, "10"), (540, "30")]
)  # the dearest is always the day's, units of 180 s
def test_an_untrusted_clock_pays_the_dearest(seconds: float, cost: str) -> None:
    night = at("2026-01-05 02:00", TOKYO)
    assert price(Billed(JP_LOCAL, TOKYO, trusted=False), night, seconds).cost == Decimal(cost)
    assert affordable_s(Billed(JP_LOCAL, TOKYO, trusted=False), night, Decimal(20)) == 360
    assert affordable_s(Billed(JP_LOCAL, TOKYO), night, Decimal(20)) == 480
    assert paid_until_s(Billed(JP_LOCAL, TOKYO, trusted=False), night, 10) == 180


@pytest.mark.parametrize(
    ("what", "connect", "seconds", "until"),
    [
        (JP_LOCAL, "2026-01-05 12:00", 0, 180),
        (JP_LOCAL, "2026-01-05 12:00", 180, 180),
        (JP_LOCAL, "2026-01-05 12:00", 181, 360),
        (JP_LOCAL, "2026-01-05 22:59", 200, 420),
        (UK, "2026-01-05 12:00", 5, 60),
        (IRIDIUM, "2026-01-05 12:00", 5, 14),
        (SATELLITE, "2026-01-05 12:00", 5, 5),
    ],
)
def test_until_when_it_is_paid(what: Tariff, connect: str, seconds: float, until: float) -> None:
    assert paid_until_s(Billed(what, UTC), at(connect, UTC), seconds) == pytest.approx(until)


@pytest.mark.parametrize(
    ("what", "connect", "money", "seconds"),
    [
        (JP_LOCAL, "2026-01-05 12:00", "9", -1),
        (JP_LOCAL, "2026-01-05 12:00", "10", 180),
        (JP_LOCAL, "2026-01-05 12:00", "29.99", 360),
        (JP_LOCAL, "2026-01-05 22:59", "30", 660),
        (UK, "2026-01-05 12:00", "0.29", -1),  # the minimum is not affordable
        (UK, "2026-01-05 12:00", "0.30", 60),
        (IRIDIUM, "2026-01-05 12:00", "0.90", 34),
        (INCLUDED, "2026-01-05 12:00", "0.10", 60),
        (SATELLITE, "2026-01-05 12:00", "0.10", LONGEST_S),
        (SATELLITE, "2026-01-05 12:00", "0.09", -1),
    ],
)
def test_for_how_long_money_lasts(what: Tariff, connect: str, money: str, seconds: float) -> None:
    assert affordable_s(Billed(what, UTC), at(connect, UTC), Decimal(money)) == pytest.approx(seconds)


def test_which_dials_may_be_billed() -> None:
    free = {o for o in Outcome if not may_cost(o)}
    assert {Outcome.BUSY, Outcome.NO_DIALTONE, Outcome.NO_ANSWER} < free
    assert not {Outcome.NO_CARRIER, Outcome.TIMEOUT, Outcome.COMPLETE} & free


prices = st.decimals(min_value=0, max_value=100, places=2)
hours = st.one_of(st.just((-1, -1)), st.tuples(st.integers(0, 23), st.integers(0, 23)).filter(lambda h: h[0] != h[1]))
periods = st.builds(
    lambda unit, cost, days, h: period(unit, str(cost), days, *h),
    st.integers(1, 600), prices, st.frozensets(st.integers(0, 6), min_size=1), hours,
)  # fmt: skip
tariffs = st.builds(
    lambda some, last, setup, minimum, before: tariff(
        *some, last, setup=setup, minimum_s=minimum, billed_before_connect_s=before
    ),
    st.lists(periods, max_size=3), st.builds(lambda u, c: period(u, str(c)), st.integers(1, 600), prices), prices,
    st.integers(0, 120).map(float), st.integers(0, 30).map(float),
)  # fmt: skip
moments = st.integers(int(at("2026-03-25 00:00", UTC)), int(at("2026-11-01 00:00", UTC))).map(float)
lengths = st.floats(0, 4 * HOUR)


@given(tariffs, moments, lengths, st.integers(0, 10**6))
def test_longer_is_never_cheaper_and_paid_time_is_free(what: Tariff, connect: float, seconds: float, free: int) -> None:
    billed = Billed(what, BERLIN, float(free % 5000))
    cost = price(billed, connect, seconds)
    until = paid_until_s(billed, connect, seconds)
    assert until >= seconds - 1e-3
    assert price(billed, connect, until - 1e-3).cost == cost.cost
    assert price(billed, connect, until + 0.5).units > cost.units
    assert price(billed, connect, seconds + 600).cost >= cost.cost


@given(tariffs, moments, st.decimals(min_value=0, max_value=500, places=2))
def test_what_is_affordable_is_afforded(what: Tariff, connect: float, money: Decimal) -> None:
    billed = Billed(what, BERLIN)
    seconds = affordable_s(billed, connect, money)
    if seconds < 0:
        assert price(billed, connect, 0).cost > money
    elif seconds < LONGEST_S:
        assert price(billed, connect, seconds).cost <= money < price(billed, connect, seconds + 0.5).cost


@given(tariffs, moments)
def test_a_border_is_the_next_change(what: Tariff, moment: float) -> None:
    border = border_after(what, BERLIN, moment)
    assert moment < border <= moment + 25 * HOUR
    now = period_at(what, BERLIN, moment)
    step = (border - moment) / 7
    assert all(period_at(what, BERLIN, moment + step * n) == now for n in range(7))
