"""The AT language from the modem's side: command lines taken apart, settings, result codes. SANS-IO.

It knows V.250 (§5.2 to §5.7, §6.2, §6.3) and what Hayes-compatible modems add (S-registers, &F, &W, DELAYED and
BLACKLISTED, Rockwell's numbers for CONNECT with a rate); it knows no pty, no telephone and no time. It is the other
side of `protocol/at.py` and shares nothing with it, so that a misreading of one does not hide in the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

__all__ = ["BODY_LIMIT", "BadCommand", "Command", "Settings", "parse_body", "result_code"]

BODY_LIMIT: Final = 255
"""Characters of a command line's body; V.250 §5.2.1 wants 40 at least, later modems have about this."""

_BASIC: Final = re.compile(r"([&\\%*]?[A-Z])([0-9]*)")
_EXTENDED: Final = re.compile(r"\+[A-Z][A-Z0-9!%\-./:_]*")
_REGISTER: Final = re.compile(r"S([0-9]*)(?:(\?)|=([0-9]*))?")

# Numbers 0 to 4 and 6 to 8 are V.250's (table 1), the others Rockwell's and Conexant's.
_NUMBERS: Final = {
    "OK": 0, "CONNECT": 1, "RING": 2, "NO CARRIER": 3, "ERROR": 4, "CONNECT 1200": 5, "NO DIALTONE": 6, "BUSY": 7,
    "NO ANSWER": 8, "CONNECT 2400": 10, "CONNECT 4800": 11, "CONNECT 9600": 12, "CONNECT 7200": 13,
    "CONNECT 12000": 14, "CONNECT 14400": 15, "CONNECT 19200": 16, "CONNECT 38400": 17, "CONNECT 57600": 18,
    "CONNECT 115200": 19, "DELAYED": 24, "BLACKLISTED": 32, "CONNECT 21600": 61, "CONNECT 24000": 62,
    "CONNECT 26400": 63, "CONNECT 28800": 64, "CONNECT 33600": 84, "CONNECT 31200": 91,
}  # fmt: skip

# n, factory value, unit: V.250 §6.2 and §6.3; S1, S2, S11, S12 are Hayes'.
FACTORY_REGISTERS: Final = {
    0: 0,  # rings before an automatic answer; 0: none
    1: 0,  # rings so far
    2: 43,  # escape character; above 127: no escape
    3: 13,  # line termination
    4: 10,  # response formatting
    5: 8,  # line editing
    6: 2,  # s before blind dialling
    7: 50,  # s until a dial without carrier is given up
    8: 2,  # s of a comma's pause
    10: 14,  # tenths of a second from loss of carrier to hang-up
    11: 95,  # ms of a tone
    12: 50,  # fiftieths of a second: guard time of the escape
}


class BadCommand(Exception):
    """The rest of the command line is not executed; the result is ERROR (V.250 §5.4.1)."""


@dataclass(frozen=True, slots=True)
class Command:
    """`name` in upper case with its prefix (`E`, `&C`, `S`, `D`, `+GMI`); `value` its number (0 where left out);
    `text` the dial string of D, or what follows an extended name; `read` for `S7?`, where `value` is the register;
    `assign` for `S7=30` is 30."""

    name: str
    value: int = 0
    text: str = ""
    read: bool = False
    assign: int | None = None


def parse_body(body: str) -> list[Command]:
    """The commands of a line, without its AT and CR. Raises BadCommand at the first that is none, so a line with a
    fault in it executes nothing (V.250 leaves open whether what is before the fault is)."""
    body = body.replace(" ", "").upper()
    at, out = 0, []
    while at < len(body):
        c = body[at]
        if c == ";":  # between extended commands, and after a dial string
            at += 1
        elif c == "D":
            dial, semicolon, rest = body[at + 1 :].partition(";")
            out.append(Command("D", text=dial + semicolon))
            at = len(body) - len(rest)
        elif c == "S":
            match = _REGISTER.match(body, at)
            if not match or not (match[2] or match[3] is not None or match[1]):
                raise BadCommand(body[at:])
            register = int(match[1] or 0)
            out.append(
                Command("S", register, read=bool(match[2]), assign=None if match[3] is None else int(match[3] or 0))
            )
            at = match.end()
        elif c == "+":
            match = _EXTENDED.match(body, at)
            if not match:
                raise BadCommand(body[at:])
            end = body.find(";", match.end())
            end = len(body) if end < 0 else end
            out.append(Command(match[0], text=body[match.end() : end]))
            at = end
        else:
            match = _BASIC.match(body, at)
            if not match:
                raise BadCommand(body[at:])
            out.append(Command(match[1], int(match[2] or 0)))
            at = match.end()
    return out


@dataclass(slots=True)
class Settings:
    """What the parameter commands set; one copy is in force, one is the stored profile of Z and &W."""

    echo: bool = True
    quiet: bool = False
    verbose: bool = True
    x: int = 4
    shows_caller: bool = False
    ignored: dict[str, int] = field(default_factory=dict)
    registers: dict[int, int] = field(default_factory=lambda: dict(FACTORY_REGISTERS))

    def copy(self) -> Settings:
        return Settings(
            self.echo, self.quiet, self.verbose, self.x, self.shows_caller, dict(self.ignored), dict(self.registers)
        )

    @property
    def guard_s(self) -> float:
        return self.registers[12] / 50

    def set(self, command: Command) -> bool:
        """Obeys a parameter command; False when it is none of these. Raises BadCommand for a value out of range."""
        name, value = command.name, command.value
        limit = _PARAMETERS.get(name)
        if limit is None:
            return False
        if value > limit:
            raise BadCommand(f"{name}{value}")
        match name:
            case "E":
                self.echo = value == 1
            case "Q":
                self.quiet = value == 1
            case "V":
                self.verbose = value == 1
            case "X":
                self.x = value
            case _:
                self.ignored[name] = value
        return True

    def set_register(self, register: int, value: int) -> None:
        if register not in self.registers or value > 255:
            raise BadCommand(f"S{register}={value}")
        self.registers[register] = value

    def heard(self, result: str) -> str:
        """`result` as X lets it be said (V.250 §6.2.7; Conexant for the last two)."""
        if result.startswith("CONNECT ") and self.x == 0:
            return "CONNECT"
        if result == "BUSY" and self.x < 3:
            return "NO CARRIER"
        if result == "NO DIALTONE" and self.x not in (2, 4):
            return "NO CARRIER"
        if result.startswith(("DELAYED", "BLACKLISTED")) and self.x < 4:
            return "ERROR"
        return result

    def format_result(self, result: str) -> bytes:
        """A final or unsolicited result code as it goes to the terminal (V.250 §5.7.1); b"" under Q1."""
        if self.quiet:
            return b""
        cr, lf = self.registers[3], self.registers[4]
        text = self.heard(result)
        if self.verbose:
            return bytes([cr, lf, *text.encode("ascii"), cr, lf])
        return str(result_code(text)).encode("ascii") + bytes([cr])

    def format_information(self, text: str) -> bytes:
        """The answer to a question, before its result code."""
        cr, lf = self.registers[3], self.registers[4]
        data = text.encode("ascii")
        return bytes([cr, lf, *data, cr, lf]) if self.verbose else bytes([*data, cr, lf])


# The greatest value of each parameter command. E Q V X are obeyed; circuits and modulation (&C, &D, &K …) mean nothing
# on a pty and are only kept.
_PARAMETERS: Final = {
    "E": 1, "Q": 1, "V": 1, "X": 4, "L": 3, "M": 3, "N": 1, "W": 2, "P": 0, "T": 0, "B": 16, "C": 1,
    "&C": 1, "&D": 3, "&G": 2, "&J": 1, "&K": 6, "&L": 1, "&M": 4, "&P": 3, "&Q": 9, "&R": 1, "&S": 1, "&X": 2,
    "\\N": 7, "\\Q": 3, "\\V": 4, "%C": 3, "%E": 3,
}  # fmt: skip


def result_code(text: str) -> int:
    """The number of a result code; one that has none of its own is CONNECT for a rate, else ERROR."""
    known = _NUMBERS.get(text)
    if known is None:
        known = _NUMBERS.get(text.split(" ")[0], 4)
    return known
