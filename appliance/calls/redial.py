"""How often a number may be dialled that did not answer: a country's technical conditions for terminal
equipment, which hold on top of a line's `attempts` and `redial_wait`. Pure.

The dials come from the ledger, where each one is written before ATD: so a restart forgets none. A dial that
connected ends the row: what follows it is no redial.

- "jp": at most two redials within three minutes (Article 11 (iii) of the Ordinance Concerning Terminal Facilities,
  端末設備等規則).
- "us": two dials, or fifteen while each met BUSY; then an hour's pause (47 CFR 68.318(b)(1); a dialler controlled by a
  computer is exempt, and keeps to it here all the same).
- "eu": 5 s between two dials, and after fifteen two hours' pause: the strictest of what the makers of modems list for
  most of Europe (MultiTech's appendix on V.25bis: Italy's list forgets after 120 minutes).

The other way that Japan's article leaves, at most 15 redials in all, would end in silence for good, so it is not
taken. Silence of `PAUSE_S` ends a row: it is the pause that the rule asks for.

A modem has rules of its own, and says DELAYED or BLACKLISTED to a number that it will not dial. Asking again at once
makes some of them count on, and one that has counted far enough refuses every number until its power is cycled. So
such a number is left alone for a while (`modem_wait_s`); a person who dials by hand has perhaps cycled the power, and
passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.clock import Mark

__all__ = ["CONNECTED", "UNKNOWN", "Dial", "forget", "modem_wait_s", "wait_s"]

CONNECTED: Final = "connected"
UNKNOWN: Final = ""

JP_DIALS: Final = 3
"""A first dial and two redials."""
JP_SPAN_S: Final = 180.0
JP_MARGIN_S: Final = 2.0
"""On top: the moment that the ledger has and the one at which the modem acts differ by a flush and a command."""
MARGIN_S: Final = 1.0
"""As Japan's, for pauses that need no more."""
PAUSE_S: Final = {"us": 3600.0, "eu": 7200.0}
US_DIALS: Final = 2
US_BUSY_DIALS: Final = 15
"""A first dial and 14 others, where each that went before was answered by a busy or reorder signal."""
EU_DIALS: Final = 15
EU_GAP_S: Final = 5.0
MODEM_HOLDS_S: Final = {"delayed": 60.0, "blacklisted": 3600.0}
"""How long a number is left alone that the modem refused. DELAYED: Rockwell's and Conexant's minute. BLACKLISTED: the
hour after which most countries' lists forget (MultiTech's appendix on V.25bis)."""
KEPT_PER_NUMBER: Final = 16
"""Dials of one number that are remembered: one more than the longest rule counts."""
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
    `dials` in the order in which they were made, of all numbers."""
    row = _row(number, dials)
    wait, rule = 0.0, ""
    if row and country == "jp":
        wait, rule = _jp(row, now), "country jp allows two redials within three minutes"
    elif row and country == "us":
        wait, rule = _us(row, now), "country us allows two dials, fifteen while it is busy, then an hour's pause"
    elif row and country == "eu":
        wait, rule = _eu(row, now), "country eu allows fifteen dials at least 5 s apart, then two hours' pause"
    return (wait, rule) if wait > 0 else (0.0, "")


def modem_wait_s(number: str, dials: Iterable[Dial], now: Mark) -> tuple[float, str]:
    """As `wait_s`, for what the modem itself said to the last dial of `number`."""
    row = _row(number, dials)
    hold = MODEM_HOLDS_S.get(row[-1].result, 0.0) if row else 0.0
    left = hold - row[-1].at.seconds_until(now) if hold else 0.0
    return (left, f"the modem itself refuses it ({row[-1].result})") if left > 0 else (0.0, "")


def _jp(row: Sequence[Dial], now: Mark) -> float:
    """Any span of three minutes is looked at, not only one that begins with a row's first dial: stricter than the
    ordinance where the two differ."""
    if len(row) < JP_DIALS:
        return 0.0
    return JP_SPAN_S + JP_MARGIN_S - row[-JP_DIALS].at.seconds_until(now)


def _us(row: Sequence[Dial], now: Mark) -> float:
    row = _since_pause(row, "us")
    limit = US_BUSY_DIALS if all(dial.result == "busy" for dial in row) else US_DIALS
    return PAUSE_S["us"] + MARGIN_S - row[-1].at.seconds_until(now) if len(row) >= limit else 0.0


def _eu(row: Sequence[Dial], now: Mark) -> float:
    row = _since_pause(row, "eu")
    pause = PAUSE_S["eu"] + MARGIN_S if len(row) >= EU_DIALS else EU_GAP_S
    return pause - row[-1].at.seconds_until(now)


def _since_pause(row: Sequence[Dial], country: str) -> Sequence[Dial]:
    """The dials since the last pause that ends a row."""
    for i in range(len(row) - 1, 0, -1):
        if row[i - 1].at.seconds_until(row[i].at) >= PAUSE_S[country]:
            return row[i:]
    return row


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
