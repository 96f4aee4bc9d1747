"""Local times and windows, over the changes of summer time of several zones."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.calls.recurrence import instant, last_at, next_at, next_open
from appliance.config.model import Window


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(sep=" ", timespec="minutes")[:16]


@pytest.mark.parametrize(
    ("zone", "day", "at", "expected"),
    [
        ("UTC", "2026-03-29", "07:30", "2026-03-29 07:30"),
        ("Asia/Tokyo", "2026-03-29", "07:30", "2026-03-28 22:30"),
        ("Europe/Berlin", "2026-03-29", "01:59", "2026-03-29 00:59"),
        ("Europe/Berlin", "2026-03-29", "02:00", "2026-03-29 01:00"),  # skipped: right after the gap
        ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29 01:00"),
        ("Europe/Berlin", "2026-03-29", "02:59", "2026-03-29 01:00"),
        ("Europe/Berlin", "2026-03-29", "03:00", "2026-03-29 01:00"),
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25 00:30"),  # twice: the first
        ("Europe/Berlin", "2026-10-25", "03:00", "2026-10-25 02:00"),
        ("America/New_York", "2026-03-08", "02:30", "2026-03-08 07:00"),
        ("America/New_York", "2026-11-01", "01:30", "2026-11-01 05:30"),
        ("Australia/Lord_Howe", "2026-10-04", "02:10", "2026-10-03 15:30"),  # half an hour
        ("America/Sao_Paulo", "2018-11-04", "00:15", "2018-11-04 03:00"),  # at midnight
        ("Pacific/Apia", "2011-12-30", "12:00", "2011-12-30 10:00"),  # a whole day
    ],
)
def test_every_local_time_is_one_instant(zone: str, day: str, at: str, expected: str) -> None:
    assert shown(instant(date.fromisoformat(day), time.fromisoformat(at), ZoneInfo(zone))) == expected


@pytest.mark.parametrize(
    ("zone", "times", "after", "following", "before"),
    [
        ("UTC", "07:30 18:00", "2026-01-05 07:30", "2026-01-05 18:00", "2026-01-05 07:30"),
        ("UTC", "07:30 18:00", "2026-01-05 18:01", "2026-01-06 07:30", "2026-01-05 18:00"),
        ("UTC", "07:30", "2026-01-05 07:29", "2026-01-05 07:30", "2026-01-04 07:30"),
        ("Asia/Tokyo", "00:00", "2026-01-05 14:59", "2026-01-05 15:00", "2026-01-04 15:00"),
        ("Europe/Berlin", "02:30", "2026-03-28 12:00", "2026-03-29 01:00", "2026-03-28 01:30"),
        ("Europe/Berlin", "02:30", "2026-03-29 01:00", "2026-03-30 00:30", "2026-03-29 01:00"),
        ("Europe/Berlin", "02:30", "2026-10-25 00:30", "2026-10-26 01:30", "2026-10-25 00:30"),  # once
        ("Europe/Berlin", "02:30", "2026-10-25 01:30", "2026-10-26 01:30", "2026-10-25 00:30"),
        ("Pacific/Apia", "12:00", "2011-12-29 23:00", "2011-12-30 10:00", "2011-12-29 22:00"),
        ("Pacific/Apia", "12:00", "2011-12-30 10:00", "2011-12-30 22:00", "2011-12-30 10:00"),
        ("UTC", "", "2026-01-05 07:30", "", ""),
    ],
)
def test_next_and_last(zone: str, times: str, after: str, following: str, before: str) -> None:
    at = [time.fromisoformat(t) for t in times.split()]
    assert shown(next_at(at, ZoneInfo(zone), utc(after))) == following
    assert shown(last_at(at, ZoneInfo(zone), utc(after))) == before


WEEK = frozenset(range(5))
OFFICE = Window(WEEK, time(7), time(22))
SATURDAY_NIGHT = Window(frozenset({5}), time(22), time(2))


@pytest.mark.parametrize(
    ("zone", "windows", "moment", "opening"),
    [  # 2026-01-05 is a Monday
        ("UTC", [OFFICE], "2026-01-05 12:00", "2026-01-05 12:00"),
        ("UTC", [OFFICE], "2026-01-05 06:59", "2026-01-05 07:00"),
        ("UTC", [OFFICE], "2026-01-05 07:00", "2026-01-05 07:00"),
        ("UTC", [OFFICE], "2026-01-05 22:00", "2026-01-06 07:00"),
        ("UTC", [OFFICE], "2026-01-09 22:00", "2026-01-12 07:00"),
        ("UTC", [OFFICE, SATURDAY_NIGHT], "2026-01-09 22:00", "2026-01-10 22:00"),
        ("UTC", [SATURDAY_NIGHT], "2026-01-11 01:59", "2026-01-11 01:59"),  # Sunday, from Saturday
        ("UTC", [SATURDAY_NIGHT], "2026-01-11 02:00", "2026-01-17 22:00"),
        ("UTC", [Window(frozenset({0}), time(8), time(8))], "2026-01-06 07:59", "2026-01-06 07:59"),  # a whole day
        ("UTC", [Window(frozenset({0}), time(8), time(8))], "2026-01-06 08:00", "2026-01-12 08:00"),
        ("Asia/Tokyo", [OFFICE], "2026-01-04 21:59", "2026-01-04 22:00"),
        ("Europe/Berlin", [OFFICE], "2026-03-30 04:59", "2026-03-30 05:00"),
        # a window that lies in the gap whole opens a week later; half in it, right after
        ("Europe/Berlin", [Window(frozenset({6}), time(2), time(2, 30))], "2026-03-28 12:00", "2026-04-05 00:00"),
        ("Europe/Berlin", [Window(frozenset({6}), time(2), time(3, 30))], "2026-03-28 12:00", "2026-03-29 01:00"),
        ("UTC", [Window(frozenset(), time(2), time(3))], "2026-01-05 12:00", ""),
    ],
)
def test_windows(zone: str, windows: list[Window], moment: str, opening: str) -> None:
    assert shown(next_open(windows, ZoneInfo(zone), utc(moment))) == opening


ZONES = st.sampled_from(
    [
        "UTC",
        "Asia/Tokyo",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
    ]
).map(ZoneInfo)
MOMENTS = st.floats(utc("2011-12-01 00:00"), utc("2026-12-31 00:00"))
TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59))


@given(zone=ZONES, moment=MOMENTS, at=st.lists(TIMES, min_size=1, max_size=3))
def test_neighbours_have_nothing_between_them(zone: ZoneInfo, moment: float, at: list[time]) -> None:
    before, after = last_at(at, zone, moment), next_at(at, zone, moment)
    assert before is not None and after is not None
    assert before <= moment < after
    assert next_at(at, zone, before) == after
    assert last_at(at, zone, after) == after


@given(zone=ZONES, moment=MOMENTS, start=TIMES, end=TIMES, days=st.frozensets(st.integers(0, 6), min_size=1))
def test_an_opening_is_open(zone: ZoneInfo, moment: float, start: time, end: time, days: frozenset[int]) -> None:
    windows = [Window(days, start, end)]
    opening = next_open(windows, zone, moment)
    assert opening is not None and opening >= moment
    assert next_open(windows, zone, opening) == opening
