"""Circuits over real sockets: whole bytes both ways, half-close, back-pressure, ends, limits of idleness and number."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio

from appliance.relay import circuits as module
from appliance.relay.circuits import Circuit, Circuits, Leg, TooManyCircuits


@dataclass
class Bench:
    """A relay in the test's own process. `ended`: (label, why, bytes from the first, from the second)."""

    circuits: Circuits
    ended: list[tuple[object, str, int, int]] = field(default_factory=list)
    streams: list[trio.SocketStream] = field(default_factory=list)

    def on_end(self, circuit: Circuit, why: str) -> None:
        self.ended.append((circuit.label, why, circuit.legs[0].moved, circuit.legs[1].moved))

    async def circuit(self, label: object = "c") -> tuple[Circuit, trio.SocketStream, trio.SocketStream]:
        near, first = await self.pair()
        far, second = await self.pair()
        made = self.circuits.join(first.detach(), second.detach(), label, self.on_end)
        return made, near, far

    async def pair(self) -> tuple[trio.SocketStream, socket.socket]:
        """Our end, closed with the bench, and the relay's."""
        ours, theirs = await tcp_pair()
        self.streams.append(ours)
        return ours, theirs


async def tcp_pair() -> tuple[trio.SocketStream, socket.socket]:
    """Our end, and the relay's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = await trio.open_tcp_stream(*listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setblocking(False)
    return ours, theirs


@contextlib.asynccontextmanager
async def bench(*, idle_limit_s: float | None = None, limit: int = 100) -> AsyncIterator[Bench]:
    made = Bench(Circuits(idle_limit_s=idle_limit_s, limit=limit))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.circuits.run)
            yield made
            nursery.cancel_scope.cancel()
    for stream in made.streams:
        await stream.aclose()
    assert len(made.circuits) == 0
    assert made.circuits._legs == [None] * len(made.circuits._legs)
    assert made.circuits._rest_bytes == 0
    assert made.circuits._pipes._count == 0


def noise(n: int, seed: bytes = b"x") -> bytes:
    return hashlib.shake_256(seed).digest(n)


async def read_all(stream: trio.SocketStream) -> bytes:
    out = bytearray()
    while data := await stream.receive_some(1 << 18):
        out += data
    return bytes(out)


async def send_and_end(stream: trio.SocketStream, data: bytes, piece: int) -> None:
    for i in range(0, len(data), piece):
        await stream.send_all(data[i : i + piece])
    await stream.send_eof()


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await trio.sleep(0.005)


@pytest.mark.parametrize("splice", [True, False])
@pytest.mark.parametrize(("size", "piece"), [(0, 1), (1, 1), (3000, 7), (65536, 65536), (20_000_000, 1 << 20)])
async def test_bytes_pass_whole_both_ways_at_once(size: int, piece: int, splice: bool) -> None:
    async with bench() as b:
        b.circuits._can_splice = splice
        _, near, far = await b.circuit("both")
        up, down = noise(size, b"up"), noise(size, b"down")
        got: dict[str, bytes] = {}
        async with near, far, trio.open_nursery() as nursery:

            async def reader(name: str, stream: trio.SocketStream) -> None:
                got[name] = await read_all(stream)

            nursery.start_soon(reader, "up", far)
            nursery.start_soon(reader, "down", near)
            nursery.start_soon(send_and_end, near, up, piece)
            nursery.start_soon(send_and_end, far, down, piece)
        assert got == {"up": up, "down": down}
        await until(lambda: b.ended)
        assert b.ended == [("both", "", size, size)]


async def test_an_end_is_passed_on_and_the_other_way_goes_on() -> None:
    async with bench() as b:
        _, near, far = await b.circuit()
        await near.send_all(b"question")
        await near.send_eof()
        assert await read_all(far) == b"question"
        await trio.sleep(0.02)
        assert b.ended == []
        await far.send_all(b"answer")
        await far.aclose()
        assert await read_all(near) == b"answer"
        await until(lambda: b.ended)
        assert b.ended == [("c", "", 8, 6)]


async def test_what_came_before_the_legs_were_joined_arrives() -> None:
    async with bench() as b:
        near, first = await b.pair()
        far, second = await b.pair()
        await near.send_all(b"early")
        await near.send_eof()
        await trio.sleep(0.02)
        b.circuits.join(first.detach(), second.detach(), "c", b.on_end)
        assert await read_all(far) == b"early"


@pytest.mark.parametrize("splice", [True, False])
async def test_a_side_that_does_not_read_holds_up_its_sender_and_nobody_else(splice: bool) -> None:
    async with bench() as b:
        b.circuits._can_splice = splice
        _, near, far = await b.circuit("slow")
        data = noise(40_000_000)
        sent = 0

        async def push() -> None:
            nonlocal sent
            for i in range(0, len(data), 65536):
                await near.send_all(data[i : i + 65536])
                sent = i
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            before = -1
            while sent != before:  # until it is held up
                before = sent
                await trio.sleep(0.2)
            assert sent < len(data) - 1_000_000
            assert b.circuits._rest_bytes <= module.READ_BYTES
            _, near2, far2 = await b.circuit("other")
            await near2.send_all(b"x")
            assert await far2.receive_some() == b"x"
            assert await read_all(far) == data


async def test_many_blocked_directions_keep_little_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_LIMIT", 100_000)
    async with bench() as b:
        b.circuits._can_splice = False
        pairs = [await b.circuit(i) for i in range(10)]

        async def push(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(bytes(20_000_000))

        async with trio.open_nursery() as nursery:
            for _, near, _ in pairs:
                nursery.start_soon(push, near)
            await trio.sleep(0.5)
            assert b.circuits._rest_bytes <= 100_000 + module.READ_BYTES + 10 * module.SMALL_BYTES
            for _, _, far in pairs:
                await far.aclose()


@pytest.mark.parametrize("side", [0, 1])
async def test_a_reset_of_one_side_resets_the_other(side: int) -> None:
    async with bench() as b:
        _, *ends = await b.circuit()
        ends[side].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, module.RESET)
        await ends[side].aclose()
        with pytest.raises(trio.BrokenResourceError):
            while await ends[1 - side].receive_some():
                pass
        await until(lambda: b.ended)
        assert [why for _, why, *_ in b.ended] == ["Connection reset by peer"]


async def test_a_blocked_circuit_that_breaks_gives_back_all_it_held() -> None:
    async with bench() as b:
        _, near, far = await b.circuit()
        with trio.move_on_after(0.3):
            await near.send_all(bytes(50_000_000))
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, module.RESET)
        await far.aclose()
        await until(lambda: b.ended)
        assert b.circuits._pipes._count == len(b.circuits._pipes._spare)
        assert b.circuits._rest_bytes == 0


async def test_an_idle_circuit_is_ended_and_a_busy_one_is_not() -> None:
    async with bench(idle_limit_s=0.4) as b:
        _, _near, far = await b.circuit("idle")
        _, near2, far2 = await b.circuit("busy")
        with trio.move_on_after(1.0):
            while True:
                await near2.send_all(b".")
                await far2.receive_some()
                await trio.sleep(0.05)
        assert [e[:2] for e in b.ended] == [("idle", "idle for 0.4 s")]
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_the_number_is_bounded_and_who_comes_then_is_closed() -> None:
    async with bench(limit=1) as b:
        await b.circuit()
        near, first = await b.pair()
        _far, second = await b.pair()
        with pytest.raises(TooManyCircuits):
            b.circuits.join(first.detach(), second.detach(), "c", b.on_end)
        assert await near.receive_some() == b""


async def test_stopping_ends_them_with_an_error() -> None:
    async with bench() as b:
        near, first = await tcp_pair()
        _, second = await b.pair()
        b.circuits.join(first.detach(), second.detach(), "c", b.on_end)
    assert [why for _, why, *_ in b.ended] == ["the relay server stops"]
    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()
    await near.aclose()


async def test_an_end_by_abort_is_told_once() -> None:
    async with bench() as b:
        circuit, *_ = await b.circuit()
        circuit.abort("cancelled")
        circuit.abort("again")
        await until(lambda: b.ended)
        assert [why for _, why, *_ in b.ended] == ["cancelled"]


async def test_a_kernel_without_splice_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)
    async with bench() as b:
        _, near, far = await b.circuit()
        data = noise(5_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, near, data, 1 << 20)
            assert await read_all(far) == data


async def test_pacing_slows_down_and_can_be_taken_back() -> None:
    async with bench() as b:
        circuit, near, far = await b.circuit()
        circuit.pace(2_000_000)
        paced = trio.Event()
        token = trio.lowlevel.current_trio_token()
        b.circuits.order(lambda: token.run_sync_soon(paced.set))  # orders are carried out in turn
        await paced.wait()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, near, bytes(1_000_000), 65536)
            assert len(await read_all(far)) == 1_000_000
        assert trio.current_time() - began > 0.1  # 0.5 at that pace, less what the kernel lets go at once
        circuit.pace(None)


async def test_a_fast_circuit_leaves_their_turn_to_others_and_to_trio() -> None:
    async with bench() as b:
        _, near, far = await b.circuit("fast")
        _, near2, far2 = await b.circuit("small")
        trips = 0

        async def talk() -> None:
            nonlocal trips
            while True:
                await near2.send_all(b".")
                await far2.receive_some()
                trips += 1

        async def push() -> None:
            block = bytes(1 << 20)
            while trips < 10:
                await near.send_all(block)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            nursery.start_soon(talk)
            while await far.receive_some(1 << 18):
                pass
            nursery.cancel_scope.cancel()


async def test_what_goes_wrong_in_the_thread_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(circuits: Circuits, leg: Leg, mask: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Circuits, "_ready", fail)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with bench() as b:
            await b.circuit()
            await trio.sleep_forever()
    assert [why for _, why, *_ in b.ended] == ["the relay server stops"]
    for stream in b.streams:
        await stream.aclose()


async def test_trio_that_is_busy_does_not_hold_up_a_circuit() -> None:
    async with bench() as b:
        _, near, far = await b.circuit()
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        with (
            socket.socket(fileno=os.dup(near.socket.fileno())) as here,
            socket.socket(fileno=os.dup(far.socket.fileno())) as there,
        ):
            there.settimeout(30)
            here.sendall(b"y")
            assert there.recv(1) == b"y", "while the event loop stands still here"


async def test_descriptors_that_are_given_out_anew_get_nothing_of_who_had_them_before() -> None:
    """Circuits that come and go at once, some with a reset, while others with the same numbers are being joined."""
    async with bench() as b:

        async def come_and_go(who: int) -> None:
            for i in range(25):
                near, first = await tcp_pair()
                far, second = await tcp_pair()
                b.circuits.join(first.detach(), second.detach(), (who, i), b.on_end)
                async with near, far:
                    data = f"{who} {i}".encode()
                    await near.send_all(data)
                    assert await far.receive_some() == data
                    if i % 3 == 0:
                        near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, module.RESET)
                        continue
                    await near.send_eof()
                    assert await read_all(far) == b""

        async with trio.open_nursery() as nursery:
            for who in range(16):
                nursery.start_soon(come_and_go, who)
        await until(lambda: len(b.ended) == 400)
        for (_, i), why, up, _ in b.ended:  # type: ignore[misc]
            assert up > 0 and why == ("Connection reset by peer" if i % 3 == 0 else "")
        assert {label for label, *_ in b.ended} == {(who, i) for who in range(16) for i in range(25)}
