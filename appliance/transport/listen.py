"""The listening loop: accepts on every address of a service, with limits per client and in all.

It owns the sockets and the counts; it knows nothing of the protocol. A handler that raises ends its own
connection only: what it raised for the network (OSError, trio.BrokenResourceError …) is silence, anything
else is a defect and goes up to the supervisor after the connection is closed.

Running out of descriptors (EMFILE and friends, accept(2)) pauses the loop instead of ending it, as
trio.serve_listeners does.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.transport.prompt import PromptStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable

__all__ = ["Address", "ClientLimits", "TooManyClients", "accept", "open_listeners", "parse_address", "serve"]

ACCEPT_PAUSE_S: Final = 0.1
BACKLOG: Final = 256
IP_FREEBIND: Final = (socket.IPPROTO_IP, 15)
IPV6_FREEBIND: Final = (socket.IPPROTO_IPV6, 78)
"""linux/in.h, linux/in6.h; Python 3.11 names neither."""
_OUT_OF_THINGS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


@dataclass(frozen=True, slots=True)
class Address:
    """`host` as a literal address ("" is every one), `port` 0 for any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`1.2.3.4:25` or `[::1]:25`; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no ADDRESS:PORT")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


class TooManyClients(Exception):
    """The text says which limit, for the refusal."""


@dataclass(slots=True)
class ClientLimits:
    """Connections per client address and in all, shared by the services of the LAN."""

    per_client: int
    total: int
    _count: int = 0
    _by_client: dict[str, int] = field(default_factory=dict)

    def take(self, client: str) -> None:
        """Counts one connection; raises TooManyClients instead where there is no room."""
        if self._count >= self.total:
            raise TooManyClients("too many connections in all")
        if self._by_client.get(client, 0) >= self.per_client:
            raise TooManyClients("too many connections from your address")
        self._count += 1
        self._by_client[client] = self._by_client.get(client, 0) + 1

    def give_back(self, client: str) -> None:
        self._count -= 1
        left = self._by_client[client] - 1
        if left:
            self._by_client[client] = left
        else:
            del self._by_client[client]


async def open_listeners(
    addresses: Iterable[Address], *, to_come: Container[str] = frozenset()
) -> list[trio.SocketListener]:
    """Listening sockets on all of these, or OSError naming the address that can't be had. The host may not have those
    in `to_come` yet (Linux, ip(7): IP_FREEBIND): their device comes late, or the address is still being probed."""
    out: list[trio.SocketListener] = []
    try:
        for address in addresses:
            sock = trio.socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if address.host in to_come:
                    sock.setsockopt(*(IPV6_FREEBIND if sock.family == socket.AF_INET6 else IP_FREEBIND), 1)
                await sock.bind((address.host, address.port))
                sock.listen(BACKLOG)
            except OSError as error:
                sock.close()
                raise OSError(f"cannot listen on {address}: {error.strerror}") from error
            out.append(trio.SocketListener(sock))
    except OSError:
        for listener in out:
            listener.socket.close()
        raise
    return out


async def serve(
    service: str,
    listeners: list[trio.SocketListener],
    handler: Callable[[PromptStream, str], Awaitable[None]],
    *,
    limits: ClientLimits,
    refuse: Callable[[str], bytes],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled; a listener that is closed accepts no more, and its connections go on.
    `handler(stream, client)` gets a socket with TCP_NODELAY and the client's address
    as text, and need not close it. `refuse(why)` makes the line that a client over a limit gets."""
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            host, port = listener.socket.getsockname()[:2]
            events.emit(events.LISTENING, service=service, address=Address(host, port))
            nursery.start_soon(_accept_loop, service, listener, handler, limits, refuse, nursery)
        task_status.started()


async def accept(service: str, listener: trio.SocketListener) -> trio.SocketStream:
    """The next connection; waits while there is nothing left to accept it with. Raises trio.ClosedResourceError once
    the listener was closed."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_THINGS:
                raise
            events.emit(events.ACCEPT_FAILED, service=service, error=error)
            await trio.sleep(ACCEPT_PAUSE_S)


async def _accept_loop(
    service: str,
    listener: trio.SocketListener,
    handler: Callable[[PromptStream, str], Awaitable[None]],
    limits: ClientLimits,
    refuse: Callable[[str], bytes],
    nursery: trio.Nursery,
) -> None:
    async with listener:
        while True:
            try:
                accepted = await accept(service, listener)
            except trio.ClosedResourceError:
                return  # whoever closed it wants no more of them
            stream = PromptStream(socket.socket(fileno=accepted.socket.detach()))
            try:
                client = str(stream.socket.getpeername()[0]).removeprefix("::ffff:").partition("%")[0]
            except OSError:  # gone again already
                await trio.aclose_forcefully(stream)
                continue
            try:
                limits.take(client)
            except TooManyClients as why:
                events.emit(events.SESSION_REFUSED, service=service, client=client, why=why)
                await _refuse(stream, refuse(str(why)))
                continue
            nursery.start_soon(_one, stream, client, handler, limits)


async def _refuse(stream: PromptStream, line: bytes) -> None:
    # A fresh socket's send buffer holds the line: this cannot block, and must not, in the accept loop.
    try:
        with trio.move_on_after(0.1):
            await stream.send_all(line)
    except trio.BrokenResourceError:
        pass
    await trio.aclose_forcefully(stream)


async def _one(
    stream: PromptStream,
    client: str,
    handler: Callable[[PromptStream, str], Awaitable[None]],
    limits: ClientLimits,
) -> None:
    try:
        await handler(stream, client)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        limits.give_back(client)
        await trio.aclose_forcefully(stream)
