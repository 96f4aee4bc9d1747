"""The record of what one account has fetched: which unique-ids must not be fetched again. Durable.

It owns one file under `fetched/`, a journal (`storage.journal`). It knows nothing of POP3, mailboxes or calls.

    {"first":WALL}                                   the account's first fetch was made, at that wall clock time
    {"uid":U,"state":S,"size":N,"mid":M}             S: fetched | skipped (neither fetched nor ever deleted)
    {"uid":U,"state":"stub",…,"token":T}             a stub lies in the mailbox, the message stays upstream
    {"ask":U,"for":W}                                its user wants it: W is get or delete
    {"gone":[U,…]}                                   the server no longer lists these
    {"part":U,"have":N,"crc":C,"total":T}            the line was cut within this message: what has come of it (`parts`)
    {"folder":[V,N,E,M]}                             UIDVALIDITY, UIDNEXT, messages and HIGHESTMODSEQ of the IMAP folder
                                                     when nothing was left to do there
    {"checked":W,"boot":B,"of":ID}                   asked, with nothing left to do, at that moment (`clock.Mark`); only
                                                     of an account that is not asked at each call

Every change is a line appended within the committer's batch and is durable when the method returns. A line that a
power cut or a full disk tore is cut off before anything is appended behind it. When most lines are history the file
is written anew. A whole line that this version does not know is a newer one's and stays, in a file that is written anew
too; a message of which it tells is neither fetched nor deleted.

An append may be lost after the mail was delivered; `key` names the message in the mailbox, so that the fetcher finds
it there and records it then (`Inbox.delivered_keys`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.clock import Mark
from appliance.mail.store.parts import Part, Parts
from appliance.storage import journal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from appliance.config.model import Account
    from appliance.storage.committer import Committer
    from appliance.storage.disk import Disk
    from appliance.storage.journal import Record

__all__ = [
    "Ask",
    "FetchedRecord",
    "Folder",
    "Known",
    "KnownState",
    "by_message",
    "delivery_key",
    "record_name",
    "stub_key",
]

SPARE_LINES: Final = 500
"""History that is not worth writing the file anew: some 50 KB."""


class KnownState(StrEnum):
    FETCHED = "fetched"
    SKIPPED = "skipped"
    STUB = "stub"


class Ask(StrEnum):
    """What a user wants done with a message of which he has a stub."""

    GET = "get"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Known:
    """A message that must not be fetched. `size` as the server counted it, `message_id` a digest of its Message-ID
    ("" where it was not seen): both are for a server whose unique-ids changed. `token`: what its stub is called, ""
    where it has none."""

    uid: str
    state: KnownState
    size: int
    message_id: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """An IMAP folder as a fetcher left it, all its work done. `modseq`: 0 where it is not known."""

    uidvalidity: int
    uidnext: int
    exists: int
    modseq: int


def record_name(user: str, account: Account) -> str:
    """The file name of this account's record: readable, and safe whatever the login holds."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", f"{user}-{account.login}@{account.host}")[:80].lstrip(".")
    return f"{readable}-{_digest(_identity(user, account), 16)}"


def delivery_key(user: str, account: Account, uid: str) -> str:
    """What a fetched message is called in the mailbox: 24 characters of 0-9 a-f."""
    return _digest(f"{_identity(user, account)}\0{uid}", 24)


def stub_key(token: str) -> str:
    """What a stub is called in the mailbox."""
    return f"stub{token}"


def _identity(user: str, account: Account) -> str:
    return "\0".join((user, account.protocol, account.host, str(account.port), account.login, account.folder))


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


class FetchedRecord:
    """One account's. Made at start (it reads the file); used by one fetcher, which only reads `known`."""

    def __init__(self, disk: Disk, committer: Committer, folder: Path, name: str, *, corrupt: Path) -> None:
        """Raises OSError when the file is there but can't be read or mended."""
        self.path = folder / name
        self.known: dict[str, Known] = {}
        self.first_fetch: float | None = None
        """Wall clock of the first fetch, Unix seconds; None before it."""
        self.folder: Folder | None = None
        """None while there is something left to do, or it is not IMAP."""
        self.checked: Mark | None = None
        """When it was asked last, of an account that is not asked at each call."""
        self.parts: dict[str, Part] = {}
        self.asks: dict[str, Ask] = {}
        """Unique-id of a stub's message -> what its user wants."""
        self._strange: list[Record] = []
        self._asked = trio.Event()
        self.partial = Parts(disk, committer, folder / "parts" / name, self)
        self._disk = disk
        self._committer = committer
        self._good_bytes = 0
        self._lines = 0
        self._load(corrupt)
        self.partial.sweep()

    def _load(self, corrupt: Path) -> None:
        try:
            replay = journal.replay(self.path)
        except FileNotFoundError:
            return
        for record in replay.records:
            self._apply(record)
        if self._strange:
            events.emit(events.NOT_UNDERSTOOD, file=self.path, what=f"{len(self._strange)} records")
        if self.first_fetch is None:  # cut off within `begin`: it will be done again
            self.known = {uid: k for uid, k in self.known.items() if k.state is not KnownState.SKIPPED}
        self._good_bytes, self._lines = replay.good_bytes, len(replay.records)
        if replay.torn:
            self._put_aside(corrupt)

    def _put_aside(self, corrupt: Path) -> None:
        aside = corrupt / f"{self.path.name}.{self._good_bytes}"
        self._disk.mkdir(corrupt)
        if not aside.exists():
            fd = self._disk.create(aside)
            try:
                self._disk.write(fd, self.path.read_bytes())
            finally:
                self._disk.close(fd)
        self._disk.syncfs(corrupt)
        fd = self._disk.open_append(self.path)
        try:
            self._disk.truncate(fd, self._good_bytes)
        finally:
            self._disk.close(fd)
        events.emit(events.PUT_ASIDE, file=self.path, why="its end is torn", moved_to=aside)

    def _apply(self, record: Record) -> None:
        match record:
            case {"first": float() | int() as wall}:
                self.first_fetch = float(wall)
            case {
                "uid": str() as uid,
                "state": "fetched" | "skipped" | "stub" as state,
                "size": int() as size,
                "mid": str() as mid,
            }:
                if self._strange:  # what a newer version said of it is history
                    self._strange = [r for r in self._strange if r.get("uid") != uid]
                token = str(record.get("token", ""))
                asked = self.asks.pop(uid, None) or self._asked_for(token)
                self.known[uid] = Known(uid, KnownState(state), size, mid, token)
                self.parts.pop(uid, None)
                if state == "stub" and asked is not None:  # its message has another unique-id now
                    self.asks[uid] = asked
            case {"ask": str() as uid, "for": "get" | "delete" as what}:
                self.asks[uid] = Ask(what)
            case {"gone": list() as uids}:
                for uid in uids:
                    self.known.pop(uid, None)
                    self.parts.pop(uid, None)
                    self.asks.pop(uid, None)
            case {"part": str() as uid, "have": int() as have, "crc": int() as crc, "total": int() as total}:
                self.parts[uid] = Part(have, crc, total)
            case {"folder": [int() as validity, int() as uidnext, int() as exists, int() as modseq]}:
                self.folder = Folder(validity, uidnext, exists, modseq)
            case {"checked": float() | int() as wall, "boot": float() | int() as boot, "of": str() as boot_id}:
                self.checked = Mark(float(wall), float(boot), boot_id)
            case {"uid": str() as uid}:
                self._strange.append(record)
                self.known[uid] = Known(uid, KnownState.SKIPPED, 0)
            case _:
                self._strange.append(record)

    def _asked_for(self, token: str) -> Ask | None:
        found = (self.asks.get(k.uid) for k in self.known.values() if k.token == token) if token else ()
        return next((what for what in found if what is not None), None)

    # ---- changes; each raises OSError, and what it was to record is then not recorded
    async def begin(self, wall: float, skipped: Iterable[Known]) -> None:
        """The first fetch: these messages are neither fetched nor deleted, now or later."""
        # "first" comes last: where a power cut keeps a part only, it was no first fetch
        await self._append([*map(_line, skipped), {"first": wall}])

    async def add(self, *known: Known) -> None:
        """These lie in the mailbox, or are to be skipped."""
        await self._append(list(map(_line, known)))

    async def forget(self, uids: Collection[str]) -> None:
        """The server no longer lists these: nothing can come of them any more. Only while nothing else is being
        recorded: this is where the file is written anew."""
        if uids:
            await self._append([{"gone": sorted(uids)}])
        if self._lines > 2 * len(self.known) + SPARE_LINES:
            await self._committer.commit(self._write_anew)

    async def ask(self, uid: str, what: Ask) -> None:
        """The user wants this done with a message of which he has a stub."""
        await self._committer.commit(lambda: self.write([{"ask": uid, "for": what.value}]), then=self._tell)

    def _tell(self) -> None:
        self._asked.set()
        self._asked = trio.Event()

    async def wait_asked(self) -> None:
        """Returns when something is asked for."""
        await self._asked.wait()

    async def leave(self, folder: Folder) -> None:
        """Nothing is left to do in an IMAP folder that looks so."""
        if folder != self.folder:
            await self._append([_folder_line(folder)])

    async def check(self, mark: Mark) -> None:
        """It was asked at that moment, and nothing is left to do there."""
        await self._append([_checked_line(mark)])

    async def _append(self, records: list[Record]) -> None:
        await self._committer.commit(lambda: self.write(records))

    # ---- in the committer's thread
    def write(self, records: list[Record]) -> None:
        """Appends these and acts on them. For a committer's batch; raises OSError."""
        self._good_bytes = journal.append(self._disk, self.path, records, behind=self._good_bytes)
        self._lines += len(records)
        # Here and not in `_append`, so that memory and file agree even when who asked was cancelled meanwhile.
        for record in records:
            self._apply(record)

    def _write_anew(self) -> None:
        records: list[Record] = [] if self.first_fetch is None else [{"first": self.first_fetch}]
        self._strange = [r for r in self._strange if "uid" not in r or r["uid"] in self.known]
        told = {r.get("uid") for r in self._strange}
        records += self._strange
        records += (_line(known) for known in self.known.values() if known.uid not in told)
        records += (part.line(uid) for uid, part in self.parts.items())
        records += ({"ask": uid, "for": what.value} for uid, what in self.asks.items())
        records += [_folder_line(self.folder)] if self.folder is not None else []
        records += [_checked_line(self.checked)] if self.checked is not None else []
        data = journal.encode(records)
        self._disk.replace_file(self.path, data)
        self._good_bytes, self._lines = len(data), len(records)


def _line(known: Known) -> Record:
    line: Record = {"uid": known.uid, "state": known.state.value, "size": known.size, "mid": known.message_id}
    return {**line, "token": known.token} if known.token else line


def _folder_line(folder: Folder) -> Record:
    return {"folder": [folder.uidvalidity, folder.uidnext, folder.exists, folder.modseq]}


def _checked_line(mark: Mark) -> Record:
    return {"checked": mark.wall, "boot": mark.boot, "of": mark.boot_id}


def by_message(known: Iterable[Known]) -> dict[tuple[str, int], Known]:
    """(digest of the Message-ID, size) -> what is known, for a server whose unique-ids changed or that has none."""
    return {(k.message_id, k.size): k for k in known if k.message_id}
