"""How often a number may be dialled: the countries' rules by tables and by properties, and what a modem refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.calls import redial
from appliance.calls.redial import CONNECTED, Dial
from appliance.clock import Mark

NUMBER, OTHER = "0570000111", "0570000222"
HOUR = 3600.0


def mark(second: float) -> Mark:
    return Mark(1_800_000_000 + second, 1000 + second, "boot-1")


def dials(*rows: tuple[float, str], number: str = NUMBER) -> list[Dial]:
    return [Dial(number, mark(at), result) for at, result in rows]


def every(n: int, gap: float, result: str = "busy") -> list[Dial]:
    return dials(*((i * gap, result) for i in range(n)))


@pytest.mark.parametrize(
    ("country", "made", "now", "wait"),
    [
        ("us", [], 0, 0),
        ("us", every(1, 60, "no-answer"), 60, 0),
        ("us", every(2, 60, "no-answer"), 120, HOUR + 1 - 60),
        ("us", every(2, 60, "busy"), 120, 0),
        ("us", [*every(2, 60, "busy"), *dials((120, "no-answer"))], 130, HOUR + 1 - 10),  # no longer all busy
        ("us", every(14, 60), 14 * 60, 0),
        ("us", every(15, 60), 15 * 60, HOUR + 1 - 60),
        ("us", every(15, 60), 14 * 60 + HOUR + 1, 0),
        ("us", [*every(15, 60), *dials((14 * 60 + HOUR, "busy"))], 14 * 60 + HOUR + 10, 0),  # a new row
        ("us", dials((0, "no-answer"), (1, CONNECTED), (2, "no-answer")), 3, 0),
        ("us", dials((0, ""), (1, "")), 2, HOUR + 1 - 1),  # a crash came before the result: not known to be busy
        ("eu", [], 0, 0),
        ("eu", every(1, 60, "no-answer"), 3, 2),
        ("eu", every(1, 60, "no-answer"), 5, 0),
        ("eu", every(14, 60, "no-answer"), 14 * 60, 0),
        ("eu", every(15, 60, "no-answer"), 15 * 60, 2 * HOUR + 1 - 60),
        ("eu", every(15, 60, "no-answer"), 14 * 60 + 2 * HOUR + 1, 0),
        ("eu", every(15, 2 * HOUR, "no-answer"), 14 * 2 * HOUR + 6, 0),  # each pause ended its row
        ("", every(200, 1), 200, 0),
    ],
)
def test_a_countrys_rule(country: str, made: list[Dial], now: float, wait: float) -> None:
    left, rule = redial.wait_s(country, NUMBER, made, mark(now))
    assert left == pytest.approx(wait, abs=0.01)
    assert (f"country {country}" in rule) == bool(wait)
    assert redial.wait_s(country, OTHER, made, mark(now)) == (0.0, "")


@pytest.mark.parametrize(
    ("result", "wait"), [("delayed", 60.0), ("blacklisted", HOUR), ("busy", 0.0), ("", 0.0), (CONNECTED, 0.0)]
)
def test_a_number_that_the_modem_refuses_is_left_alone(result: str, wait: float) -> None:
    made = dials((0, "busy"), (10, result))
    left, rule = redial.modem_wait_s(NUMBER, made, mark(20))
    assert left == max(0.0, wait - 10)
    assert (result in rule and "the modem itself" in rule) == bool(left)
    assert redial.modem_wait_s(NUMBER, made, mark(10 + wait)) == (0.0, "")
    assert redial.modem_wait_s(OTHER, made, mark(20)) == (0.0, "")


RESULTS = st.sampled_from(["busy", "no-answer", "no-carrier", "timeout", "", CONNECTED])


@given(
    country=st.sampled_from(["jp", "us", "eu"]),
    tries=st.lists(st.tuples(st.floats(0.5, 4000), RESULTS), max_size=120),
)
def test_whoever_obeys_keeps_the_rule(country: str, tries: list[tuple[float, str]]) -> None:
    """A dialler that waits as long as it is told, over restarts that keep only what `forget` keeps: the rule, told
    anew from its text, holds over all dials that it makes; and no wait is for ever."""
    now, made, kept = 0.0, list[Dial](), list[Dial]()
    for pause, result in tries:
        now += pause
        wait, _ = redial.wait_s(country, NUMBER, kept, mark(now))
        assert wait <= 2 * HOUR + 1
        now += wait
        assert redial.wait_s(country, NUMBER, kept, mark(now + 0.001))[0] == 0
        now += 0.001
        dial = Dial(NUMBER, mark(now), result)
        made.append(dial)
        kept = redial.forget([*kept, dial])
    at = [d.at.boot for d in made]
    open_ended = [i for i, d in enumerate(made) if d.result == CONNECTED]
    for i in range(len(made)):
        row = [j for j in range(i + 1) if not any(j <= c < i for c in open_ended)]
        if country == "jp" and len(row) >= 4:
            assert at[i] - at[row[-4]] > 180
        if country == "eu" and len(row) >= 2:
            assert at[i] - at[row[-2]] >= 5
        if country == "eu" and len(row) >= 16:
            assert max(at[b] - at[a] for a, b in zip(row[-16:], row[-15:], strict=False)) >= 2 * HOUR
        if country == "us" and len(row) >= 3:
            gaps = [at[b] - at[a] for a, b in zip(row[-3:], row[-2:], strict=False)]
            busy = all(made[j].result == "busy" for j in row[-3:-1])
            assert busy or max(gaps) >= HOUR
        if country == "us" and len(row) >= 16:
            assert max(at[b] - at[a] for a, b in zip(row[-16:], row[-15:], strict=False)) >= HOUR


@pytest.mark.parametrize("country", ["us", "eu"])
def test_what_is_forgotten_changes_no_answer(country: str) -> None:
    made = [*every(40, 7200 * 2), *dials(*((40 * 14400 + 30 * i, "busy") for i in range(15)))]
    now = mark(40 * 14400 + 15 * 30)
    assert redial.wait_s(country, NUMBER, redial.forget(made), now) == redial.wait_s(country, NUMBER, made, now)
