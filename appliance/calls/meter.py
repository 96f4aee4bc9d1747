"""The money of one call: what was reserved for it, what it costs so far, for how long it may go on. Owned by its
`Cycle`; knows tariffs and moments, neither line nor ledger.

What was left of the budget when the call began is all that it may cost, whatever day it reaches into. Dials that may
have been billed (`tariff.may_cost`) count as well, by their whole length from ATD on: nobody knows when they were
answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from appliance.calls.entry import FREE, Charge
from appliance.calls.tariff import affordable_s, may_cost, paid_until_s, price

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.call import Outcome
    from appliance.calls.budget import Estimate
    from appliance.calls.tariff import Billed
    from appliance.clock import Mark

__all__ = ["A_MOMENT_S", "Meter", "Metering"]

LEAST_LINGER_S: Final = 0.05
"""Work that is already there is found by jobs that have just begun to wait for it."""
A_MOMENT_S: Final = 0.001
"""Past the end of a unit the next one has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What a call may cost. `billed`, by the line's name: its tariff; a line that is free is not in it. `left`: money,
    None for no limit. `estimates` by the line's name."""

    billed: Mapping[str, Billed]
    estimates: Mapping[str, Estimate]
    left: Decimal | None = None


class Meter:
    """One per call. `volume()`: the call's bytes so far, both ways together."""

    def __init__(self, metering: Metering, volume: Callable[[], int]) -> None:
        self._metering = metering
        self._volume = volume
        self._dialled: Charge = FREE
        self._line = ""
        self._connected: Mark | None = None
        self._looked_at = 0

    # ---- before and after a dial
    def refuses(self, line: str, at: Mark) -> str:
        """Why not even the shortest call over this line that is good for its purpose may be made; "" when one may."""
        left, billed = self._left(), self._metering.billed.get(line)
        if left is None or billed is None:
            return ""
        needed = self._metering.estimates[line].least(billed, at.wall)
        if needed <= left:
            return ""
        return f"the budget has {left:f} {billed.tariff.currency} left; this call costs at least {needed:f}"

    def before_dial(self, line: str, at: Mark) -> tuple[Charge, Decimal]:
        """What the call costs should nothing more be heard of it, and what is reserved for it."""
        self._line, self._connected = line, None
        billed = self._metering.billed.get(line)
        if billed is None:
            if not self._dialled.cost:
                self._dialled = FREE  # what a line before it has not cost is nothing in no money
            return self._dialled, Decimal(0)
        what, left = self._metering.estimates[line], self._left()
        expected = price(billed, at.wall, what.seconds, what.volume).cost
        reserved = expected if left is None else min(expected, left)
        return self._add(billed, at, 0.0, 0), self._dialled.cost + reserved

    def after_dial(self, outcome: Outcome | None, dialled: Mark, now: Mark) -> Charge:
        """Of a dial that did not connect; None: it was given up before it had an outcome."""
        billed = self._billed
        if billed is not None and (outcome is None or may_cost(outcome)):
            self._dialled = self._add(billed, dialled, dialled.seconds_until(now), 0)
        elif billed is not None and not self._dialled.tariff:  # nothing, and that in money: the line is not free
            self._dialled = Charge(currency=billed.tariff.currency, tariff=billed.tariff.name)
        return self._dialled

    # ---- while it is up
    def connected(self, at: Mark) -> None:
        self._connected = at

    def so_far(self, now: Mark) -> Charge:
        """If it ended now."""
        billed = self._billed
        if billed is None or self._connected is None:
            return self._dialled
        return self._add(billed, self._connected, self._connected.seconds_until(now), self._volume())

    def if_cut(self, now: Mark) -> Charge:
        """If nothing more were heard of it: a unit more than so far."""
        billed, connected = self._billed, self._connected
        if billed is None or connected is None:
            return self._dialled
        seconds, volume = connected.seconds_until(now), self._volume()
        if billed.tariff.periods:
            seconds = paid_until_s(billed, connected.wall, seconds) + A_MOMENT_S
        if billed.tariff.volume_unit_bytes:
            volume += billed.tariff.volume_unit_bytes
        return self._add(billed, connected, seconds, volume)

    def lasts_s(self, now: Mark) -> float:
        """For how long yet the money lasts, less the time that hanging up takes; `inf` without a limit."""
        billed, left = self._billed, self._left()
        if billed is None or left is None or self._connected is None:
            return math.inf
        until = affordable_s(billed, self._connected.wall, left, self._volume()) - billed.tariff.hangup_margin_s
        return max(0.0, until - self._connected.seconds_until(now))

    def has_for(self, seconds: float, volume: int, now: Mark) -> bool:
        """Whether the money lasts for so many seconds and bytes more, and for hanging up after them."""
        billed, left = self._billed, self._left()
        if billed is None or left is None or self._connected is None:
            return True
        seconds += self._connected.seconds_until(now) + billed.tariff.hangup_margin_s
        return price(billed, self._connected.wall, seconds, self._volume() + volume).cost <= left

    def by_volume(self) -> bool:
        """Whether the line costs something by what it carries, and there is a limit."""
        billed = self._billed
        return billed is not None and bool(billed.tariff.volume_unit_bytes) and self._metering.left is not None

    def used_up(self, now: Mark) -> bool:
        """Whether what the line carries before it is asked again, and while it is hung up, may cost more than is
        left."""
        billed, left = self._billed, self._left()
        if billed is None or left is None or self._connected is None or not billed.tariff.volume_unit_bytes:
            return False
        seconds, volume = self._connected.seconds_until(now), self._volume()
        ahead, self._looked_at = 2 * (volume - self._looked_at) + 1, volume
        return price(billed, self._connected.wall, seconds, volume + ahead).cost > left

    def by_time(self) -> bool:
        """Whether the line costs something by its time."""
        return self._billed is not None and bool(self._billed.tariff.periods)

    def paid_s(self, now: Mark) -> float | None:
        """For how long yet the unit that has started is paid, less the time that hanging up takes; None where units are
        not to be filled and left (`fill_unit`), or time costs nothing."""
        billed, connected = self._billed, self._connected
        if billed is None or connected is None or not billed.tariff.periods or not billed.tariff.fill_unit:
            return None
        seconds = connected.seconds_until(now)
        until = paid_until_s(billed, connected.wall, seconds)
        return max(0.0, until - seconds - billed.tariff.hangup_margin_s)

    def linger_s(self, linger_s: float, now: Mark) -> float:
        """For how long a call stays on that has nothing left to do: no new unit is begun for that."""
        paid_s = self.paid_s(now)
        return max(LEAST_LINGER_S, linger_s if paid_s is None else min(linger_s, paid_s))

    # ---- inside
    @property
    def _billed(self) -> Billed | None:
        return self._metering.billed.get(self._line)

    def _left(self) -> Decimal | None:
        left = self._metering.left
        return None if left is None else max(Decimal(0), left - self._dialled.cost)

    def _add(self, billed: Billed, connect: Mark, seconds: float, volume: int) -> Charge:
        """To what the dials have cost. What was paid in another currency can't be added, and is left out."""
        tariff, before = billed.tariff, self._dialled
        if before.currency not in ("", tariff.currency):
            before = FREE
        one = price(billed, connect.wall, seconds, volume)
        return Charge(
            before.units + one.units, before.cost + one.cost, tariff.currency, tariff.name, before.free_s + one.free_s
        )
