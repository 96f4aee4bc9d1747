"""Why a message still waits, as far as the line goes: in words, and as RFC 3463's status code."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from appliance.app.notices import delay_of
from appliance.call import NextCall, Outcome, Reason, Tally
from appliance.calls.entry import Entry
from appliance.clock import Mark
from appliance.mail.envelope import Envelope

TOKYO = ZoneInfo("Asia/Tokyo")
NOON = 1_767_614_400.0  # 2026-01-05 12:00 UTC
NOW = NOON + 86400


def mark(wall: float) -> Mark:
    return Mark(wall, wall - NOON + 1000, "boot")


def call(outcome: Outcome | None, *, at: float = NOW - 3600, connected: bool = False, sent: int = 0) -> Entry:
    return Entry(
        1, "pstn", Reason.URGENT, mark(at), connected=mark(at + 20) if connected else None,
        ended=mark(at + 60) if outcome else None, outcome=outcome, tally=Tally(sent=sent),
    )  # fmt: skip


def envelope() -> Envelope:
    came = mark(NOON)
    return Envelope("abc", "hanako@harbour.example", [], came.wall, boot=came.boot, boot_id=came.boot_id)


@pytest.mark.parametrize(
    ("last", "said", "status", "failing"),
    [
        (call(Outcome.BUSY), "failed: the number was busy.", "4.4.1", True),
        (call(Outcome.NO_ANSWER), "failed: nobody answered.", "4.4.1", True),
        (call(Outcome.MODEM_SILENT), "failed: the modem does not answer AT.", "4.4.1", True),
        (call(Outcome.CARRIER_LOST, connected=True), "failed: the line dropped.", "4.4.2", True),
        (call(Outcome.LOGIN_REFUSED, connected=True), "failed: the provider refused the login.", "4.7.0", True),
        (call(Outcome.PARTIAL, connected=True, sent=1), "was connected, but could not do everything.", "4.4.0", False),
        (call(Outcome.COMPLETE, connected=True), "did all that it had to do.", "4.4.0", False),
    ],
)
def test_how_the_last_call_ended(last: Entry, said: str, status: str, failing: bool) -> None:
    upcoming = NextCall(NOW + 3600, "at 22:00; windows: the next opens tue 22:00")
    delay = delay_of(envelope(), [call(Outcome.COMPLETE, at=NOON - 7200), last], upcoming, mark(NOW), TOKYO)
    assert delay.sentences[0].startswith(f"The last call, which began 2026-01-06 20:00, {said}")
    assert delay.sentences[1:] == (
        "The next call is planned for 2026-01-06 22:00 (at 22:00; windows: the next opens tue 22:00).",
    )
    assert (delay.status, delay.failing) == (status, failing)


@pytest.mark.parametrize("calls", [[], [call(Outcome.BUSY, at=NOON - 3600)], [call(None)]])
def test_no_call_since_it_came(calls: list[Entry]) -> None:
    upcoming = NextCall(None, "budget: 0 of 100 JPY is left")
    delay = delay_of(envelope(), calls, upcoming, mark(NOW), TOKYO)
    assert delay.sentences == (
        "No call has been made since it came.", "No call is planned now: budget: 0 of 100 JPY is left.",
    )  # fmt: skip
    assert (delay.status, delay.failing) == ("4.4.0", False)


def test_before_the_service_that_dials_has_begun() -> None:
    assert delay_of(envelope(), [], None, mark(NOW), TOKYO).sentences == ("No call has been made since it came.",)
