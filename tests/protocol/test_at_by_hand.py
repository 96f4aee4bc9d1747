"""Which command lines a person may give a modem: none that calls, answers or sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.at_by_hand import why_not

ALLOWED = [
    "AT", "ATI", "ati3", "AT+CSQ", "AT+CREG?", "AT+COPS=?", 'AT+CPIN="1234"', "AT&V", "AT&F0E0V1", "ATS0=0S7=60", "ATS7?",
    "AT Z", "AT+CSQ;+CREG?", "AT+CGDCONT=1,\"IP\",\"data\"", "AT%C0\\N3", "AT^SYSINFO", "ATE0Q0V1X4&C1&D2", "ATH0",
]  # fmt: skip


@pytest.mark.parametrize("line", ALLOWED)
def test_questions_and_settings_are_allowed(line: str) -> None:
    assert why_not(line) == ""


REFUSED = [
    ("ATD0570000111", "ATD dials"), ("atdt1", "ATD dials"), ("AT D1", "ATD dials"), ("ATE0DT1", "ATD dials"),
    ("ATI;D1", "ATD dials"), ("AT+CSQ;D1", "ATD dials"), ("ATS0=0DT1", "ATD dials"), ("AT&F D1", "ATD dials"),
    ('AT+CGDCONT=1,"a;b";D1', "ATD dials"), ("ATA", "ATA answers"), ("ATH0A", "ATA answers"), ("ATO", "ATO goes back"),
    ('AT+CMGS="1"', "sends something"), ("AT+CGDATA=1", "sends something"), ("AT+CGACT=1,1", "sends something"),
    ("AT+SBDIX", "sends something"), ("AT^NDISDUP=1,1", "sends something"), ("+++", "begins with AT"),
    ("", "begins with AT"), ("AT!", "nobody knows"), ("AT\x1a", "nobody knows"), ("AT\rATD1", "ATA answers"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "why"), REFUSED)
def test_what_costs_is_refused(line: str, why: str) -> None:
    assert why in why_not(line)


@given(st.text(alphabet='ATDSI0=+&;" ', max_size=20), st.text(alphabet="0123456789", max_size=5))
def test_a_dial_behind_anything_is_refused(before: str, number: str) -> None:
    if (
        before.count('"') % 2 == 0
        and not before.rstrip().endswith(("+", "&", "="))
        and "+" not in before.rpartition(";")[2]
    ):
        assert why_not(f"AT{before}DT{number}")
