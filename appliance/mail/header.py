"""The header of a message on its way in: found, read as far as a submission server must, never rewritten.

Only what decides something is looked at: `Received` (loops), `Message-ID` and `Date` (added where missing, RFC 6409
§8), and the fields by which a mail program says how urgent a message is. What goes in front is made here too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from appliance.mail.envelope import Priority

__all__ = ["MAX_HEADER", "MAX_RECEIVED", "Header", "HeaderGatherer", "priority_of_number", "received_field"]

MAX_HEADER: Final = 256 * 1024
"""A header this long is no mail program's; Postfix stops reading at 100 KB, Exim refuses at 1 MB."""
MAX_RECEIVED: Final = 100
"""RFC 5321 §6.3: at least 100 before a loop is suspected."""
MAX_MESSAGE_ID: Final = 998
"""Characters: RFC 5322 §2.1.1's limit of a line. A longer one is left where it stands, and not kept elsewhere."""

_MT_PRIORITY: Final = re.compile(r"[+-]?[0-9]")
_HIGH: Final = re.compile(r"[12](?![0-9])")
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header said. `message_id`: "" where it has none, or one longer than `MAX_MESSAGE_ID`; `has_message_id`
    tells these apart. `well_formed`: it begins with a field, or is empty. `automatic`: a program wrote it by itself
    (RFC 3834 §5, and what was usual before)."""

    received: int
    message_id: str
    has_message_id: bool
    has_date: bool
    priority: Priority
    well_formed: bool
    automatic: bool = False


class HeaderGatherer:
    """Keeps a message's first bytes until its header is whole: `feed` says when, `data` holds them."""

    __slots__ = ("data", "whole")

    def __init__(self) -> None:
        self.data = bytearray()
        self.whole = False

    def feed(self, piece: bytes) -> bool:
        """Takes a piece; whether the header is `whole` in `data` now, or is longer than `MAX_HEADER`."""
        searched = max(0, len(self.data) - 3)
        self.data += piece
        end = 0 if self.data.startswith(b"\r\n") else self.data.find(b"\r\n\r\n", searched)
        self.whole = 0 <= end <= MAX_HEADER
        return self.whole or len(self.data) > MAX_HEADER

    def read(self) -> Header:
        """What the header says. `data` is the whole message where that has no body."""
        raw = bytes(self.data)
        head = b"" if raw.startswith(b"\r\n") else raw.partition(b"\r\n\r\n")[0]
        unfolded: list[tuple[bytes, list[bytes]]] = []  # joined at the end: a field may have 100,000 lines
        well_formed = True
        for n, line in enumerate(head.split(b"\r\n") if head else []):
            if line[:1] in (b" ", b"\t") and unfolded:
                unfolded[-1][1].append(line)
            elif match := _FIELD.match(line):
                unfolded.append((match[1].lower(), [match[2]]))
            elif n == 0:
                well_formed = False
                break
        fields = [(name, b"".join(lines)) for name, lines in unfolded]
        message_id = next((_text(v) for name, v in fields if name == b"message-id"), "")
        return Header(
            received=sum(name == b"received" for name, _ in fields),
            message_id=message_id if len(message_id) <= MAX_MESSAGE_ID else "",
            has_message_id=bool(message_id),
            has_date=any(name == b"date" for name, _ in fields),
            priority=_priority(fields),
            well_formed=well_formed,
            automatic=any(_is_automatic(name, value) for name, value in fields),
        )


def _text(value: bytes) -> str:
    return value.strip().decode("utf-8", "replace")


def _is_automatic(name: bytes, value: bytes) -> bool:
    word = _text(value).lower()
    if name == b"auto-submitted":
        return word.partition(";")[0].strip() != "no"
    if name == b"precedence":
        return word in ("bulk", "junk", "list", "auto_reply")
    return name in (b"x-autoreply", b"x-autorespond", b"x-auto-response-suppress", b"list-id")


def priority_of_number(number: int) -> Priority:
    """What a number of RFC 6710 (-9 to 9, 0 is normal) means here."""
    return Priority.URGENT if number > 0 else Priority.NON_URGENT if number < 0 else Priority.NORMAL


def _priority(fields: list[tuple[bytes, bytes]]) -> Priority:
    """`Priority` (RFC 2156 §5.3.6), `MT-Priority` (RFC 6758 §2), `Importance` (RFC 2156 again), and `X-Priority` as
    mail programs write it (1 to 5)."""
    for name, value in fields:
        word = _text(value).lower()
        if name == b"priority":
            return Priority(word) if word in ("urgent", "non-urgent") else Priority.NORMAL
        if name == b"mt-priority" and _MT_PRIORITY.fullmatch(word):
            return priority_of_number(int(word))
    for name, value in fields:
        word = _text(value).lower()
        if (name == b"importance" and word == "high") or (name == b"x-priority" and _HIGH.match(word)):
            return Priority.URGENT
    return Priority.NORMAL


def received_field(
    *, client_name: str, client: str, hostname: str, protocol: str, message_id: str, recipient: str, now: float
) -> bytes:
    """`Received` as RFC 5321 §4.4 has it; `protocol` is RFC 3848's word; `recipient` only where there is one alone."""
    address = f"[IPv6:{client}]" if ":" in client else f"[{client}]"
    to = f" for <{recipient}>" if recipient else ""
    return (
        f"Received: from {client_name} ({address})\r\n\tby {hostname} with {protocol} id {message_id}{to};\r\n"
        f"\t{format_datetime(datetime.fromtimestamp(now, UTC))}\r\n"
    ).encode()
