"""The state in one line, as systemd gets it: `status_line` by a table, and the part by a real socket in test_app."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.app.status_line import status_line

IDLE = {
    "name": "pstn", "state": "idle", "reason": None, "number": None, "since": "2026-01-05T07:00:00Z",
    "next_call": None, "next_call_reason": "nothing waits",
}  # fmt: skip
UP = {
    **IDLE,
    "state": "exchanging",
    "reason": "urgent",
    "number": "0570000111",
    "next_call_reason": "a call is under way",
}


@pytest.mark.parametrize(
    ("line", "messages", "said"),
    [
        (IDLE, 0, "no call planned (nothing waits); nothing waits"),
        (
            {**IDLE, "next_call": "2026-01-05T08:30:00Z", "next_call_reason": "at 17:30"},
            1,
            "next call 2026-01-05 17:30 (at 17:30); 1 message waits",
        ),
        (
            {
                **IDLE,
                "state": "failed",
                "reason": "at",
                "next_call": "2026-01-05T08:30:00Z",
                "next_call_reason": "retry",
            },
            3,
            "the last call failed; next call 2026-01-05 17:30 (retry); 3 messages wait",
        ),
        (UP, 3, "pstn exchanging 0570000111 (urgent); 3 messages wait"),
        ({**UP, "state": "hanging-up", "reason": None, "number": None}, 0, "pstn hanging-up (no call); nothing waits"),
        ({**UP, "number": "1\x1b[2J\n2"}, 0, "pstn exchanging 1\ufffd[2J\ufffd2 (urgent); nothing waits"),
    ],
)
def test_the_state_in_one_line(line: dict[str, Any], messages: int, said: str) -> None:
    assert status_line(line, messages, ZoneInfo("Asia/Tokyo")) == said
