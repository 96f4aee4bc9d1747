"""What a person reads, and the exit code that goes with it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from appliance.terminal import sentences

EXIT_CODES = {
    "not-registered": 1, "offline": 3, "suspended": 3, "lost": 3, "expired": 3, "forbidden": 1, "no-service": 1,
    "rejected": 1, "timeout": 3, "cancelled": 3, "line-budget": 3, "loop": 3, "no-circuit": 3, "duplicate-id": 3,
    "too-many": 3, "certificate-changed": 1, "something-new": 3,
}  # fmt: skip
"""RELAY §5's reasons by DESIGN §6."""


@pytest.mark.parametrize(("reason", "code"), EXIT_CODES.items())
def test_every_reason_has_its_code_and_its_sentence(reason: str, code: int) -> None:
    assert sentences.code_of(reason) == code
    text = sentences.refusal("pc21", "ssh", {"reason": reason})
    assert "pc21" in text or reason in ("cancelled", "duplicate-id", "too-many")
    assert "{" not in text


@pytest.mark.parametrize(("said", "text"), [
    ({"reason": "offline", "presence": "offline"}, "pc21 is offline: it is not logged in"),
    ({"reason": "offline", "presence": "offline", "text": "its ssh does not answer"},
     "pc21 is offline: its ssh does not answer"),
    ({"reason": "no-relay", "text": "10.0.0.1:7400: Connection refused"},
     "no login at the relay server just now: 10.0.0.1:7400: Connection refused"),
    ({"reason": "no-service"}, "pc21 offers no service ssh"),
    ({"reason": "timeout", "presence": "online"}, "pc21 did not answer"),
    ({"reason": "no-circuit", "presence": "lost"},
     "pc21 accepted, but the circuit to it was not made in time (it is lost)"),
    ({"reason": "rejected", "text": "at lunch\x1b[2J"}, "pc21 rejected the call; it says: at lunch�[2J"),
    ({"reason": "new\x07"}, "pc21 can't be reached: new�"),
    ({}, "pc21 can't be reached: ?"),
    ({"reason": "offline", "back_in": "soon", "presence": 7}, "pc21 is offline: it is not logged in"),
    ({"reason": "offline", "back_in": -1}, "pc21 is offline: it is not logged in"),
    ({"reason": "offline", "back_in": 1e300}, "pc21 is offline: it is not logged in"),
])  # fmt: skip
def test_a_refusal(said: dict[str, Any], text: str) -> None:
    assert sentences.refusal("pc21", "ssh", said) == text


def test_since_when() -> None:
    text = sentences.refusal("plc1", "modbus", {"reason": "offline", "text": "its modbus does not answer", "age": 300})
    assert re.fullmatch(r"plc1 is offline: its modbus does not answer, since (\w+ \d+ \w+ )?\d\d:\d\d", text)


def test_when_there_is_more_budget() -> None:
    text = sentences.refusal("pc21", "ssh", {"reason": "line-budget", "presence": "suspended", "back_in": 3600})
    form = r"the line to pc21 has no budget left \(it is suspended\); more in 1 h \(at (\w+ \d+ \w+ )?\d\d:\d\d\)"
    assert re.fullmatch(form, text)


def test_when_it_will_be_back() -> None:
    text = sentences.refusal("pc21", "ssh", {"reason": "suspended", "presence": "suspended", "back_in": 7500})
    form = (
        r"pc21 is suspended: a line on the way to it is down by plan; back in 2 h 5 min \(at (\w+ \d+ \w+ )?\d\d:\d\d\)"
    )
    assert re.fullmatch(form, text)
    assert re.fullmatch(form + "; waiting up to 1 h", sentences.waiting("pc21", "ssh", {
        "reason": "suspended", "presence": "suspended", "back_in": 7500, "wait": 3600,
    }))  # fmt: skip


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (86400 * 3 + 7200 + 5, "3 d 2 h"),
])  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert sentences.span(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (123_456_789, "123 MB"), (5 * 10**12, "5000 GB")]
)
def test_sizes(n: int, text: str) -> None:
    assert sentences.size(n) == text


@pytest.mark.parametrize(("entry", "row"), [
    ({"name": "pc21", "presence": "online", "relay": "b", "path": ["b", "a"], "age": 65, "services": ["ssh", "vnc"], "back_in": None},
     ("pc21", "online", "b (1 away)", "1 min 5 s", "ssh, vnc")),
    ({"name": "pc21", "presence": None}, ("pc21", "gone", "", "", "")),
    ({"name": "\x1b]0;", "presence": 5, "relay": {}, "path": 7, "age": "x", "services": 9, "back_in": []},
     ("�]0;", "5", "", "", "")),
    ({}, ("?", "gone", "", "", "")),
])  # fmt: skip
def test_rows(entry: dict[str, Any], row: tuple[str, ...]) -> None:
    assert sentences.row(entry) == row
