"""Who is where, as terminals, requests and the control socket ask it (`server.Table`): the login table and the routes,
joined with the configuration's accounts, devices and peers.

It owns the judgement which of several owners' entries of a name stands, and what is shown of it; it must not know
connections. A remote entry counts where `relay.peer.terminals` takes the name from behind that neighbour, and for one
of our accounts only where it `roams`; never for a device.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from appliance.relay.registry import LOST, OFFLINE, ONLINE, REMOVED
from appliance.relay.request import Found
from appliance.relay.routes import UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from appliance.clock import Clock
    from appliance.config.model import Relay
    from appliance.relay.peers import Peers
    from appliance.relay.registry import Entry
    from appliance.relay.request import Ask, Callee, Link
    from appliance.relay.routes import Route

__all__ = ["Directory"]

DAY_S: Final = 86400.0
_WORDS: Final = {ONLINE: "online", LOST: "lost", OFFLINE: "offline"}


class Directory:
    """`peers` and `local(name)` (who is online here) are set by the server; so is `keep(name)`, called when one of our
    own entries has changed."""

    def __init__(self, site: str, clock: Clock) -> None:
        self._site = site
        self._clock = clock
        self._may_call: dict[str, tuple[str, ...]] = {}
        self._callers: dict[str, tuple[str, ...]] = {}
        self._roams: dict[str, bool] = {}
        self._devices: frozenset[str] = frozenset()
        self._by_call: frozenset[str] = frozenset()
        self.peers: Peers
        self.local: Callable[[str], Callee | None] = lambda name: None
        self.keep: Callable[[str], None] = lambda name: None

    def configure(self, config: Relay) -> None:
        self._may_call = {account.name: account.may_call for account in config.account}
        self._callers = {account.name: account.callers for account in config.account}
        self._roams = {account.name: account.roams for account in config.account}
        self._devices = frozenset(device.name for device in config.device)
        self._callers |= {device.name: device.callers for device in config.device}
        self._by_call = frozenset(peer.name for peer in config.peer if peer.connect == "call")

    # ---- which entry stands
    def standing(self, name: str) -> tuple[str, Entry] | None:
        """(owner, entry) of the name."""
        found = [
            (owner, entry)
            for owner, entry in self.peers.registry.of(name)
            if entry.presence != REMOVED and (owner == self._site or self._accepted(owner, entry))
        ]
        return max(found, key=lambda f: (f[1].counter, f[0]), default=None)

    def _accepted(self, owner: str, entry: Entry) -> bool:
        """Whether an entry of that owner is taken."""
        name = entry.name
        if self.too_far_ahead(entry.counter):
            return False  # nobody could log in above it
        if name in self._devices or self._roams.get(name) is False:
            return False
        way = self._way(owner)
        if way is None:  # expired: whoever brought it
            return any(self.takes_from(neighbour, name) for neighbour in self.peers.all)
        return self.takes_from(way[0], name)

    def takes_from(self, neighbour: str, name: str) -> bool:
        """`relay.peer.terminals`."""
        peer = self.peers.all.get(neighbour)
        return peer is not None and _covers(peer.terminals, name)

    def _way(self, owner: str) -> tuple[str, Route] | None:
        return self.peers.routes.best(owner, self.peers.now())

    def outranked(self, name: str) -> bool:
        """Whether another owner's entry stands in place of ours."""
        standing = self.standing(name)
        return standing is not None and standing[0] != self._site

    def conflict(self, name: str) -> str | None:
        """Another owner that has this name of ours, which may log in here alone: its entry does not count."""
        if name not in self._devices and self._roams.get(name) is not False:
            return None
        others = [o for o, e in self.peers.registry.of(name) if o != self._site and e.presence != REMOVED]
        return min(others, default=None)

    def is_device(self, name: str) -> bool:
        """Whether we log it in."""
        return name in self._devices

    # ---- logins
    def known_counter(self, name: str) -> int:
        entries = self.peers.registry.of(name)
        return max((e.counter for o, e in entries if o == self._site or self._accepted(o, e)), default=0)

    def too_far_ahead(self, counter: int) -> bool:
        return self._clock.trusted and counter > (self._clock.now().wall + DAY_S) * 1000

    def online_elsewhere(self, name: str, fingerprint: bytes) -> bool:
        return any(
            e.presence == ONLINE and e.fingerprint != fingerprint
            for o, e in self.peers.registry.of(name)
            if o != self._site and self._accepted(o, e)
        )

    def logged_in(self, name: str, counter: int, services: Sequence[str], fingerprint: bytes) -> None:
        self.peers.registry.publish(name, ONLINE, self.peers.now(), counter, services, fingerprint)
        self._changed(name)

    def logged_out(self, name: str, counter: int, *, said: bool) -> None:
        entry = self.peers.registry.own.entries.get(name)
        if entry is not None and entry.counter == counter and entry.presence == ONLINE:
            self.peers.registry.set_presence(name, OFFLINE if said else LOST, self.peers.now())
            self._changed(name)

    def _changed(self, name: str) -> None:
        self.keep(name)
        self.peers.dirty(self._site)
        self.peers.merged([name])

    # ---- looking
    def shown(self, owner: str, entry: Entry) -> tuple[str, float, float | None, tuple[str, ...]]:
        """(presence as a word, since, moment when it is back, path) of an entry."""
        if owner == self._site:
            return _WORDS[entry.presence], entry.since, None, (self._site,)
        way = self._way(owner)
        if way is None:
            return "expired", entry.since, None, ()
        route = way[1]
        path = (*route.path, self._site)
        if entry.presence == OFFLINE:
            return "offline", entry.since, None, path
        if route.state == UP:
            return _WORDS[entry.presence], entry.since, None, path
        return route.state, route.since, route.back, path

    def rows(self) -> Iterator[dict[str, Any]]:
        for name in self.peers.registry.names():
            row = self.row(name)
            if row is not None:
                yield row

    def row(self, name: str) -> dict[str, Any] | None:
        standing = self.standing(name)
        if standing is None:
            return None
        owner, entry = standing
        presence, since, back, path = self.shown(owner, entry)
        now = self.peers.now()
        row: dict[str, Any] = {"name": name, "presence": presence, "relay": owner, "path": list(path)}
        row["age"], row["services"] = max(0.0, now - since), list(entry.services)
        row["back_in"] = None if back is None else max(0.0, back - now)
        return row

    def find(self, name: str) -> Found | None:
        if name in self._devices:
            return Found("online")  # a call tries it, whatever the last one found
        standing = self.standing(name)
        if standing is None:
            return None
        owner, entry = standing
        presence, since, back, _ = self.shown(owner, entry)
        now = self.peers.now()
        age = max(0.0, now - since)
        way = self._way(owner)
        if owner == self._site or way is None:
            return Found(presence, age=age)
        peer = self.peers.all[way[0]]
        by_call = peer.name in self._by_call and peer.link is None
        if by_call:  # not when our own line is up again by plan: when theirs is
            back = self.peers.routes.neighbours[way[0]].routes[owner].back
        if back is None:
            return Found(presence, peer.link, None, by_call, age)
        return Found(presence, peer.link, max(0.0, back - now), by_call, age, max(0.0, now - back))

    def here(self, name: str) -> Callee | None:
        return self.local(name)

    # ---- permissions
    def vouched(self, link: Link, ask: Ask) -> bool:
        if not self.takes_from(link.name, ask.caller) or ask.path[-1] != link.name:
            return False
        s = self.peers.registry.slices.get(ask.path[0])
        entry = s.entries.get(ask.caller) if s is not None else None
        if entry is None or entry.presence != ONLINE or not self.peers.routes.says(link.name, ask.path[0]):
            return False
        return entry.fingerprint == _digest(ask.certificate)

    def may_call(self, caller: str, callee: str) -> bool:
        return _covers(self._may_call.get(caller, ()), callee)

    def may_ring(self, callee: str, caller: str, *, ours: bool) -> bool:
        callers = self._callers.get(callee, ())
        return _covers(callers, caller) if callers else ours


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def _covers(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
