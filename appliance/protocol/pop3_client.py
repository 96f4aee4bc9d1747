"""The client's side of POP3, sans-IO: RFC 1939, with CAPA, PIPELINING and response codes (2449, 3206), STLS (2595)
and AUTH PLAIN (5034, 4616).

It owns the state of one connection: what was asked, and which answer is whose. It knows nothing of sockets,
deadlines, mailboxes or which messages are wanted.

Rules.
1. Answers come in the order of the commands (RFC 1939 §3). Every command that goes out puts one entry into
   `_expected`; its status line, and for a multi-line answer the line of one dot, ends it.
2. With PIPELINING (RFC 2449 §6.6) commands go out at once, else the next one after the last one's answer. Login is
   never pipelined with what follows it: a server hands the connection over to another program there.
3. A body goes out as it comes, dots undone, never held as a whole. Its bytes are as the server sent them; only
   CR LF . CR LF ends it.
4. DELE counts when QUIT was answered +OK, not before (RFC 1939 §6).
5. What comes behind the answer to STLS was not protected, and ends the connection.

| asked for          | +OK                                          | -ERR                                   |
|--------------------|----------------------------------------------|----------------------------------------|
| (greeting)         | STLS if wanted, else CAPA                    | `Refused`                              |
| STLS               | `StartTls`; after `tls_started` CAPA         | `Refused`                              |
| CAPA               | AUTH PLAIN if offered, else USER and PASS    | nothing is offered: USER, then PASS    |
| AUTH, PASS         | `Ready`                                      | `Refused`                              |
| UIDL, STAT         | `Survey`, when both are there                | UIDL: none; STAT: no total             |
| LIST               | `Listing`                                    | `Refused`; of one message: none        |
| TOP                | `Header`                                     | `Header` without data                  |
| RETR               | `BodyData`, then `BodyEnd`                   | `NotRetrieved`                         |
| DELE               | `Deleted`                                    | `Deleted` with done = False            |
| QUIT               | `Closed` with committed = True               | `Closed`                               |
"""

from __future__ import annotations

import base64
import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from appliance.protocol.dots import Unstuffer
from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.linebuffer import LineBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BodyData",
    "BodyEnd",
    "Closed",
    "Deleted",
    "Event",
    "Header",
    "Listed",
    "Listing",
    "NotRetrieved",
    "Pop3Client",
    "Ready",
    "Refused",
    "StartTls",
    "Survey",
]

MAX_LINE: Final = 2048
"""Bytes of a status or listing line: four times RFC 2449 §4's 512, since servers write whole sentences."""

MAX_LISTING: Final = 16 << 20
"""Bytes of one listing: 200,000 messages with unique-ids of 70 characters (RFC 1939 §7), a mailbox that nobody has."""

MAX_HEADER: Final = 256 * 1024
"""Bytes of a header that TOP brings which are kept; what is more is let go by."""

MAX_COMMAND: Final = 255
"""Bytes of a command line (RFC 2449 §4): a longer initial response is sent by itself (RFC 5034 §4)."""

_CODE: Final = re.compile(r"\[([A-Za-z0-9/_-]+)[^\]]*\]\s*")
_TEMPORARY: Final = frozenset({"IN-USE", "LOGIN-DELAY", "SYS/TEMP"})  # RFC 2449 §8.1, RFC 3206 §4


class _Ask(StrEnum):
    GREETING = "the greeting"
    STLS = "STLS"
    CAPA = "CAPA"
    AUTH = "AUTH"
    USER = "USER"
    PASS = "PASS"
    UIDL = "UIDL"
    STAT = "STAT"
    LIST = "LIST"
    TOP = "TOP"
    RETR = "RETR"
    DELE = "DELE"
    QUIT = "QUIT"


_LOGIN: Final = frozenset({_Ask.AUTH, _Ask.USER, _Ask.PASS})
_LISTS: Final = frozenset({_Ask.CAPA, _Ask.UIDL, _Ask.LIST})
_BODIES: Final = frozenset({_Ask.TOP, _Ask.RETR})


# ---- what the user gets
@dataclass(frozen=True, slots=True)
class StartTls:
    """The TLS handshake is due; then `tls_started`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Logged in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The session can't go on. `login`: it was the name or password that was refused; `temporary`: the server said
    so by a response code, or it was not the login."""

    text: str
    login: bool
    temporary: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What is there: number -> unique-id (None: the server has none), how many messages and octets; the octets are
    None where the server would not say."""

    uids: dict[int, str] | None
    count: int
    octets: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """One message: its number in this session, its size in octets as the server counts, its unique-id or None. `exact`:
    the size is the message's own, and no share of several messages' total."""

    number: int
    size: int
    uid: str | None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    messages: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Answer to `top`; None: the server would not."""

    number: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class BodyData:
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The message is whole."""

    number: int


@dataclass(frozen=True, slots=True)
class NotRetrieved:
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Deleted:
    number: int
    done: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over. `committed`: QUIT was answered +OK, what was deleted is gone."""

    committed: bool
    text: str


Event = StartTls | Ready | Refused | Survey | Listing | Header | BodyData | BodyEnd | NotRetrieved | Deleted | Closed


class Pop3Client:
    """One connection. `receive` what came and act on its events; send `data_to_send` after every call of any method.

    `starttls`: TLS must be had by STLS, before the login.
    """

    def __init__(self, login: str, password: str, *, starttls: bool = False) -> None:
        self.capabilities: dict[str, str] = {}
        """Keyword in upper case -> its arguments."""
        self._login, self._password, self._want_tls = login, password, starttls
        self._lines = LineBuffer(MAX_LINE)
        self._out = bytearray()
        self._commands: deque[tuple[bytes, tuple[_Ask, int]]] = deque()
        self._expected: deque[tuple[_Ask, int]] = deque([(_Ask.GREETING, 0)])
        self._listing: list[str] | None = None  # the multi-line answer of lines that is being read
        self._listed = 0  # its bytes so far
        self._body: Unstuffer | None = None  # the one of message bytes
        self._header = bytearray()
        self._uids: dict[int, str] | None = None
        self._ready = self._over = self._quitting = False

    # ---- facts
    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.capabilities

    @property
    def awaiting(self) -> bool:
        """Whether an answer is due."""
        return bool(self._expected)

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._over or self._quitting

    def data_to_send(self) -> bytes:
        """What is to go out now; it is handed over once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    # ---- commands, once Ready
    def survey(self) -> None:
        """UIDL and STAT; answered by one `Survey`."""
        self._command("UIDL", _Ask.UIDL)
        self._command("STAT", _Ask.STAT)

    def list_messages(self) -> None:
        """Every message's size, and its unique-id as the last `Survey` had it; answered by one `Listing`."""
        self._command("LIST", _Ask.LIST)

    def list_message(self, number: int) -> None:
        """One message's; answered by a `Listing` of it, or of none."""
        self._command(f"LIST {number}", _Ask.LIST, number)

    def top(self, number: int, lines: int = 0) -> None:
        """The header and so many lines of the body; answered by `Header`."""
        self._command(f"TOP {number} {lines}", _Ask.TOP, number)

    def retrieve(self, number: int) -> None:
        """The message; answered by `BodyData` … `BodyEnd`, or `NotRetrieved`."""
        self._command(f"RETR {number}", _Ask.RETR, number)

    def delete(self, number: int) -> None:
        """Answered by `Deleted`."""
        self._command(f"DELE {number}", _Ask.DELE, number)

    def quit(self) -> None:
        """Answered by `Closed`; deletes what was deleted. Nothing may be asked any more."""
        self._command("QUIT", _Ask.QUIT)
        self._quitting = True

    def tls_started(self) -> None:
        """The handshake is done."""
        self._want_tls = False
        self._ask("CAPA", _Ask.CAPA)

    def _command(self, line: str, ask: _Ask, number: int = 0) -> None:
        if not self._ready or self.over:
            raise LocalProtocolError("nothing can be asked now")
        self._ask(line, ask, number)

    def _ask(self, line: str, ask: _Ask, number: int = 0) -> None:
        self._commands.append((line.encode() + b"\r\n", (ask, number)))
        self._pump()

    def _pump(self) -> None:
        while self._commands and (not self._expected or self.pipelining):
            line, expected = self._commands.popleft()
            self._out += line
            self._expected.append(expected)

    # ---- receiving
    def receive(self, data: bytes) -> list[Event]:
        """What `data` means; b"" is the end of the stream. Raises RemoteProtocolError, after which the connection is
        as good as closed. What came before it in `data` holds, so an error behind events is not raised but told by a
        `Closed` behind them."""
        if self._over:
            return []
        if not data:
            self._over = True
            return [Closed(False, "the server closed the connection")]
        events: list[Event] = []
        try:
            self._take(data, events)
        except RemoteProtocolError as error:
            self._over = True
            if not events:
                raise
            events.append(Closed(False, str(error)))
        if not self._over:
            self._pump()
        return events

    def _take(self, data: bytes, events: list[Event]) -> None:
        while not self._over:
            if self._body is not None:
                piece = self._body.feed(data)
                data = self._body.rest
                events += self._on_body(piece, ended=self._body.ended)
                if self._body is not None:
                    return
            if data:
                self._lines.feed(data)
                data = b""
            line = self._lines.next_line()
            if line is None:
                return
            text = line.decode("utf-8", "replace")
            if self._listing is None:
                events += self._on_status(text)
            elif text == ".":
                lines, self._listing = self._listing, None
                events += self._on_list(self._expected.popleft()[0], lines)
            else:
                self._listing.append(text.removeprefix("."))
                self._listed += len(line)
                if self._listed > MAX_LISTING:
                    raise RemoteProtocolError(f"the answer to {self._expected[0][0]} has more than {MAX_LISTING} bytes")
            if self._body is not None:
                data = self._lines.take()

    def _on_status(self, line: str) -> Iterator[Event]:
        if not self._expected:
            raise RemoteProtocolError(f"an answer to nothing: {line[:80]}")
        ask, number = self._expected[0]
        status, _, text = line.partition(" ")
        if ask is _Ask.AUTH and status == "+":  # it wants the response by itself (RFC 5034 §4)
            self._expected.popleft()
            self._ask(self._plain(), _Ask.PASS)
        elif status == "+OK" and ask in _LISTS and not number:
            self._listing, self._listed = [], 0
        elif status == "+OK" and ask in _BODIES:
            self._body = Unstuffer()
        elif status == "+OK":
            self._expected.popleft()
            yield from self._on_ok(ask, number, text)
        elif status == "-ERR":
            self._expected.popleft()
            yield from self._on_error(ask, number, text)
        else:
            raise RemoteProtocolError(f"that is no answer to {ask}: {line[:80]}")

    def _on_ok(self, ask: _Ask, number: int, text: str) -> Iterator[Event]:
        match ask:
            case _Ask.GREETING if self._want_tls:
                self._ask("STLS", _Ask.STLS)
            case _Ask.GREETING:
                self._ask("CAPA", _Ask.CAPA)
            case _Ask.STLS:
                if len(self._lines):
                    raise RemoteProtocolError("something came unprotected behind the answer to STLS")
                yield StartTls()
            case _Ask.USER:
                if not self.pipelining:
                    self._ask(f"PASS {self._password}", _Ask.PASS)
            case _Ask.AUTH | _Ask.PASS:
                self._ready = True
                yield Ready()
            case _Ask.STAT:
                count, octets = _numbered(text)
                yield Survey(self._uids, count, _octets(octets))
            case _Ask.LIST:
                yield self._listing_of([text])
            case _Ask.DELE:
                yield Deleted(number, True)
            case _:  # QUIT
                self._over = True
                yield Closed(True, text)

    def _on_error(self, ask: _Ask, number: int, text: str) -> Iterator[Event]:
        match ask:
            case _Ask.CAPA:
                yield from self._log_in()
            case _Ask.UIDL:
                self._uids = None
            case _Ask.STAT:
                yield Survey(self._uids, len(self._uids or ()), None)
            case _Ask.LIST if number:
                yield Listing(())
            case _Ask.TOP:
                yield Header(number, None)
            case _Ask.RETR:
                yield NotRetrieved(number, text)
            case _Ask.DELE:
                yield Deleted(number, False)
            case _Ask.QUIT:
                self._over = True
                yield Closed(False, text)
            case _:
                self._over = True
                code = _CODE.match(text)
                login = ask in _LOGIN
                temporary = not login or (code is not None and code[1].upper() in _TEMPORARY)
                yield Refused(f"{ask} was answered -ERR {text}".rstrip(), login and not temporary, temporary)

    def _on_list(self, ask: _Ask, lines: list[str]) -> Iterator[Event]:
        match ask:
            case _Ask.CAPA:
                words = (line.partition(" ") for line in lines)
                self.capabilities = {keyword.upper(): arguments for keyword, _, arguments in words}
                yield from self._log_in()
            case _Ask.UIDL:
                self._uids = {number: uid for number, uid in map(_numbered, lines) if uid}
            case _:  # LIST
                yield self._listing_of(lines)

    def _listing_of(self, lines: list[str]) -> Listing:
        uids = self._uids or {}
        return Listing(tuple(Listed(n, _octets(size), uids.get(n)) for n, size in map(_numbered, lines)))

    def _on_body(self, piece: bytes, *, ended: bool) -> Iterator[Event]:
        ask, number = self._expected[0]
        if ask is _Ask.TOP:
            self._header += piece[: MAX_HEADER - len(self._header)]
        elif piece:
            yield BodyData(number, piece)
        if ended:
            self._body = None
            self._expected.popleft()
            if ask is _Ask.TOP:
                yield Header(number, bytes(self._header))
                self._header.clear()
            else:
                yield BodyEnd(number)

    # ---- login
    def _log_in(self) -> Iterator[Event]:
        if any(c in "\r\n\0" for c in self._login + self._password):
            self._over = True
            yield Refused("the login or its password holds a line end", login=True, temporary=False)
        elif "PLAIN" in self.capabilities.get("SASL", "").upper().split():
            line = f"AUTH PLAIN {self._plain()}"
            self._ask(line if len(line) + 2 <= MAX_COMMAND else "AUTH PLAIN", _Ask.AUTH)
        else:
            self._ask(f"USER {self._login}", _Ask.USER)
            if self.pipelining:
                self._ask(f"PASS {self._password}", _Ask.PASS)

    def _plain(self) -> str:
        return base64.b64encode(f"\0{self._login}\0{self._password}".encode()).decode()


def _numbered(line: str) -> tuple[int, str]:
    """A line of LIST or UIDL: the message's number, and the word behind it."""
    number, _, rest = line.strip().partition(" ")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise RemoteProtocolError(f"that is no line of a listing: {line[:80]}")
    return int(number), rest.strip().partition(" ")[0]


def _octets(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 16):
        raise RemoteProtocolError(f"that is no size: {word[:80]}")
    return int(word)
