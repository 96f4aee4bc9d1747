"""The links to the other relay servers, and what goes over them (RELAY §3, §4): `have`, routes, updates, requests.

It owns the links, which one stands where there are two, and what each neighbour has been told; it joins `registry` and
`routes`, which are pure, with them. It must not know who opens a link when: `dialling` does.

What changes is gathered for `GATHER_S` and goes out route first, then the updates of that owner, each drawn as the link
takes it. What is gathered goes out before an invitation that may depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.protocol.relay import FrameError, encode, is_name
from appliance.relay.registry import OWNER_LIMIT, REMOVED, Sent, is_have
from appliance.relay.request import Refusal, certificate_of, id_of
from appliance.relay.routes import NONE, UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from appliance.relay.connection import Connection
    from appliance.relay.links import Ended, PeerLink
    from appliance.relay.others import Others
    from appliance.relay.registry import Registry
    from appliance.relay.requests import Requests
    from appliance.relay.routes import Routes
    from appliance.relay.timers import Timer, Timers

__all__ = ["Peer", "Peers"]

GATHER_S: Final = 0.01
EXPIRED_S: Final = 3600.0
"""RELAY §4: so long an owner without a route is still shown, as expired."""
HEARD_S: Final = 60.0
"""RELAY §4: of two links the one that stands by its opener's name must have been heard within this."""


@dataclass(eq=False)
class Peer:
    """One of `relay.peer`. `link`: the one that is up. `said`: owner -> the route that it was told last; `sent`: what
    it has of each owner, None until its `have` is in; `sending`: owners whose frames are being drawn."""

    name: str
    key: bytes
    terminals: tuple[str, ...]
    address: str
    link: PeerLink | None = None
    ever: bool = False
    since: float = 0.0
    back: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    said: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    sent: dict[str, Sent] | None = None
    dirty: set[str] = field(default_factory=set)
    sending: set[str] = field(default_factory=set)


class Peers:
    """All of them: the `links.Wire`. `changed(names)` is told whose rows may be others; `overruled(name)` that another
    owner's entry stands in place of ours; `accepts(peer, name)` says whether a name from behind that peer is taken;
    `keep(epoch, then)` makes a higher epoch of ours durable, before anybody is told of it. `now()` is a clock that only
    grows, in seconds."""

    def __init__(
        self,
        me: str,
        registry: Registry,
        routes: Routes,
        timers: Timers,
        *,
        changed: Callable[[Sequence[str]], None],
        overruled: Callable[[str], None],
        outranked: Callable[[str], bool],
        keep: Callable[[int, Callable[[], None]], None],
        make_link: Callable[[Connection, str], PeerLink],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._me = me
        self.now = now
        self.registry = registry
        self.routes = routes
        self._timers = timers
        self._changed = changed
        self._overruled = overruled
        self._outranked = outranked
        self._keep = keep
        self._make_link = make_link
        self.all: dict[str, Peer] = {}
        self.unreachable: dict[str, float] = {}  # owner -> since when there is no route to it
        self.requests: Requests
        self.others: Others
        self._flushing: Timer | None = None

    async def begin(self) -> None:
        """Before any link is up: takes up what was known of the others when this relay server ended. Raises OSError."""
        await self.others.load(self.all.keys())
        for name, neighbour in self.routes.neighbours.items():
            peer = self.all[name]
            peer.ever, peer.since, peer.back = True, neighbour.since, neighbour.back
        self.merged(self.registry.names())

    def greet(self, connection: Connection, name: str) -> None:
        """A `hello` with the role of a relay server has come."""
        connection.speaker = self._make_link(connection, name)

    # ---- links.Wire
    def secret_of(self, name: str) -> bytes | None:
        peer = self.all.get(name)
        return peer.key if peer is not None else None

    def up(self, link: PeerLink) -> bool:
        peer = self.all[link.name]
        older = peer.link
        if older is not None and older.opened_there != link.opened_there:
            # Both have opened one: that of the name that sorts first stays.
            ours_stays = self._me < link.name
            stays = not older.opened_there if ours_stays else older.opened_there
            if stays and self.now() - older.connection.heard < HEARD_S:
                return False
        peer.link = link
        peer.said, peer.sent, peer.dirty, peer.sending = {}, None, set(), set()
        if older is not None:
            older.connection.end("bye", {"reason": "replaced"})
        now = self.now()
        peer.ever, peer.since, peer.back = True, now, None
        self.routes.link_up(link.name, now)
        self.others.rerouted()
        events.emit(events.PEER_UP, peer=link.name, client=link.connection.client)
        link.send("have", {"have": self.registry.have()})
        self._say_routes(peer)
        return True

    def down(self, link: PeerLink, ended: Ended) -> None:
        peer = self.all.get(link.name)
        if peer is not None:
            peer.bytes_in += link.connection.bytes_in
            peer.bytes_out += link.connection.bytes_out
        self.requests.link_lost(link)
        if peer is None or peer.link is not link:
            return  # another one has taken its place
        now = self.now()
        peer.link, peer.sent = None, None
        peer.since, peer.back = now, ended.back
        self.routes.link_down(link.name, now, ended.back)
        events.emit(events.PEER_DOWN, peer=link.name, why=ended.why)
        self._rerouted()

    def frame(self, link: PeerLink, kind: str, body: Mapping[str, Any]) -> None:
        peer = self.all[link.name]
        if peer.link is not link:
            return  # replaced; its last frames are late
        match kind:
            case "have":
                self._have(peer, body)
            case "route":
                self.routes.heard(link.name, body, self.now())
                self._rerouted()
            case "update":
                self._update(peer, link, body)
            case "ack":
                self._ack(peer, body)
            case "invite":
                self.requests.invite(link, body)
            case "accept":
                self.requests.accept(link, id_of(body), certificate_of(body))
            case "reject":
                self.requests.reject(link, id_of(body), Refusal.parse(body))
            case "ready":
                self.requests.ready(link, body)
            case "cancel":
                self.requests.cancel(link, id_of(body))

    # ---- the table
    def _have(self, peer: Peer, body: Mapping[str, Any]) -> None:
        have = body.get("have")
        if peer.sent is not None:
            raise FrameError("out-of-order", "have comes once")
        if not isinstance(have, dict):
            raise FrameError("bad-body", "no have")
        if len(have) > OWNER_LIMIT + 1:
            raise FrameError("limit", f"more than {OWNER_LIMIT} owners")
        peer.sent = {}
        for owner, pair in have.items():
            match pair:
                case [epoch, seq] if is_name(owner) and is_have(epoch, seq):
                    peer.sent[owner] = Sent(epoch, seq)
                    if owner == self._me:
                        self._met_ourselves(peer, epoch, seq)
                case _:
                    raise FrameError("bad-body", "no have")
        self.dirty(*self.registry.slices)

    def _update(self, peer: Peer, link: PeerLink, body: Mapping[str, Any]) -> None:
        owner = body.get("owner")
        if not is_name(owner) or not is_have(body.get("epoch"), body.get("seq")):
            raise FrameError("bad-body", "no update")
        if owner == self._me:
            self._met_ourselves(peer, body["epoch"], body["seq"])
            return
        if not self.routes.says(peer.name, owner):
            return
        if owner != peer.name and (other := self.all.get(owner)) is not None and other.link is not None:
            return  # one of our own peers is believed about himself alone
        applied = self.registry.apply(body, self.now())
        if applied.ack is not None:
            if not applied.fell:
                link.send("ack", applied.ack)
                return
            self._ask(applied.ack)
        self.others.heard(body)
        s = self.registry.slices[owner]
        if peer.sent is not None:
            peer.sent[owner] = Sent(s.epoch, s.seq)
        self.dirty(owner)
        self.merged(applied.changed)

    def _ask(self, ack: Mapping[str, Any]) -> None:
        """Asks everybody who may have more of that owner than we do."""
        for peer in self.all.values():
            if peer.link is not None and self.routes.says(peer.name, ack["owner"]):
                peer.link.send("ack", ack)

    def merged(self, names: Sequence[str]) -> None:
        """Entries of these names have changed: where another owner's stands in place of ours, ours goes."""
        now = self.now()
        for name in names:
            ours = self.registry.own.entries.get(name)
            if ours is not None and ours.presence != REMOVED and self._outranked(name):
                self.registry.set_presence(name, REMOVED, now)
                self.dirty(self._me)
                self._overruled(name)
        if names:
            self._changed(names)

    def _met_ourselves(self, peer: Peer, epoch: int, seq: int) -> None:
        if not self.registry.is_above_us(epoch, seq):
            return
        higher = self.registry.next_epoch(epoch, self.now())
        if higher is None:
            events.emit(events.NAME_TAKEN, peer=peer.name, site=self._me)
            raise FrameError("name-taken", f"another relay server is called {self._me}")

        def go_on() -> None:
            self.registry.begin_epoch(higher)
            self.dirty(self._me)

        self._keep(higher, go_on)

    def _ack(self, peer: Peer, body: Mapping[str, Any]) -> None:
        owner, epoch, seq = body.get("owner"), body.get("epoch"), body.get("seq")
        s = self.registry.slices.get(owner) if isinstance(owner, str) else None
        if not is_have(epoch, seq):
            raise FrameError("bad-body", "no ack")
        assert isinstance(epoch, int) and isinstance(seq, int)
        if s is None or peer.sent is None:
            return
        if epoch > s.epoch:  # no request: somebody remembers the owner from a life that it has forgotten itself
            self._pass_to_owner(peer, s.owner, epoch, seq)
            return
        peer.sent[s.owner] = Sent(epoch, seq)
        self.dirty(s.owner)

    def _pass_to_owner(self, peer: Peer, owner: str, epoch: int, seq: int) -> None:
        """It must hear of it to go above that; else whoever said this never believes it again."""
        if owner == self._me:
            self._met_ourselves(peer, epoch, seq)
        elif (way := self.routes.best(owner, self.now())) is not None and way[0] != peer.name:
            towards = self.all[way[0]].link
            if towards is not None:
                towards.send("ack", {"owner": owner, "epoch": epoch, "seq": seq})

    # ---- routes
    def _rerouted(self) -> None:
        """Routes may be others: tells the neighbours, and everybody who looks at names."""
        self.others.rerouted()
        for peer in self.all.values():
            self._say_routes(peer)
        self.dirty(*self.registry.slices)
        self._changed([name for s in self.registry.slices.values() if s.owner != self._me for name in s.entries])

    def _say_routes(self, peer: Peer) -> None:
        if peer.link is None:
            return
        now = self.now()
        for owner in sorted({self._me, *self.routes.owners(), *peer.said}, key=lambda o: (o != self._me, o)):
            if owner == peer.name:
                continue
            body = self.routes.to_say(owner, now)
            if peer.name in body["path"]:
                body = {"owner": owner, "path": [], "state": NONE, "age": 0}
            brief = (tuple(body["path"]), body["state"], body.get("back_in") is None)
            if peer.said.get(owner, ((), NONE, True)) != brief:
                peer.said[owner] = brief
                peer.link.send("route", body)

    # ---- sending
    def dirty(self, *owners: str) -> None:
        """Slices that have changed: soon everybody is told."""
        for peer in self.all.values():
            if peer.link is not None:
                peer.dirty.update(o for o in owners if o != peer.name)
        if self._flushing is None:
            self._flushing = self._timers.after(GATHER_S, self.flush)

    def flush(self) -> None:
        """Now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        for peer in self.all.values():
            if peer.link is not None and peer.sent is not None:
                for owner in sorted(peer.dirty - peer.sending):
                    self._send_updates(peer, peer.link, owner)

    def _send_updates(self, peer: Peer, link: PeerLink, owner: str) -> None:
        peer.dirty.discard(owner)
        said = peer.said.get(owner)
        if said is None or said[1] == NONE or owner not in self.registry.slices or peer.sent is None:
            return
        sent = peer.sent.setdefault(owner, Sent(0, 0))
        frames = self.registry.frames(owner, sent, self.now())
        first = next(frames, None)
        if first is not None:
            peer.sending.add(owner)
            link.connection.send_long(self._draw(peer, link, owner, first, frames))

    def _draw(
        self, peer: Peer, link: PeerLink, owner: str, first: dict[str, Any], frames: Iterator[dict[str, Any]]
    ) -> Iterator[bytes]:
        yield encode("update", first)
        for frame in frames:
            yield encode("update", frame)
        if peer.link is link:
            peer.sending.discard(owner)
            if owner in peer.dirty:
                self.dirty(owner)

    # ---- housekeeping
    def tidy(self, forget_after_s: float) -> list[str]:
        """Forgets entries that are gone for long, and owners without a route; -> the names of ours that changed."""
        now = self.now()
        ours = self.registry.forget(now, forget_after_s)
        gone = []
        for owner in [o for o in self.registry.slices if o != self._me]:
            if self.routes.best(owner, now) is not None:
                self.unreachable.pop(owner, None)
            elif now - self.unreachable.setdefault(owner, now) >= EXPIRED_S:
                del self.unreachable[owner]
                gone += self.registry.drop_owner(owner)
                self.others.gone(owner)
        for ack in self.registry.stalled(now):
            self._ask(ack)
        if ours:
            self.dirty(self._me)
        self.merged([*ours, *gone])
        return ours

    def stop(self) -> None:
        """Tells everybody that this relay server stops."""
        for peer in self.all.values():
            if peer.link is not None:
                peer.link.leave("stopping", None)

    # ---- looking
    def state(self, peer: Peer) -> str:
        """up, suspended, lost or never."""
        if peer.link is not None:
            return UP
        if not peer.ever:
            return "never"
        return "suspended" if peer.back is not None else "lost"

    def moved(self, peer: Peer) -> tuple[int, int]:
        """Bytes of frames (in, out), over all its links."""
        if peer.link is None:
            return peer.bytes_in, peer.bytes_out
        connection = peer.link.connection
        return peer.bytes_in + connection.bytes_in, peer.bytes_out + connection.bytes_out
