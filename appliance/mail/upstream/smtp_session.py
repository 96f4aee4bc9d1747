"""One connection to a smarthost: opened, then carrying messages from a queue until that is empty or it breaks.

It owns the connection, the messages under way on it, and what is known of each: begun, its body begun, its end of
data handed over, answered. It knows nothing of other smarthosts or of what becomes of a message afterwards.

Theory of operation. A writer and a reader run side by side, for with PIPELINING both ends may be writing at once and
neither may wait for the other to read. The writer takes a message, puts MAIL, RCPT and DATA behind the end of data of
the one before, waits for 354, streams the body. The reader hands what came to the protocol and notes its events on
the attempts. Two messages at most are under way: one that waits for its last reply, one that is being sent. To a server
with CHUNKING nothing is waited for, and as many are under way as the line holds.

In doubt. When 354 came, or with CHUNKING at once, the recording of 'may have arrived' begins, beside the sending of the
body, and the end of data (with CHUNKING: the last piece) is not put out before it is on stable storage. When a
connection breaks or is cancelled, a message whose end of data may have left for the network stays in doubt, as the
kernel's TCP knows it (`transport.outgoing`); of one that had not come that far the record is taken back, and so it is
behind a 421: what stands behind that was not looked at.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

import trio

from appliance import events
from appliance.config.model import Tls
from appliance.mail.envelope import RecipientState
from appliance.mail.seven_bit import SevenBit
from appliance.mail.upstream.connection import ConnectionFailed, ServerConnection
from appliance.protocol import smtp_client as smtp
from appliance.protocol.errors import LocalProtocolError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.call import OpenCall
    from appliance.config.model import Smarthost
    from appliance.mail.delivery import Outbox
    from appliance.mail.envelope import Envelope

__all__ = ["DISK_S", "Attempt", "SmarthostFailed", "SmtpSession", "Source"]

REPLY_S: Final = 300.0
"""For a reply to anything but the end of data, from the last byte sent or received (RFC 5321 §4.5.3.2.1 to .3)."""

END_S: Final = 600.0
"""For the reply to the end of data (RFC 5321 §4.5.3.2.6)."""

QUIT_S: Final = 2.0
"""For the reply to QUIT, from the last reply before it: worth nothing to us, so the line does not stay open for it."""

DISK_S: Final = 30.0
"""What is recorded of messages is recorded even when the line has gone: so long at most."""

CHUNK: Final = 64 * 1024
"""Bytes of a body in memory; a hop to a thread costs as much as sending 100 KB in the kernel's memory."""


UNANSWERED: Final = 64 * 1024
"""Bytes of messages that wait for their last reply when the next is begun: more than any line that this serves holds in
flight. What is under way when the line drops is in doubt."""
MAX_UNANSWERED: Final = 32
"""Messages; so that an address of a kilobyte and a body of a line do not count as nothing."""


class SmarthostFailed(Exception):
    """Connecting, TLS, the greeting or the login failed: another smarthost may be tried. The text says why.
    `login_refused`: it will not have this login, also later."""

    def __init__(self, why: str, *, login_refused: bool = False) -> None:
        super().__init__(why)
        self.login_refused = login_refused


class _LoginRefused(ConnectionFailed):
    """A permanent reply to AUTH."""


class Source(Protocol):
    """Where the messages come from: the sender's queue for one smarthost."""

    def take(self) -> Envelope | None:
        """The next one, or None when there is none now."""
        ...


@dataclass(slots=True, eq=False)
class Attempt:
    """One message on one connection. `recipients`: the indexes of those asked for, in the order of RCPT."""

    envelope: Envelope
    recipients: tuple[int, ...]
    replies: tuple[smtp.Reply, ...] = ()
    more: bool = False
    accepted: tuple[int, ...] = ()
    body_begun: bool = False
    unreadable: bool = False
    finished: bool = False
    doubt_noted: tuple[int, ...] = ()  # by this attempt
    end_at: int | None = None  # where in what is handed to the connection its end of data ends, once that is due
    end_sent: bool = False  # it was handed over, or is being so
    reports: bool = False  # the server knows DSN
    recorded: trio.Event = field(default_factory=trio.Event)


class SmtpSession:
    """`open` one, `carry` once; it is closed then.

    Afterwards: `failure` says why the connection ended early ("" when it did not), `refused` whether that was a
    refusal of the session as a whole, `answered` how many messages got a verdict that was not 421, `unfinished` the
    attempts that got none, `disk_failed` says why nothing more may be sent at all ("" when it may); `mishandled`: the
    server offers CHUNKING and does it wrongly; `untouched`: it closed by 421, and has not looked at what is unfinished.
    """

    def __init__(self, connection: ServerConnection, client: smtp.SmtpClient, outbox: Outbox) -> None:
        self.failure = ""
        self.refused = False
        self.answered = 0
        self.unfinished: list[Attempt] = []
        self.disk_failed = ""
        self.mishandled = False
        self.untouched = False
        self._connection = connection
        self._client = client
        self._outbox = outbox
        self._under_way: deque[Attempt] = deque()
        self._over = False
        self._changed = trio.Event()
        self._patience = trio.CancelScope()
        self._scope = trio.CancelScope()

    @classmethod
    async def open(
        cls, call: OpenCall, host: Smarthost, outbox: Outbox, *, name: str, password: str, may_chunk: bool = True
    ) -> SmtpSession:
        """Connects and logs in. Raises SmarthostFailed."""
        client = smtp.SmtpClient(
            name, starttls=host.tls is Tls.STARTTLS, login=host.login, password=password, may_chunk=may_chunk
        )
        try:
            connection = await ServerConnection.open(call, host)
        except ConnectionFailed as error:
            raise SmarthostFailed(str(error)) from error
        try:
            await _log_in(connection, client)
        except (ConnectionFailed, ProtocolError) as error:
            await connection.close()
            raise SmarthostFailed(str(error), login_refused=isinstance(error, _LoginRefused)) from error
        except BaseException:
            await connection.close()
            raise
        outbox.note_server_limit(host, client.size_limit)
        return cls(connection, client, outbox)

    @property
    def idle_trips(self) -> int:
        """For how many round trips in each message it carries nothing: without CHUNKING the body waits for the answer
        to DATA, and without PIPELINING each command for the one before."""
        return 0 if self._client.chunking else 1 if self._client.pipelining else 4

    async def carry(self, source: Source, finished: Callable[[Attempt], None]) -> None:
        """Sends what `source` gives until it gives nothing more, everything is answered and QUIT is said. `finished`
        is called with each attempt that got its replies. Cancelled, it leaves every message in a true state."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, finished)
                    await self._write(source, finished, nursery)
                    nursery.cancel_scope.cancel()
        finally:
            if self._under_way:
                self._connection.give_up()
            await self._connection.close()
            with trio.move_on_after(DISK_S, shield=True):
                await self._leave_true()

    # ---- the reader
    async def _read(self, finished: Callable[[Attempt], None]) -> None:
        try:
            with self._patience:
                while not self._over:
                    data = await self._connection.receive()
                    for event in self._client.receive(data):
                        self._on_event(event, finished)
                    self._wait_for_reply()
                    self._changed.set()
            if self._patience.cancelled_caught:
                self._end("no answer in time")
        except ProtocolError as error:
            self.mishandled = self._client.chunking
            self._end(str(error))
        except ConnectionFailed as error:
            self._end(str(error))

    def _on_event(self, event: smtp.Event, finished: Callable[[Attempt], None]) -> None:
        match event:
            case smtp.SendBody(accepted):
                attempt = self._under_way[-1]
                attempt.accepted = tuple(attempt.recipients[i] for i in accepted)
                attempt.body_begun = True
            case smtp.Finished(replies, more, accepted):
                attempt = self._under_way.popleft()
                attempt.replies, attempt.more, attempt.finished = replies, more, True
                attempt.accepted = tuple(attempt.recipients[i] for i in accepted)
                if self._client.chunking and any(500 <= replies[i].code <= 504 for i in accepted):
                    self.mishandled = True  # it offers BDAT and does not know it (RFC 5321 §4.2.4)
                self.answered += any(r.code != 421 for r in replies)
                finished(attempt)
            case smtp.Refused(stage, reply, text):
                self.refused = True
                if stage is smtp.Stage.MAIL and reply is not None and reply.code == 503:
                    self.mishandled = self._client.chunking  # "nested MAIL": one is open whose BDAT it refused
                self._end(text)
            case smtp.Closed(_, after_quit=True) if not self._under_way:
                self._end("")
            case smtp.Closed(reply, text=text):
                self.untouched = self._client.chunking and reply is not None
                self._end(text)
            case _:  # Ready and StartTls are of the opening
                pass

    def _end(self, failure: str) -> None:
        if not self._over:
            self._over = True
            self.failure = failure
        self._scope.cancel()

    def _wait_for_reply(self) -> None:
        """Sets the reader's deadline anew, after something was sent or received."""
        limit = END_S if self._client.end_awaited else REPLY_S if self._client.awaiting else float("inf")
        self._patience.deadline = trio.current_time() + limit

    # ---- the writer
    async def _write(self, source: Source, finished: Callable[[Attempt], None], nursery: trio.Nursery) -> None:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # the reader may have ended the session; so too below
            while (envelope := source.take()) is not None:
                await self._send(envelope, finished, nursery)
                if self._is_full():
                    await self._until(lambda: not self._is_full())
                await trio.lowlevel.checkpoint_if_cancelled()
            self._client.quit()
            await self._until(lambda: not self._under_way)
            with trio.move_on_after(QUIT_S):
                await self._flush()
                await self._until(lambda: self._over)
        except ConnectionFailed as error:
            self._end(str(error))

    def _is_full(self) -> bool:
        waiting = [a.envelope.size for a in self._under_way]
        return self._client.chunking and (len(waiting) >= MAX_UNANSWERED or sum(waiting[1:]) >= UNANSWERED)

    async def _send(self, envelope: Envelope, finished: Callable[[Attempt], None], nursery: trio.Nursery) -> None:
        attempt = Attempt(envelope, tuple(envelope.open_recipients()), reports="DSN" in self._client.extensions)
        mail = _mail(envelope, attempt.recipients)
        convert = mail.eight_bit and "8BITMIME" not in self._client.extensions
        try:
            body = await _open_body(self._outbox.path(envelope), envelope.size, convert=convert)
        except OSError as error:
            self._not_readable(attempt, error)
            return
        mail = replace(mail, size=body.size)
        with body.file:
            refusal = self._client.obstacle(mail)
            at_once = False
            try:
                at_once = refusal is None and self._client.start(mail, body.size + len(body.missing))
            except LocalProtocolError as error:  # one message that can't be said must not stop all others
                refusal = smtp.Reply(451, (f"4.3.0 it can't be sent as it is: {error}",))
            if refusal is not None:
                attempt.replies = (refusal,) * len(attempt.recipients)
                attempt.finished = True
                finished(attempt)
                return
            self._under_way.append(attempt)
            self._outbox.sending(envelope, True)
            if at_once:
                attempt.accepted, attempt.body_begun = attempt.recipients, True
            else:
                await self._until(lambda: attempt.body_begun or attempt.finished)
            if attempt.finished:
                return
            nursery.start_soon(self._note_doubt, attempt)
            left = body.size
            while left:
                try:
                    piece = await _read(body, min(CHUNK, left))
                except OSError as error:
                    self._not_readable(attempt, error)
                    return
                await trio.lowlevel.checkpoint_if_cancelled()
                left -= len(piece)
                if at_once and not left:  # with its last byte it may arrive
                    await self._recorded(attempt)
                if attempt.finished:  # before its body was: what is left of it would be taken for commands
                    self._end("the message was answered before its end")
                    return
                self._client.send_body(piece)
                # The last piece may wait for nothing: if the record is there already it goes out with the end of data
                # and the next message's commands, in one segment and one TLS record.
                if left or not attempt.recorded.is_set():
                    await self._flush()
            await self._recorded(attempt)
            if attempt.finished:
                self._end("the message was answered before its end")
                return
            if at_once and body.missing:
                self._client.send_body(body.missing)
            self._client.end_body()
            attempt.end_at = self._connection.handed + self._client.unsent

    async def _recorded(self, attempt: Attempt) -> None:
        if not attempt.recorded.is_set():
            await self._flush()  # meanwhile
        await attempt.recorded.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _not_readable(self, attempt: Attempt, error: OSError) -> None:
        """The message's file can't be read. What of it is under way must not get an end: the connection goes."""
        if attempt in self._under_way:
            self._end(f"the message could not be read: {error}")
        elif any(e.id == attempt.envelope.id for e in self._outbox.pending()):
            self.unfinished.append(attempt)
        else:
            return  # it was taken out of the queue after it had been claimed
        attempt.unreadable = True
        events.emit(events.STORAGE_FAILED, error=error)

    async def _note_doubt(self, attempt: Attempt) -> None:
        states = attempt.envelope.recipients
        new = [i for i in attempt.accepted if states[i].state is not RecipientState.IN_DOUBT]
        try:
            if new:
                # What another call left in doubt stays so, whatever becomes of this attempt.
                attempt.doubt_noted = tuple(new)
                with trio.fail_after(DISK_S, shield=True):
                    await self._outbox.in_doubt(attempt.envelope, new)
        except (OSError, trio.TooSlowError) as error:
            self.disk_failed = f"the disk failed: {error or 'too slow'}"
            self._end(self.disk_failed)
        else:
            attempt.recorded.set()

    async def _flush(self) -> None:
        data = self._client.data_to_send()
        if data:
            for attempt in self._under_way:
                attempt.end_sent = attempt.end_sent or attempt.end_at is not None
            await self._connection.send(data)
            self._wait_for_reply()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Sends what is due until `condition` holds. The end of the session cancels it."""
        await self._flush()
        while not condition():
            await self._changed.wait()
            self._changed = trio.Event()
            await self._flush()

    # ---- the end
    async def _leave_true(self) -> None:
        while self._under_way:
            attempt = self._under_way.popleft()
            self.unfinished.append(attempt)
            self._outbox.sending(attempt.envelope, False)
            if attempt.end_at is not None and self._connection.may_have_left(attempt.end_at) and not self.untouched:
                events.emit(events.IN_DOUBT, mail_id=attempt.envelope.id)
            elif attempt.doubt_noted:
                try:
                    await self._outbox.not_sent(attempt.envelope, attempt.doubt_noted)
                except OSError as error:
                    self.disk_failed = f"the disk failed: {error}"


async def _log_in(connection: ServerConnection, client: smtp.SmtpClient) -> None:
    while True:
        data = client.data_to_send()
        if data:
            await connection.send(data)
        for event in client.receive(await connection.receive(REPLY_S)):
            match event:
                case smtp.Ready():
                    return
                case smtp.StartTls():
                    await connection.start_tls()
                    client.tls_started()
                case smtp.Refused(smtp.Stage.AUTH, smtp.Reply(code=code), text) if code >= 500:
                    raise _LoginRefused(text)
                case smtp.Refused(_, _, text):
                    raise ConnectionFailed(text)
                case smtp.Closed(text=text):
                    raise ConnectionFailed(text)


def _mail(envelope: Envelope, recipients: tuple[int, ...]) -> smtp.Mail:
    who = (envelope.recipients[i] for i in recipients)
    return smtp.Mail(
        envelope.sender,
        tuple(smtp.Rcpt(r.address, r.notify, r.orcpt) for r in who),
        envelope.size,
        eight_bit=envelope.body == "8BITMIME",
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        mt_priority=envelope.mt_priority,
    )


@dataclass(frozen=True, slots=True)
class _Body:
    """What goes out of a message: its file as it is, or made 7-bit. `missing`: what its last line lacks of an end; an
    empty message lacks a line."""

    file: BinaryIO | SevenBit
    size: int
    missing: bytes


async def _open_body(path: Path, size: int, *, convert: bool) -> _Body:
    """`size`: of the file. Raises OSError."""
    file = open(path, "rb", buffering=0)  # noqa: ASYNC230, SIM115 - quick, and the caller closes it
    try:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 2))
        missing = b"" if file.read(2) == b"\r\n" else b"\r\n"
        file.seek(0)
        if not convert:
            return _Body(file, size, missing)
    except OSError:
        file.close()
        raise
    file.close()
    converted = await trio.to_thread.run_sync(SevenBit, path)
    return _Body(converted, converted.size, missing)


async def _read(body: _Body, n: int) -> bytes:
    """Up to `n` bytes, at least one. A message that fits one chunk was written or read a moment ago: no hop for it."""
    piece = body.file.read(n) if body.size <= CHUNK else await trio.to_thread.run_sync(body.file.read, n)
    if not piece:
        raise OSError("the message's file is shorter than its envelope says")
    return piece
