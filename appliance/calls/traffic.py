"""Traffic to replay: a CSV with the columns `time` (RFC 3339 with a zone), `direction` (out, in), `user`, `size` in
bytes, and `priority` (urgent, normal, non-urgent; may be empty or missing). Pure: lines in, messages out.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Message", "TrafficErrors", "parse"]

COLUMNS: Final = ("time", "direction", "user", "size")
PRIORITIES: Final = ("urgent", "normal", "non-urgent")
MOST_MESSAGES: Final = 2_000_000
"""Some 400 MB of memory: more than a site of this kind has in ten years."""
MOST_ERRORS: Final = 20
LARGEST_BYTES: Final = 10**12


@dataclass(frozen=True, slots=True)
class Message:
    """`at`: when it is submitted, or has come to the provider (Unix seconds). `incoming`: it is to be fetched."""

    at: float
    incoming: bool
    user: str
    size: int
    priority: str = "normal"


class TrafficErrors(Exception):
    """Every fault with its line, `line 7: …`, a line each."""


def parse(lines: Iterable[str]) -> list[Message]:
    """In the order of their times, which need not be that of the lines. Raises TrafficErrors."""
    reader = csv.DictReader(lines, skipinitialspace=True)
    faults: list[str] = []
    messages: list[Message] = []
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise TrafficErrors(
                f"line 1: the column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}, priority"
            )
        for row in reader:
            try:
                messages.append(_message(row))
            except ValueError as error:
                faults.append(f"line {reader.line_num}: {error}")
            if len(faults) >= MOST_ERRORS or len(messages) > MOST_MESSAGES:
                break
    except (csv.Error, UnicodeDecodeError) as error:
        faults.append(f"line {reader.line_num}: {error}")
    if len(messages) > MOST_MESSAGES:
        faults.append(f"line {reader.line_num}: more than {MOST_MESSAGES} messages")
    if faults:
        raise TrafficErrors("\n".join(faults))
    if not messages:
        raise TrafficErrors("there is no message in it")
    return sorted(messages, key=lambda m: m.at)


def _message(row: dict[str, str | None]) -> Message:
    """Raises ValueError, in words."""
    text = {name: (row.get(name) or "").strip() for name in (*COLUMNS, "priority")}
    try:
        at = datetime.fromisoformat(text["time"])
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(f'{text["time"]!r} is no time such as "2026-01-05T07:30:00+09:00"')
    if text["direction"] not in ("out", "in"):
        raise ValueError(f"{text['direction']!r} is no direction, out or in")
    if not text["size"].isascii() or not text["size"].isdigit() or int(text["size"]) > LARGEST_BYTES:
        raise ValueError(f"{text['size']!r} is no size in bytes")
    priority = text["priority"] or "normal"
    if priority not in PRIORITIES:
        raise ValueError(f"{priority!r} is no priority: {', '.join(PRIORITIES)}")
    return Message(at.timestamp(), text["direction"] == "in", text["user"], int(text["size"]), priority)
