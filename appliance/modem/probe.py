"""Looks for modems: which serial ports there are, what answers at them, and what it is. For the first start, when
nothing is configured and nobody else has the ports; nothing is dialled and no PIN is given.

A port is asked as a modem is found by people: at the usual rate with flow control by wire, then without (a cable that
lacks CTS holds everything back), then slower.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance.events import clean
from appliance.modem.dialogue import Dialogue, Timing
from appliance.modem.port import PortError, open_serial
from appliance.protocol import at_mobile
from appliance.protocol.at import ResultCode
from appliance.protocol.at_mobile import Registration, Sim
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.protocol.at import Answer

__all__ = ["Probed", "probe", "search", "serial_ports"]

SYS_TTY: Final = Path("/sys/class/tty")
BY_ID: Final = Path("/dev/serial/by-id")
DEV: Final = Path("/dev")
UNKNOWN_UART: Final = "0"
"""PORT_UNKNOWN (linux/serial.h): a ttyS that no hardware is behind."""
SETTINGS: Final = ((115200, "hardware"), (115200, "none"), (19200, "hardware"), (19200, "none"), (9600, "none"))
TRIES: Final = 2
"""At each: the first command teaches the rate to a modem that finds it out by itself."""
TIMING: Final = Timing()
ANSWER_S: Final = 5.0
"""A module that looks for networks takes seconds for a question."""
TEXT_LIMIT: Final = 60
HAYES_WANTED: Final = "ATE0Q0V1"
"""No echo, answers, in words: what the profiles' init strings say too."""

_SIM: Final = {
    Sim.READY: "SIM ready",
    Sim.PIN: "the SIM wants its PIN",
    Sim.PUK: "the SIM is blocked and wants its PUK",
    Sim.ABSENT: "no SIM card",
    Sim.BUSY: "the SIM is not ready yet",
    Sim.LOCKED: "locked to an operator or a phone",
    Sim.FAILED: "the SIM card fails",
}
_NETWORK: Final = {
    Registration.HOME: "registered",
    Registration.ROAMING: "registered with a foreign network",
    Registration.SEARCHING: "looking for a network",
    Registration.DENIED: "the network refuses it",
    Registration.NONE: "not registered",
}


@dataclass(frozen=True, slots=True)
class Probed:
    """One port. `profile` "" where no modem answered, then `what` says why; else `what` the modem is, with its signal
    and network where it has such. `wants_pin`: its SIM does."""

    port: str
    what: str
    profile: str = ""
    baud: int = 115200
    flow: str = "hardware"
    wants_pin: bool = False


def serial_ports(sys: Path = SYS_TTY, by_id: Path = BY_ID, dev: Path = DEV) -> list[str]:
    """Paths of the ports that hardware is behind, without the system's consoles; those on USB by the names that they
    keep (by-id)."""
    try:
        consoles = (sys / "console/active").read_text().split()
        names = sorted(tty.name for tty in sys.iterdir() if (tty / "device").exists())
    except OSError:
        consoles, names = [], []
    kept = {}
    if by_id.is_dir():
        kept = {os.path.realpath(link): str(link) for link in sorted(by_id.iterdir())}
    found = []
    for name in names:
        try:
            unknown = (sys / name / "type").read_text().strip() == UNKNOWN_UART
        except OSError:
            unknown = False
        if name not in consoles and not unknown:
            found.append(kept.get(os.path.realpath(dev / name), str(dev / name)))
    return found


def search(ports: Sequence[str]) -> list[Probed]:
    """All of them at once; some seconds."""
    return trio.run(_search, ports)


async def _search(ports: Sequence[str]) -> list[Probed]:
    found: dict[str, Probed] = {}

    async def one(port: str) -> None:
        found[port] = await probe(port)

    async with trio.open_nursery() as nursery:
        for port in ports:
            nursery.start_soon(one, port)
    return [found[port] for port in ports]


async def probe(path: str, timing: Timing = TIMING) -> Probed:
    """Asks at one port. Raises nothing of the port's."""
    why = "nothing answers"
    for baud, flow in SETTINGS:
        try:
            port = await open_serial(path, baud, flow)
        except PortError as error:
            return Probed(path, str(error).removeprefix(f"{path}: "))
        try:
            dialogue = Dialogue(port, path, timing)
            for _ in range(TRIES):
                if (answer := await dialogue.command(HAYES_WANTED, timing.answer_s)) is not None:
                    if answer.code is ResultCode.OK:
                        return await _identify(dialogue, path, baud, flow)
                    why = f"it answers {clean(answer.text, TEXT_LIMIT)}, which no modem does"
        except (PortError, ProtocolError) as error:
            why = str(error).removeprefix(f"{path}: ")
        finally:
            await port.aclose()
    return Probed(path, why)


async def _identify(dialogue: Dialogue, path: str, baud: int, flow: str) -> Probed:
    maker = _text(await dialogue.command("AT+CGMI", ANSWER_S))
    model = _text(await dialogue.command("AT+CGMM", ANSWER_S))
    name = " ".join(t for t in (maker, model) if t) or _text(await dialogue.command("ATI", ANSWER_S)) or "a modem"
    if "iridium" in name.lower():
        return Probed(path, name, "iridium", baud, flow)
    sim = at_mobile.sim(await dialogue.command("AT+CPIN?", ANSWER_S))
    if sim is Sim.UNKNOWN:
        return Probed(path, name, "hayes", baud, flow)
    rssi = at_mobile.signal(await dialogue.command("AT+CSQ", ANSWER_S))
    strength = "no signal" if rssi is None else f"signal {at_mobile.dbm(rssi)} dBm"
    state = at_mobile.registration(await dialogue.command("AT+CREG?", ANSWER_S), "+CREG")
    network = _NETWORK.get(state, "") if state is not None else ""
    what = ", ".join(t for t in (name, _SIM[sim], strength, network) if t)
    return Probed(path, what, "gsm", baud, flow, sim is Sim.PIN)


def _text(answer: Answer | None) -> str:
    """What an information command is answered, on one line."""
    if answer is None or answer.code is not ResultCode.OK:
        return ""
    return clean(" ".join(line.strip() for line in answer.information if line.strip()), TEXT_LIMIT)
