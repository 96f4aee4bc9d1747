"""The login table (RELAY §3), pure: entries by owner, each owner's slice under (epoch, seq). No network, clock or disk.

It owns the slices: our own, which we alone write, and others' as their owners' updates say. `now` is seconds of a clock
that only grows; an entry's `since` is on it.

Theory of operation. A slice is a set of entries, each with the seq of its last change. `frames` says what a neighbour
that has (epoch, seq) must hear to have what we have; `apply` takes such frames. A frame with base 0 opens a *full run*:
until its `last` the slice counts as having that frame's seq, whatever it had; the names heard in it are noted, and at
`last` the others are gone. So a slice that a line cuts off goes on where it was, with whoever comes first. What we have
of it is told to others when the run has ended: two who told each other the parts of one would never stop.

We can serve a slice's changes from `floor` on: from the end of its last full run, or from the newest removed entry that
was dropped. Below that a full run begins. Full runs of an older and a newer state may cross, where a neighbour learns
of an owner from two sides at once; a run that has taken us back (`Applied.fell`) must then be told to all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from appliance.protocol.relay import FrameError, are_services, is_name, strings_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "LOST",
    "OFFLINE",
    "ONLINE",
    "OWNER_LIMIT",
    "REMOVED",
    "Entry",
    "Have",
    "Registry",
    "Sent",
    "Slice",
    "is_have",
    "unpack",
]

ONLINE, LOST, OFFLINE, REMOVED = range(4)

FRAME_ENTRIES: Final = 500
FRAME_BYTES: Final = 40_000
"""Entries of an `update`: RELAY §3's number, and so many bytes by estimate that it fits in a frame."""
ENTRY_BYTES: Final = 120
ENTRY_LIMIT: Final = 20_000
OWNER_LIMIT: Final = 256
FIELDS: Final = 7
STATIC: Final = 6
"""Fields of an entry (RELAY §3); with so many of them it says its services, or its fingerprint too."""
EPOCH_LIMIT: Final = 2**40
"""Epochs are Unix seconds, or a little above: a higher one is a lie, and ours must stay below it."""
RUN_STALLED_S: Final = 600.0
"""The slowest line brings a frame in this; a run that stands still for longer is asked for again."""
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
    one; `run_at`: when it last went on; `fell_from`: the seq that the slice had, at this epoch, when it began."""

    owner: str
    epoch: int = 0
    seq: int = 0
    floor: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    run: set[str] | None = None
    run_at: float = 0.0
    fell_from: int = 0


@dataclass(slots=True)
class Applied:
    """What an update did: `changed` the names whose entries did; `ack`, where it asks its sender for what is missing;
    `fell`: it has taken the slice back to an older state, so that everybody must hear what we have now."""

    changed: list[str]
    ack: dict[str, Any] | None = None
    fell: bool = False


@dataclass(slots=True)
class Sent:
    """What a neighbour has of an owner, as far as we know."""

    epoch: int
    seq: int


class Registry:
    """All slices. `me` is our own name."""

    def __init__(self, me: str, epoch: int) -> None:
        self.me = me
        self.slices: dict[str, Slice] = {me: Slice(me, epoch)}
        self._others: dict[str, tuple[str, ...]] = {}  # name -> the other owners that have it
        self._raised = -RAISE_AGAIN_S
        self._next = 0

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
        # One that was removed may have been dropped by others already: they must hear all of it.
        static = old.static if same and old is not None and old.presence != REMOVED else own.seq
        own.entries[name] = Entry(name, own.seq, counter, presence, now, tuple(services), fingerprint, static)

    def set_presence(self, name: str, presence: int, now: float) -> None:
        """Of one of our own that is there."""
        old = self.own.entries[name]
        self.publish(name, presence, now, old.counter, old.services, old.fingerprint)

    def next_epoch(self, above: int, now: float) -> int | None:
        """Our own name was met at this epoch: the one to go on with, once it is durable (`begin_epoch`). None where
        that has happened within the hour: another relay server has our name."""
        if now - self._raised < RAISE_AGAIN_S or above + 1 >= EPOCH_LIMIT:
            return None
        self._raised = now
        self._next = above + 1
        return self._next

    def begin_epoch(self, epoch: int) -> None:
        """From now on ours."""
        self.own.epoch = max(self.own.epoch, epoch)

    def is_above_us(self, epoch: int, seq: int) -> bool:
        """Whether that is more than we have said under our name, or are about to."""
        return (epoch, seq) > max((self.own.epoch, self.own.seq), (self._next, 0))

    def forget(self, now: float, forget_after: float) -> list[str]:
        """Our own offline and lost entries that are older become removed; removed ones that are older are dropped,
        whosever they are. -> the names of ours that changed."""
        own, changed = self.own, []
        for s in self.slices.values():
            for entry in [e for e in s.entries.values() if now - e.since >= forget_after and e.presence != ONLINE]:
                if entry.presence == REMOVED and s.run is None:
                    s.floor = max(s.floor, entry.seq)
                    self._drop(s, entry.name)
                elif entry.presence != REMOVED and s is own:
                    self.set_presence(entry.name, REMOVED, now)
                    changed.append(entry.name)
        return changed

    # ---- looking
    def of(self, name: str) -> Iterator[tuple[str, Entry]]:
        """(owner, entry) of every owner that has it."""
        if (entry := self.own.entries.get(name)) is not None:
            yield self.me, entry
        for owner in self._others.get(name, ()):
            yield owner, self.slices[owner].entries[name]

    def names(self) -> tuple[str, ...]:
        """All that anybody has."""
        return tuple(dict.fromkeys((*self.own.entries, *self._others)))

    def have(self) -> dict[str, list[int]]:
        """The body of `have`."""
        return {owner: [s.epoch, s.seq] for owner, s in self.slices.items() if s.epoch}

    # ---- sending
    def frames(self, owner: str, sent: Sent, now: float) -> Iterator[dict[str, Any]]:
        """Bodies of the `update`s that bring a neighbour up to what we have; `sent` is kept up with them. None where it
        has it all, or where we are in the middle of a run ourselves."""
        s = self.slices[owner]
        if s.run is not None or (sent.epoch == s.epoch and sent.seq >= s.seq):
            return
        goes_on = sent.epoch == s.epoch and sent.seq >= s.floor
        base = known = sent.seq if goes_on else 0
        wanted = sorted((e for e in s.entries.values() if e.seq > base), key=lambda e: e.seq)
        parts = list(_parts(wanted)) or [[]]
        epoch, end = s.epoch, s.seq  # what changes while a slow link takes these frames is for the next ones
        for n, part in enumerate(parts):
            last = n == len(parts) - 1
            seq = end if last else part[-1].seq
            entries = [_pack(e, now, known) for e in part]
            yield {"owner": owner, "epoch": epoch, "base": base, "seq": seq, "last": last, "entries": entries}
            sent.epoch, sent.seq = epoch, seq
            base = seq

    def stalled(self, now: float) -> Iterator[dict[str, Any]]:
        """Bodies of the `ack`s that ask for the rest of runs that nobody goes on with."""
        for s in self.slices.values():
            if s.run is not None and now - s.run_at >= RUN_STALLED_S:
                s.run_at = now
                yield _ack(s)

    # ---- receiving
    def apply(self, body: Mapping[str, Any], now: float) -> Applied:
        """Takes an `update`. Raises FrameError for a body that has not its form, or passes a limit."""
        owner, epoch, base, seq = body.get("owner"), body.get("epoch"), body.get("base"), body.get("seq")
        raw = body.get("entries")
        if not (
            is_name(owner)
            and is_have(epoch, seq)
            and _is_number(base)
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
            return Applied([], ack=_ack(s))
        if base and any(_lacks(item, s) for item in raw):
            # Told to somebody who knew it: the run that was cut had not come so far when it changed. From the start.
            s.fell_from, s.seq, s.run, s.run_at = max(s.seq, s.fell_from), 0, set(), now
            return Applied([], ack=_ack(s))
        entries = [unpack(item, now, None if base == 0 else s) for item in raw]
        if entries and not (base < entries[0].seq and entries[-1].seq <= seq and _ascending(entries)):
            raise FrameError("bad-body", "entries out of order")
        if len(s.entries) + sum(e.name not in s.entries for e in entries) > ENTRY_LIMIT:
            raise FrameError("limit", f"more than {ENTRY_LIMIT} entries")
        self.slices[owner] = s
        if base == 0:
            s.fell_from = 0 if epoch > s.epoch else max(s.seq, s.fell_from)
            s.epoch, s.run = epoch, set()
        had = s.seq
        s.seq = seq if s.run is not None else max(s.seq, seq)
        if s.run is not None:
            s.run_at = now
        changed = []
        for entry in entries:
            old = s.entries.get(entry.name)
            if s.run is not None:
                s.run.add(entry.name)
            elif entry.seq <= had:
                continue  # heard already; it may be gone since
            if old is None or not _same(old, entry):
                changed.append(entry.name)
            s.entries.pop(entry.name, None)
            s.entries[entry.name] = entry
            self._list(owner, entry.name)
        if body.get("last") and s.run is not None:
            gone = [name for name in s.entries if name not in s.run]
            for name in gone:
                self._drop(s, name)
            s.run, s.floor = None, seq
            changed += gone
            fell, s.fell_from = s.fell_from > seq, 0
            return Applied(changed, _ack(s) if fell else None, fell)
        return Applied(changed)

    def adopt(self, s: Slice) -> None:
        """Another's slice as it stood when we were here last, in place of what we have of it. Raises FrameError where
        it passes a limit."""
        if s.owner not in self.slices and len(self.slices) > OWNER_LIMIT:
            raise FrameError("limit", f"more than {OWNER_LIMIT} owners")
        self.drop_owner(s.owner)
        self.slices[s.owner] = s
        for name in s.entries:
            self._list(s.owner, name)

    def drop_owner(self, owner: str) -> list[str]:
        """An owner that is gone for good; -> the names that it had."""
        s = self.slices.pop(owner, None)
        if s is None:
            return []
        for name in s.entries:
            self._unlist(owner, name)
        return list(s.entries)

    def _drop(self, s: Slice, name: str) -> None:
        del s.entries[name]
        self._unlist(s.owner, name)

    def _list(self, owner: str, name: str) -> None:
        owners = self._others.get(name, ())
        if owner not in owners:
            self._others[name] = (*owners, owner)

    def _unlist(self, owner: str, name: str) -> None:
        owners = tuple(o for o in self._others.get(name, ()) if o != owner)
        if owners:
            self._others[name] = owners
        else:
            self._others.pop(name, None)


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for e in entries:
        size += ENTRY_BYTES + strings_bytes(e.services)
        if part and (len(part) == FRAME_ENTRIES or size > FRAME_BYTES):
            yield part
            part, size = [], 0
        part.append(e)
    if part:
        yield part


def _pack(e: Entry, now: float, base: int) -> list[Any]:
    """`base` above 0: what a neighbour knows that had it before the first of these frames is left out at the end."""
    fields = [e.name, e.seq, e.counter, e.presence, max(0, round(now - e.since))]
    return fields if base and e.static <= base else [*fields, list(e.services), e.fingerprint]


def unpack(item: object, now: float, known: Slice | None) -> Entry:
    """An entry of an `update`; `known`: where the fields are that were left out. Raises FrameError."""
    if not isinstance(item, list) or len(item) < 2:
        raise FrameError("bad-body", "no entry")
    old = known.entries.get(item[0]) if known is not None and _is_short(item) else None
    all_said = old is None or len(item) >= STATIC
    if old is not None:
        since = max(0.0, now - old.since)
        rest = [old.counter, old.presence, since, list(old.services), old.fingerprint]
        item = [*item, *rest[len(item) - 2 :]]
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
                is_name(name)
                and 0 < seq < 2**63
                and 0 <= counter < 2**64
                and presence in (ONLINE, LOST, OFFLINE, REMOVED)
                and 0 <= age < 2**40
                and are_services(services)
                and len(fingerprint) == 32
            ):
                static = old.static if old is not None and not all_said else seq
                return Entry(name, seq, counter, presence, now - age, tuple(services), fingerprint, static)
    raise FrameError("bad-body", "no entry, or a field is missing of one that is new here")


def _is_short(item: object) -> bool:
    """Whether fields of it are left out."""
    return isinstance(item, list) and 2 <= len(item) < FIELDS and isinstance(item[0], str)


def _lacks(item: Any, s: Slice) -> bool:
    """Whether fields are left out that we don't have."""
    return _is_short(item) and item[0] not in s.entries


def is_have(epoch: object, seq: object) -> bool:
    """Whether the two may be what somebody has."""
    return _is_number(epoch) and _is_number(seq) and epoch < EPOCH_LIMIT  # type: ignore[operator]


def _ack(s: Slice) -> dict[str, Any]:
    return {"owner": s.owner, "epoch": s.epoch, "seq": s.seq}


def _same(a: Entry, b: Entry) -> bool:
    return (a.counter, a.presence, a.services, a.fingerprint) == (b.counter, b.presence, b.services, b.fingerprint)


def _ascending(entries: list[Entry]) -> bool:
    return all(a.seq < b.seq for a, b in itertools.pairwise(entries))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
