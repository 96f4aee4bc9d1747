"""When local times and windows come round, in a zone with summer time. Pure; instants are Unix seconds.

A local time that the clocks skip happens right after the gap; one that comes twice happens the first time
only. So every local time of every date is exactly one instant (`instant`), and all the rest is comparing.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from zoneinfo import ZoneInfo

    from appliance.config.model import Window

__all__ = ["day_after", "day_of", "instant", "last_at", "month_after", "month_of", "next_at", "next_open"]

MIDNIGHT: Final = time(0, 0)
WINDOW_DAYS: Final = 15
"""How far ahead an opening is looked for: a weekly window that falls into a gap whole opens a week later."""


@lru_cache(maxsize=512)
def instant(day: date, at: time, zone: ZoneInfo) -> float:
    """The one moment at which the local clock shows `at` on `day`."""
    first = datetime.combine(day, at, tzinfo=zone)
    before_gap = first.replace(fold=1).timestamp()
    plain = first.timestamp()
    if before_gap >= plain:  # an ordinary time, or the first of two (PEP 495)
        return plain
    # In a gap: the change of offset lies between the two readings of a time that does not exist.
    low, high = int(before_gap), int(plain)
    old = _offset(low, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle, zone) == old:
            low = middle
        else:
            high = middle
    return float(high)


def next_at(times: Iterable[time], zone: ZoneInfo, after: float) -> float | None:
    """The first occurrence of any of `times` later than `after`."""
    return min((t for t in _occurrences(tuple(times), zone, after) if t > after), default=None)


def last_at(times: Iterable[time], zone: ZoneInfo, until: float) -> float | None:
    """The last occurrence of any of `times` not later than `until`."""
    return max((t for t in _occurrences(tuple(times), zone, until) if t <= until), default=None)


def next_open(windows: Iterable[Window], zone: ZoneInfo, moment: float) -> float | None:
    """`moment` itself where a window is open then, else when the next one opens; None where none ever does."""
    today = _local_date(moment, zone)
    opening: float | None = None
    for window in windows:
        overnight = timedelta(days=1 if window.end <= window.start else 0)
        for day in _days(today, -2, WINDOW_DAYS):
            if day.weekday() not in window.days:
                continue
            start, end = instant(day, window.start, zone), instant(day + overnight, window.end, zone)
            if start <= moment < end:
                return moment
            if moment < start < end and (opening is None or start < opening):
                opening = start
    return opening


def day_of(moment: float, zone: ZoneInfo) -> float:
    """The local midnight before it."""
    return instant(_local_date(moment, zone), MIDNIGHT, zone)


def day_after(moment: float, zone: ZoneInfo) -> float:
    """The local midnight after it."""
    return instant(_local_date(moment, zone) + timedelta(days=1), MIDNIGHT, zone)


def month_of(moment: float, zone: ZoneInfo, day: int) -> float:
    """The beginning of the month that it falls into, where months begin on that `day`, 1 to 28."""
    return instant(_month(moment, zone, day), MIDNIGHT, zone)


def month_after(moment: float, zone: ZoneInfo, day: int) -> float:
    """The beginning of the month after it."""
    return instant((_month(moment, zone, day) + timedelta(days=31)).replace(day=day), MIDNIGHT, zone)


def _month(moment: float, zone: ZoneInfo, day: int) -> date:
    today = _local_date(moment, zone)
    return today.replace(day=day) if today.day >= day else (today.replace(day=1) - timedelta(days=1)).replace(day=day)


def _occurrences(times: tuple[time, ...], zone: ZoneInfo, around: float) -> Iterator[float]:
    """Those of the days about `around`: two days each way, since a zone may skip a whole one."""
    for day in _days(_local_date(around, zone), -2, 2):
        for at in times:
            yield instant(day, at, zone)


def _days(middle: date, first: int, last: int) -> Iterator[date]:
    for n in range(first, last + 1):
        yield middle + timedelta(days=n)


def _local_date(moment: float, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(moment, zone).date()


def _offset(moment: int, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()
