"""The part that keeps the clock: the last time seen on stable storage, chrony told of each call, and the time of a call
from the line itself and from chrony (docs/decisions/0007-the-time-of-a-call.md).

What talks to chrony is a task of the service and never of the call: a call that is cut, or chrony that hangs, holds up
neither.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.host.chrony import Chrony

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.app.house import House
    from appliance.call import Line
    from appliance.clock import SystemClock
    from appliance.config.model import Config

__all__ = ["ClockPart", "Timekeeper"]

KEEP_S: Final = 3600.0
"""So often the time is put on stable storage: a block of a card a time, and nobody misses an hour of those that a
power cut took."""
LOOK_S: Final = 0.5
"""Between two looks at chrony while a call waits for the time."""
LOOK_SELDOM_S: Final = 60.0
"""Between two looks while the clock is not trusted and no call waits: a server on the LAN may have been found."""


class _Up:
    """One line that is up; `dns` as `Line` has it."""

    def __init__(self, dns: tuple[str, ...]) -> None:
        self.dns = dns


class Timekeeper:
    """`call.TimeOfCall` over the line's own clock and chrony. `run` is the task that talks to chrony, and calls
    `on_trust` when the clock has become trusted, through whomever."""

    def __init__(self, clock: SystemClock, chrony: Chrony, on_trust: Callable[[], None]) -> None:
        self._clock = clock
        self._chrony = chrony
        self._on_trust = on_trust
        self._running = False
        self._up: _Up | None = None
        self._changed = trio.Event()
        """`_up` is another."""
        self._waited_enough = trio.Event()
        self._was_trusted = clock.trusted

    # ---- call.TimeOfCall
    async def begin(self, line: Line) -> None:
        told = await line.network_time()
        if told is not None:
            self._clock.told(told.timestamp(), f"the network of {line.name}")
            self._changed.set()
        if not self._running or not self._chrony.present:
            return
        self._waited_enough = trio.Event()
        self._take(_Up(line.dns))
        if not self._clock.trusted:
            await self._waited_enough.wait()

    def end(self) -> None:
        self._take(None)

    def _take(self, up: _Up | None) -> None:
        self._up = up
        self._changed.set()

    # ---- the service
    async def run(self) -> None:
        """Until cancelled, which leaves chrony offline."""
        self._running = True
        try:
            if self._chrony.present:  # as a process that was killed may have left it online
                await self._chrony.offline()
            while True:
                if self._up is not None:
                    await self._during(self._up)
                else:
                    await self._look()
                if self._up is None:
                    await self._wait_changed(LOOK_SELDOM_S)
        finally:
            self._running = False
            self._waited_enough.set()

    async def _during(self, up: _Up) -> None:
        try:
            await self._chrony.online(up.dns)
            while self._up is up:
                await self._look()
                await self._wait_changed(LOOK_SELDOM_S if self._clock.trusted else LOOK_S)
        finally:
            with trio.CancelScope(shield=True):  # which has a deadline of its own
                await self._chrony.offline()

    async def _look(self) -> None:
        """Whether the clock is trusted by now: by chrony, by the line, or since somebody has set it."""
        if not self._clock.trusted and self._chrony.present and await self._chrony.synchronised():
            self._clock.confirmed("chrony")
        before, self._was_trusted = self._was_trusted, self._clock.trusted
        if self._was_trusted:
            self._waited_enough.set()
            if not before:
                self._on_trust()

    async def _wait_changed(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._changed.wait()
        self._changed = trio.Event()


class ClockPart:
    """Keeps the time while the process runs; `timekeeper` is for the calls."""

    name = "clock"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self.timekeeper = Timekeeper(house.core.clock, Chrony(), self._trusted)
        self._to_keep = trio.Event()

    def slice(self, config: Config) -> tuple[object, ...]:
        return ()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.timekeeper.run)
            task_status.started()
            while True:
                await self._keep()
                with trio.move_on_after(KEEP_S):
                    await self._to_keep.wait()
                self._to_keep = trio.Event()

    async def drain(self) -> None:
        await self._keep()

    def _trusted(self) -> None:
        """What was not decided for want of the time can be now."""
        self._to_keep.set()
        caller = self._house.caller_or_none
        if caller is not None:
            caller.poke()

    async def _keep(self) -> None:
        core = self._house.core
        try:
            await core.committer.commit(functools.partial(core.keep_seen, core.clock.seen()))
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
