"""What of the other relay servers outlives the process (RELAY §3): their slices of the login table, with the run that
is under way, and the routes to them.

It owns what of that is on the disk; it must not know links. Nobody waits for it: what is there may be older than what
is known, by `KEEP_S` and a power cut, but never anything that was not so once. With (epoch, seq) of then a neighbour
tells what has changed since, as to anybody who was away for a while; who was removed meanwhile is told of, or not heard
in the full run that comes where the neighbour can't serve the changes any more. So nobody is resurrected.

    OWNER.slice       {"at", "slice": {…}}    the whole slice, as it stood
                      {"at", "update": {…}}   an `update` as it was applied; again and again
    "NEIGHBOUR"       its link's state and its routes, in the file "routes"

`at` is the moment by the clocks, to which the ages belong. At the start the links are all down: routes through one that
was up are lost from then on, one that is down by plan is still suspended. So an entry that was online is shown as lost
or suspended until its owner can be heard, and as expired where nobody was known to have a way to him.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.clock import Mark
from appliance.protocol.relay import FrameError
from appliance.relay.registry import ENTRY_LIMIT, Entry, Slice, is_have, unpack
from appliance.relay.routes import LOST, UP, Neighbour, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from appliance.clock import Clock
    from appliance.relay.records import Records
    from appliance.relay.registry import Registry
    from appliance.relay.routes import Routes
    from appliance.relay.slice_files import SliceFiles, Written
    from appliance.relay.timers import Timer, Timers

__all__ = ["Others"]

KEEP_S: Final = 10.0
"""What changes is gathered for so long: a flush for all of it, where a site with many terminals changes each second."""
GATHER_LIMIT: Final = 64
"""Updates of an owner that are gathered; beyond them its slice is written anew."""
FINGERPRINT: Final = 6
"""Its place in an entry: bytes, which JSON has not."""
DAMAGED: Final = (FrameError, KeyError, TypeError, ValueError, IndexError)


class Others:
    """`load` before any link is up; then `heard`, `gone` and `rerouted` say what may be another. `records` is the file
    "routes"; `start` runs in the background."""

    def __init__(
        self,
        files: SliceFiles,
        records: Records,
        registry: Registry,
        routes: Routes,
        clock: Clock,
        timers: Timers,
        start: Callable[[Callable[[], Awaitable[None]]], None],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._files = files
        self._records = records
        self._registry = registry
        self._routes = routes
        self._clock = clock
        self._timers = timers
        self._start = start
        self._now = now
        self._due: dict[str, list[dict[str, Any]]] = {}  # owner -> what goes behind its file
        self._anew: set[str] = set()  # whose file is to be written anew
        self._too_large: set[str] = set()  # whose file has no room
        self._routes_kept: dict[str, tuple[object, ...]] = {}
        self._routes_due = False
        self._timer: Timer | None = None
        self._saving: trio.Event | None = None

    async def load(self, peers: Collection[str]) -> None:
        """Puts what is on the disk into the login table and the routes. What is damaged is thrown away, and told of.
        Raises OSError."""
        for owner, records in self._files.found.items():
            if owner == self._registry.me:
                self._anew.add(owner)  # another's name once
                continue
            try:
                for record in records:
                    self._take_up(owner, record)
            except DAMAGED as error:
                self._files.damaged(owner, str(error))
                self._registry.drop_owner(owner)
            if owner not in self._registry.slices:
                self._anew.add(owner)
        self._files.found.clear()
        for name, value in self._records.items():
            try:
                known = name in peers
                if known:
                    self._routes.neighbours[name] = self._unpack_neighbour(name, value)
            except DAMAGED:
                known = False
            if not known:
                await self._records.forget(name)
        if self._anew:
            self._soon()

    # ---- what changes
    def heard(self, body: Mapping[str, Any]) -> None:
        """This `update` has been applied."""
        owner = body["owner"]
        due = self._due.setdefault(owner, [])
        if len(due) >= GATHER_LIMIT:
            due.clear()
            self._anew.add(owner)
        if owner not in self._anew:
            entries = [_with_fingerprint(item, bytes.hex) for item in body["entries"]]
            update = {**{k: body[k] for k in ("epoch", "base", "seq")}, "last": bool(body.get("last"))}
            due.append({"at": self._at(), "update": {**update, "entries": entries}})
        self._soon()

    def gone(self, owner: str) -> None:
        """It has been dropped."""
        self._too_large.discard(owner)
        self._anew.add(owner)
        self._soon()

    def rerouted(self) -> None:
        """Routes, or the state of a link, may be others."""
        self._routes_due = True
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = self._timers.after(KEEP_S, lambda: self._start(self.save))

    # ---- the disk
    async def save(self) -> None:
        """Now. What fails is told of, and tried again with the next change."""
        while self._saving is not None:  # its files are not known to be good before it has ended
            await self._saving.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        saving = self._saving = trio.Event()
        changes = self._changes()
        try:
            if changes:
                for owner in await self._files.write(changes):
                    self._too_large.add(owner)
                    events.emit(events.SLICE_TOO_LARGE, owner=owner)
        except OSError as error:
            self._anew.update(changes)
            events.emit(events.STORAGE_FAILED, error=error)
        finally:
            self._saving = None
            saving.set()
        if self._routes_due:
            self._routes_due = False
            await self._save_routes()

    def _changes(self) -> dict[str, Written]:
        changes: dict[str, Written] = {}
        for owner in [o for o in {**self._due, **dict.fromkeys(self._anew)} if o not in self._too_large]:
            s = self._registry.slices.get(owner)
            if s is None or owner == self._registry.me:
                changes[owner] = (True, [])
            elif owner in self._anew or self._files.wants_anew(owner):
                changes[owner] = (True, [{"at": self._at(), "slice": _pack_slice(s, self._now())}])
            else:
                changes[owner] = (False, self._due[owner])
        self._due, self._anew = {}, set()
        return changes

    async def _save_routes(self) -> None:
        for neighbour in tuple(self._routes.neighbours.values()):
            state = (neighbour.state, None if neighbour.state == UP else neighbour.since, neighbour.back)
            routes = tuple(
                (r.path, r.state, None if r.state == UP else r.since, r.back) for r in neighbour.routes.values()
            )
            if self._routes_kept.get(neighbour.name) != (state, routes):
                try:
                    await self._records.put(neighbour.name, self._pack_neighbour(neighbour))
                except OSError as error:
                    events.emit(events.STORAGE_FAILED, error=error)
                    return
                self._routes_kept[neighbour.name] = (state, routes)

    def _at(self) -> list[Any]:
        here = self._clock.now()
        return [here.wall, here.boot, here.boot_id]

    # ---- slices
    def _take_up(self, owner: str, record: Mapping[str, Any]) -> None:
        """One record. Raises one of DAMAGED."""
        then = self._then(record["at"])
        if (value := record.get("slice")) is not None:
            s = _unpack_slice(owner, value, then)
            s.run_at = self._now()
            self._registry.adopt(s)
            return
        update = dict(record["update"])
        update["entries"] = [_with_fingerprint(item, bytes.fromhex) for item in update["entries"]]
        applied = self._registry.apply({**update, "owner": owner}, then)
        if applied.ack is not None and not applied.fell:
            raise ValueError("an update is missing in it")

    def _then(self, at: list[Any]) -> float:
        """That moment, on the clock that only grows."""
        wall, boot, boot_id = at
        return self._now() - Mark(float(wall), float(boot), str(boot_id)).seconds_until(self._clock.now())

    # ---- routes
    def _pack_neighbour(self, neighbour: Neighbour) -> dict[str, Any]:
        now = self._now()
        routes = [
            [r.owner, list(r.path), r.state, now - r.since, None if r.back is None else r.back - now]
            for r in neighbour.routes.values()
        ]
        back_in = None if neighbour.back is None else neighbour.back - now
        said = {"state": neighbour.state, "age": now - neighbour.since, "back_in": back_in, "routes": routes}
        return {"at": self._at(), **said}

    def _unpack_neighbour(self, name: str, value: Mapping[str, Any]) -> Neighbour:
        """Raises one of DAMAGED."""
        then = self._then(value["at"])
        back = None if value["back_in"] is None else then + float(value["back_in"])
        neighbour = Neighbour(name, str(value["state"]), then - float(value["age"]), back)
        if neighbour.state == UP:
            neighbour.state, neighbour.since, neighbour.back = LOST, self._now(), None
        for owner, path, state, age, back_in in value["routes"]:
            since, back = then - float(age), None if back_in is None else then + float(back_in)
            neighbour.routes[str(owner)] = Route(str(owner), tuple(path), str(state), since, back)
        return neighbour


def _with_fingerprint(item: Sequence[Any], turn: Callable[[Any], Any]) -> list[Any]:
    """An entry's fields, with the fingerprint as the disk or as the table has it."""
    fields = list(item[: FINGERPRINT + 1])
    if len(fields) > FINGERPRINT:
        fields[FINGERPRINT] = turn(fields[FINGERPRINT])
    return fields


def _pack_slice(s: Slice, now: float) -> dict[str, Any]:
    entries = [
        [e.name, e.seq, e.counter, e.presence, now - e.since, list(e.services), e.fingerprint.hex(), e.static]
        for e in s.entries.values()
    ]
    run = None if s.run is None else sorted(s.run)
    have = {"epoch": s.epoch, "seq": s.seq, "floor": s.floor, "run": run, "fell_from": s.fell_from}
    return {**have, "entries": entries}


def _unpack_slice(owner: str, value: Mapping[str, Any], then: float) -> Slice:
    """Raises one of DAMAGED."""
    if not is_have(value["epoch"], value["seq"]) or len(value["entries"]) > ENTRY_LIMIT:
        raise ValueError("it has no epoch and seq, or too many entries")
    entries: dict[str, Entry] = {}
    for *item, static in value["entries"]:
        entry = unpack(_with_fingerprint(item, bytes.fromhex), then, None)
        entry.static = int(static)
        entries[entry.name] = entry
    run = None if value["run"] is None else set(value["run"])
    return Slice(owner, value["epoch"], value["seq"], int(value["floor"]), entries, run, 0.0, int(value["fell_from"]))
