"""The laboratory's line: gates, pacing, what a cut leaves, counting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.lab.line import Line, Way

TEXT = bytes(range(256)) * 40


class Server:
    """A provider's server: keeps what it hears; says `greeting` at once."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.greeting = greeting
        self.heard = b""
        self.ended = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(self.greeting)
            async for data in stream:
                self.heard += data
        except trio.BrokenResourceError:
            pass
        self.ended.set()


@asynccontextmanager
async def opened(server: Server, **options: object) -> AsyncIterator[tuple[Line, int]]:
    """A line that runs, with a gate to the server; the gate's port."""
    line = Line(**{"paced": False, **options})  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, server.serve, 0)
        gate = line.add_gate("server", "127.0.0.1", listeners[0].socket.getsockname()[1])
        await nursery.start(line.run)
        with trio.fail_after(20):
            yield line, gate.port
        nursery.cancel_scope.cancel()


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def received(stream: trio.SocketStream, n: int) -> bytes:
    out = b""
    while len(out) < n:
        data = await stream.receive_some(n - len(out))
        assert data, f"the connection ended after {len(out)} bytes"
        out += data
    return out


class Cuts(list[str]):
    """What the modem is told of cuts; `first` is set at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = trio.Event()

    def __call__(self, reason: str) -> None:
        self.append(reason)
        self.first.set()


async def test_gates_refuse_while_the_line_is_down() -> None:
    server = Server(b"hello")
    async with opened(server) as (line, port):
        for _ in range(3):
            with pytest.raises(OSError):
                await connect(port)
            line.up(9600, on_cut=Cuts())
            stream = await connect(port)
            assert await received(stream, 5) == b"hello"
            line.down()
            line.down()  # idempotent
            await stream.aclose()
        with pytest.raises(OSError):
            await connect(port)
        assert [c.connections for c in line.calls] == [{"server": 1}] * 3
        assert (line.total("in"), line.total("out")) == (15, 0)


async def test_a_line_is_up_once_and_only_while_it_runs() -> None:
    with pytest.raises(RuntimeError):
        Line().up(9600, on_cut=Cuts())
    async with opened(Server()) as (line, _):
        line.up(9600, on_cut=Cuts())
        with pytest.raises(RuntimeError):
            line.up(9600, on_cut=Cuts())


async def test_both_ways_run_at_the_rate_and_connections_share_it() -> None:
    server = Server(b"i" * 900)
    async with opened(server, paced=True, round_trip_s=0.1) as (line, port):
        line.up(33600, on_cut=Cuts())
        began = trio.current_time()
        streams = [await connect(port) for _ in range(3)]
        for stream in streams:
            await stream.send_all(b"o" * 900)
        for stream in streams:
            assert await received(stream, 900) == b"i" * 900
            await stream.send_eof()
            assert await stream.receive_some(1) == b""
            await stream.aclose()
        # It can't be faster than the line: 2700 bytes each way at once, a connection and a way under way.
        assert trio.current_time() - began >= 0.98 * (2700 * 8 / 33600 + 0.15 + 0.05)
        assert line.calls[0].delivered == {"out": 2700, "in": 2700}


@pytest.mark.parametrize("way", ["out", "in"])
@pytest.mark.parametrize("n", [0, 1, 83, 84, 4095, 10239, 10240])
async def test_a_cut_after_n_bytes_is_exact(way: Way, n: int) -> None:
    server = Server(TEXT if way == "in" else b"")
    async with opened(server) as (line, port):
        cuts = Cuts()
        line.cut_after(way, n)
        line.up(33600, on_cut=cuts)
        if n == 0:
            await cuts.first.wait()
            with pytest.raises(OSError):
                await connect(port)
            assert line.calls[0].delivered == {"out": 0, "in": 0}
            return
        stream = await connect(port)
        if way == "out":
            await stream.send_all(TEXT)
            await server.ended.wait()
            assert server.heard == TEXT[:n]
        else:
            assert await received(stream, n) == TEXT[:n]
            await cuts.first.wait()
            with trio.move_on_after(0.05):  # the site's side is silent: no more bytes and no end
                pytest.fail(f"got {await stream.receive_some(100)!r}")
        assert cuts == ["the line was cut"] and not line.is_up
        assert line.calls[0].delivered[way] == n
        await stream.aclose()
        line.up(33600, on_cut=cuts)  # the plan held for one cut
        again = await connect(port)
        await again.send_eof()
        await again.aclose()
        assert line.is_up


@pytest.mark.parametrize(
    ("pieces", "nth", "heard"),
    [
        ([b"MAIL RCPT RCPT DATA"], 1, b"MAIL RCPT"),
        ([b"MAIL RCPT RCPT DATA"], 2, b"MAIL RCPT RCPT"),
        ([bytes([c]) for c in b"MAIL RCPT RCPT DATA"], 2, b"MAIL RCPT RCPT"),
        ([b"RC", b"PT"], 1, b"RCPT"),
        ([b"RCPT", b" RCPT RCPT"], 3, b"RCPT RCPT RCPT"),
    ],
)
async def test_a_cut_behind_a_pattern(pieces: list[bytes], nth: int, heard: bytes) -> None:
    server = Server()
    async with opened(server) as (line, port):
        line.cut_at("out", b"RCPT", nth)
        line.up(33600, on_cut=Cuts())
        stream = await connect(port)
        for piece in pieces:
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked(0.002)
        await server.ended.wait()
        assert server.heard == heard
        await stream.aclose()


async def test_a_stalled_line_goes_on_when_told() -> None:
    server = Server(b"hello")
    async with opened(server) as (line, port):
        line.up(33600, on_cut=Cuts())
        line.stall()
        stream = await connect(port)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert line.calls[0].delivered == {"out": 0, "in": 0}
        line.resume()
        assert await received(stream, 5) == b"hello"
        await stream.aclose()


async def test_what_a_site_sent_before_it_closed_arrives() -> None:
    server = Server(b"x" * 100_000)  # which the site never reads
    async with opened(server, paced=True, round_trip_s=0.2) as (line, port):
        line.up(115200, on_cut=Cuts())
        stream = await connect(port)
        await stream.send_all(b"QUIT\r\n")
        await stream.aclose()
        await server.ended.wait()
        assert server.heard == b"QUIT\r\n"


@pytest.mark.parametrize("closes", [True, False])
async def test_after_a_drop_the_provider_sees_an_end_and_the_site_only_if_wanted(closes: bool) -> None:
    server = Server(b"hello")
    async with opened(server, closes_on_drop=closes) as (line, port):
        line.up(33600, on_cut=Cuts())
        stream = await connect(port)
        await received(stream, 5)
        line.cut_now()
        await server.ended.wait()
        if closes:
            assert await stream.receive_some(1) == b""
        else:
            with trio.move_on_after(0.05):
                pytest.fail(f"got {await stream.receive_some(100)!r}")
        await stream.aclose()


async def test_a_server_that_does_not_run_ends_the_connection() -> None:
    async with opened(Server()) as (line, _):
        gate = line.add_gate("nobody", "127.0.0.1", 1)
        line.up(33600, on_cut=Cuts())
        stream = await connect(gate.port)
        assert await stream.receive_some(1) == b""
        await stream.aclose()


async def test_what_is_delivered_can_be_watched() -> None:
    seen: list[tuple[str, Way, bytes]] = []
    server = Server(b"hello")
    async with opened(server, on_bytes=lambda *what: seen.append(what)) as (line, port):
        line.up(33600, on_cut=Cuts())
        stream = await connect(port)
        await received(stream, 5)
        await stream.aclose()
    assert seen == [("server", "in", b"hello")]
