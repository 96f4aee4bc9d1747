"""Circuits: two data connections joined, whose bytes the relay server passes on without looking at them.

It owns the two descriptors from `join` on, the pipes, the counts and the limits of idleness; it must not know who is
connected to whom, what a ticket is, or what the bytes mean.

Theory of operation. A circuit has two legs, and each leg is the source of one direction. A thread of its own waits for
all of them in one epoll set: so a chunk costs its system calls and no turn of Trio's scheduler, which would cost more
(docs/decisions/0008). Readiness comes edge-triggered, so a leg remembers it: `readable` and `writable` hold until a
system call says otherwise. `_pump` moves what can be moved from a leg to its other, at most `CHUNKS` at a time, then
has another turn after the others.

- A direction begins with recv and send of up to `READ_BYTES` through one buffer for all. What send does not take is
  kept (`rest`), and nothing more is read until it is gone: that is the back-pressure, and all the memory that a
  blocked direction takes. Above `REST_LIMIT` for all of them the chunks become small.
- After a read that filled the buffer it goes over to splice(2), which moves pages through a pipe and copies nothing,
  and back when less than that came in a turn: for small messages splice is the slower one. A direction holds a pipe
  while it moves bytes or its other leg is blocked; a few serve thousands of circuits.
- The end of a direction is passed on with shutdown(2) behind its last byte, and the other goes on. An error of either
  leg ends the circuit and resets both: what was cut off must not look like an end.

Whose is what. From `join` on a circuit and its descriptors are the thread's alone. Trio's side reads the counts, and
leaves orders that the thread carries out; what has ended the thread leaves for Trio's side to tell the owner. Both
share these two queues, and `_legs`, into which `join` puts what the epoll set does not have yet.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from appliance.relay.connection import as_of_line
from appliance.relay.epoll import BROKEN, ENDING, EVENTS, READABLE, WRITABLE
from appliance.relay.pipes import PIPE_BYTES, Pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.relay.pipes import Pipe

    Soon = Callable[[Callable[[], None]], None]

__all__ = ["Circuit", "Circuits", "Leg", "TooManyCircuits", "keep_alive"]

READ_BYTES: Final = 64 * 1024
"""One read: beyond this a larger buffer gains nothing, and splice is the better way."""
CHUNKS: Final = 4
"""Moves of one direction in a turn: 4 MiB at most until others have theirs."""
SMALL_BYTES: Final = 4 * 1024
REST_LIMIT: Final = 32 * 1024 * 1024
"""Bytes that blocked directions keep, of all circuits: above it a read takes `SMALL_BYTES`."""
READ_AND_WRITE: Final = select.EPOLLIN | select.EPOLLOUT
ROUND: Final = 256
"""Events taken at once."""
NO_BELL: Final = -1
CIRCUIT_LIMIT: Final = 10_000
"""Far above what 64 for each terminal of a site come to; two descriptors each."""
SWEEPS: Final = 8
"""Looks for idle circuits within one idle limit: so much of it may a circuit be late."""
FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_COUNT = 60, 15, 20
"""An address translation that has forgotten a connection learns it again from the inside alone: without a word from
there one that only receives would stand still for good. Five minutes of silence outlast a router's restart."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close(2) sends a reset (socket(7))."""
NO_PACE: Final = 0xFFFFFFFF
"""SO_MAX_PACING_RATE for none (tcp(7))."""
SO_MAX_PACING_RATE: Final = 47
"""Linux's asm-generic/socket.h; Python has no name for it."""

T = TypeVar("T")


class TooManyCircuits(Exception):
    """`CIRCUIT_LIMIT` circuits are up."""


class Leg:
    """One data connection of a circuit, and the direction that comes from it. `moved`: bytes passed on from here."""

    __slots__ = (
        "circuit", "ended", "ending", "fd", "in_pipe", "moved", "other", "pipe", "readable", "rest", "splicing",
        "writable",
    )  # fmt: skip

    def __init__(self, fd: int, circuit: Circuit) -> None:
        self.fd = fd
        self.circuit: Circuit | None = circuit  # None: it has ended
        self.other = self
        self.readable = self.writable = False
        self.ending = False  # the kernel has seen the end: a short read is not the last one
        self.ended = False  # and so have we
        self.splicing = False
        self.rest = b""
        self.pipe: Pipe | None = None
        self.in_pipe = 0
        self.moved = 0


class Circuit:
    """Two legs. `label` is the owner's, for his journal; `on_end(circuit, why)` is called once, `why` "" where both
    sides have ended by themselves."""

    __slots__ = ("_on_end", "_seen", "_set", "_still", "first", "label", "second", "since")

    def __init__(
        self, circuits: Circuits, fds: tuple[int, int], label: object, on_end: Callable[[Circuit, str], None]
    ) -> None:
        self._set = circuits
        self.label = label
        self.since = trio.current_time()
        self._on_end = on_end
        self.first, self.second = Leg(fds[0], self), Leg(fds[1], self)
        self.first.other, self.second.other = self.second, self.first
        self._seen, self._still = 0, 0

    @property
    def legs(self) -> tuple[Leg, Leg]:
        return self.first, self.second

    @property
    def moved(self) -> int:
        """Bytes, both ways."""
        return self.first.moved + self.second.moved

    def pace(self, bytes_per_s: int | None) -> None:
        """The kernel sends at most so much a second on either leg; None: as fast as it can (SO_MAX_PACING_RATE). What
        waits is held back at its sender, not here: both legs are then as of a line, for good."""
        rate = struct.pack("=I", NO_PACE if bytes_per_s is None else min(bytes_per_s, NO_PACE))
        self._set.order(lambda: self._pace(rate))

    def _pace(self, rate: bytes) -> None:
        for leg in self.legs:
            if leg.circuit is not None:
                _socket_call(leg.fd, lambda sock: sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate))
                _socket_call(leg.fd, as_of_line)

    def abort(self, why: str) -> None:
        """Resets both connections."""
        self._set.order(lambda: self._set.end(self, why))

    def is_still(self) -> bool:
        """One look of the sweep: whether nothing has moved since `SWEEPS` looks."""
        moved = self.moved
        self._still = self._still + 1 if moved == self._seen else 0
        self._seen = moved
        return self._still >= SWEEPS

    def finished(self, why: str) -> None:
        """Of `Circuits` alone."""
        self._on_end(self, why)


class Circuits:
    """All circuits of a relay server. `idle_limit_s` may be changed at any time; None: none. `soon(do)` calls `do`
    behind what else is to be done at once: the thread is rung once for all circuits that were joined meanwhile."""

    def __init__(self, *, idle_limit_s: float | None, limit: int = CIRCUIT_LIMIT, soon: Soon = lambda do: do()) -> None:
        self.idle_limit_s = idle_limit_s
        self._limit = limit
        self._up: set[Circuit] = set()  # of Trio's side
        self._ended: deque[tuple[Circuit, str]] = deque()
        self._some_ended = trio.Event()
        self._orders: deque[Callable[[], None]] = deque()
        self._soon = soon
        self._new: deque[Circuit] = deque()
        self._stopping = False
        # The thread's, but for what `join` puts in.
        self._epoll = select.epoll()
        self._bell = NO_BELL
        self._legs: list[Leg | None] = []  # by descriptor: a dict takes ten times as much for each
        self._again: list[Leg] = []
        self._closing: list[int] = []
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._rest_bytes = 0
        self._pipes = Pipes()
        self._can_splice = True

    def __len__(self) -> int:
        return len(self._up)

    def __iter__(self) -> Iterator[Circuit]:
        return iter(tuple(self._up))

    # ---- Trio's side
    def join(self, first: int, second: int, label: object, on_end: Callable[[Circuit, str], None]) -> Circuit:
        """Joins two connected, non-blocking sockets that are in no epoll set; they are the circuit's from now on, also
        where this raises TooManyCircuits. What else goes wrong is its end."""
        if len(self._up) >= self._limit:
            os.close(first)
            os.close(second)
            raise TooManyCircuits(f"{self._limit} circuits are up")
        circuit = Circuit(self, (first, second), label, on_end)
        self._legs += [None] * (max(first, second) + 1 - len(self._legs))
        self._legs[first], self._legs[second] = circuit.legs
        self._up.add(circuit)
        self._new.append(circuit)
        if len(self._new) == 1:
            self._soon(self._ring)
        return circuit

    async def run(self) -> None:
        """Moves bytes, and ends circuits that are idle; until cancelled, which ends them all. What goes wrong in the
        thread is raised here."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._epoll.register(self._bell, select.EPOLLIN)
            self._ring()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_thread)
                nursery.start_soon(self._tell)
                try:
                    await self._sweep()
                finally:
                    self._stopping = True
                    self._ring()
        finally:
            for circuit in tuple(self._up):
                self.end(circuit, "the relay server stops")
            self._close_descriptors()
            self._pipes.close()
            self._tell_ended()
            self._epoll.close()
            os.close(self._bell)
            self._bell = NO_BELL

    async def _run_thread(self) -> None:
        token = trio.lowlevel.current_trio_token()
        await trio.to_thread.run_sync(self._work, token, limiter=trio.CapacityLimiter(1))

    async def _sweep(self) -> None:
        while True:
            limit = self.idle_limit_s
            await trio.sleep((limit or 60.0) / SWEEPS)
            if limit is not None:
                for circuit in [c for c in self._up if c.is_still()]:
                    circuit.abort(f"idle for {limit:g} s")

    def order(self, do: Callable[[], None]) -> None:
        """The thread calls it."""
        self._orders.append(do)
        self._ring()

    def _ring(self) -> None:
        if self._bell != NO_BELL:
            os.eventfd_write(self._bell, 1)

    async def _tell(self) -> None:
        while True:
            await self._some_ended.wait()
            self._some_ended = trio.Event()
            self._tell_ended()

    def _hear(self) -> None:
        self._some_ended.set()

    def _tell_ended(self) -> None:
        while self._ended:
            circuit, why = self._ended.popleft()
            self._up.discard(circuit)
            circuit.finished(why)

    # ---- the thread
    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        legs, poll, bell = self._legs, self._epoll.poll, self._bell
        while not self._stopping:
            again = self._again
            if again:
                self._again = []
            for fd, mask in poll(0 if again else None, ROUND):
                if fd == bell:
                    os.eventfd_read(bell)
                    self._take_in()
                    while self._orders:
                        self._orders.popleft()()
                    continue
                leg = legs[fd]
                if leg is not None:
                    self._ready(leg, mask)
            for leg in again:
                self.pump(leg)
            if self._closing:
                self._close_descriptors()
            if self._ended:
                token.run_sync_soon(self._hear, idempotent=True)

    def _take_in(self) -> None:
        """What has been joined."""
        while self._new:
            circuit = self._new.popleft()
            if circuit.first.circuit is None:
                continue  # an order has ended it already
            try:
                for leg in circuit.legs:
                    self._epoll.register(leg.fd, EVENTS)
            except OSError as error:
                self.end(circuit, error.strerror or str(error))

    def _ready(self, leg: Leg, mask: int) -> None:
        """Its descriptor's state has changed."""
        other = leg.other
        if mask == READ_AND_WRITE and leg.writable and other.writable and not (leg.splicing or leg.rest or leg.in_pipe):
            # A small piece in a circuit that stands still, by the shortest way: this is what a round trip consists of.
            leg.readable = True
            try:
                self._copy(leg, other)
            except OSError as error:
                self._failed(leg, error)
                return
            if not (leg.readable or leg.ended):
                return
        if mask & BROKEN:
            self._broken(leg)
            return
        if mask & READABLE:
            leg.readable = True
            if mask & ENDING:
                leg.ending = True
        if mask & WRITABLE and not leg.writable:
            leg.writable = True
            self.pump(other)
        if leg.readable:
            self.pump(leg)

    # ---- moving bytes
    def pump(self, source: Leg) -> None:
        """Moves what can be moved from this leg to the other one; nothing where the circuit has ended."""
        circuit = source.circuit
        if circuit is None:
            return
        try:
            more = self._pump(source)
        except OSError as error:
            self._failed(source, error)
            return
        if source.pipe is not None and not source.in_pipe:
            self._pipes.give(source.pipe)
            source.pipe = None
        if more:
            self._again.append(source)

    def _pump(self, source: Leg) -> bool:
        """-> whether there is more to do at once. Raises OSError."""
        target = source.other
        before = source.moved
        for _ in range(CHUNKS):
            if (source.in_pipe or source.rest) and not self._deliver(source, target):
                return False
            if source.ended:
                self._pass_end(source, target)
                return False
            if not (source.readable and target.writable):
                if source.splicing and source.moved - before < READ_BYTES:
                    source.splicing = False
                return False
            if source.splicing:
                self._splice(source)
            else:
                self._copy(source, target)
        return bool(source.in_pipe or source.rest or source.readable or source.ended) and target.writable

    def _copy(self, source: Leg, target: Leg) -> None:
        """recv and send, once."""
        buffer = self._buffer if self._rest_bytes < REST_LIMIT else self._buffer[:SMALL_BYTES]
        try:
            n = os.readv(source.fd, (buffer,))
        except BlockingIOError:
            source.readable = False
            return
        if not n:
            source.ended, source.readable = True, False
            return
        if n == READ_BYTES:
            source.splicing = self._can_splice
        elif n < len(buffer) and not source.ending:
            source.readable = False  # a short read of a stream has emptied it (epoll(7)); what comes is a new edge
        try:
            sent = os.write(target.fd, buffer[:n])
        except BlockingIOError:
            sent = 0
        source.moved += sent
        if sent < n:
            target.writable = False
            source.rest = bytes(buffer[sent:n])
            self._rest_bytes += n - sent

    def _splice(self, source: Leg) -> None:
        """From the source into a pipe, once."""
        if source.pipe is None:
            source.pipe = self._pipes.take()
            if source.pipe is None:
                source.splicing = False
                return
        try:
            n = os.splice(source.fd, source.pipe[1], PIPE_BYTES, flags=FLAGS)
        except BlockingIOError:
            source.readable = False
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._can_splice = source.splicing = False  # this kernel, or this kind of socket, does not
            return
        if n:
            source.in_pipe = n
        else:
            source.ended, source.readable = True, False

    def _deliver(self, source: Leg, target: Leg) -> bool:
        """Hands over what was read before; -> whether all of it."""
        if not target.writable:
            return False
        try:
            if source.in_pipe:
                assert source.pipe is not None
                while source.in_pipe:
                    n = os.splice(source.pipe[0], target.fd, source.in_pipe, flags=FLAGS)
                    source.in_pipe -= n
                    source.moved += n
            while source.rest:
                n = os.write(target.fd, source.rest)
                source.rest = source.rest[n:]
                source.moved += n
                self._rest_bytes -= n
        except BlockingIOError:
            target.writable = False
            return False
        return True

    def _pass_end(self, source: Leg, target: Leg) -> None:
        circuit = source.circuit
        assert circuit is not None
        if target.ended and not (target.in_pipe or target.rest):
            self.end(circuit, "")
            return
        _socket_call(target.fd, lambda sock: sock.shutdown(socket.SHUT_WR))

    # ---- ending
    def _failed(self, leg: Leg, error: OSError) -> None:
        if leg.circuit is not None:
            self.end(leg.circuit, error.strerror or str(error))

    def _broken(self, leg: Leg) -> None:
        number = _socket_call(leg.fd, lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or 0
        if leg.circuit is not None:
            self.end(leg.circuit, os.strerror(number) if number else "the connection broke")

    def end(self, circuit: Circuit, why: str) -> None:
        """Closes both connections; with a reset where there is a `why`. One that has ended is no error."""
        if circuit.first.circuit is None:
            return
        for leg in circuit.legs:
            leg.circuit = None
            self._legs[leg.fd] = None
            self._rest_bytes -= len(leg.rest)
            leg.rest = b""
            if leg.pipe is not None:
                self._pipes.throw_away(leg.pipe)
                leg.pipe = None
            if why:
                _socket_call(leg.fd, lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET))
            try:
                self._epoll.unregister(leg.fd)
            except OSError:
                pass  # it never came in
            self._closing.append(leg.fd)
        self._ended.append((circuit, why))

    def _close_descriptors(self) -> None:
        """Not before the end of a round: what was heard in it of one of them must not be taken for another's, that the
        same number is given to."""
        for fd in self._closing:
            os.close(fd)
        self._closing.clear()


def keep_alive(sock: socket.socket) -> None:
    """For a data connection; set on a listening socket, its connections have it too (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def _socket_call(fd: int, call: Callable[[socket.socket], T]) -> T | None:
    """Something that only a socket object can do. An error (None) is that of a connection that has broken already."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # all given: the kernel need not be asked
    try:
        return call(sock)
    except OSError:
        return None
    finally:
        sock.detach()
