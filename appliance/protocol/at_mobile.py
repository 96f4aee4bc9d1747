"""What modems for mobile networks say about their SIM, the network and the time: information text taken apart (3GPP TS
27.007, and its makers' ways of writing it). SANS-IO, pure functions over `at.Answer`.

It must not know what an answer means for a call. Blanks behind the colon, leading zeros, missing fields and unsolicited
lines of the same name among the answer's are all met in the wild; what can't be understood is None, never an error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from appliance.protocol.at import ResultCode

if TYPE_CHECKING:
    from appliance.protocol.at import Answer

__all__ = [
    "NO_SERVICE",
    "SIM_BUSY",
    "Registration",
    "Sim",
    "cause",
    "clock",
    "dbm",
    "error_code",
    "error_in_words",
    "functionality",
    "pin_tries",
    "registration",
    "says_restart",
    "signal",
    "sim",
]

FIRST_YEAR: Final = 2024
"""A clock before this was set by nobody: modems begin at 1970, 1980, 2000, 2002 or 2004."""
SIM_BUSY: Final = 14
NO_SERVICE: Final = frozenset({30, 31, 32})
"""No network service, network time-out, emergency calls only."""

_ERRORS: Final = {
    3: "operation not allowed",
    4: "operation not supported",
    5: "the phone lock's PIN is wanted",
    10: "there is no SIM card",
    11: "the SIM wants its PIN",
    12: "the SIM wants its PUK",
    13: "the SIM has failed",
    14: "the SIM is busy",
    15: "this is no SIM for it",
    16: "wrong PIN",
    17: "the SIM wants its PIN2",
    18: "the SIM wants its PUK2",
    30: "no network service",
    31: "network time-out",
    32: "emergency calls only",
    40: "the network lock's PIN is wanted",
    100: "unknown",
    103: "the network refuses this SIM (illegal MS)",
    106: "the network refuses this device (illegal ME)",
    107: "the network offers no packet service",
    111: "this network may not be used (PLMN not allowed)",
    112: "the network may not be used here (location area not allowed)",
    132: "the service option is not supported",
    133: "this service is not subscribed to",
    134: "the service is out of order for now",
    148: "unspecified packet error",
    149: "the network refuses the login (PDP authentication)",
}
"""3GPP TS 27.007 §9.2."""


def _values(answer: Answer | None, name: str) -> list[str]:
    """What stands behind `name:` in the answer, line by line."""
    pattern = re.compile(rf"{re.escape(name)} ?: ?(.*)", re.IGNORECASE)
    matches = (pattern.fullmatch(line.strip()) for line in (answer.information if answer is not None else ()))
    return [m[1].strip() for m in matches if m]


def _fields(value: str) -> list[str]:
    return [field.strip() for field in value.split(",")]


# ---- errors


def error_code(answer: Answer | None) -> int | None:
    """The number of `+CME ERROR: n` (§9.2); of one in words (AT+CMEE=2) too, where the words are the standard's."""
    match = re.fullmatch(r"\+CM[ES] ERROR: ?(.+)", answer.text, re.IGNORECASE) if answer is not None else None
    if not match:
        return None
    if match[1].strip().isdecimal():
        return int(match[1])
    return _CODES.get(match[1].strip().casefold())


_CODES: Final = {
    "operation not allowed": 3,
    "operation not supported": 4,
    "ph-sim pin required": 5,
    "sim not inserted": 10,
    "sim pin required": 11,
    "sim puk required": 12,
    "sim failure": 13,
    "sim busy": 14,
    "sim wrong": 15,
    "incorrect password": 16,
    "sim pin2 required": 17,
    "sim puk2 required": 18,
    "no network service": 30,
    "network timeout": 31,
    "emergency calls only": 32,
    "unknown": 100,
}


def error_in_words(answer: Answer) -> str:
    """The answer's text, and what its number means."""
    code = error_code(answer)
    words = _ERRORS.get(code) if code is not None else None
    return f"{answer.text} ({words})" if words else answer.text


# ---- the SIM


class Sim(Enum):
    """What the SIM wants before it serves (§8.3, +CPIN)."""

    READY = auto()
    PIN = auto()
    PUK = auto()
    ABSENT = auto()
    BUSY = auto()
    LOCKED = auto()
    """Something else than its own PIN: the phone's, the operator's or the corporation's lock."""
    FAILED = auto()
    UNKNOWN = auto()
    """Nothing that can be understood: it may be too early."""


_SIM: Final = {
    "READY": Sim.READY,
    "SIM PIN": Sim.PIN,
    "SIM PUK": Sim.PUK,
    "NOT INSERTED": Sim.ABSENT,  # SIMCom
    "NOT READY": Sim.BUSY,  # SIMCom
}
_SIM_ERRORS: Final = {10: Sim.ABSENT, 11: Sim.PIN, 12: Sim.PUK, 13: Sim.FAILED, 14: Sim.BUSY, 15: Sim.FAILED}


def sim(answer: Answer | None) -> Sim:
    """The answer to AT+CPIN?. PIN2 and PUK2 keep nobody from a call."""
    for value in reversed(_values(answer, "+CPIN")):
        word = value.strip('"').upper()
        if word in _SIM:
            return _SIM[word]
        if word in ("SIM PIN2", "SIM PUK2"):
            return Sim.READY
        if word.startswith("PH-") or word == "BLOCKED":
            return Sim.LOCKED
    return _SIM_ERRORS.get(error_code(answer) or 0, Sim.UNKNOWN)


def pin_tries(answer: Answer | None) -> int | None:
    """How often the SIM still lets its PIN be tried: the answer to AT+CPINR (§8.65), a line for each of its codes."""
    for value in _values(answer, "+CPINR"):
        fields = _fields(value)
        if fields[0].strip('"').upper() == "SIM PIN" and len(fields) > 1 and fields[1].isdecimal():
            return int(fields[1])
    return None


# ---- the network


class Registration(Enum):
    """§7.2, §10.1.20, §10.1.22: +CREG, +CGREG, +CEREG."""

    NONE = auto()
    HOME = auto()
    SEARCHING = auto()
    DENIED = auto()
    UNKNOWN = auto()
    ROAMING = auto()
    NO_DATA = auto()
    """For short messages or emergencies alone."""

    @property
    def serves(self) -> bool:
        return self in (Registration.HOME, Registration.ROAMING)


_REGISTRATION: Final = {
    0: Registration.NONE,
    1: Registration.HOME,
    2: Registration.SEARCHING,
    3: Registration.DENIED,
    4: Registration.UNKNOWN,
    5: Registration.ROAMING,
    6: Registration.NO_DATA,
    7: Registration.NO_DATA,
    8: Registration.NO_DATA,
    9: Registration.HOME,  # CSFB not preferred
    10: Registration.ROAMING,
}


def registration(answer: Answer | None, name: str) -> Registration | None:
    """The answer to AT+CREG? and its like; `name` is "+CREG". `n,stat,…` answers; a line with `stat` first is a report
    that came in between: its second field, where it has one, is an area's code of four digits or in quotes."""
    found = None
    for value in _values(answer, name):
        fields = _fields(value)
        if len(fields) >= 2 and re.fullmatch(r"[0-9]{1,3}", fields[0]) and re.fullmatch(r"[0-9]{1,3}", fields[1]):
            found = _REGISTRATION.get(int(fields[1]))
    return found


def signal(answer: Answer | None) -> int | None:
    """`rssi` of the answer to AT+CSQ (§8.5), 0 to 31; None where it is not known (99) or said in another scale."""
    for value in _values(answer, "+CSQ"):
        first = _fields(value)[0]
        if first.isdecimal() and int(first) <= 31:
            return int(first)
    return None


def dbm(rssi: int) -> int:
    """In dBm (§8.5)."""
    return -113 + 2 * rssi


def functionality(answer: Answer | None) -> int | None:
    """The answer to AT+CFUN? (§8.2): 1 is all of it, 0 and 4 have the radio off."""
    for value in _values(answer, "+CFUN"):
        first = _fields(value)[0]
        if first.isdecimal():
            return int(first)
    return None


def cause(answer: Answer | None) -> str:
    """Why the last call failed, as the answer to AT+CEER has it (§6.10): words, or numbers of its maker's; "" where it
    says nothing."""
    values = _values(answer, "+CEER")
    if not values and answer is not None and answer.code is ResultCode.OK:
        values = [line.strip() for line in answer.information]  # some leave the name out
    return " ".join(v.strip('" ') for v in values if v).strip()


# ---- the time


def clock(answer: Answer | None) -> datetime | None:
    """The answer to AT+CCLK? (§8.15): local time with its difference to UTC in quarters of an hour, as UTC. None where
    the zone is missing (hours may be wrong) or the clock was set by nobody. Some modules have UTC there already, with
    the zone beside it, and nothing tells them apart (arduino-libraries/MKRNB, issue 28): whoever can should ask another
    clock later."""
    for value in _values(answer, "+CCLK"):
        match = _CLOCK.fullmatch(value.strip('"'))
        if not match:
            continue
        year, *rest = (int(field) for field in match.groups()[:6])
        year += 0 if year >= 1000 else 1900 if year >= 70 else 2000
        zone = timezone(timedelta(minutes=15 * int(match[7])))
        try:
            moment = datetime(year, *rest, tzinfo=zone).astimezone(UTC)  # type: ignore[arg-type,misc]
        except (ValueError, OverflowError):
            continue
        return moment if year >= FIRST_YEAR else None
    return None


_CLOCK: Final = re.compile(
    r"([0-9]{2}|[0-9]{4})/([0-9]{1,2})/([0-9]{1,2}),([0-9]{1,2}):([0-9]{2}):([0-9]{2})([+-][0-9]{1,2})(?:,[01])?"
)


# ---- a modem that has just started


def says_restart(text: str) -> bool:
    """Whether an unsolicited line is one that a modem says when it starts, and at no other time."""
    return _RESTART.match(text.strip().upper()) is not None


_RESTART: Final = re.compile(
    # SIMCom, Quectel and Neoway; Cinterion; u-blox; Wavecom's and Sierra's indications 1 (SIM there), 3 and 4 (ready
    # for AT), 7 (ready for calls)
    r"(RDY|CALL READY|SMS READY|(NORMAL|UNDER-VOLTAGE|OVER-VOLTAGE) POWER DOWN|PB DONE|SMS DONE|START|MODEM:STARTUP"
    r"|\*ATREADY: ?1|\^SYSSTART.*|\+PBREADY"
    r"|\+CPIN: ?(READY|SIM PIN|SIM PUK|NOT READY|NOT INSERTED)|\+CFUN: ?1|\+SIM READY|\+WIND: ?[1347])\Z"
)
