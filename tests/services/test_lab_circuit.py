"""A circuit between two modems whose ports are streams: it keeps its rate to the byte, both ways at once, and can die
with its carrier up."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from appliance.lab.exchange import Exchange
from appliance.lab.modem import Modem, ModemState


class Ends:
    """Two modems of an exchange and the terminals' ends of their ports; the second answers by itself."""

    def __init__(self, rate: int) -> None:
        self.exchange = Exchange(rate=rate)
        self.modems = [Modem(self.exchange, "1", profile={10: 0}), Modem(self.exchange, "2", profile={0: 1, 10: 0})]
        self.ports: list[trio.abc.Stream] = []

    async def connect(self, nursery: trio.Nursery) -> None:
        for modem in self.modems:
            self.exchange.subscribe(modem)
            port, inner = trio.testing.memory_stream_pair()
            self.ports.append(port)
            await nursery.start(modem.serve, inner)
        await self.ports[0].send_all(b"ATE0X4D2\r")
        for port in self.ports:
            await read_until(port, b"\r\nCONNECT %d\r\n" % self.exchange.rate)


async def read_until(port: trio.abc.Stream, end: bytes) -> bytes:
    heard = b""
    with trio.fail_after(60):
        while not heard.endswith(end):
            heard += await port.receive_some(4096)
    return heard


async def read_all(port: trio.abc.Stream, count: int) -> bytes:
    heard = b""
    with trio.fail_after(600):
        while len(heard) < count:
            heard += await port.receive_some(4096)
    return heard


async def test_a_circuit_keeps_its_rate_both_ways_at_once(autojump_clock: MockClock) -> None:
    for rate in (2400, 9600, 33600):
        ends = Ends(rate)
        async with trio.open_nursery() as nursery:
            await ends.connect(nursery)
            data = bytes(range(32)) * (rate // 8 * 3 // 32)  # three seconds of it
            begun = trio.current_time()
            took: dict[int, float] = {}

            async def hear(side: int, data: bytes = data, begun: float = begun, ends: Ends = ends,
                           took: dict[int, float] = took) -> None:  # fmt: skip
                assert await read_all(ends.ports[side], len(data)) == data
                took[side] = trio.current_time() - begun

            async with trio.open_nursery() as both:
                for side in (0, 1):
                    both.start_soon(ends.ports[side].send_all, data)
                    both.start_soon(hear, side)
            for seconds in took.values():
                assert abs(seconds - len(data) * 8 / rate) < 0.05, (rate, seconds)
            record = ends.exchange.records[-1]
            assert (record.bytes_out, record.bytes_in) == (len(data), len(data))
            nursery.cancel_scope.cancel()


async def test_a_dead_circuit_keeps_its_carrier_and_swallows_everything(autojump_clock: MockClock) -> None:
    ends = Ends(33600)
    async with trio.open_nursery() as nursery:
        await ends.connect(nursery)
        ends.exchange.circuits[0].dead = True
        await ends.ports[0].send_all(b"anybody there?")
        with trio.move_on_after(30):
            assert await ends.ports[1].receive_some(1) == b"nothing may come"
        assert [m.state for m in ends.modems] == [ModemState.ONLINE] * 2
        ends.exchange.drop_all()
        for port in ends.ports:
            await read_until(port, b"\r\nNO CARRIER\r\n")
        nursery.cancel_scope.cancel()


async def test_a_modem_hangs_up_when_its_port_is_closed_and_serves_the_next_one(autojump_clock: MockClock) -> None:
    ends = Ends(9600)
    async with trio.open_nursery() as nursery:
        await ends.connect(nursery)
        await ends.ports[0].aclose()
        await read_until(ends.ports[1], b"\r\nNO CARRIER\r\n")
        assert ends.exchange.circuits == []
        port, inner = trio.testing.memory_stream_pair()
        nursery.start_soon(ends.modems[0].serve, inner)
        await port.send_all(b"ATE0\r")
        await read_until(port, b"\r\nOK\r\n")
        nursery.cancel_scope.cancel()
