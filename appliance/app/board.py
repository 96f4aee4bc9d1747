"""The part of the board: its LEDs show what the house does, its reset button is obeyed. Where there are neither it does
nothing, and a LED or a button that fails is nobody's trouble but its own.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import LineState
from appliance.host.button import Action, Held, Press, find, meaning, presses
from appliance.host.led_table import State, board_leds
from appliance.host.leds import LEDS_FOLDER, Leds, board_name
from appliance.host.units import Unit, systemd_runs

if TYPE_CHECKING:
    from appliance.app.house import House
    from appliance.config.model import Config
    from appliance.config.model import Leds as LedNames

__all__ = ["BoardPart", "led_names"]

LOOK_S: Final = 5.0
"""So late at most is shown what nobody tells of: mail that waits, a service that fails."""
HELD_LOOK_S: Final = 0.25
"""While the button is held, the power LED says what letting go would do."""
PAUSE_S: Final = 1.0
HANGS_S: Final = 60.0
"""A batch of the committer's that takes longer is a disk that does not answer."""
UPDATING: Final = Path("/run/posthouse-updating")
"""There while `/usr/lib/posthouse/update` works."""
UNITS: Final = {Action.REBOOT: "posthouse-reboot.service", Action.FACTORY_RESET: "posthouse-factory-reset.service"}


def led_names(leds: LedNames) -> dict[str, str]:
    """The configured ones, or where none is, those of the board."""
    names = asdict(leds)
    return names if any(names.values()) else board_leds(board_name())


class BoardPart:
    name = "board"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._held_since: float | None = None
        self._changed = trio.Event()

    def slice(self, config: Config) -> tuple[object, ...] | None:
        names = led_names(config.leds)
        return (names,) if names or find() is not None else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            leds = Leds(led_names(self._house.config.leds), folder=LEDS_FOLDER)
            nursery.start_soon(self._watch)
            nursery.start_soon(leds.run, self.state, self._next_change)
            if systemd_runs() and await Unit(UNITS[Action.REBOOT]).exists():
                nursery.start_soon(self._obey_button)
            task_status.started()

    async def drain(self) -> None:
        """Nothing is under way here."""

    # ---- what is shown
    def state(self) -> State:
        """Of the house, at this moment."""
        house = self._house
        caller, core = house.caller_or_none, house.core
        last = core.ledger.last()
        return State(
            line=caller.line_state if caller is not None else LineState.IDLE,
            device=house.firewall.device,
            last=last.outcome if last is not None else None,
            no_money=caller is not None and caller.no_money,
            waiting=core.office.prospect().messages > 0,
            updating=UPDATING.exists(),
            held_s=None if self._held_since is None else trio.current_time() - self._held_since,
            disk=core.office.free_bytes() == 0 or core.committer.batch_s > HANGS_S,
            refused=house.refused,
            failing=any(state != "running" for state in house.supervisor.states().values()),
        )

    async def _next_change(self) -> None:
        """Until there may be something else to show."""
        with trio.move_on_after(LOOK_S if self._held_since is None else HELD_LOOK_S):
            await self._changed.wait()
        self._changed = trio.Event()

    async def _watch(self) -> None:
        """Wakes the LEDs at each line of a call's progress."""
        while True:
            caller = self._house.caller_or_none
            if caller is not None:
                with caller.watch() as lines:
                    async for _ in lines:
                        self._changed.set()
                self._changed.set()
            await trio.sleep(PAUSE_S)  # a new configuration makes a new caller

    # ---- the button
    async def _obey_button(self) -> None:
        told = ""
        while True:
            device = await trio.to_thread.run_sync(find)
            if device is not None:
                try:
                    await self._obey(device)
                except OSError as error:
                    if str(error) != told:
                        events.emit(events.BUTTON_FAILED, what=error)
                    told = str(error)
            await trio.sleep(LOOK_S)

    async def _obey(self, device: Path) -> None:
        try:
            async with aclosing(presses(device)) as happened:
                async for what in happened:
                    self._hold(trio.current_time() if isinstance(what, Held) else None)
                    if isinstance(what, Press):
                        await self._act(what)
        finally:
            self._hold(None)

    def _hold(self, since: float | None) -> None:
        self._held_since = since
        self._changed.set()

    async def _act(self, held_s: float) -> None:
        action = meaning(held_s)
        events.emit(events.BUTTON_PRESSED, seconds=f"{held_s:.1f}", action=action.value)
        if (unit := UNITS.get(action)) is not None and (why := await Unit(unit).run_once()):
            events.emit(events.BUTTON_FAILED, what=why)
