"""The service that keeps the devices of `[[interface]]` as configured. It owns what each interface wants at the moment,
configuration and lease together, and what it has told the journal; the kernel is reached through what it is handed.

Whenever the kernel says that something changed, and whenever a lease comes or goes, it observes, plans and applies in
one call in a thread. A change mostly comes as several messages, so it waits a moment first; where something else keeps
changing what we put right, it becomes slow, so that two who disagree do not eat the processor. What can't be done is
told once, and tried again at every change and at growing intervals.

A device that is absent is no error: it is told when it is missed and when it is there, and set up whenever it comes.
When the service ends it leaves everything as it stands: the next one finds nothing to do.
"""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.network.lease import with_lease
from appliance.network.plan import AddAddress, Change, FreePort, SetMtu, State, TakePort, Wanted, state
from appliance.network.settle import Kernel, Settled, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.config.model import Interface
    from appliance.network.lease import Lease

__all__ = ["Interfaces"]

DEBOUNCE_S: Final = 0.01
"""From the first message of a change to looking: its others have come by then."""
BURST: Final = 50
"""Corrections that are made at once; …"""
PAUSE_S: Final = 5.0
"""… and how often one is made after that, since something else keeps changing what we put right."""
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
"""What could not be done is tried again though nothing has changed: a permission may have been given."""
HEADER: Final = 16
"""Of a message (struct nlmsghdr); what follows it is not read."""


class Link:
    """The device of an interface, for its DHCP client: `index` 0 while there is none that is up and has a carrier."""

    def __init__(self) -> None:
        self.index = 0
        self._changed = trio.Event()

    def set(self, index: int) -> None:
        if index != self.index:
            self.index = index
            self._changed.set()
            self._changed = trio.Event()

    async def wait_ready(self) -> int:
        """-> its index."""
        while not self.index:
            await self._changed.wait()
        return self.index

    async def wait_not(self, index: int) -> None:
        """Until it is another one, or none."""
        while self.index == index:
            await self._changed.wait()


class Interfaces:
    """`states`: interface -> what it is in; `links`: interface -> its device, of those with DHCP. `old`: what was kept
    before, in this life of the process; `own_mtu`: device -> what it had before it was given another, which goes back
    to it when the configuration says no more."""

    def __init__(
        self,
        interfaces: Sequence[Interface],
        open_kernel: Callable[[], AbstractContextManager[Kernel]],
        open_watch: Callable[[], trio.socket.SocketType],
        *,
        old: Sequence[Interface] = (),
        own_mtu: dict[str, int] | None = None,
    ) -> None:
        self._own_mtu = own_mtu if own_mtu is not None else {}
        self._configured = {
            x.name: tuple(replace(one, mtu=one.mtu or self._own_mtu.get(one.device, 0)) for one in Wanted.of(x))
            for x in interfaces
        }
        self._wanted = dict(self._configured)
        self._old = tuple(one for x in old for one in Wanted.of(x))
        self._open_kernel = open_kernel
        self._open_watch = open_watch
        self._changed = trio.Event()
        self._renewed: set[str] = set()
        self._lent: set[str] = set()  # interfaces whose lease has come, gone or been renewed since the last look
        self._indices: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._quarrel = False  # with something else that keeps changing the same: not told each time
        self._put_right: dict[str, str] = {}
        self.states: dict[str, State] = {}
        self.links = {x.name: Link() for x in interfaces if x.dhcp}

    def set_lease(self, interface: str, lease: Lease | None) -> None:
        """What a DHCP server lends, until told otherwise; None: nothing any more."""
        own, *ports = self._configured[interface]
        leased = with_lease(own, lease)
        if lease is not None and leased.leased == self._wanted[interface][0].leased:
            self._renewed.add(own.device)
        self._wanted[interface] = (leased, *ports)
        self._lent.add(interface)
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self._open_watch() as watch:  # before we look, so that no change falls between
            await self._settle()
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, watch)
                await self._keep()

    async def _listen(self, watch: trio.socket.SocketType) -> None:
        while True:
            try:
                await watch.recv(HEADER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more has changed than fits: look
                    raise
            self._changed.set()

    async def _keep(self) -> None:
        retry = RETRY_S
        allowed, since = float(BURST), trio.current_time()
        while True:
            with trio.move_on_after(retry if self._failures else float("inf")):
                await self._changed.wait()
            now = trio.current_time()
            allowed, since = min(allowed + (now - since) / PAUSE_S, BURST), now
            await trio.sleep(DEBOUNCE_S if allowed >= 1 else (1 - allowed) * PAUSE_S)
            self._changed = trio.Event()
            self._quarrel = allowed < 1
            settled = await self._settle()
            if settled is not None and settled.done:
                allowed -= 1
            retry = min(2 * retry, MAX_RETRY_S) if self._failures else RETRY_S

    async def _settle(self) -> Settled | None:
        wanted = [one for some in self._wanted.values() for one in some]
        renewed, self._renewed = frozenset(self._renewed), set()
        lent, self._lent = self._lent, set()

        def in_thread() -> Settled:
            with self._open_kernel() as kernel:
                return settle(kernel, wanted, old=self._old, renewed=renewed)

        try:
            settled = await trio.to_thread.run_sync(in_thread)
        except OSError as error:
            self._renewed |= renewed
            self._lent |= lent
            self._fail("", [str(error)])
            return None
        self._old = ()
        self._fail("", [])
        for change in settled.done:
            if isinstance(change, SetMtu):
                self._own_mtu.setdefault(change.device, change.was)
        for name, some in self._wanted.items():
            self._report(name, some, settled, lent)
        return settled

    # ---- the journal
    def _report(self, name: str, some: Sequence[Wanted], settled: Settled, lent: set[str]) -> None:
        """What an interface's part of it was."""
        own = some[0]
        devices = {one.device for one in some}
        fresh = [self._appeared(name, one, settled) for one in some]
        done = [str(c) for c in settled.done if _concerns(c, own, devices) and not _renews(c, settled)]
        failed = [f for f in settled.failed if _concerns(f.change, own, devices)]
        if done:
            what = "; ".join(done)
            if any(fresh) or name in lent:
                events.emit(events.INTERFACE_SET_UP, interface=name, what=what)
            elif not (self._quarrel and self._put_right.get(name) == what):
                events.emit(events.INTERFACE_PUT_RIGHT, interface=name, what=what)
            self._put_right[name] = what
        self._fail(name, [str(f) for f in failed])
        now = state(own, settled.after, [f.change for f in failed])
        if now != self.states.get(name) and now in (State.UP, State.NO_CARRIER):
            events.emit(events.INTERFACE_STATE, interface=name, device=own.device, state=now)
        self.states[name] = now
        if name in self.links:
            device = settled.after.get(own.device)
            self.links[name].set(device.index if device is not None and device.up and device.carrier else 0)

    def _appeared(self, name: str, one: Wanted, settled: Settled) -> bool:
        """Whether a device is new to us; tells of one that is missed, and of its return."""
        before = self._indices.get(one.device)
        device = settled.after.get(one.device)
        now = self._indices[one.device] = device.index if device is not None else 0
        if one.bridge:
            return before is None  # we make it ourselves
        if not now and before != 0:
            events.emit(events.DEVICE_ABSENT, interface=name, device=one.device)
        if now and before is not None and before != now:
            events.emit(events.DEVICE_THERE, interface=name, device=one.device)
        return now != before

    def _fail(self, name: str, failed: Sequence[str]) -> None:
        """Tells of what can't be done, once, and only when it still can't be at the second look: the world may have
        moved while we looked."""
        text = "; ".join(failed)
        if not text:
            self._failures.pop(name, None)
            self._told.pop(name, None)
        elif self._failures.get(name) == text and self._told.get(name) != text:
            self._told[name] = text
            events.emit(events.INTERFACE_FAILED, interface=name or "all", why=text)
        if text:
            self._failures[name] = text


def _concerns(change: Change, own: Wanted, devices: set[str]) -> bool:
    return change.device in devices or (isinstance(change, (TakePort, FreePort)) and change.bridge == own.device)


def _renews(change: Change, settled: Settled) -> bool:
    """Whether an address only got its lifetime anew."""
    if not isinstance(change, AddAddress) or not change.lifetime_s:
        return False
    device = settled.before.get(change.device)
    return device is not None and change.address in (a.address for a in device.addresses)
