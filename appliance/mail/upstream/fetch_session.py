"""One connection of a fetcher, whichever protocol: its commands sent as they fall due, its answers received in time.

It owns the connection and the task that sends; what is asked and what is done with the answers is the fetcher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import trio

from appliance.mail.upstream.connection import ConnectionFailed
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.mail.upstream.connection import ServerConnection

__all__ = ["ANSWER_S", "SLICE", "Client", "FetchSession", "LoginRefused", "SessionFailed"]

ANSWER_S: Final = 300.0
"""Without a byte of an answer: as SMTP's (RFC 5321 §4.5.3.2); POP3 and IMAP name none for a client."""

SLICE: Final = 4 * 1024
"""Bytes that a client is given at once: compressed, they may mean a thousand times as much."""


class SessionFailed(Exception):
    """The session could not be had, or broke; another call may do better. The text says why."""


class LoginRefused(Exception):
    """The server will not have this login, or has not what it is asked for; no other call will do better."""


Event = TypeVar("Event")
T = TypeVar("T")


class Client(Protocol[Event]):
    """A sans-IO client."""

    def data_to_send(self) -> bytes: ...

    def receive(self, data: bytes) -> list[Event]: ...


class FetchSession(Generic[Event]):
    """Start `send_due`, ask through the client with `kick` behind it, take `events`; `close` it.

    `end` says why the session is over with an event; "" when it is not.
    """

    def __init__(self, connection: ServerConnection, client: Client[Event], end: Callable[[Event], str]) -> None:
        self._connection = connection
        self._protocol = client
        self._end = end
        self._due = trio.Event()
        self._failure = ""
        self._rest = b""  # received, and not given to the client yet
        self._receiving = trio.CancelScope()

    def kick(self) -> None:
        """There may be something to send."""
        self._due.set()

    async def send_due(self) -> None:
        """Sends what is asked, until cancelled. A task of its own: with pipelining the server may be writing when it
        should read, and then must not find us writing too."""
        try:
            while True:
                await self._due.wait()
                self._due = trio.Event()
                while data := self._protocol.data_to_send():
                    await self._connection.send(data)
        except ConnectionFailed as error:
            self._failure = str(error)
            self._receiving.cancel()

    async def send_last(self) -> None:
        """Sends what is asked and waits for no answer: for the last words, before `close`, while nothing else is sent.
        What the network has against it is of no interest."""
        try:
            await self._connection.send(self._protocol.data_to_send())
        except ConnectionFailed:
            pass

    async def events(self, limit_s: float = ANSWER_S) -> list[Event]:
        """What comes next. Raises SessionFailed when the session is over; events that came before its end are
        returned first."""
        self.kick()
        events: list[Event] = []
        self._receiving = trio.CancelScope()
        if self._rest or not self._failure:
            try:
                with self._receiving:
                    data = self._rest or await self._connection.receive(limit_s)
                    self._rest = data[SLICE:]
                    events = self._protocol.receive(data[:SLICE])
            except (ConnectionFailed, ProtocolError) as error:
                self._failure, self._rest = str(error), b""
        if events and (why := self._end(events[-1])):
            events.pop()
            self._failure, self._rest = why, b""
        if self._failure and not self._rest and not events:
            raise SessionFailed(self._failure)
        self.kick()
        return events

    async def one(self, kind: type[T]) -> T:
        """The next event of this kind, as `some`."""
        return (await self.some(kind, 1))[0]

    async def some(self, kind: type[T], count: int) -> list[T]:
        """The next `count` events of this kind; others are of no interest now. Raises SessionFailed."""
        out: list[T] = []
        while len(out) < count:
            out += [event for event in await self.events() if isinstance(event, kind)]
        return out

    async def close(self) -> None:
        await self._connection.close()
