"""An append-only file of records, one JSON object a line, each with its own sum: `crc32(8 hex) SPACE json LF`.

Readable by a person with `cut -c10-`. A line is whole or it is not there: `replay` stops at the first line
that is torn and says where, and `append` cuts the file there first. For the ledger, the
envelopes of the spool and the records of fetched mail.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["Replay", "append", "encode", "replay"]

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


def append(disk: Disk, path: Path, records: Iterable[Record], *, behind: int) -> int:
    """Puts these behind the file's first `behind` bytes, the length of what is good in it; -> that length now. The file
    is made where there is none. Nothing may stand behind half a line: what an append that failed or was cut off left is
    cut away first. Raises OSError; the good length is then what it was."""
    data = encode(records)
    if not path.exists():
        disk.close(disk.create(path))
        behind = 0
    fd = disk.open_append(path)
    try:
        if os.fstat(fd).st_size != behind:
            disk.truncate(fd, behind)
        disk.write(fd, data)
    finally:
        disk.close(fd)
    return behind + len(data)


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
