"""POP3, the server's side (RFC 1939; CAPA 2449, STLS 2595, response codes 2449 and 3206, AUTH 5034). SANS-IO.

It owns one session's state: what the client may do, its maildrop's numbers and sizes, which messages are marked as
deleted. It knows no passwords, files, locks or deadlines: those it asks its driver for by events.

Rules
1. `feed` what came; then `next_event` until it gives None (more must come first). Each event but `Flush` is answered
   by the methods that its docstring names, before the next `next_event`; a method out of turn is a
   LocalProtocolError. Nothing the client sends raises.
2. Replies gather in order and go out when the driver takes them with `data_to_send`: after None, and after every
   event. A flight of pipelined commands (RFC 2449 §6.6) so costs few writes. `Flush` comes when `OUT_LIMIT` is
   reached, so that a flight of short commands with long answers can't fill the memory.
3. What was received before TLS is forgotten once STLS is answered (RFC 2595 §4, as RFC 3207 §4.2 has it): a
   command slipped in before TLS is never obeyed after it.
4. Without TLS, and unless the driver says that plain logins are fine here, USER, PASS and AUTH are refused.
5. Marks of deletion are handed to the driver at QUIT and never otherwise (RFC 1939 §6).

Transitions. A command that is not in a state's row gets -ERR and leaves the state.

| state         | command                                         | event           | next                             |
|---------------|-------------------------------------------------|-----------------|----------------------------------|
| authorization | CAPA, USER                                      |                 | authorization                    |
| authorization | STLS                                            | StartTls        | authorization, once TLS is up    |
| authorization | PASS after USER, AUTH                           | LoginWanted     | transaction, or authorization    |
| authorization | AUTH without its response                       |                 | sasl                             |
| sasl          | a line                                          | LoginWanted     | transaction, or authorization    |
| transaction   | CAPA, STAT, LIST, UIDL, DELE, RSET, NOOP        |                 | transaction                      |
| transaction   | RETR, TOP                                       | RetrieveWanted  | transaction                      |
| transaction   | QUIT with marks                                 | UpdateWanted    | update, then closed              |
| any           | QUIT; WRONG_LIMIT wrong commands                | Close           | closed                           |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from appliance.protocol.errors import LineTooLong, LocalProtocolError
from appliance.protocol.linebuffer import LineBuffer
from appliance.protocol.pop3_body import Pop3Body
from appliance.protocol.sasl import MAX_LINE as SASL_LINE
from appliance.protocol.sasl import Credentials, SaslExchange, SaslProblem

__all__ = [
    "Close", "Event", "Flush", "Listed", "LoginWanted", "Pop3Server", "RetrieveWanted", "StartTls", "State",
    "UpdateWanted",
]  # fmt: skip

COMMAND_LINE: Final = 255 - 2
"""RFC 2449 §4: a command is at most 255 octets long, its CRLF among them."""
WRONG_LIMIT: Final = 20
"""Commands that were unknown, malformed, too long or out of place, in one session. A program that gropes for
features sends a few; one that does not speak POP3 sends nothing else."""
LOGIN_LIMIT: Final = 5
"""Refused logins in one session: programs try their mechanisms one after the other, hardly more."""
OUT_LIMIT: Final = 64 * 1024
"""Octets of replies that gather before they have to go out."""
DIGITS: Final = 9
"""Digits of a number from the client: no maildrop has a thousand million messages."""


class State(Enum):
    AUTHORIZATION = "authorization"
    SASL = "sasl"
    TRANSACTION = "transaction"
    UPDATE = "update"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Listed:
    """A message of the maildrop: its size in octets as it will be sent, dots not doubled (RFC 1939 §11), and its
    unique id of 1 to 70 characters 0x21 to 0x7E (RFC 1939 §7)."""

    size: int
    uidl: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send what is to be sent, then begin TLS and call `tls_started`."""


@dataclass(frozen=True, slots=True)
class LoginWanted:
    """Answer with `login_accepted` or `login_refused`."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RetrieveWanted:
    """Message `index` (from 0) is wanted, whole or (`lines` not None) its header and that many lines of its body.
    Answer with `retrieve_refused`, or with `body` until the message ends or `body_enough`, then `body_end`."""

    index: int
    lines: int | None = None


@dataclass(frozen=True, slots=True)
class UpdateWanted:
    """Delete these (from 0), durably, then call `updated`."""

    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """Enough replies have gathered: send them, then go on."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is to be sent, then close the connection. `why` for the journal, "" after a QUIT."""

    why: str = ""


Event = StartTls | LoginWanted | RetrieveWanted | UpdateWanted | Flush | Close


class _Wrong(Exception):
    """A command that gets -ERR and is counted; the text is the reply's."""


class _NoSuchMessage(Exception):
    """A number that names no message, or one marked as deleted: -ERR, and nothing wrong with the client."""


class Pop3Server:
    """One session. `plain_login`: credentials are taken without TLS (configured, or the client is on loopback);
    `tls_offered`: there is a certificate; `tls_active`: TLS is up already (implicit)."""

    def __init__(self, *, tls_offered: bool, tls_active: bool = False, plain_login: bool = False) -> None:
        self.state = State.AUTHORIZATION
        self._tls_offered = tls_offered
        self._tls_active = tls_active
        self._plain_login = plain_login
        self._in = LineBuffer(COMMAND_LINE)
        self._skipping = False
        self._out = bytearray(b"+OK POP3 ready\r\n")
        self._asked: Event | None = None
        self._user: str | None = None
        self._sasl: SaslExchange | None = None
        self._listed: Sequence[Listed] = ()
        self._deleted: set[int] = set()
        self._wrong = 0
        self._refused_logins = 0
        self._body: Pop3Body | None = None
        self._close_why: str | None = None

    # ---- the driver's side
    def feed(self, data: bytes | bytearray) -> None:
        """Takes what was received."""
        self._in.feed(data)

    @property
    def mid_command(self) -> bool:
        """Whether a command has begun to come and is not complete. Asked after `next_event` gave None."""
        return self._skipping or len(self._in) > 0

    def data_to_send(self) -> bytes:
        """Takes the replies so far."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def next_event(self) -> Event | None:
        """Obeys commands until one needs the driver; None when the next one has not come."""
        if self._asked is not None:
            raise LocalProtocolError(f"{self._asked} has not been answered")
        while True:
            if self._close_why is not None:
                self.state = State.CLOSED
                return Close(self._close_why)
            if len(self._out) >= OUT_LIMIT:
                return Flush()
            try:
                line = self._next_line()
                if line is None:
                    return None
                self._asked = self._sasl_line(line) if self.state is State.SASL else self._command(line)
            except _NoSuchMessage:
                self._reply(b"-ERR no such message")
            except _Wrong as wrong:
                self._wrong += 1
                if self._wrong >= WRONG_LIMIT:
                    self._close_why = "too many wrong commands"
                self._reply(b"-ERR %b" % (self._close_why or str(wrong)).encode())
            if self._asked is not None:
                return self._asked

    def login_accepted(self, listed: Sequence[Listed]) -> None:
        """The answer to LoginWanted: the maildrop is locked, and holds these."""
        self._answered(LoginWanted)
        self._listed = listed
        self.state = State.TRANSACTION
        self._reply(b"+OK %d messages" % len(listed))

    def login_refused(self, code: str, text: str) -> None:
        """The answer to LoginWanted: `code` is AUTH (wrong name or password, RFC 3206), IN-USE (RFC 2449 §8.1.2:
        another session has the maildrop) or SYS/TEMP."""
        self._answered(LoginWanted)
        self._reply(f"-ERR [{code}] {text}".encode())
        self._refused_logins += 1
        if self._refused_logins >= LOGIN_LIMIT:
            self._close_why = "too many refused logins"

    def tls_started(self) -> None:
        """The answer to StartTls: from here on all goes through TLS."""
        self._answered(StartTls)
        self._in.clear()
        self._skipping = False
        self._user = None
        self._tls_active = True

    def retrieve_refused(self, text: str) -> None:
        """The answer to RetrieveWanted when the message can't be had."""
        self._answered(RetrieveWanted)
        self._reply(f"-ERR {text}".encode())

    def body(self, data: bytes) -> None:
        """The next bytes of the message that RetrieveWanted asked for, cut anywhere; bare line feeds become CRLF."""
        if not isinstance(self._asked, RetrieveWanted):
            raise LocalProtocolError("no message was asked for")
        self._out += self._begun(self._asked).feed(data)

    @property
    def body_enough(self) -> bool:
        """Whether TOP needs no more of it."""
        return self._body is not None and self._body.enough

    def body_end(self) -> None:
        """The message ends here."""
        if not isinstance(self._asked, RetrieveWanted):
            raise LocalProtocolError("no message was asked for")
        self._out += self._begun(self._asked).finish()
        self._asked = self._body = None

    def updated(self, *, complete: bool) -> None:
        """The answer to UpdateWanted; `complete`: all of them are gone for good (RFC 1939 §6)."""
        self._answered(UpdateWanted)
        self._reply(b"+OK bye" if complete else b"-ERR [SYS/TEMP] some messages could not be deleted")
        self._close_why = ""

    # ---- inside
    def _answered(self, kind: type[Event]) -> None:
        if not isinstance(self._asked, kind):
            raise LocalProtocolError(f"{kind.__name__} was not asked")
        self._asked = None

    def _begun(self, asked: RetrieveWanted) -> Pop3Body:
        if self._body is None:
            size = self._listed[asked.index].size
            self._reply(b"+OK %d octets" % size if asked.lines is None else b"+OK")
            self._body = Pop3Body(asked.lines)
        return self._body

    def _reply(self, line: bytes) -> None:
        self._out += line + b"\r\n"

    def _lines(self, first: bytes, lines: Sequence[str]) -> None:
        """A multi-line answer of our own; none of its lines begins with a dot."""
        self._reply(first)
        self._out += "".join(f"{line}\r\n" for line in lines).encode()
        self._reply(b".")

    def _next_line(self) -> bytes | None:
        if self._skipping:
            if not self._in.skip_line():
                return None
            self._skipping = False
        self._in.max_line = SASL_LINE if self.state is State.SASL else COMMAND_LINE
        try:
            return self._in.next_line()
        except LineTooLong:
            self._skipping = not self._in.skip_line()
            if self.state is State.SASL:
                self._sasl, self.state = None, State.AUTHORIZATION
            raise _Wrong("the line is too long") from None

    def _command(self, line: bytes) -> Event | None:
        verb, _, argument = line.partition(b" ")
        name = verb.decode("ascii", "replace").upper()
        handler = _COMMANDS.get((self.state, name))
        if handler is None:
            raise _Wrong("not now" if any(n == name for _, n in _COMMANDS) else "unknown command")
        # Spaces belong to a password (RFC 1939 §7); behind anything else they are sloppiness.
        return handler(self, argument if name == "PASS" else argument.strip())

    # ---- authorization
    def _need_plain(self) -> None:
        if not (self._tls_active or self._plain_login):
            raise _Wrong("TLS is needed first: STLS" if self._tls_offered else "no login without TLS")

    def _user_command(self, argument: bytes) -> None:
        self._need_plain()
        if not argument:
            raise _Wrong("USER takes a name")
        self._user = argument.decode("utf-8", "replace")
        self._reply(b"+OK")

    def _pass_command(self, argument: bytes) -> Event:
        self._need_plain()
        if self._user is None:
            raise _Wrong("USER first")
        name, self._user = self._user, None
        return LoginWanted(name, argument.decode("utf-8", "surrogateescape"))

    def _auth_command(self, argument: bytes) -> Event | None:
        self._need_plain()
        mechanism, space, initial = argument.partition(b" ")
        if mechanism.upper() != b"PLAIN":
            raise _Wrong("AUTH PLAIN is to be had")
        self._sasl, self.state = SaslExchange("PLAIN"), State.SASL
        if space:
            return self._sasl_line(b"" if initial == b"=" else initial)
        self._reply(b"+ ")
        return None

    def _sasl_line(self, line: bytes) -> Event | None:
        exchange, self._sasl, self.state = self._sasl, None, State.AUTHORIZATION
        if exchange is None:
            raise LocalProtocolError("no exchange")
        try:
            credentials: Credentials | None = exchange.step(line)
        except SaslProblem as problem:
            raise _Wrong(str(problem)) from None
        return LoginWanted(credentials.name, credentials.password) if credentials else None

    def _stls_command(self, argument: bytes) -> Event:
        if not self._tls_offered or self._tls_active or argument:
            raise _Wrong("TLS is active" if self._tls_active else "no TLS here")
        self._reply(b"+OK begin TLS")
        return StartTls()

    def _capa_command(self, argument: bytes) -> None:
        # The same in both states, as RFC 2449 §6 asks of each of these.
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"]
        if self._tls_active or self._plain_login:
            lines += ["USER", "SASL PLAIN"]
        if self._tls_offered and not self._tls_active:
            lines.append("STLS")
        self._lines(b"+OK", [*lines, "IMPLEMENTATION Posthouse"])

    # ---- transaction
    def _number(self, argument: bytes) -> int:
        """The index of the message that the client named."""
        number = _decimal(argument)
        if not 1 <= number <= len(self._listed) or number - 1 in self._deleted:
            raise _NoSuchMessage
        return number - 1

    def _left(self) -> list[tuple[int, Listed]]:
        return [(i, m) for i, m in enumerate(self._listed) if i not in self._deleted]

    def _stat_command(self, argument: bytes) -> None:
        left = self._left()
        self._reply(b"+OK %d %d" % (len(left), sum(m.size for _, m in left)))

    def _list_command(self, argument: bytes) -> None:
        self._listing(argument, lambda m: str(m.size))

    def _uidl_command(self, argument: bytes) -> None:
        self._listing(argument, lambda m: m.uidl)

    def _listing(self, argument: bytes, show: Callable[[Listed], str]) -> None:
        if argument:
            index = self._number(argument)
            self._reply(f"+OK {index + 1} {show(self._listed[index])}".encode())
        else:
            left = self._left()
            self._lines(b"+OK %d messages" % len(left), [f"{i + 1} {show(m)}" for i, m in left])

    def _retr_command(self, argument: bytes) -> Event:
        return RetrieveWanted(self._number(argument))

    def _top_command(self, argument: bytes) -> Event:
        number, _, lines = argument.partition(b" ")
        return RetrieveWanted(self._number(number), _decimal(lines))

    def _dele_command(self, argument: bytes) -> None:
        self._deleted.add(self._number(argument))
        self._reply(b"+OK")

    def _rset_command(self, argument: bytes) -> None:
        self._deleted.clear()
        self._reply(b"+OK")

    def _noop_command(self, argument: bytes) -> None:
        self._reply(b"+OK")

    def _quit_command(self, argument: bytes) -> Event | None:
        if self._deleted:
            self.state = State.UPDATE
            return UpdateWanted(tuple(sorted(self._deleted)))
        self._reply(b"+OK bye")
        self._close_why = ""
        return None


_Handler = Callable[[Pop3Server, bytes], Event | None]

_COMMANDS: Final[dict[tuple[State, str], _Handler]] = {
    (State.AUTHORIZATION, "CAPA"): Pop3Server._capa_command,
    (State.AUTHORIZATION, "STLS"): Pop3Server._stls_command,
    (State.AUTHORIZATION, "USER"): Pop3Server._user_command,
    (State.AUTHORIZATION, "PASS"): Pop3Server._pass_command,
    (State.AUTHORIZATION, "AUTH"): Pop3Server._auth_command,
    (State.AUTHORIZATION, "QUIT"): Pop3Server._quit_command,
    (State.TRANSACTION, "CAPA"): Pop3Server._capa_command,
    (State.TRANSACTION, "STAT"): Pop3Server._stat_command,
    (State.TRANSACTION, "LIST"): Pop3Server._list_command,
    (State.TRANSACTION, "UIDL"): Pop3Server._uidl_command,
    (State.TRANSACTION, "RETR"): Pop3Server._retr_command,
    (State.TRANSACTION, "TOP"): Pop3Server._top_command,
    (State.TRANSACTION, "DELE"): Pop3Server._dele_command,
    (State.TRANSACTION, "RSET"): Pop3Server._rset_command,
    (State.TRANSACTION, "NOOP"): Pop3Server._noop_command,
    (State.TRANSACTION, "QUIT"): Pop3Server._quit_command,
}


def _decimal(text: bytes) -> int:
    text = text.strip()
    if not text.isdigit() or len(text) > DIGITS:
        raise _Wrong("a number is missing")
    return int(text)
