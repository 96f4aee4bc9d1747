"""The relay server's port: accepts, looks at the first byte, and hands on (RELAY §1, §6).

    0x16  a TLS handshake: a `Connection`, whose first frame must be `hello`; its role says who speaks from then on
    0x00  a data connection: `hello` and `join` in the clear, `joined`; the descriptor goes to who issued the ticket
    else  closed

It owns the listening sockets, the connections that have not said yet who they are, and the limits of their number and
time. It must not know logins, peers or requests: it is handed where a `hello` of each role goes, and the tickets.

A data connection's frames are looked at without being taken (MSG_PEEK) until both are whole, and then exactly they are
taken: bytes may stand behind them, and belong to the circuit.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from appliance import events
from appliance.protocol.relay import FIRST_LIMIT, VERSION, Decoder, FrameError, encode, is_name
from appliance.relay.circuits import keep_alive
from appliance.relay.connection import LINGER_S, Connection, as_of_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from appliance.relay.epoll import EpollSet
    from appliance.relay.tickets import Tickets
    from appliance.relay.timers import Timer, Timers

__all__ = ["Listener", "bare"]

PEEK_BYTES: Final = 2 * (4 + FIRST_LIMIT)
AUTHENTICATION_S: Final = 10.0
LINE_AUTHENTICATION_S: Final = 60.0
"""On the line a TLS handshake alone takes 12 s."""
PER_ADDRESS: Final = 32
IN_ALL: Final = 1024
"""Connections before authentication; further ones are closed without a byte."""
ACCEPTS: Final = 64
"""In a turn."""
ACCEPT_PAUSE_S: Final = 0.1
TLS, FRAME = 0x16, 0x00
_peeked: Final = memoryview(bytearray(PEEK_BYTES))
"""One for all: what is in it has been looked at before the next look."""


class Listener:
    """`greet`: role -> who takes the connection then. `over_line(socket)`: whether it has come in over a line."""

    def __init__(
        self,
        epoll: EpollSet,
        timers: Timers,
        context: ssl.SSLContext,
        tickets: Tickets,
        *,
        greet: Mapping[str, Callable[[Connection, str], None]],
        over_line: Callable[[socket.socket], bool] = lambda sock: False,
    ) -> None:
        self.epoll = epoll
        self.timers = timers
        self.context = context
        self.tickets = tickets
        self.greet = greet
        self.over_line = over_line
        self._doors: list[_Door] = []
        self._strangers: dict[str, int] = {}
        self._count = 0

    def open(self, sockets: Sequence[socket.socket]) -> None:
        """Accepts on these, which are listening and non-blocking, and its own from now on."""
        for sock in sockets:
            keep_alive(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of its connections too, as those before
            door = _Door(self, sock)
            self._doors.append(door)
            self.epoll.add(sock.fileno(), door)

    def close(self) -> None:
        """Accepts no more; what was accepted goes on."""
        doors, self._doors = self._doors, []
        for door in doors:
            self.epoll.remove(door.sock.fileno())
            door.sock.close()

    @property
    def strangers(self) -> int:
        """Connections that have not said yet who they are."""
        return self._count

    def accepted(self, sock: socket.socket, client: str) -> None:
        """One more."""
        if self._count >= IN_ALL or self._strangers.get(client, 0) >= PER_ADDRESS:
            sock.close()
            return
        sock.setblocking(False)
        if over_line := self.over_line(sock):
            as_of_line(sock)
        self._count += 1
        self._strangers[client] = self._strangers.get(client, 0) + 1
        _Newcomer(self, sock, client, over_line=over_line).begin()

    def left(self, client: str) -> None:
        """A stranger is known now, or gone."""
        self._count -= 1
        left = self._strangers[client] - 1
        if left:
            self._strangers[client] = left
        else:
            del self._strangers[client]


class _Door:
    """A listening socket."""

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self._listener = listener
        self.sock = sock

    def ready(self, mask: int) -> None:
        self._accept()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            if self.sock.fileno() < 0:
                return
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # gone again already (accept(2))
            except OSError as error:
                events.emit(events.ACCEPT_FAILED, service="relay", error=error)
                self._listener.timers.after(ACCEPT_PAUSE_S, self._accept)
                return
            try:
                self._listener.accepted(sock, bare(address[0]))
            except OSError:
                sock.close()
        self._listener.epoll.again(self._accept)


class _Newcomer:
    """A connection of which the first bytes are not there yet."""

    __slots__ = ("_client", "_listener", "_over_line", "_sock", "_timer")

    def __init__(self, listener: Listener, sock: socket.socket, client: str, *, over_line: bool) -> None:
        self._listener = listener
        self._sock = sock
        self._client = client
        self._over_line = over_line
        self._timer: Timer | None = None  # with it, it is in the epoll set

    def begin(self) -> None:
        """Mostly they are there already: who opens a data connection sends at once."""
        if self._look():
            return
        self._timer = self._listener.timers.after(self._seconds, self.stop)
        try:
            self._listener.epoll.add(self._sock.fileno(), self)
        except OSError:
            self.stop()

    @property
    def _seconds(self) -> float:
        return LINE_AUTHENTICATION_S if self._over_line else AUTHENTICATION_S

    def ready(self, mask: int) -> None:
        self._look()

    def _look(self) -> bool:
        """-> whether it is over."""
        try:
            data = bytes(_peeked[: self._sock.recv_into(_peeked, PEEK_BYTES, socket.MSG_PEEK)])
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data or data[0] not in (TLS, FRAME):
            self.stop()
        elif data[0] == TLS:
            self._become_connection()
        else:
            return self._join(data)
        return True

    def stop(self) -> None:
        self._wait_no_more()
        self._sock.close()
        self._listener.left(self._client)

    def _wait_no_more(self) -> float:
        """-> the seconds that were left."""
        timer, self._timer = self._timer, None
        if timer is None:
            return self._seconds
        timer.cancel()
        self._listener.epoll.remove(self._sock.fileno())
        return timer.seconds_left

    def _become_connection(self) -> None:
        listener, client = self._listener, self._client
        seconds_left = self._wait_no_more()
        try:
            connection = Connection(
                listener.epoll,
                listener.timers,
                self._sock,
                listener.context,
                client,
                frame_limit=FIRST_LIMIT,
                leave=lambda: listener.left(client),
            )
        except OSError:
            self.stop()
            return
        connection.not_longer_than(seconds_left, "it did not log in in time")
        connection.speaker = _Greeter(listener, connection)
        listener.epoll.add(connection.fd, connection)

    # ---- a data connection
    def _join(self, data: bytes) -> bool:
        """`hello` and `join`, as far as they are there; -> whether it is over."""
        try:
            parsed = _first_frames(data)
            if parsed is None:
                return False
            length, hello, join = parsed
            name = _check_hello(*hello)
            if hello[1].get("role") != "data" or join[0] != "join":
                raise FrameError("out-of-order", "a data connection begins with hello and join")
            ticket = join[1].get("ticket")
            if not isinstance(ticket, bytes):
                raise FrameError("bad-body", "join without a ticket")
            take = self._listener.tickets.redeem(ticket, name)
            if take is None:
                raise FrameError("bad-ticket", "no such ticket")
        except FrameError as error:
            self._refuse(error)
            return True
        try:
            self._sock.recv(length)
            self._sock.send(JOINED)
        except OSError:
            pass  # gone again: the circuit will notice
        self._wait_no_more()
        self._listener.left(self._client)
        take(self._sock.detach(), self._over_line)
        return True

    def _refuse(self, error: FrameError) -> None:
        self._wait_no_more()
        _Farewell(self._listener, self._sock, self._client, encode("error", {"code": error.code, "text": str(error)}))


class _Farewell:
    """A data connection that was refused: it reads on for a moment, so that no reset overtakes the `error`."""

    __slots__ = ("_client", "_listener", "_sock", "_timer")

    def __init__(self, listener: Listener, sock: socket.socket, client: str, frame: bytes) -> None:
        self._listener = listener
        self._sock = sock
        self._client = client
        self._timer = listener.timers.after(LINGER_S, self.stop)
        try:
            sock.send(frame)
            sock.shutdown(socket.SHUT_WR)
            listener.epoll.add(sock.fileno(), self)
        except OSError:
            self.stop()

    def ready(self, mask: int) -> None:
        try:
            while self._sock.recv(PEEK_BYTES):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self.stop()

    def stop(self) -> None:
        self._timer.cancel()
        self._listener.epoll.remove(self._sock.fileno())
        self._sock.close()
        self._listener.left(self._client)


class _Greeter:
    """The speaker of a control connection until its `hello`."""

    __slots__ = ("_connection", "_listener")

    def __init__(self, listener: Listener, connection: Connection) -> None:
        self._listener = listener
        self._connection = connection

    def on_open(self) -> None:
        """Only the opener says hello."""

    def on_frame(self, kind: str, body: Mapping[str, Any]) -> None:
        name = _check_hello(kind, body)
        greet = self._listener.greet.get(str(body.get("role")))
        if greet is None:
            raise FrameError("bad-body", "no such role on this connection")
        greet(self._connection, name)

    def on_end(self, why: str) -> None:
        """Nobody knew it."""


def bare(address: str) -> str:
    """As an address of a device is written: IPv4 on a socket of IPv6 as IPv4, link-local without its zone."""
    return address.removeprefix("::ffff:").partition("%")[0]


JOINED: Final = encode("joined", {})


def _check_hello(kind: str, body: Mapping[str, Any]) -> str:
    """-> the name. Raises FrameError."""
    if kind != "hello":
        raise FrameError("out-of-order", "the first frame is hello")
    if body.get("version") != VERSION:
        raise FrameError("version", f"this relay server speaks version {VERSION}")
    name = body.get("name")
    if not is_name(name):
        raise FrameError("bad-body", "hello without a name")
    return name


def _first_frames(data: bytes) -> tuple[int, tuple[str, Any], tuple[str, Any]] | None:
    """The first two frames and their length; None where they are not whole yet. Raises FrameError."""
    decoder = Decoder(FIRST_LIMIT)
    decoder.feed(data)
    first = decoder.next()
    second = decoder.next() if first is not None else None
    if first is None or second is None:
        return None
    return len(data) - decoder.left, first, second
