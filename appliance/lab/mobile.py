"""A modem with a SIM on a pty: the laboratory's `Modem`, and what a mobile network adds (3GPP TS 27.007).

It owns the SIM's lock and tries, what the network says of it, and the modem's starts. Written from the standard and
SIMCom's and Quectel's manuals, apart from the product's own reading of them.

A SIM counts wrong PINs and blocks itself at the third. `restart` is a brown-out, or AT+CFUN=1,1: the call is lost, what
is volatile too, and the module says so once it is back. A module that hangs (`mute`) hears AT+CFUN=1,1 only where
`hears_restart` says so; else its power has to be cut (`power_cycle`).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from appliance.lab import hayes
from appliance.lab.modem import Modem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PACKET_NUMBER", "MobileModem", "Sim"]

PACKET_NUMBER: Final = "*99#"
TRIES: Final = 3
SIM_PIN_WANTED, SIM_PUK_WANTED, WRONG_PIN, NOT_ALLOWED, NO_SIM = 11, 12, 16, 3, 10
"""+CME ERROR's numbers (§9.2)."""


@dataclass(slots=True, eq=False)
class Sim:
    """`pin` "": it wants none. `given`: every PIN that it was given, in turn."""

    pin: str = ""
    tries: int = TRIES
    given: list[str] = field(default_factory=list)

    def take(self, pin: str) -> bool:
        """Whether it is the right one. Blocked, it takes none."""
        self.given.append(pin)
        right = self.tries > 0 and pin == self.pin
        self.tries = TRIES if right else max(0, self.tries - 1)
        return right


@dataclass(slots=True, eq=False)
class MobileModem(Modem):
    """`sim` None: there is none. `registration`: `stat` of +CREG, +CGREG and +CEREG, by name; another answers ERROR.
    `rssi`: of +CSQ. `offset_quarters`: of the network's time. `boot_s`: from a restart to its first word."""

    sim: Sim | None = field(default_factory=Sim)
    registration: dict[str, int] = field(default_factory=lambda: {"+CREG": 1, "+CGREG": 1})
    rssi: int = 20
    offset_quarters: int = 0
    counts_tries: bool = False
    cause: str = "No cause information available"
    hears_restart: bool = True
    boot_s: float = 0.3
    apn: str = ""
    unlocked: bool = False
    restarts: int = 0
    _heard: bytearray = field(default_factory=bytearray)

    # ---- what happens to it

    def restart(self) -> None:
        """Its call is lost, its settings are the factory's, and it is deaf until it has started."""
        self.restarts += 1
        self._abort_dial()
        self._hang_up("the module restarts")
        self._settings = hayes.Settings()
        self._body.clear()
        self.unlocked, self.mute = False, True
        if self._nursery is not None:
            self._nursery.start_soon(self._boot)

    power_cycle = restart

    async def _boot(self) -> None:
        await trio.sleep(self.boot_s)
        self.mute = False
        for text in ("RDY", "+CFUN: 1", f"+CPIN: {self._state()}"):
            self.say(text)

    def _state(self) -> str:
        if self.sim is None:
            return "NOT INSERTED"
        if self.sim.tries == 0:
            return "SIM PUK"
        return "SIM PIN" if self.sim.pin and not self.unlocked else "READY"

    # ---- its language

    async def _received(self, data: bytes) -> None:
        if self.mute and self.hears_restart:
            self._heard += data
            if b"AT+CFUN=1,1\r" in self._heard:
                self._heard.clear()
                self.restart()
            return
        await Modem._received(self, data)

    def _execute(self, command: hayes.Command) -> str | None:
        answer = _ANSWERS.get(command.name)
        return answer(self, command.text) if answer is not None else Modem._execute(self, command)

    def _tell(self, *lines: str) -> str:
        for line in lines:
            self._information(line)
        return "OK"

    def _error(self, number: int) -> str | None:
        self._result(f"+CME ERROR: {number}")
        return None

    def _pin(self, text: str) -> str | None:
        if self.sim is None:
            return self._error(NO_SIM)
        if text == "?":
            return self._tell(f"+CPIN: {self._state()}")
        match = re.fullmatch(r'="?([0-9]{4,8})"?', text)
        if not match:
            raise hayes.BadCommand("+CPIN")
        if self._state() != "SIM PIN":
            return self._error(NOT_ALLOWED if self.sim.tries else SIM_PUK_WANTED)
        self.unlocked = self.sim.take(match[1])
        return "OK" if self.unlocked else self._error(WRONG_PIN)

    def _tries(self, text: str) -> str | None:
        if not self.counts_tries or self.sim is None or text:
            raise hayes.BadCommand("+CPINR")
        return self._tell(f"+CPINR: SIM PIN,{self.sim.tries},{TRIES}", "+CPINR: SIM PUK,10,10")

    def _functionality(self, text: str) -> str | None:
        if text == "?":
            return self._tell("+CFUN: 1")
        if text == "=1,1":
            self._result("OK")
            self.restart()
            return None
        if text != "=1":
            raise hayes.BadCommand("+CFUN")
        return "OK"

    def _context(self, text: str) -> str | None:
        match = re.fullmatch(r'=1,"IP","([^"]*)"', text)
        if not match:
            raise hayes.BadCommand("+CGDCONT")
        self.apn = match[1].lower()
        return "OK"

    def _clock(self, text: str) -> str | None:
        if text != "?":
            raise hayes.BadCommand("+CCLK")
        local = time.strftime("%y/%m/%d,%H:%M:%S", time.gmtime(time.time() + 900 * self.offset_quarters))
        return self._tell(f'+CCLK: "{local}{self.offset_quarters:+03d}"')

    def _registered(self, name: str, text: str) -> str | None:
        if text != "?" or name not in self.registration:
            raise hayes.BadCommand(name)
        return self._tell(f"{name}: 0,{self.registration[name]}")


_ANSWERS: Final[dict[str, Callable[[MobileModem, str], str | None]]] = {
    "+CPIN": MobileModem._pin,
    "+CPINR": MobileModem._tries,
    "+CFUN": MobileModem._functionality,
    "+CGDCONT": MobileModem._context,
    "+CCLK": MobileModem._clock,
    "+CREG": lambda modem, text: modem._registered("+CREG", text),
    "+CGREG": lambda modem, text: modem._registered("+CGREG", text),
    "+CEREG": lambda modem, text: modem._registered("+CEREG", text),
    "+CMEE": lambda modem, text: "OK",
    "+CSQ": lambda modem, text: modem._tell(f"+CSQ: {modem.rssi},0"),
    "+CEER": lambda modem, text: modem._tell(f"+CEER: {modem.cause}"),
}
