"""What a call to a provider carries: TCP gates on loopback that lead to the provider's servers while the line is up.

It owns the gates' ports, the connections through them and the count of every byte; it knows no telephone (a modem calls
`up` and `down`) and no protocol. With `bearer = "none"` a site's network is there after CONNECT: a gate is one server
in it. While the line is down a gate's port is reserved but nothing listens: connecting is refused.

Theory of operation. Each of the two ways, `out` (to the provider) and `in`, is one serial resource: a piece of `n`
bytes from any connection takes it for n*8/rate seconds, one after the other in the order in which they asked, then is
half a round trip under way, then is delivered. Bytes count when they are delivered, so a cut after n bytes is exact:
the far end gets n and not one more, and what was under way is lost.

    wait for data -> take the way's turn -> read a piece -> serialise -> under way -> a cut due? -> count, deliver

When the line goes down (a cut, or the modem hung up) the provider's connections end, as at an access server whose call
is gone; the site's side stays open and silent until the next call, as nothing tells a TCP that its line is dead, or
ends too with `closes_on_drop`. `stall` stops both ways with the carrier up.
"""

from __future__ import annotations

import math
import select
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallBytes", "Gate", "Line", "Way"]

Way = Literal["out", "in"]

PIECE_S: Final = 0.02
"""A turn on the line: small against a round trip, so that connections share the line as packets do."""
PIECE_BYTES: Final = 16 * 1024
"""The largest piece, on a fast line."""
LATE_S: Final = 0.01
"""A piece that comes this late after the last was waiting for us, not the line for it: it starts where that ended."""
HELD_UP_S: Final = 0.5
"""So late is a busy host at times. What was there to be sent before we looked for it has not waited for its sender."""
UNDER_WAY_PIECES: Final = 256
"""Pieces of one connection that are under way; at 9600 bit/s about 5 s, more than any round trip."""
WINDOW_BYTES: Final = 8 * 1024
"""The gate's receive buffer: what a sender has in flight beyond its own buffer, as on a slow line."""
SEGMENT_BYTES: Final = 1460
"""The gate's segments, Ethernet's: loopback's of 64 KB and a small window get into each other's way."""
CONNECT_ROUND_TRIPS: Final = 1.5
"""SYN, SYN-ACK, ACK: the provider's server sees a connection that long after the site asked for it."""
PATTERN_BYTES: Final = 256
"""The longest pattern to cut behind: a command of POP3, all but the longest of SMTP's."""
DRAIN_S: Final = 5.0
"""After a drop the provider's side is read for as long, so that what it meets is an end of file and no reset."""


@dataclass(slots=True)
class CallBytes:
    """What one call carried: bytes `delivered` each way, and how many connections each gate had."""

    rate: int
    delivered: dict[Way, int] = field(default_factory=lambda: {"out": 0, "in": 0})
    connections: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Gate:
    """One server as the site reaches it, at 127.0.0.1 and `port`; `target` is where it is behind the line."""

    name: str
    port: int
    target: tuple[str, int]
    # Bound but never listening: keeps the port ours while the line is down.
    placeholder: socket.socket = field(repr=False)


@dataclass(slots=True, eq=False)
class _Call:
    """A call that is up. `turn` and `free_at` are each way's serial resource."""

    bytes: CallBytes
    on_cut: Callable[[str], None]
    listeners: list[tuple[Gate, trio.socket.SocketType]]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    turn: dict[Way, trio.StrictFIFOLock] = field(
        default_factory=lambda: {"out": trio.StrictFIFOLock(), "in": trio.StrictFIFOLock()}
    )
    free_at: dict[Way, float] = field(default_factory=lambda: {"out": -math.inf, "in": -math.inf})


@dataclass(slots=True, eq=False)
class _Needle:
    """A pattern behind which to cut; `left` matches to go."""

    way: Way
    pattern: bytes
    left: int


@dataclass(slots=True, eq=False)
class Line:
    """`round_trip_s` for both ways together; `paced` False: no serialising, for tests of anything but time.

    `calls` has an entry a call, the newest last. `on_bytes(gate, way, data)` sees what is about to be delivered.
    """

    round_trip_s: float = 0.0
    paced: bool = True
    closes_on_drop: bool = False
    on_bytes: Callable[[str, Way, bytes], None] | None = None

    gates: dict[str, Gate] = field(default_factory=dict)
    calls: list[CallBytes] = field(default_factory=list)

    _call: _Call | None = None
    _nursery: trio.Nursery | None = None
    _moving: trio.Event = field(default_factory=trio.Event)
    _cut_at: dict[Way, int] = field(default_factory=dict)
    _needle: _Needle | None = None
    _silent: list[trio.SocketStream] = field(default_factory=list)

    # ---- what a test or the demo does

    def add_gate(self, name: str, host: str, port: int) -> Gate:
        """A gate to this server, its port reserved from now on; it opens with the next call."""
        placeholder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(("127.0.0.1", 0))
        gate = self.gates[name] = Gate(name, placeholder.getsockname()[1], (host, port), placeholder)
        return gate

    @property
    def is_up(self) -> bool:
        return self._call is not None

    def total(self, way: Way) -> int:
        """Bytes delivered this way over all calls."""
        return sum(call.delivered[way] for call in self.calls)

    def cut_now(self, reason: str = "the line was cut") -> None:
        """The carrier goes: nothing more is delivered either way, the modem is told, and planned cuts are forgotten."""
        self.forget_cuts()
        call = self._call
        if call is not None:
            self.down()
            call.on_cut(reason)

    def cut_after(self, way: Way, n: int) -> None:
        """Cuts once exactly `n` bytes of this call, or of the next if none is up, are delivered this way."""
        self._cut_at[way] = n
        if self._call is not None and self._call.bytes.delivered[way] >= n:
            self.cut_now()

    def cut_at(self, way: Way, pattern: bytes, nth: int = 1) -> None:
        """Cuts right behind the `nth` time that a connection delivers `pattern`, of 256 bytes at most, this way."""
        self._needle = _Needle(way, pattern, nth)

    def forget_cuts(self) -> None:
        self._cut_at.clear()
        self._needle = None

    def stall(self) -> None:
        """Stops both ways, the carrier up, until `resume`."""
        self._moving = trio.Event()

    def resume(self) -> None:
        self._moving.set()

    # ---- what a modem does

    def up(self, rate: int, *, on_cut: Callable[[str], None]) -> None:
        """A call is up at `rate` bit/s: the gates listen before this returns. `on_cut(reason)`: it dropped itself."""
        if self._nursery is None or self._call is not None:
            raise RuntimeError("the line does not run, or is up already")
        self._close_silent()
        self.calls.append(CallBytes(rate))
        self._call = _Call(self.calls[-1], on_cut, [(gate, _listen(gate)) for gate in self.gates.values()])
        self._nursery.start_soon(self._run_call, self._call)

    def down(self) -> None:
        """The call is over: the gates are gone, and so are the provider's connections. Idempotent."""
        call, self._call = self._call, None
        if call is not None:
            for _, listener in call.listeners:
                listener.close()
            call.scope.cancel()

    # ---- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self._moving.set()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.down()
            self._nursery = None
            self._close_silent()
            for gate in self.gates.values():
                gate.placeholder.close()

    async def _run_call(self, call: _Call) -> None:
        with call.scope:
            if 0 in self._cut_at.values():
                self.cut_now()
            async with trio.open_nursery() as nursery:
                for gate, listener in call.listeners:
                    nursery.start_soon(self._serve_gate, call, gate, listener, nursery)

    async def _serve_gate(
        self, call: _Call, gate: Gate, listener: trio.socket.SocketType, nursery: trio.Nursery
    ) -> None:
        while True:
            try:
                sock, _ = await listener.accept()
            except (OSError, trio.ClosedResourceError):  # `down` closed it
                return
            call.bytes.connections[gate.name] = call.bytes.connections.get(gate.name, 0) + 1
            nursery.start_soon(self._serve_connection, call, gate, trio.SocketStream(sock))

    async def _serve_connection(self, call: _Call, gate: Gate, site: trio.SocketStream) -> None:
        provider: trio.SocketStream | None = None
        try:
            await trio.sleep(CONNECT_ROUND_TRIPS * self.round_trip_s)
            provider = await trio.open_tcp_stream(*gate.target)
            async with trio.open_nursery() as ways:
                ways.start_soon(self._carry, call, gate, "out", site, provider)
                ways.start_soon(self._carry, call, gate, "in", provider, site)
        except OSError:
            pass  # the provider's server does not run: the site's connection ends
        finally:
            if call is self._call or self._nursery is None:
                site.socket.close()
                if provider is not None:
                    provider.socket.close()
            else:
                if provider is not None:
                    self._nursery.start_soon(_end_gently, provider)
                if self.closes_on_drop:
                    self._nursery.start_soon(_end_gently, site)
                else:
                    self._silent.append(site)

    async def _carry(
        self, call: _Call, gate: Gate, way: Way, source: trio.SocketStream, sink: trio.SocketStream
    ) -> None:
        """One way of one connection, to the end of its data. A fault of one way does not end the other: what a site
        sent before it closed is still delivered."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](UNDER_WAY_PIECES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serialise, call, way, source, send)
            try:
                await self._deliver(call, gate, way, receive, sink)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

    async def _serialise(
        self, call: _Call, way: Way, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]]
    ) -> None:
        rate = call.bytes.rate if self.paced else 0
        piece = min(PIECE_BYTES, max(1, int(rate * PIECE_S / 8))) if rate else PIECE_BYTES
        async with send:
            while True:
                late_s = HELD_UP_S if _has_data(source.socket) else LATE_S
                await trio.lowlevel.wait_readable(source.socket)
                await self._moving.wait()
                async with call.turn[way]:
                    try:
                        data = await source.receive_some(piece)
                    except trio.BrokenResourceError:
                        data = b""
                    if rate:
                        now, free = trio.current_time(), call.free_at[way]
                        call.free_at[way] = (free if now - free < late_s else now) + len(data) * 8 / rate
                        await trio.sleep_until(call.free_at[way])
                await send.send((trio.current_time() + self.round_trip_s / 2, data))
                if not data:
                    return

    async def _deliver(
        self,
        call: _Call,
        gate: Gate,
        way: Way,
        receive: trio.MemoryReceiveChannel[tuple[float, bytes]],
        sink: trio.SocketStream,
    ) -> None:
        tail = b""  # what a pattern may begin in
        async for due, data in receive:
            await trio.sleep_until(due)
            await self._moving.wait()
            if not data:
                await sink.send_eof()
                return
            keep = self._bytes_until_cut(call, way, tail, data)
            piece = data if keep is None else data[:keep]
            tail = (tail + piece)[-PATTERN_BYTES:]
            # Counted first, so that no other connection passes the place of the cut while this one sends.
            call.bytes.delivered[way] += len(piece)
            if piece:
                if self.on_bytes is not None:
                    self.on_bytes(gate.name, way, piece)
                await sink.send_all(piece)
            if keep is not None:
                self.cut_now()
                await trio.sleep_forever()  # cancelled by the cut

    def _bytes_until_cut(self, call: _Call, way: Way, tail: bytes, data: bytes) -> int | None:
        """How many bytes of `data` go before a planned cut; None: all, and no cut."""
        keep: int | None = None
        limit = self._cut_at.get(way)
        if limit is not None and call.bytes.delivered[way] + len(data) >= limit:
            keep = max(0, limit - call.bytes.delivered[way])
        needle = self._needle
        if needle is not None and needle.way == way:
            overlap = tail[len(tail) - min(len(tail), len(needle.pattern) - 1) :]
            text = overlap + data
            found = text.find(needle.pattern)
            while found >= 0:
                end = found + len(needle.pattern) - len(overlap)
                if keep is not None and end > keep:
                    break
                needle.left -= 1
                if needle.left <= 0:
                    return end
                found = text.find(needle.pattern, found + 1)
        return keep

    def _close_silent(self) -> None:
        for stream in self._silent:
            stream.socket.close()
        self._silent.clear()


def _has_data(sock: trio.socket.SocketType) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _listen(gate: Gate) -> trio.socket.SocketType:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    sock.bind(("127.0.0.1", gate.port))
    sock.listen(64)
    return trio.socket.from_stdlib_socket(sock)


async def _end_gently(stream: trio.SocketStream) -> None:
    """End of file for the other end, after which what it still sends is read and thrown away for a while."""
    try:
        with trio.move_on_after(DRAIN_S):
            await stream.send_eof()
            while await stream.receive_some(65536):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        stream.socket.close()
