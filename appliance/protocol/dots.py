"""Dot-stuffing both ways, streamed: SMTP's DATA (RFC 5321 §4.5.2) and POP3's multi-line answers (RFC 1939 §3).

`Stuffer` makes of a message's bytes what goes over the wire, `Unstuffer` the message of what came. Both work on
pieces cut anywhere and keep at most four bytes between them. Only CR LF . CR LF ends the data: never a bare LF or
CR (SMTP smuggling, CVE-2023-51764 to 51766).
"""

from __future__ import annotations

from typing import Final

__all__ = ["END", "Stuffer", "Unstuffer"]

END: Final = b"\r\n.\r\n"
_PREFIXES: Final = (END[:4], END[:3], END[:2], END[:1])


class Stuffer:
    """`feed` pieces of a message, then `finish`; what they return goes out in that order."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the last two bytes so far: a message begins at the beginning of a line

    def feed(self, data: bytes) -> bytes:
        """The piece with the dots doubled that begin a line."""
        if not data:
            return b""
        joined = self._tail + data
        self._tail = joined[-2:]
        # Dots are doubled in what is new; two bytes in front show whether it goes on at the beginning of a line.
        return joined.replace(b"\r\n.", b"\r\n..")[2:] if b"\r\n." in joined else data

    def finish(self) -> bytes:
        """The end of data; a last line without its end gets one first (RFC 5321 §4.1.1.4)."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


class Unstuffer:
    """`feed` what comes until `ended`; `rest` is then what came behind the end."""

    __slots__ = ("_carry", "_first", "ended", "rest")

    def __init__(self) -> None:
        self._carry = b"\r\n"  # the data begins at the beginning of a line
        self._first = True
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The message's bytes as far as they are certain; its last CR LF belongs to it."""
        work = self._carry + data
        end = work.find(END)
        if end >= 0:
            self.ended = True
            self.rest = work[end + len(END) :]
            work = work[: end + 2]
            self._carry = b""
        else:
            held = next((len(p) for p in _PREFIXES if work.endswith(p)), 0)
            self._carry = work[len(work) - held :]
            work = work[: len(work) - held]
        if b"\r\n." in work:
            work = work.replace(b"\r\n.", b"\r\n")
        if self._first and work:
            # The CR LF in front was ours; an empty message is nothing at all.
            self._first = False
            work = work[2:]
        return work
