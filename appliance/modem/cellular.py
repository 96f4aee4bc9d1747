"""What a modem with a SIM needs before a call is paid for: the PIN, a network, its signal, the access point's name; and
the network's time, on the way.

It must not know what is dialled then, nor where it is remembered that a PIN was given.

**A PIN is given once.** A SIM blocks itself at the third wrong one, so that a refused PIN is never given again
(`call.PinRecord`, on stable storage): not after a restart, not by hand, until the configuration has another.

    record   what happens where the SIM wants its PIN              next
    NEW      noted GIVEN, then given; the modem says OK            TAKEN
    NEW      the same; the modem says ERROR                        REFUSED: pin-refused
    NEW      the same; no answer, a power cut                      GIVEN
    TAKEN    given, for the SIM has taken it before; OK            TAKEN
    TAKEN    the same; ERROR, no answer                            as NEW
    GIVEN    as NEW, where the modem tells that no try is used up; else pin-refused
    REFUSED  nothing: pin-refused

A module draws most when it has its PIN and looks for its network: that is when a weak board's power fails. So a PIN
that was taken once stays so over a power cut.

The last of three tries is left to a person: where the modem tells how many there are (+CPINR), it is not used.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Outcome, PinState
from appliance.modem.hook import is_ok
from appliance.protocol import at_mobile
from appliance.protocol.at_mobile import Registration, Sim
from appliance.protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from appliance.call import PinRecord
    from appliance.config import model
    from appliance.modem.dialogue import Dialogue
    from appliance.protocol.at import Answer

__all__ = ["NETWORK_S", "SIM_S", "Cellular", "explain"]

ANSWER_S: Final = 5.0
"""To a question: at most 5 s by SIMCom's and Quectel's manuals, but for those below."""
RADIO_S: Final = 15.0
"""AT+CFUN=1: 10 s by SIMCom's manual, 15 by Quectel's."""
PIN_S: Final = 10.0
"""AT+CPIN=…: 5 s by most manuals."""
SIM_S: Final = 20.0
"""A SIM is read within some 10 s from the modem's start; as long again until it serves once it has its PIN."""
NETWORK_S: Final = 45.0
"""A module that is switched on finds its home network within some 20 s; abroad it may try several. Nothing is paid for
meanwhile."""
ATTACH_S: Final = 30.0
"""AT+CGATT=1: 10 s by SIMCom's manual, 75 at most by Quectel's."""
POLL_S: Final = 2.0
SIGNAL_MINIMUM: Final = 3
"""`rssi` of +CSQ: -107 dBm, under which no GSM receiver has to work (3GPP TS 45.005 §6.2: -104 dBm, -102 for a handheld
one)."""
PIN_TRIES: Final = 3
"""That a SIM gives."""

_PACKET: Final = ("+CGREG", "+CEREG")
_CIRCUIT: Final = ("+CREG",)

_SIM_WORDS: Final = {
    Sim.PUK: "the SIM is blocked and wants its PUK: enter it in a telephone",
    Sim.ABSENT: "there is no SIM card, or it is not seen",
    Sim.BUSY: f"the SIM is still busy after {SIM_S:g} s",
    Sim.LOCKED: "the modem is locked to another network or SIM, and wants that lock's code",
    Sim.FAILED: "the SIM card has failed, or is none for this modem",
    Sim.UNKNOWN: "the modem does not tell what its SIM is doing",
}
_REGISTRATION_WORDS: Final = {
    None: "the modem does not tell whether it has one",
    Registration.NONE: "none, and it searches for none",
    Registration.SEARCHING: "still searching",
    Registration.DENIED: "the network refuses this SIM",
    Registration.UNKNOWN: "no coverage",
    Registration.NO_DATA: "for short messages or emergencies alone",
}


class Cellular:
    """Of one line, call after call. `pin`: "" where the configuration has none. `tell` takes progress for who waits."""

    def __init__(self, config: model.Line, pin: str, record: PinRecord | None, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._line = config.name
        self._apn = config.apn
        self._pin = pin
        self._record = record
        packet = [number.lstrip("TtPp ").startswith("*") for number in config.numbers]
        self._wanted = _PACKET if all(packet) else (*_CIRCUIT, *_PACKET)
        self._told: tuple[datetime, float] | None = None

    @property
    def time(self) -> datetime | None:
        """As the network told it when the modem was last asked, and gone on since."""
        if self._told is None:
            return None
        moment, since = self._told
        return moment + timedelta(seconds=trio.current_time() - since)

    # ---- the SIM
    async def unlock(self, dialogue: Dialogue) -> Outcome | None:
        """None: the SIM serves. Raises PortError."""
        await dialogue.command("AT+CMEE=1", ANSWER_S)  # errors with their number (§9.1)
        radio = at_mobile.functionality(await dialogue.command("AT+CFUN?", ANSWER_S))
        if radio not in (None, 1):
            self._problem(f"the modem's radio is off (+CFUN: {radio}); switched on")
            await dialogue.command("AT+CFUN=1", RADIO_S)
        state = await self._sim(dialogue)
        if state is Sim.PIN:
            return await self._give(dialogue)
        return None if state is Sim.READY else self._refused(state)

    async def _sim(self, dialogue: Dialogue) -> Sim:
        """What it wants, once it knows."""
        state = Sim.UNKNOWN
        with trio.move_on_after(SIM_S):
            while True:
                state = at_mobile.sim(await dialogue.command("AT+CPIN?", ANSWER_S))
                if state not in (Sim.BUSY, Sim.UNKNOWN):
                    break
                await trio.sleep(POLL_S)
        return state

    def _refused(self, state: Sim) -> Outcome:
        self._problem(_SIM_WORDS[state])
        return Outcome.PIN_REFUSED if state is Sim.PUK else Outcome.MODEM_ERROR

    async def _give(self, dialogue: Dialogue) -> Outcome | None:
        record = self._record
        if not self._pin or record is None:
            self._problem("the SIM wants its PIN, and the line has no `pin`")
            return Outcome.MODEM_ERROR
        if record.state is PinState.REFUSED:
            return self._never_again("the SIM has refused this PIN: it is not given again")
        tries = at_mobile.pin_tries(await dialogue.command("AT+CPINR", ANSWER_S))
        if tries is not None and tries < 2:
            return self._never_again(f"the SIM has {tries} of {PIN_TRIES} tries left: the last is for a person")
        if record.state is PinState.GIVEN and tries != PIN_TRIES:
            return self._never_again(
                "the PIN was given once and nobody knows what came of it: it is not given again. Enter it in a "
                "telephone, or take it off the SIM"
            )
        if record.state is not PinState.TAKEN and not await record.note(PinState.GIVEN):
            self._problem("the SIM is not given its PIN while the disk can't keep what comes of it")
            return Outcome.MODEM_ERROR
        return await self._try(dialogue, record)

    async def _try(self, dialogue: Dialogue, record: PinRecord) -> Outcome | None:
        result = PinState.GIVEN
        with trio.CancelScope(shield=True):  # half a try would be one whose result nobody knows
            answer = await dialogue.command(f'AT+CPIN="{self._pin}"', PIN_S, secret=self._pin)
            # Some say ERROR although they take it, or take it without a word.
            taken = is_ok(answer) or at_mobile.sim(await dialogue.command("AT+CPIN?", ANSWER_S)) is Sim.READY
            if taken:
                result = PinState.TAKEN
            elif answer is not None and at_mobile.error_code(answer) != at_mobile.SIM_BUSY:
                result = PinState.REFUSED
            if result is not record.state:
                await record.note(result)
        if result is PinState.GIVEN:
            return self._never_again("nobody knows whether the SIM has taken its PIN")
        if result is PinState.REFUSED:
            assert answer is not None
            return self._never_again(f"the SIM refuses the PIN: {at_mobile.error_in_words(answer)}")
        state = await self._sim(dialogue)
        return None if state is Sim.READY else self._refused(Sim.UNKNOWN if state is Sim.PIN else state)

    def _never_again(self, why: str) -> Outcome:
        events.emit(events.PIN_REFUSED, line=self._line, why=why)
        self._tell(why)
        return Outcome.PIN_REFUSED

    # ---- the network
    async def attach(self, dialogue: Dialogue) -> Outcome | None:
        """None: there is a network that will take the call. Raises PortError."""
        if self._apn:
            failed = await self._name_access_point(dialogue)
            if failed is not None:
                return failed
        state: Registration | None = None
        rssi: int | None = None
        told = ""
        may_attach = self._wanted == _PACKET
        with trio.move_on_after(NETWORK_S):
            while True:
                state = await self._registration(dialogue)
                if state is Registration.NONE and may_attach:
                    may_attach = not await self._attach_packet(dialogue)
                    continue
                rssi = at_mobile.signal(await dialogue.command("AT+CSQ", ANSWER_S))
                if state is not None and state.serves and (rssi is None or rssi >= SIGNAL_MINIMUM):
                    await self._found(dialogue, state, rssi)
                    return None
                found = f"looking for a network: {_in_words(state)}; signal {_strength(rssi)}"
                if found != told:
                    told = found
                    self._tell(found)
                await trio.sleep(POLL_S)
        if state is not None and state.serves:
            why = f"the signal is too weak: {_strength(rssi)}, {at_mobile.dbm(SIGNAL_MINIMUM)} dBm is the least"
        else:
            why = f"no network: {_in_words(state)}; signal {_strength(rssi)}"
        events.emit(events.NO_NETWORK, line=self._line, why=why)
        self._tell(why)
        return Outcome.NO_NETWORK

    async def _name_access_point(self, dialogue: Dialogue) -> Outcome | None:
        """Context 1 is the one that *99# dials (3GPP TS 27.007 §10.1.1, §10.2.1.1)."""
        try:
            answer = await dialogue.command(f'AT+CGDCONT=1,"IP","{self._apn}"', ANSWER_S)
        except LocalProtocolError:
            self._problem("the access point's name has characters that no modem takes")
            return Outcome.MODEM_ERROR
        if is_ok(answer):
            return None
        said = at_mobile.error_in_words(answer) if answer is not None else "nothing"
        self._problem(f"the modem does not take the access point's name: {said}")
        return Outcome.MODEM_ERROR

    async def _registration(self, dialogue: Dialogue) -> Registration | None:
        """The best of those that matter; of +CREG where the modem knows no other."""
        found = await self._ask(dialogue, self._wanted)
        if not found and self._wanted == _PACKET:
            found = await self._ask(dialogue, _CIRCUIT)
        serving = [state for state in found if state.serves]
        telling = [state for state in found if state not in (Registration.NONE, Registration.UNKNOWN)]
        return next(iter([*serving, *telling, *found]), None)

    async def _attach_packet(self, dialogue: Dialogue) -> bool:
        """Some modems, MC35's kin, look for the packet network only when they are told to (§10.1.9). False: there is no
        network at all yet."""
        if not any(state.serves for state in await self._ask(dialogue, _CIRCUIT)):
            await trio.sleep(POLL_S)
            return False
        await dialogue.command("AT+CGATT=1", ATTACH_S)
        return True

    async def _ask(self, dialogue: Dialogue, names: tuple[str, ...]) -> list[Registration]:
        found = []
        for name in names:
            state = at_mobile.registration(await dialogue.command(f"AT{name}?", ANSWER_S), name)
            if state is not None:
                found.append(state)
        return found

    async def _found(self, dialogue: Dialogue, state: Registration, rssi: int | None) -> None:
        network = "a foreign" if state is Registration.ROAMING else "the home"
        events.emit(events.NETWORK_FOUND, line=self._line, network=network, signal=_strength(rssi))
        self._tell(f"registered with {network} network, signal {_strength(rssi)}")
        told = at_mobile.clock(await dialogue.command("AT+CCLK?", ANSWER_S))
        self._told = (told, trio.current_time()) if told is not None else None

    def _problem(self, what: str) -> None:
        events.emit(events.SIM_PROBLEM, line=self._line, what=what)
        self._tell(what)


def explain(answer: Answer) -> tuple[Outcome | None, str]:
    """What an error as a dial's result means: the outcome where it is the network's, and the text in words."""
    code = at_mobile.error_code(answer)
    return Outcome.NO_NETWORK if code in at_mobile.NO_SERVICE else None, at_mobile.error_in_words(answer)


def _in_words(state: Registration | None) -> str:
    return "found" if state is not None and state.serves else _REGISTRATION_WORDS[state]


def _strength(rssi: int | None) -> str:
    return "unknown" if rssi is None else f"{at_mobile.dbm(rssi)} dBm"
