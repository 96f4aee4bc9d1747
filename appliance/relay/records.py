"""A durable dictionary: one file, a journal (`storage.journal`) of what was set and forgotten. For enrolments and for
requests that wait.

    {"key":K,"value":{…}}      set
    {"key":K}                  forgotten

A change can be read and is on stable storage when the method returns; asked for one after the other for the same key,
they are made in that order. When most lines are history the file is written anew. Whole records that this version does
not know are a newer one's and stay.

Who has what the file says in a form of its own lets go of it here (`let_go`): then only the keys stay in memory, and
what is written anew is read from the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack

from appliance import events
from appliance.storage import journal

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.committer import Committer
    from appliance.storage.disk import Disk

__all__ = ["Records"]

SPARE_LINES: Final = 500
"""History that is not worth writing the file anew: some 100 KB."""
NOT_HERE: Final = b""
"""In place of a value that only the file has."""


class Records:
    """One file. Made at start (it reads the file)."""

    def __init__(self, disk: Disk, committer: Committer, path: Path) -> None:
        """Raises OSError when the file is there but can't be read or mended."""
        self._values: dict[str, bytes] = {}  # packed: a third of what as many objects take; NOT_HERE
        self._kept = True
        self._strange: list[dict[str, Any]] = []
        self._disk = disk
        self._committer = committer
        self.path = path
        self._good_bytes = 0
        self._lines = 0
        try:
            replay = journal.replay(path)
        except FileNotFoundError:
            return
        for record in replay.records:
            if not _apply(record, self._values):
                self._strange.append(record)
        self._good_bytes, self._lines = replay.good_bytes, len(replay.records)
        if self._strange:
            events.emit(events.NOT_UNDERSTOOD, file=path, what=f"{len(self._strange)} records")
        if replay.torn:  # never acknowledged: what it was to say had not been promised to anybody
            events.emit(events.RELAY_RECORD_TORN, file=path, bytes=path.stat().st_size - self._good_bytes)

    def get(self, key: str) -> dict[str, Any]:
        """Empty where it is not set."""
        assert self._kept
        packed = self._values.get(key)
        return {} if packed is None else _unpack(packed)

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        assert self._kept
        return [(key, _unpack(packed)) for key, packed in self._values.items()]

    def let_go(self) -> None:
        """From now on the file alone knows the values: neither `get` nor `items` is called any more."""
        self._kept = False
        self._values = dict.fromkeys(self._values, NOT_HERE)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        """Raises OSError; it is then not set."""
        await self._committer.commit(lambda: self._write({"key": key, "value": value}), quick=True)

    async def forget(self, key: str) -> None:
        """One that is not there is no error. Raises OSError; it is then still there."""
        if key in self._values:
            await self._committer.commit(lambda: self._write({"key": key}), quick=True)

    # ---- the committer's work
    def _write(self, record: dict[str, Any]) -> None:
        if self._lines > 2 * (len(self._values) + len(self._strange)) + SPARE_LINES:
            self._write_anew()
        self._good_bytes = journal.append(self._disk, self.path, [record], behind=self._good_bytes)
        self._lines += 1
        _apply(record, self._values)
        if not self._kept and "value" in record:
            self._values[record["key"]] = NOT_HERE

    def _write_anew(self) -> None:
        values = self._values
        if not self._kept:
            values = {}
            for record in journal.replay(self.path).records:
                _apply(record, values)
            if values.keys() != self._values.keys():  # it is damaged: what stands behind that would be lost for good
                self._lines = 0
                return
        records = [*self._strange, *({"key": k, "value": _unpack(packed)} for k, packed in values.items())]
        data = journal.encode(records)
        self._disk.replace_file(self.path, data)
        self._good_bytes, self._lines = len(data), len(records)


def _apply(record: dict[str, Any], values: dict[str, bytes]) -> bool:
    """Sets or forgets what the record says; -> whether this version knows such a one."""
    match record:
        case {"key": str() as key, "value": dict() as value}:
            values[key] = msgpack.packb(value)
        case {"key": str() as key, **more} if not more:
            values.pop(key, None)
        case _:
            return False
    return True


def _unpack(packed: bytes) -> dict[str, Any]:
    value: dict[str, Any] = msgpack.unpackb(packed)
    return value
