"""The client's side of SMTP, sans-IO: RFC 5321, with PIPELINING (2920), CHUNKING (3030), STARTTLS (3207), AUTH (4954),
SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531), DSN (3461) and MT-PRIORITY (6710) where the server offers them.

It owns the state of one connection: what was asked, what each reply answers, what each recipient was told. It knows
nothing of sockets, deadlines, queues or files; what to do about a verdict is its user's.

Rules.
1. Replies answer commands in their order (RFC 5321 §2.4, 2920 §3.1). Every command that goes out puts one entry into
   `_expected`, every reply takes one out. A reply to nothing is an error of the server's, but for 421.
2. Commands wait in `_commands`. With PIPELINING all go out at once, else the next one after the last one's reply.
3. The last command of a flight is DATA. Behind the end of data the next message's commands may follow without a wait
   (RFC 2920 §3.1), so a message costs one round trip; at most one message is then unanswered. With CHUNKING nothing is
   waited for: `BDAT n LAST` follows the last RCPT, its n bytes that, and the next MAIL these (RFC 3030 §4.2). What the
   server said of MAIL and RCPT is then known when the body has gone; its reply to BDAT ends the transaction.
4. A transaction that the server opened and that did not reach the end of data is closed by RSET before the next. With
   CHUNKING that is not known yet when the next begins, so RSET stands before each MAIL behind an unanswered BDAT: where
   every recipient was refused Exim keeps it open, refuses that MAIL, and takes its message under the sender of the one
   before.
5. 354 to a DATA whose recipients were all refused is answered by an empty message, whose reply counts for nothing
   (RFC 2920 §3.1).
6. What comes behind the reply to STARTTLS was not protected, and ends the connection (RFC 3207 §4.2).

| stage     | reply                | then                                                                       |
|-----------|----------------------|----------------------------------------------------------------------------|
| GREETING  | 2yz                  | EHLO                                                                       |
| EHLO      | 2yz                  | STARTTLS if wanted and not yet done; else AUTH if there is a login; else `Ready` |
| EHLO      | 5yz                  | HELO, unless TLS or a login is wanted                                      |
| HELO      | 2yz                  | `Ready`                                                                    |
| STARTTLS  | 2yz                  | `StartTls`; after `tls_started` EHLO again                                 |
| AUTH      | 334                  | the next answer of the mechanism                                           |
| AUTH      | 2yz                  | `Ready`                                                                    |
| MAIL      | login wanted, 503    | `Refused`: the session lacks something, the message is not to blame        |
| MAIL, RCPT| any other            | remembered for the verdict                                                 |
| DATA      | 3yz                  | `SendBody`, or rule 5                                                      |
| DATA      | 4yz, 5yz             | `Finished`                                                                 |
| END       | any                  | `Finished`                                                                 |
| RSET      | any                  | nothing                                                                    |
| QUIT      | any                  | `Closed`                                                                   |
| up to AUTH| any other            | `Refused`                                                                  |
| any       | 421, end of stream   | `Closed`; a message whose end of data it answers is `Finished` first       |

The way a body is framed is known to `start`, `send_body` and `end_body` alone.
"""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from appliance.protocol.dots import Stuffer
from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.smtp_mail import Mail, Rcpt, size_limit
from appliance.protocol.smtp_reply import Reply, ReplyReader, extensions_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Closed",
    "Event",
    "Finished",
    "Mail",
    "Rcpt",
    "Ready",
    "Refused",
    "Reply",
    "SendBody",
    "SmtpClient",
    "Stage",
    "StartTls",
]

MAX_COMMAND: Final = 512
"""Bytes of a command line (RFC 5321 §4.5.3.1.4): a longer initial response is sent by itself (RFC 4954 §4)."""


class Stage(StrEnum):
    """What a reply answers."""

    GREETING = "the greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END = "the end of data"
    RSET = "RSET"
    QUIT = "QUIT"


# ---- what the user gets
@dataclass(frozen=True, slots=True)
class StartTls:
    """The TLS handshake is due; then `tls_started`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Logged in as far as was asked; `start` may be called."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not have this session; nothing more can be done with it. `reply` is None where an extension
    that is needed is not offered; `text` says in words what went wrong."""

    stage: Stage
    reply: Reply | None
    text: str


@dataclass(frozen=True, slots=True)
class SendBody:
    """The newest transaction's body may go: `send_body`, then `end_body`. `accepted`: indexes of its recipients."""

    accepted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The oldest transaction is answered: the last reply for each of its recipients, in their order. `more`: some
    were refused only because they were too many at once (RFC 5321 §4.5.3.1.10), others were taken. `accepted`: indexes
    of those whose reply is that to the message itself."""

    replies: tuple[Reply, ...]
    more: bool = False
    accepted: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over: by 421 or after QUIT (`reply`), or without a word, or by what is no SMTP (None)."""

    reply: Reply | None
    after_quit: bool = False
    text: str = field(default="", compare=False)


Event = StartTls | Ready | Refused | SendBody | Finished | Closed


@dataclass(slots=True, eq=False)
class _Transaction:
    """`opened`: MAIL was accepted. `data`: 354 came, or none is waited for; `ended`: the end of data is among what goes
    out; `left`: bytes of a BDAT still to be put out, None where the body goes by DATA."""

    mail: Mail
    rcpt: list[Reply | None]
    refusal: Reply | None = None
    opened: bool = False
    data: bool = False
    ended: bool = False
    left: int | None = None
    stuffer: Stuffer = field(default_factory=Stuffer)

    @property
    def accepted(self) -> tuple[int, ...]:
        return tuple(i for i, r in enumerate(self.rcpt) if r is not None and r.ok) if self.opened else ()

    def finish(self, last: Reply) -> Finished:
        """The verdicts, `last` being the reply to DATA or to the end of data."""
        if self.refusal is not None:
            return Finished((self.refusal,) * len(self.rcpt))
        accepted = self.accepted
        out, more = [], False
        for reply in self.rcpt:
            if reply is None or reply.ok:
                out.append(last)
                continue
            too_many = bool(accepted) and reply.code in (452, 552) and reply.status[2:] in ("", "5.3")
            more = more or (too_many and last.ok)
            out.append(replace(reply, soft=True) if too_many else reply)
        return Finished(tuple(out), more, accepted)


@dataclass(frozen=True, slots=True)
class _Expected:
    stage: Stage
    transaction: _Transaction | None = None
    index: int = 0


class SmtpClient:
    """One connection. `receive` what came and act on its events; send `data_to_send` after every call of any method.

    `name` is what EHLO says. `starttls`: TLS must be had by STARTTLS, before anything else. `login`: AUTH must
    succeed ("" for none); whether the connection is fit to carry a password is the user's to see to.
    """

    def __init__(
        self, name: str, *, starttls: bool = False, login: str = "", password: str = "", may_chunk: bool = True
    ) -> None:
        self.extensions: dict[str, str] = {}
        """Keyword in upper case -> its parameters, of the last EHLO."""
        self._name, self._want_tls, self._login, self._password = name, starttls, login, password
        self._may_chunk = may_chunk
        self._reader = ReplyReader()
        self._out = bytearray()
        self._commands: deque[tuple[bytes, _Expected]] = deque()
        self._expected: deque[_Expected] = deque([_Expected(Stage.GREETING)])
        self._transaction: _Transaction | None = None  # the newest; an older one is in `_expected` alone
        self._answers: deque[str] = deque()  # what AUTH still has to say
        self._needs_reset = False
        self._ready = self._over = self._quitting = False

    # ---- facts
    @property
    def pipelining(self) -> bool:
        return "PIPELINING" in self.extensions

    @property
    def chunking(self) -> bool:
        """Whether bodies go by BDAT."""
        return self._may_chunk and self.pipelining and "CHUNKING" in self.extensions

    @property
    def awaiting(self) -> bool:
        """Whether a reply is due."""
        return bool(self._expected)

    @property
    def end_awaited(self) -> bool:
        """Whether an end of data is unanswered."""
        return any(e.stage is Stage.END and e.transaction for e in self._expected)

    @property
    def size_limit(self) -> int:
        """The server's limit for a message in bytes; 0 when it names none (RFC 1870 §4)."""
        return size_limit(self.extensions)

    @property
    def unsent(self) -> int:
        """Bytes that `data_to_send` would hand over."""
        return len(self._out)

    def data_to_send(self) -> bytes:
        """What is to go out now; it is handed over once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    # ---- transactions
    def obstacle(self, mail: Mail) -> Reply | None:
        """The verdict on a message that this server can't take, without asking it; None when it may be sent."""
        return mail.obstacle(self.extensions)

    def start(self, mail: Mail, octets: int | None = None) -> bool:
        """Begins a transaction whose body has so many bytes (None: the mail's size); the one before it must be
        `Finished`, or its `end_body` called. -> whether the body is due at once, without `SendBody`. Raises
        LocalProtocolError, and nothing has changed then."""
        before = self._transaction
        if not self._ready or self._over or self._quitting or (before is not None and not before.ended):
            raise LocalProtocolError("no transaction can begin now")
        if not mail.recipients or self.obstacle(mail) is not None:
            raise LocalProtocolError("this message can't be sent to this server")
        # All of it before anything changes: one that can't be said must leave the connection fit for the next.
        mail_from = mail.command(self.extensions, sized=not self.chunking)
        rcpt_to = [rcpt.command(self.extensions) for rcpt in mail.recipients]
        transaction = self._transaction = _Transaction(mail, [None] * len(mail.recipients))
        if self._needs_reset or (self.chunking and self.end_awaited):
            self._needs_reset = False
            self._queue("RSET", _Expected(Stage.RSET))
        self._queue(mail_from, _Expected(Stage.MAIL, transaction))
        for i, command in enumerate(rcpt_to):
            self._queue(command, _Expected(Stage.RCPT, transaction, i))
        if self.chunking:
            transaction.data, transaction.left = True, mail.size if octets is None else octets
            self._queue(f"BDAT {transaction.left} LAST", _Expected(Stage.END, transaction))
        else:
            self._queue("DATA", _Expected(Stage.DATA, transaction))
        self._pump()
        return self.chunking

    def send_body(self, piece: bytes) -> None:
        """A piece of the body, cut anywhere, as the message's bytes are."""
        transaction = self._body_of_current()
        if transaction.left is None:
            self._out += transaction.stuffer.feed(piece)
        elif len(piece) <= transaction.left:
            transaction.left -= len(piece)
            self._out += piece
        else:
            raise LocalProtocolError("more bytes than BDAT has announced")

    def end_body(self) -> None:
        """The end of data. What it puts out, or with CHUNKING the body's last byte, must not reach the network before
        the user has noted that the message may arrive from then on."""
        transaction = self._body_of_current()
        if transaction.left:
            raise LocalProtocolError("fewer bytes than BDAT has announced")
        transaction.ended = True
        if transaction.left is not None:
            return
        self._out += transaction.stuffer.finish()
        self._expected.append(_Expected(Stage.END, transaction))

    def quit(self) -> None:
        """QUIT behind all else, without a wait where the server pipelines."""
        if self._transaction is not None and not self._transaction.ended:
            raise LocalProtocolError("QUIT within a transaction")
        if not self._quitting and not self._over:
            self._quitting = True
            self._queue("QUIT", _Expected(Stage.QUIT))
            self._pump()

    def _body_of_current(self) -> _Transaction:
        transaction = self._transaction
        if transaction is None or not transaction.data or transaction.ended or self._over:
            raise LocalProtocolError("no body is due")
        return transaction

    # ---- sending
    def _queue(self, line: str, expected: _Expected) -> None:
        self._commands.append((line.encode() + b"\r\n", expected))

    def _pump(self) -> None:
        while self._commands and (not self._expected or (self._ready and self.pipelining)):
            line, expected = self._commands.popleft()
            self._out += line
            self._expected.append(expected)

    def _ask(self, line: str, stage: Stage) -> None:
        self._queue(line, _Expected(stage))
        self._pump()

    # ---- receiving
    def receive(self, data: bytes) -> list[Event]:
        """What `data` means; b"" is the end of the stream. Raises RemoteProtocolError, after which the connection
        is as good as closed: nothing of it can be trusted any more. What came before it in `data` holds, so an error
        behind events is not raised but told by a `Closed` behind them."""
        if self._over:
            return []
        if not data:
            return list(self._close(None, "the server closed the connection"))
        self._reader.feed(data)
        events: list[Event] = []
        try:
            while not self._over and (reply := self._reader.next()) is not None:
                events += self._on_reply(reply)
        except RemoteProtocolError as error:
            self._over = True
            if not events:
                raise
            events.append(Closed(None, text=str(error)))
        return events

    def tls_started(self) -> None:
        """The handshake is done: what was learnt before it is forgotten (RFC 3207 §4.2)."""
        self.extensions = {}
        self._want_tls = False
        self._ask(f"EHLO {self._name}", Stage.EHLO)

    def _close(self, reply: Reply | None, text: str = "") -> Iterator[Event]:
        self._over = True
        yield Closed(reply, self._quitting, text or (reply.text if reply else ""))

    def _refuse(self, stage: Stage, reply: Reply | None, text: str = "") -> Iterator[Event]:
        self._over = True
        yield Refused(stage, reply, text or f"{stage} was answered {reply.text if reply else ''}")

    def _on_reply(self, reply: Reply) -> Iterator[Event]:
        if not self._expected:
            if reply.code != 421:
                raise RemoteProtocolError(f"a reply to nothing: {reply.text}")
            yield from self._close(reply)
            return
        expected = self._expected.popleft()
        stage, transaction = expected.stage, expected.transaction
        if reply.code == 421 and self._ready and stage is not Stage.QUIT:
            if stage is Stage.END and transaction is not None:
                yield transaction.finish(reply)
            yield from self._close(reply)
        elif transaction is None:
            yield from self._on_session(stage, reply)
        elif stage is Stage.MAIL and (reply.needs_login or reply.code == 503):
            yield from self._refuse(stage, reply)
        elif stage is Stage.MAIL:
            transaction.opened = reply.ok
            transaction.refusal = None if reply.ok else reply
            if not reply.ok and not self.pipelining:
                yield self._give_up(transaction, reply)
        elif stage is Stage.RCPT:
            if reply.needs_login and transaction.opened:
                yield from self._refuse(stage, reply)
                return
            transaction.rcpt[expected.index] = reply
            last = expected.index == len(transaction.rcpt) - 1
            if last and not transaction.accepted and not self.pipelining:
                yield self._give_up(transaction, reply)
        elif stage is Stage.DATA:
            yield from self._on_data(transaction, reply)
        else:  # END
            if self._transaction is transaction:
                self._transaction = None
                # Some servers keep a transaction open whose BDAT they refused; where MAIL is out already, they say so.
                self._needs_reset = self._needs_reset or not reply.ok
            yield transaction.finish(reply)
        if not self._over:
            self._pump()

    def _on_session(self, stage: Stage, reply: Reply) -> Iterator[Event]:
        if stage is Stage.QUIT:
            yield from self._close(reply)
        elif stage in (Stage.RSET, Stage.END):  # END without a transaction: rule 5's empty message
            pass
        elif stage is Stage.AUTH and 300 <= reply.code < 400:
            if not self._answers:
                yield from self._refuse(stage, reply)
            else:
                self._ask(self._answers.popleft(), Stage.AUTH)
        elif stage is Stage.EHLO and reply.code >= 500 and not self._want_tls and not self._login:
            self._ask(f"HELO {self._name}", Stage.HELO)
        elif not reply.ok:
            yield from self._refuse(stage, reply)
        elif stage is Stage.GREETING:
            self._ask(f"EHLO {self._name}", Stage.EHLO)
        elif stage is Stage.STARTTLS:
            if not self._reader.empty:
                raise RemoteProtocolError("something came unprotected behind the reply to STARTTLS")
            yield StartTls()
        else:  # EHLO, HELO, AUTH
            if stage is Stage.EHLO:
                self.extensions = extensions_of(reply)
            yield from self._go_on(stage)

    def _go_on(self, stage: Stage) -> Iterator[Event]:
        if self._want_tls:
            if "STARTTLS" not in self.extensions:
                yield from self._refuse(Stage.STARTTLS, None, "the server does not offer STARTTLS")
            else:
                self._ask("STARTTLS", Stage.STARTTLS)
        elif self._login and stage is not Stage.AUTH:
            yield from self._authenticate()
        else:
            self._ready = True
            yield Ready()

    def _authenticate(self) -> Iterator[Event]:
        offered = self.extensions.get("AUTH", "").upper().split()
        if "PLAIN" in offered:
            response = _base64(f"\0{self._login}\0{self._password}")
            line = f"AUTH PLAIN {response}"
            # The response again: for a server that asks for it though it got it, or that could not get it yet.
            self._answers = deque([response])
            self._ask(line if len(line) + 2 <= MAX_COMMAND else "AUTH PLAIN", Stage.AUTH)
        elif "LOGIN" in offered:
            self._answers = deque([_base64(self._login), _base64(self._password)])
            self._ask("AUTH LOGIN", Stage.AUTH)
        else:
            have = f"only AUTH {' '.join(offered)}" if offered else "no AUTH"
            yield from self._refuse(Stage.AUTH, None, f"the server offers {have}; a login takes PLAIN or LOGIN")

    def _on_data(self, transaction: _Transaction, reply: Reply) -> Iterator[Event]:
        if reply.ok:
            raise RemoteProtocolError(f"DATA was answered {reply.text}")
        if reply.code >= 400:
            if reply.needs_login and transaction.accepted:
                yield from self._refuse(Stage.DATA, reply)
                return
            self._needs_reset = transaction.opened
            self._transaction = None
            yield transaction.finish(reply)
        elif transaction.accepted:
            transaction.data = True
            yield SendBody(transaction.accepted)
        else:
            self._transaction = None
            self._out += transaction.stuffer.finish()
            self._expected.append(_Expected(Stage.END))
            yield transaction.finish(reply)

    def _give_up(self, transaction: _Transaction, reply: Reply) -> Finished:
        """Without PIPELINING: the rest of the transaction's commands has not gone out and need not."""
        self._commands = deque(c for c in self._commands if c[1].transaction is not transaction)
        self._needs_reset = transaction.opened
        self._transaction = None
        return transaction.finish(reply)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
