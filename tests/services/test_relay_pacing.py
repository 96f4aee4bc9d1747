"""Circuits leave a call's mail its share of the line: when they are paced and how much, and over a slow line, what
each really gets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.call import OpenCall, Reason
from appliance.relay import pacing as module
from appliance.relay.circuits import NO_PACE, SO_MAX_PACING_RATE, Circuit, Circuits
from appliance.relay.connection import NOTSENT_LOWAT, as_of_line
from appliance.relay.pacing import MAIL_SHARE, Pacing

MAIL = "send"


@dataclass(eq=False)
class FakeCircuit:
    moved: int = 0
    paces: list[int | None] = field(default_factory=list)

    def pace(self, bytes_per_s: int | None) -> None:
        self.paces.append(bytes_per_s)


@dataclass
class Line:
    """A call with what moves over its line."""

    circuits: list[Any]
    rate: int = 9600
    moving: set[str] = field(default_factory=set)
    carried: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.pacing = Pacing(lambda: self.circuits)

    def call(self, id: int = 1) -> OpenCall:
        return OpenCall(
            id, "pstn", Reason.BY_HAND, self.rate, trio.open_tcp_stream,
            moving=lambda: self.moving, carried=lambda: self.carried,
        )  # fmt: skip


async def test_circuits_are_paced_while_mail_moves_and_released_after(mock_clock: MockClock) -> None:
    a, b = FakeCircuit(), FakeCircuit()
    line = Line([a], moving={"relay hub"})
    line.pacing.look(line.call())
    assert a.paces == []
    line.moving = {"relay hub", MAIL}
    line.pacing.look(line.call())
    line.pacing.look(line.call())
    assert a.paces == [960 * (1 - MAIL_SHARE)]
    line.circuits.append(b)  # they share what there is
    line.pacing.look(line.call())
    assert a.paces[1:] == b.paces == [240]
    for _ in range(8):
        mock_clock.jump(0.25)
        b.moved += 10
        line.pacing.look(line.call())
    assert a.paces[2:] == b.paces[1:] == [480]  # one that is still takes nothing from the other
    line.moving = {"relay hub", "relay other"}
    line.pacing.look(line.call())
    assert a.paces[3:] == b.paces[2:] == [None]


@pytest.mark.parametrize("rate", [0, 115_200])
async def test_a_line_that_does_not_say_its_rate_has_that_of_the_most_it_carried(
    rate: int, mock_clock: MockClock
) -> None:
    a = FakeCircuit()
    line = Line([a], rate=rate, moving={MAIL}, carried=(5000, 5000))
    line.pacing.look(line.call())
    assert a.paces == []  # nothing is known yet
    for step in (2000, 8000, 100):
        mock_clock.jump(2.0)
        line.carried = (line.carried[0] + step, line.carried[1] + step // 2)
        a.moved += 1
        line.pacing.look(line.call())
    assert a.paces == [500, 2000]
    line.moving = set()
    line.pacing.look(line.call(2))
    line.moving, line.carried = {MAIL}, (0, 0)
    line.pacing.look(line.call(2))
    assert a.paces == [500, 2000, None]  # another call knows nothing of that


# ---- with the kernel
def paces(circuit: Circuit) -> list[tuple[int, int]]:
    out = []
    for leg in circuit.legs:
        with socket.socket(fileno=os.dup(leg.fd)) as sock:
            (rate,) = struct.unpack("=I", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 4))
            out.append((rate, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)))
    return out


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Circuits]:
    circuits = Circuits(idle_limit_s=None)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(circuits.run)
            yield circuits
            nursery.cancel_scope.cancel()


def pair(
    there: Callable[[], socket.socket] = socket.socket, here: Callable[[], socket.socket] = socket.socket
) -> tuple[socket.socket, socket.socket]:
    """(theirs, ours): connected over TCP, from ours."""
    with there() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = here()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    for sock in (theirs, ours):
        sock.setblocking(False)
    return theirs, ours


async def test_a_pace_is_the_kernels_on_either_leg() -> None:
    async with running() as circuits:
        near, first = pair()
        far, second = pair()
        with near, far:
            circuit = circuits.join(first.detach(), second.detach(), "c", lambda circuit, why: None)
            assert paces(circuit) == [(NO_PACE, 0)] * 2
            circuit.pace(480)
            while paces(circuit) != [(480, NOTSENT_LOWAT)] * 2:
                await trio.sleep(0.005)
            circuit.pace(None)
            while [rate for rate, _ in paces(circuit)] != [NO_PACE] * 2:
                await trio.sleep(0.005)


RATE = 400_000
"""Bytes/s of the slow line. What is compared are bytes of the same time: a slower machine takes longer, and no more."""
CIRCUITS = 8
MOVES = 500_000
"""Bytes of mail: several times what the queues hold."""
BUFFER = 8 * 1024


class SlowLine:
    """Both directions of a line, as a queue of packets: each flow that has something to send sends one in its turn, so
    that mail beside eight circuits has a ninth. `got`: kind -> bytes that have come over."""

    def __init__(self) -> None:
        self.got = {"mail": 0, "circuits": 0}
        self._flows: list[tuple[str, socket.socket, socket.socket | None]] = []
        self._held: dict[socket.socket, bytes] = {}

    def carry(self, kind: str, source: socket.socket, sink: socket.socket | None = None) -> None:
        """From now on what can be read from the one goes to the other; to nobody, where there is none."""
        self._flows.append((kind, source, sink))

    async def run(self) -> None:
        at = trio.current_time()
        while True:
            moved = sum(self._send(*flow) for flow in tuple(self._flows))
            at = max(at, trio.current_time() - 0.05) + moved / RATE
            await trio.sleep_until(at if moved else trio.current_time() + 0.002)

    def _send(self, kind: str, source: socket.socket, sink: socket.socket | None) -> int:
        try:
            data = self._held.pop(source, b"") or source.recv(1460)
        except BlockingIOError:
            return 0
        try:
            n = len(data) if sink is None else sink.send(data)
        except BlockingIOError:
            n = 0
        if n < len(data):
            self._held[source] = data[n:]
        self.got[kind] += n
        return n


def small() -> socket.socket:
    """With small buffers, as over a line."""
    sock = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    return sock


async def pour(sock: socket.socket) -> None:
    while True:
        await trio.lowlevel.wait_writable(sock)
        with contextlib.suppress(BlockingIOError):
            sock.send(bytes(4096))


async def swallow(sock: socket.socket) -> None:
    while True:
        await trio.lowlevel.wait_readable(sock)
        sock.recv(65536)


@pytest.mark.parametrize("way", ["out", "in"])
async def test_mail_has_its_share_of_a_slow_line_beside_many_circuits(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_S", 0.5)
    line = SlowLine()
    got = line.got
    async with running() as circuits, contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:

        def flow(kind: str, near: socket.socket) -> None:
            """From or to the far end of this connection over the line."""
            if way == "out":
                line.carry(kind, near)
            else:
                fed, source = (stack.enter_context(s) for s in pair(small, small))
                nursery.start_soon(pour, source)
                line.carry(kind, fed, near)

        nursery.start_soon(line.run)
        for _ in range(CIRCUITS):
            far, first = pair(small, small)
            near, second = pair(small, small)
            as_of_line(first)
            as_of_line(far)
            circuits.join(first.detach(), second.detach(), "c", lambda circuit, why: None)
            stack.enter_context(far)
            nursery.start_soon(pour if way == "out" else swallow, stack.enter_context(near))
            flow("circuits", far)
        moving = {"relay hub"}
        pacing = Pacing(lambda: list(circuits))
        call = OpenCall(
            1, "wwan", Reason.BY_HAND, 0, trio.open_tcp_stream,
            moving=lambda: moving, carried=lambda: (0, sum(got.values())),
        )  # fmt: skip

        async def look() -> None:
            while True:
                pacing.look(call)
                await trio.sleep(0.25)

        nursery.start_soon(look)
        while not pacing._best:  # the line is known, by circuits alone, and the windows are full
            await trio.sleep(0.05)
        far, near = (stack.enter_context(s) for s in pair(small, small))
        as_of_line(near)
        moving.add(MAIL)
        nursery.start_soon(pour if way == "out" else swallow, near)
        flow("mail", far)
        before = dict(got)
        while got["circuits"] < before["circuits"] + 4 * BUFFER * CIRCUITS:  # what fills before a sender is held back
            await trio.sleep(0.02)
        before = dict(got)
        while got["mail"] < before["mail"] + MOVES:
            await trio.sleep(0.02)
        mail, others = (got[k] - before[k] for k in ("mail", "circuits"))
        share = mail / (mail + others)
        print(f"{way}: mail has {share:.2f} of the line, {CIRCUITS} circuits the rest")
        assert MAIL_SHARE - 0.15 < share < MAIL_SHARE + 0.25
        moving.remove(MAIL)
        before = dict(got)
        while got["circuits"] < before["circuits"] + 2 * MOVES:  # and afterwards they have what they can get
            await trio.sleep(0.02)
        mail, others = (got[k] - before[k] for k in ("mail", "circuits"))
        assert mail / (mail + others) < MAIL_SHARE - 0.15
        nursery.cancel_scope.cancel()
