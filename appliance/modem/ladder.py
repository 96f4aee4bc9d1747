"""Brings back a modem that does not answer: rung by rung, each an event, all of it within `LADDER_S`.

It owns the order and the times. It must not know why the modem is wanted, nor how a port is opened.

    rung   what is done                                             goes on when
    AT     twice                                                    no answer
    DTR    DTR falls and rises; +++ and ATH (`HookSwitch.put_on`)   no answer to AT
    reset  ATZ, or AT+CFUN=1,1 (`Profile.reset`), then ATQ0V1       no answer to AT within `restart_s`
    power  off and on again, where the line has `power_gpio`        no answer to AT within `boot_s`: it is dead

The reset is sent blind: a modem in quiet mode hears and says nothing (V.250 §6.2.5). After the two last rungs the port
may go and come back, as USB does. Where the port can't be opened at all its power comes next, if there is a switch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance import events
from appliance.modem.hook import Hook, is_ok
from appliance.modem.port import PortError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.modem.dialogue import Dialogue, Timing
    from appliance.modem.hook import HookSwitch
    from appliance.modem.profiles import Profile

__all__ = ["LADDER_S", "Ladder", "PowerSwitch"]

LADDER_S: Final = 100.0
"""All rungs: 20 s for AT, DTR and both escapes, 30 s for a module's restart, 45 s for its power and its start."""
AT_TRIES: Final = 2
"""The first AT after a pause may be lost to a modem that wakes up or finds its speed."""
SETTLE_S: Final = 2.0
"""A modem that was told to restart still answers for a moment."""
BACK_S: Final = 1.0
"""Between two looks whether it is back."""


class PowerSwitch(Protocol):
    """What a modem's power hangs on."""

    name: str
    off_s: float

    async def cycle(self) -> None:
        """Off for `off_s`, and on again. Raises OSError."""
        ...


class Ladder:
    """Of one line, call after call. `open` gives the dialogue on the open port, and opens it first if need be
    (PortError); `close` closes it; `tell` takes progress for who waits. `complaint`: after a climb in vain, what there
    is to say."""

    def __init__(
        self,
        line: str,
        profile: Profile,
        timing: Timing,
        hook: HookSwitch,
        power: PowerSwitch | None,
        *,
        open: Callable[[], Awaitable[Dialogue]],
        close: Callable[[], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self.complaint = ""
        self._line = line
        self._profile = profile
        self._timing = timing
        self._hook = hook
        self._power = power
        self._open = open
        self._close = close
        self._tell = tell

    async def find(self) -> Dialogue | None:
        """The modem, answering and on-hook; None when all rungs were in vain, within `LADDER_S`. Raises PortError for a
        port that can't be opened."""
        started = trio.current_time()
        with trio.move_on_after(LADDER_S):
            try:
                dialogue = await self._open()
                if await self.greet(dialogue):
                    return dialogue
                tried = how = self._profile.reset
                found = await self._reset(dialogue)
            except PortError as error:
                if self._power is None or error.busy:
                    raise
                self._problem(str(error))
                found, tried = None, "the opening of its port"
            if found is None and self._power is not None:
                found, how = await self._cycle(self._power, tried), "its power was off"
            if found is not None:
                seconds = f"{trio.current_time() - started:.0f}"
                events.emit(events.MODEM_BACK, line=self._line, how=how, seconds=seconds)
            return found
        return None

    async def greet(self, dialogue: Dialogue) -> bool:
        """The lower rungs, which harm nobody: whether the modem answers, on-hook, if need be after it was hung up."""
        self.complaint = "the modem does not answer"
        if await self._answers(dialogue):
            # It may be off-hook all the same: a process that died between +++ and ATH left it so.
            return self._hook.state is Hook.ON or await self._hook.hang_up(dialogue)
        self._rung("AT", "DTR, +++ and ATH")
        if await self._hook.put_on(dialogue) and await self._answers(dialogue):
            events.emit(events.MODEM_FOUND_OFF_HOOK, line=self._line)
            return True
        if dialogue.echoed:
            self.complaint = "the port gives back what it is sent, and no answer: a loop, or somebody's login?"
        return False

    async def _answers(self, dialogue: Dialogue) -> bool:
        for _ in range(AT_TRIES):
            if is_ok(await dialogue.command("AT", self._timing.answer_s)):
                self._hook.patient = True
                return True
        return False

    async def _reset(self, dialogue: Dialogue) -> Dialogue | None:
        self._rung("DTR, +++ and ATH", self._profile.reset)
        try:
            await dialogue.command(self._profile.reset, self._timing.answer_s)
            await trio.sleep(SETTLE_S)
        except PortError:  # on USB it goes at once
            await self._close()
        return await self._wait_back(self._profile.restart_s)

    async def _cycle(self, power: PowerSwitch, tried: str) -> Dialogue | None:
        self._rung(tried, f"power off for {power.off_s:g} s ({power.name})")
        await self._close()
        try:
            await power.cycle()
        except OSError as error:
            self._problem(f"its power can't be switched: {error}")
            return None
        return await self._wait_back(self._profile.boot_s)

    async def _wait_back(self, seconds: float) -> Dialogue | None:
        """The modem, once it answers again."""
        with trio.move_on_after(seconds):
            while True:
                try:
                    dialogue = await self._open()
                    await dialogue.command("ATQ0V1", self._timing.answer_s)
                    if await self._answers(dialogue) and await self._hook.hang_up(dialogue):
                        return dialogue
                except PortError:
                    await self._close()
                await trio.sleep(BACK_S)
        return None

    def _rung(self, tried: str, now: str) -> None:
        events.emit(events.MODEM_RUNG, line=self._line, tried=tried, now=now)
        self._tell(f"the modem does not answer to {tried}; now {now}")

    def _problem(self, what: str) -> None:
        events.emit(events.MODEM_PROBLEM, line=self._line, what=what)
        self._tell(what)
