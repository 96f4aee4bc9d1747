"""What the LEDs show: THE table, from the state of the house to a pattern for each LED (docs/leds.md is held against
it), and from a pattern to the kernel's files of an LED. Pure; must not know where the state comes from.

| LED   | shows                                                     |
|-------|-----------------------------------------------------------|
| power | that the board works, is being updated, hears its button  |
| line  | the telephone line                                        |
| mail  | whether mail waits or moves                               |
| fault | what a person has to mend, as a number of blinks          |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.call import LineState, Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["FAILSAFE", "FAULTS", "LEDS", "TABLE", "Fault", "Pattern", "Row", "State", "board_leds", "shown", "writes"]

LEDS: Final = ("power", "line", "mail", "fault")
"""As the keys of `[leds]`."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`name` as the journal and docs/leds.md have it; `trigger` the kernel's (Documentation/leds/ledtrig-*), with what
    it takes: milliseconds on and off for `timer`, the count of a code for `pattern`."""

    name: str
    trigger: str = "none"
    on_ms: int = 0
    off_ms: int = 0
    blinks: int = 0


OFF: Final = Pattern("off")
ON: Final = Pattern("on")
SLOW: Final = Pattern("slow", "timer", 1000, 1000)
FAST: Final = Pattern("fast", "timer", 100, 100)
FLASH: Final = Pattern("flash", "timer", 50, 1950)
TRAFFIC: Final = Pattern("traffic", "netdev")
"""On, and flickering with the bytes of the call's device."""

BLINK_MS: Final = (200, 300)
PAUSE_MS: Final = 1500
"""Between two codes: long enough to tell the last blink of one from the first of the next."""


class Fault(NamedTuple):
    """`blinks`: its code. Of several the first in `FAULTS` is shown."""

    blinks: int
    what: str
    todo: str

    @property
    def pattern(self) -> Pattern:
        return Pattern(f"{self.blinks} blink{'s' if self.blinks > 1 else ''}", "pattern", blinks=self.blinks)


DISK: Final = Fault(1, "the disk is full or does not answer", "remove mail; see whether the card is failing")
MODEM: Final = Fault(2, "the modem does not answer", "look at its power and its cable")
NO_LINE: Final = Fault(3, "no dial tone, or no network", "look at the telephone cable, or at the aerial")
SIM: Final = Fault(4, "the SIM refused its PIN", "put the right one into secrets.toml")
LOGIN: Final = Fault(5, "the provider refused the login", "check ppp_login and ppp_secret")
CONFIGURATION: Final = Fault(6, "a changed configuration was not taken over", "run `posthouse check`")
SERVICE: Final = Fault(7, "a part of Posthouse keeps failing", "see `journalctl -u posthouse`")
FAULTS: Final = (DISK, MODEM, NO_LINE, SIM, LOGIN, CONFIGURATION, SERVICE)

OF_OUTCOME: Final[Mapping[Outcome, Fault]] = {
    Outcome.MODEM_SILENT: MODEM,
    Outcome.MODEM_ERROR: MODEM,
    Outcome.NO_DIALTONE: NO_LINE,
    Outcome.NO_NETWORK: NO_LINE,
    Outcome.PIN_REFUSED: SIM,
    Outcome.LOGIN_REFUSED: LOGIN,
}
"""Of the last call, where it failed by what a person has to mend; what a redial may mend is the line's LED alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Of the house, as far as an LED shows it. `last`: the outcome of the last call that has ended. `held_s`: seconds
    for which the reset button has been pressed, None while nobody presses it."""

    line: LineState = LineState.IDLE
    device: str = ""
    last: Outcome | None = None
    no_money: bool = False
    waiting: bool = False
    updating: bool = False
    held_s: float | None = None
    disk: bool = False
    refused: bool = False
    failing: bool = False
    ended: bool = False


REBOOT_BELOW_S: Final = 1.0
RESET_FROM_S: Final = 5.0
"""Of the reset button: below the first a reboot, from the second on a factory reset, between them nothing."""


class Row(NamedTuple):
    """One of the table: the first of an LED's rows that holds is shown. `when` for a person."""

    led: str
    holds: Callable[[State], bool]
    pattern: Pattern
    when: str


def _held(state: State, least: float, below: float = float("inf")) -> bool:
    return state.held_s is not None and least <= state.held_s < below


def _faulty(fault: Fault) -> Callable[[State], bool]:
    def holds(state: State) -> bool:
        own = {DISK: state.disk, CONFIGURATION: state.refused, SERVICE: state.failing}
        of_call = state.line is LineState.FAILED and state.last is not None and OF_OUTCOME.get(state.last) == fault
        return own.get(fault, False) or of_call

    return holds


_BUSY: Final = (LineState.DIALLING, LineState.NEGOTIATING, LineState.HANGING_UP)
_UP: Final = (LineState.EXCHANGING, LineState.LINGERING)

FAILSAFE: Final = SLOW
"""Of the power LED, shown by the failsafe start, where no Posthouse runs."""

TABLE: Final[tuple[Row, ...]] = (
    Row("power", lambda s: s.ended, OFF, "Posthouse has ended"),
    Row("power", lambda s: _held(s, 0, REBOOT_BELOW_S), OFF, "button pressed: letting go now restarts the board"),
    Row("power", lambda s: _held(s, 0, RESET_FROM_S), SLOW, "button held on: letting go now does nothing"),
    Row("power", lambda s: _held(s, RESET_FROM_S), FAST, "button held for 5 s: letting go is a factory reset"),
    Row("power", lambda s: s.updating, FAST, "an update is being installed: leave the power on"),
    Row("power", lambda s: True, ON, "Posthouse runs"),
    Row("line", lambda s: s.line in _UP, TRAFFIC, "a call is up; flickers with its bytes"),
    Row("line", lambda s: s.line in _BUSY, FAST, "dialling, negotiating or hanging up"),
    Row("line", lambda s: s.no_money, FLASH, "the budget refuses a call"),
    Row("line", lambda s: s.line is LineState.FAILED, SLOW, "the last call failed"),
    Row("line", lambda s: True, OFF, "no call"),
    Row("mail", lambda s: s.line is LineState.EXCHANGING, FAST, "mail moves over the line"),
    Row("mail", lambda s: s.waiting, ON, "mail waits for a call"),
    Row("mail", lambda s: True, OFF, "no mail waits"),
    *(Row("fault", _faulty(fault), fault.pattern, f"{fault.what}: {fault.todo}") for fault in FAULTS),
    Row("fault", lambda s: True, OFF, "nothing is to be mended"),
)


def shown(names: Mapping[str, str], state: State) -> dict[str, Row]:
    """LED under /sys/class/leds -> the row that it shows. `names`: LED of the table -> name, "" for none. Where two
    have one name, the fault is shown if there is one, else the first."""
    out: dict[str, Row] = {}
    for led in LEDS:
        row = next(r for r in TABLE if r.led == led and r.holds(state))
        name = names.get(led, "")
        if name and (name not in out or (led == "fault" and row.pattern is not OFF and state.held_s is None)):
            out[name] = row
    return out


def board_leds(board: str) -> dict[str, str]:
    """The names on a board that is known, by its DMI board name. PC Engines APU2 to APU7 (drivers/platform/x86/
    pcengines-apuv2.c): three green LEDs, so that the first shows the faults too."""
    if board.lower().startswith("apu"):
        return {"power": "apu:green:1", "line": "apu:green:2", "mail": "apu:green:3", "fault": "apu:green:1"}
    return {}


def writes(pattern: Pattern, *, brightest: int, triggers: Collection[str], device: str = "") -> list[tuple[str, str]]:
    """(file, text) in order, for an LED with these triggers. What the kernel can't do by itself is shown as steady."""
    trigger = pattern.trigger
    if trigger not in triggers or (trigger == "netdev" and not device):
        return [("trigger", "none"), ("brightness", str(0 if pattern is OFF else brightest))]
    out = [("trigger", trigger)]
    if trigger == "timer":
        out += [("delay_on", str(pattern.on_ms)), ("delay_off", str(pattern.off_ms))]
    elif trigger == "netdev":
        out += [("device_name", device), ("link", "1"), ("rx", "1"), ("tx", "1")]
    elif trigger == "pattern":
        # Between two brightnesses the trigger fades over the time of the first: steps take one of 0 ms each.
        on, off = BLINK_MS
        blink = f"{brightest} {on} {brightest} 0 0 {off} 0 0"
        out.append(("pattern", " ".join([*[blink] * pattern.blinks, f"0 {PAUSE_MS} 0 0"])))
    else:
        out = [("trigger", "none"), ("brightness", str(0 if pattern is OFF else brightest))]
    return out
