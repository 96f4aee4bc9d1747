"""One epoll set for what the relay server holds open but circuits: terminals' logins, peers, who is not known yet.

It owns the set and knows whose descriptor is whose; it must not know what is done with them. Whoever adds a descriptor
closes it himself, after `remove`.

How it works. A private `select.epoll()` has all descriptors, each registered once and edge-triggered; its own one is
what a single Trio task waits for. So a connection costs neither a task nor a registration per wait: thousands of idle
ones cost what they remember. What is called here must not block. Who has more to do than is fair in one turn asks for
another (`again`), behind a checkpoint, so that all of Trio gets its turn.

A descriptor may be closed and given out anew within one round of events; its new owner then hears of readiness that is
not his. Owners must take a readiness that turns out to be none.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BROKEN", "ENDING", "EVENTS", "READABLE", "WRITABLE", "EpollSet", "Owner"]

EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
"""There may be something to read, the end included."""
ENDING: Final = select.EPOLLRDHUP | select.EPOLLHUP
WRITABLE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR
ROUND: Final = 256
"""Events taken at once."""
TURN_S: Final = 0.001
"""For one round after the other; then the rest of the process has its turn."""
LOOKS: Final = 16
"""Looks for more before the task waits again, 1 µs each: as long as a wait by Trio costs anyhow."""
LOOK_AGAIN: Final = 64
"""Turns without a look, where looks have not paid, until one is tried again."""


class Owner(Protocol):
    """Who is told that something can be done with a descriptor."""

    def ready(self, mask: int) -> None:
        """Something has changed (`READABLE`, `WRITABLE`, `BROKEN`). Must not block; what it raises ends the service."""
        ...

    def stop(self) -> None:
        """The set is closing: so is this descriptor."""
        ...


class EpollSet:
    """`run` is its task; everything else is called on the event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: list[Owner | None] = []  # by descriptor: a dict takes ten times as much for each
        self._count = 0
        self._again: list[Callable[[], None]] = []
        self._in_turn = False
        self._looks = LOOKS
        self._turns = 0

    def __len__(self) -> int:
        return self._count

    def add(self, fd: int, owner: Owner) -> None:
        """From now on `owner` hears of this descriptor, first of how it is now. Raises OSError."""
        self._epoll.register(fd, EVENTS)
        if fd >= len(self._owners):
            self._owners += [None] * (fd + 1 - len(self._owners))
        self._owners[fd] = owner
        self._count += 1

    def remove(self, fd: int) -> None:
        """Before it is closed. One that is not here is no error."""
        if 0 <= fd < len(self._owners) and self._owners[fd] is not None:
            self._owners[fd] = None
            self._count -= 1
            self._epoll.unregister(fd)

    def again(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` in the next turn."""
        self._again.append(go_on)

    def soon(self, do: Callable[[], None]) -> None:
        """Calls `do` behind what this round of events has brought, for what is cheaper done once for all of it; now,
        where no round is under way."""
        if self._in_turn:
            self._again.append(do)
        else:
            do()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._again:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._in_turn = True
            try:
                self._turn()
            finally:
                self._in_turn = False

    def _turn(self) -> None:
        """What there is to do, for `TURN_S` at most."""
        owners, poll = self._owners, self._epoll.poll
        until = time.perf_counter() + TURN_S
        self._turns += 1
        if not self._turns % LOOK_AGAIN:
            self._looks = LOOKS
        left = self._looks
        while True:
            waiting, self._again = self._again, []
            events = poll(0, ROUND)
            for fd, mask in events:
                owner = owners[fd]
                if owner is not None:
                    owner.ready(mask)
            for go_on in waiting:
                go_on()
            if events or waiting:
                if left < self._looks:
                    self._looks = LOOKS  # a look has paid
                left = self._looks
                if time.perf_counter() > until:
                    return
            elif left:
                left -= 1
            else:
                self._looks //= 2
                return

    def close(self) -> None:
        """After `run` has ended: closes what is left in it, and itself."""
        for owner in tuple(self._owners):
            if owner is not None:
                owner.stop()
        self._epoll.close()
