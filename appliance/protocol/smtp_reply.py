"""SMTP's replies as a client reads them: collecting lines into a `Reply`, and what a reply means. SANS-IO.

RFC 5321 §4.2: a reply is one or more lines of three digits, then "-" on every line but the last, then text. The
digits of the last line count. The text's first word may be an enhanced status code (RFC 2034, 3463).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from appliance.protocol.errors import RemoteProtocolError
from appliance.protocol.linebuffer import LineBuffer

__all__ = ["MAX_LINE", "MAX_LINES", "Reply", "ReplyReader", "extensions_of"]

MAX_LINE: Final = 2048
"""Bytes of one reply line: four times what RFC 5321 §4.5.3.1.5 grants, since servers write whole sentences."""

MAX_LINES: Final = 128
"""Lines of one reply: the longest are answers to EHLO, with some 30 extensions."""

MAX_TEXT: Final = 500
"""Characters of a reply that are kept and shown: those of a reply line (RFC 5321 §4.5.3.1.5)."""

_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")

NEEDS_LOGIN: Final = frozenset({530, 534, 535, 538})
"""RFC 4954 §6: they speak of the login and say nothing about the message, at whatever command they come."""

ABOUT_COMMANDS: Final = frozenset({500, 502, 503})
"""RFC 5321 §4.2.2: unknown or out of order. They come of a session gone wrong and are no verdict on a message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole reply. `lines` are its texts without the digits. `soft`: a 5yz that counts as temporary."""

    code: int
    lines: tuple[str, ...]
    soft: bool = False

    @property
    def ok(self) -> bool:
        """2yz."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        """5yz about the message or an address. What is neither this nor `ok` is temporary."""
        return self.code >= 500 and not self.soft and self.code not in ABOUT_COMMANDS

    @property
    def needs_login(self) -> bool:
        return self.code in NEEDS_LOGIN

    @property
    def status(self) -> str:
        """The enhanced status code, as "5.1.1", or ""."""
        found = _ENHANCED.match(self.lines[0])
        return found[1] if found else ""

    @property
    def text(self) -> str:
        """All of it on one line; an enhanced status code that every line repeats stands once."""
        status = self.status
        rest = [line.removeprefix(status).lstrip() if i and status else line for i, line in enumerate(self.lines)]
        text = " ".join([str(self.code), *filter(None, (r.strip() for r in rest))])
        return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class ReplyReader:
    """`feed` bytes, then take whole replies with `next`."""

    __slots__ = ("_buffer", "_lines")

    def __init__(self) -> None:
        self._buffer = LineBuffer(MAX_LINE)
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        self._buffer.feed(data)

    @property
    def empty(self) -> bool:
        """Whether nothing is left that was fed."""
        return not self._lines and not len(self._buffer)

    def next(self) -> Reply | None:
        """The next reply, or None when there is no whole one yet. Raises RemoteProtocolError."""
        while (line := self._buffer.next_line()) is not None:
            match = _LINE.fullmatch(line)
            if match is None:
                raise RemoteProtocolError(f"that is no SMTP reply: {line[:80].decode('utf-8', 'replace')}")
            self._lines.append((match[3] or b"").decode("utf-8", "replace"))
            if match[2] != b"-":
                reply = Reply(int(match[1]), tuple(self._lines))
                self._lines.clear()
                return reply
            if len(self._lines) >= MAX_LINES:
                raise RemoteProtocolError(f"a reply has more than {MAX_LINES} lines")
        return None


def extensions_of(reply: Reply) -> dict[str, str]:
    """What an answer to EHLO offers: keyword in upper case -> its parameters (RFC 5321 §4.1.1.1)."""
    out: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):  # as written before RFC 2554, beside the right one or alone
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        out[keyword] = f"{out.get(keyword, '')} {parameters}".strip()
    return out
