"""What the host does at the beginning and at the end of one call, each within a deadline: its window is opened once the
network is up and closed before the line is hung up (`call.Window`), and in it the time is asked for before the jobs
begin (`call.TimeOfCall`). Owns whether it is open; must not know what the host does in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Outcome

if TYPE_CHECKING:
    from appliance import call

__all__ = ["TIME_DEADLINE_S", "WINDOW_DEADLINE_S", "WindowOfCall"]

WINDOW_DEADLINE_S: Final = 5.0
"""The opening and the closing, each: some rules and routes on this host. The line is paid meanwhile."""
TIME_DEADLINE_S: Final = 10.0
"""So long the jobs wait for the time, where it is not known (DESIGN §2 Clock); the line is paid meanwhile."""


class WindowOfCall:
    """Made for one call. Without a `window` and a `time` nothing is done."""

    def __init__(self, window: call.Window | None, time: call.TimeOfCall | None) -> None:
        self._window = window
        self._time = time
        self._line = ""
        self._open = False

    def lacks(self) -> str:
        """Why a call would be of no use now, "" where it would not."""
        return self._window.lacks() if self._window is not None else ""

    async def open(self, line: call.Line) -> Outcome | None:
        """None: open, and the time is known or not to be had. A host that has no way for the line's packets makes a
        call without a network."""
        self._line, self._open = line.name, True
        outcome = await self._open_window(line)
        if outcome is None and self._time is not None:
            with trio.move_on_after(TIME_DEADLINE_S):
                await self._time.begin(line)
        return outcome

    async def _open_window(self, line: call.Line) -> Outcome | None:
        if self._window is None:
            return None
        try:
            with trio.fail_after(WINDOW_DEADLINE_S):
                await self._window.open(line.device, line.dns)
        except trio.TooSlowError:
            self._problem(f"not opened within {WINDOW_DEADLINE_S:g} s")
        except OSError as error:
            self._problem(str(error))
        else:
            return None
        return Outcome.NO_NETWORK

    async def close(self) -> None:
        """Shielded; does nothing the second time, and where none was opened. A failure is an event."""
        if not self._open:
            return
        self._open = False
        if self._time is not None:
            self._time.end()
        if self._window is None:
            return
        with trio.move_on_after(WINDOW_DEADLINE_S, shield=True) as scope:
            try:
                await self._window.close()
            except OSError as error:
                self._problem(str(error))
        if scope.cancelled_caught:
            self._problem(f"not closed within {WINDOW_DEADLINE_S:g} s")

    def _problem(self, what: str) -> None:
        events.emit(events.WINDOW_PROBLEM, line=self._line, what=what)
