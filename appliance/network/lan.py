"""The service that has a program beside us serve the LAN (dnsmasq, Dovecot): writes its configuration, starts it, and
starts it again when it ends. What runs it, a child or systemd, is handed in (`neighbour.Neighbour`), as is what the
configuration says.

Where it can't run (not installed, a port is taken) that is told once for each reason and tried again at growing
intervals: the rest of the appliance does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.network.neighbour import Neighbour

__all__ = ["LanServices"]

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
STANDS_S: Final = 60.0
"""It ran as long as that: its next end is a new trouble."""
STOP_S: Final = 10.0
"""For the neighbour to be stopped when we are; it takes 5 s itself at worst."""


class LanServices:
    """`write` puts the configuration onto the disk; raises OSError. `started` and `failed` tell it to the journal,
    `failed` with the reason."""

    def __init__(
        self,
        write: Callable[[], Awaitable[None]],
        neighbour: Neighbour,
        started: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._started, self._failed = started, failed
        self._write = write
        self._neighbour = neighbour
        self._told = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        pause = FIRST_PAUSE_S
        try:
            why = await self._start()
            task_status.started()
            while True:
                began = trio.current_time()
                if not why:
                    self._told = ""
                    self._started()
                    why = await self._neighbour.wait_ended()
                    if not why:
                        why = await self._start()
                        continue
                if trio.current_time() - began > STANDS_S:
                    pause = FIRST_PAUSE_S
                if why != self._told:
                    self._told = why
                    self._failed(why)
                await trio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
                why = await self._start()
        finally:
            with trio.move_on_after(STOP_S, shield=True):
                await self._neighbour.stop()

    async def _start(self) -> str:
        try:
            await self._write()
        except OSError as error:
            return f"its configuration can't be written: {error}"
        return await self._neighbour.start()
