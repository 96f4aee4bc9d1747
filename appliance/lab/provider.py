"""A mail provider in memory: a submission server and a POP3 server, each refusing on purpose where a test says so.

It drives the project's own SMTP and POP3 server protocols over TCP on loopback; what it was given and what waits lies
in lists. It knows no line: gates in front of its ports make it reachable.

Faults. Before each step the server asks `fault(step, detail)`. None goes on; a `Refuse` is said in place of going on;
DROP closes the connection at once; HANG answers nothing more on it. A hook that fails a step once just remembers that.

    SMTP step  | before                                  | detail
    connect    | the greeting                            | ""
    auth       | a login is checked                      | login
    mail, rcpt | the address is taken                    | address
    data       | DATA is granted, or the first BDAT      | ""
    body       | a whole message is kept and acknowledged| sender
    after-body | it is kept, but not acknowledged yet    | sender
    POP3 step  |                                         |
    connect    | the greeting                            | ""
    login      | a login is checked                      | login
    retr       | a message is sent                       | its UID
    quit       | deletions take effect                   | login
    after-quit | they have, but QUIT is not answered yet | login
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol import pop3_server, smtp_events
from appliance.protocol.pop3_server import Listed, Pop3Server
from appliance.protocol.smtp_server import NEED_DATA, SmtpServer
from appliance.transport.tls import TlsFailed, accept_tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["DROP", "HANG", "Fault", "Maildrop", "Provider", "Received", "Refuse"]

RECEIVE_BYTES: Final = 64 * 1024
MESSAGE_LIMIT: Final = 50 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Refuse:
    """An SMTP reply; POP3 takes the text, and for a login `status` as its response code (RFC 3206)."""

    code: int = 451
    status: str = "4.3.0"
    text: str = "not now"


class _Rude(Enum):
    DROP = "drop"
    HANG = "hang"


DROP: Final = _Rude.DROP
HANG: Final = _Rude.HANG

Fault = Refuse | _Rude | None


class _Dropped(Exception):
    """The session ends here, unanswered."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was acknowledged (or, after a fault at `after-body`, only kept)."""

    login: str
    mail: smtp_events.MailFrom
    recipients: tuple[smtp_events.RcptTo, ...]
    data: bytes = field(repr=False)
    received_at: float = 0.0

    @property
    def sender(self) -> str:
        return self.mail.sender

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(r.address for r in self.recipients)


@dataclass(slots=True)
class Maildrop:
    """One login's waiting mail, UID -> bytes, oldest first; `locked` while a session has it (RFC 1939 §4)."""

    password: str
    messages: dict[str, bytes] = field(default_factory=dict)
    locked: bool = False
    count: int = 0


@dataclass(slots=True, eq=False)
class Provider:
    """`run` serves; ports are known from its start on. `tls`: STARTTLS and STLS are offered, `implicit` TLS from the
    first byte. Every login in `maildrops` may submit; `require_login` False: anybody may."""

    name: str = "isp.example"
    tls: ssl.SSLContext | None = None
    implicit: bool = False
    require_login: bool = True
    message_limit: int = MESSAGE_LIMIT

    smtp_fault: Callable[[str, str], Fault] = lambda step, detail: None
    pop3_fault: Callable[[str, str], Fault] = lambda step, detail: None

    smtp_port: int = 0
    pop3_port: int = 0
    maildrops: dict[str, Maildrop] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    """"smtp" or "pop3" for every connection that there was."""

    # ---- what a test or the demo does

    def add_login(self, login: str, password: str) -> Maildrop:
        drop = self.maildrops[login] = Maildrop(password)
        return drop

    def deliver(self, login: str, data: bytes) -> str:
        """A message waits for this login; its UID."""
        drop = self.maildrops[login]
        drop.count += 1
        uid = f"{login}.{drop.count:06d}"
        drop.messages[uid] = data
        return uid

    @property
    def waiting(self) -> int:
        """Messages in all maildrops."""
        return sum(len(drop.messages) for drop in self.maildrops.values())

    # ---- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            smtp = (await trio.open_tcp_listeners(self.smtp_port, host="127.0.0.1"))[0]
            pop3 = (await trio.open_tcp_listeners(self.pop3_port, host="127.0.0.1"))[0]
            self.smtp_port = smtp.socket.getsockname()[1]
            self.pop3_port = pop3.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._served("smtp", self._smtp_session), [smtp])
            nursery.start_soon(trio.serve_listeners, self._served("pop3", self._pop3_session), [pop3])
            task_status.started()

    def _served(
        self, service: str, session: Callable[[_Connection], Awaitable[None]]
    ) -> Callable[[trio.SocketStream], Awaitable[None]]:
        async def serve(stream: trio.SocketStream) -> None:
            self.sessions.append(service)
            connection = _Connection(stream)
            try:
                if self.implicit and self.tls is not None:
                    connection.stream = await accept_tls(stream, self.tls)
                await session(connection)
            except (_Dropped, TlsFailed, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

        return serve

    # ---- SMTP

    async def _smtp_session(self, connection: _Connection) -> None:
        server = SmtpServer(
            f"smtp.{self.name}",
            message_limit=self.message_limit,
            tls_available=self.tls is not None,
            secure=self.implicit,
            plaintext_login=self.tls is None,
        )
        session = _Submission(self, server)
        refusal = await _judge(self.smtp_fault("connect", ""))
        if refusal is not None:
            server.close(refusal.code, refusal.status, refusal.text)
        else:
            server.greet()
        while True:
            event = server.next_event()
            if event is NEED_DATA:
                await connection.send(server.data_to_send())
                server.receive_data(await connection.receive())
                continue
            if isinstance(event, smtp_events.Closed):
                await connection.send(server.data_to_send())
                return
            if isinstance(event, smtp_events.StartTls) and self.tls is not None:
                await connection.send(server.data_to_send())
                connection.stream = await accept_tls(connection.stream, self.tls)
                server.tls_started()
                continue
            await session.handle(event)

    # ---- POP3

    async def _pop3_session(self, connection: _Connection) -> None:
        server = Pop3Server(tls_offered=self.tls is not None, tls_active=self.implicit, plain_login=self.tls is None)
        refusal = await _judge(self.pop3_fault("connect", ""))
        if refusal is not None:
            await connection.send(f"-ERR {refusal.text}\r\n".encode())
            return
        session = _Retrieval(self, server)
        try:
            while True:
                event = server.next_event()
                if isinstance(event, pop3_server.StartTls) and self.tls is not None:
                    await connection.send(server.data_to_send())
                    connection.stream = await accept_tls(connection.stream, self.tls)
                    server.tls_started()
                    continue
                if event is not None:
                    await session.handle(event)
                await connection.send(server.data_to_send())
                if isinstance(event, pop3_server.Close):
                    return
                if event is None:
                    server.feed(await connection.receive())
        finally:
            session.unlock()


@dataclass(slots=True, eq=False)
class _Connection:
    """A client's connection, before TLS or under it."""

    stream: trio.SocketStream | trio.SSLStream[Any]

    async def send(self, data: bytes) -> None:
        if data:
            await self.stream.send_all(data)

    async def receive(self) -> bytes:
        data = await self.stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise _Dropped
        return bytes(data)


async def _judge(fault: Fault) -> Refuse | None:
    if fault is DROP:
        raise _Dropped
    if fault is HANG:
        await trio.sleep_forever()
    return fault if isinstance(fault, Refuse) else None


@dataclass(slots=True, eq=False)
class _Submission:
    """One SMTP session's transaction."""

    provider: Provider
    server: SmtpServer
    mail: smtp_events.MailFrom | None = None
    recipients: list[smtp_events.RcptTo] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    async def handle(self, event: smtp_events.Event) -> None:
        """One event, answered."""
        provider, server, fault = self.provider, self.server, self.provider.smtp_fault
        match event:
            case smtp_events.LoginWanted(name, password):
                drop = provider.maildrops.get(name)
                if (no := await _judge(fault("auth", name))) is not None:
                    server.refuse_login(no.code, no.status, no.text)
                elif drop is None or drop.password != password:
                    server.refuse_login()
                else:
                    server.accept_login(name)
            case smtp_events.MailFrom():
                if provider.require_login and not server.login:
                    server.refuse(530, "5.7.0", "log in first")
                elif (no := await _judge(fault("mail", event.sender))) is not None:
                    server.refuse(no.code, no.status, no.text)
                else:
                    self._begin(event)
                    server.accept_mail()
            case smtp_events.RcptTo():
                if (no := await _judge(fault("rcpt", event.address))) is not None:
                    server.refuse(no.code, no.status, no.text)
                else:
                    self.recipients.append(event)
                    server.accept_rcpt()
            case smtp_events.BodyStart(chunking):
                no = await _judge(fault("data", ""))
                if not chunking and no is not None:
                    server.refuse(no.code, no.status, no.text)
                elif not chunking:
                    server.accept_data()
            case smtp_events.BodyPiece(data):
                self.body += data
            case smtp_events.BodyEnd(problem):
                await self._end(problem)
            case smtp_events.Reset():
                self._begin(None)

    def _begin(self, mail: smtp_events.MailFrom | None) -> None:
        self.mail = mail
        self.recipients = []
        self.body = bytearray()

    async def _end(self, problem: tuple[int, str, str] | None) -> None:
        assert self.mail is not None
        mail, fault = self.mail, self.provider.smtp_fault
        no = await _judge(fault("body", mail.sender))
        if no is not None:
            problem = (no.code, no.status, no.text)
        if problem is None:
            self.provider.received.append(
                Received(self.server.login, mail, tuple(self.recipients), bytes(self.body), time.time())
            )
            await _judge(fault("after-body", mail.sender))
        self._begin(None)
        self.server.message_done(*(problem or (250, "2.0.0", f"taken as {len(self.provider.received)}")))


@dataclass(slots=True, eq=False)
class _Retrieval:
    """One POP3 session and the maildrop that it holds."""

    provider: Provider
    server: Pop3Server
    login: str = ""
    drop: Maildrop | None = None
    uids: list[str] = field(default_factory=list)

    async def handle(self, event: pop3_server.Event) -> None:
        """One event, answered."""
        provider, server, fault = self.provider, self.server, self.provider.pop3_fault
        match event:
            case pop3_server.LoginWanted(name, password):
                no = await _judge(fault("login", name))
                drop = provider.maildrops.get(name)
                if no is not None:
                    server.login_refused(no.status if "/" in no.status else "SYS/TEMP", no.text)
                elif drop is None or drop.password != password:
                    server.login_refused("AUTH", "wrong name or password")
                elif drop.locked:
                    server.login_refused("IN-USE", "another session has this maildrop")
                else:
                    drop.locked = True
                    self.login, self.drop, self.uids = name, drop, list(drop.messages)
                    server.login_accepted([Listed(len(d), uid) for uid, d in drop.messages.items()])
            case pop3_server.RetrieveWanted(index, _):
                uid = self.uids[index]
                no = await _judge(fault("retr", uid))
                data = self.drop.messages.get(uid) if self.drop is not None else None
                if no is not None or data is None:
                    server.retrieve_refused(no.text if no is not None else "gone")
                else:
                    server.body(data)
                    server.body_end()
            case pop3_server.UpdateWanted(indexes):
                no = await _judge(fault("quit", self.login))
                if no is None and self.drop is not None:
                    for index in indexes:
                        self.drop.messages.pop(self.uids[index], None)
                    self.unlock()
                    await _judge(fault("after-quit", self.login))
                server.updated(complete=no is None)

    def unlock(self) -> None:
        if self.drop is not None:
            self.drop.locked = False
            self.drop = None
