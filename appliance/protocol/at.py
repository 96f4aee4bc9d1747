"""The AT dialogue with a modem (ITU-T V.250): commands out, answers and unsolicited result codes in. SANS-IO.

It owns the state of one modem's command line. It must not know time (deadlines and guard times are its
driver's), ports, or what an outcome means for a call.

Theory of operation. One command is in flight at a time; it gets its information text and one final result
code as one `Answer`. Result codes that nobody asked for (RING, +CREG: …, a modem that restarts) come at any
time, also within a command's answer, and are handed on apart as `Unsolicited`.

    state     what happens                         next      event
    READY     command(), dial(), escape()          WAITING
    WAITING   final result                         READY     Answer
    WAITING   CONNECT, the port carries data       DATA      Answer, then Data
    WAITING   CONNECT, the port carries none       READY     Answer
    WAITING   intermediate result of a dial        WAITING   Progress
    WAITING   give_up()                            READY
    any but DATA   unsolicited result code         same      Unsolicited
    DATA      escape()                             WAITING

Lines. Verbose codes are CR LF text CR LF, numeric ones digits CR; information text is text CR LF, with
another CR LF before it when verbose (V.250 §5.7.1). So CR and LF each end a line, CR LF is one end, and empty
lines carry no text. A line is complete at its CR, since a numeric code has nothing behind it.

Which form the modem speaks is learned from what it says, forgotten with every command that can change it
(Z, &F, V), and decides whether `4` is ERROR or text. S-registers are written with three digits (V.250 §5.3.2),
result codes without a leading zero, so `004` is never taken for one.

An unsolicited verbose code that breaks into another line (`O` CR LF RING CR LF `K`) follows its first part
and precedes its second without the empty line that framed codes have between them: the parts are joined
again. The same mends a command's echo. A numeric code has no frame: what breaks into one is lost with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final

from appliance.protocol.errors import LocalProtocolError

__all__ = [
    "Answer",
    "AtChannel",
    "Data",
    "Event",
    "Noise",
    "Progress",
    "ResultCode",
    "Unsolicited",
    "clean_number",
]

MAX_LINE: Final = 1024
"""Bytes of one line: the longest real ones, a concatenated SMS as a PDU, have some 400. Longer is noise."""
MAX_INFORMATION: Final = 256
"""Lines of information text that are kept of one answer: AT&V and AT$ print a screen or two."""
MAX_COMMAND: Final = 255
"""Characters of a command line. V.250 asks for 40 at least, modems of today take 255 and more."""

CR, LF = 0x0D, 0x0A
ESCAPE: Final = b"+++"
_IGNORED = dict.fromkeys([*range(0x20), 0x7F, 0xFF])


class ResultCode(StrEnum):
    """Final and unsolicited result codes: V.250 table 1, and those that modems added to it."""

    OK = "OK"
    CONNECT = "CONNECT"
    RING = "RING"
    NO_CARRIER = "NO CARRIER"
    ERROR = "ERROR"
    NO_DIALTONE = "NO DIALTONE"
    BUSY = "BUSY"
    NO_ANSWER = "NO ANSWER"
    DELAYED = "DELAYED"
    BLACKLISTED = "BLACKLISTED"
    VOICE = "VOICE"
    FAX = "FAX"


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of the command in flight. `text` is the result as the modem worded it (a numeric one in its
    verbose form), `information` the lines before it, `rate` CONNECT's bit/s, 0 where it does not say."""

    code: ResultCode
    text: str
    information: tuple[str, ...] = ()
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Unsolicited:
    """A line that belongs to no command; `code` where it is a result code."""

    text: str
    code: ResultCode | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """An intermediate result of a dial: RINGING, CARRIER 14400, PROTOCOL: LAPM, +MRR: 33600."""

    text: str


@dataclass(frozen=True, slots=True)
class Data:
    """What the far end sent, once connected on a port that carries data."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Noise:
    """A line over `MAX_LINE`: `size` bytes of it were dropped."""

    size: int


Event = Answer | Unsolicited | Progress | Data | Noise


class _State(Enum):
    READY = auto()
    WAITING = auto()
    DATA = auto()


class _Kind(Enum):
    """What is in flight, for it decides which codes end it."""

    COMMAND = auto()
    CALL = auto()
    ESCAPE = auto()


class _Echo:
    """Marks the echo of the command in flight."""


_ECHO = _Echo()

# The codes that end each kind. For a plain command NO CARRIER is news of the call, not an answer. A dial ends with OK
# only where that was asked for (V.250 §6.3.1: a `;`; §5.6.1: aborted); else it is a late answer to something earlier.
_FINAL: Final = {
    _Kind.COMMAND: frozenset({ResultCode.OK, ResultCode.ERROR}),
    _Kind.CALL: frozenset(ResultCode) - {ResultCode.RING},
    _Kind.ESCAPE: frozenset({ResultCode.OK, ResultCode.ERROR, ResultCode.NO_CARRIER}),
}

# Words of modems beside V.250's own: Rockwell and Conexant (DELAYED, BLACKLISTED, LINE IN USE, FAX), U.S. Robotics
# (NO DIAL TONE, VOICE), MultiTech and Zyxel (NO DIAL TONE), Actiontec (BLACKLIST FULL), Silicon Laboratories (that, NO
# LINE, UN-OBTAINABLE NUMBER: tone dialling on a line for pulses), Telebit (REORDER), Huawei.
_WORDS: Final = {code.value: code for code in ResultCode} | {
    "NO DIAL TONE": ResultCode.NO_DIALTONE,
    "NO LINE": ResultCode.NO_DIALTONE,
    "LINE IN USE": ResultCode.NO_DIALTONE,
    "NO LOOP CURRENT": ResultCode.NO_DIALTONE,
    "NO BONGTONE": ResultCode.NO_DIALTONE,
    "NO RINGBACK": ResultCode.NO_ANSWER,
    "REORDER": ResultCode.BUSY,
    "BLACKLIST FULL": ResultCode.BLACKLISTED,
    "UN-OBTAINABLE NUMBER": ResultCode.ERROR,
    "COMMAND NOT SUPPORT": ResultCode.ERROR,
    "TOO MANY PARAMETERS": ResultCode.ERROR,
}
_WITH_TEXT: Final = (
    (re.compile(r"CONNECT[ /].+"), ResultCode.CONNECT),
    (re.compile(r"RING [0-9A-Z]{1,8}"), ResultCode.RING),
    (re.compile(r"DELAYED:? [0-9:]+"), ResultCode.DELAYED),
    (re.compile(r"\+CM[ES] ERROR: ?.+"), ResultCode.ERROR),
)

# V.250 table 1; 24 and 32 by Rockwell, 41 to 43 by Silicon Laboratories, where Rockwell has none. A call's other
# numbers are CONNECT at a rate by the maker's own table (13 is 14400, 9600 or 7200): those of Hayes' successors are
# here, for the rest the rate is unknown.
_NUMBERS: Final = {
    "0": ResultCode.OK,
    "1": ResultCode.CONNECT,
    "2": ResultCode.RING,
    "3": ResultCode.NO_CARRIER,
    "4": ResultCode.ERROR,
    "6": ResultCode.NO_DIALTONE,
    "7": ResultCode.BUSY,
    "8": ResultCode.NO_ANSWER,
    "24": ResultCode.DELAYED,
    "32": ResultCode.BLACKLISTED,
    "41": ResultCode.BLACKLISTED,
    "42": ResultCode.NO_DIALTONE,
    "43": ResultCode.NO_DIALTONE,
}
_NUMBER_RATES: Final = {
    "5": 1200, "10": 2400, "11": 4800, "12": 9600, "13": 14400, "14": 19200, "18": 57600, "59": 33600, "87": 115200,
}  # fmt: skip
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}")

_PROGRESS: Final = re.compile(
    r"(RINGING|RRING|DIALING|ALERTING|PROGRESS|CARRIER\b|PROTOCOL:|COMPRESSION:|\+(MCR|MRR|ER|DR|CR|ILRR):)"
)
_UNSOLICITED: Final = re.compile(
    # 3GPP 27.007 and 27.005: registration, caller, messages, supplementary services, SIM and functionality
    r"\+(CRING|CLIP|CREG|CGREG|CEREG|CMTI?|CDSI?|CBM|CUSD|CCWA|CSS[IU]|COLP|CPIN|CFUN|CIEV|CTZ[VE]|CGEV|PBREADY|WIND)\b"
    # Huawei and others: signal, mode and traffic reports
    r"|\^[A-Z]+|\*PSUTTZ|\*ATREADY|DST:"
    # a modem that restarts, or is about to
    r"|(RDY|CALL READY|SMS READY|SMS DONE|PB DONE|NORMAL POWER DOWN|UNDER-VOLTAGE|OVER-VOLTAGE)\b|\+SIM READY|START$"
    # caller's number (V.253)
    r"|(DATE|TIME|NMBR|NAME|MESG) ?=|(DRON|DROF)="
)
_CHANGES_FORM: Final = re.compile(r"(?i)Z|&F|V")
_NAME: Final = re.compile(r"[+^*][A-Z]+")


def clean_number(number: str) -> str:
    """`number` as a dial string: V.250 §6.3.1's digits and modifiers; spaces, dots, hyphens and brackets are taken off.

    Raises LocalProtocolError for anything else, and for a number without a digit.
    """
    string = re.sub(r"[ .()/-]", "", number).upper()
    if not re.fullmatch(r"[0-9*#+A-D,WPT@!;]{1,100}", string) or not re.search(r"[0-9]", string):
        raise LocalProtocolError(f"{number!r} is no number that can be dialled")
    return string


def _rate(text: str) -> int:
    """The line's rate: the lowest that CONNECT names, for where it names two the other one is the port's."""
    rates = [int(field) for field in re.split(r"[ /:,]", text) if field.isdigit() and len(field) < 9]
    return min((rate for rate in rates if rate >= 300), default=0)


class AtChannel:
    """One modem's command line. `carries_data`: after CONNECT the port's bytes are the far end's (ppp); else
    the port goes on carrying the modem's own words, such as the NO CARRIER that ends the call."""

    def __init__(self, *, carries_data: bool) -> None:
        self._carries_data = carries_data
        self._state = _State.READY
        self._kind = _Kind.COMMAND
        self._command = ""
        self._expects_ok = True
        self._echo = ""  # what the command in flight looks like where the modem echoes
        self.echoed = False
        """Whether the last command came back."""
        self._numeric: bool | None = None
        self._information: list[str] = []
        self._carrier_rate = 0
        self._line = bytearray()
        self._dropped = 0
        self._after_cr = False
        self._swallow_lf = False
        self._previous: str | None = None  # the line just before, where nothing recognised it
        self._fragment: str | None = None  # the first part of a line that an unsolicited code broke
        self._empty_since = False

    @property
    def busy(self) -> bool:
        """Whether a command is in flight."""
        return self._state is _State.WAITING

    # ---- out

    def command(self, command: str) -> bytes:
        """A command line, `AT` included, as bytes for the modem. Its `Answer` ends with OK or ERROR."""
        return self._start(_Kind.COMMAND, command)

    def dial(self, number: str, *, tone: bool = True) -> bytes:
        """ATD for `number`; by `tone`, where it does not begin with its own P or T (V.250 §6.3.2, §6.3.3)."""
        string = clean_number(number)
        self._carrier_rate = 0
        return self._start(_Kind.CALL, f"ATD{'T' if tone and string[0] not in 'PT' else ''}{string}")

    def escape(self) -> bytes:
        """The escape sequence, for a modem that is on line: the guard times before and after it are the caller's."""
        if self._state is _State.WAITING:
            raise LocalProtocolError("a command is in flight")
        self._begin(_Kind.ESCAPE, "")
        self._echo = ESCAPE.decode()
        return ESCAPE

    def abort(self) -> bytes:
        """The character that aborts a dial in flight (V.250 §5.6.1: any; not within 125 ms of its command line).
        The dial's `Answer` still comes, usually as NO CARRIER or OK."""
        if self._state is not _State.WAITING or self._kind is not _Kind.CALL:
            raise LocalProtocolError("no dial is in flight")
        self._expects_ok = True
        return b"\r"

    def give_up(self) -> None:
        """The command in flight gets no answer any more; should one come, it is `Unsolicited`."""
        if self._state is _State.WAITING:
            self._state = _State.READY

    def _start(self, kind: _Kind, command: str) -> bytes:
        if self._state is not _State.READY:
            raise LocalProtocolError("a command is in flight" if self.busy else "the modem is on line")
        if not command.isascii() or not command.isprintable() or len(command) > MAX_COMMAND:
            raise LocalProtocolError(f"{command!r} is no command line")
        self._begin(kind, command)
        self._echo = (self._echo if self._echo == ESCAPE.decode() else "") + command  # +++ has no line end
        if kind is _Kind.COMMAND and _CHANGES_FORM.search(command[2:]):
            self._numeric = None
        return command.encode("ascii") + b"\r"

    def _begin(self, kind: _Kind, command: str) -> None:
        self._state, self._kind, self._command = _State.WAITING, kind, command
        self._expects_ok = kind is not _Kind.CALL or command.endswith(";")
        self.echoed = False
        self._information = []

    # ---- in

    def receive_data(self, data: bytes) -> list[Event]:
        """Whatever the port brought; never raises for what is in it."""
        events: list[Event] = []
        for at, byte in enumerate(data):
            if self._state is _State.DATA:
                rest = data[at + 1 if self._swallow_lf and byte == LF else at :]
                self._swallow_lf = False
                if rest:
                    events.append(Data(rest))
                break
            if byte not in (CR, LF):
                self._after_cr = False
                if len(self._line) < MAX_LINE:
                    self._line.append(byte)
                else:
                    self._dropped += 1
            elif byte == LF and self._after_cr:
                self._after_cr = False
            else:
                self._after_cr = byte == CR
                self._end_of_line(events)
        return events

    def _end_of_line(self, events: list[Event]) -> None:
        text = self._line.decode("latin-1").translate(_IGNORED)
        self._line.clear()
        if self._dropped:
            events.append(Noise(MAX_LINE + self._dropped))
            self._dropped = 0
            self._previous = self._fragment = None
        elif text.strip():
            self._text(text, events)
        else:
            self._previous = None
            self._empty_since = True

    def _text(self, text: str, events: list[Event]) -> None:
        first, self._previous = self._previous, None
        found = self._recognise(text.strip())
        if isinstance(found, Unsolicited):
            if first is not None:
                self._fragment = first
            self._empty_since = False
            events.append(found)
            return
        if self._fragment is not None:
            if not self._empty_since:
                whole = self._fragment + text
                mended = self._recognise(whole.strip())
                if mended is not None or found is None:
                    self._forget(self._fragment)
                    text, found = whole, mended
            self._fragment = None
        if found is None:
            self._previous = text
            self._unknown(text.strip(), events)
        elif isinstance(found, Answer):
            self._end(found, events)
        elif not isinstance(found, _Echo):
            events.append(found)

    def _unknown(self, text: str, events: list[Event]) -> None:
        if self._state is _State.READY:
            events.append(Unsolicited(text))
        elif len(self._information) < MAX_INFORMATION:
            self._information.append(text)

    def _forget(self, fragment: str) -> None:
        if self._information and self._information[-1] == fragment.strip():
            self._information.pop()

    def _end(self, answer: Answer, events: list[Event]) -> None:
        self._state = _State.READY
        if answer.code is ResultCode.CONNECT and self._carries_data:
            self._state = _State.DATA
            # A line that ended with CR: a verbose code still has its LF to come, a numeric one has none.
            self._swallow_lf = self._after_cr and not self._numeric
            self._after_cr = False
        rate = self._carrier_rate or answer.rate if answer.code is ResultCode.CONNECT else 0
        events.append(Answer(answer.code, answer.text, tuple(self._information), rate))

    # ---- what a line is

    def _recognise(self, text: str) -> Answer | Unsolicited | Progress | _Echo | None:
        """What `text` is at this point; None: information, or nothing known."""
        waiting = self._state is _State.WAITING
        if waiting and self._command and text in (self._command, self._echo):
            self.echoed = True
            return _ECHO
        code, wording, rate = self._result(text)
        if code is not None:
            if waiting and code in _FINAL[self._kind] and (code is not ResultCode.OK or self._expects_ok):
                return Answer(code, wording, rate=rate)
            return Unsolicited(wording, code)
        word = text.upper()
        if waiting and self._kind is _Kind.CALL and _PROGRESS.match(word):
            if word.startswith(("CARRIER", "+MRR")):
                self._carrier_rate = _rate(word)
            return Progress(text)
        if _UNSOLICITED.match(word):
            name = _NAME.match(word)
            if not (waiting and name and name[0] in self._command.upper()):
                return Unsolicited(text)
        return None

    def _result(self, text: str) -> tuple[ResultCode | None, str, int]:
        """The result code that `text` is, its verbose wording, and CONNECT's rate."""
        word = text.upper()
        code = _WORDS.get(word)
        if code is None:
            code = next((code for form, code in _WITH_TEXT if form.fullmatch(word)), None)
        if code is not None:
            self._numeric = False
            return code, text, _rate(word) if code is ResultCode.CONNECT else 0
        if self._numeric is False or not _NUMBER.fullmatch(text):
            return None, text, 0
        calling = self._state is _State.WAITING and self._kind is _Kind.CALL
        code = _NUMBERS.get(text)
        if code is None or code not in (ResultCode.OK, ResultCode.ERROR, ResultCode.RING, ResultCode.NO_CARRIER):
            if not calling:
                return None, text, 0
            code = code or ResultCode.CONNECT
        self._numeric = True
        rate = _NUMBER_RATES.get(text, 0)
        return code, f"{code} {rate}" if rate else str(code), rate
