"""The AT parser on what real modems say: whole, split at every byte, with unsolicited codes between any two bytes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.at import (
    MAX_LINE,
    Answer,
    AtChannel,
    Data,
    Event,
    Noise,
    Progress,
    ResultCode,
    Unsolicited,
    clean_number,
)
from appliance.protocol.errors import LocalProtocolError

OK, ERROR, CONNECT = ResultCode.OK, ResultCode.ERROR, ResultCode.CONNECT


@dataclass(frozen=True)
class Transcript:
    """What the modem said after `command` (or a dial, where it is a bare number) and what that is."""

    name: str
    command: str
    said: bytes
    answer: Answer
    others: tuple[Event, ...] = ()
    framed: bool = True
    """Verbose: an unsolicited code may break in anywhere before the answer."""


T = Transcript
TRANSCRIPTS = [
    # SmartLink soft modem by chat(8): lists.debian.org, debian-laptop, July 2003, 'slmdm'
    T("slmodem ATZ", "ATZ", b"ATZ\r\r\nOK\r\n", Answer(OK, "OK")),
    T("slmodem no carrier", "8094000", b"ATDT8094000\r\r\nNO CARRIER\r\n", Answer(ResultCode.NO_CARRIER, "NO CARRIER")),
    # U.S. Robotics 56K Message Modem by pppdump: computing.net, Linux forum 24493
    T("usr arq", "7023456789", b"\r\nCONNECT 49333/ARQ\r\n", Answer(CONNECT, "CONNECT 49333/ARQ", rate=49333)),
    T(
        "usr courier",
        "5550001",
        b"ATDT5550001\r\r\nCONNECT 33600/ARQ/V34/LAPM/V42BIS\r\n~\xff}#\xc0!",
        Answer(CONNECT, "CONNECT 33600/ARQ/V34/LAPM/V42BIS", rate=33600),
        (Data(b"~\xff}#\xc0!"),),
    ),
    # U.S. Robotics Courier V.Everything, ATI4: Muuss, 'Configuring a US Robotics COURIER modem'
    T(
        "usr ati4",
        "ati4",
        b"ati4\r\r\nUSRobotics Courier V.Everything Settings...\r\n\r\n   B0  C1  E1  F1  M0  Q0  V1  X1\r\n"
        b"   BAUD=38400  PARITY=N  WORDLEN=8\r\n\r\n   S00=000  S01=000  S12=050\r\n\r\nOK\r\n",
        Answer(
            OK,
            "OK",
            (
                "USRobotics Courier V.Everything Settings...",
                "B0  C1  E1  F1  M0  Q0  V1  X1",
                "BAUD=38400  PARITY=N  WORDLEN=8",
                "S00=000  S01=000  S12=050",
            ),
        ),
    ),
    # Zoltrix 33,600 (Rockwell ACF): mgetty list, April 1997
    T(
        "rockwell ati3",
        "ati3",
        b"\r\nV2.061 US001-V34_ACF_DP1\r\n\r\nOK\r\n",
        Answer(OK, "OK", ("V2.061 US001-V34_ACF_DP1",)),
    ),
    T("rockwell fclass", "at+fclass=?", b"at+fclass=?\r\r\n0,1\r\n\r\nOK\r\n", Answer(OK, "OK", ("0,1",))),
    # Rockwell RC288ACx reference manual, order no. 1048P, W1 and S95: rates apart
    T(
        "rockwell w1",
        "123",
        b"\r\nCARRIER 14400\r\n\r\nPROTOCOL: LAP-M\r\n\r\nCOMPRESSION: V.42 BIS\r\n\r\nCONNECT 57600\r\n",
        Answer(CONNECT, "CONNECT 57600", rate=14400),
        (Progress("CARRIER 14400"), Progress("PROTOCOL: LAP-M"), Progress("COMPRESSION: V.42 BIS")),
    ),
    T("rockwell delayed", "123", b"\r\nDELAYED 00:30:00\r\n", Answer(ResultCode.DELAYED, "DELAYED 00:30:00")),
    T("rockwell blacklisted", "123", b"\r\nBLACKLISTED\r\n", Answer(ResultCode.BLACKLISTED, "BLACKLISTED")),
    # Actiontec DataLink V.90, table 2
    T("actiontec list full", "123", b"\r\nBLACKLIST FULL\r\n", Answer(ResultCode.BLACKLISTED, "BLACKLIST FULL")),
    T(
        "conexant dte and rates",
        "123",
        b"\r\nCONNECT 115200/V34/LAPM/V42BIS/33600:TX/31200:RX\r\n",
        Answer(CONNECT, "CONNECT 115200/V34/LAPM/V42BIS/33600:TX/31200:RX", rate=31200),
    ),
    # Silicon Laboratories AN93 rev. 0.9 (Si2493, Si2457, Si2434, Si2415), table 22
    T("si2457 blacklisted", "123", b"\r\nBLACKLISTED\r\n", Answer(ResultCode.BLACKLISTED, "BLACKLISTED")),
    T("si2457 list full", "123", b"\r\nBLACKLIST FULL\r\n", Answer(ResultCode.BLACKLISTED, "BLACKLIST FULL")),
    T("si2457 no line", "123", b"\r\nNO LINE\r\n", Answer(ResultCode.NO_DIALTONE, "NO LINE")),
    T("si2457 pulses only", "123", b"\r\nUN-OBTAINABLE NUMBER\r\n", Answer(ERROR, "UN-OBTAINABLE NUMBER")),
    T(
        "si2457 protocol",
        "123",
        b"\r\nRINGING\r\n\r\nPROTOCOL: ALTERNATE, +CLASS 5\r\n\r\nCONNECT 52000\r\n",
        Answer(CONNECT, "CONNECT 52000", rate=52000),
        (Progress("RINGING"), Progress("PROTOCOL: ALTERNATE, +CLASS 5")),
    ),
    # Westermo TD-34 user guide 6619-2203, chapter 7 (Conexant)
    T("westermo delayed", "123", b"\r\nDELAYED\r\n", Answer(ResultCode.DELAYED, "DELAYED")),
    # Multi-Tech MT3334HD8 manual, appendix C (&Q0): how the error correction is said
    T(
        "multitech reliable",
        "123",
        b"\r\nCONNECT 14400 RELIABLE\r\n",
        Answer(CONNECT, "CONNECT 14400 RELIABLE", rate=14400),
    ),
    T(
        "multitech lapm",
        "123",
        b"\r\nCONNECT 33600 LAPM COMPRESSED\r\n",
        Answer(CONNECT, "CONNECT 33600 LAPM COMPRESSED", rate=33600),
    ),
    # ZTE MF622 by chat(8): linuxforums.org, networking 151042
    T("zte atz", "ATZ", b"ATZ\r\r\nERROR\r\n", Answer(ERROR, "ERROR")),
    T("zte at", "AT", b"AT\r\r\nOK\r\n", Answer(OK, "OK")),
    # Quectel by chat(8): GitHub, sixfab/Sixfab_PPP_Installer, issue 16
    T("quectel packet call", "*99#", b"ATDT*99#\r\r\nCONNECT\r\n~", Answer(CONNECT, "CONNECT"), (Data(b"~"),)),
    # Huawei ME909s by ppp's chat: GitHub, opnsense/core, issue 3164
    T("huawei sim failure", "*99#", b"\r\n+CME ERROR: 13\r\n", Answer(ERROR, "+CME ERROR: 13")),
    # TI Calypso by chat(8): GitHub, radekp/qtmoko, issue 142; the answer to an attachment comes late
    T(
        "calypso attaches",
        "AT+CGATT=1",
        b'\r\n+CGREG: 2\r\n\r\n+CREG: 1,"0166","1808"\r\n\r\n+CGREG: 1,"0166","1808"\r\n\r\nOK\r\n',
        Answer(OK, "OK"),
        (Unsolicited("+CGREG: 2"), Unsolicited('+CREG: 1,"0166","1808"'), Unsolicited('+CGREG: 1,"0166","1808"')),
    ),
    # Motorola 9522 (Iridium) by python-gsmmodem: GitHub, tdolby/python-iridium-modem, docs/iridium-notes.md
    T("iridium echo", "ATE0", b"ATE0\r\r\nOK\r\n", Answer(OK, "OK")),
    T("iridium signal", "AT+CSQ", b"\r\n+CSQ:1\r\n\r\nOK\r\n", Answer(OK, "OK", ("+CSQ:1",))),
    T(
        "iridium model",
        "AT+CGMM",
        b"\r\n9522 Satellite Series\r\n\r\nOK\r\n",
        Answer(OK, "OK", ("9522 Satellite Series",)),
    ),
    # The same, ATV0: Iridium ISU AT Command Reference 2.45, table 3-1
    T("iridium numeric", "ATI3", b"SAC0307\r\n0\r", Answer(OK, "OK", ("SAC0307",)), framed=False),
    # MultiTech MT2834 owner's manual, appendix G
    T("multitech no dial tone", "123", b"\r\nNO DIAL TONE\r\n", Answer(ResultCode.NO_DIALTONE, "NO DIAL TONE")),
    # ZyXEL Omni 288S manual, page 12-11
    T(
        "zyxel x7",
        "123",
        b"\r\nCONNECT 38400/V.32bis 14400/V.42bis\r\n",
        Answer(CONNECT, "CONNECT 38400/V.32bis 14400/V.42bis", rate=14400),
    ),
    T(
        "zyxel ringing",
        "123",
        b"\r\nRINGING\r\n\r\nRINGING\r\n\r\nBUSY\r\n",
        Answer(ResultCode.BUSY, "BUSY"),
        (Progress("RINGING"), Progress("RINGING")),
    ),
    # Siemens MC55 manual, ATV: a verbose code may have CR alone behind it
    T("mc55 rlp", "123", b"\r\nCONNECT 9600/RLP\r", Answer(CONNECT, "CONNECT 9600/RLP", rate=9600)),
    # Wavecom and Huawei as FrontlineSMS's driver met them: unframed, signal reports behind the answer
    T("wavecom cgmi", "AT+CGMI", b"WAVECOM MODEM\rOK\r", Answer(OK, "OK", ("WAVECOM MODEM",)), framed=False),
    T(
        "huawei cgmi",
        "AT+CGMI",
        b"huawei\r\n\r\nOK\r\n\r\n^RSSI:18\r\n",
        Answer(OK, "OK", ("huawei",)),
        (Unsolicited("^RSSI:18"),),
    ),
    # Huawei E220 and E3372: reports mixed into a response; the answer to a ^ command of our own
    T(
        "huawei reports",
        "AT+CSCA?",
        b'\r\n^RSSI:20\r\n\r\n+CSCA: "+3546999099",145\r\n\r\n^HCSQ:"LTE",48,44\r\n\r\nOK\r\n',
        Answer(OK, "OK", ('+CSCA: "+3546999099",145',)),
        (Unsolicited("^RSSI:20"), Unsolicited('^HCSQ:"LTE",48,44')),
    ),
    T(
        "huawei own",
        "AT^DSFLOWQRY",
        b"\r\n^DSFLOWRPT:0001,0,0\r\n\r\n^DSFLOWQRY:001A,0D49,2BE3\r\n\r\nOK\r\n",
        Answer(OK, "OK", ("^DSFLOWQRY:001A,0D49,2BE3",)),
        (Unsolicited("^DSFLOWRPT:0001,0,0"),),
    ),
    T("huawei not supported", "AT^X", b"\r\nCOMMAND NOT SUPPORT\r\n", Answer(ERROR, "COMMAND NOT SUPPORT")),
    # Sierra HL7800: forum.sierrawireless.com 27961, registration reports before the answer
    T(
        "sierra cereg",
        "AT",
        b'\r\n+CEREG: 1,"8A7C","00C9D109",7\r\n\r\nOK\r\n',
        Answer(OK, "OK"),
        (Unsolicited('+CEREG: 1,"8A7C","00C9D109",7'),),
    ),
    T("creg asked", "AT+CREG?", b"\r\n+CREG: 0,1\r\n\r\nOK\r\n", Answer(OK, "OK", ("+CREG: 0,1",))),
    T("cme error", "AT+CPIN?", b"\r\n+CME ERROR: SIM busy\r\n", Answer(ERROR, "+CME ERROR: SIM busy")),
    T("cms error", "AT+CMGS", b"\r\n+CMS ERROR: 500\r\n", Answer(ERROR, "+CMS ERROR: 500")),
    # V.250 §6.4 (+MR, +ER): modulation reports precede CONNECT
    T(
        "modulation report",
        "123",
        b"\r\n+MCR: V34\r\n\r\n+MRR: 28800,26400\r\n\r\n+ER: LAPM\r\n\r\nCONNECT\r\n",
        Answer(CONNECT, "CONNECT", rate=26400),
        (Progress("+MCR: V34"), Progress("+MRR: 28800,26400"), Progress("+ER: LAPM")),
    ),
    T("bare connect", "123", b"\r\nCONNECT\r\n\n\r\n", Answer(CONNECT, "CONNECT"), (Data(b"\n\r\n"),)),
    T("no answer", "123", b"\r\nNO ANSWER\r\n", Answer(ResultCode.NO_ANSWER, "NO ANSWER")),
    T("line in use", "123", b"\r\nLINE IN USE\r\n", Answer(ResultCode.NO_DIALTONE, "LINE IN USE")),
    T("voice", "123", b"\r\nVOICE\r\n", Answer(ResultCode.VOICE, "VOICE")),
    T("fax", "123", b"\r\nFAX\r\n", Answer(ResultCode.FAX, "FAX")),
    T("dial refused", "123", b"\r\nERROR\r\n", Answer(ERROR, "ERROR")),
    T("register", "ATS12?", b"ATS12?\r\r\n050\r\n\r\nOK\r\n", Answer(OK, "OK", ("050",))),
    T(
        "ring and caller",
        "AT",
        b'\r\nRING\r\n\r\n+CLIP: "0331234567",129\r\n\r\nOK\r\n',
        Answer(OK, "OK"),
        (Unsolicited("RING", ResultCode.RING), Unsolicited('+CLIP: "0331234567",129')),
    ),
    T(
        "carrier goes while asked",
        "AT",
        b"\r\nNO CARRIER\r\n\r\nOK\r\n",
        Answer(OK, "OK"),
        (Unsolicited("NO CARRIER", ResultCode.NO_CARRIER),),
    ),
    T(
        "restart",
        "AT+CSQ",
        b"\r\nRDY\r\n\r\n+CFUN: 1\r\n\r\n+CPIN: READY\r\n\r\nCall Ready\r\n\r\n+CSQ: 20,0\r\n\r\nOK\r\n",
        Answer(OK, "OK", ("+CSQ: 20,0",)),
        (Unsolicited("RDY"), Unsolicited("+CFUN: 1"), Unsolicited("+CPIN: READY"), Unsolicited("Call Ready")),
    ),
    # V.250 §5.7.1, ATV0: digits and CR, information text and CR LF
    T("numeric ok", "AT", b"0\r", Answer(OK, "OK"), framed=False),
    T("numeric echo", "ATZ", b"ATZ\r0\r", Answer(OK, "OK"), framed=False),
    T("numeric error", "ATX9", b"4\r", Answer(ERROR, "ERROR"), framed=False),
    T("numeric register", "ATS12?", b"050\r\n0\r", Answer(OK, "OK", ("050",)), framed=False),
    T("numeric register 4", "ATS12?", b"004\r\n0\r", Answer(OK, "OK", ("004",)), framed=False),
    T("numeric ring", "AT", b"2\r0\r", Answer(OK, "OK"), (Unsolicited("RING", ResultCode.RING),), framed=False),
    T(
        "numeric connect",
        "123",
        b"12\r\n~",
        Answer(CONNECT, "CONNECT 9600", rate=9600),
        (Data(b"\n~"),),
        framed=False,
    ),
] + [
    T(f"numeric {said.decode()}", "123", said + b"\r", Answer(code, text, rate=rate), framed=False)
    for said, code, text, rate in [
        (b"1", CONNECT, "CONNECT", 0),
        (b"3", ResultCode.NO_CARRIER, "NO CARRIER", 0),
        (b"6", ResultCode.NO_DIALTONE, "NO DIALTONE", 0),
        (b"7", ResultCode.BUSY, "BUSY", 0),
        (b"8", ResultCode.NO_ANSWER, "NO ANSWER", 0),
        (b"5", CONNECT, "CONNECT 1200", 1200),
        (b"10", CONNECT, "CONNECT 2400", 2400),
        (b"87", CONNECT, "CONNECT 115200", 115200),
        (b"151", CONNECT, "CONNECT", 0),
        (b"24", ResultCode.DELAYED, "DELAYED", 0),
        (b"32", ResultCode.BLACKLISTED, "BLACKLISTED", 0),
        (b"41", ResultCode.BLACKLISTED, "BLACKLISTED", 0),
        (b"42", ResultCode.NO_DIALTONE, "NO DIALTONE", 0),
        (b"43", ResultCode.NO_DIALTONE, "NO DIALTONE", 0),
    ]
]
BY_NAME = [pytest.param(t, id=t.name) for t in TRANSCRIPTS]


def start(transcript: Transcript) -> AtChannel:
    channel = AtChannel(carries_data=True)
    if transcript.framed:
        channel.command("AT")
        channel.receive_data(b"\r\nOK\r\n")
    if transcript.command[:2].upper() == "AT":
        assert channel.command(transcript.command) == transcript.command.encode() + b"\r"
    else:
        assert channel.dial(transcript.command) == b"ATDT" + transcript.command.encode() + b"\r"
    return channel


def feed(channel: AtChannel, pieces: list[bytes]) -> list[Event]:
    """All events, neighbouring Data joined."""
    out: list[Event] = []
    for piece in pieces:
        for event in channel.receive_data(piece):
            if isinstance(event, Data) and out and isinstance(out[-1], Data):
                out[-1] = Data(out[-1].data + event.data)
            else:
                out.append(event)
    return out


def answers(events: list[Event]) -> list[Answer]:
    return [e for e in events if isinstance(e, Answer)]


def others(events: list[Event]) -> list[Event]:
    return [e for e in events if not isinstance(e, Answer)]


@pytest.mark.parametrize("transcript", BY_NAME)
def test_whole_and_split_at_every_byte(transcript: Transcript) -> None:
    said = transcript.said
    for pieces in [
        [said],
        [bytes([b]) for b in said],
        *([said[:at], said[at:]] for at in range(1, len(said))),
    ]:
        events = feed(start(transcript), pieces)
        assert answers(events) == [transcript.answer]
        assert tuple(others(events)) == transcript.others


URCS = [
    b"\r\nRING\r\n",
    b'\r\nRING\r\n\r\n+CLIP: "+81331234567",145\r\n',
    b"\r\n+CREG: 2\r\n",
    b"\r\n^BOOT:20952548,0,0,0,72\r\n",
]


def end_of_answer(transcript: Transcript) -> int:
    """Where the answer's line is complete but for its last CR and LF; later bytes are no part of it."""
    channel = start(transcript)
    for at in range(len(transcript.said)):
        if answers(channel.receive_data(transcript.said[at : at + 1])):
            return at
    raise AssertionError("no answer")


def is_whole_by_itself(transcript: Transcript, at: int) -> bool:
    """Whether the line that a cut at `at` leaves is a result of its own (CONNECT 96|00)."""
    events = start(transcript).receive_data(transcript.said[:at] + b"\r")
    return bool(events) and events != start(transcript).receive_data(transcript.said[:at])


@pytest.mark.parametrize("urc", URCS, ids=["ring", "ring and clip", "creg", "boot"])
@pytest.mark.parametrize(
    "transcript", [pytest.param(t, id=t.name) for t in TRANSCRIPTS if t.framed and "CREG" not in t.command]
)
def test_an_unsolicited_code_between_any_two_bytes(transcript: Transcript, urc: bytes) -> None:
    alone = AtChannel(carries_data=True).receive_data(urc)
    broken = 0
    for at in range(end_of_answer(transcript) + 1):
        if is_whole_by_itself(transcript, at):
            continue
        said = transcript.said[:at] + urc + transcript.said[at:]
        events = feed(start(transcript), [said])
        assert answers(events) == [transcript.answer], said
        got = others(events)
        for event in alone:
            assert event in got, said
            got.remove(event)
        # A report that is itself broken in two is handed on in two parts: it is nobody's answer either way.
        if got != list(transcript.others):
            broken += 1
    assert broken <= sum(len(e.text) for e in transcript.others if isinstance(e, (Unsolicited, Progress)))


def test_a_report_in_the_middle_of_the_echo_does_not_hide_it() -> None:
    channel = AtChannel(carries_data=True)
    channel.command("ATE0Q0V1")
    assert channel.receive_data(b"ATE0\r\nRING\r\nQ0V1\r\r\nOK\r\n") == [
        Unsolicited("RING", ResultCode.RING),
        Answer(OK, "OK"),
    ]


def test_idle_lines_are_unsolicited() -> None:
    channel = AtChannel(carries_data=False)
    assert channel.receive_data(b"\r\nRING\r\n\r\nOK\r\n\r\nhello\r\n\r\nNO CARRIER\r\n") == [
        Unsolicited("RING", ResultCode.RING),
        Unsolicited("OK", OK),
        Unsolicited("hello"),
        Unsolicited("NO CARRIER", ResultCode.NO_CARRIER),
    ]
    assert not channel.busy


@pytest.mark.parametrize(
    ("connect", "lost"),
    [(b"\r\nCONNECT 9600\r\n", b"\r\nNO CARRIER\r\n"), (b"12\r", b"3\r")],
    ids=["verbose", "numeric"],
)
def test_without_data_the_port_goes_on_speaking_for_the_modem(connect: bytes, lost: bytes) -> None:
    channel = AtChannel(carries_data=False)
    channel.dial("1")
    assert channel.receive_data(connect + lost) == [
        Answer(CONNECT, "CONNECT 9600", rate=9600),
        Unsolicited("NO CARRIER", ResultCode.NO_CARRIER),
    ]


def test_a_verbose_modem_never_means_a_number() -> None:
    channel = AtChannel(carries_data=False)
    channel.command("AT")
    channel.receive_data(b"\r\nOK\r\n")
    assert channel.receive_data(b"3\r") == [Unsolicited("3")]
    channel.command("ATZ")  # may bring back a stored ATV0
    assert channel.receive_data(b"0\r") == [Answer(OK, "OK")]


@pytest.mark.parametrize(
    "said", [b"\r\nOK\r\n", b"\r\nNO CARRIER\r\n", b"0\r", b"3\r", b"\r\n~\x7e\xff garbage\r\nOK\r\n"]
)
def test_escape_from_data(said: bytes) -> None:
    channel = AtChannel(carries_data=True)
    channel.dial("1")
    channel.receive_data(b"\r\nCONNECT\r\n" if said[:1] == b"\r" else b"1\r")
    assert channel.receive_data(b"OK\r\n") == [Data(b"OK\r\n")]
    assert channel.escape() == b"+++"
    assert len(answers(channel.receive_data(said))) == 1
    assert channel.command("ATH") == b"ATH\r"


def test_the_echo_of_an_escape_that_found_command_mode() -> None:
    channel = AtChannel(carries_data=False)
    channel.escape()
    assert channel.receive_data(b"+++") == []
    channel.give_up()
    channel.command("ATH")
    assert channel.receive_data(b"ATH\r\r\nOK\r\n") == [Answer(OK, "OK")]


def test_a_dial_ends_with_ok_only_where_that_was_asked_for() -> None:
    channel = AtChannel(carries_data=True)
    channel.dial("1;")
    assert channel.receive_data(b"\r\nOK\r\n") == [Answer(OK, "OK")]
    channel.dial("1")
    assert channel.receive_data(b"\r\nOK\r\n") == [Unsolicited("OK", OK)]
    channel.abort()
    assert channel.receive_data(b"\r\nOK\r\n") == [Answer(OK, "OK")]


def test_abort_and_give_up() -> None:
    channel = AtChannel(carries_data=True)
    with pytest.raises(LocalProtocolError):
        channel.abort()
    channel.dial("1")
    with pytest.raises(LocalProtocolError):
        channel.command("AT")
    assert channel.abort() == b"\r"
    assert channel.receive_data(b"\r\nNO CARRIER\r\n") == [Answer(ResultCode.NO_CARRIER, "NO CARRIER")]
    channel.command("AT")
    channel.give_up()
    assert channel.receive_data(b"\r\nOK\r\n") == [Unsolicited("OK", OK)]


@pytest.mark.parametrize("command", ["AT\rATD1", "AT\n", "ATé", "AT" + "X" * 300])
def test_what_is_no_command_line(command: str) -> None:
    with pytest.raises(LocalProtocolError):
        AtChannel(carries_data=True).command(command)


@pytest.mark.parametrize(
    ("number", "string"),
    [
        ("0570000111", "ATDT0570000111"),
        ("+81 (3) 1234-5678", "ATDT+81312345678"),
        ("p0,123", "ATDP0,123"),
        ("T9W5551234@1", "ATDT9W5551234@1"),
        ("*99***1#", "ATDT*99***1#"),
    ],
)
def test_numbers(number: str, string: str) -> None:
    assert AtChannel(carries_data=True).dial(number) == string.encode() + b"\r"


@pytest.mark.parametrize("number", ["", "T", "12\rATH", "12&F", "12x", "+++", "１２３", "1" * 101])
def test_what_is_no_number(number: str) -> None:
    with pytest.raises(LocalProtocolError):
        clean_number(number)


def test_an_endless_line_is_noise_and_bounded() -> None:
    channel = AtChannel(carries_data=True)
    channel.command("AT")
    for _ in range(20):
        assert channel.receive_data(b"x" * 1000) == []
    assert channel.receive_data(b"\r\n\r\nOK\r\n") == [Noise(20_000), Answer(OK, "OK")]
    assert MAX_LINE < 20_000


def test_endless_information_is_bounded() -> None:
    channel = AtChannel(carries_data=True)
    channel.command("AT&V")
    channel.receive_data(b"\r\n" + b"line\r\n" * 10_000)
    (answer,) = channel.receive_data(b"\r\nOK\r\n")
    assert isinstance(answer, Answer) and 100 < len(answer.information) < 1000


PIECES = st.sampled_from([t.said for t in TRANSCRIPTS] + URCS + [b"\r", b"\n", b"+++", b"\0", b"AT"]) | st.binary(
    max_size=20
)


@given(st.lists(PIECES, max_size=12), st.sampled_from(["AT", "ATZ", "AT+CREG?", "123", "+++"]), st.booleans())
def test_garbage_parses_the_same_whole_and_byte_by_byte(pieces: list[bytes], command: str, carries_data: bool) -> None:
    data = b"".join(pieces)
    results = []
    for cut in ([data], [bytes([b]) for b in data], pieces):
        channel = AtChannel(carries_data=carries_data)
        if command == "+++":
            channel.escape()
        elif command.startswith("AT"):
            channel.command(command)
        else:
            channel.dial(command)
        results.append(feed(channel, cut))
    assert results[0] == results[1] == results[2]
    assert len(answers(results[0])) <= 1
    assert all(e.text.isprintable() or not e.text.isascii() for e in results[0] if isinstance(e, (Unsolicited, Answer)))
