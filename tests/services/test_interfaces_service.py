"""The service over a kernel in memory, in simulated time: what it tells and how often, what it tries again and when,
and that it stays slow where something else keeps changing the same. What real kernels do is in tests/interop.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.config.model import Interface
from appliance.network.interfaces import BURST, DEBOUNCE_S, MAX_RETRY_S, PAUSE_S, RETRY_S, Interfaces
from appliance.network.lease import Lease
from appliance.network.plan import AddAddress, Device, SetMtu, State
from fakes.kernel import FakeKernel

LAN = Interface(name="lan", device="e0", addresses=("10.0.0.1/24",), mtu=1400)
OFFICE = Interface(name="office", device="e1", dhcp=True)
E0 = Device(2, "e0", carrier=True)
E1 = Device(3, "e1", carrier=True)


class Watch:
    """What `open_watch` gives: `change` is a message of the kernel's."""

    def __init__(self) -> None:
        self.near, self.far = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.errors: list[OSError] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *args: object) -> None:
        self.near.close()
        self.far.close()

    async def recv(self, size: int) -> bytes:
        data = await self.near.recv(size)
        if self.errors:
            raise self.errors.pop()
        return data

    async def change(self) -> None:
        await self.far.send(b"x")


class Bench:
    def __init__(self, clock: MockClock, caplog: pytest.LogCaptureFixture, *devices: Device) -> None:
        self.clock, self.caplog = clock, caplog
        self.kernel = FakeKernel(*devices)
        self.watch = Watch()
        self.looks = 0
        self.fails = 0
        observe = self.kernel.observe

        def counted() -> Any:
            self.looks += 1
            if self.fails:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            return observe()

        self.kernel.observe = counted  # type: ignore[method-assign]

    @asynccontextmanager
    async def run(self, *interfaces: Interface, old: tuple[Interface, ...] = ()) -> AsyncIterator[Interfaces]:
        service = Interfaces(interfaces, lambda: self.kernel, lambda: self.watch, old=old)  # type: ignore[arg-type,return-value]
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            yield service
            nursery.cancel_scope.cancel()

    async def until(self, true: Callable[[], object], what: str) -> None:
        """The clock stands still; threads and sockets do not."""
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end, what
            await trio.lowlevel.checkpoint()

    async def look(self, wait_s: float = DEBOUNCE_S) -> None:
        """A message of the kernel's, and the service's look `wait_s` later."""
        before = self.looks
        await self.watch.change()
        await trio.testing.wait_all_tasks_blocked(0.001)
        self.clock.jump(wait_s)
        await self.until(lambda: self.looks > before, "it looks")
        await trio.testing.wait_all_tasks_blocked(0.01)

    def said(self, text: str) -> int:
        return sum(text in r.getMessage() for r in self.caplog.records)


@pytest.fixture
def bench(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> Callable[..., Bench]:
    caplog.set_level("INFO", "posthouse")
    return lambda *devices: Bench(mock_clock, caplog, *devices)


async def test_ready_when_it_is_set_up(bench: Callable[..., Bench]) -> None:
    b = bench(E0)
    async with b.run(LAN) as service:
        assert service.states == {"lan": State.UP}
        assert b.said("lan: set up: e0 had MTU 1500, not 1400; e0 was down; e0 lacked 10.0.0.1/24") == 1
        assert b.said("lan: e0 is up") == 1
        b.kernel.change("e0", mtu=1500, carrier=False)
        await b.look()
        assert b.said("lan: something else changed it; put right: e0 had MTU 1500, not 1400") == 1
        assert service.states == {"lan": State.NO_CARRIER}
        await b.look()
        assert b.said("lan: e0 is no-carrier") == 1


async def test_what_can_t_be_done_is_told_once_and_tried_again(
    bench: Callable[..., Bench], mock_clock: MockClock
) -> None:
    b = bench(E0)
    b.kernel.refuses = {SetMtu: errno.EINVAL}
    text = "lan: not as configured, tried again: e0 had MTU 1500, not 1400: Invalid argument"
    async with b.run(LAN) as service:
        assert service.states == {"lan": State.SETTING_UP}
        assert b.said(text) == 0  # the world may have moved while we looked
        pause = RETRY_S
        for _ in range(10):
            before = b.looks
            await trio.testing.wait_all_tasks_blocked(0.001)
            mock_clock.jump(pause)
            await trio.testing.wait_all_tasks_blocked(0.001)
            assert b.looks == before
            mock_clock.jump(2 * DEBOUNCE_S)
            await b.until(lambda: b.looks > before, f"it looks after {pause}")  # noqa: B023
            pause = min(2 * pause, MAX_RETRY_S)
        assert b.said(text) == 1
        b.kernel.refuses = {}
        await b.look()
        assert service.states == {"lan": State.UP}
        b.kernel.refuses = {SetMtu: errno.EINVAL}
        for _ in range(3):
            b.kernel.change("e0", mtu=1500)
            await b.look()
        assert b.said(text) == 2


async def test_a_kernel_that_can_t_be_asked(bench: Callable[..., Bench], mock_clock: MockClock) -> None:
    b = bench(E0)
    b.fails = 1
    async with b.run(LAN) as service:
        assert service.states == {}
        await b.look()
        assert b.said("all: not as configured, tried again: [Errno 105] No buffer space available") == 1
        b.fails = 0
        await b.look()
        assert service.states == {"lan": State.UP}


async def test_messages_that_were_lost_are_a_change(bench: Callable[..., Bench]) -> None:
    b = bench(E0)
    async with b.run(LAN):
        b.kernel.change("e0", mtu=1500)
        b.watch.errors = [OSError(errno.ENOBUFS, "")]
        await b.look()
        assert b.kernel.devices["e0"].mtu == 1400


async def test_a_quarrel_becomes_slow_and_is_not_told_each_time(
    bench: Callable[..., Bench], mock_clock: MockClock
) -> None:
    b = bench(E0)
    text = "something else changed it; put right: e0 had MTU 1500, not 1400"
    async with b.run(LAN):
        for _ in range(BURST):
            b.kernel.change("e0", mtu=1500)
            await b.look()
        assert b.said(text) == BURST
        for _ in range(5):
            b.kernel.change("e0", mtu=1500)
            before = b.looks
            await b.watch.change()
            await trio.testing.wait_all_tasks_blocked(0.001)
            mock_clock.jump(0.5 * PAUSE_S)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert b.looks == before
            mock_clock.jump(0.5 * PAUSE_S)
            await b.until(lambda: b.kernel.devices["e0"].mtu == 1400, "it is put right")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert b.said(text) <= BURST + 1
        mock_clock.jump(10 * PAUSE_S)
        b.kernel.change("e0", mtu=1500)
        await b.look()  # quick again
        assert b.kernel.devices["e0"].mtu == 1400


async def test_leases(bench: Callable[..., Bench]) -> None:
    b = bench(E1)
    address = ipaddress.IPv4Interface("172.20.1.7/24")
    async with b.run(OFFICE) as service:
        link = service.links["office"]
        assert await link.wait_ready() == 3
        service.set_lease("office", Lease(address, 600))
        await b.look()
        assert AddAddress("e1", address, 600) in b.kernel.applied
        b.kernel.applied.clear()
        await b.look()
        assert b.kernel.applied == []
        service.set_lease("office", Lease(address, 600))  # renewed: its time begins anew
        await b.look()
        assert b.kernel.applied == [AddAddress("e1", address, 600)]
        service.set_lease("office", None)
        await b.look()
        assert b.kernel.devices["e1"].addresses == ()
        assert b.said("something else") == 0
        b.kernel.change("e1", carrier=False)
        await b.look()
        assert link.index == 0
        await link.wait_not(3)


async def test_what_is_wanted_no_more_is_taken_back_once(bench: Callable[..., Bench]) -> None:
    b = bench(E0)
    async with b.run(LAN):
        pass
    again = bench()
    again.kernel.devices = b.kernel.devices
    async with again.run(old=(LAN,)):
        assert again.kernel.devices["e0"].addresses == ()
        again.kernel.apply(AddAddress("e0", ipaddress.ip_interface("10.0.0.1/24")))  # a person's from now on
        await again.look()
        assert len(again.kernel.devices["e0"].addresses) == 1
