"""A peer's link for as long as a call is up (`relay.peer.connect = "call"`): a `call.Job`.

It owns the link over the line and watches the circuits that go over it; it must not know when calls are made.

The job is done when both login tables are the same, no request is pending over the link and no circuit has moved a byte
for `STILL_S`; it has work again as soon as one of these changes. So a call stays up while a circuit moves bytes, within
`max_call`. While the call moves mail they leave it its share of the line (`pacing`). When the call ends, the link says
`bye` and its circuits are reset: they can't outlive the line.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from appliance.call import JobReport
from appliance.relay.pacing import JOB
from appliance.relay.server import CircuitLabel

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.call import OpenCall
    from appliance.relay.circuits import Circuit
    from appliance.relay.links import PeerLink
    from appliance.relay.peers import Peer
    from appliance.relay.server import RelayServer

__all__ = ["PeerCall"]

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
        self._seen: dict[Circuit, int] = {}
        self._counted = (0, 0)
        self._moved_at = 0.0

    async def run(self, call: OpenCall) -> JobReport:
        """Until the link is up and quiet."""
        server = self._server()
        if server is None or self._peer_name not in server.peers.all:
            return JobReport()
        peer = server.peers.all[self._peer_name]
        if call is not self._call and (self._call is None or call.id != self._call.id):
            self._call, self._link = call, None
            self._seen, self._counted = {}, (0, 0)
        try:
            if self._link is None or self._link.state != "up":
                if self._link is not None:
                    return JobReport(left=True, detail=f"{self._peer_name}: {self._link.why}")
                await self._dial(server, peer, call)
            while True:
                server.pacing.look(call)
                if self._quiet(server, peer):
                    return JobReport()
                await trio.sleep(LOOK_S)
        except OSError as error:
            return JobReport(left=True, detail=f"{self._peer_name}: {error}")
        except trio.Cancelled:
            self._leave(server)
            raise

    async def wait_work(self) -> None:
        """Until something goes over the link again; of one that is lost, circuits may go on without it."""
        server, call = self._server(), self._call
        if server is None or call is None or self._link is None:
            await trio.sleep_forever()
        try:
            while True:
                await trio.sleep(LOOK_S)
                server.pacing.look(call)
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
        server.pacing.peers.add(self._peer_name)
        self._moved_at = trio.current_time() - STILL_S
        call.show(f"linked with the relay server {self._peer_name}")

    def _quiet(self, server: RelayServer, peer: Peer) -> bool:
        """Whether all is told and nothing moves; counts what moves for the call."""
        link, call = self._link, self._call
        assert link is not None and call is not None
        if link.state != "up":
            raise OSError(link.why or "the link has ended")
        now = trio.current_time()
        for circuit in server.circuits_over([self._peer_name]):
            before = self._seen.get(circuit)
            if before is None:
                call.tally.circuits += 1
            if circuit.moved != before:
                self._seen[circuit] = circuit.moved
                self._moved_at = now
        self._count()
        told = peer.sent is not None and not peer.dirty and not peer.sending
        settled = now - link.connection.heard >= SETTLED_S
        return told and settled and not server.requests.pending(link) and now - self._moved_at >= STILL_S

    def _count(self) -> None:
        """The bytes of the sockets, where the line's device does not count."""
        call, link = self._call, self._link
        if call is None or link is None or not call.counts_payload:
            return
        into, out = link.connection.payload()
        for circuit in self._seen:
            label = circuit.label
            assert isinstance(label, CircuitLabel)
            # The leg that goes over the link: what comes from it came over the line, the other one's went out by it.
            leg = circuit.legs[label.links.index(self._peer_name)]
            into, out = into + leg.moved, out + leg.other.moved
        call.tally.bytes_in += max(0, into - self._counted[0])
        call.tally.bytes_out += max(0, out - self._counted[1])
        self._counted = (max(into, self._counted[0]), max(out, self._counted[1]))

    def _leave(self, server: RelayServer) -> None:
        """The call is over."""
        link = self._link
        if link is None:
            return
        server.pacing.peers.discard(self._peer_name)
        for circuit in server.circuits_over([self._peer_name]):
            circuit.abort("the call is over")
        self._count()
        if link.state == "up":
            link.leave("call-over", self._back_in())
        server.waiting.call_over()
        self._link = None
