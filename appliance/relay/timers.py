"""Deadlines of things that have no task of their own: connections, rings, tickets.

One task sleeps until the earliest of them. A timer that is cancelled stays in the heap until its time, or until a
quarter of the heap are such; what would be set anew all the time (a keepalive) is one timer that looks at the clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]

SWEEP_AT: Final = 64
"""Cancelled timers, from which on it is worth looking whether they are much of the heap: each takes 200 bytes, and one
whose login has come in time would otherwise stay for all of that."""


class Timer:
    """One deadline. `cancel` may be called at any time, also after it has fired."""

    __slots__ = ("_timers", "at", "call")

    def __init__(self, timers: Timers, at: float, call: Callable[[], None]) -> None:
        self._timers = timers
        self.at = at
        self.call: Callable[[], None] | None = call

    @property
    def seconds_left(self) -> float:
        return self.at - trio.current_time()

    def cancel(self) -> None:
        if self.call is not None:
            self.call = None
            self._timers.one_less()


class Timers:
    """`run` is its task. Calls are made on the event loop and must not block."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()
        self._cancelled = 0

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` once in so many seconds of Trio's clock."""
        timer = Timer(self, trio.current_time() + seconds, call)
        heapq.heappush(self._heap, (timer.at, next(self._numbers), timer))
        if self._heap[0][2] is timer:
            self._earlier.set()
        return timer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            at = self._heap[0][0] if self._heap else math.inf
            self._earlier = trio.Event()
            with trio.move_on_at(at):
                await self._earlier.wait()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                call, timer.call = timer.call, None
                if call is not None:
                    call()
                else:
                    self._cancelled -= 1

    def one_less(self) -> None:
        """A timer was cancelled."""
        self._cancelled += 1
        if self._cancelled >= SWEEP_AT and self._cancelled > len(self._heap) / 4:
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
