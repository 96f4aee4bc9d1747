"""What became of a trial call, in plain words: for each outcome what happened and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.call import LineState, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ADVICE", "STATES", "Advice", "advice"]


class Advice(NamedTuple):
    what: str
    todo: str


ADVICE: Final[Mapping[Outcome, Advice]] = {
    Outcome.COMPLETE: Advice("It works: the call was made and all of its work was done.", ""),
    Outcome.PARTIAL: Advice(
        "The line works, but a mail server did not do what it was asked; the lines above say which.",
        "Check that server's name, port, encryption, login and password.",
    ),
    Outcome.BUSY: Advice("The number was busy.", "Try again in a few minutes; if it stays so, check the number."),
    Outcome.NO_ANSWER: Advice(
        "It rang and nobody answered.", "Check the number, and whether the line needs a prefix to get out (0,)."
    ),
    Outcome.NO_CARRIER: Advice(
        "The call was answered or ended, but no modem was to be heard there.",
        "Dial the number from a telephone: it must whistle. Check the number and the contract.",
    ),
    Outcome.NO_DIALTONE: Advice(
        "The modem hears no dial tone.",
        "Check the telephone cable and its socket; behind a private exchange add X3 to the line's init.",
    ),
    Outcome.BLACKLISTED: Advice(
        "The modem itself refuses this number after too many failed dials.",
        "Switch the modem off and on, check the number, and try again.",
    ),
    Outcome.DELAYED: Advice(
        "The modem itself makes this number wait after failed dials.", "Wait some minutes and try again."
    ),
    Outcome.TIMEOUT: Advice(
        "The modem gave no result in time.", "Try again; on a slow network set the line's dial_timeout to 2m."
    ),
    Outcome.MODEM_SILENT: Advice(
        "The modem does not answer.", "Check its power and its cable, then the port; `search` looks for it."
    ),
    Outcome.MODEM_ERROR: Advice(
        "The modem does not understand what it is told.",
        "Check the kind of modem (hayes, gsm, iridium); else its manual has what the line's init must be.",
    ),
    Outcome.PIN_REFUSED: Advice(
        "The SIM card refused its PIN. It is not given again before it is another one.",
        "Enter the right PIN: after three wrong ones the SIM is blocked and wants its PUK.",
    ),
    Outcome.NO_NETWORK: Advice(
        "The modem finds no network.", "Check the aerial and where it stands, and that the SIM's contract is in force."
    ),
    Outcome.NEGOTIATION_FAILED: Advice(
        "The modems are connected, but no PPP came about.",
        "Check that the number is the provider's data number, and the access point name of a SIM.",
    ),
    Outcome.LOGIN_REFUSED: Advice(
        "The provider refused the PPP login. No call is made by itself before this is mended.",
        "Check the PPP login and password, capitals too.",
    ),
    Outcome.CARRIER_LOST: Advice(
        "The line dropped in the middle of the call.",
        "Try again; if it repeats, look at the telephone line, or at the modem's aerial and power.",
    ),
    Outcome.INTERRUPTED: Advice("The call was interrupted: Posthouse or the power ended.", "Try again."),
    Outcome.MAX_CALL: Advice(
        "The call reached its longest time, or the end of its money, before all was done.",
        "Look at schedule.max_call and at the budget; what is left goes with the next call.",
    ),
    Outcome.HUNG_UP: Advice("The call was hung up by hand.", "Try again."),
}

STATES: Final[Mapping[LineState, str]] = {
    LineState.IDLE: "the telephone line is free",
    LineState.DIALLING: "preparing the modem and dialling",
    LineState.NEGOTIATING: "connected: bringing up the network",
    LineState.EXCHANGING: "the network is up: speaking with the provider's servers",
    LineState.LINGERING: "all is done: waiting a moment for more",
    LineState.HANGING_UP: "hanging up",
    LineState.FAILED: "the call has failed; the telephone line is free",
}
"""Said as the call comes to it."""


def advice(call: Mapping[str, Any]) -> Advice:
    """About a call as `posthouse calls --json` has it. One that was complete but for a login is not."""
    outcome = Outcome(call["outcome"])
    if outcome is Outcome.COMPLETE and call["failed"]:
        outcome = Outcome.PARTIAL
    return ADVICE[outcome]
