"""What modems for mobile networks really say, through the AT channel and taken apart: whole, split at every byte, with
reports between any two bytes. Each with the place where it was found; texts in capitals are theirs.

Where no place is named the form is the standard's (3GPP TS 27.007), or a boundary of it. Times of modems whose year is long
gone are moved into this one's, for a clock before `FIRST_YEAR` is believed in by nobody.

ModemManager: gitlab.freedesktop.org/mobile-broadband/ModemManager, src/tests/test-modem-helpers.c, by its test's name.
GitHub issues by repository and number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import at_mobile as m
from appliance.protocol.at import Answer, AtChannel, Unsolicited
from appliance.protocol.at_mobile import Registration, Sim


@dataclass(frozen=True)
class Said:
    """`text` is what the modem says after `command`, its information without the result where that is OK; `means` what
    `read` makes of it."""

    source: str
    command: str
    text: bytes
    read: Callable[[Answer | None], object]
    means: object


def creg(answer: Answer | None) -> object:
    return m.registration(answer, "+CREG")


def cgreg(answer: Answer | None) -> object:
    return m.registration(answer, "+CGREG")


def cereg(answer: Answer | None) -> object:
    return m.registration(answer, "+CEREG")


HOME, ROAMING, DENIED = Registration.HOME, Registration.ROAMING, Registration.DENIED
R = Registration
OK = b"\r\n\r\nOK\r\n"


def line(text: str) -> bytes:
    """An information line and OK, as V.250 §5.7.1 frames them."""
    return b"\r\n" + text.encode() + OK


S = Said
TRANSCRIPTS = [
    # ---- registration
    S("ModemManager, creg1_solicited", "AT+CREG?", line("+CREG: 1,3"), creg, DENIED),
    S("ModemManager, Sierra Mercury", "AT+CREG?", line("+CREG: 1,1,84CD,00D30173"), creg, HOME),
    S("ModemManager, Sony Ericsson K850i", "AT+CREG?", line('+CREG: 2,1,"CE00","01CEAD8F"'), creg, HOME),
    S("ModemManager, Huawei E160G, none", "AT+CREG?", line("+CREG: 2,0,00,0"), creg, R.NONE),
    S("ModemManager, Huawei E160G", "AT+CREG?", line("+CREG: 2,1,8BE3,2BAF"), creg, HOME),
    S("ModemManager, Sony Ericsson TM-506", "AT+CREG?", line('+CREG: 2,1,"8BE3","00002BAF"'), creg, HOME),
    S("ModemManager, Iridium", "AT+CREG?", line('+CREG:002,001,"18d8","ffff"'), creg, HOME),
    S("ModemManager, no_leading_zeros", "AT+CREG?", line("+CREG:2,1,0001,0010"), creg, HOME),
    S("ModemManager, leading_zeros", "AT+CREG?", line('+CREG:002,001,"0001","0010"'), creg, HOME),
    S("ModemManager, u-blox Toby-L2 on LTE", "AT+CREG?", line('+CREG: 2,6,"8B37","0A265185",7'), creg, R.NO_DATA),
    S("ModemManager, Qualcomm Gobi 1000", "AT+CREG?", line("+CREG: 2,1,  0 5, 2715"), creg, HOME),
    S("ModemManager, Samsung Wave S8500", "AT+CREG?", line("+CREG: 2,1,000B,2816, B, C2816"), creg, HOME),
    S("ModemManager, Ericsson F3607gw", "AT+CGREG?", line('+CGREG: 2,1,"8BE3","00002B5D",3'), cgreg, HOME),
    S("gammu/gammu 393, Huawei E220", "AT+CREG?", b"AT+CREG?\r\r\n+CREG: 2,1,0A,3799B" + OK, creg, HOME),
    S("gammu/gammu 89", "AT+CREG?", b"AT+CREG?\r\r\n+CREG: 2,1, 550014, 676" + OK, creg, HOME),
    S("4IceG/luci-app-3ginfo-lite 82, Fibocom", "AT+CREG?", line('+CREG: 2,6,"7D08","04E23C04",7'), creg, R.NO_DATA),
    S("TC35i AT Command Set (TC35i_ATC_V01.05), AT+CREG", "AT+CREG?", line("+CREG: 0,5"), creg, ROAMING),
    S("SIM800 Series AT Command Manual V1.09, AT+CREG", "AT+CREG?", line("+CREG: 0,2"), creg, R.SEARCHING),
    S("3GPP TS 27.007 §10.1.22", "AT+CEREG?", line('+CEREG: 2,5,"8A7C","00C9D109",7'), cereg, ROAMING),
    S("reports of its own name come in between", "AT+CREG?",
      b'\r\n+CREG: 1,"0166","1808"\r\n\r\n+CREG: 2,5' + OK + b"\r\n+CREG: 2,,\r\n", creg, ROAMING),
    S("ModemManager, Novatel XU870's report alone is no answer", "AT+CREG?", line("+CREG: 2,,"), creg, None),
    S("ModemManager, a report with the technology is no answer", "AT+CREG?", line("+CREG: 1,0001,0010,0"), creg, None),
    S("radekp/qtmoko 142, Calypso: the attachment's reports", "AT+CGREG?",
      b'\r\n+CGREG: 2\r\n\r\n+CREG: 1,"0166","1808"\r\n\r\n+CGREG: 1,"0166","1808"\r\n\r\n+CGREG: 2,1,"0166","1808"' + OK,
      cgreg, HOME),
    # ---- signal
    S("SIM800 Series AT Command Manual V1.09, AT+CSQ", "AT+CSQ", line("+CSQ: 31,0"), m.signal, 31),
    S("tdolby/python-iridium-modem, docs/iridium-notes.md, 9522", "AT+CSQ", line("+CSQ:1"), m.signal, 1),
    S("the same, 9505", "AT+CSQ", line("+CSQ:099,099"), m.signal, None),
    S("espressif/esp-protocols 637", "AT+CSQ", line("+CSQ: 99,99"), m.signal, None),
    S("Huawei E1752, gammu/gammu 138, with its own report", "AT+CSQ",
      b"\r\n^RSSI:14\r\n\r\n+CSQ: 14,99\r\n\r\n^BOOT:35323129,0,0,0,26\r\n\r\nOK\r\n", m.signal, 14),
    S("3GPP TS 27.007 §8.5, TD-SCDMA's scale", "AT+CSQ", line("+CSQ: 146,99"), m.signal, None),
    # ---- the SIM
    S("gammu/gammu 126, Huawei E1752", "AT+CPIN?", b"AT+CPIN?\r\r\n+CPIN: READY" + OK, m.sim, Sim.READY),
    S("particle-iot/docs 435, u-blox SARA-U2", "AT+CPIN?", line("+CPIN: SIM PIN"), m.sim, Sim.PIN),
    S("bg111/asterisk-chan-dongle 79", "AT+CPIN?", line("+CPIN: SIM PIN"), m.sim, Sim.PIN),
    S("QuentinCG/GSM-TC35-Python-Library 3", "AT+CPIN?", line("+CPIN: SIM PUK"), m.sim, Sim.PUK),
    S("the same", "AT+CPIN?", line("+CPIN: SIM PIN2"), m.sim, Sim.READY),
    S("3GPP TS 27.007 §8.3", "AT+CPIN?", line("+CPIN: PH-NETSUB PIN"), m.sim, Sim.LOCKED),
    S("SIM800 manual V1.09, table of unsolicited codes", "AT+CPIN?", line("+CPIN: NOT READY"), m.sim, Sim.BUSY),
    S("the same", "AT+CPIN?", line("+CPIN: NOT INSERTED"), m.sim, Sim.ABSENT),
    S("GM862 manual 80000ST10025a §3.2.2.1, numeric", "AT+CPIN?", b"\r\n+CME ERROR: 10\r\n", m.sim, Sim.ABSENT),
    S("the same, verbose", "AT+CPIN?", b"\r\n+CME ERROR: SIM not inserted\r\n", m.sim, Sim.ABSENT),
    S("the same", "AT+CPIN?", b"\r\n+CME ERROR: SIM failure\r\n", m.sim, Sim.FAILED),
    S("the same", "AT+CPIN?", b"\r\n+CME ERROR: SIM busy\r\n", m.sim, Sim.BUSY),
    S("the same", "AT+CPIN?", b"\r\n+CME ERROR: 12\r\n", m.sim, Sim.PUK),
    S("Xinyuan-LilyGO/T-SIM7600X 77: no more than that", "AT+CPIN?", b"\r\nERROR\r\n", m.sim, Sim.UNKNOWN),
    S("tries, 3GPP TS 27.007 §8.65; a Pycom FiPy (Sequans) says it so", "AT+CPINR",
      b"\r\n+CPINR: SIM PIN,3,3\r\n+CPINR: SIM PUK,10,10\r\n+CPINR: SIM PIN2,3,3\r\n+CPINR: SIM PUK2,10,10" + OK,
      m.pin_tries, 3),
    S("tries, GCT: blanks, and no default", "AT+CPINR",
      b"\r\n+CPINR: SIM PIN, 2\r\n\r\n+CPINR: SIM PUK, 10" + OK, m.pin_tries, 2),
    S("tries, a modem that can't tell", "AT+CPINR", b"\r\nERROR\r\n", m.pin_tries, None),
    S("MC55i AT Command Set §3.4, example 2 (of AT+CLCK)", 'AT+CPIN="0000"', b"\r\n+CME ERROR: incorrect password\r\n",
      m.error_code, 16),
    S("3GPP TS 27.007 §9.2", 'AT+CPIN="0000"', b"\r\n+CME ERROR: 16\r\n", m.error_code, 16),
    # ---- the radio
    S("gammu/wammu 27, Option GTM 382", "AT+CFUN?", line("+CFUN: 1"), m.functionality, 1),
    S("Xinyuan-LilyGO/LilyGo-Modem-Series 463, SIM7670G", "AT+CFUN?", line("+CFUN: 0"), m.functionality, 0),
    S("tdolby/python-iridium-modem, docs/iridium-notes.md, 9522", "AT+CFUN?", b"\r\nERROR\r\n", m.functionality, None),
    # ---- why a call failed
    S("Iridium ISU AT Command Reference 2.45 §6.2", "AT+CEER", line("+CEER: User alerting, no answer"), m.cause,
      "User alerting, no answer"),
    S("MC55i AT Command Set §3.4, example 1", "AT+CEER", line("+CEER: 8,21,0"), m.cause, "8,21,0"),
    S("GM862 manual 80000ST10025a §3.5.4.2.5", "AT+CEER", line("+CEER: Normal, unspecified"), m.cause,
      "Normal, unspecified"),
    S("ModemManager, plugins/altair: the LTE module's words", "AT+CEER",
      line("+CEER: EPS_AND_NON_EPS_SERVICES_NOT_ALLOWED"), m.cause, "EPS_AND_NON_EPS_SERVICES_NOT_ALLOWED"),
    S("the same, with nothing to tell", "AT+CEER", b"\r\nOK\r\n", m.cause, ""),
    S("a modem that knows no such command", "AT+CEER", b"\r\nERROR\r\n", m.cause, ""),
    # ---- the time
    S("ModemManager, cclk, in its year", "AT+CCLK?", line('+CCLK: "14/08/05,04:00:21+40"'), m.clock, None),
    S("the-modem-distro/pinephone_modem_sdk 173, EG25-G", "AT+CCLK?", line('+CCLK: "24/10/13,11:08:20-20"'), m.clock,
      datetime(2024, 10, 13, 16, 8, 20, tzinfo=UTC)),
    S("the same, 244", "AT+CCLK?", line('+CCLK: "24/11/14,01:06:15+36"'), m.clock,
      datetime(2024, 11, 13, 16, 6, 15, tzinfo=UTC)),
    S("Nepal, +05:45 is 23 quarters", "AT+CCLK?", line('+CCLK: "26/03/01,03:00:00+23"'), m.clock,
      datetime(2026, 2, 28, 21, 15, 0, tzinfo=UTC)),
    S("vshymanskyy/TinyGSM 5, SIM800L that nobody told", "AT+CCLK?", line('+CCLK: "04/01/01,00:41:10+00"'), m.clock,
      None),
    S("sparkfun/SparkFun_u-blox_SARA-R5 9, likewise", "AT+CCLK?", line('+CCLK: "15/01/01,00:00:12+00"'), m.clock, None),
    S("the GPS epoch, as Qualcomm's modems begin", "AT+CCLK?", line('+CCLK: "80/01/06,00:00:30+00"'), m.clock, None),
    S("3GPP TS 27.007 §8.15: a modem that knows no zone", "AT+CCLK?", line('+CCLK: "24/10/12,21:08:40"'), m.clock, None),
    S("ModemManager, cclk, no time at all", "AT+CCLK?", line('+CCLK: "XX/XX/XX,XX:XX:XX+XX"'), m.clock, None),
    S("no such day", "AT+CCLK?", line('+CCLK: "25/02/30,00:00:00+00"'), m.clock, None),
    S("four digits of a year, a flag of summer time", "AT+CCLK?", line('+CCLK: "2026/07/01,12:00:00+08,1"'), m.clock,
      datetime(2026, 7, 1, 10, 0, 0, tzinfo=UTC)),
    S("V.250 §5.7.1, numeric (ATV0)", "AT+CCLK?", b'+CCLK: "26/10/07,08:04:08+08"\r\n0\r', m.clock,
      datetime(2026, 10, 7, 6, 4, 8, tzinfo=UTC)),
]  # fmt: skip
BY_SOURCE = [pytest.param(t, id=f"{t.source}: {t.command}") for t in TRANSCRIPTS]


def heard(command: str, pieces: list[bytes]) -> tuple[list[Answer], list[Unsolicited]]:
    channel = AtChannel(carries_data=False)
    assert channel.command(command) == command.encode() + b"\r"
    events = [event for piece in pieces for event in channel.receive_data(piece)]
    return [e for e in events if isinstance(e, Answer)], [e for e in events if isinstance(e, Unsolicited)]


@pytest.mark.parametrize("said", BY_SOURCE)
def test_whole_and_split_at_every_byte(said: Said) -> None:
    text = said.text
    for pieces in [[text], [bytes([b]) for b in text], *([text[:at], text[at:]] for at in range(1, len(text)))]:
        (answer,), _ = heard(said.command, pieces)
        assert said.read(answer) == said.means


REPORTS = [
    b"\r\nRING\r\n",
    b'\r\n+CREG: 1,"0166","1808"\r\n',
    b"\r\n+CGREG: 2\r\n",
    b"\r\n^RSSI:14\r\n",
    b"\r\n+CTZV: +04\r\n",
]


@pytest.mark.parametrize("report", REPORTS, ids=[r.decode().strip() for r in REPORTS])
@pytest.mark.parametrize("said", [p for p in BY_SOURCE if p.values[0].text[-2:] != b"0\r"])  # type: ignore[union-attr]
def test_with_a_report_between_any_two_lines(said: Said, report: bytes) -> None:
    """Also one of the same name as what was asked for."""
    for at in [0, *(match.end() for match in re.finditer(b"\r\n", said.text))][:-1]:
        if said.text[at : at + 2] == b"\r\n" or at == 0:  # between two framed codes
            (answer,), _ = heard(said.command, [said.text[:at] + report + said.text[at:]])
            assert said.read(answer) == said.means, at


def test_nothing_is_nothing() -> None:
    readers: list[Callable[[Answer | None], object]] = [
        creg, m.signal, m.pin_tries, m.error_code, m.functionality, m.clock,
    ]  # fmt: skip
    assert [read(None) for read in readers] == [None] * len(readers)
    assert (m.cause(None), m.sim(None)) == ("", Sim.UNKNOWN)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+CME ERROR: 30", "+CME ERROR: 30 (no network service)"),
        ("+CME ERROR: 148", "+CME ERROR: 148 (unspecified packet error)"),
        ("+CME ERROR: no network service", "+CME ERROR: no network service (no network service)"),
        ("+CME ERROR: 9999", "+CME ERROR: 9999"),
        ("ERROR", "ERROR"),
        ("NO CARRIER", "NO CARRIER"),
    ],
)
def test_errors_in_words(text: str, shown: str) -> None:
    (answer,), _ = heard("ATD", [f"\r\n{text}\r\n".encode()]) if "ERROR" in text else ([_no_carrier()], [])
    assert m.error_in_words(answer) == shown


def _no_carrier() -> Answer:
    channel = AtChannel(carries_data=False)
    channel.dial("*99#", tone=False)
    (answer,) = channel.receive_data(b"\r\nNO CARRIER\r\n")
    assert isinstance(answer, Answer)
    return answer


# What modems say when they start, and what they say at other times, too.
STARTS = [
    ("RDY", "SIM800 Series AT Command Manual V1.09, table of unsolicited codes"),
    ("Call Ready", "the same"),
    ("SMS Ready", "the same; Seeed-Studio/GPRS_SIM900 39"),
    ("NORMAL POWER DOWN", "the same"),
    ("UNDER-VOLTAGE POWER DOWN", "the same"),
    ("+CPIN: READY", "the same"),
    ("+CPIN: SIM PIN", "particle-iot/docs 435"),
    ("+CFUN: 1", "SIM900, ai-thinker A6"),
    ("PB DONE", "SIM5320 and SIM7600, application notes"),
    ("SMS DONE", "the same"),
    ("*ATREADY: 1", "SIMCom A7670"),
    ("START", "SIM5320, SIM7600"),
    ("^SYSSTART", "TC35i AT Command Set, TC35i_ATC_V01.05, §1.8"),
    ("^SYSSTART AIRPLANE MODE", "MC55i AT Command Set"),
    ("+WIND: 1", "Wavecom AT Commands Interface Guide, +WIND"),
    ("+WIND: 4", "the same"),
    ("+PBREADY", "u-blox LEON-G AT manual"),
]
GOES_ON = [
    "RING", "NO CARRIER", "+CREG: 1", '+CREG: 1,"0166","1808"', "+CGREG: 2", "^BOOT:35323129,0,0,0,26", "^RSSI:14",
    '^HCSQ:"LTE",48,44', "+CSQN: 14,0", "+CMTI: \"SM\",3", "UNDER-VOLTAGE WARNNING", "+CTZV: +04", "*PSUTTZ: 26,1,1,0,0,0",
    "+WIND: 2", "+CUSD: 0", "+CPINR: SIM PIN,3,3", "CONNECT", "STARTING", "",
]  # fmt: skip


@pytest.mark.parametrize(("text", "source"), STARTS)
def test_a_modem_that_starts(text: str, source: str) -> None:
    assert m.says_restart(text), source
    channel = AtChannel(carries_data=False)
    assert channel.receive_data(f"\r\n{text}\r\n".encode()) == [Unsolicited(text)]
    channel.command("AT")  # nor is it taken for the answer to anything
    events = channel.receive_data(f"\r\n{text}\r\n\r\nOK\r\n".encode())
    assert events[0] == Unsolicited(text)
    assert isinstance(events[1], Answer) and events[1].information == ()


@pytest.mark.parametrize("text", GOES_ON)
def test_a_modem_that_goes_on(text: str) -> None:
    assert not m.says_restart(text)


@given(st.text(alphabet='+CREGPINSQLKF:? ,"0123456789/-\r\n', max_size=60))
def test_anything_is_read_without_an_error(text: str) -> None:
    for command in ("AT+CREG?", "AT+CPIN?", "AT+CSQ", "AT+CCLK?", "AT+CEER", "AT+CPINR", "AT+CFUN?"):
        answers, _ = heard(command, [b"\r\n" + text.encode() + b"\r\n\r\nOK\r\n"])
        for answer in answers:
            for read in (creg, cgreg, m.signal, m.sim, m.pin_tries, m.functionality, m.cause, m.clock, m.error_code):
                read(answer)
