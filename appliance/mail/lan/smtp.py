"""SMTP submission for the LAN: drives `protocol.smtp_server` over a socket, for as many clients as the limits allow.

It owns a session's deadlines and its one message under way; order and syntax are the protocol's, and who may send
what to whom the post office's. A message streams to disk as it comes: memory per session is a receive buffer, the
header until it is whole, and a draft's buffer.

Deadlines. Silence between commands: `idle_timeout`. A command is complete within a minute of its first byte, a
message brings 1 KiB in every minute from its first byte to its last, whatever chunks it comes in, a client takes
what it is sent within a minute, and no session lasts longer than `SESSION_S`. Past one of them: 421 and closed.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.mail.envelope import Envelope, Priority, Recipient
from appliance.mail.header import MAX_HEADER, MAX_RECEIVED, HeaderGatherer, priority_of_number, received_field
from appliance.mail.lan.logins import LoginBusy
from appliance.protocol.smtp_events import (
    BodyEnd,
    BodyPiece,
    BodyStart,
    Closed,
    LoginWanted,
    MailFrom,
    RcptTo,
    Reset,
    StartTls,
)
from appliance.protocol.smtp_server import NEED_DATA, SmtpServer
from appliance.protocol.smtp_syntax import reply
from appliance.transport.prompt import PromptStream
from appliance.transport.tls import TlsFailed, accept_tls

if TYPE_CHECKING:
    import ssl

    from appliance.clock import Clock
    from appliance.config.model import Mail
    from appliance.mail.lan.logins import Logins
    from appliance.mail.office import PostOffice, Submission
    from appliance.protocol.smtp_events import Event
    from appliance.storage.draft import Draft

__all__ = ["SmtpService"]

RECEIVE_SIZE: Final = 64 * 1024
COMMAND_S: Final = 60.0
RATE_WINDOW_S: Final = 60.0
RATE_BYTES: Final = 1024
SEND_S: Final = 60.0
GOODBYE_S: Final = 1.0
DEADLINE_STEP_S: Final = 1.0
SESSION_S: Final = 4 * 3600.0
"""20 MiB at 1 KiB a minute would take two weeks; no mail program on a LAN needs more than this."""

STOPPING: Final = "the service stops"

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says of every session."""

    message_limit: int
    require_login: bool
    plaintext_login: bool
    trusted: tuple[str, ...]
    idle_timeout_s: float

    @classmethod
    def of(cls, mail: Mail) -> Terms:
        return cls(
            mail.message_limit_bytes,
            mail.require_login,
            mail.plaintext_login,
            mail.trusted_networks,
            mail.idle_timeout_s,
        )


class SmtpService:
    """Makes a session for each connection. `tls` serves STARTTLS and the implicit-TLS listeners; None: neither."""

    def __init__(
        self, office: PostOffice, logins: Logins, mail: Mail, clock: Clock, *, tls: ssl.SSLContext | None
    ) -> None:
        self._office = office
        self._logins = logins
        self._terms = Terms.of(mail)
        self._trusted = [ip_network(n, strict=False) for n in mail.trusted_networks]
        self._clock = clock
        self._tls = tls
        self._sessions: set[_Session] = set()
        self._session_ended = trio.Event()

    async def drain(self) -> None:
        """Says 421 to every session between messages, and waits for the others to get there."""
        for session in list(self._sessions):
            session.stop()
        while self._sessions:
            self._session_ended = trio.Event()
            await self._session_ended.wait()

    def refuse(self, why: str) -> bytes:
        """The line for a client over a limit."""
        return reply(421, f"{self._office.hostname} {why}", status="4.7.0")

    async def handle(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        """A connection of a plain listener."""
        await self._serve(stream, client, secure=False)

    async def handle_tls(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        """A connection of an implicit-TLS listener (RFC 8314 §3.3)."""
        assert self._tls is not None
        try:
            tls = await accept_tls(stream, self._tls)
        except TlsFailed as why:
            events.emit(events.SESSION_ENDED, service="smtp", client=client, why=why)
            return
        await self._serve(tls, client, secure=True)

    async def _serve(self, stream: trio.abc.Stream, client: str, *, secure: bool) -> None:
        address = ip_address(client)
        trusted = any(address in n for n in self._trusted) or not self._terms.require_login
        session = _Session(self._office, self._logins, self._terms, self._clock, client)
        session.trusted = trusted
        session.protocol = SmtpServer(
            self._office.hostname,
            message_limit=self._terms.message_limit,
            tls_available=self._tls is not None,
            secure=secure,
            plaintext_login=self._terms.plaintext_login or address.is_loopback,
        )
        session.tls = self._tls
        self._sessions.add(session)
        try:
            await session.run(stream)
        finally:
            self._sessions.discard(session)
            self._session_ended.set()


class _Session:
    """One client. `protocol`, `tls` and `trusted` are set by the service before `run`."""

    protocol: SmtpServer
    tls: ssl.SSLContext | None
    trusted: bool

    def __init__(self, office: PostOffice, logins: Logins, terms: Terms, clock: Clock, client: str) -> None:
        self._office = office
        self._logins = logins
        self._terms = terms
        self._clock = clock
        self._client = client
        self._user = ""
        self._stopping = False
        self._receiving = False
        self._scope = trio.CancelScope()
        self._end = trio.current_time() + SESSION_S
        self._why = ""
        self._forget()

    def stop(self) -> None:
        """The process stops: ends the session now, or behind the message that is under way."""
        self._stopping = True
        if self._receiving and self._submission is None:
            self._scope.cancel()

    def _forget(self) -> None:
        self._submission: Submission | None = None
        self._gatherer: HeaderGatherer | None = None
        self._draft: Draft | None = None
        self._failure: tuple[int, str, str] | None = None

    async def run(self, stream: trio.abc.Stream) -> None:
        """From the greeting to the end."""
        self._stream = stream
        try:
            with self._scope:
                await self._converse()
            if self._scope.cancelled_caught:
                await self._say_goodbye(STOPPING if self._stopping else self._why)
        except TlsFailed as why:
            events.emit(events.SESSION_ENDED, service="smtp", client=self._client, why=why)
        except trio.BrokenResourceError:
            pass
        finally:
            if self._draft is not None:
                await self._draft.discard()

    async def _converse(self) -> None:
        protocol = self.protocol
        self._window_start = self._last_active = trio.current_time()
        self._window_bytes = 0
        protocol.greet()
        while True:
            event = protocol.next_event()
            if event is NEED_DATA:
                await self._send()
                data = await self._receive()
                if not data:
                    return
                protocol.receive_data(data)
            elif isinstance(event, StartTls):
                await self._send()
                assert self.tls is not None
                self._stream = await accept_tls(self._stream, self.tls)
                self._user = ""
                protocol.tls_started()
            elif isinstance(event, Closed):
                await self._send()
                return
            else:
                await self._handle(event)

    async def _say_goodbye(self, why: str) -> None:
        events.emit(events.SESSION_ENDED, service="smtp", client=self._client, why=why)
        self.protocol.close(421, "4.4.2", f"closing: {why}")
        with trio.move_on_after(GOODBYE_S):
            await self._stream.send_all(self.protocol.data_to_send())

    # ---- the socket
    def _expect(self, deadline: float, why: str) -> None:
        """What the client does next must come before `deadline`, and before the session's end. One cancel scope serves
        the whole session: a scope for each of a message's turns would cost more than the turn. Moved only by a second
        and more."""
        if deadline > self._end:
            deadline, why = self._end, "the session lasted too long"
        self._why = why
        if not -DEADLINE_STEP_S < self._scope.deadline - deadline < DEADLINE_STEP_S:
            self._scope.deadline = deadline

    async def _send(self) -> None:
        out = self.protocol.data_to_send()
        if out and isinstance(self._stream, PromptStream):
            out = self._stream.send_nowait(out)
        if out:
            self._expect(trio.current_time() + SEND_S, "you do not read")
            await self._stream.send_all(out)

    async def _receive(self) -> bytes:
        now = trio.current_time()
        protocol = self.protocol
        if protocol.in_body:
            if self._window_bytes >= RATE_BYTES:
                self._window_start, self._window_bytes = now, 0
            self._expect(self._window_start + RATE_WINDOW_S, "the message comes too slowly")
        elif protocol.in_command:
            self._expect(self._last_active + COMMAND_S, "the command was not completed")
        else:
            self._last_active = now
            self._expect(now + self._terms.idle_timeout_s, "idle for too long")
        if self._stopping and self._submission is None:
            self._scope.cancel()
        self._receiving = True
        data = bytes(await self._stream.receive_some(RECEIVE_SIZE))
        self._receiving = False
        if protocol.in_body:
            self._window_bytes += len(data)
        else:
            self._window_start, self._window_bytes = now, 0
        if protocol.in_body or not protocol.in_command:
            self._last_active = trio.current_time()
        return data

    # ---- events
    async def _handle(self, event: Event) -> None:
        match event:
            case BodyPiece():
                await self._piece(event.data)
            case MailFrom():
                self._mail(event)
            case RcptTo():
                self._rcpt(event)
            case BodyStart():
                self._begin_body(event)
            case BodyEnd():
                await self._send()  # the commit takes a while; what is due before it need not wait
                await self._end_body(event)
            case LoginWanted():
                await self._login(event)
            case Reset():
                if self._draft is not None:
                    await self._draft.discard()
                self._forget()

    async def _login(self, event: LoginWanted) -> None:
        self._scope.deadline = math.inf  # a wait for the check, or for having guessed, is ours
        try:
            user = await self._logins.check(event.name, event.password, service="smtp", client=self._client)
        except LoginBusy:
            self.protocol.refuse_login(454, "4.7.0", "too many logins at once, try again")
            return
        if user is None:
            self.protocol.refuse_login()
        else:
            self._user = user.name
            self.protocol.accept_login(user.name)

    def _mail(self, event: MailFrom) -> None:
        router = self._office.router
        refuse = self.protocol.refuse
        if not self._user and not self.trusted:
            refuse(530, "5.7.0", "log in first")
            return
        if self._user and not router.may_send_as(self._user, event.sender):
            refuse(553, "5.7.1", f"<{event.sender}> is not an address of {self._user}")
            return
        if not self._user and not router.may_send_without_login(event.sender):
            refuse(550, "5.7.1", f"no smarthost carries mail of <{event.sender}>")
            return
        if not self._office.has_room(event.size):
            events.emit(events.DISK_FULL, what=f"mail of <{event.sender}>")
            refuse(452, "4.3.1", "the disk is full")
            return
        now = self._clock.now()
        self._submission = self._office.begin(
            Envelope(
                id=self._office.spool.new_id(),
                sender=event.sender,
                recipients=[],
                received=now.wall,
                boot=now.boot,
                boot_id=now.boot_id if self._clock.trusted else "",
                user=self._user,
                priority=self._allowed(priority_of_number(event.mt_priority or 0)),
                size=event.size,
                body=event.body,
                smtputf8=event.smtputf8,
                ret=event.ret,
                envid=event.envid,
                mt_priority=event.mt_priority,
                client=self._client,
            )
        )
        self.protocol.accept_mail()

    def _allowed(self, wanted: Priority) -> Priority:
        """Without a login mail is never urgent (DESIGN §2)."""
        return Priority.NORMAL if wanted is Priority.URGENT and not self._user else wanted

    def _rcpt(self, event: RcptTo) -> None:
        assert self._submission is not None
        refusal = self._office.add(self._submission, Recipient(event.address, notify=event.notify, orcpt=event.orcpt))
        if refusal is None:
            self.protocol.accept_rcpt()
        else:
            self.protocol.refuse(refusal.code, refusal.status, refusal.text)

    def _begin_body(self, event: BodyStart) -> None:
        assert self._submission is not None
        self._gatherer = HeaderGatherer()
        self._window_start, self._window_bytes = trio.current_time(), 0
        if not event.chunking:
            self.protocol.accept_data()

    async def _piece(self, data: bytes) -> None:
        if self._failure is not None:
            return
        if self._gatherer is not None:
            if not self._gatherer.feed(data):
                return
            data = self._open_draft()
        if self._draft is not None:
            try:
                if not self._office.has_room(len(data)):  # SIZE may have said less, and others fill the disk too
                    raise OSError(errno.ENOSPC, "the rest of the disk is kept back")
                await self._draft.write(data)
            except OSError as error:
                await self._fail(error)

    def _open_draft(self) -> bytes:
        """The header is whole: what it lacks goes in front. -> the bytes gathered so far, or b"" where it failed."""
        assert self._submission is not None
        assert self._gatherer is not None
        envelope = self._submission.envelope
        gatherer, self._gatherer = self._gatherer, None
        if len(gatherer.data) > MAX_HEADER and not gatherer.whole:
            self._failure = (552, "5.3.4", f"the header is longer than {MAX_HEADER} bytes")
            return b""
        header = gatherer.read()
        if header.received >= MAX_RECEIVED:
            self._failure = (554, "5.4.6", "the message goes round in circles: too many Received fields")
            return b""
        if envelope.mt_priority is None:
            envelope.priority = self._allowed(header.priority)
        envelope.message_id = header.message_id
        self._submission.automatic = header.automatic
        front = self._office.return_path(self._submission) + self._received(envelope)
        if not header.has_message_id:
            envelope.message_id = f"<{envelope.id}@{self._office.hostname}>"
            front += f"Message-ID: {envelope.message_id}\r\n".encode()
        if not header.has_date:
            front += f"Date: {format_datetime(datetime.fromtimestamp(envelope.received, UTC))}\r\n".encode()
        if not header.well_formed:
            front += b"\r\n"  # a message that begins with its body, as no program should write it
        self._draft = self._office.spool.draft(envelope.id)
        self._draft.write_nowait(front)
        return bytes(gatherer.data)

    def _received(self, envelope: Envelope) -> bytes:
        """RFC 3848's names: UTF8 (RFC 6531 §4.3), E for ESMTP, S under TLS, A when logged in."""
        protocol = self.protocol
        word = "SMTP" if not protocol.esmtp else "ESMTP" + "S" * protocol.secure + "A" * bool(self._user)
        submission = self._submission
        assert submission is not None
        alone = [*submission.users, *submission.remote] if submission.count == 1 else []
        return received_field(
            client_name=protocol.client_name,
            client=self._client,
            hostname=self._office.hostname,
            protocol="UTF8" + word.removeprefix("E") if envelope.smtputf8 else word,
            message_id=envelope.id,
            recipient=next(iter(submission.remote), "") if len(alone) == 1 else "",
            now=envelope.received,
        )

    async def _end_body(self, event: BodyEnd) -> None:
        assert self._submission is not None
        if event.problem is None and self._gatherer is not None and self._failure is None:
            data = self._open_draft()  # a message without a body
            if self._draft is not None:
                self._draft.write_nowait(data)
        if event.problem is None and self._failure is None and self._draft is not None:
            self._scope.deadline = math.inf  # a slow disk is not the client's fault
            try:
                await self._accept(self._submission, self._draft)
            except OSError as error:
                await self._fail(error)
        code, status, text = event.problem or self._failure or (250, "2.0.0", f"kept as {self._submission.envelope.id}")
        if event.problem is not None and event.problem[0] == 550:
            events.emit(events.SMUGGLING, client=self._client)
        if code != 250 and self._draft is not None:
            await self._draft.discard()
        self._forget()
        self.protocol.message_done(code, status, text)

    async def _accept(self, submission: Submission, draft: Draft) -> None:
        """Asks again what depends on the size: it was not said with SIZE, or less was. Raises OSError."""
        refusal = await self._office.over_quota(submission, draft.size)
        if refusal is None and submission.remote:
            refusal = self._office.too_large(submission.envelope.sender, draft.size)
        if refusal is None:
            await self._office.accept(submission, draft)
        else:
            self._failure = (refusal.code, refusal.status, refusal.text)

    async def _fail(self, error: OSError) -> None:
        """The disk said no: the message is not taken, and what there is of it goes."""
        if error.errno in _FULL:
            events.emit(events.DISK_FULL, what="a message")
            self._failure = (452, "4.3.1", "the disk is full")
        else:
            events.emit(events.STORAGE_FAILED, error=error)
            self._failure = (451, "4.3.0", "the disk failed")
        if self._draft is not None:
            await self._draft.discard()
