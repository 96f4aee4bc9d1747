"""What a call does for the relay server, as `call.Job`s: a link to each peer of `relay.peer.connect = "call"`, and the
circuits that go over the line, whoever has opened their connections.

It owns the links over the line; it must not know when calls are made.

How it works. The job of a peer is done when both login tables are the same, no request is pending over its link, and
none waits for a terminal behind it that is about to be back; that of the circuits when none has moved a byte for
`STILL_S`. Each has work again as soon as one of these changes: so a call stays up while a circuit moves bytes, within
`max_call`. While the call moves mail the circuits leave it its share of the line (`pacing`). When the call ends, links
say `bye` and circuits are reset: they can't outlive the line.
"""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Final

import trio

from appliance.call import JobReport
from appliance.relay.pacing import JOB

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.call import OpenCall
    from appliance.relay.circuits import Circuit
    from appliance.relay.links import PeerLink
    from appliance.relay.peers import Peer
    from appliance.relay.server import RelayServer

__all__ = ["LineCircuits", "PeerCall"]

LOOK_S: Final = 0.25
SETTLED_S: Final = 0.5
"""Without a frame for so long, with nothing left to say: both sides have told all."""
STILL_S: Final = 5.0
"""A person who types pauses longer than a program; a paid line waits no longer than this."""


class PeerCall:
    """One peer's job in calls. `server()` is the relay server that runs now, None for none; `back_in()` seconds until
    the next call, where one is planned."""

    def __init__(
        self,
        peer: str,
        server: Callable[[], RelayServer | None],
        back_in: Callable[[], float | None],
        max_call_s: float,
    ) -> None:
        self.name = JOB + peer
        self._peer_name = peer
        self._server = server
        self._back_in = back_in
        self._max_call_s = max_call_s
        self._call: OpenCall | None = None
        self._link: PeerLink | None = None
        self._counted = (0, 0)

    async def run(self, call: OpenCall) -> JobReport:
        """Until the link is up and quiet."""
        server = self._server()
        if server is None or self._peer_name not in server.peers.all:
            return JobReport()
        peer = server.peers.all[self._peer_name]
        if call is not self._call and (self._call is None or call.id != self._call.id):
            self._call, self._link, self._counted = call, None, (0, 0)
        try:
            if self._link is None or self._link.state != "up":
                if self._link is not None:
                    return JobReport(left=True, detail=f"{self._peer_name}: {self._link.why}")
                await self._dial(server, peer, call)
            while True:
                if self._quiet(server, peer):
                    return JobReport()
                await trio.sleep(LOOK_S)
        except OSError as error:
            return JobReport(left=True, detail=f"{self._peer_name}: {error}")
        except trio.Cancelled:
            self._leave(server)
            raise

    async def wait_work(self) -> None:
        """Until something goes over the link again."""
        server = self._server()
        if server is None or self._link is None:
            await trio.sleep_forever()
        try:
            while True:
                await trio.sleep(LOOK_S)
                if self._link.state == "up" and not self._quiet(server, server.peers.all[self._peer_name]):
                    return
        except trio.Cancelled:
            self._leave(server)
            raise

    async def _dial(self, server: RelayServer, peer: Peer, call: OpenCall) -> None:
        async def over_line(host: str, port: int) -> socket.socket:
            stream = await call.open_stream(host, port)
            return socket.socket(fileno=stream.socket.detach())  # type: ignore[attr-defined]

        self._link = await server.dialling.dial(
            peer, over_line, over_line=True, stays=self._max_call_s, back_in=self._back_in()
        )
        call.show(f"linked with the relay server {self._peer_name}")

    def _quiet(self, server: RelayServer, peer: Peer) -> bool:
        """Whether all is told; counts what the link carries."""
        link = self._link
        assert link is not None
        if link.state != "up":
            raise OSError(link.why or "the link has ended")
        self._count()
        told = peer.sent is not None and not peer.dirty and not peer.sending
        settled = trio.current_time() - link.connection.heard >= SETTLED_S
        return told and settled and not server.requests.pending(link) and not server.waiting.meets(link)

    def _count(self) -> None:
        """The bytes of the socket, where the line's device does not count."""
        call, link = self._call, self._link
        if call is None or link is None or not call.counts_payload:
            return
        into, out = link.connection.payload()
        call.tally.bytes_in += max(0, into - self._counted[0])
        call.tally.bytes_out += max(0, out - self._counted[1])
        self._counted = (max(into, self._counted[0]), max(out, self._counted[1]))

    def _leave(self, server: RelayServer) -> None:
        """The call is over."""
        link = self._link
        if link is None:
            return
        self._count()
        if link.state == "up":
            link.leave("call-over", self._back_in())
        server.waiting.call_over()
        self._link = None


class LineCircuits:
    """The circuits that go over the line of a call: of peers that it links us with, and of whoever has come to us over
    it. `server()` as above."""

    name = JOB + "(circuits)"  # no peer is called so

    def __init__(self, server: Callable[[], RelayServer | None]) -> None:
        self._server = server
        self._call: OpenCall | None = None
        self._seen: dict[Circuit, tuple[bool, bool]] = {}
        self._carried = (0, 0)
        self._moved_at = -math.inf

    async def run(self, call: OpenCall) -> JobReport:
        """Until they are still."""
        if call is not self._call and (self._call is None or call.id != self._call.id):
            self._call, self._seen, self._carried, self._moved_at = call, {}, (0, 0), -math.inf
        await self._until(still=True)
        return JobReport()

    async def wait_work(self) -> None:
        """Until one moves, or another one is there."""
        await self._until(still=False)

    async def _until(self, *, still: bool) -> None:
        server, call = self._server(), self._call
        if server is None or call is None:
            if not still:
                await trio.sleep_forever()
            return
        try:
            while self._still(server, call) is not still:
                with trio.move_on_after(LOOK_S):
                    await server.line_taken.wait()
        except trio.Cancelled:
            self._still(server, call)
            for circuit in server.on_line:
                circuit.abort("the call is over")
            raise

    def _still(self, server: RelayServer, call: OpenCall) -> bool:
        """Whether nothing has moved for a while. Counts what does, and sets the pace."""
        now = trio.current_time()
        server.line_taken = trio.Event()
        new = {c: over_line for c, over_line in server.on_line.items() if c not in self._seen}
        self._seen |= new  # and those that have ended since: what they moved counts
        call.tally.circuits += len(new)
        into = out = 0
        for circuit, over_line in self._seen.items():
            for leg, is_over_line in zip(circuit.legs, over_line, strict=True):
                if is_over_line:  # what comes from it came by the line, the other one's goes out by it
                    into, out = into + leg.moved, out + leg.other.moved
        if new or (into, out) != self._carried:
            self._moved_at = now
        if call.counts_payload:
            call.tally.bytes_in += into - self._carried[0]
            call.tally.bytes_out += out - self._carried[1]
        self._carried = (into, out)
        server.pacing.look(call)
        return now - self._moved_at >= STILL_S
