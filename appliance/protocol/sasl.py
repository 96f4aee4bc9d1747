"""SASL PLAIN and LOGIN, the server's side of the exchange (RFC 4616; LOGIN as every mail program does it). SANS-IO.

SMTP (RFC 4954) and POP3 (RFC 5034) wrap the same base64 lines in replies of their own.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

__all__ = ["MAX_LINE", "MECHANISMS", "Credentials", "SaslExchange", "SaslProblem"]

MAX_LINE: Final = 12288
"""Octets of one line of an exchange (RFC 4954 §4)."""
MECHANISMS: Final = ("PLAIN", "LOGIN")


class SaslProblem(ValueError):
    """The exchange was cancelled or can't be decoded."""


@dataclass(frozen=True, slots=True)
class Credentials:
    name: str
    password: str = field(repr=False)


class SaslExchange:
    """One exchange: `challenge` is the first one, base64; then `step` with each line until it gives credentials."""

    __slots__ = ("_mechanism", "_name", "challenge")

    def __init__(self, mechanism: str) -> None:
        if mechanism not in MECHANISMS:
            raise SaslProblem(f"{' and '.join(MECHANISMS)} are to be had")
        self._mechanism = mechanism
        self._name: str | None = None
        self.challenge = "" if mechanism == "PLAIN" else "VXNlcm5hbWU6"  # "Username:"

    def step(self, line: bytes) -> Credentials | None:
        """Takes one line of the client's; None when another is due after `challenge`. Raises SaslProblem."""
        if line == b"*":
            raise SaslProblem("cancelled")
        try:
            text = base64.b64decode(line, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise SaslProblem("that can't be decoded") from None
        if self._mechanism == "PLAIN":
            parts = text.split("\0")
            if len(parts) != 3 or parts[0] not in ("", parts[1]):
                raise SaslProblem("PLAIN takes a name and a password, and nobody logs in for another")
            return Credentials(parts[1], parts[2])
        if self._name is None:
            self._name = text
            self.challenge = "UGFzc3dvcmQ6"  # "Password:"
            return None
        return Credentials(self._name, text)
