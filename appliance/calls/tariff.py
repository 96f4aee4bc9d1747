"""What a call costs by a `[[tariff]]` (DESIGN §5). Pure; money is `Decimal`, moments are Unix seconds.

Theory of operation. A call is billed from the answer, `billed_before_connect` before CONNECT, until it is on-hook, and
for `minimum` at least. That time is cut into units from the answer on. A started unit costs the price of the period
that it starts in, and is as long as that period's: a call that goes on into the cheap night pays the dear unit to its
end. Periods are times of day of the site's zone, the first that holds decides; where the clocks are put back an hour
comes twice, and so does its price. One past midnight belongs to the day on which it began.

The first `free_per_month` of a month cost nothing: a unit that they cover whole is free, one that they cover in part is
paid, and what is left of them stays. `setup` is paid for every answered call. Bytes are counted both ways and rounded
up to `volume_unit` per call.

While the clock is untrusted nobody knows which period it is: the one in which the call is dearest is assumed.

BUSY, NO DIALTONE and NO ANSWER cost nothing, like what a modem refuses before it dials. A dial that ends otherwise may
have been answered by something that was no modem: it is counted as if that had been at once (`may_cost`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from appliance.call import Outcome
from appliance.calls.recurrence import instant
from appliance.config.model import Period

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from appliance.config.model import Tariff

__all__ = [
    "LEAST_CALL_S", "Billed", "Price", "affordable_s", "border_after", "least", "may_cost", "paid_until_s", "period_at",
    "price",
]  # fmt: skip

FREE_OUTCOMES: Final = frozenset({
    Outcome.BUSY, Outcome.NO_ANSWER, Outcome.NO_DIALTONE, Outcome.BLACKLISTED, Outcome.DELAYED, Outcome.MODEM_ERROR,
    Outcome.PIN_REFUSED, Outcome.NO_NETWORK,
})  # fmt: skip
SLACK: Final = 1e-6
"""Of a unit: lengths are differences of floats, and 180.0000001 s are one unit of 180 s."""
LONGEST_S: Final = 7 * 86400.0
"""How far ahead a length is reckoned: a week, beyond any call on a line that is paid by time."""
LEAST_CALL_S: Final = 10.0
"""A call that is shorter is good for nothing: PPP, a name and a login take as long on most lines."""
MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Price:
    """`units`: started units of time; of volume, where the tariff has no periods. `free_s`: seconds taken from
    `free_per_month`."""

    units: int = 0
    cost: Decimal = Decimal(0)
    free_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Billed:
    """A tariff as it holds for one call: the zone of its periods, the free seconds that the month has left, and
    whether the clock can tell the period."""

    tariff: Tariff
    zone: ZoneInfo
    free_s: float = 0.0
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class _Run:
    """`units` units in a row of one period, the first of which starts at `start`; `free` of them cost nothing."""

    start: float
    units: int
    free: int
    period: Period

    @property
    def cost(self) -> Decimal:
        return self.period.price * (self.units - self.free)


def may_cost(outcome: Outcome) -> bool:
    """Whether a dial that ended so may have been billed."""
    return outcome not in FREE_OUTCOMES


def price(billed: Billed, connect: float, seconds: float, volume: int = 0) -> Price:
    """Of a call that connected at `connect`, lasted `seconds` and carried `volume` bytes, both ways together."""
    if not billed.trusted and len(billed.tariff.periods) > 1:
        return max((price(one, connect, seconds, volume) for one in _each_alone(billed)), key=lambda p: p.cost)
    tariff = billed.tariff
    runs = list(_runs(billed, connect, seconds)) if tariff.periods else []
    units, cost = sum(run.units for run in runs), tariff.setup + sum((run.cost for run in runs), Decimal(0))
    if tariff.volume_unit_bytes:
        volume_units = -(-volume // tariff.volume_unit_bytes)
        cost += volume_units * tariff.volume_price
        units = units if tariff.periods else volume_units
    return Price(units, cost, sum(run.free * run.period.unit_s for run in runs))


def least(billed: Billed, connect: float, seconds: float = LEAST_CALL_S, volume: int = 0) -> Decimal:
    """What a call costs there that is good for anything, or that lasts and carries so much, and is hung up in time."""
    return price(billed, connect, seconds + billed.tariff.hangup_margin_s, volume).cost


def paid_until_s(billed: Billed, connect: float, seconds: float) -> float:
    """Until how long after `connect` the unit that has started by then, or the minimum, is paid; `seconds` itself where
    time costs nothing. While the clock is untrusted the first of the possible ends."""
    tariff = billed.tariff
    if not tariff.periods:
        return seconds
    if not billed.trusted and len(tariff.periods) > 1:
        return min(paid_until_s(one, connect, seconds) for one in _each_alone(billed))
    *_, last = _runs(billed, connect, seconds)
    return last.start + last.units * last.period.unit_s - connect


def affordable_s(billed: Billed, connect: float, money: Decimal, volume: int = 0) -> float:
    """For how long after `connect` a call may last that costs no more than `money`; below 0 where not even its first
    unit may begin. `LONGEST_S` at most, and where time costs nothing."""
    if not billed.trusted and len(billed.tariff.periods) > 1:
        return min(affordable_s(one, connect, money, volume) for one in _each_alone(billed))
    tariff = billed.tariff
    left = money - tariff.setup
    if tariff.volume_unit_bytes:
        left -= -(-volume // tariff.volume_unit_bytes) * tariff.volume_price
    if left < 0 or (tariff.periods and price(billed, connect, 0.0, volume).cost > money):
        return -1.0
    for run in _runs(billed, connect, LONGEST_S) if tariff.periods else ():
        if run.cost > left:
            affordable = run.free + int(left // run.period.price)
            return run.start + affordable * run.period.unit_s - connect
        left -= run.cost
    return LONGEST_S


def period_at(tariff: Tariff, zone: ZoneInfo, moment: float) -> Period:
    """The first of the periods that holds at that moment; the last one, should none (the configuration's rules want
    them to cover the week)."""
    local = datetime.fromtimestamp(moment, zone)
    return next((p for p in tariff.periods if _holds(p, local)), tariff.periods[-1])


def border_after(tariff: Tariff, zone: ZoneInfo, moment: float) -> float:
    """The next moment at which another period may begin to hold: midnight, a `from`, a `to`; on a day on which the
    clocks are changed, the next minute."""
    local = datetime.fromtimestamp(moment, zone)
    if local.utcoffset() != (datetime.fromtimestamp(moment, UTC) + timedelta(days=1)).astimezone(zone).utcoffset():
        return (moment // MINUTE + 1) * MINUTE
    times = {time(0, 0), *(t for p in tariff.periods for t in (p.start, p.end) if t is not None)}
    days = (local.date() + timedelta(days=n) for n in (0, 1))
    return min(at for at in (instant(day, t, zone) for day in days for t in times) if at > moment)


def _holds(period: Period, local: datetime) -> bool:
    start, end, now = period.start, period.end, local.time()
    if start is None or end is None:
        return local.weekday() in period.days
    if start < end:
        return local.weekday() in period.days and start <= now < end
    if now >= start:
        return local.weekday() in period.days
    return now < end and (local.weekday() - 1) % 7 in period.days


def _runs(billed: Billed, connect: float, seconds: float) -> Iterator[_Run]:
    """The units of a call, in runs within one period; at least one unit."""
    tariff, zone = billed.tariff, billed.zone
    at, free_s = connect - tariff.billed_before_connect_s, billed.free_s
    end = at + max(tariff.billed_before_connect_s + seconds, tariff.minimum_s)
    one_price = len(tariff.periods) == 1
    while True:
        period = tariff.periods[0] if one_price else period_at(tariff, zone, at)
        until = end if one_price else min(end, border_after(tariff, zone, at))
        units = max(1, math.ceil((until - at) / period.unit_s - SLACK))
        free = min(units, int((free_s + SLACK) // period.unit_s))
        yield _Run(at, units, free, period)
        at, free_s = at + units * period.unit_s, free_s - free * period.unit_s
        if at >= end - SLACK * period.unit_s:
            return


def _each_alone(billed: Billed) -> Iterator[Billed]:
    """The tariff as if each of its periods held all the time."""
    for period in billed.tariff.periods:
        yield replace(
            billed, tariff=replace(billed.tariff, periods=(Period(unit_s=period.unit_s, price=period.price),))
        )
