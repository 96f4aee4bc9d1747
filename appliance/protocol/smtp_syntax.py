"""The syntax that SMTP's two sides share: paths, parameters, xtext, reply lines. SANS-IO, no state.

RFC 5321 §4.1.2 for paths, read generously (a blank behind the colon, no angle brackets), since mail programs
write them so; RFC 3461 §4 for xtext; RFC 6531 §3.3 for addresses beyond ASCII.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "MAX_ADDRESS",
    "SyntaxProblem",
    "decode_xtext",
    "parse_address",
    "parse_path",
    "reply",
    "take_flag",
    "take_number",
    "take_text",
    "take_word",
]

MAX_ADDRESS: Final = 254
"""A path is at most 256 octets, its angle brackets included (RFC 5321 §4.5.3.1.3)."""

_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", re.ASCII)
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\U0010ffff]+))?")
_ATOMS: Final = re.compile(r"[^\s\x00-\x1f\x7f()<>\[\]:;@\\,\"]+")
_QUOTED: Final = re.compile(r'"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*"')
_LITERAL: Final = re.compile(r"\[[!-Z^-~]+\]")


class SyntaxProblem(ValueError):
    """A path or parameter that can't be; the text says why, `code` and `status` are the reply's (RFC 3463)."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(text)
        self.code, self.status = code, status


def parse_address(address: str, *, utf8: bool) -> str:
    """Checks `local@domain` and returns it. Raises SyntaxProblem."""
    if len(address.encode("utf-8", "surrogateescape")) > MAX_ADDRESS:
        raise SyntaxProblem(501, "5.1.7", f"an address has at most {MAX_ADDRESS} octets")
    if not address.isascii() and not utf8:
        raise SyntaxProblem(553, "5.6.7", "an address beyond ASCII needs SMTPUTF8")
    match = _QUOTED.match(address) or _ATOMS.match(address)
    if match is None or address[match.end() : match.end() + 1] != "@":
        raise SyntaxProblem(501, "5.1.3", "that is no address: local-part@domain is expected")
    domain = address[match.end() + 1 :]
    if not (_ATOMS.fullmatch(domain) or _LITERAL.fullmatch(domain)):
        raise SyntaxProblem(501, "5.1.2", "that is no domain")
    if any("\udc80" <= c <= "\udcff" for c in address):
        raise SyntaxProblem(501, "5.5.2", "that is no UTF-8")
    return address


def parse_path(text: str) -> tuple[str, dict[str, str | None]]:
    """What follows `MAIL FROM:` or `RCPT TO:` -> (the address as it stands, parameters by upper-case keyword).

    The address is "" for `<>` and is not checked yet (SMTPUTF8 among the parameters decides what it may hold).
    A source route is dropped (RFC 5321 §4.1.1.3). Raises SyntaxProblem.
    """
    text = text.lstrip(" ")
    if text.startswith("<"):
        end = _end_of_path(text)
        address, rest = text[1:end], text[end + 1 :]
        if address.startswith("@") and ":" in address:
            address = address.partition(":")[2]
    else:
        address, _, rest = text.partition(" ")
        rest = " " + rest if rest else ""
        if not address:
            raise SyntaxProblem(501, "5.5.4", "an address is missing")
    if rest and not rest.startswith(" "):
        raise SyntaxProblem(501, "5.5.4", "a blank is missing behind the address")
    parameters: dict[str, str | None] = {}
    for word in rest.split():
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].upper() in parameters:
            raise SyntaxProblem(501, "5.5.4", "a parameter is malformed or given twice")
        parameters[match[1].upper()] = match[2]
    return address, parameters


def _end_of_path(text: str) -> int:
    quoted = False
    at = 1
    while at < len(text):
        c = text[at]
        if quoted and c == "\\":
            at += 1
        elif c == '"':
            quoted = not quoted
        elif c == ">" and not quoted:
            return at
        at += 1
    raise SyntaxProblem(501, "5.5.4", "the path has no >")


def decode_xtext(text: str) -> str:
    """RFC 3461 §4's xtext, decoded. Raises SyntaxProblem."""
    if not _XTEXT.fullmatch(text):
        raise SyntaxProblem(501, "5.5.4", "that is no xtext")
    return re.sub(r"\+([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)


def take_text(given: dict[str, str | None], key: str, limit: int) -> str:
    """Takes the parameter `key` out of `given`; "" where it is not there. Raises SyntaxProblem."""
    value = given.pop(key, "")
    if value is None or len(value) > limit:
        raise SyntaxProblem(501, "5.5.4", f"{key} is malformed or has more than {limit} octets")
    return value


def take_word(given: dict[str, str | None], key: str, words: tuple[str, ...]) -> str:
    """The same for one of some words, in upper case."""
    value = take_text(given, key, 100).upper()
    if value and value not in words:
        raise SyntaxProblem(501, "5.5.4", f"{key} is one of {', '.join(words)}")
    return value


def take_flag(given: dict[str, str | None], key: str) -> bool:
    """The same for a parameter without a value: whether it is there."""
    if key not in given:
        return False
    if given.pop(key) is not None:
        raise SyntaxProblem(501, "5.5.4", f"{key} takes no value")
    return True


def take_number(given: dict[str, str | None], key: str, low: int, high: int) -> int | None:
    """The same for a number; None where it is not there."""
    if key not in given:
        return None
    value = take_text(given, key, 20)
    digits = value.removeprefix("-") if low < 0 else value
    if not (digits.isascii() and digits.isdigit()) or not low <= int(value) <= high:
        raise SyntaxProblem(501, "5.5.4", f"{key} is a number from {low} to {high}")
    return int(value)


def reply(code: int, *lines: str, status: str = "") -> bytes:
    """A reply as bytes: one line or more, each with the enhanced status code (RFC 2034 §4)."""
    prefix = status + " " if status else ""
    last = len(lines) - 1
    return b"".join(f"{code}{' ' if i == last else '-'}{prefix}{line}\r\n".encode() for i, line in enumerate(lines))
