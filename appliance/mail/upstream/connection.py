"""A connection to a provider's server, over the call: TCP, TLS when it is due, deadlines, and every failure in words.

What SMTP and POP3 sessions stand on. It knows neither protocol. One task sends and one receives. A send that failed
or was cancelled leaves half a line behind, so the connection is then good for nothing but `close`.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from appliance.config.model import Tls
from appliance.transport.outgoing import OutgoingStream
from appliance.transport.tls import ClientSessions, TlsFailed

if TYPE_CHECKING:
    from appliance.call import OpenCall
    from appliance.config.model import Account, Smarthost

__all__ = ["PIECE", "ConnectionFailed", "ServerConnection"]

CONNECT_S: Final = 60.0
"""For DNS and TCP: SYN and its answer take 3 s on the slowest line, and may be lost twice."""

PIECE: Final = 16 * 1024
"""Bytes of one send, so that a deadline means progress: what is handed over is cut into these."""

SEND_S: Final = 600.0
"""For one piece: 28 bytes/s, a tenth of the slowest line's share. RFC 5321 §4.5.3.2.5 asks for 3 minutes at least.
A line that is gone cancels long before."""

RECEIVE: Final = 32 * 1024

PIECES: Final = 1024
"""Pieces whose place in the stream is kept: 16 MB when all are whole, beyond any window."""

UNSENT: Final = 4 * 1024
"""Bytes that the kernel may hold beyond what is on its way (TCP_NOTSENT_LOWAT, tcp(7)). Without it megabytes of a
message wait there for minutes: a deadline would mean nothing, and much would count as handed over that is not."""


_SESSIONS: Final = ClientSessions()
"""The process's: what one call has learnt the next one resumes."""


class ConnectionFailed(Exception):
    """The connection can't be made or is broken; the text says how."""


class ServerConnection:
    """Made by `open`, ended by `close`."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, host: str, port: int, ca: str) -> None:
        self.host = host
        self._port = port
        self._ca = ca
        self.handed = 0
        """Octets that `send` was given, before TLS."""
        self._tcp = OutgoingStream(stream)
        self._stream: trio.abc.Stream = self._tcp
        self._pieces: deque[tuple[int, int]] = deque(maxlen=PIECES)  # `handed` behind each, and `offered` of TCP
        self._sent: int | None = None  # as it was when the connection was given up
        self._poisoned = False

    @classmethod
    async def open(cls, call: OpenCall, server: Smarthost | Account) -> ServerConnection:
        """Connects, and does the handshake where TLS is implicit. Raises ConnectionFailed."""
        try:
            with trio.fail_after(CONNECT_S):
                stream = await call.open_stream(server.host, server.port)
        except trio.TooSlowError:
            raise ConnectionFailed(f"no connection within {CONNECT_S:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise ConnectionFailed(f"no connection: {error}") from error
        _bound_unsent(stream)
        connection = cls(stream, server.host, server.port, server.ca)
        if server.tls is Tls.IMPLICIT:
            try:
                await connection.start_tls()
            except BaseException:
                await connection.close()
                raise
        return connection

    async def start_tls(self) -> None:
        """The client's side of a handshake; the server's name is checked. Raises ConnectionFailed."""
        try:
            self._stream = await _SESSIONS.connect(self._tcp, self._ca, self.host, self._port)
        except (OSError, ssl.SSLError) as error:
            raise ConnectionFailed(f"no TLS: {self._ca or 'the authorities'}: {error}") from error
        except TlsFailed as error:
            raise ConnectionFailed(str(error)) from error

    async def send(self, data: bytes) -> None:
        """All of it, a piece at a time. Raises ConnectionFailed."""
        if self._poisoned:
            raise ConnectionFailed("the connection is broken")
        self._poisoned = True
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            try:
                with trio.fail_after(SEND_S):
                    await self._stream.send_all(piece)
            except trio.TooSlowError:
                raise ConnectionFailed(f"nothing could be sent for {SEND_S:g} s") from None
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionFailed(f"the connection broke: {error.__cause__ or error}") from error
            finally:
                self.handed += len(piece)
                self._pieces.append((self.handed, self._tcp.offered))
        self._poisoned = False

    async def receive(self, deadline_s: float | None = None) -> bytes:
        """What came; b"" at the end of the stream. Raises ConnectionFailed. None: the caller keeps the time."""
        try:
            if deadline_s is None:
                return await self._receive()
            with trio.fail_after(deadline_s):
                return await self._receive()
        except trio.TooSlowError:
            raise ConnectionFailed(f"no answer within {deadline_s:g} s") from None

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionFailed(f"the connection broke: {error.__cause__ or error}") from error

    def give_up(self) -> None:
        """Before `close`, when something is unfinished: what the kernel has not sent never leaves it.

        A segment that leaves between the look and the close is not seen: microseconds, on a line that is gone or about
        to be hung up."""
        self._sent = self._tcp.sent()
        self._tcp.abort_on_close()

    def may_have_left(self, octet: int) -> bool:
        """Whether what was handed over, up to this octet of `handed`, may have arrived at the server."""
        sent = self._tcp.sent() if self._sent is None else self._sent
        if self._pieces and len(self._pieces) == PIECES and octet <= self._pieces[0][0]:
            return True  # long ago
        for handed, offered in self._pieces:
            if octet <= handed:
                # A TLS record is readable only as a whole (RFC 8446 §5.2).
                end = offered if isinstance(self._stream, trio.SSLStream) else offered - (handed - octet)
                return sent >= end
        return False

    async def close(self) -> None:
        """At once, whatever is under way: neither TLS nor TCP is waited for. Not ended by cancellation."""
        if isinstance(self._stream, trio.SSLStream):
            _SESSIONS.keep(self._stream, self._ca, self.host, self._port)
        with trio.CancelScope(shield=True):  # nothing in it waits
            await trio.aclose_forcefully(self._stream)


def _bound_unsent(stream: trio.abc.HalfCloseableStream) -> None:
    sock = getattr(stream, "socket", None)  # what counts a call's bytes passes on the socket below it
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if sock is not None and option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT)
