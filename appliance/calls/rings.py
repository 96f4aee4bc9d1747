"""Listens for rings on the lines that have `wake_numbers`, whenever no call is under way. A ring is never answered: it
says 'call us', and costs nobody anything.

It owns who listens when: a line is in one hand at a time, and a call has the first claim on it. `quiet` takes the lines
away from the listeners for as long as a call has them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from appliance.call import Line

__all__ = ["Rings"]


class Rings:
    """`woken(line, number)` is told of each ring from a wake number, once it has stopped ringing."""

    def __init__(self, lines: Iterable[Line], woken: Callable[[str, str], None]) -> None:
        self._lines = tuple(lines)
        self._woken = woken
        self._listening = 0
        self._scopes: set[trio.CancelScope] = set()
        self._may_listen = trio.Event()
        self._may_listen.set()
        self._silent = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for line in self._lines:
                nursery.start_soon(self._listen, line)

    async def _listen(self, line: Line) -> None:
        while True:
            await self._may_listen.wait()
            self._listening += 1
            try:
                with trio.CancelScope() as scope:
                    self._scopes.add(scope)
                    number = await line.wait_wake()
                    self._woken(line.name, number)
            finally:
                self._scopes.discard(scope)
                self._listening -= 1
                if not self._listening:
                    self._silent.set()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nobody listens inside."""
        self._may_listen = trio.Event()
        self._silent = trio.Event()
        for scope in self._scopes:
            scope.cancel()
        if self._listening:
            await self._silent.wait()
        try:
            yield
        finally:
            self._may_listen.set()
