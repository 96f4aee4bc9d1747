"""The login table of one relay server alone, in dictionaries that a test may look at and change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.relay.request import Ask, Found, Link
from appliance.relay.requests import Callee


@dataclass
class LocalTable:
    """As `relay.server.Table`. `local(name)` is who is online here; `elsewhere` what a peer's entries would say."""

    local: Callable[[str], Callee | None] = lambda name: None
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    elsewhere: dict[str, Found] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    taken: dict[str, bytes] = field(default_factory=dict)
    vouches: bool = True
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    not_callers: set[tuple[str, str]] = field(default_factory=set)
    latest_counter: int = 2**63
    on_change: Callable[[Sequence[str]], None] = lambda names: None

    def known_counter(self, name: str) -> int:
        return self.counters.get(name, 0)

    def too_far_ahead(self, counter: int) -> bool:
        return counter > self.latest_counter

    def online_elsewhere(self, name: str, fingerprint: bytes) -> bool:
        return self.taken.get(name, fingerprint) != fingerprint

    def logged_in(self, name: str, counter: int, services: Sequence[str], fingerprint: bytes) -> None:
        self.counters[name] = counter
        self.entries[name] = {"name": name, "presence": "online", "services": list(services), "relay": "here"}
        self.on_change([name])

    def logged_out(self, name: str, counter: int, *, said: bool) -> None:
        self.entries[name]["presence"] = "offline" if said else "lost"
        self.on_change([name])

    def rows(self) -> Iterator[dict[str, Any]]:
        yield from self.entries.values()

    def row(self, name: str) -> dict[str, Any] | None:
        return self.entries.get(name)

    def find(self, name: str) -> Found | None:
        if name in self.elsewhere:
            return self.elsewhere[name]
        if self.local(name) is not None:
            return Found("online")
        entry = self.entries.get(name)
        return None if entry is None else Found(entry["presence"])

    def here(self, name: str) -> Callee | None:
        return self.local(name)

    def vouched(self, link: Link, ask: Ask) -> bool:
        return self.vouches

    def may_call(self, caller: str, callee: str) -> bool:
        return (caller, callee) not in self.forbidden

    def may_ring(self, callee: str, caller: str, *, ours: bool) -> bool:
        return (callee, caller) not in self.not_callers
