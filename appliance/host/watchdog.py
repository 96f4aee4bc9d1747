"""systemd's watchdog (WatchdogSec= in systemd.service(5), sd_watchdog_enabled(3)): fed only while the services make
progress, so that a process which hangs is ended by systemd, and started anew, rather than left there looking alive.

It is handed what it asks (`stuck`) and knows no service. That the event loop turns shows by itself; that threads still
answer is tried here, since the disk and the names of hosts are asked in threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.host.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["feed", "watchdog_s"]

FEEDS: Final = 4
"""So often within systemd's time: one that comes late, on a board that is busy, ends nothing."""


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Within how many seconds systemd wants to hear of this process; None: it does not watch it."""
    try:
        period = int(environ.get("WATCHDOG_USEC", "")) / 1e6
        watched = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return period if period > 0 and watched == os.getpid() else None


async def _a_thread_answers() -> None:
    # A limiter of its own: threads that are all in use by others are no reason.
    await trio.to_thread.run_sync(int, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)


async def feed(
    period_s: float,
    stuck: Callable[[], str],
    *,
    try_thread: Callable[[], Awaitable[None]] = _a_thread_answers,
    task_status: trio.TaskStatus[None],
) -> None:
    """Until cancelled. `stuck` says what makes no progress, "" for nothing."""
    task_status.started()
    starved = ""
    while True:
        why = stuck()
        with trio.move_on_after(period_s / FEEDS) as waited:
            await try_thread()
        if waited.cancelled_caught:
            why = why or "no thread answers"
        if not why:
            notify(WATCHDOG="1")
        elif why != starved:
            events.emit(events.WATCHDOG_STARVED, what=why)
        starved = why
        await trio.sleep(period_s / FEEDS)
