"""One user's mailbox: a Maildir under `mail/<user>/`, shared with Dovecot, which serves IMAP from it (DESIGN §7).

It owns the names in that Maildir and every change that Posthouse makes there. It knows nothing of protocols,
accounts or routing.

How it works. A message is written in tmp/ (or lies in the spool) and comes into new/ by one rename or link,
inside a committer's batch. The batch's flush comes *after* that rename, so a power cut may leave a name in new/
whose bytes are missing. Nobody was told that such a message is safe; its name carries what finds it out:

    SECONDS.M<microseconds>P<pid>C<crc32>[K<key>].<site>,S=<octets>,W=<octets with CRLF line ends>[:2,<flags>]

Everything up to the colon is the base name. It never changes, while Dovecot moves the file from new/ to cur/ and
writes flags behind the colon; so messages are told apart, deleted and numbered for UIDL by it alone. `,S=` and
`,W=` are what Dovecot reads sizes from.

Looking is cheap: what a scan found is used again until the modification time of new/ or cur/ changes. Two changes
within one tick of a file system's clock leave one time, so what a scan found too soon after a change is not
trusted. Methods are synchronous, take a lock, and may be called from any thread; `deliver` and `delete` are the
asynchronous ones and are durable when they return.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from appliance import events
from appliance.storage.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from appliance.storage.committer import Committer
    from appliance.storage.paths import StatePaths

__all__ = ["Mailbox", "MessageGone", "StoredMessage"]

SETTLED_NS: Final = 2_000_000_000
"""A folder's modification time is trusted once it lies this far back: above the coarsest clock of a file system
that holds Maildirs (1 s)."""

SCAN_TRIES: Final = 5
"""A file renamed while its folder is read may be missed: so often a scan is made anew when its folder changed."""

STALE_S: Final = 36 * 3600.0
"""Age at which another program's file in tmp/ is a leftover (maildir(5))."""

RECENT_S: Final = 3600.0
"""What Dovecot moved to cur/ at once may be as unfinished as what lies in new/: so far back, counted from the
mailbox's newest file, the sum is checked there too. A kernel writes everything out within a minute."""

READ: Final = 1 << 20
KEY_LIMIT: Final = 32

_NAME = re.compile(
    r"(?P<seconds>\d{1,12})\.(?:M(?P<usec>\d{1,9}))?(?P<unique>[^,:/]*)(?:,S=(?P<s>\d{1,15}))?(?:,W=(?P<w>\d{1,15}))?"
)
_OURS = re.compile(r"P\d+C(?P<crc>[0-9a-f]{8})(?:K(?P<key>[a-z0-9]{1,32}))?\..*")
_DRAFT: Final = ".draft"


class MessageGone(Exception):
    """Another program deleted the message or moved it out of the mailbox."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a listing. `path` is where it was; `base` names it for good. `size` is the file's, `wire_size`
    with every line end as CRLF, which is what POP3 counts (RFC 1939 §11), both in octets. `crc32` and `key` are None
    and "" for what another program put here."""

    path: Path
    base: str
    order: tuple[int, int, str]
    size: int
    wire_size: int
    crc32: int | None
    key: str

    @property
    def uidl(self) -> str:
        """RFC 1939 §7: 32 characters that stay with the message while its file moves or its flags change."""
        return hashlib.blake2b(os.fsencode(self.base), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Scan:
    stamp: tuple[int, int]
    settled: bool
    by_name: dict[tuple[str, str], StoredMessage]
    messages: tuple[StoredMessage, ...]
    usage: int


class Mailbox:
    """Implements `mail.delivery.Inbox`. One object per user and process; `recover` comes before anything else."""

    def __init__(
        self,
        user: str,
        paths: StatePaths,
        committer: Committer,
        *,
        site: str,
        quota_bytes: int | None = None,
        wall: Callable[[], float] = time.time,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        """`free_bytes`: what new mail may still use of the disk; without it that is not looked at."""
        self.user = user
        self.quota_bytes = quota_bytes
        self.root = paths.mail / user
        self._tmp, self._new, self._cur = self.root / "tmp", self.root / "new", self.root / "cur"
        self._corrupt = paths.corrupt
        self._committer = committer
        self._disk = committer.disk
        self._site = re.sub(r"[^A-Za-z0-9._-]", "_", site)
        self._wall = wall
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._scan: _Scan | None = None
        self._last_stamp = (0, 0)

    # ---- start
    def recover(self) -> None:
        """At start, before Posthouse writes here (Dovecot may be at work): makes the folders, removes what was never
        delivered, and puts what is damaged aside. Raises OSError. The next committed batch makes it durable; until
        then it would be done again."""
        for folder in (self._tmp, self._new, self._cur):
            self._disk.mkdir(folder)
        for path in list(self._tmp.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if path.name.endswith(_DRAFT) or self._wall() - path.stat().st_mtime > STALE_S:
                    self._disk.unlink(path)
        moved = {path.name.partition(":")[0]: path for path in self._cur.iterdir()}
        for path in [p for p in self._new.iterdir() if p.name in moved]:
            # Dovecot had moved it to cur/, and the redo log brought it back. One of the two is enough, and what lies in
            # cur/ may be a name alone: nobody flushed the bytes that it was moved with.
            with contextlib.suppress(FileNotFoundError):
                if self._is_whole(path) and not self._is_whole(moved[path.name]):
                    self._disk.rename(path, moved[path.name])
                else:
                    self._disk.unlink(path)
        found = []
        for message in self.messages():
            # What has no sum of ours in its name another program wrote, flushed and answers for.
            if message.crc32 is not None:
                with contextlib.suppress(MessageGone), self.open(message) as file:
                    found.append((message, os.fstat(file.fileno())))
        newest = max((status.st_mtime for _, status in found), default=0.0)
        for message, status in found:
            unsure = message.path.parent == self._new or status.st_mtime >= newest - RECENT_S
            with contextlib.suppress(MessageGone):
                if status.st_size != message.size:
                    self._put_aside(message, f"{status.st_size} bytes, not {message.size}")
                elif unsure and self._crc32_of(message) != message.crc32:
                    self._put_aside(message, "its sum is wrong")

    def _crc32_of(self, message: StoredMessage) -> int:
        with self.open(message) as file:
            return _crc32(file)

    @staticmethod
    def _is_whole(path: Path) -> bool:
        """As far as its name says; of what another program wrote it says nothing."""
        message = _parse(path.parent, path.name)
        if message is None or message.crc32 is None:
            return True
        with open(path, "rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size == message.size and _crc32(file) == message.crc32

    def _put_aside(self, message: StoredMessage, why: str) -> None:
        self._disk.mkdir(self._corrupt)
        path: Path | None = message.path
        for _ in range(SCAN_TRIES):
            if path is None:
                break
            to = self._corrupt / f"{self.user}.{path.name}"
            try:
                self._disk.rename(path, to)
            except FileNotFoundError:
                path = self._find([message.base]).get(message.base)
            else:
                events.emit(events.PUT_ASIDE, file=path, why=why, moved_to=to)
                return
        raise MessageGone(message.base)

    # ---- looking
    def messages(self) -> Sequence[StoredMessage]:
        """All that lie in new/ and cur/, in the order of their delivery. Raises OSError."""
        with self._lock:
            return self._look().messages

    @property
    def usage(self) -> int:
        """Octets in new/ and cur/."""
        with self._lock:
            return self._look().usage

    def has_room(self, size: int) -> bool:
        """Whether a message of that many octets fits the quota."""
        return self.quota_bytes is None or self.usage + size <= self.quota_bytes

    def disk_has_room(self, size: int) -> bool:
        """Whether the disk takes that many octets more beyond its reserve."""
        return self._free_bytes is None or size < self._free_bytes()

    def delivered_keys(self) -> set[str]:
        """The keys of the messages that lie here now."""
        return {m.key for m in self.messages() if m.key}

    def open(self, message: StoredMessage) -> BinaryIO:
        """Its file, unbuffered, wherever Dovecot has moved it meanwhile. Raises MessageGone or OSError."""
        path: Path | None = message.path
        for _ in range(SCAN_TRIES):
            if path is None:
                break
            try:
                return open(path, "rb", buffering=0)
            except FileNotFoundError:
                path = self._find([message.base]).get(message.base)
        raise MessageGone(message.base)

    def _find(self, bases: Iterable[str]) -> dict[str, Path]:
        wanted = set(bases)
        return {m.base: m.path for m in self.messages() if m.base in wanted}

    def _look(self) -> _Scan:
        known = self._scan
        for _ in range(SCAN_TRIES):
            now = time.time_ns()
            stamp = self._stamp()
            if known is not None and known.settled and known.stamp == stamp:
                return known
            by_name = self._read(known.by_name if known is not None else {})
            if self._stamp() == stamp:
                break
        # A message on its way from new/ to cur/ was seen in both; the later place holds.
        messages = sorted({m.base: m for m in by_name.values()}.values(), key=lambda m: m.order)
        settled = max(stamp) + SETTLED_NS < now
        self._scan = _Scan(stamp, settled, by_name, tuple(messages), sum(m.size for m in messages))
        return self._scan

    def _stamp(self) -> tuple[int, int]:
        return self._new.stat().st_mtime_ns, self._cur.stat().st_mtime_ns

    def _read(self, known: dict[tuple[str, str], StoredMessage]) -> dict[tuple[str, str], StoredMessage]:
        # new/ first: a file that moves to cur/ in between is then seen twice, not never.
        out = {}
        for folder in (self._new, self._cur):
            with os.scandir(folder) as entries:
                for name in (e.name for e in entries):
                    at = (folder.name, name)
                    message = known.get(at) or _parse(folder, name)
                    if message is not None:
                        out[at] = message
        return out

    # ---- delivering
    def draft(self) -> Draft:
        """A file in tmp/ to stream a message into; `deliver` or `Draft.discard` ends it."""
        seconds, usec = self._next_stamp()
        return Draft(self._disk, self._tmp / f"{seconds}.M{usec:06d}P{os.getpid()}{_DRAFT}")

    async def deliver(self, draft: Draft, *, key: str = "", replaces: str = "") -> None:
        """Puts what was written into the mailbox, in the place of what lies there under the key `replaces`; durable
        when it returns. Raises OSError; where the disk took the bytes but the flush failed the message may stay, under
        its key."""

        def work() -> None:
            try:
                draft.finish()
                self.move_in(draft.path, draft.size, draft.crc32, key=key)
            except OSError:
                with contextlib.suppress(OSError):
                    self._disk.unlink(draft.path)
                raise
            if replaces:
                self._delete([m.base for m in self.messages() if m.key == replaces])

        await self._committer.commit(work)

    def move_in(self, source: Path, size: int, crc32: int, *, key: str = "") -> Path:
        """Renames a whole, closed file of `size` octets into new/; -> where it lies now. For a committer's batch."""
        target = self._target(source, size, crc32, key)
        self._disk.rename(source, target)
        return target

    def link_in(self, source: Path, size: int, crc32: int, *, key: str = "") -> Path:
        """The same by a hard link: a message to several users takes its room on the disk once."""
        target = self._target(source, size, crc32, key)
        self._disk.link(source, target)
        return target

    def copy_in(self, source: Path, *, prefix: bytes = b"", key: str = "") -> Path:
        """The same with a copy that has `prefix` (whole header fields) in front of the bytes of `source`."""
        draft = self.draft().path
        fd = self._disk.create(draft)
        try:
            try:
                with open(source, "rb", buffering=0) as file:
                    size, crc, data = 0, 0, prefix or file.read(READ)
                    while data:
                        self._disk.write(fd, data)
                        size, crc = size + len(data), zlib.crc32(data, crc)
                        data = file.read(READ)
            finally:
                self._disk.close(fd)
            return self.move_in(draft, size, crc, key=key)
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.unlink(draft)
            raise

    def _target(self, source: Path, size: int, crc32: int, key: str) -> Path:
        if key and not re.fullmatch(rf"[a-z0-9]{{1,{KEY_LIMIT}}}", key):
            raise ValueError(f"{key!r} is no key: at most {KEY_LIMIT} of a-z 0-9")
        wire_size = size + _bare_line_feeds(source)
        while True:
            seconds, usec = self._next_stamp()
            unique = f"{seconds}.M{usec:06d}P{os.getpid()}C{crc32:08x}{'K' + key if key else ''}.{self._site}"
            target = self._new / f"{unique},S={size},W={wire_size}"
            if not target.exists():  # after a clock was set back: a rename would replace the older message
                return target

    def _next_stamp(self) -> tuple[int, int]:
        with self._lock:
            now = divmod(int(self._wall() * 1_000_000), 1_000_000)
            seconds, usec = self._last_stamp
            self._last_stamp = max(now, divmod(seconds * 1_000_000 + usec + 1, 1_000_000))
            return self._last_stamp

    # ---- deleting
    async def delete(self, messages: Sequence[StoredMessage]) -> None:
        """Removes them, wherever Dovecot has moved them; durable when it returns. Those that are gone already are no
        error. Raises OSError when one could not be removed."""
        await self._committer.commit(lambda: self._delete([m.base for m in messages]))

    def _delete(self, bases: Sequence[str]) -> None:
        for _ in range(SCAN_TRIES):
            paths = self._find(bases)
            if not paths:
                return
            for path in paths.values():
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(path, moved=path.parent == self._cur)
        if self._find(bases):
            raise OSError("messages keep being renamed while they are deleted")


def _parse(folder: Path, name: str) -> StoredMessage | None:
    """What a file's name says; a name without a size costs a stat. None for what is no message, or gone."""
    if name.startswith("."):
        return None
    base = name.partition(":")[0]
    path = folder / name
    found = _NAME.fullmatch(base)
    if found is None or found["s"] is None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        size = status.st_size
        order = (int(found["seconds"]), int(found["usec"] or 0), base) if found else (int(status.st_mtime), 0, base)
    else:
        size = int(found["s"])
        order = (int(found["seconds"]), int(found["usec"] or 0), base)
    wire_size = int(found["w"]) if found and found["w"] else size
    ours = _OURS.fullmatch(found["unique"]) if found else None
    if ours is None:
        return StoredMessage(path, base, order, size, wire_size, None, "")
    return StoredMessage(path, base, order, size, wire_size, int(ours["crc"], 16), ours["key"] or "")


def _crc32(file: BinaryIO) -> int:
    """Of what follows in an unbuffered file."""
    crc = 0
    while data := file.read(READ):
        crc = zlib.crc32(data, crc)
    return crc


def _bare_line_feeds(path: Path) -> int:
    """How many octets longer the file is with every line end as CRLF. (A bare CR ends no line.)"""
    more, after_cr = 0, False
    with open(path, "rb", buffering=0) as file:
        while data := file.read(READ):
            more += data.count(b"\n") - data.count(b"\r\n") - (after_cr and data.startswith(b"\n"))
            after_cr = data.endswith(b"\r")
    return more
