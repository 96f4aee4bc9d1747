"""A modem with a SIM for tests: `FakeModem` and what a mobile network adds. Written from 3GPP TS 27.007 and SIMCom's and
Quectel's manuals, apart from the product's own parser.

A SIM counts the wrong PINs that it is given, and blocks itself at the third, as real ones do.
"""

from __future__ import annotations

import re

import trio

from appliance.call import PinState
from fakes.modem import FakeModem


class Sim:
    """`pin` "": it wants none."""

    def __init__(self, pin: str = "") -> None:
        self.pin = pin
        self.tries = 3
        self.given: list[str] = []

    def try_pin(self, pin: str) -> bool:
        assert self.tries > 0, "a blocked SIM is given a PIN"
        self.given.append(pin)
        self.tries = 3 if pin == self.pin else self.tries - 1
        return pin == self.pin


class FakeMobile(FakeModem):
    """`sim` None: there is no card. `registration`: name -> its `stat`, missing ones answer ERROR; `rssi`; `clock`: what
    +CCLK? says. `cause`: what +CEER says. `answers`: command -> results said in place of its own, one after another, the
    last for ever; "" is silence. `boot_s`: from a restart to the first word."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.sim: Sim | None = Sim()
        self.unlocked = False
        self.registration = {"+CREG": 1, "+CGREG": 1}
        self.rssi = 20
        self.clock = "26/11/28,09:00:05+04"
        self.cause = ""
        self.functionality = 1
        self.apn = ""
        self.counts_tries = False
        self.answers: dict[str, list[str]] = {}
        self.boot_s = 5.0
        self.restarts = 0
        self.hears_restart = True
        self.attaches = 0

    def restart(self) -> None:
        """As after a brown-out: everything volatile is lost, and it says what it says at its start."""
        self.restarts += 1
        self.state, self.echo, self.quiet, self.unlocked, self.functionality = "command", True, False, False, 1
        self._dial += 1
        self.booting = True
        self._nursery.start_soon(self._boot)

    async def _boot(self) -> None:
        await trio.sleep(self.boot_s)
        self.booting = self.mute = False
        for line in ("RDY", "+CFUN: 1", f"+CPIN: {self._sim_word()}"):
            self.result(line)

    booting = False

    def hear(self, data: bytes) -> None:
        if self.hears_restart and b"AT+CFUN=1,1\r" in data:
            self.heard.append("AT+CFUN=1,1")
            self.restart()
        elif not self.booting:
            super().hear(data)

    def _sim_word(self) -> str:
        if self.sim is None:
            return "NOT INSERTED"
        if not self.sim.tries:
            return "SIM PUK"
        return "SIM PIN" if self.sim.pin and not self.unlocked else "READY"

    def _run(self, body: str) -> None:
        queue = self.answers.get(f"AT{body}")
        if queue:
            said = queue.pop(0) if len(queue) > 1 else queue[0]
            for line in said.split("|") if said else ():
                self.result(line)
            return
        for pattern, answer in self.COMMANDS:
            match = re.fullmatch(pattern, body)
            if match:
                getattr(self, answer)(*match.groups())
                return
        super()._run(body)

    COMMANDS = (
        (r"\+CMEE=1", "ok"),
        (r"\+CFUN\?", "tell_functionality"),
        (r"\+CFUN=([0-4])", "set_functionality"),
        (r"\+CPIN\?", "tell_sim"),
        (r'\+CPIN="([0-9]+)"', "take_pin"),
        (r"\+CPINR", "tell_tries"),
        (r"(\+CREG|\+CGREG|\+CEREG)\?", "tell_registration"),
        (r"\+CSQ", "tell_signal"),
        (r'\+CGDCONT=1,"IP","([A-Z0-9.-]+)"', "set_apn"),
        (r"\+CCLK\?", "tell_clock"),
        (r"\+CEER", "tell_cause"),
        (r"\+CGATT=1", "attach"),
    )

    def tell(self, text: str) -> None:
        self.information(text)
        self.result("OK")

    def ok(self) -> None:
        self.result("OK")

    def tell_functionality(self) -> None:
        self.tell(f"+CFUN: {self.functionality}")

    def set_functionality(self, value: str) -> None:
        self.functionality = int(value)
        self.result("OK")

    def tell_sim(self) -> None:
        if self.sim is None or not self.functionality:
            self.result("+CME ERROR: 10")
        else:
            self.tell(f"+CPIN: {self._sim_word()}")

    def take_pin(self, pin: str) -> None:
        assert self.sim is not None
        self.unlocked = self.sim.try_pin(pin)
        self.result("OK" if self.unlocked else "+CME ERROR: 16")

    def tell_tries(self) -> None:
        if self.counts_tries and self.sim is not None:
            self.information(f"+CPINR: SIM PIN,{self.sim.tries},3")
            self.tell("+CPINR: SIM PUK,10,10")
        else:
            self.result("ERROR")

    def tell_registration(self, name: str) -> None:
        if name in self.registration:
            self.tell(f"{name}: 0,{self.registration[name]}")
        else:
            self.result("ERROR")

    def tell_signal(self) -> None:
        self.tell(f"+CSQ: {self.rssi},0")

    def set_apn(self, apn: str) -> None:
        self.apn = apn
        self.result("OK")

    def attach(self) -> None:
        self.attaches += 1
        self.registration["+CGREG"] = 1
        self.result("OK")

    def tell_clock(self) -> None:
        self.tell(f'+CCLK: "{self.clock}"')

    def tell_cause(self) -> None:
        self.tell(f"+CEER: {self.cause}")


class Record:
    """`call.PinRecord` in memory; `log` holds what was noted. `keeps`: whether the disk takes it."""

    def __init__(self, state: PinState = PinState.NEW) -> None:
        self.state = state
        self.keeps = True
        self.log: list[PinState] = []

    async def note(self, state: PinState) -> bool:
        await trio.lowlevel.checkpoint()
        self.state = state
        self.log.append(state)
        return self.keeps
