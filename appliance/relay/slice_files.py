"""Other relay servers' slices on the disk: a journal (`storage.journal`) each, `OWNER.slice`. What stands in them is
`others.Others`'.

It owns the files, their sizes and the limit of them all. A file that can't be read is thrown away, and so is one that
grows beyond what is left: it holds nothing but what the others tell again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from appliance import events
from appliance.protocol.relay import is_name
from appliance.storage import journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.storage.committer import Committer
    from appliance.storage.disk import Disk

__all__ = ["SliceFiles", "Written"]

FILES_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of them all: 200,000 entries with their history. Memory is bounded by entries; the disk is the mail's too."""
SPARE_BYTES: Final = 64 * 1024
"""History that is not worth writing a file anew."""
SUFFIX: Final = ".slice"
"""With it no owner's name is another one's draft (`Disk.replace_file`)."""

Written = tuple[bool, list[dict[str, Any]]]
"""(anew, records): in place of the file, or behind what is in it. Without a record the file goes."""


class SliceFiles:
    """Made at start, where it reads the files: `found`, owner -> records, is for whoever takes them up."""

    def __init__(self, disk: Disk, committer: Committer, folder: Path, *, limit: int = FILES_LIMIT) -> None:
        """Raises OSError where the folder can't be made or read."""
        self.found: dict[str, list[dict[str, Any]]] = {}
        self._disk = disk
        self._committer = committer
        self._folder = folder
        self._limit = limit
        self._good: dict[str, int] = {}  # bytes of a file that are whole records
        self._anew: dict[str, int] = {}  # and its bytes when it was written anew, here
        disk.mkdir(folder)
        for path in sorted(folder.iterdir()):
            self._read(path)

    def _read(self, path: Path) -> None:
        owner = path.name.removesuffix(SUFFIX)
        if not path.name.endswith(SUFFIX) or not is_name(owner):
            with contextlib.suppress(OSError):
                self._disk.unlink(path)  # a draft that a power cut left
            return
        try:
            size, replay = path.stat().st_size, journal.replay(path)
        except OSError as error:
            events.emit(events.SLICE_THROWN_AWAY, file=path, why=error.strerror or error)
            with contextlib.suppress(OSError):
                self._disk.unlink(path)
            return
        if replay.torn:
            events.emit(events.RELAY_RECORD_TORN, file=path, bytes=size - replay.good_bytes)
        self.found[owner] = replay.records
        self._good[owner] = replay.good_bytes

    def wants_anew(self, owner: str) -> bool:
        """Whether there is nothing that records may stand behind, or most of the file is history."""
        return self._good.get(owner, 0) > 2 * self._anew.get(owner, 0) + SPARE_BYTES or owner not in self._good

    def damaged(self, owner: str, why: str) -> None:
        """What was found is not to be used: it is thrown away at the next `write`."""
        events.emit(events.SLICE_THROWN_AWAY, file=self._path(owner), why=why)

    async def write(self, changes: Mapping[str, Written]) -> list[str]:
        """All of these, durably; -> the owners whose files had to go, for lack of room. Raises OSError: none of these
        files is then known to be good, and each must be written anew."""
        return await self._committer.commit(lambda: self._write(changes))

    # ---- the committer's work
    def _write(self, changes: Mapping[str, Written]) -> list[str]:
        gone = []
        for owner, (anew, records) in changes.items():
            path = self._path(owner)
            if not records:
                self._remove(owner)
            elif anew:
                data = journal.encode(records)
                self._disk.replace_file(path, data)
                self._good[owner] = self._anew[owner] = len(data)
            else:
                self._good[owner] = journal.append(self._disk, path, records, behind=self._good[owner])
            if sum(self._good.values()) > self._limit:
                self._remove(owner)
                gone.append(owner)
        return gone

    def _remove(self, owner: str) -> None:
        path = self._path(owner)
        if path.exists():
            self._disk.unlink(path)
        self._good.pop(owner, None)
        self._anew.pop(owner, None)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}{SUFFIX}"
