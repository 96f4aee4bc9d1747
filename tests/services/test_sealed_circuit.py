"""A circuit between two ends over loopback: half-close, back-pressure, and a break at every place."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from appliance.transport import circuit
from appliance.transport.sealing import Sealed, WrongCertificate
from fakes.circuit import Held, Key, make_key, tcp_pair

Socket = trio.socket.SocketType


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder, "pc1"), make_key(folder, "pc2"), make_key(folder, "pc3")


class Ends:
    """Both ends of one circuit, and how each of them ended."""

    def __init__(self, keys: tuple[Key, Key, Key]) -> None:
        self.keys = keys
        self.results: dict[str, Exception | None] = {}
        self.carried = {"caller": circuit.Carried(), "callee": circuit.Carried()}

    async def caller(self, sock: Socket, local: circuit.Local) -> None:
        async def work() -> None:
            sealed = await circuit.seal(sock, self.keys[0].pem, self.keys[1].certificate, caller=True)
            await circuit.wait_go(sock, sealed)
            await circuit.carry(sock, sealed, local, self.carried["caller"])

        await self._note("caller", sock, work)

    async def callee(self, sock: Socket, local: circuit.Local) -> None:
        async def work() -> None:
            sealed = await circuit.seal(sock, self.keys[1].pem, self.keys[0].certificate, caller=False)
            await circuit.tell_go(sock, sealed)
            await circuit.carry(sock, sealed, local, self.carried["callee"])

        await self._note("callee", sock, work)

    async def _note(self, who: str, sock: Socket, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self.results[who] = None
        except Exception as error:
            self.results[who] = error
        finally:
            sock.close()


async def both(ends: Ends, one: circuit.Local, two: circuit.Local, *, buffers: int = 0) -> None:
    """`buffers`: of the sockets between them, bytes; 0 for the kernel's own."""
    a, b = await tcp_pair()
    for sock in (a, b) if buffers else ():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.caller, a, one)
            nursery.start_soon(ends.callee, b, two)


async def test_both_directions_end_on_their_own(keys: tuple[Key, Key, Key]) -> None:
    ends = Ends(keys)
    blocks = [os.urandom(60_000) for _ in range(20)]
    one, two = Held(gives=list(blocks)), Held(gives=[b"answer"])
    await both(ends, one, two)
    assert ends.results == {"caller": None, "callee": None}
    assert (bytes(two.got), bytes(one.got)) == (b"".join(blocks), b"answer")
    assert one.eof and two.eof and one.closed and two.closed and not one.was_reset and not two.was_reset
    assert ends.carried["caller"] == circuit.Carried(1_200_000, 6) and ends.carried["callee"] == circuit.Carried(
        6, 1_200_000
    )


async def test_one_direction_may_end_long_before_the_other(keys: tuple[Key, Key, Key]) -> None:
    ends = Ends(keys)
    one, two = Held(gives=[b"question"]), Held(ends=False)
    a, b = await tcp_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.caller, a, one)
            nursery.start_soon(ends.callee, b, two)
            while not two.eof:
                await trio.sleep(0.01)
            assert bytes(two.got) == b"question" and not ends.results
            two.give(b"answer", ends=True)
    assert bytes(one.got) == b"answer" and ends.results == {"caller": None, "callee": None}


@pytest.mark.parametrize("side", ["caller", "callee"])
@pytest.mark.parametrize("at", range(1, 9))
async def test_a_local_end_that_breaks_breaks_the_other(keys: tuple[Key, Key, Key], side: str, at: int) -> None:
    """At every operation: who broke is told so, the other end hears of no end of the data."""
    ends = Ends(keys)
    one, two = Held(gives=[b"a"] * 4, ends=False), Held(gives=[b"b"] * 4, ends=False)
    broken, other = (one, two) if side == "caller" else (two, one)
    broken.breaks_at = at
    await both(ends, one, two)
    there = "callee" if side == "caller" else "caller"
    assert isinstance(ends.results[side], circuit.LocalBroken), ends.results
    assert isinstance(ends.results[there], circuit.CircuitBroken), ends.results
    assert broken.was_reset and other.was_reset and not other.eof and not other.closed


async def test_a_cut_at_every_place_is_an_error_and_never_wrong_bytes(keys: tuple[Key, Key, Key]) -> None:
    """The relay between them lets through n bytes of what the caller sends, then closes in order: no end that TCP has
    is taken for the end of the data."""
    data = [bytes([i]) * 300 for i in range(3)]
    limit, cuts = 0, 0
    while True:
        ends = Ends(keys)
        one, two = Held(gives=list(data)), Held()
        a, a2 = await tcp_pair()
        b2, b = await tcp_pair()
        whole = False

        async def there(limit: int = limit, a2: Socket = a2, b2: Socket = b2) -> None:
            nonlocal whole
            left = limit
            while left and (part := await a2.recv(left)):
                await circuit.send_all(b2, part)
                left -= len(part)
            whole = left > 0
            b2.shutdown(socket.SHUT_WR)
            if not whole:
                a2.close()
                b2.close()

        async def back(a2: Socket = a2, b2: Socket = b2) -> None:
            try:
                while part := await b2.recv(65536):
                    await circuit.send_all(a2, part)
                a2.shutdown(socket.SHUT_WR)
            except (OSError, trio.ClosedResourceError):
                pass

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for task in (there, back):
                    nursery.start_soon(task)
                nursery.start_soon(ends.caller, a, one)
                nursery.start_soon(ends.callee, b, two)
        a2.close()
        b2.close()
        assert b"".join(data).startswith(bytes(two.got))
        if whole:
            assert ends.results == {"caller": None, "callee": None} and bytes(two.got) == b"".join(data)
            break
        cuts += 1
        assert isinstance(ends.results["callee"], circuit.CircuitBroken), (limit, ends.results)
        assert not two.closed and not two.eof
        limit += 97
    assert cuts > 10


async def test_without_the_byte_there_is_no_connection(keys: tuple[Key, Key, Key]) -> None:
    """The callee's service is not there: it closes after the handshake."""
    ends = Ends(keys)
    a, b = await tcp_pair()

    async def callee() -> None:
        await circuit.seal(b, keys[1].pem, keys[0].certificate, caller=False)
        b.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(callee)
            nursery.start_soon(ends.caller, a, Held())
    assert isinstance(ends.results["caller"], circuit.NotConnected)


async def test_a_wrong_certificate_is_told_apart(keys: tuple[Key, Key, Key]) -> None:
    one, two, three = keys
    a, b = await tcp_pair()
    seen: list[Exception] = []

    async def callee() -> None:
        with pytest.raises(WrongCertificate):
            await circuit.seal(b, three.pem, one.certificate, caller=False)
        b.close()

    async def caller() -> None:
        try:
            await circuit.seal(a, one.pem, two.certificate, caller=True)
        except WrongCertificate as error:
            seen.append(error)
        a.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            nursery.start_soon(callee)
    assert "another certificate than was announced" in str(seen[0])


async def test_silence_in_the_handshake_has_an_end(keys: tuple[Key, Key, Key], autojump_clock: trio.abc.Clock) -> None:
    a, b = await tcp_pair()
    with pytest.raises(circuit.NotConnected, match="no handshake within 60 s"):
        await circuit.seal(a, keys[0].pem, keys[1].certificate, caller=True)
    a.close()
    b.close()


async def test_a_reader_that_stops_holds_the_writer_back(keys: tuple[Key, Key, Key]) -> None:
    """What is in flight stays bounded by the sockets' buffers."""
    ends = Ends(keys)
    a, b = await tcp_pair()

    class Endless(Held):
        given = 0

        async def receive_into(self, view: memoryview) -> int:
            await trio.lowlevel.checkpoint()
            self.given += len(view)
            return len(view)

    class Stuck(Held):
        async def send_all(self, parts: list[memoryview]) -> None:
            await trio.sleep_forever()

    source = Endless()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.caller, a, source)
        nursery.start_soon(ends.callee, b, Stuck(ends=False))
        before = -1
        while source.given != before or not before:
            before = source.given
            await trio.sleep(0.2)
        assert source.given < 32 << 20
        nursery.cancel_scope.cancel()
    assert source.was_reset


async def test_both_directions_full_at_once_do_not_wait_for_each_other(keys: tuple[Key, Key, Key]) -> None:
    """Both ends give without pause, and the sockets between them hold less than a record."""
    ends = Ends(keys)
    blocks = [os.urandom(60_000) for _ in range(20)]
    one, two = Held(gives=list(blocks)), Held(gives=list(blocks))
    await both(ends, one, two, buffers=32768)
    assert ends.results == {"caller": None, "callee": None}
    assert bytes(one.got) == bytes(two.got) == b"".join(blocks)


async def test_a_socket_as_local_end_is_reset_when_the_circuit_breaks(keys: tuple[Key, Key, Key]) -> None:
    """So that a program behind `forward` never takes a broken circuit for the end of what it reads."""
    ends = Ends(keys)
    program, inside = await tcp_pair()
    a, b = await tcp_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.caller, a, circuit.LocalSocket(inside))

            async def callee() -> None:
                sealed: Sealed = await circuit.seal(b, keys[1].pem, keys[0].certificate, caller=False)
                await circuit.tell_go(b, sealed)
                buffer = bytearray(b"\0\0half")
                sealed.seal(buffer, 4)
                await circuit.send_all(b, sealed.outgoing())
                assert await program.recv(10) == b"half"
                b.close()
                with pytest.raises(ConnectionResetError):
                    await program.recv(10)

            nursery.start_soon(callee)
    assert isinstance(ends.results["caller"], circuit.CircuitBroken)
    program.close()
