"""The login table (RELAY §3), pure: entries by owner, each owner's slice under (epoch, seq). No network, clock or disk.

It owns the slices: our own, which we alone write, and others' as their owners' updates say. `now` is seconds of a clock
that only grows; an entry's `since` is on it.

Theory of operation. A slice is a set of entries, each with the seq of its last change. `frames` says what a neighbour
that has (epoch, seq) must hear to have what we have; `apply` takes such frames. A frame with base 0 opens a *full run*:
until its `last` the slice counts as having that frame's seq, whatever it had; the names heard in it are noted, and at
`last` the others are gone. So a slice that a line cuts off goes on where it was, on either side.

We can serve a slice's changes from `floor` on: from the end of its last full run, or from the newest removed entry that
was dropped. Below that a full run begins.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from appliance.protocol.relay import FrameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["LOST", "OFFLINE", "ONLINE", "REMOVED", "Entry", "Have", "Registry", "Sent", "Slice"]

ONLINE, LOST, OFFLINE, REMOVED = range(4)

FRAME_ENTRIES: Final = 500
FRAME_BYTES: Final = 40_000
"""Entries of an `update`: RELAY §3's number, and so many bytes by estimate that it fits in a frame."""
ENTRY_BYTES: Final = 120
ENTRY_LIMIT: Final = 20_000
OWNER_LIMIT: Final = 256
SERVICE_LIMIT: Final = 64
NAME_LIMIT: Final = 63
RAISE_AGAIN_S: Final = 3600.0
"""Our own name met above us twice within this is another relay server of our name."""

Have = tuple[int, int]
"""(epoch, seq)."""


@dataclass(slots=True)
class Entry:
    """`seq` of its last change, `static` of the last change of services or fingerprint."""

    name: str
    seq: int
    counter: int
    presence: int
    since: float
    services: tuple[str, ...]
    fingerprint: bytes
    static: int = 0


@dataclass(slots=True)
class Slice:
    """One owner's entries, as far as `seq`. `run`: the names heard in the full run that is under way, None outside of
    one; `runs` counts them."""

    owner: str
    epoch: int = 0
    seq: int = 0
    floor: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    run: set[str] | None = None
    runs: int = 0


@dataclass(slots=True)
class Sent:
    """What a neighbour has of an owner, as far as we know; `run` the number of our run that it is in the middle of."""

    epoch: int
    seq: int
    run: int | None = None


class Registry:
    """All slices. `me` is our own name. `too_far_ahead(counter)`: more than a day ahead of a clock that is trusted."""

    def __init__(self, me: str, epoch: int) -> None:
        self.me = me
        self.slices: dict[str, Slice] = {me: Slice(me, epoch)}
        self.owners_of: dict[str, set[str]] = {}
        self._raised = -RAISE_AGAIN_S

    @property
    def own(self) -> Slice:
        return self.slices[self.me]

    # ---- our own entries
    def publish(
        self, name: str, presence: int, now: float, counter: int, services: Sequence[str], fingerprint: bytes
    ) -> None:
        """Writes one of our own entries."""
        own = self.own
        own.seq += 1
        old = own.entries.pop(name, None)  # at the end: a slice's entries are in ascending seq
        same = old is not None and (old.services, old.fingerprint) == (tuple(services), fingerprint)
        static = old.static if same and old is not None else own.seq
        own.entries[name] = Entry(name, own.seq, counter, presence, now, tuple(services), fingerprint, static)
        self.owners_of.setdefault(name, set()).add(self.me)

    def set_presence(self, name: str, presence: int, now: float) -> None:
        """Of one of our own that is there."""
        old = self.own.entries[name]
        self.publish(name, presence, now, old.counter, old.services, old.fingerprint)

    def raise_epoch(self, above: int, now: float) -> bool:
        """Our own name was met at this epoch: ours goes above it. False where that happened within the hour."""
        if now - self._raised < RAISE_AGAIN_S:
            return False
        self._raised = now
        self.own.epoch = above + 1
        return True

    def forget(self, now: float, forget_after: float) -> list[str]:
        """Our own offline and lost entries that are older become removed, removed ones that are older are dropped; ->
        the names that changed."""
        own, changed = self.own, []
        for entry in [e for e in own.entries.values() if now - e.since >= forget_after and e.presence != ONLINE]:
            if entry.presence == REMOVED:
                own.floor = max(own.floor, entry.seq)
                self._drop(own, entry.name)
            else:
                self.set_presence(entry.name, REMOVED, now)
                changed.append(entry.name)
        return changed

    # ---- looking
    def of(self, name: str) -> Iterator[tuple[str, Entry]]:
        """(owner, entry) of every owner that has it."""
        for owner in self.owners_of.get(name, ()):
            yield owner, self.slices[owner].entries[name]

    def have(self) -> dict[str, list[int]]:
        """The body of `have`."""
        return {owner: [s.epoch, s.seq] for owner, s in self.slices.items() if s.epoch}

    # ---- sending
    def frames(self, owner: str, sent: Sent, now: float) -> Iterator[dict[str, Any]]:
        """Bodies of the `update`s that bring a neighbour up to what we have; `sent` is kept up with them. None where it
        has it all."""
        s = self.slices[owner]
        if sent.epoch != s.epoch:
            goes_on = False
        elif sent.run is None:
            goes_on = s.run is None and sent.seq >= s.floor
        else:
            goes_on = sent.run == s.runs
        if goes_on and sent.seq >= s.seq and (sent.run is None or s.run is not None):
            return
        base = sent.seq if goes_on else 0
        wanted = [e for e in s.entries.values() if e.seq > base and (s.run is None or e.name in s.run)]
        wanted.sort(key=lambda e: e.seq)
        parts = list(_parts(wanted)) or [[]]
        # What changes while a slow link takes these frames is for the next ones.
        epoch, end, in_run, runs = s.epoch, s.seq, s.run is not None, s.runs
        for n, part in enumerate(parts):
            done = n == len(parts) - 1
            seq = end if done else part[-1].seq
            last = done and not in_run
            full = base == 0
            yield {
                "owner": owner,
                "epoch": epoch,
                "base": base,
                "seq": seq,
                "last": last,
                "entries": [_pack(e, now, 0 if full or not goes_on else base) for e in part],
            }
            sent.epoch, sent.seq = epoch, seq
            sent.run = None if last else (sent.run if goes_on and sent.run is not None else runs)
            base = seq

    # ---- receiving
    def apply(self, body: Mapping[str, Any], now: float) -> tuple[list[str], dict[str, Any] | None]:
        """Takes an `update`; -> the names whose entries changed, and the `ack` that asks for what is missing, if any.
        Raises FrameError for a body that has not its form, or passes a limit."""
        owner, epoch, base, seq = body.get("owner"), body.get("epoch"), body.get("base"), body.get("seq")
        raw = body.get("entries")
        if not (
            isinstance(owner, str)
            and 0 < len(owner) <= NAME_LIMIT
            and all(_is_number(n) for n in (epoch, base, seq))
            and isinstance(raw, list)
            and len(raw) <= FRAME_ENTRIES
        ):
            raise FrameError("bad-body", "no update")
        assert isinstance(epoch, int) and isinstance(base, int) and isinstance(seq, int)
        s = self.slices.get(owner)
        if s is None:
            if len(self.slices) > OWNER_LIMIT:
                raise FrameError("limit", f"more than {OWNER_LIMIT} owners")
            s = Slice(owner)
        fits = base == s.seq if s.run is not None else base <= s.seq
        if not ((epoch == s.epoch and fits and base) or (base == 0 and epoch >= s.epoch)):
            return [], {"owner": owner, "epoch": s.epoch, "seq": s.seq}
        entries = [_unpack(item, now, None if base == 0 else s) for item in raw]
        if entries and not (base < entries[0].seq and entries[-1].seq <= seq and _ascending(entries)):
            raise FrameError("bad-body", "entries out of order")
        if len(s.entries) + sum(e.name not in s.entries for e in entries) > ENTRY_LIMIT:
            raise FrameError("limit", f"more than {ENTRY_LIMIT} entries")
        self.slices[owner] = s
        if base == 0:
            s.epoch, s.run, s.runs = epoch, set(), s.runs + 1
            s.seq = seq
        s.seq = seq if s.run is not None else max(s.seq, seq)
        changed = []
        for entry in entries:
            old = s.entries.get(entry.name)
            if s.run is not None:
                s.run.add(entry.name)
            elif old is not None and old.seq >= entry.seq:
                continue  # heard already
            if old is None or not _same(old, entry):
                changed.append(entry.name)
            s.entries.pop(entry.name, None)
            s.entries[entry.name] = entry
            self.owners_of.setdefault(entry.name, set()).add(owner)
        if body.get("last") and s.run is not None:
            gone = [name for name in s.entries if name not in s.run]
            for name in gone:
                self._drop(s, name)
            s.run, s.floor = None, seq
            changed += gone
        return changed, None

    def drop_owner(self, owner: str) -> list[str]:
        """An owner that is gone for good; -> the names that it had."""
        s = self.slices.pop(owner)
        for name in s.entries:
            self._unlist(owner, name)
        return list(s.entries)

    def _drop(self, s: Slice, name: str) -> None:
        del s.entries[name]
        self._unlist(s.owner, name)

    def _unlist(self, owner: str, name: str) -> None:
        owners = self.owners_of.get(name, set())
        owners.discard(owner)
        if not owners:
            self.owners_of.pop(name, None)


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for e in entries:
        size += ENTRY_BYTES + sum(len(s) + 2 for s in e.services)
        if part and (len(part) == FRAME_ENTRIES or size > FRAME_BYTES):
            yield part
            part, size = [], 0
        part.append(e)
    if part:
        yield part


def _pack(e: Entry, now: float, base: int) -> list[Any]:
    """`base` above 0: what a neighbour that has it knows is left out at the end."""
    fields = [e.name, e.seq, e.counter, e.presence, max(0, round(now - e.since))]
    return fields if base and e.static <= base else [*fields, list(e.services), e.fingerprint]


def _unpack(item: object, now: float, known: Slice | None) -> Entry:
    """Raises FrameError."""
    if not isinstance(item, list) or len(item) < 2:
        raise FrameError("bad-body", "no entry")
    old = known.entries.get(item[0]) if known is not None and isinstance(item[0], str) else None
    if old is not None:
        since = max(0.0, now - old.since)
        rest = [old.counter, old.presence, since, list(old.services), old.fingerprint]
        item = [*item, *rest[len(item) - 2 :]] if len(item) < 7 else item
    match item:
        case [
            str() as name,
            int() as seq,
            int() as counter,
            int() as presence,
            int() | float() as age,
            list() as services,
            bytes() as fingerprint,
            *_,
        ]:
            if (
                0 < len(name) <= NAME_LIMIT
                and 0 < seq < 2**63
                and 0 <= counter < 2**64
                and presence in (ONLINE, LOST, OFFLINE, REMOVED)
                and 0 <= age < 2**40
                and len(services) <= SERVICE_LIMIT
                and all(isinstance(s, str) and 0 < len(s) <= NAME_LIMIT for s in services)
                and len(fingerprint) == 32
            ):
                kept = old is not None and (old.services, old.fingerprint) == (tuple(services), fingerprint)
                static = old.static if kept and old is not None else seq
                return Entry(name, seq, counter, presence, now - age, tuple(services), fingerprint, static)
    raise FrameError("bad-body", "no entry, or a field is missing of one that is new here")


def _same(a: Entry, b: Entry) -> bool:
    return (a.counter, a.presence, a.services, a.fingerprint) == (b.counter, b.presence, b.services, b.fingerprint)


def _ascending(entries: list[Entry]) -> bool:
    return all(a.seq < b.seq for a, b in itertools.pairwise(entries))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
