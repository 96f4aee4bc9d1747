"""What differs from one family of modems to the next. Data only: the dialogue and the line are the same for all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from appliance.config.model import LineKind
from appliance.modem.dialogue import Timing

if TYPE_CHECKING:
    from appliance.config import model

__all__ = ["PROFILES", "Profile", "completed"]

HAYES_INIT: Final = ("ATZ", "ATE0Q0V1X4&C1&D2")
"""ATZ (V.250 §6.1.1): what is stored, and on-hook. Then (§6.2.4 to §6.2.9): no echo, result codes, in words, with the
rate and every call progress; DCD follows the carrier (&C1) and the fall of DTR hangs up (&D2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`init`, `baud`, `numbers`: where the configuration gives none. `may_refuse`: commands of `init` that some modems
    do without. `tone`: T stands before a number. `reset`: what restarts a modem that does not answer, and `restart_s`
    how long it then takes to answer, `boot_s` after its power came on. `cellular`: it has a SIM and a network.
    `tells_cause`: asked by +CEER why a dial failed."""

    init: tuple[str, ...] = HAYES_INIT
    baud: int = 115200
    numbers: tuple[str, ...] = ()
    tone: bool = True
    reset: str = "ATZ"
    restart_s: float = 5.0
    boot_s: float = 20.0
    may_refuse: frozenset[str] = frozenset()
    cellular: bool = False
    tells_cause: bool = False
    timing: Timing = field(default_factory=Timing)


PROFILES: Final = {
    "hayes": Profile(),
    # *99# asks a module for its packet network (3GPP TS 27.007 §10.2.1.1); ATDT*99# is refused by some. +CFUN=1,1 is a
    # restart (§8.2), after which modules of all makers answer within 20 s, but for a slow USB enumeration.
    "gsm": Profile(
        numbers=("*99#",),
        tone=False,
        reset="AT+CFUN=1,1",
        restart_s=25.0,
        boot_s=35.0,
        may_refuse=frozenset({"ATZ"}),  # ZTE's MF622 (linuxforums.org, networking 151042)
        cellular=True,
        tells_cause=True,
        timing=Timing(init_s=8.0, abort_s=5.0),
    ),
    # Iridium ISU AT Command Reference (MAN0009): the port is set to 19200 bit/s; +CBST=71,0,1 is 9600 bit/s V.110, the
    # bearer of data calls to the gateway. A far end by satellite takes up to 3 s for a turn-around, and the module as
    # long to go on-hook, so nothing here is given up before.
    "iridium": Profile(
        init=(*HAYES_INIT, "AT+CBST=71,0,1"),
        baud=19200,
        tone=False,
        restart_s=10.0,
        boot_s=30.0,
        tells_cause=True,
        timing=Timing(answer_s=3.0, init_s=10.0, abort_s=6.0, dtr_s=3.0, hang_up_s=28.0),
    ),
}
"""By the configuration's `profile`."""


def completed(line: model.Line) -> model.Line:
    """`line` with what its profile says where the configuration says nothing."""
    if line.kind is not LineKind.MODEM:
        return line
    profile = PROFILES[line.profile]
    return replace(
        line,
        init=profile.init if line.init is None else line.init,
        baud=profile.baud if line.baud is None else line.baud,
        numbers=line.numbers or profile.numbers,
    )
