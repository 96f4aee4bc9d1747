"""An append-only file of records, one JSON object a line, each with its own sum: `crc32(8 hex) SPACE json LF`.

Readable by a person with `cut -c10-`. A line is whole or it is not there: `replay` stops at the first line
that is torn and says where; whoever appends cuts the file there first (`Disk.truncate`). For the ledger, the
envelopes of the spool and the records of fetched mail.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Replay", "encode", "replay"]

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a file holds: its whole records, the length of the file up to there, and whether bytes follow
    that are no whole record (a torn tail, or damage in the middle: all behind it is out of reach)."""

    records: list[Record]
    good_bytes: int
    torn: bool


def encode(records: Iterable[Record]) -> bytes:
    """The lines of these records."""
    out = bytearray()
    for record in records:
        body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        out += b"%08x %b\n" % (zlib.crc32(body), body)
    return bytes(out)


def replay(path: Path) -> Replay:
    """Reads a whole file. Raises OSError; a missing file is FileNotFoundError."""
    return decode(path.read_bytes())


def decode(data: bytes) -> Replay:
    records: list[Record] = []
    good = 0
    while (end := data.find(b"\n", good)) >= 0:
        line = data[good:end]
        body = line[9:]
        try:
            if line[8:9] != b" " or int(line[:8], 16) != zlib.crc32(body):
                break
            record = json.loads(body)
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
        good = end + 1
    return Replay(records, good, good != len(data))
