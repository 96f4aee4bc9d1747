"""Messages that a line cut within: what has come of each is kept, and the next call goes on behind it.

It owns the files under `fetched/parts/ACCOUNT/`, one a message. What of a file holds is a line of the account's
record: so many bytes with that sum. `keep` flushes the bytes before it writes that line; what stands behind them is cut
off, and a file that does not have them is dropped: then the message begins anew, which costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from appliance.storage.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.storage.committer import Committer
    from appliance.storage.disk import Disk

__all__ = ["MIN_PART", "Part", "Parts"]

MIN_PART: Final = 4 * 1024
"""Bytes that are worth a file and a flush: 14 s of a line of 300 bytes/s."""

READ: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """The first `have` bytes of `total` have come, with the sum `crc32`."""

    have: int
    crc32: int
    total: int

    def line(self, uid: str) -> dict[str, Any]:
        return {"part": uid, "have": self.have, "crc": self.crc32, "total": self.total}


class Record(Protocol):
    """The account's record, which says what of the files holds."""

    @property
    def parts(self) -> Mapping[str, Part]: ...

    def write(self, records: list[dict[str, Any]]) -> None: ...


class Parts:
    """One account's. Used by one fetcher."""

    def __init__(self, disk: Disk, committer: Committer, folder: Path, record: Record) -> None:
        self._disk, self._committer, self._folder, self._record = disk, committer, folder, record

    def _path(self, uid: str) -> Path:
        return self._folder / hashlib.sha256(uid.encode()).hexdigest()[:24]

    def draft(self, uid: str) -> Draft:
        """A file for a message that may be cut. Raises OSError."""
        path = self._path(uid)
        self._disk.mkdir(self._folder)
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(path)
        return Draft(self._disk, path)

    async def resume(self, uid: str, head: int) -> tuple[Draft, bytes] | None:
        """What has come of a message and its first `head` bytes, if it is as the record says; else None, and the file
        is gone. Raises OSError."""
        part = self._record.parts[uid]
        return await trio.to_thread.run_sync(self._resume, part, self._path(uid), head)

    def _resume(self, part: Part, path: Path, head: int) -> tuple[Draft, bytes] | None:
        try:
            with open(path, "rb", buffering=0) as file:
                beginning = file.read(min(head, part.have))
                crc, left = zlib.crc32(beginning), part.have - len(beginning)
                while left and (data := file.read(min(READ, left))):
                    crc, left = zlib.crc32(data, crc), left - len(data)
        except FileNotFoundError:
            return None
        if left or crc != part.crc32:
            self._disk.unlink(path)
            return None
        return Draft.resume(self._disk, path, part.have, part.crc32), beginning

    async def keep(self, uid: str, draft: Draft, total: int) -> None:
        """Makes what has come of a message durable; more may follow. Raises OSError."""

        def work() -> None:
            draft.flush()
            self._record.write([Part(draft.size, draft.crc32, total).line(uid)])

        await self._committer.commit(work)

    def sweep(self) -> None:
        """At start: takes away what no line of the record speaks of. Raises OSError."""
        if self._folder.is_dir():
            known = {self._path(uid) for uid in self._record.parts}
            for path in [p for p in self._folder.iterdir() if p not in known]:
                self._disk.unlink(path)
