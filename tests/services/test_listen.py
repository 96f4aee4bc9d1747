"""The listening loop: addresses, limits, handlers that fail, listeners that are closed; and its stream."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from appliance.transport.listen import (
    Address,
    ClientLimits,
    TooManyClients,
    open_listeners,
    parse_address,
    serve,
)
from appliance.transport.prompt import PromptStream
from fakes.ports import free_port

WAIT = 20.0
Handler = Callable[[PromptStream, str], Awaitable[None]]


# ---- addresses
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:25", "192.0.2.1", 25),
        ("[2001:db8::1]:465", "2001:db8::1", 465),
        ("[::]:0", "::", 0),
        (":65535", "", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["", "25", "192.0.2.1", "192.0.2.1:", "a:65536", "a:-1", "a:2५", "a:1e2", "a: 25"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is no ADDRESS:PORT"):
        parse_address(text)


async def test_a_port_that_is_taken_is_named_and_nothing_stays_open() -> None:
    (taken,) = await open_listeners([Address("127.0.0.1", 0)])
    port = taken.socket.getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
        await open_listeners([Address("127.0.0.1", 0), Address("127.0.0.1", port)])
    await taken.aclose()
    for listener in await open_listeners([Address("127.0.0.1", port)]):  # at once: SO_REUSEADDR
        await listener.aclose()


@pytest.mark.parametrize("host", ["192.0.2.1", "name.example", "2001:db8::1"])
async def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(OSError, match="cannot listen on "):
        await open_listeners([Address(host, 0)])


async def test_both_families_on_one_port() -> None:
    port = free_port()
    try:
        (six,) = await open_listeners([Address("::", port)])
    except OSError:  # a machine without IPv6
        pytest.skip("no IPv6 here")
    async with six:
        (four,) = await open_listeners([Address("", port)])
        await four.aclose()


# ---- limits
def test_limits_count() -> None:
    limits = ClientLimits(2, 3)
    limits.take("a")
    limits.take("a")
    with pytest.raises(TooManyClients, match="from your address"):
        limits.take("a")
    limits.take("b")
    with pytest.raises(TooManyClients, match="in all"):
        limits.take("c")
    limits.give_back("a")
    limits.take("c")
    for client in ("a", "b", "c"):
        limits.give_back(client)
    assert limits == ClientLimits(2, 3)  # nothing is remembered of those who are gone


class House:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.listeners: list[trio.SocketListener] = []
        self.limits = ClientLimits(100, 100)
        self.clients: list[str] = []

    async def start(self, handler: Handler) -> None:
        self.listeners = await open_listeners([Address("127.0.0.1", 0)])
        start = partial(
            serve, "smtp", self.listeners, handler, limits=self.limits, refuse=lambda why: f"421 {why}\r\n".encode()
        )
        await self.nursery.start(start)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.listeners[0].socket.getsockname()[:2])

    async def echo(self, stream: PromptStream, client: str) -> None:
        self.clients.append(client)
        while data := await stream.receive_some():
            await stream.send_all(data)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        yield House(nursery)
        nursery.cancel_scope.cancel()


async def said(stream: trio.SocketStream) -> bytes:
    """All that comes until the other side closes."""
    out = b""
    with trio.fail_after(WAIT):
        while data := await stream.receive_some():
            out += data
    await stream.aclose()
    return out


async def test_a_connection(house: House) -> None:
    await house.start(house.echo)
    stream = await house.connect()
    await stream.send_all(b"hi")
    assert await stream.receive_some() == b"hi"
    await stream.send_eof()
    assert await said(stream) == b""
    assert house.clients == ["127.0.0.1"]
    assert house.limits == ClientLimits(100, 100)


async def test_over_the_limits(house: House) -> None:
    house.limits = ClientLimits(1, 100)
    await house.start(house.echo)
    first, second = await house.connect(), await house.connect()
    assert await said(second) == b"421 too many connections from your address\r\n"
    await first.aclose()
    with trio.fail_after(WAIT):
        while house.limits != ClientLimits(1, 100):
            await trio.sleep(0.005)
    third = await house.connect()
    await third.send_all(b"x")
    assert await third.receive_some() == b"x"
    await third.aclose()


@pytest.mark.parametrize(
    "error", [OSError("broken"), trio.BrokenResourceError("gone"), trio.ClosedResourceError("closed")]
)
async def test_what_the_network_does_ends_one_connection_alone(house: House, error: Exception) -> None:
    async def handler(stream: PromptStream, client: str) -> None:
        await stream.receive_some()
        raise error

    await house.start(handler)
    for _ in range(3):
        stream = await house.connect()
        await stream.send_all(b"x")
        assert await said(stream) == b""
    assert house.limits == ClientLimits(100, 100)


async def test_a_defect_goes_up_with_every_connection_closed() -> None:
    async def handler(stream: PromptStream, client: str) -> None:
        if await stream.receive_some() == b"defect":
            raise KeyError("defect")

    limits = ClientLimits(100, 100)
    streams: list[trio.SocketStream] = []
    with pytest.raises(BaseExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            house = House(nursery)
            house.limits = limits
            await house.start(handler)
            streams = [await house.connect() for _ in range(2)]
            await streams[0].send_all(b"defect")
            await trio.sleep_forever()
    assert raised.group_contains(KeyError)
    for stream in streams:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await said(stream) == b""
        await trio.aclose_forcefully(stream)
    assert limits == ClientLimits(100, 100)


async def test_a_closed_listener_accepts_no_more_and_its_connections_go_on(house: House) -> None:
    await house.start(house.echo)
    stream = await house.connect()
    await stream.send_all(b"a")
    assert await stream.receive_some() == b"a"
    address = house.listeners[0].socket.getsockname()
    await house.listeners[0].aclose()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(*address)
    await stream.send_all(b"b")
    assert await stream.receive_some() == b"b"
    await stream.aclose()


async def test_no_more_files(house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real, failures = trio.SocketListener.accept, iter([errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        for code in failures:
            await trio.lowlevel.checkpoint()
            raise OSError(code, "no more")
        return await real(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    await house.start(house.echo)
    stream = await house.connect()
    await stream.send_all(b"x")
    with trio.fail_after(WAIT):
        assert await stream.receive_some() == b"x"
    await stream.aclose()
    assert sum("could not accept" in m for m in caplog.messages) == 4


async def test_another_error_of_accept_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EBADF, "defect")

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    with pytest.raises(BaseExceptionGroup):
        async with trio.open_nursery() as nursery:
            await House(nursery).start(House(nursery).echo)
            await trio.sleep_forever()


# ---- the stream
async def prompt_pair() -> tuple[PromptStream, PromptStream]:
    a, b = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        a.close()
        b.close()
        a = socket.create_connection(server.getsockname())
        b = server.accept()[0]
    return PromptStream(a), PromptStream(b)


async def test_no_delay() -> None:
    a, b = await prompt_pair()
    for stream in (a, b):
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await stream.aclose()


async def test_a_reset_is_a_broken_stream() -> None:
    a, b = await prompt_pair()
    b.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await b.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await a.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await a.send_all(b"x")
    await a.aclose()


async def test_much_data_both_ways() -> None:
    a, b = await prompt_pair()
    data = bytes(range(256)) * 20_000
    got: dict[PromptStream, bytes] = {}

    async def receive(stream: PromptStream) -> None:
        out = bytearray()
        while piece := await stream.receive_some():
            out += piece
        got[stream] = bytes(out)

    async def send(stream: PromptStream) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            for stream in (a, b):
                nursery.start_soon(receive, stream)
                nursery.start_soon(send, stream)
    assert got == {a: data, b: data}
    await a.aclose()
    await b.aclose()
