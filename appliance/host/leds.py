"""The board's LEDs under /sys/class/leds: shows on them what `led_table` says, by the kernel's own triggers, so that
nothing blinks by the process's doing. The only module that writes into /sys.

An LED that is not there is none of its business; a write that fails is one line of the journal until one succeeds. A
trigger's files appear when it is set, as root's, and are made Posthouse's by udev (90-posthouse.rules): it waits for
that.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.host.led_table import State, shown, writes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.host.led_table import Pattern, Row

__all__ = ["LEDS_FOLDER", "Leds", "board_name", "show_once"]

LEDS_FOLDER: Final = Path("/sys/class/leds")
BOARD_NAME: Final = Path("/sys/class/dmi/id/board_name")
PERMITTED_S: Final = 15.0
"""For udev to hand over a trigger's files: tens of milliseconds on an idle board, seconds on one that just starts."""
END_S: Final = 3.0
"""For the LEDs to go dark at the end."""
PERMITTED_LOOK_S: Final = 0.02
BURST: Final = 8
BURST_S: Final = 60.0
"""Of one LED there are so many entries in so long, a call's; of what changes more often the journal has what lasts."""


def board_name(file: Path = BOARD_NAME) -> str:
    """As the firmware calls the board; "" where it does not."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def show_once(folder: Path, pattern: Pattern, device: str = "") -> None:
    """Shows it on the LED that is this folder. Blocks for `PERMITTED_S` at most; raises OSError."""
    brightest = int((folder / "max_brightness").read_text() or "1")
    triggers = (folder / "trigger").read_text().replace("[", "").replace("]", "").split()
    end = time.monotonic() + PERMITTED_S
    for file, text in writes(pattern, brightest=brightest, triggers=triggers, device=device):
        while True:
            try:
                _write(folder / file, text)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.ENOENT) or file == "trigger" or time.monotonic() > end:
                    raise
            time.sleep(PERMITTED_LOOK_S)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # a name that is no LED's makes no file
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Leds:
    """`names`: LED of the table -> name under `folder`, "" for none."""

    def __init__(self, names: Mapping[str, str], *, folder: Path = LEDS_FOLDER) -> None:
        self._names = names
        self._folder = folder
        self._shows: dict[str, tuple[Pattern, str]] = {}
        self._failing: set[str] = set()
        self._told: dict[str, tuple[Row | None, deque[float]]] = {}

    async def run(self, look: Callable[[], State], changed: Callable[[], Awaitable[None]]) -> None:
        """Shows `look()` each time that `changed()` returns, until cancelled; then that nobody looks any more."""
        try:
            while True:
                await self.show(look())
                await changed()
        finally:
            with trio.move_on_after(END_S) as last:
                last.shield = True
                await self.show(State(ended=True))

    async def show(self, state: State) -> None:
        """Writes what has changed. Raises nothing of the LEDs'."""
        for name, row in shown(self._names, state).items():
            wanted = row.pattern, state.device if row.pattern.trigger == "netdev" else ""
            if self._shows.get(name) != wanted:
                await self._show(name, *wanted)
            if name in self._shows:
                self._tell(name, row)

    async def _show(self, name: str, pattern: Pattern, device: str) -> None:
        try:
            await trio.to_thread.run_sync(show_once, self._folder / name, pattern, device)
        except (OSError, ValueError) as error:
            self._shows.pop(name, None)
            if (self._folder / name).is_dir() and name not in self._failing:
                self._failing.add(name)
                events.emit(events.LED_FAILED, led=name, pattern=pattern.name, error=error)
            return
        self._failing.discard(name)
        self._shows[name] = pattern, device

    def _tell(self, name: str, row: Row) -> None:
        told, at = self._told.setdefault(name, (None, deque(maxlen=BURST)))
        now = trio.current_time()
        if told is row or (len(at) == BURST and now - at[0] < BURST_S):
            return
        events.emit(events.LED_CHANGED, led=name, pattern=row.pattern.name, what=f"{row.led}: {row.when}")
        at.append(now)
        self._told[name] = row, at
