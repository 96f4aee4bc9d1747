"""`posthouse terminal forward`: a port of this computer leads to a service of another terminal, a circuit for each
connection. A connection that gets no circuit is reset, and why is said."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from appliance.terminal import sentences
from appliance.terminal.client import Client, NoConnection
from appliance.transport import circuit
from appliance.transport.listen import accept

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.terminal.dial import Endpoint

__all__ = ["forward", "listener_at"]

CIRCUITS: Final = 64
"""RELAY §1: of one terminal. Further connections wait in the backlog."""
BACKLOG: Final = 128


async def listener_at(at: Endpoint) -> trio.SocketListener:
    """Raises OSError in words for a person."""
    sock = trio.socket.socket(socket.AF_INET6 if ":" in at.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((at.host, at.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(f"cannot listen on {at}: {error.strerror or error}") from error
    return trio.SocketListener(sock)


async def forward(
    client: Client, listener: trio.SocketListener, to: str, service: str, wait_s: float, say: Callable[[str], None]
) -> None:
    """Until it is cancelled."""
    room = trio.CapacityLimiter(CIRCUITS)
    async with listener, trio.open_nursery() as nursery:
        number = 0
        while True:
            await room.acquire_on_behalf_of(number)
            stream = await accept("forward", listener)
            nursery.start_soon(_one, client, stream, to, service, wait_s, say, room, number)
            number += 1


async def _one(
    client: Client,
    stream: trio.SocketStream,
    to: str,
    service: str,
    wait_s: float,
    say: Callable[[str], None],
    room: trio.CapacityLimiter,
    number: int,
) -> None:
    local = circuit.LocalSocket(stream.socket)
    carried = circuit.Carried()
    try:
        opened = await client.open(to, service, wait_s)
        await circuit.carry(opened.socket, opened.sealed, local, carried)
        moved = f"{sentences.size(carried.sent)} out, {sentences.size(carried.received)} in"
        say(f"{to} {service}: ended; {moved}")
    except NoConnection as why:
        say(str(why))
    except circuit.CircuitBroken as error:
        say(f"{to} {service}: broken off: {error}")
    except circuit.LocalBroken as error:
        say(f"{to} {service}: broken off by this side: {error}")
    finally:
        local.reset()
        room.release_on_behalf_of(number)
