"""Opening connections to peers: their links, at all times or for as long as a call is up, and data connections for
circuits (RELAY §1, §4, §6).

It owns who is dialled when; must not know what goes over a link. Where a connection goes, the network or a call's line,
is said by an opener; a link keeps the one that it was made with, for the data connections of its circuits.
"""

from __future__ import annotations

import random
import socket
import ssl
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.protocol.errors import RemoteProtocolError
from appliance.protocol.relay import FIRST_LIMIT, VERSION, Decoder, encode
from appliance.relay.circuits import keep_alive
from appliance.relay.connection import Connection, as_of_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.relay.epoll import EpollSet
    from appliance.relay.links import PeerLink
    from appliance.relay.peers import Peer
    from appliance.relay.timers import Timers

    Opener = Callable[[str, int], Awaitable[socket.socket]]
    """(host, port) to a TCP connection; raises OSError."""

__all__ = ["Dialling", "network"]

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
CONNECT_S: Final = 30.0
"""A TCP connection, over a satellite's line too."""
LINK_S: Final = 90.0
"""Until a link is up: TCP, TLS and the proofs."""
JOIN_S: Final = 60.0
JOIN_TRIES: Final = 5
RETRY_S: Final = (0.5, 2.0)
"""RELAY §1: who is closed without a byte tries again after so long, for a ticket at most five times."""


async def network(host: str, port: int) -> socket.socket:
    """A TCP connection over the host's network, non-blocking. Raises OSError."""
    stream = await trio.open_tcp_stream(host, port)
    return socket.socket(fileno=stream.socket.detach())


class Dialling:
    """`make_link(connection, peer, keepalive, stays, back_in)` makes a link that we open."""

    def __init__(
        self,
        me: str,
        epoll: EpollSet,
        timers: Timers,
        *,
        make_link: Callable[[Connection, Peer, int, float, float | None], PeerLink],
    ) -> None:
        self._me = me
        self._epoll = epoll
        self._timers = timers
        self._make_link = make_link
        self._openers: dict[PeerLink, tuple[Opener, bool]] = {}  # and whether it goes over a line
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.check_hostname = False  # the certificate is pinned: the link compares it
        self._context.verify_mode = ssl.CERT_NONE

    async def keep(self, peer: Peer) -> None:
        """A link that is always up, until cancelled: dialled again whenever it is not."""
        pause, why = FIRST_PAUSE_S, ""
        while True:
            if peer.link is None:
                try:
                    link = await self.dial(peer, network)
                except OSError as error:
                    if str(error) != why:  # said once, not at each try
                        why = str(error)
                        events.emit(events.PEER_FAILED, peer=peer.name, address=peer.address, why=why)
                else:
                    pause, why = FIRST_PAUSE_S, ""
                    await link.ended.wait()
            await trio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def dial(
        self,
        peer: Peer,
        opener: Opener,
        *,
        over_line: bool = False,
        stays: float = 0.0,
        back_in: float | None = None,
    ) -> PeerLink:
        """A link that is up. Raises OSError, in words."""
        host, _, port = peer.address.rpartition(":")
        try:
            with trio.fail_after(CONNECT_S):
                sock = await opener(host.removeprefix("[").removesuffix("]"), int(port))
        except trio.TooSlowError:
            raise OSError(f"no connection within {CONNECT_S:g} s") from None
        link: PeerLink | None = None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if over_line:
                as_of_line(sock)
            connection = Connection(
                self._epoll, self._timers, sock, self._context, peer.address, frame_limit=FIRST_LIMIT, opened_here=True
            )
        except OSError:
            sock.close()
            raise
        link = self._make_link(connection, peer, 0 if over_line else 30, stays, back_in)
        connection.speaker = link
        connection.not_longer_than(LINK_S, "it does not answer")
        self._epoll.add(connection.fd, connection)
        try:
            await link.settled.wait()
        except trio.Cancelled:
            connection.close("given up")
            raise
        if link.state != "up":
            raise OSError(link.why or "it has ended at once")
        self._openers = {k: v for k, v in self._openers.items() if k.state == "up"}
        self._openers[link] = (opener, over_line)
        return link

    async def open_leg(self, link: PeerLink, address: str, ticket: bytes) -> int | None:
        """A joined data connection to a peer; None where there is none."""
        if link not in self._openers:
            return None
        opener, over_line = self._openers[link]
        host, _, port = address.rpartition(":")
        with trio.move_on_after(JOIN_S):
            for _ in range(JOIN_TRIES):
                try:
                    sock = await opener(host.removeprefix("[").removesuffix("]"), int(port))
                except OSError:
                    return None
                try:
                    keep_alive(sock)
                    if over_line:
                        as_of_line(sock)
                    if await _join(sock, self._me, ticket):
                        return sock.detach()
                except (OSError, RemoteProtocolError):
                    return None
                finally:
                    sock.close()  # nothing, once it is detached
                await trio.sleep(random.uniform(*RETRY_S))
        return None


async def _join(sock: socket.socket, me: str, ticket: bytes) -> bool:
    """False where it was closed without a byte: the other side has too many strangers. Raises OSError,
    RemoteProtocolError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.send(encode("hello", {"version": VERSION, "role": "data", "name": me}) + encode("join", {"ticket": ticket}))
    decoder, heard = Decoder(FIRST_LIMIT), False
    while (frame := decoder.next()) is None:
        await trio.lowlevel.wait_readable(sock)
        try:
            data = sock.recv(decoder.missing)
        except ConnectionResetError:
            data = b""  # what we had sent by then makes a reset of its closing
        if not data:
            if heard:
                raise RemoteProtocolError("it ended within a frame")
            return False
        heard = True
        decoder.feed(data)
    if frame[0] != "joined":
        raise RemoteProtocolError(f"{frame[0]} in place of joined")
    return True
