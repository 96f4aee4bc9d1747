"""How often a number may be dialled that did not answer: a country's technical conditions for terminal
equipment, which hold on top of a line's `attempts` and `redial_wait`. Pure.

The dials come from the ledger, where each one is written before ATD: so a restart forgets none. A dial that
connected ends the row: what follows it is no redial.

Country "jp": at most two automatic redials within three minutes of the first dial (Article 11 (iii) of the
Ordinance Concerning Terminal Facilities, 端末設備等規則). The other way that the article leaves, at most 15
redials in all, would end in silence for good, so it is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.clock import Mark

__all__ = ["CONNECTED", "UNKNOWN", "Dial", "forget", "wait_s"]

CONNECTED: Final = "connected"
UNKNOWN: Final = ""

JP_DIALS: Final = 3
"""A first dial and two redials."""
JP_SPAN_S: Final = 180.0
JP_MARGIN_S: Final = 2.0
"""On top: the moment that the ledger has and the one at which the modem acts differ by a flush and a command."""
KEPT_PER_NUMBER: Final = 16
"""Dials of one number that are remembered: a first one and the 15 redials that the longest rule counts."""
KEPT_IN_ALL: Final = 256
"""Over all numbers, so that a changed configuration's old numbers do not stay for ever."""


@dataclass(frozen=True, slots=True)
class Dial:
    """One ATD: when, and its result: `CONNECTED`, the value of an `Outcome`, or `UNKNOWN` where a crash came first."""

    number: str
    at: Mark
    result: str = UNKNOWN


def wait_s(country: str, number: str, dials: Iterable[Dial], now: Mark) -> tuple[float, str]:
    """For how many seconds yet `number` may not be dialled, and the rule that says so in words; (0, "") when it may.

    `dials` in the order in which they were made, of all numbers. Any span of three minutes is looked at, not
    only one that begins with a row's first dial: stricter than the ordinance where the two differ.
    """
    if country != "jp":
        return 0.0, ""
    row = _row(number, dials)
    if len(row) < JP_DIALS:
        return 0.0, ""
    left = JP_SPAN_S + JP_MARGIN_S - row[-JP_DIALS].at.seconds_until(now)
    if left <= 0:
        return 0.0, ""
    return left, "country jp allows two redials within three minutes"


def forget(dials: Sequence[Dial]) -> list[Dial]:
    """`dials` without those that no rule asks for any more."""
    kept: list[Dial] = []
    for number in dict.fromkeys(d.number for d in dials):
        kept += _row(number, dials)[-KEPT_PER_NUMBER:]
    order = {id(d): i for i, d in enumerate(dials)}
    return sorted(kept, key=lambda d: order[id(d)])[-KEPT_IN_ALL:]


def _row(number: str, dials: Iterable[Dial]) -> list[Dial]:
    """The dials to `number` since it last connected."""
    row: list[Dial] = []
    for dial in dials:
        if dial.number == number:
            row = [] if dial.result == CONNECTED else [*row, dial]
    return row
