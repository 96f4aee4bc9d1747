"""How owners are reached (RELAY §4), pure: what each neighbour last said of each owner, and the best of it.

`now` is seconds of a clock that only grows; moments are on it. A neighbour's routes are kept when its link ends: from
then on they are `suspended` or `lost`, whatever it said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from appliance.protocol.relay import FrameError, is_name, is_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LOST", "NONE", "SUSPENDED", "UP", "Neighbour", "Route", "Routes"]

UP, SUSPENDED, LOST, NONE = "up", "suspended", "lost", "none"
_RANK: Final = {UP: 0, SUSPENDED: 1, LOST: 2, NONE: 3}
PATH_LIMIT: Final = 4
OWNER_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class Route:
    """`path`: the owner first, the neighbour last. `since`: of the state; `back`: when it is up again, where known."""

    owner: str
    path: tuple[str, ...]
    state: str
    since: float
    back: float | None = None


@dataclass(slots=True)
class Neighbour:
    """What came over the link to one. `state` is the link's."""

    name: str
    state: str
    since: float
    back: float | None = None
    routes: dict[str, Route] = field(default_factory=dict)

    def as_seen(self, route: Route) -> Route:
        """With the state of its link, where that is worse."""
        if self.state == UP or _RANK[route.state] > _RANK[self.state]:
            return route
        if self.state == route.state:
            return route
        return Route(route.owner, route.path, self.state, self.since, self.back)


class Routes:
    """`me` is our own name. `forget_after_s`: a route that is older than this is none."""

    def __init__(self, me: str, forget_after_s: float) -> None:
        self.me = me
        self.forget_after_s = forget_after_s
        self.neighbours: dict[str, Neighbour] = {}

    def link_up(self, name: str, now: float) -> None:
        """A new link; what was said over the older one stands until the new one says something else, but as lost, for
        as long as it has not been up."""
        old = self.neighbours.get(name)
        routes = {} if old is None else {o: old.as_seen(r) for o, r in old.routes.items() if o != name}
        kept = {o: Route(o, r.path, LOST, now if r.state == UP else r.since) for o, r in routes.items()}
        self.neighbours[name] = Neighbour(name, UP, now, None, kept)

    def link_down(self, name: str, now: float, back: float | None) -> None:
        """`back`: when the link is up again, None for one that is lost."""
        neighbour = self.neighbours.get(name)
        if neighbour is not None:
            neighbour.state = LOST if back is None else SUSPENDED
            neighbour.since, neighbour.back = now, back

    def heard(self, neighbour: str, body: Mapping[str, Any], now: float) -> str:
        """Takes a `route`; -> its owner. Raises FrameError."""
        owner, path, state = body.get("owner"), body.get("path") or [], body.get("state")
        age, back_in = body.get("age") or 0, body.get("back_in")
        if not (
            is_name(owner)
            and isinstance(path, list)
            and all(is_name(p) for p in path)
            and isinstance(state, str)
            and state in _RANK
            and is_seconds(age)
            and (back_in is None or is_seconds(back_in))
        ):
            raise FrameError("bad-body", "no route")
        good = path and len(path) <= PATH_LIMIT and len(set(path)) == len(path)
        if state != NONE and not (good and path[0] == owner and path[-1] == neighbour):
            raise FrameError("bad-body", "a route whose path is none")
        routes = self.neighbours[neighbour].routes
        if state == NONE or self.me in path or age >= self.forget_after_s:
            routes.pop(owner, None)
        elif owner not in routes and len(routes) >= OWNER_LIMIT:
            raise FrameError("limit", f"more than {OWNER_LIMIT} owners")
        else:
            routes[owner] = Route(owner, tuple(path), str(state), now - age, None if back_in is None else now + back_in)
        return owner

    def says(self, neighbour: str, owner: str) -> bool:
        """Whether its last route to that owner is not `none`."""
        return owner in self.neighbours[neighbour].routes

    def best(self, owner: str, now: float) -> tuple[str, Route] | None:
        """(neighbour, route); None for none, or one that is too old."""
        found = [
            (n.name, n.as_seen(n.routes[owner]))
            for n in self.neighbours.values()
            if owner in n.routes and len(n.routes[owner].path) <= PATH_LIMIT
        ]
        found = [(n, r) for n, r in found if r.state == UP or now - r.since < self.forget_after_s]
        return min(found, key=lambda f: (_RANK[f[1].state], len(f[1].path), f[0]), default=None)

    def owners(self) -> set[str]:
        """All that anybody has said something of."""
        return {owner for n in self.neighbours.values() for owner in n.routes}

    def to_say(self, owner: str, now: float) -> dict[str, Any]:
        """The body of our `route` to that owner."""
        if owner == self.me:
            return {"owner": owner, "path": [self.me], "state": UP, "age": 0}
        best = self.best(owner, now)
        if best is None or len(best[1].path) >= PATH_LIMIT:
            return {"owner": owner, "path": [], "state": NONE, "age": 0}
        route = best[1]
        body: dict[str, Any] = {"owner": owner, "path": [*route.path, self.me], "state": route.state}
        # One that is up is as old as this frame: else a link that has been up for `forget_after` would count as none.
        body["age"] = 0 if route.state == UP else max(0, round(now - route.since))
        if route.back is not None:
            body["back_in"] = max(0, round(route.back - now))
        return body
