"""What the kernel's TCP says of a message that the line cut: in doubt is what may have arrived, and nothing else.

Real sockets: over a cable between two network namespaces that nftables cuts, and over the lab's line.
"""

from __future__ import annotations

import fcntl
import functools
import ssl
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from appliance.call import OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.lab.line import Line
from appliance.mail.upstream.sender import SendJob
from appliance.transport.outgoing import OutgoingStream
from fakes.netns import Namespace, namespace
from fakes.outbox import FakeOutbox
from fakes.provider import Wire

CA = trustme.CA()
BODY = b"Subject: a drawing\r\n\r\n" + b"x" * 62 * 1024 + b"\r\n"
WINDOW = 4096
LITTLE = 4500
"""Octets: more than the window, and what is over that is less than the kernel takes of what it can't send (4096)."""
RATE = 460_800  # the message takes a second, and most of it waits on our side
PATIENCE_S = 60.0
SITE, ISP, PORT = "10.9.0.1", "10.9.0.2", 25
DROP = "add table inet cut; add chain inet cut {0} {{ type filter hook {0} priority 0; policy drop; }}"


class Reader:
    """An SMTP server that takes `stop_at` octets of the first body, then no more of anything; `stopped` is set then.
    `whole`: whether all of a message came."""

    def __init__(self, stop_at: int, *, chunking: bool) -> None:
        self.stop_at = stop_at
        self.extensions = ["PIPELINING", "8BITMIME"] + ["CHUNKING"] * chunking
        self.stopped = trio.Event()
        self.whole = False

    async def serve(self, stream: trio.abc.Stream) -> None:
        wire = Wire(stream)
        wire.say("220 mx ready")
        while True:
            verb, _, argument = (await wire.line()).partition(" ")
            if verb == "EHLO":
                lines = ["mx", *self.extensions]
                wire.say("\r\n".join(f"250{' ' if i == len(lines) - 1 else '-'}{x}" for i, x in enumerate(lines)))
            elif verb == "DATA":
                wire.say("354 go")
                await wire.flush()
                await self._take(wire, len(BODY) + 3)
            elif verb == "BDAT":
                await self._take(wire, int(argument.split()[0]))
            else:
                wire.say("250 ok")

    async def _take(self, wire: Wire, size: int) -> None:
        got = wire.buffer
        while len(got) < min(size, self.stop_at):
            got += bytes(await wire.stream.receive_some(min(1024, min(size, self.stop_at) - len(got))))
        self.whole = len(got) >= size
        self.stopped.set()
        await trio.sleep_forever()


async def send_until(
    stopped: trio.Event, cut: Callable[[], object], outbox: FakeOutbox, host: Smarthost, open_stream: Opens
) -> None:
    """Sends the outbox, until the server takes no more; then the line is cut, and the call is over."""
    call = OpenCall(7, "pstn", Reason.BY_HAND, 9600, open_stream)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(SendJob(outbox, {}, "harbour").run, call)
            await stopped.wait()
            cut()
            nursery.cancel_scope.cancel()


Opens = Callable[[str, int], Awaitable[trio.abc.HalfCloseableStream]]


def tls_for(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("mx").configure_cert(context)
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context


async def connect(site: Namespace, host: str, port: int, *, made: list[trio.SocketStream]) -> trio.SocketStream:
    sock = trio.socket.from_stdlib_socket(site.socket())
    await sock.connect((ISP, port))
    made.append(trio.SocketStream(sock))
    return made[-1]


@contextmanager
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    with namespace("site") as site, namespace("isp") as isp:
        site.cable("line", isp, "line")
        for host, address in ((site, SITE), (isp, ISP)):
            host.ip("addr", "add", f"{address}/24", "dev", "line")
            host.ip("link", "set", "line", "up")
        yield site, isp


def cut(site: Namespace) -> None:
    for way in ("input", "output"):
        site.exec("nft", DROP.format(way))


@asynccontextmanager
async def provider(isp: Namespace, reader: Reader, tls: ssl.SSLContext | None):  # type: ignore[no-untyped-def]
    raw = isp.socket()
    raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, WINDOW)
    raw.bind((ISP, PORT))
    raw.listen()

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await reader.serve(trio.SSLStream(stream, tls, server_side=True) if tls else stream)
        except (EOFError, trio.BrokenResourceError):
            pass  # the call is over

    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(raw))
        nursery.start_soon(functools.partial(trio.serve_listeners, serve, [listener]))
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("chunking", [False, True], ids=["data", "chunking"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("stop_at", [0, 20_000, len(BODY) + 3])
async def test_a_cable_that_is_cut(tmp_path: Path, stop_at: int, tls: bool, chunking: bool) -> None:
    with cable() as (site, isp):
        reader = Reader(stop_at, chunking=chunking)
        context = tls_for(tmp_path) if tls else None
        host = Smarthost(
            host="mx", port=PORT, tls=Tls.IMPLICIT if tls else Tls.NONE, ca=str(tmp_path / "ca.pem") if tls else ""
        )
        outbox = FakeOutbox(tmp_path, [host])
        outbox.put("m0", BODY)
        outbox.put("m1", BODY)

        async with provider(isp, reader, context):
            opens = functools.partial(connect, site, made=[])
            await send_until(reader.stopped, functools.partial(cut, site), outbox, host, opens)
        assert reader.whole is (stop_at > len(BODY))
        assert outbox.states("m0") == ["in-doubt" if reader.whole else "queued"]
        assert outbox.states("m1") == ["queued"]  # it was begun at most
        assert [op for op, id, _ in outbox.log if id == "m0"] == ["in_doubt"] + ["not_sent"] * (not reader.whole)


async def test_what_the_kernel_holds_and_has_not_sent(tmp_path: Path) -> None:
    """All of the message was handed to the kernel, but the server's window has room for a part of it."""
    with cable() as (site, isp):
        reader = Reader(0, chunking=False)
        host = Smarthost(host="mx", port=PORT, tls=Tls.NONE)
        outbox = FakeOutbox(tmp_path, [host])
        outbox.put("m0", BODY[:LITTLE])
        all_of_it = LITTLE + len(b"\r\n.\r\nQUIT\r\n")
        made: list[trio.SocketStream] = []
        handed = trio.Event()

        async def watch() -> None:
            await reader.stopped.wait()
            while (
                int.from_bytes(fcntl.ioctl(made[0].socket.fileno(), termios.TIOCOUTQ, bytes(4)), "little") < all_of_it
            ):
                await trio.sleep(0.01)
            handed.set()

        async with provider(isp, reader, None), trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            opens = functools.partial(connect, site, made=made)
            await send_until(handed, functools.partial(cut, site), outbox, host, opens)
        assert outbox.states("m0") == ["queued"]
        assert [op for op, _, _ in outbox.log] == ["in_doubt", "not_sent"]


@pytest.mark.parametrize("octets", [100, 10_000, 40_000, None])
async def test_the_labs_line_that_is_cut(tmp_path: Path, octets: int | None) -> None:
    """After so many octets out, or when the message has come whole."""
    reader = Reader(1 << 30, chunking=True)

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await reader.serve(stream)
        except (EOFError, trio.BrokenResourceError):
            pass  # the line is down

    line = Line()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            gate = line.add_gate("mx", "127.0.0.1", listeners[0].socket.getsockname()[1])
            await nursery.start(line.run)
            host = Smarthost(host="127.0.0.1", port=gate.port, tls=Tls.NONE)
            outbox = FakeOutbox(tmp_path, [host])
            outbox.put("m0", BODY)
            over = reader.stopped
            if octets is not None:
                over = trio.Event()
                line.cut_after("out", octets)
            line.up(RATE, on_cut=lambda reason: over.set())
            await send_until(over, line.down, outbox, host, trio.open_tcp_stream)
            nursery.cancel_scope.cancel()
    assert reader.whole is (octets is None)
    assert outbox.states("m0") == ["in-doubt" if octets is None else "queued"]


async def test_every_octet_is_counted_once_it_is_sent() -> None:
    """Of a peer that reads nothing: what its window has no room for has not been sent, though the kernel has it."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    plain = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    stream, peer = OutgoingStream(plain), await listener.accept()
    assert stream.sent() == 0
    await stream.send_all(b"x" * 777)
    assert await peer.receive_some(1000) == b"x" * 777
    assert stream.sent() == stream.offered == 777
    with trio.move_on_after(1.0):
        await stream.send_all(b"x" * (64 << 20))
    assert 777 < stream.sent() < stream.offered
    sent = stream.sent()
    stream.abort_on_close()
    await stream.aclose()
    got = 0
    with pytest.raises(trio.BrokenResourceError):  # a reset, and not the rest
        while data := await peer.receive_some():
            got += len(data)
    assert got <= sent - 777
    await peer.aclose()
    await listener.aclose()


async def test_what_is_no_socket_counts_as_sent() -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    stream = OutgoingStream(ours)
    await stream.send_all(b"hello")
    stream.abort_on_close()
    assert stream.sent() == 5
