"""The POP3 service of the LAN: drives `protocol.pop3_server` over connections, on the users' mailboxes.

It owns the lock that each user's maildrop has against other POP3 sessions (RFC 1939 §3; Dovecot's IMAP goes on beside
it), and every deadline. It knows nothing of SMTP, of accounts upstream or of how passwords are checked.

How it works. One task a connection: bytes in, commands obeyed until one needs something of ours, replies out in as
few writes as the flight allows. A message goes through in chunks of `CHUNK`, read in a thread; so a session's memory
is bounded whatever the message's size. Messages marked as deleted are unlinked at QUIT in a committer's batch, and +OK
is said when that is durable. A session that ends in any other way deletes nothing.

Deadlines. Between commands `idle_timeout_s`, at least 10 minutes (RFC 1939 §3); a command is complete within
`COMMAND_S` of its first byte; what is sent is taken at 1 KiB/s or better. Past one, the connection is closed.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, BinaryIO, Final

import trio

from appliance import events
from appliance.mail.lan.logins import LoginBusy
from appliance.mail.store.mailbox import MessageGone
from appliance.protocol.pop3_server import (
    Close,
    Flush,
    Listed,
    LoginWanted,
    Pop3Server,
    RetrieveWanted,
    StartTls,
    UpdateWanted,
)
from appliance.transport.tls import TlsFailed, accept_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from appliance.mail.lan.logins import Logins
    from appliance.mail.store.mailbox import Mailbox, StoredMessage

__all__ = ["Pop3Service"]

SERVICE: Final = "pop3"
IDLE_AT_LEAST_S: Final = 600.0
"""RFC 1939 §3: the inactivity timer must be of at least 10 minutes."""
COMMAND_S: Final = 60.0
CHUNK: Final = 64 * 1024
"""Octets of a message in memory, and of one write."""
SEND_S: Final = 60.0
"""For one write of at most `CHUNK`: 1 KiB/s is what the slowest client must take."""
RECEIVE: Final = 16 * 1024
"""Octets of pipelined commands read at once."""
CLOSING_S: Final = 2.0
"""How long a goodbye may take: it is only for the client's good."""


class _Ended(Exception):
    """The session is over; the text says why, "" when the client went in good order."""


class Pop3Service:
    """`handler` serves one connection. `mailboxes` by user name, looked up at each login."""

    def __init__(
        self,
        mailboxes: Mapping[str, Mailbox],
        logins: Logins,
        *,
        tls: ssl.SSLContext | None,
        plaintext_login: bool,
        idle_timeout_s: float,
    ) -> None:
        self.mailboxes = mailboxes
        self.logins = logins
        self.tls = tls
        self.plaintext_login = plaintext_login
        self.idle_timeout_s = max(idle_timeout_s, IDLE_AT_LEAST_S)
        self.locked: set[str] = set()
        """Users whose maildrop a session has."""

    @staticmethod
    def refuse(why: str) -> bytes:
        """The greeting of a client that is over a limit (`transport.listen.serve`)."""
        return f"-ERR [SYS/TEMP] {why}\r\n".encode()

    async def handler(self, stream: trio.abc.HalfCloseableStream, client: str, *, implicit_tls: bool = False) -> None:
        """One connection, from the greeting to its end. Raises OSError or trio.BrokenResourceError when the network
        ends it; closing the stream is the caller's. `implicit_tls`: TLS comes first (port 995, RFC 8314 §3.2)."""
        session = _Session(self, stream, client, implicit_tls=implicit_tls)
        try:
            await session.run()
        except (_Ended, TlsFailed) as end:
            if str(end):
                events.emit(events.SESSION_ENDED, service=SERVICE, client=client, why=end)
            session.unlock()
            await session.close()
        finally:
            session.unlock()


class _Session:
    """One connection. It owns the protocol, the stream (TLS once that is up) and, from login on, the maildrop."""

    def __init__(
        self, service: Pop3Service, stream: trio.abc.HalfCloseableStream, client: str, *, implicit_tls: bool
    ) -> None:
        self._service = service
        self._stream: trio.abc.Stream = stream
        self._socket = stream
        self._client = client
        self._implicit_tls = implicit_tls
        self._protocol = Pop3Server(
            tls_offered=service.tls is not None,
            tls_active=implicit_tls,
            plain_login=service.plaintext_login or _is_loopback(client),
        )
        self._mailbox: Mailbox | None = None
        self._messages: Sequence[StoredMessage] = ()
        self._began: float | None = None
        """When the first byte of a command that is not complete was seen."""

    async def run(self) -> None:
        """Ends by `_Ended`, or by what the network raises."""
        if self._implicit_tls:
            await self._start_tls()
        while True:
            match self._protocol.next_event():
                case None:
                    await self._send()
                    await self._receive()
                case Flush():
                    await self._send()
                case LoginWanted() as login:
                    await self._send()
                    await self._log_in(login)
                case RetrieveWanted() as wanted:
                    await self._retrieve(wanted)
                case UpdateWanted() as update:
                    await self._send()
                    await self._update(update)
                case StartTls():
                    await self._send()
                    await self._start_tls()
                    self._protocol.tls_started()
                case Close() as close:
                    self.unlock()  # before the goodbye: whoever reads it may come back at once
                    await self._send()
                    raise _Ended(close.why)

    def unlock(self) -> None:
        if self._mailbox is not None:
            self._service.locked.discard(self._mailbox.user)
            self._mailbox = None

    async def close(self) -> None:
        """Closes so that the last reply arrives: a socket closed with unread bytes in it resets the connection."""
        with trio.move_on_after(CLOSING_S, shield=True):
            try:
                if isinstance(self._stream, trio.SSLStream):
                    await self._stream.unwrap()  # says in TLS that it ends; https_compatible's aclose would not
                await self._socket.send_eof()
                while await self._socket.receive_some(RECEIVE):
                    pass
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    # ---- the network
    async def _receive(self) -> None:
        now = trio.current_time()
        if self._protocol.mid_command:
            self._began = now if self._began is None else self._began
            deadline, why = self._began + COMMAND_S, "a command was not completed in time"
        else:
            deadline, why = now + self._service.idle_timeout_s, "idle for too long"
        with trio.move_on_at(deadline) as scope:
            data = await self._stream.receive_some(RECEIVE)
        if scope.cancelled_caught:
            raise _Ended(why)
        if not data:
            raise _Ended("")
        self._protocol.feed(data)

    async def _send(self) -> None:
        view = memoryview(self._protocol.data_to_send())
        if view:
            self._began = None  # a reply: the command that had begun was complete
        for at in range(0, len(view), CHUNK):
            with trio.move_on_after(SEND_S) as scope:
                await self._stream.send_all(view[at : at + CHUNK])
            if scope.cancelled_caught:
                raise _Ended("the client takes nothing")

    async def _start_tls(self) -> None:
        if self._service.tls is None:
            raise _Ended("there is no certificate for TLS")
        self._stream = await accept_tls(self._socket, self._service.tls)

    # ---- the maildrop
    async def _log_in(self, login: LoginWanted) -> None:
        try:
            user = await self._service.logins.check(login.name, login.password, service=SERVICE, client=self._client)
        except LoginBusy as busy:
            return self._protocol.login_refused("SYS/TEMP", str(busy))
        if user is None:
            return self._protocol.login_refused("AUTH", "wrong name or password")
        if user.name in self._service.locked:
            return self._protocol.login_refused("IN-USE", "another session has the maildrop")
        self._mailbox = self._service.mailboxes[user.name]
        self._service.locked.add(user.name)
        try:
            self._messages = await trio.to_thread.run_sync(self._mailbox.messages)
        except OSError as error:
            self.unlock()
            _disk_failed(error)
            return self._protocol.login_refused("SYS/TEMP", "the maildrop can't be read now")
        return self._protocol.login_accepted([Listed(m.wire_size, m.uidl) for m in self._messages])

    async def _retrieve(self, wanted: RetrieveWanted) -> None:
        assert self._mailbox is not None
        message = self._messages[wanted.index]
        try:
            file, data = await trio.to_thread.run_sync(_open_and_read, self._mailbox, message)
        except MessageGone:
            return self._protocol.retrieve_refused("the message has been deleted by another program")
        except OSError as error:
            _disk_failed(error)
            return self._protocol.retrieve_refused("[SYS/TEMP] the message can't be read now")
        try:
            self._protocol.body(data)
            while file is not None and data and not self._protocol.body_enough:
                await self._send()
                data = await trio.to_thread.run_sync(file.read, CHUNK)
                self._protocol.body(data)
        except OSError as error:
            _disk_failed(error)
            raise _Ended("a message could not be read to its end") from error
        finally:
            if file is not None:
                file.close()
        return self._protocol.body_end()

    async def _update(self, update: UpdateWanted) -> None:
        assert self._mailbox is not None
        try:
            await self._mailbox.delete([self._messages[i] for i in update.indexes])
        except OSError as error:
            _disk_failed(error)
            self._protocol.updated(complete=False)
        else:
            self._protocol.updated(complete=True)


def _open_and_read(mailbox: Mailbox, message: StoredMessage) -> tuple[BinaryIO | None, bytes]:
    """The first chunk, and the file where there may be more: most messages cost one hop to a thread."""
    file = mailbox.open(message)
    try:
        data = file.read(CHUNK)
    except BaseException:
        file.close()
        raise
    if len(data) < CHUNK:
        file.close()
        return None, data
    return file, data


def _disk_failed(error: OSError) -> None:
    if error.errno is not None:  # else a refusal of our own: the committer has stopped
        events.emit(events.STORAGE_FAILED, error=error)


def _is_loopback(client: str) -> bool:
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return False
