"""One POP3 connection: opened and logged in, its commands sent as they fall due, its answers received in time.

It owns the connection and the task that sends; what is asked and what is done with the answers is the fetcher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from appliance.config.model import Tls
from appliance.mail.upstream.connection import ConnectionFailed, ServerConnection
from appliance.protocol import pop3_client as pop3
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from appliance.call import OpenCall
    from appliance.config.model import Account

__all__ = ["ANSWER_S", "LoginRefused", "Pop3Session", "SessionFailed"]

ANSWER_S: Final = 300.0
"""Without a byte of an answer: as SMTP's (RFC 5321 §4.5.3.2); POP3 names none for a client."""


class SessionFailed(Exception):
    """The session could not be had, or broke; another call may do better. The text says why."""


class LoginRefused(Exception):
    """The server will not have this login; no other call will do better."""


class Pop3Session:
    """`open` one, start `send_due`, ask through `client` with `kick` behind it, take `events`; `close` it."""

    def __init__(self, connection: ServerConnection, client: pop3.Pop3Client) -> None:
        self.client = client
        self._connection = connection
        self._due = trio.Event()
        self._failure = ""
        self._receiving = trio.CancelScope()

    @classmethod
    async def open(cls, call: OpenCall, account: Account, password: str) -> Pop3Session:
        """Connects and logs in. Raises SessionFailed or LoginRefused."""
        client = pop3.Pop3Client(account.login, password, starttls=account.tls is Tls.STARTTLS)
        try:
            connection = await ServerConnection.open(call, account)
        except ConnectionFailed as error:
            raise SessionFailed(str(error)) from error
        try:
            await _log_in(connection, client)
        except (ConnectionFailed, ProtocolError) as error:
            await connection.close()
            raise SessionFailed(str(error)) from error
        except BaseException:
            await connection.close()
            raise
        return cls(connection, client)

    def kick(self) -> None:
        """There may be something to send."""
        self._due.set()

    async def send_due(self) -> None:
        """Sends what is asked, until cancelled. A task of its own: with PIPELINING the server may be writing when it
        should read, and then must not find us writing too."""
        try:
            while True:
                await self._due.wait()
                self._due = trio.Event()
                while data := self.client.data_to_send():
                    await self._connection.send(data)
        except ConnectionFailed as error:
            self._failure = str(error)
            self._receiving.cancel()

    async def events(self, limit_s: float = ANSWER_S) -> list[pop3.Event]:
        """What comes next. Raises SessionFailed when the session is over; events that came before its end are
        returned first."""
        self.kick()
        events: list[pop3.Event] = []
        self._receiving = trio.CancelScope()
        if not self._failure:
            try:
                with self._receiving:
                    events = self.client.receive(await self._connection.receive(limit_s))
            except (ConnectionFailed, ProtocolError) as error:
                self._failure = str(error)
        if events and (why := _end(events[-1])):
            events.pop()
            self._failure = why
        if self._failure and not events:
            raise SessionFailed(self._failure)
        self.kick()
        return events

    async def close(self) -> None:
        await self._connection.close()


async def _log_in(connection: ServerConnection, client: pop3.Pop3Client) -> None:
    while True:
        data = client.data_to_send()
        if data:
            await connection.send(data)
        for event in client.receive(await connection.receive(ANSWER_S)):
            match event:
                case pop3.Ready():
                    return
                case pop3.StartTls():
                    await connection.start_tls()
                    client.tls_started()
                case pop3.Refused(text, login=True):
                    raise LoginRefused(text)
                case pop3.Refused(text):
                    raise SessionFailed(text)
                case pop3.Closed(text=text):
                    raise SessionFailed(text)
                case _:
                    pass


def _end(event: pop3.Event) -> str:
    """Why the session is over with this event; "" when it is not."""
    match event:
        case pop3.Refused(text) | pop3.Closed(committed=False, text=text):
            return text or "the server gave no reason"
        case _:
            return ""
