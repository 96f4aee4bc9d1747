"""What an IMAP client writes (strings, folder names, sets of UIDs) and reads (sets, dates, FETCH responses). Pure."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from appliance.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.protocol.imap_lexer import Value

__all__ = [
    "MAX_UIDS",
    "MONTHS",
    "fetch_response",
    "folder_name",
    "internal_date",
    "number_of",
    "quotable",
    "quoted",
    "read_set",
    "uid_set",
]

MAX_UIDS: Final = 1_000_000
"""UIDs of one set: a set of ten characters can name four thousand million."""

MONTHS: Final = b"jan feb mar apr may jun jul aug sep oct nov dec".split()
_DATE: Final = re.compile(rb" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_RANGE: Final = re.compile(r"([0-9]{1,20})(?::([0-9]{1,20}))?")
_QUOTABLE: Final = re.compile(r"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_DIRECT: Final = re.compile(r"[\x20-\x25\x27-\x7e]+|&|[^\x20-\x7e]+")


def quotable(text: str) -> bool:
    """Whether it may stand in quotes (RFC 3501 §4.3); else it takes a literal."""
    return _QUOTABLE.fullmatch(text) is not None


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def folder_name(name: str) -> str:
    """A folder's name in modified UTF-7 (RFC 3501 §5.1.3)."""
    out = []
    for part in _DIRECT.findall(name):
        if part == "&":
            out.append("&-")
        elif part.isascii() and part.isprintable():
            out.append(part)
        else:
            coded = base64.b64encode(part.encode("utf-16-be", "surrogatepass")).decode().rstrip("=")
            out.append(f"&{coded.replace('/', ',')}-")
    return "".join(out)


def uid_set(uids: Iterable[int]) -> str:
    """As short as a set is: `1:5,7`."""
    out: list[list[int]] = []
    for uid in sorted(set(uids)):
        if out and out[-1][1] == uid - 1:
            out[-1][1] = uid
        else:
            out.append([uid, uid])
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in out)


def read_set(text: str) -> list[int]:
    """The UIDs of a set without `*`, rising. Raises RemoteProtocolError."""
    out: set[int] = set()
    for part in text.split(",") if text else ():
        found = _RANGE.fullmatch(part)
        if found is None:
            raise RemoteProtocolError(f"that is no set of UIDs: {part[:40]}")
        a, b = sorted((int(found[1]), int(found[2] or found[1])))
        if b - a + len(out) >= MAX_UIDS:
            raise RemoteProtocolError(f"a set of more than {MAX_UIDS} UIDs")
        out.update(range(a, b + 1))
    return sorted(out)


def fetch_response(values: list[Value]) -> tuple[int, dict[str, Value]]:
    """Sequence number and items, as far as they have come. Raises RemoteProtocolError."""
    items = values[2] if len(values) > 2 else None
    if not isinstance(items, list):
        raise RemoteProtocolError("a FETCH response without a list")
    keys = [key.upper() if isinstance(key, str) else "" for key in items[::2]]
    return number_of(values[0]), dict(zip(keys, items[1::2], strict=False))


def number_of(value: Value) -> int:
    """0 where it is none."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value) else 0


def internal_date(value: bytes) -> float | None:
    """Unix seconds (RFC 3501 §9 date-time); None where it is none."""
    found = _DATE.fullmatch(value)
    if found is None or found[2].lower() not in MONTHS:
        return None
    day, year, hour, minute, second, off_hours, off_minutes = (int(found[n]) for n in (1, 3, 4, 5, 6, 8, 9))
    east = timedelta(hours=off_hours, minutes=off_minutes) * (-1 if found[7] == b"-" else 1)
    try:
        month = MONTHS.index(found[2].lower()) + 1
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone(east)).timestamp()
    except (ValueError, OverflowError):
        return None
