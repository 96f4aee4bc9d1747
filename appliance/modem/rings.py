"""Listens to a modem between calls for rings from `wake_numbers`, and lets them ring out.

It must not know what follows from a ring. It says nothing to the modem but what makes it show the caller's number and
keep its hands off the line: S0=0 (V.250 §6.3.8), and never ATA.

A caller's number comes between the first two rings, or with each. A call that is made while it still rings would be
answered instead: a ring counts once it has been silent for `SILENCE_S`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.modem.hook import is_ok
from appliance.protocol.caller_id import caller, is_ring, same_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.modem.dialogue import Dialogue

__all__ = ["listen", "show_callers"]

SILENCE_S: Final = 8.0
"""Rings are at most 6 s apart (4 s of silence in North America, 2 to 5 s elsewhere), plus what a modem is late."""
ANSWER_S: Final = 5.0
SHOW_CALLER: Final = ("AT+CLIP=1", "AT+VCID=1", "AT#CID=1")
"""3GPP TS 27.007 §7.11; ITU-T V.253; Rockwell and Conexant. A modem knows one of them."""


async def show_callers(dialogue: Dialogue) -> bool:
    """Has the modem tell who rings and leave the ring alone; False when it can't. Raises PortError."""
    await dialogue.command("ATS0=0", ANSWER_S)
    for command in SHOW_CALLER:
        if is_ok(await dialogue.command(command, ANSWER_S)):
            return True
    return False


async def listen(dialogue: Dialogue, wake_numbers: Sequence[str], line: str) -> str:
    """Returns the number of a ring from one of `wake_numbers`, as the configuration has it, once it rings no more.
    Raises PortError."""
    wanted = passed = ""
    silent_at = math.inf
    while True:
        with trio.move_on_at(silent_at) as silence:
            text = (await dialogue.listen()).text
        if silence.cancelled_caught:
            if wanted:
                return wanted
            passed, silent_at = "", math.inf
            continue
        number = caller(text)
        if number or is_ring(text):
            silent_at = trio.current_time() + SILENCE_S
        known = next((w for w in wake_numbers if same_number(w, number)), "")
        wanted = wanted or known
        if number and not known and number != passed:
            events.emit(events.RING_PASSED_OVER, line=line, number=number)
            passed = number
