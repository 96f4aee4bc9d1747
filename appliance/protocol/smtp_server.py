"""SMTP submission, the server's side, without I/O (RFC 5321, 6409).

Theory of operation. `receive_data` takes bytes, `next_event` gives what happened, or NEED_DATA. The protocol
itself answers whatever needs no decision (wrong order, bad syntax, NOOP, HELP …); what needs one is an event that
the driver answers with one of the `accept…`, `refuse` or `reply` methods before it asks for the next event.
Replies gather in `data_to_send()`, so that what a client pipelined is answered in one flight (RFC 2920 §3.2).

    state      what may come                                                      next
    GREETING   EHLO, HELO                                                         READY
    READY      MAIL, AUTH, STARTTLS                                               MAIL
    MAIL       RCPT                                                               RCPT
    RCPT       RCPT, DATA, BDAT                                                   DATA, CHUNKS
    DATA       the message up to CR LF . CR LF                                    READY
    CHUNKS     BDAT (RFC 3030), until LAST                                        READY
    SASL       one line of a SASL exchange                                        READY
    TLS        nothing: what is buffered is dropped (RFC 3207 §4.2)               GREETING
    CLOSED     nothing

EHLO, HELO, RSET, NOOP, VRFY, HELP and QUIT may come anywhere but in DATA, SASL and TLS.

A bare CR or LF within a message is never a line end: the message is read to its true end and refused
(CVE-2023-51764 to 51766), in BDAT as well, since the message may go on by DATA.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from appliance.protocol.errors import LineTooLong, LocalProtocolError
from appliance.protocol.linebuffer import LineBuffer
from appliance.protocol.sasl import MAX_LINE, MECHANISMS, SaslExchange, SaslProblem
from appliance.protocol.smtp_body import BodyReader
from appliance.protocol.smtp_commands import parse_mail, parse_rcpt
from appliance.protocol.smtp_events import BodyEnd, BodyPiece, BodyStart, Closed, Event, LoginWanted, Reset, StartTls
from appliance.protocol.smtp_syntax import SyntaxProblem, reply

__all__ = ["NEED_DATA", "SmtpServer"]

MAX_COMMAND: Final = 4096
"""RFC 5321 §4.5.3.1.4 asks for 512 octets and more for each extension; Postfix and Exim take 2048 to 16384."""
MAX_NAME: Final = 255
"""Of the name in EHLO (RFC 5321 §4.5.3.1.2)."""
MAX_ERRORS: Final = 20
"""Refused commands of one session before it is closed: a client that far out of step only wastes the line's time."""


_EXTENSIONS: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "MT-PRIORITY")


_NOT_IN_NAMES: Final = re.compile(r"[^ -~]|[<>()\"\\]")


class _NeedData(Enum):
    NEED_DATA = auto()


NEED_DATA: Final = _NeedData.NEED_DATA


class _State(Enum):
    GREETING = auto()
    READY = auto()
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    CHUNKS = auto()
    SASL = auto()
    TLS = auto()
    CLOSED = auto()


class SmtpServer:
    """One session. The driver owns the socket and every decision; this owns order, syntax and limits.

    `tls_available`: STARTTLS is offered. `secure`: the session runs under TLS. `auth_available`: AUTH is offered
    when `secure`, or in any case where `plaintext_login`. `message_limit` in bytes.
    """

    def __init__(
        self,
        hostname: str,
        *,
        message_limit: int,
        tls_available: bool = False,
        secure: bool = False,
        auth_available: bool = True,
        plaintext_login: bool = False,
    ) -> None:
        self.hostname = hostname
        self.message_limit = message_limit
        self.secure = secure
        self.esmtp = False
        self.client_name = ""
        self.login = ""
        self._tls_available = tls_available
        self._auth_available = auth_available
        self._plaintext_login = plaintext_login
        self._state = _State.GREETING
        self._in = LineBuffer(MAX_LINE)
        self._out = bytearray()
        self._errors = 0
        self._skipping = False
        self._answer_owed = ""
        self._pending: Event | None = None
        self._clear_transaction()

    # ---- bytes
    def receive_data(self, data: bytes) -> None:
        """What the socket gave."""
        if self._state is not _State.CLOSED:
            self._in.feed(data)

    def data_to_send(self) -> bytes:
        """What the socket is owed; empties it."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def in_command(self) -> bool:
        """Whether a command has begun and not ended: the driver's deadline for it runs."""
        return bool(self._in) and self._state not in (_State.DATA, _State.CLOSED)

    @property
    def in_body(self) -> bool:
        """Whether a message has begun and not ended: the driver's minimum rate holds, between chunks too."""
        return self._state in (_State.DATA, _State.CHUNKS) or self._chunk_left > 0

    # ---- what the driver says
    def greet(self) -> None:
        """220, before anything else."""
        self._reply(220, f"{self.hostname} ESMTP Posthouse")

    def reply(self, code: int, status: str, text: str) -> None:
        """Any reply to the event at hand."""
        self._answer_owed = ""
        self._reply(code, text, status=status)

    def refuse(self, code: int, status: str, text: str) -> None:
        """Refuses the event at hand; the state stays as it was."""
        self.reply(code, status, text)
        if code >= 500:
            self._count_error()

    def accept_mail(self) -> None:
        self._owed("MAIL")
        self._state = _State.MAIL
        self._reply(250, "sender ok", status="2.1.0")

    def accept_rcpt(self) -> None:
        self._owed("RCPT")
        self._state = _State.RCPT
        self._reply(250, "recipient ok", status="2.1.5")

    def accept_data(self) -> None:
        self._owed("DATA")
        self._state = _State.DATA
        self._reply(354, "end with <CRLF>.<CRLF>")

    def message_done(self, code: int, status: str, text: str) -> None:
        """The one reply to a whole message; the transaction is over."""
        self._owed("BODY")
        self._clear_transaction()
        self._state = _State.READY
        self._reply(code, text, status=status)

    def accept_login(self, name: str) -> None:
        self._owed("AUTH")
        self.login = name
        self._state = _State.READY
        self._reply(235, "logged in", status="2.7.0")

    def refuse_login(self, code: int = 535, status: str = "5.7.8", text: str = "wrong name or password") -> None:
        self._owed("AUTH")
        self._state = _State.READY
        self._reply(code, text, status=status)
        self._count_error()

    def tls_started(self) -> None:
        """The handshake is done: everything known before it is forgotten (RFC 3207 §4.2)."""
        self.secure = True
        self.esmtp = False
        self.client_name = self.login = ""
        self._in.clear()
        self._clear_transaction()
        self._state = _State.GREETING

    def close(self, code: int, status: str, text: str) -> None:
        """Ends the session from our side (421 for time-outs and stops)."""
        if self._state is not _State.CLOSED:
            self._reply(code, f"{self.hostname} {text}", status=status)
            self._state = _State.CLOSED
            self._in.clear()

    # ---- events
    def next_event(self) -> Event | _NeedData:
        """The next thing that happened. An event that wants an answer must have had it before."""
        while True:
            if self._pending is not None:
                pending, self._pending = self._pending, None
                return pending
            if self._answer_owed:
                raise LocalProtocolError(f"{self._answer_owed} was not answered")
            if self._state is _State.CLOSED:
                return Closed("too many errors" if self._errors > MAX_ERRORS else "quit")
            if self._state is _State.TLS or not self._in:
                return NEED_DATA
            if self._state is _State.DATA:
                return self._body_event()
            event = self._chunk_event() if self._chunk_left else self._line_event()
            if event is not None:
                return event

    def _line_event(self) -> Event | _NeedData | None:
        if self._skipping:
            if not self._in.skip_line():
                return NEED_DATA
            self._skipping = False
            self._error(500, "5.5.2", "that line is too long")
            return None
        try:
            line = self._in.next_line()
        except LineTooLong:
            self._skipping = True
            return None
        if line is None:
            return NEED_DATA
        if self._state is _State.SASL:
            return self._sasl_line(line)
        if len(line) > MAX_COMMAND and line[:5].upper() != b"AUTH ":
            self._error(500, "5.5.2", f"a command has at most {MAX_COMMAND} octets")
            return None
        verb, _, argument = line.decode("utf-8", "surrogateescape").partition(" ")
        handler = _VERBS.get(verb.upper())
        if handler is None:
            self._error(500, "5.5.1", "unknown command")
            return None
        if self._state is _State.CHUNKS and handler not in _IN_CHUNKS:
            self._error(503, "5.5.1", "BDAT or RSET is expected")
            return None
        try:
            return handler(self, argument)
        except SyntaxProblem as problem:
            self._error(problem.code, problem.status, str(problem))
            return None

    # ---- the verbs
    def _ehlo(self, argument: str) -> Event | None:
        return self._hello(argument, esmtp=True)

    def _helo(self, argument: str) -> Event | None:
        return self._hello(argument, esmtp=False)

    def _hello(self, argument: str, *, esmtp: bool) -> Event | None:
        # Computers have names in any script, and their mail programs say them here; they stand in Received.
        name = _NOT_IN_NAMES.sub("?", argument.strip())
        if not name or len(name) > MAX_NAME or " " in name:
            raise SyntaxProblem(501, "5.5.4", "your name is missing or malformed")
        began = self._state not in (_State.GREETING, _State.READY)
        self._clear_transaction()
        self._state = _State.READY
        self.esmtp, self.client_name = esmtp, name
        if not esmtp:
            self._reply(250, self.hostname)
        else:
            lines = [self.hostname, f"SIZE {self.message_limit}", *_EXTENSIONS]
            if self._tls_available and not self.secure:
                lines.append("STARTTLS")
            if self._auth_allowed:
                lines.append(f"AUTH {' '.join(MECHANISMS)}")
            self._reply(250, *lines)
        return Reset() if began else None

    @property
    def _auth_allowed(self) -> bool:
        return self._auth_available and (self.secure or self._plaintext_login)

    def _starttls(self, argument: str) -> Event | None:
        if not self._tls_available or self.secure:
            raise SyntaxProblem(502, "5.5.1", "TLS is not to be had" if not self.secure else "TLS is on already")
        if argument.strip():
            raise SyntaxProblem(501, "5.5.4", "STARTTLS takes no parameter")
        if self._state is not _State.READY:
            raise SyntaxProblem(503, "5.5.1", "EHLO first, and no transaction under way")
        self._state = _State.TLS
        self._in.clear()
        self._reply(220, "go ahead", status="2.0.0")
        return StartTls()

    def _auth(self, argument: str) -> Event | None:
        mechanism, _, initial = argument.strip().partition(" ")
        mechanism = mechanism.upper()
        if not self._auth_allowed:
            if self._auth_available and self._tls_available:
                raise SyntaxProblem(538, "5.7.11", "STARTTLS first")
            raise SyntaxProblem(502, "5.5.1", "AUTH is not to be had")
        if self._state is not _State.READY or not self.esmtp or self.login:
            raise SyntaxProblem(503, "5.5.1", "logged in already" if self.login else "EHLO first, no mail under way")
        try:
            self._sasl = SaslExchange(mechanism)
        except SaslProblem as problem:
            raise SyntaxProblem(504, "5.5.4", str(problem)) from None
        self._state = _State.SASL
        if initial:
            return self._sasl_line(b"" if initial == "=" else initial.encode("ascii", "replace"))
        self._reply(334, self._sasl.challenge)
        return None

    def _sasl_line(self, line: bytes) -> Event | None:
        try:
            credentials = self._sasl.step(line)
        except SaslProblem as problem:
            self._state = _State.READY
            self._error(501, "5.5.2", str(problem))
            return None
        if credentials is None:
            self._reply(334, self._sasl.challenge)
            return None
        self._answer_owed = "AUTH"
        return LoginWanted(credentials.name, credentials.password)

    def _mail(self, argument: str) -> Event | None:
        self._need(_State.READY, "EHLO first" if self._state is _State.GREETING else "a sender is given already")
        event = parse_mail(argument, esmtp=self.esmtp)
        if event.size > self.message_limit:
            raise SyntaxProblem(552, "5.3.4", f"a message may have {self.message_limit} bytes")  # RFC 1870 §6.1
        self._utf8 = event.smtputf8
        self._answer_owed = "MAIL"
        return event

    def _rcpt(self, argument: str) -> Event | None:
        if self._state is not _State.RCPT:
            self._need(_State.MAIL, "MAIL first")
        event = parse_rcpt(argument, esmtp=self.esmtp, utf8=self._utf8)
        self._answer_owed = "RCPT"
        return event

    def _data(self, argument: str) -> Event | None:
        if argument.strip():
            raise SyntaxProblem(501, "5.5.4", "DATA takes no parameter")
        self._need(_State.RCPT, "no valid recipients" if self._state is _State.MAIL else "MAIL first")
        self._answer_owed = "DATA"
        return BodyStart(chunking=False)

    def _bdat(self, argument: str) -> Event | None:
        words = argument.upper().split()
        if (
            not 1 <= len(words) <= 2
            or not words[0].isascii()
            or not words[0].isdigit()
            or words[1:] not in ([], ["LAST"])
            or len(words[0]) > 18
        ):
            # How many octets follow is not known: going on would take them for commands.
            self.close(501, "5.5.4", "BDAT SIZE [LAST] is expected; closing")
            return None
        first = self._state is _State.RCPT
        self._chunk_left = self._chunk_size = int(words[0])
        self._chunk_last = len(words) == 2
        self._chunk_refused = not first and self._state is not _State.CHUNKS
        if first:
            self._state = _State.CHUNKS
        end = None if self._chunk_left else self._end_of_chunk()
        if not first:
            return end
        self._pending = end
        return BodyStart(chunking=True)

    def _rset(self, argument: str) -> Event | None:
        began = self._state not in (_State.GREETING, _State.READY)
        self._clear_transaction()
        if self._state is not _State.GREETING:
            self._state = _State.READY
        self._reply(250, "ok", status="2.0.0")
        return Reset() if began else None

    def _noop(self, argument: str) -> Event | None:
        self._reply(250, "ok", status="2.0.0")
        return None

    def _vrfy(self, argument: str) -> Event | None:
        self._reply(252, "send some mail, it will be seen", status="2.5.0")  # RFC 5321 §3.5.3
        return None

    def _help(self, argument: str) -> Event | None:
        self._reply(214, "RFC 5321 and 6409 say it all", status="2.0.0")
        return None

    def _quit(self, argument: str) -> Event | None:
        self._reply(221, f"{self.hostname} bye", status="2.0.0")
        self._state = _State.CLOSED
        self._in.clear()
        return None

    # ---- the message
    def _body_event(self) -> Event | _NeedData:
        """DATA: pieces up to the end of data, then the end."""
        piece = self._body.feed_stuffed(self._in.take())
        if self._body.ended:
            self._in.feed(self._body.rest)
            end = self._end_of_body()
            if not piece:
                return end
            self._pending = end
        return BodyPiece(piece) if piece else NEED_DATA

    def _chunk_event(self) -> Event | None:
        """BDAT: pieces of the chunk; its reply behind its last octet (RFC 3030 §2)."""
        data = self._in.take(self._chunk_left)
        self._chunk_left -= len(data)
        piece = b"" if self._chunk_refused else self._body.feed(data)
        if not self._chunk_left:
            self._pending = self._end_of_chunk()
        return BodyPiece(piece) if piece else None

    def _end_of_chunk(self) -> Event | None:
        if self._chunk_refused:
            self._chunk_refused = False
            self._error(503, "5.5.1", "no valid recipients" if self._state is _State.MAIL else "MAIL first")
        elif self._chunk_last:
            return self._end_of_body()
        else:
            self._reply(250, f"{self._chunk_size} octets", status="2.0.0")
        return None

    def _end_of_body(self) -> BodyEnd:
        self._answer_owed = "BODY"
        return BodyEnd(self._body.problem())

    # ---- inside
    def _clear_transaction(self) -> None:
        self._utf8 = False
        self._body = BodyReader(self.message_limit)
        self._chunk_left = self._chunk_size = 0
        self._chunk_last = self._chunk_refused = False

    def _need(self, state: _State, text: str) -> None:
        if self._state is not state:
            raise SyntaxProblem(503, "5.5.1", text)

    def _owed(self, what: str) -> None:
        if self._answer_owed != what:
            raise LocalProtocolError(f"{what} was answered, {self._answer_owed or 'nothing'} was owed")
        self._answer_owed = ""

    def _reply(self, code: int, *lines: str, status: str = "") -> None:
        self._out += reply(code, *lines, status=status)

    def _error(self, code: int, status: str, text: str) -> None:
        self._reply(code, text, status=status)
        self._count_error()

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors > MAX_ERRORS:
            self.close(421, "4.7.0", "too many errors")


_VERBS: Final = {
    "EHLO": SmtpServer._ehlo,
    "HELO": SmtpServer._helo,
    "STARTTLS": SmtpServer._starttls,
    "AUTH": SmtpServer._auth,
    "MAIL": SmtpServer._mail,
    "RCPT": SmtpServer._rcpt,
    "DATA": SmtpServer._data,
    "BDAT": SmtpServer._bdat,
    "RSET": SmtpServer._rset,
    "NOOP": SmtpServer._noop,
    "VRFY": SmtpServer._vrfy,
    "EXPN": SmtpServer._vrfy,
    "HELP": SmtpServer._help,
    "QUIT": SmtpServer._quit,
}
_IN_CHUNKS: Final = (SmtpServer._bdat, SmtpServer._rset, SmtpServer._noop, SmtpServer._quit)
