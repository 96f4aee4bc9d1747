"""What tells a message apart where the server gives it no unique-id, or gave it another one: its header.

Pure functions over the beginning of a message. The stdlib's `email` reads one date here and makes nothing.
"""

from __future__ import annotations

import hashlib
import re
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["HEAD", "date_of", "message_digest", "substitute_uid"]

HEAD: Final = 64 * 1024
"""Bytes of a message in which its Message-ID and Date are looked for."""

_END: Final = re.compile(rb"\r?\n\r?\n")
_FIELD: Final = rb"(?im)^%b[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)"
_MESSAGE_ID: Final = re.compile(_FIELD % b"message-id")
_DATE: Final = re.compile(_FIELD % b"date")


def _header(head: bytes) -> bytes:
    head = head[:HEAD]
    if head.startswith(b"\r\n"):
        return b""
    end = _END.search(head)
    return head[: end.start()] if end else head.rstrip(b"\r\n")


def message_digest(head: bytes) -> str:
    """24 hex digits for the Message-ID, or, where there is none, for the whole header. `head`: the beginning of a
    message, or what TOP brought of it; both give the same."""
    header = _header(head)
    field = _MESSAGE_ID.search(header)
    value = b" ".join(field[1].split()) if field else b""
    return hashlib.sha256(value or header).hexdigest()[:24]


def substitute_uid(digest: str, size: int) -> str:
    """The unique-id of a message that the server gave none: its `message_digest` and size. The blank is in no real one
    (RFC 1939 §7)."""
    return f"{digest} {size}"


def date_of(head: bytes) -> float | None:
    """The Date field as Unix seconds; None where it is missing or can't be read."""
    field = _DATE.search(_header(head))
    if field is None:
        return None
    try:
        return parsedate_to_datetime(field[1].decode("ascii", "replace").strip()).timestamp()
    except (ValueError, OverflowError):
        return None
