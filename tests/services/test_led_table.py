"""The table of the LEDs: which state shows what, what the kernel is told, and that docs/leds.md says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.call import LineState, Outcome
from appliance.host import led_table as t
from appliance.host.led_table import FAULTS, LEDS, TABLE, Pattern, State, board_leds, shown, writes

NAMES = {led: f"board:{led}" for led in LEDS}
ALL = ("none", "timer", "netdev", "pattern")

STATES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("idle", {}, {"power": "on", "line": "off", "mail": "off", "fault": "off"}),
    ("ended", {"ended": True}, {"power": "off", "line": "off", "mail": "off", "fault": "off"}),
    ("updating", {"updating": True}, {"power": "fast"}),
    ("pressed", {"held_s": 0.0}, {"power": "off"}),
    ("held on", {"held_s": 1.0}, {"power": "slow"}),
    ("held for a reset, while updating", {"held_s": 5.0, "updating": True}, {"power": "fast"}),
    *((str(s), {"line": s}, {"line": "fast"}) for s in (LineState.DIALLING, LineState.NEGOTIATING, LineState.HANGING_UP)),
    ("exchanging", {"line": LineState.EXCHANGING, "waiting": True}, {"line": "traffic", "mail": "fast"}),
    ("lingering", {"line": LineState.LINGERING, "waiting": True}, {"line": "traffic", "mail": "on"}),
    ("busy number", {"line": LineState.FAILED, "last": Outcome.BUSY, "waiting": True},
     {"line": "slow", "mail": "on", "fault": "off"}),
    ("no money", {"no_money": True, "line": LineState.FAILED}, {"line": "flash"}),
    ("modem silent", {"line": LineState.FAILED, "last": Outcome.MODEM_SILENT}, {"line": "slow", "fault": "2 blinks"}),
    ("modem error", {"line": LineState.FAILED, "last": Outcome.MODEM_ERROR}, {"fault": "2 blinks"}),
    ("no dial tone", {"line": LineState.FAILED, "last": Outcome.NO_DIALTONE}, {"fault": "3 blinks"}),
    ("no network", {"line": LineState.FAILED, "last": Outcome.NO_NETWORK}, {"fault": "3 blinks"}),
    ("PIN", {"line": LineState.FAILED, "last": Outcome.PIN_REFUSED}, {"fault": "4 blinks"}),
    ("login", {"line": LineState.FAILED, "last": Outcome.LOGIN_REFUSED}, {"fault": "5 blinks"}),
    ("dialling again after a failure", {"line": LineState.DIALLING, "last": Outcome.LOGIN_REFUSED}, {"fault": "off"}),
    ("configuration", {"refused": True}, {"fault": "6 blinks"}),
    ("service", {"failing": True}, {"fault": "7 blinks"}),
    ("disk before all", {"disk": True, "failing": True, "refused": True}, {"fault": "1 blink"}),
]  # fmt: skip


@pytest.mark.parametrize(("state", "expected"), [s[1:] for s in STATES], ids=[s[0] for s in STATES])
def test_what_is_shown(state: dict[str, Any], expected: dict[str, str]) -> None:
    rows = shown(NAMES, State(**state))
    assert {led: rows[f"board:{led}"].pattern.name for led in expected} == expected


def test_every_row_is_shown_by_some_state() -> None:
    seen = {row.when for _, state, _ in STATES for row in shown(NAMES, State(**state)).values()}
    assert [row.when for row in TABLE if row.when not in seen] == []


def test_two_on_one_led() -> None:
    names = board_leds("APU2")
    assert names == board_leds("apu4")
    assert shown(names, State())["apu:green:1"].pattern.name == "on"
    assert shown(names, State(failing=True))["apu:green:1"].pattern.name == "7 blinks"
    assert shown(names, State(failing=True, held_s=5.0))["apu:green:1"].pattern.name == "fast"
    assert shown(names, State(updating=True, waiting=True))["apu:green:3"].pattern.name == "on"
    assert board_leds("") == board_leds("Standard PC") == {}
    assert shown({"power": "", "line": "x"}, State()).keys() == {"x"}


WRITES: list[tuple[Pattern, str, list[tuple[str, str]]]] = [
    (t.ON, "", [("trigger", "none"), ("brightness", "255")]),
    (t.OFF, "", [("trigger", "none"), ("brightness", "0")]),
    (t.SLOW, "", [("trigger", "timer"), ("delay_on", "1000"), ("delay_off", "1000")]),
    (t.TRAFFIC, "ppp7", [("trigger", "netdev"), ("device_name", "ppp7"), ("link", "1"), ("rx", "1"), ("tx", "1")]),
    (t.TRAFFIC, "", [("trigger", "none"), ("brightness", "255")]),
    (FAULTS[1].pattern, "", [("trigger", "pattern"),
                             ("pattern", "255 200 255 0 0 300 0 0 255 200 255 0 0 300 0 0 0 1500 0 0")]),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "device", "expected"), WRITES, ids=[f"{p.name} {d}" for p, d, _ in WRITES])
def test_what_the_kernel_is_told(pattern: Pattern, device: str, expected: list[tuple[str, str]]) -> None:
    assert writes(pattern, brightest=255, triggers=ALL, device=device) == expected


@pytest.mark.parametrize("pattern", list(dict.fromkeys(row.pattern for row in TABLE)), ids=lambda p: p.name)
def test_without_triggers_it_is_steady(pattern: Pattern) -> None:
    brightness = "0" if pattern.name == "off" else "1"
    assert writes(pattern, brightest=1, triggers=["none"], device="ppp7") == [
        ("trigger", "none"), ("brightness", brightness)
    ]  # fmt: skip


def test_the_documentation_is_the_table() -> None:
    """A row that is missing or wrong is shown as it should be."""
    lines = (Path(__file__).parents[2] / "docs/leds.md").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("<!-- table:"))
    assert lines[start + 1 : start + 3] == ["| LED | pattern | when |", "|---|---|---|"]
    want = [f"| {row.led} | {row.pattern.name} | {row.when} |" for row in TABLE]
    assert lines[start + 3 : start + 3 + len(want) + 1] == [*want, ""]
