"""The hook of a modem: whether it is on or off, as far as can be known, and how it is put on.

It owns what is known of the hook, of DCD and of the guard time. It must not know why a call ends.

Hanging up. Where DCD was off before the call and is on now, it can be trusted: DTR falls, DCD follows, and that is
all. Else, or where DCD stays on: +++ between guard times, ATH, and its OK; if nothing answered once more with the
longest guard times, unless a modem has stayed silent at that already. A carrier that is lost needs ATH only.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from appliance.protocol.at import Answer, ResultCode

if TYPE_CHECKING:
    from appliance.modem.dialogue import Dialogue, Timing
    from appliance.modem.port import Port

__all__ = ["Hook", "HookSwitch", "is_ok"]


class Hook(Enum):
    UNKNOWN = auto()
    ON = auto()
    OFF = auto()
    LOST = auto()


class HookSwitch:
    """`state` is its users' to set when they dial or see the carrier go. `patient`: whether the longest guard times are
    worth a try; not again on a modem that stayed silent at them. `attach` whenever the port was opened."""

    def __init__(self, timing: Timing) -> None:
        self.state = Hook.UNKNOWN
        self.patient = True
        self._timing = timing
        self._guard_s = timing.guard_s
        self._dcd_off_before = False
        self._port: Port | None = None

    def attach(self, port: Port | None) -> None:
        self._port = port
        self.state = Hook.UNKNOWN

    async def learn(self, dialogue: Dialogue) -> None:
        """Before a dial: the guard time that this modem wants, in S12's units of 20 ms, and whether DCD is off now."""
        answer = await dialogue.command("ATS12?", self._timing.answer_s)
        digits = answer.information[-1].strip() if answer is not None and answer.information else ""
        if digits.isascii() and digits.isdigit() and len(digits) == 3 and int(digits) <= 255:
            self._guard_s = int(digits) / 50
        if self._port is not None and self._port.has_lines:
            self._dcd_off_before = not await self._port.carrier()

    async def put_on(self, dialogue: Dialogue) -> bool:
        """Whether the modem is on-hook now, for all that can be seen."""
        commandable = self.state is Hook.LOST
        if not commandable:
            followed, commandable = await self._drop_dtr(dialogue)
            if followed:
                self.state = Hook.ON
                return True
        if commandable and await self.hang_up(dialogue):
            return True
        await dialogue.escape(self._guard_s)
        if await self.hang_up(dialogue):
            return True
        if not self.patient:
            return False
        self.patient = False
        await dialogue.escape(self._timing.longest_guard_s)
        return await self.hang_up(dialogue)

    async def hang_up(self, dialogue: Dialogue) -> bool:
        """ATH (V.250 §6.3.6), and whether it was answered and DCD, where it can be trusted, is off."""
        answer = await dialogue.command("ATH", self._timing.answer_s)
        if is_ok(answer) and (not self._dcd_off_before or await self._dcd_falls(self._timing.dtr_s)):
            self.state = Hook.ON
            return True
        return False

    async def _drop_dtr(self, dialogue: Dialogue) -> tuple[bool, bool]:
        """Lowers DTR for a moment. Whether DCD, being on and trusted, followed; whether the modem said so in words."""
        port = self._port
        if port is None or not port.has_lines:
            return False, False
        watched = self._dcd_off_before and await port.carrier()
        await port.set_dtr(False)
        followed = heard = False
        if watched:
            followed = await self._dcd_falls(self._timing.dtr_s)
        else:
            with trio.move_on_after(self._timing.dtr_s):
                while (await dialogue.listen()).code not in (ResultCode.OK, ResultCode.NO_CARRIER):
                    pass
                heard = True
        await port.set_dtr(True)
        return followed, heard

    async def _dcd_falls(self, seconds: float) -> bool:
        """Whether DCD is off within that time; without modem lines it always is."""
        port = self._port
        deadline = trio.current_time() + seconds
        while port is not None and await port.carrier():
            if trio.current_time() >= deadline:
                return False
            await trio.sleep(min(self._timing.poll_s, seconds) / 4)
        return True


def is_ok(answer: Answer | None) -> bool:
    return answer is not None and answer.code is ResultCode.OK
