"""Whether a call is worth its price: what one will cost, what the budget has left, and when there will be enough.
Pure; moments are Unix seconds of today's wall clock.

Theory of operation. The estimate of a call is how long it will be and how much it will carry: the time that past calls
took beyond their bytes, and, at their rate, what waits in the queue and what such calls have brought in. Its price is
that of the tariff at the moment of the call, whatever the night would cost.

`per_day` counts the calls that started on that local day; `per_month` those of the month that began on the tariff's
`month_day`, less `urgent_reserve`, which is for urgent calls and calls by hand. A call is affordable where its price is
left of both. One that costs more than a whole day's or month's budget is affordable at the moment when nothing of it is
spent yet, for its length is capped to what is left (`meter`); else it would never be made. But one that could not be as
long, or carry as much, as it must to be good for anything is not: a call for a circuit must outlast its set-up.

Where a call is not affordable now, the next moment is looked for at which it is: a cheaper period, a new day, a new
month.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Final

from appliance.calls import recurrence
from appliance.calls.tariff import LEAST_CALL_S, Billed, border_after, least, price
from appliance.config.model import Budget

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from zoneinfo import ZoneInfo

    from appliance.call import Prospect
    from appliance.calls.entry import Past, Spending
    from appliance.clock import Mark
    from appliance.config.model import Tariff

__all__ = ["CIRCUIT_LEAST_BYTES", "CIRCUIT_LEAST_S", "NO_BUDGET", "Estimate", "Purse", "estimate"]

NO_BUDGET: Final = Budget()
DEFAULT_BYTES_S: Final = 960.0
"""Of a line that has made no call yet: 9,600 bit/s with a start and a stop bit, what GSM and most modems make."""
SLOWEST_BYTES_S: Final = 240.0
"""2,400 bit/s: calls that carried next to nothing say nothing of the rate."""
DEFAULT_OVERHEAD_S: Final = 20.0
"""The same: PPP, names, TLS and logins."""
CIRCUIT_LEAST_S: Final = 30.0
"""A circuit rings, opens its data connection and shakes hands for as long on a slow line, before anything moves."""
CIRCUIT_LEAST_BYTES: Final = 4096
"""And with so many: an invitation and its answer, a ticket, and a handshake with a certificate each way."""
LOOK_DAYS: Final = 62
"""So far ahead is looked for an affordable call: two months, each longer than any."""
LOOK_STEP_S: Final = 300.0
"""At least so far apart: on the day on which the clocks change a border may be at each minute."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a call: `seconds` from CONNECT to on-hook, `volume` in bytes, both ways together. One that lasts less than
    `least_s`, or can't carry `least_volume`, is good for nothing."""

    seconds: float
    volume: int
    least_s: float = LEAST_CALL_S
    least_volume: int = 0

    def with_circuit(self) -> Estimate:
        """The same call, made for a circuit: that needs its time once the line is up, which took no longer than a whole
        call did."""
        least_s = min(self.seconds, DEFAULT_OVERHEAD_S) + CIRCUIT_LEAST_S
        return Estimate(max(self.seconds, least_s), max(self.volume, CIRCUIT_LEAST_BYTES), least_s, CIRCUIT_LEAST_BYTES)

    def least(self, billed: Billed, at: float) -> Decimal:
        """What it costs at least, there and then."""
        return least(billed, at, self.least_s, self.least_volume)

    def price(self, tariff: Tariff, purse: Purse, at: float) -> Decimal:
        return price(purse.billed(tariff, at), at, self.seconds, self.volume).cost


def estimate(prospect: Prospect, recent: Sequence[Past], line: str, *, max_call_s: float) -> Estimate:
    """What a call over that line will be like."""
    calls = [past for past in recent if past.line == line and past.seconds > 0]
    volume = prospect.bytes + prospect.upstream_bytes
    if not calls:
        return Estimate(min(max_call_s, DEFAULT_OVERHEAD_S + volume / DEFAULT_BYTES_S), volume)
    rates = [past.rate / 10 for past in calls if past.rate]
    bytes_s = median(rates) if rates else max((p.bytes_in + p.bytes_out) / p.seconds for p in calls)
    bytes_s = max(bytes_s, SLOWEST_BYTES_S)
    overhead = median(max(0.0, p.seconds - (p.bytes_in + p.bytes_out) / bytes_s) for p in calls)
    volume = prospect.bytes + max(prospect.upstream_bytes, int(median(p.bytes_in for p in calls)))
    return Estimate(min(max_call_s, overhead + volume / bytes_s), volume)


class Purse:
    """What `[budget]` and the free minutes have left `now`, after what was `spent`. Months begin on `month_day`;
    `trusted` as in `tariff.Billed`."""

    def __init__(
        self,
        budget: Budget,
        spent: Iterable[Spending],
        now: Mark,
        *,
        zone: ZoneInfo,
        month_day: int,
        trusted: bool,
    ) -> None:
        self.budget = budget
        self.zone = zone
        self.trusted = trusted
        self._month_day = month_day
        booted, boot = now.wall - now.boot, now.boot_id or None
        # On today's wall clock; those of this boot without a function's call, for it is done at each look.
        self._spent = [
            (booted + s.at.boot if s.at.boot_id == boot else now.wall - s.at.seconds_until(now), s.charge)
            for s in spent
        ]

    @property
    def limited(self) -> bool:
        return self.budget.per_day is not None or self.budget.per_month is not None

    def spent_on_day(self, at: float) -> Decimal:
        """By the calls that started on the local day of `at`."""
        return self._sum(recurrence.day_of(at, self.zone), recurrence.day_after(at, self.zone))

    def spent_in_month(self, at: float) -> Decimal:
        start, end = (f(at, self.zone, self._month_day) for f in (recurrence.month_of, recurrence.month_after))
        return self._sum(start, end)

    def left(self, at: float, *, reserve: bool) -> Decimal | None:
        """Of the budget, for a call at that moment; None: no limit. `reserve`: it may use the reserve."""
        budget = self.budget
        lefts = []
        if budget.per_day is not None:
            lefts.append(budget.per_day - self.spent_on_day(at))
        if budget.per_month is not None:
            kept = Decimal(0) if reserve else budget.urgent_reserve
            lefts.append(budget.per_month - kept - self.spent_in_month(at))
        return max(Decimal(0), min(lefts)) if lefts else None

    def whole(self, *, reserve: bool) -> Decimal | None:
        """What would be left had nothing been spent."""
        month = self.budget.per_month
        if month is not None and not reserve:
            month -= self.budget.urgent_reserve
        return min((m for m in (self.budget.per_day, month) if m is not None), default=None)

    def billed(self, tariff: Tariff, at: float) -> Billed:
        """The tariff as it holds for a call at that moment."""
        free_s = tariff.free_per_month_s
        if free_s:
            start = recurrence.month_of(at, self.zone, tariff.month_day)
            end = recurrence.month_after(at, self.zone, tariff.month_day)
            free_s -= sum(c.free_s for wall, c in self._spent if c.tariff == tariff.name and start <= wall < end)
        return Billed(tariff, self.zone, max(0.0, free_s), self.trusted)

    def affordable(self, tariff: Tariff, what: Estimate, at: float, *, reserve: bool) -> bool:
        """Whether such a call may be made at that moment."""
        left, whole = self.left(at, reserve=reserve), self.whole(reserve=reserve)
        if left is None or whole is None:
            return True
        if what.least(self.billed(tariff, at), at) > left:
            return False
        return min(what.price(tariff, self, at), whole) <= left

    def first_affordable(
        self, ways: Sequence[tuple[Tariff | None, Estimate]], at: float, *, reserve: bool
    ) -> tuple[float | None, str]:
        """The first moment from `at` on at which a call over one of these ways is affordable, and, where that is not
        `at`, why in words; None: it never is. A way without a tariff is free."""
        priced = [(tariff, what) for tariff, what in ways if tariff is not None]
        if len(priced) < len(ways) or not priced or not self.limited:
            return at, ""
        moment, last = at, at + LOOK_DAYS * 86400
        while moment <= last:
            if any(self.affordable(tariff, what, moment, reserve=reserve) for tariff, what in priced):
                return moment, "" if moment == at else self._why(priced, at, reserve=reserve)
            moment = min(
                recurrence.day_after(moment, self.zone),
                *(max(border_after(t, self.zone, moment), moment + LOOK_STEP_S) for t, _ in priced if t.periods),
            )
        return None, f"{self._why(priced, at, reserve=reserve)}, and no day or month has enough"

    def _why(self, priced: Sequence[tuple[Tariff, Estimate]], at: float, *, reserve: bool) -> str:
        cheapest, tariff = min(
            ((what.price(tariff, self, at), tariff) for tariff, what in priced), key=lambda pair: pair[0]
        )
        currency, budget = tariff.currency, self.budget
        spent = []
        if budget.per_day is not None:
            spent.append(f"{self.spent_on_day(at):f} of {budget.per_day:f} {currency} of the day")
        if budget.per_month is not None:
            kept = (
                f" ({budget.urgent_reserve:f} kept for urgent calls)" if budget.urgent_reserve and not reserve else ""
            )
            spent.append(f"{self.spent_in_month(at):f} of {budget.per_month:f} {currency} of the month{kept}")
        return f"budget: a call would cost about {cheapest:f} {currency}; spent {' and '.join(spent)}"

    def _sum(self, start: float, end: float) -> Decimal:
        return sum((charge.cost for wall, charge in self._spent if start <= wall < end), Decimal(0))
