"""The spool: every message that has to go out, durably, and what has become of each recipient.

A message is two files in `queue/` (or `hold/`): `ID.eml`, the bytes as they go out, and `ID.env`, a journal
(`storage.journal`) whose first record is the envelope with the length and the sum of `ID.eml`, and whose further
records say what happened: a change is a line appended. `incoming/ID.eml` is a message still being received.

Order of writes. All of a change is one piece of the committer's work, flushed at once, so after a power cut any
part of it may be there. `recover` therefore believes only what proves itself: an envelope whose message is there in
full length with the right sum. All else was never acknowledged, or already sent; it goes to `corrupt/` with a journal
entry. A torn last line of an envelope is a change that nobody was told of. An envelope that is whole and makes no sense
is a newer version's: it stays where it is, with its message, for that one; we do not send it.

It knows nothing of routing, sessions or calls. Whoever waits for its changes waits on `wait_changed`.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.mail.envelope import Envelope, Priority, Recipient, RecipientState
from appliance.storage import journal
from appliance.storage.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from appliance.clock import Clock
    from appliance.mail.envelope import Verdict
    from appliance.storage.committer import Committer
    from appliance.storage.disk import Disk
    from appliance.storage.paths import StatePaths

__all__ = ["Spool"]

READ_PIECE: Final = 1 << 20
_STORED: Final = tuple(f.name for f in fields(Envelope) if f.name not in ("sending", "held", "left"))


class Spool:
    """Owns the folders below `spool/`. `messages`: id -> envelope, oldest first; others read it and never change it."""

    def __init__(self, paths: StatePaths, disk: Disk, committer: Committer, clock: Clock) -> None:
        self.paths = paths
        self.messages: dict[str, Envelope] = {}
        self._disk = disk
        self._committer = committer
        self._clock = clock
        self._serial = 0
        self._changed: trio.Event | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called at each change of what waits; `app` pokes the caller."""

    # ---- taking a message in
    def new_id(self) -> str:
        """An id that no message has: time, serial number, chance; sorts by time; letters and digits alone."""
        self._serial = (self._serial + 1) % 4096
        return f"{int(self._clock.now().wall * 1000):011x}{self._serial:03x}{os.urandom(2).hex()}"

    def draft(self, message_id: str) -> Draft:
        """The file to stream a new message into."""
        return Draft(self._disk, self.paths.incoming / f"{message_id}.eml")

    def place(self, envelope: Envelope) -> tuple[Path, Path]:
        """Moves `incoming/ID.eml` into the queue with its envelope; -> where the two lie now. Synchronous: a part of
        a committer's work; `admit` follows once that is durable. Raises OSError, and the queue is as it was."""
        incoming = self.paths.incoming / f"{envelope.id}.eml"
        eml, env = self.paths.queue / f"{envelope.id}.eml", self.paths.queue / f"{envelope.id}.env"
        fd = self._disk.create(env)
        try:
            try:
                self._disk.write(fd, journal.encode([_to_record(envelope)]))
            finally:
                self._disk.close(fd)
            self._disk.rename(incoming, eml)
        except OSError:
            self._disk.unlink(env)
            raise
        return env, eml

    def admit(self, envelope: Envelope) -> None:
        """Shows a durable message to everybody."""
        self.messages[envelope.id] = envelope
        self._announce()

    # ---- what others read
    def path(self, envelope: Envelope) -> Path:
        """Where its bytes lie."""
        return self._folder(envelope) / f"{envelope.id}.eml"

    async def wait_changed(self) -> None:
        """Returns at the next change of `messages` or of a state in it."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def set_sending(self, envelope: Envelope, on: bool) -> None:
        """In memory only."""
        envelope.sending = on

    # ---- what happens to a message
    async def mark(self, envelope: Envelope, recipients: Iterable[int], state: RecipientState) -> None:
        """Sets these recipients' state, durably."""
        indexes = list(recipients)

        def then() -> None:
            for i in indexes:
                envelope.recipients[i].state = state
            self._announce()

        work = partial(self._append, envelope, [{"recipients": indexes, "state": state.value}])
        await self._committer.commit(work, quick=True, then=then)

    async def settle(self, envelope: Envelope, verdicts: Mapping[int, Verdict]) -> None:
        """Records one completed attempt's verdicts, durably. The message leaves the queue when no recipient is open
        any more."""
        tried_at = self._clock.now().wall
        records: list[dict[str, Any]] = [{"attempts": envelope.attempts + 1, "tried_at": tried_at}]
        records += [{"recipients": [i], "state": v.state.value, "reply": v.reply} for i, v in sorted(verdicts.items())]
        after = {i: verdicts[i].state if i in verdicts else r.state for i, r in enumerate(envelope.recipients)}
        done = not any(s in (RecipientState.QUEUED, RecipientState.IN_DOUBT) for s in after.values())

        def work() -> None:
            self._append(envelope, records)
            if done:
                self._unlink(envelope)

        def then() -> None:
            envelope.attempts += 1
            envelope.tried_at = tried_at
            for i, verdict in verdicts.items():
                envelope.recipients[i].state, envelope.recipients[i].reply = verdict.state, verdict.reply
            if done:
                self.messages.pop(envelope.id, None)
            self._announce()

        await self._committer.commit(work, quick=True, then=then)

    async def note_warned(self, envelope: Envelope) -> None:
        """Its sender has been told that it is late."""

        def then() -> None:
            envelope.warned = True

        await self._committer.commit(partial(self._append, envelope, [{"warned": True}]), quick=True, then=then)

    async def hold(self, envelope: Envelope, on: bool) -> None:
        """Puts it aside by hand, or back into the queue."""
        if envelope.held == on:
            return
        source = self._folder(envelope)
        target = self.paths.hold if on else self.paths.queue

        def work() -> None:
            for suffix in (".eml", ".env"):
                self._disk.rename(source / (envelope.id + suffix), target / (envelope.id + suffix))

        def then() -> None:
            envelope.held = on
            self._announce()

        await self._committer.commit(work, quick=True, then=then)

    async def remove(self, envelope: Envelope) -> None:
        """Takes it away, sent or not."""

        def then() -> None:
            self.messages.pop(envelope.id, None)
            self._announce()

        await self._committer.commit(partial(self._unlink, envelope), quick=True, then=then)

    # ---- the start
    def recover(self) -> None:
        """Reads the folders after a start, puts aside what proves to be incomplete, fills `messages`. Synchronous."""
        for path in sorted(self.paths.incoming.iterdir()):
            self._put_aside(path, "still being received: never acknowledged")
        found: list[Envelope] = []
        for ident in sorted({p.stem for f in (self.paths.queue, self.paths.hold) for p in f.iterdir()}):
            envelope = self._recover_one(ident)
            if envelope is not None:
                found.append(envelope)
        self.messages = {e.id: e for e in sorted(found, key=lambda e: (e.received, e.id))}

    def _recover_one(self, ident: str) -> Envelope | None:
        held = any((self.paths.hold / (ident + s)).exists() for s in (".eml", ".env"))
        files: dict[str, Path | None] = {}
        for suffix in (".eml", ".env"):
            places = [f / (ident + suffix) for f in (self.paths.queue, self.paths.hold)]
            files[suffix] = next((p for p in places if p.exists()), None)
        env, eml = files[".env"], files[".eml"]
        if env is None:
            if eml is not None:
                self._put_aside(eml, "no envelope: never acknowledged, or sent already")
            else:
                for folder in (self.paths.queue, self.paths.hold):
                    for strange in folder.glob(f"{ident}.*"):
                        self._put_aside(strange, "no file of the spool")
            return None
        replay = journal.replay(env)
        envelope = _from_records(replay.records)
        if envelope is None and replay.records:
            events.emit(events.NOT_UNDERSTOOD, file=env, what="the envelope of a message")
            return None
        if envelope is not None and eml is None and not envelope.open_recipients():
            self._disk.unlink(env)  # settled: only its last file was still to go
            return None
        why = "the envelope is damaged" if envelope is None else _damage(eml, envelope)
        if why or envelope is None:
            for path in (env, eml):
                if path is not None:
                    self._put_aside(path, why)
            return None
        if replay.torn:
            self._cut(env, replay.good_bytes)
        if not envelope.open_recipients():
            self._unlink_files(eml, env)
            return None
        if held:  # a power cut may have come between the two renames
            for path in (env, eml):
                if path is not None and path.parent != self.paths.hold:
                    self._disk.rename(path, self.paths.hold / path.name)
        envelope.held = held
        return envelope

    def _cut(self, env: Path, length: int) -> None:
        """A change that was not whole, and that nobody was told of, is put aside too."""
        tail = env.read_bytes()[length:]
        draft = self.paths.incoming / f"{env.name}.tail"
        fd = self._disk.create(draft)
        try:
            self._disk.write(fd, tail)
        finally:
            self._disk.close(fd)
        self._put_aside(draft, "a change that was not written whole")
        fd = self._disk.open_append(env)
        try:
            self._disk.truncate(fd, length)
        finally:
            self._disk.close(fd)

    # ---- inside
    def _folder(self, envelope: Envelope) -> Path:
        return self.paths.hold if envelope.held else self.paths.queue

    def _announce(self) -> None:
        self.on_change()
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _append(self, envelope: Envelope, records: Sequence[dict[str, Any]]) -> None:
        fd = self._disk.open_append(self._folder(envelope) / f"{envelope.id}.env")
        try:
            length = os.fstat(fd).st_size
            try:
                self._disk.write(fd, journal.encode(records))
            except OSError:
                self._disk.truncate(fd, length)  # half a line would hide all that comes behind it
                raise
        finally:
            self._disk.close(fd)

    def _unlink(self, envelope: Envelope) -> None:
        self._unlink_files(self.path(envelope), self._folder(envelope) / f"{envelope.id}.env")

    def _unlink_files(self, *paths: Path | None) -> None:
        for path in paths:
            if path is not None:
                self._disk.unlink(path)

    def _put_aside(self, path: Path, why: str) -> None:
        target = self.paths.corrupt / path.name
        n = 0
        while target.exists():
            n += 1
            target = self.paths.corrupt / f"{path.name}.{n}"
        self._disk.rename(path, target)
        events.emit(events.PUT_ASIDE, file=path, why=why, moved_to=target)


def _damage(eml: Path | None, envelope: Envelope) -> str:
    if eml is None:
        return "the message is missing"
    if eml.stat().st_size != envelope.size:
        return f"the message has {eml.stat().st_size} bytes, {envelope.size} were written"
    crc = 0
    with eml.open("rb") as file:
        while piece := file.read(READ_PIECE):
            crc = zlib.crc32(piece, crc)
    return "" if crc == envelope.crc32 else "the message's sum is wrong"


def _to_record(envelope: Envelope) -> dict[str, Any]:
    record = {name: getattr(envelope, name) for name in _STORED}
    record["recipients"] = [
        {"address": r.address, "state": r.state.value, "reply": r.reply, "notify": r.notify, "orcpt": r.orcpt}
        for r in envelope.recipients
    ]
    return record


def _from_records(records: list[dict[str, Any]]) -> Envelope | None:
    """The envelope as its journal tells it; None when that makes no sense."""
    try:
        first = dict(records[0])
        first["recipients"] = [_recipient(r) for r in first["recipients"]]
        first["priority"] = Priority(first["priority"])
        envelope = Envelope(**{k: v for k, v in first.items() if k in _STORED})
        for record in records[1:]:
            for i in record.get("recipients", ()):
                envelope.recipients[i].state = RecipientState(record["state"])
                envelope.recipients[i].reply = record.get("reply", envelope.recipients[i].reply)
            envelope.warned = envelope.warned or bool(record.get("warned"))
            if "attempts" in record:
                envelope.attempts, envelope.tried_at = record["attempts"], record["tried_at"]
    except (LookupError, TypeError, ValueError):
        return None
    return envelope


def _recipient(record: dict[str, Any]) -> Recipient:
    known = {f.name: record[f.name] for f in fields(Recipient) if f.name in record}
    return Recipient(**{**known, "state": RecipientState(record["state"])})
