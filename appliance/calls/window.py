"""The host's window of one call: opened once the network is up, closed before the line is hung up, each within a
deadline. Owns whether it is open; must not know what the host does in it (`call.Window`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Outcome

if TYPE_CHECKING:
    from appliance import call

__all__ = ["WINDOW_DEADLINE_S", "WindowOfCall"]

WINDOW_DEADLINE_S: Final = 5.0
"""The opening and the closing, each: some rules and routes on this host. The line is paid meanwhile."""


class WindowOfCall:
    """Made for one call. Without a `window` nothing is done."""

    def __init__(self, window: call.Window | None) -> None:
        self._window = window
        self._line = ""
        self._open = False

    def lacks(self) -> str:
        """Why a call would be of no use now, "" where it would not."""
        return self._window.lacks() if self._window is not None else ""

    async def open(self, line: call.Line) -> Outcome | None:
        """None: open. A host that has no way for the line's packets makes a call without a network."""
        if self._window is None:
            return None
        self._line, self._open = line.name, True
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
        if self._window is None or not self._open:
            return
        self._open = False
        with trio.move_on_after(WINDOW_DEADLINE_S, shield=True) as scope:
            try:
                await self._window.close()
            except OSError as error:
                self._problem(str(error))
        if scope.cancelled_caught:
            self._problem(f"not closed within {WINDOW_DEADLINE_S:g} s")

    def _problem(self, what: str) -> None:
        events.emit(events.WINDOW_PROBLEM, line=self._line, what=what)
