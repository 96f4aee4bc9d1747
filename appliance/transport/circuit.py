"""A circuit from end to end: a joined data connection, the terminals' TLS in it, and what is joined to it on this side
(a service, a program's connection, standard input and output). Owns both while it carries; knows no relay protocol.

Half-close is kept in both directions. Whatever breaks, breaks both sides so that it can't be taken for an end: the
circuit is closed without its end mark, a local socket is reset.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance.transport.sealing import CHUNK, PREFIX, READ_BYTES, Sealed, SealingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

__all__ = [
    "Carried", "CircuitBroken", "Local", "LocalBroken", "LocalSocket", "NotConnected", "carry", "seal", "tell_go",
    "wait_go",
]  # fmt: skip

HANDSHAKE_S: Final = 60.0
"""3.5 KB both ways and two round trips: 20 s on the slowest line that is served."""
GO_S: Final = 60.0
"""The callee connects to its service (`callee.SERVICE_S`), and a byte crosses two slow lines."""
CLOSE_S: Final = 1.0
"""For the other end's last bytes after both ends are over: closing on them would reset the connection, and a reset
overtakes what is still on its way."""
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_COUNT = 60, 15, 4
"""A relay server that is gone without a word is noticed after two minutes also where nothing is sent."""


class CircuitBroken(Exception):
    """The circuit ended before both directions had; the text says why."""


class NotConnected(CircuitBroken):
    """It ended before the callee's service was connected."""


class LocalBroken(Exception):
    """This side's end broke; the text says why."""


@dataclass(slots=True)
class Carried:
    """Bytes of content so far."""

    sent: int = 0
    received: int = 0


class Local(Protocol):
    """This side's end of a circuit. One task reads and one writes; what raises OSError is broken."""

    async def receive_into(self, view: memoryview) -> int:
        """At least one byte; 0 at the end."""

    async def send_all(self, parts: list[memoryview]) -> None:
        """All of these, in order."""

    async def send_eof(self) -> None:
        """Nothing more will be sent."""

    def reset(self) -> None:
        """Closes it so that nobody takes it for an end. Does not block."""

    def close(self) -> None:
        """Closes it. Does not block."""


class LocalSocket:
    """A connected TCP socket as a local end, which it owns."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock

    async def receive_into(self, view: memoryview) -> int:
        return await self._socket.recv_into(view)

    async def send_all(self, parts: list[memoryview]) -> None:
        await send_all(self._socket, parts[0] if len(parts) == 1 else b"".join(parts))

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()

    def close(self) -> None:
        self._socket.close()


async def send_all(sock: trio.socket.SocketType, data: bytes | memoryview) -> None:
    with memoryview(data) as view:
        at = 0
        while at < len(view):
            at += await sock.send(view[at:])


# ---- the beginning
async def seal(sock: trio.socket.SocketType, own: Path, other: bytes, *, caller: bool) -> Sealed:
    """The handshake in a joined data connection. Raises NotConnected, SealingError, and OSError for `own`."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _keep_alive(sock)
    sealed = Sealed(own, other, caller=caller)
    try:
        with trio.fail_after(HANDSHAKE_S):
            done = False
            while not done:
                try:
                    done = sealed.handshake()
                finally:
                    if data := sealed.outgoing():
                        await _quietly(send_all(sock, data))
                if not done:
                    await _receive(sock, sealed)
    except trio.TooSlowError:
        raise NotConnected(f"no handshake within {HANDSHAKE_S:g} s") from None
    return sealed


def _keep_alive(sock: trio.socket.SocketType) -> None:
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, option):  # not everywhere
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def tell_go(sock: trio.socket.SocketType, sealed: Sealed) -> None:
    """The callee: its service is connected. Raises NotConnected."""
    sealed.seal_go()
    try:
        await send_all(sock, sealed.outgoing())
    except OSError as error:
        raise NotConnected(str(error.strerror)) from error


async def wait_go(sock: trio.socket.SocketType, sealed: Sealed) -> None:
    """The caller: until the callee's service is connected. Raises NotConnected, SealingError."""
    try:
        with trio.fail_after(GO_S):
            while not sealed.connected():
                await _receive(sock, sealed)
    except trio.TooSlowError:
        raise NotConnected(f"its service was not connected within {GO_S:g} s") from None


async def _receive(sock: trio.socket.SocketType, sealed: Sealed) -> None:
    try:
        data = await sock.recv(READ_BYTES)
    except OSError as error:
        raise NotConnected(f"the circuit broke: {error.strerror}") from error
    if not data:
        raise NotConnected("the other side closed the circuit")
    sealed.feed(data)


async def _quietly(sending: Coroutine[Any, Any, None]) -> None:
    """What the other end sent before it closed says more than that nothing can be sent any more."""
    try:
        await sending
    except OSError:
        pass


# ---- the two directions
async def carry(
    sock: trio.socket.SocketType,
    sealed: Sealed,
    local: Local,
    carried: Carried,
    *,
    on_end: Callable[[], None] | None = None,
) -> None:
    """Carries both directions to their ends, then closes both sides; `on_end` is told when the other end's direction is
    over. Raises CircuitBroken or LocalBroken after both sides were broken off; cancelled, it breaks them off too."""
    pump = _Pump(sock, sealed, local, carried, on_end)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run, pump.outward, nursery.cancel_scope)
            nursery.start_soon(pump.run, pump.inward, nursery.cancel_scope)
        if pump.failure is not None:
            raise pump.failure
        await _close(sock)
        local.close()
    finally:
        local.reset()
        sock.close()


class _Pump:
    def __init__(
        self,
        sock: trio.socket.SocketType,
        sealed: Sealed,
        local: Local,
        carried: Carried,
        on_end: Callable[[], None] | None,
    ) -> None:
        self._socket = sock
        self._sealed = sealed
        self._local = local
        self._carried = carried
        self._on_end = on_end
        self.failure: CircuitBroken | LocalBroken | None = None

    async def run(self, direction: Callable[[], Coroutine[Any, Any, None]], scope: trio.CancelScope) -> None:
        """One direction; its failure ends the other one. The first failure counts: others follow from it."""
        try:
            await direction()
        except (CircuitBroken, LocalBroken) as failure:
            self.failure = self.failure or failure
            scope.cancel()

    async def outward(self) -> None:
        buffer = bytearray(PREFIX + CHUNK)
        with memoryview(buffer) as whole, whole[PREFIX:] as room:
            while True:
                try:
                    n = await self._local.receive_into(room)
                except OSError as error:
                    raise LocalBroken(error.strerror or str(error)) from error
                if n == 0:
                    break
                self._sealed.seal(buffer, n)
                await self._send()
                self._carried.sent += n
        self._sealed.seal_end()
        await self._send()

    async def inward(self) -> None:
        buffer = bytearray(READ_BYTES)
        view = memoryview(buffer)
        try:
            while True:
                while parts := self._sealed.open():
                    try:
                        await self._local.send_all(parts)
                    except OSError as error:
                        raise LocalBroken(error.strerror or str(error)) from error
                    self._carried.received += sum(map(len, parts))
                if self._sealed.ended:
                    break
                n = await self._socket.recv_into(view)
                if n == 0:
                    raise CircuitBroken("the circuit was cut off before its end")
                # What TLS itself may answer (KeyUpdate, RFC 8446 §4.6.3) is due before our next record, and goes out
                # with it: who reads must never wait for room to send, or two full directions wait for each other.
                self._sealed.feed(view[:n])
        except SealingError as error:
            raise CircuitBroken(str(error)) from error
        except OSError as error:
            raise CircuitBroken(f"the circuit broke: {error.strerror}") from error
        if self._on_end is not None:
            self._on_end()
        try:
            await self._local.send_eof()
        except OSError:
            pass  # it is gone already, and has got everything that it took

    async def _send(self) -> None:
        """What TLS has to send. Of `outward` alone."""
        try:
            await send_all(self._socket, self._sealed.outgoing())
        except OSError as error:
            raise CircuitBroken(f"the circuit broke: {error.strerror}") from error


async def _close(sock: trio.socket.SocketType) -> None:
    """After both ends are over."""
    with trio.move_on_after(CLOSE_S):
        try:
            sock.shutdown(socket.SHUT_WR)
            while await sock.recv(READ_BYTES):
                pass
        except OSError:
            pass
