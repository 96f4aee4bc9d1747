"""Relay servers without sockets, disks or time: their login tables, routes and exchange, as they run in the product, and
wires between them that deliver frame by frame, when a test says so.

A `World` has sites, edges (who is whose peer) and wires (a link's two ends). Frames go through msgpack, so that what
arrives is a copy. A wire may be cut at one end only, frames may come twice or in another order.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from appliance.config.model import Relay, RelayAccount
from appliance.protocol.relay import Decoder, FrameError, encode
from appliance.relay.directory import Directory
from appliance.relay.links import Ended
from appliance.relay.memory import Memory
from appliance.relay.others import Others
from appliance.relay.peers import Peer, Peers
from appliance.relay.routes import Routes
from fakes.clock import FakeClock

FORGET_S = 7 * 86400.0
UP = "(the link is up)"


class Stored:
    """As `relay.records.Records`, in memory; it outlives the site's restarts."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any]:
        return self.values.get(key, {})

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        return list(self.values.items())

    def let_go(self) -> None:
        """What the next life of the site will want to know stays."""

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self.values[key] = value

    async def forget(self, key: str) -> None:
        self.values.pop(key, None)


class StoredSlices:
    """As `relay.slice_files.SliceFiles`, in memory, over the site's restarts. Files are written anew soon."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}
        self.found: dict[str, list[dict[str, Any]]] = {}

    def read(self) -> None:
        """As at the start of the process."""
        self.found = {owner: [json.loads(line) for line in lines] for owner, lines in self.files.items()}

    def wants_anew(self, owner: str) -> bool:
        return len(self.files.get(owner, "many lines")) > 6

    def damaged(self, owner: str, why: str) -> None:
        raise AssertionError(f"the slice of {owner} is damaged: {why}")

    async def write(self, changes: Mapping[str, tuple[bool, list[dict[str, Any]]]]) -> list[str]:
        for owner, (anew, records) in changes.items():
            lines = [json.dumps(record) for record in records]
            self.files[owner] = lines if anew else [*self.files[owner], *lines]
            if not records:
                del self.files[owner]
        return []


def run(work: Awaitable[None]) -> None:
    """To its end: nothing in it waits."""
    for _ in work.__await__():
        raise AssertionError("it waits")


class Later:
    """One timer."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class HandTimers:
    """As `relay.timers.Timers`; fire when they are told to."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.all: list[Later] = []

    def after(self, seconds: float, call: Callable[[], None]) -> Later:
        self.all.append(Later(self._now() + seconds, call))
        return self.all[-1]

    def fire(self) -> None:
        """All that are set."""
        due, self.all = self.all, []
        for timer in due:
            if timer.call is not None:
                timer.call()


class End:
    """One end of a wire: what `Peers` sees as the link, and its connection."""

    keepalive = 30
    client = "a wire"

    def __init__(self, wire: Wire, site: Site, name: str, *, opened_there: bool) -> None:
        self.wire = wire
        self.site = site
        self.name = name
        self.opened_there = opened_there
        self.state = "proving"
        self.heard = site.world.now
        self.bytes_in = self.bytes_out = 0
        self.inbox: deque[Iterator[bytes]] = deque()
        self.taken: deque[tuple[str, dict[str, Any]]] = deque(maxlen=8)
        self.connection: Any = self

    @property
    def other(self) -> End:
        a, b = self.wire.ends
        return b if self is a else a

    # ---- PeerLink's
    def send(self, kind: str, body: Mapping[str, Any] | None = None) -> None:
        if self.state == "up":
            self._put(iter((encode(kind, body),)))

    def leave(self, reason: str, back_in: float | None) -> None:
        back = None if back_in is None else self.site.world.now + back_in
        for end in (self, self.other):
            end.over(Ended(reason, back))

    # ---- Connection's
    def send_long(self, frames: Iterator[bytes]) -> None:
        if self.state == "up":
            self._put(frames)

    def end(self, kind: str, body: Mapping[str, Any]) -> None:
        for end in (self, self.other):
            end.over(Ended(kind, None))

    def _put(self, frames: Iterator[bytes]) -> None:
        if not self.wire.slow:  # a fast line has taken them at once
            frames = iter(tuple(frames))
        self.other.inbox.append(frames)
        self.wire.sent.append(self.other)

    # ---- the wire's
    def up(self) -> None:
        self.state = "up"
        if not self.site.peers.up(self):  # type: ignore[arg-type]
            self.state = "over"
            self.other.over(Ended("replaced", None))

    def over(self, ended: Ended) -> None:
        was, self.state = self.state, "over"
        self.inbox.clear()
        if was == "up" and self in self.site.ends:
            self.site.ends.discard(self)
            self.site.peers.down(self, ended)  # type: ignore[arg-type]

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """The next frame that arrives here."""
        while self.inbox:
            data = next(self.inbox[0], None)
            if data is not None:
                decoder = Decoder()
                decoder.feed(data)
                return decoder.next()
            self.inbox.popleft()
        return None

    def take(self, frame: tuple[str, dict[str, Any]]) -> None:
        self.heard = self.site.world.now
        if self.state == "proving" and not self.opened_there:
            self.up()  # the welcome, which is before any frame
        if self.state != "up":
            return
        if frame[0] in ("update", "ack"):
            self.taken.append(frame)
        try:
            self.site.peers.frame(self, *frame)  # type: ignore[arg-type]
        except FrameError as error:
            self.site.world.errors.append(f"{error.code}: {error} ({self.name} to {self.site.name}: {frame})")
            self.end("error", {"code": error.code})


class Wire:
    """A link. `slow`: each frame is made when it is delivered."""

    def __init__(self, opener: Site, acceptor: Site, *, slow: bool) -> None:
        self.slow = slow
        self.sent: list[End] = []
        self.ends = (
            End(self, opener, acceptor.name, opened_there=False),
            End(self, acceptor, opener.name, opened_there=True),
        )
        for end in self.ends:
            end.site.ends.add(end)
        self.ends[1].up()

    @property
    def whole(self) -> bool:
        return all(end.state == "up" for end in self.ends)

    def deliver(self, limit: int = 1 << 30) -> int:
        """Up to so many frames at either end; -> how many."""
        n = 0
        for end in self.ends:
            while n < limit and end.state != "over" and (frame := end.next()) is not None:
                end.take(frame)
                n += 1
        return n

    def cut(self, *, both: bool = True, first: int = 0) -> None:
        """A cable pulled out; one end may not know it yet."""
        for end in self.ends:
            end.inbox.clear()
        for end in self.ends if both else self.ends[first : first + 1]:
            end.over(Ended("cut", None))


class Site:
    """One relay server. `online`: name -> counter, of the terminals that believe themselves logged in here."""

    def __init__(self, world: World, name: str, peers: list[str]) -> None:
        self.world = world
        self.name = name
        self.peer_names = peers
        self.stored, self.stored_routes, self.slices = Stored(), Stored(), StoredSlices()
        self.clock = FakeClock()
        self.epochs: set[int] = set()
        self.ends: set[End] = set()
        self.undone: list[Callable[[], Awaitable[None]]] = []
        self.begin()

    def begin(self) -> None:
        """As at the start of the process."""
        world = self.world
        self.timers = HandTimers(lambda: world.now)
        stored: Any = self.stored
        slices: Any = self.slices
        stored_routes: Any = self.stored_routes
        routes = Routes(self.name, FORGET_S)
        self.memory = Memory(stored, self.clock, self.name, self.undone.append, lambda: world.now)
        self.directory = Directory(self.name, self.clock)
        timers: Any = self.timers
        self.peers = Peers(
            self.name,
            self.memory.registry,
            routes,
            timers,
            changed=lambda names: None,
            overruled=self._overruled,
            outranked=self.directory.outranked,
            keep=self.memory.keep_epoch,
            make_link=lambda connection, name: None,  # type: ignore[arg-type,return-value]
            now=lambda: world.now,
        )
        requests: Any = self
        self.peers.requests = requests
        self.slices.read()
        self.peers.others = Others(
            slices,
            stored_routes,
            self.memory.registry,
            routes,
            self.clock,
            timers,
            self.undone.append,
            lambda: world.now,
        )
        for name in self.peer_names:
            self.peers.all[name] = Peer(name, bytes(32), ("*",), "")
        self.directory.peers = self.peers
        self.directory.keep = self.memory.keep
        self.directory.configure(Relay(account=tuple(RelayAccount(name=n, roams=True) for n in world.names)))
        self.online: dict[str, int] = {}
        run(self.memory.begin())
        run(self.peers.begin())
        self.epochs.add(self.memory.registry.own.epoch)

    def link_lost(self, link: object) -> None:
        """Of `Requests`: there are none here."""

    def _overruled(self, name: str) -> None:
        self.memory.keep(name)
        self.online.pop(name, None)  # it is told `bye` `replaced`, and stops

    def write(self) -> None:
        """What waits for the disk is on it."""
        while self.undone:
            run(self.undone.pop(0)())

    def settle(self) -> None:
        self.write()
        self.timers.fire()

    # ---- what happens to it
    def login(self, name: str, fingerprint: bytes, services: tuple[str, ...]) -> None:
        counter = self.directory.known_counter(name) + 1
        self.online[name] = counter
        self.directory.logged_in(name, counter, services, fingerprint)

    def logout(self, name: str, *, said: bool) -> None:
        counter = self.online.pop(name)
        self.directory.logged_out(name, counter, said=said)

    def restart(self, *, crash: bool = False, lost: bool = False) -> None:
        """`crash`: what was not on the disk yet is gone; `lost`: so is all that was on it."""
        if not crash:
            self.write()
        self.undone.clear()
        for end in tuple(self.ends):
            self.ends.discard(end)
            end.state = "over"
            end.other.over(Ended("the other side ended", None))
        if lost:
            self.stored.values.clear()
            self.stored_routes.values.clear()
            self.slices.files.clear()
            while int(self.clock.now().wall) in self.epochs:
                self.clock.advance(1)  # two lives without a memory never begin in the same second (RELAY §3)
        self.begin()

    def tidy(self) -> None:
        for name in self.peers.tidy(FORGET_S):
            self.memory.keep(name)

    # ---- looking
    def table(self, owner: str) -> dict[str, tuple[Any, ...]] | None:
        """The owner's entries as they are known here, without those that are removed."""
        s = self.memory.registry.slices.get(owner)
        if s is None:
            return None
        return {
            e.name: (e.seq, e.counter, e.presence, e.services, e.fingerprint)
            for e in s.entries.values()
            if e.presence != 3
        }


class World:
    """Sites and what connects them. `now`: the clock of all that only grows."""

    def __init__(self, edges: list[tuple[str, str]], names: tuple[str, ...]) -> None:
        self.now = 1000.0
        self.names = names
        self.errors: list[str] = []
        self.edges = edges
        self.wires: list[Wire] = []
        peers: dict[str, list[str]] = {}
        for a, b in edges:
            peers.setdefault(a, []).append(b)
            peers.setdefault(b, []).append(a)
        self.sites = {name: Site(self, name, peers[name]) for name in sorted(peers)}

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for site in self.sites.values():
            site.clock.advance(seconds)

    def connect(self, opener: str, acceptor: str, *, slow: bool) -> None:
        self.wires.append(Wire(self.sites[opener], self.sites[acceptor], slow=slow))

    def live(self) -> list[Wire]:
        self.wires = [w for w in self.wires if any(end.state != "over" for end in w.ends)]
        return self.wires

    def linked(self, a: str, b: str) -> bool:
        """Whether one wire is up that both take for theirs."""
        ours, theirs = self.sites[a].peers.all[b].link, self.sites[b].peers.all[a].link
        return ours is not None and theirs is not None and ours.wire is theirs.wire  # type: ignore[attr-defined]

    def distances(self, origin: str) -> dict[str, int]:
        """Links to each site."""
        out, queue = {origin: 0}, deque([origin])
        while queue:
            here = queue.popleft()
            for name in self.sites[here].peer_names:
                if name not in out:
                    out[name] = out[here] + 1
                    queue.append(name)
        return out

    def heal(self, *, rounds: int = 500) -> None:
        """All edges are linked, until nobody has anything to say. Fails where that takes for ever."""
        for _ in range(rounds):
            for a, b in self.edges:
                if not self.linked(a, b):
                    for wire in self.live():
                        if {end.site.name for end in wire.ends} == {a, b}:
                            wire.cut()
                    self.connect(a, b, slow=False)
            moved = sum(wire.deliver() for wire in self.live())
            for site in self.sites.values():
                moved += len(site.undone) + sum(t.call is not None for t in site.timers.all)
                site.settle()
            if self.errors:
                assert all(e.startswith("name-taken") for e in self.errors), self.errors
                self.errors.clear()
                self.advance(3601)  # twice within an hour is a fault; after it, it may be raised again
                moved = 1
            if not moved and all(self.linked(a, b) for a, b in self.edges):
                runs = [
                    s for site in self.sites.values() for s in site.memory.registry.slices.values() if s.run is not None
                ]
                if not runs:
                    return
                self.advance(601)
                for site in self.sites.values():
                    site.tidy()
        print("EDGES", self.edges)
        for k in range(3):
            print("ROUND", k, "moved", moved, [(a, b) for a, b in self.edges if not self.linked(a, b)])
            for wire in self.live():
                for end in wire.ends:
                    while end.state != "over" and (frame := end.next()) is not None:
                        print("   ", end.name, "->", end.site.name, frame)
                        end.take(frame)
            for site in self.sites.values():
                print("   ", site.name, len(site.undone), [t.call for t in site.timers.all if t.call])
                site.settle()
        for site in self.sites.values():
            for o, s in site.memory.registry.slices.items():
                print("S", site.name, o, (s.epoch, s.seq, s.floor, s.fell_from), "run", s.run, list(s.entries))
        raise AssertionError("they never stop talking")
