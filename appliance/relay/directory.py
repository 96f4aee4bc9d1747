"""Who is where, as terminals and requests ask it (`server.Table`): the login table joined with the configuration's
accounts and devices, and with who is connected here.

It must not know connections. Times in the table are moments of the wall clock, since entries outlive a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from appliance.relay.request import Found

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from appliance.clock import Clock
    from appliance.config.model import Relay
    from appliance.relay.records import Records
    from appliance.relay.request import Ask, Link
    from appliance.relay.requests import Callee

__all__ = ["Directory"]

DAY_S: Final = 86400.0


@dataclass(slots=True)
class _Entry:
    counter: int
    presence: str
    since: float
    services: tuple[str, ...]
    fingerprint: bytes


class Directory:
    """`local(name)`: who is online here; `start` runs in the background; `changed` is told the names whose rows are
    other ones."""

    def __init__(
        self,
        site: str,
        records: Records,
        clock: Clock,
    ) -> None:
        self._site = site
        self._records = records
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._may_call: dict[str, tuple[str, ...]] = {}
        self._callers: dict[str, tuple[str, ...]] = {}
        self._devices: frozenset[str] = frozenset()
        self.local: Callable[[str], Callee | None] = lambda name: None
        self.start: Callable[[Callable[[], Awaitable[None]]], None] = lambda work: None
        self.changed: Callable[[Sequence[str]], None] = lambda names: None
        for name, value in records.values.items():
            presence = "lost" if value["presence"] == "online" else value["presence"]
            services, fingerprint = tuple(value["services"]), bytes.fromhex(value["fingerprint"])
            self._entries[name] = _Entry(value["counter"], presence, value["since"], services, fingerprint)

    def configure(self, config: Relay) -> None:
        self._may_call = {account.name: account.may_call for account in config.account}
        self._callers = {account.name: account.callers for account in config.account}
        self._devices = frozenset(device.name for device in config.device)
        self._callers |= {device.name: device.callers for device in config.device}

    # ---- logins
    def known_counter(self, name: str) -> int:
        entry = self._entries.get(name)
        return entry.counter if entry is not None else 0

    def too_far_ahead(self, counter: int) -> bool:
        return self._clock.trusted and counter > (self._clock.now().wall + DAY_S) * 1000

    def online_elsewhere(self, name: str, fingerprint: bytes) -> bool:
        return False

    def logged_in(self, name: str, counter: int, services: Sequence[str], fingerprint: bytes) -> None:
        now = self._clock.now().wall
        self._entries[name] = _Entry(counter, "online", now, tuple(services), fingerprint)
        self._keep(name)

    def logged_out(self, name: str, counter: int, *, said: bool) -> None:
        entry = self._entries[name]
        entry.presence, entry.since = "offline" if said else "lost", self._clock.now().wall
        self._keep(name)

    def _keep(self, name: str) -> None:
        entry = self._entries[name]
        value = {"counter": entry.counter, "presence": entry.presence, "since": entry.since,
                 "services": list(entry.services), "fingerprint": entry.fingerprint.hex()}  # fmt: skip

        async def keep() -> None:
            await self._records.put(name, value)

        self.start(keep)
        self.changed([name])

    # ---- looking
    def rows(self) -> Iterator[dict[str, Any]]:
        for name in tuple(self._entries):
            row = self.row(name)
            if row is not None:
                yield row

    def row(self, name: str) -> dict[str, Any] | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        age = max(0.0, self._clock.now().wall - entry.since)
        return {"name": name, "presence": entry.presence, "relay": self._site, "path": [self._site], "age": age,
                "services": list(entry.services), "back_in": None}  # fmt: skip

    def find(self, name: str) -> Found | None:
        if name in self._devices:
            return Found("online")  # a call tries it, whatever the last one found
        entry = self._entries.get(name)
        return Found(entry.presence) if entry is not None else None

    def here(self, name: str) -> Callee | None:
        return self.local(name)

    # ---- permissions
    def vouched(self, link: Link, ask: Ask) -> bool:
        return False

    def may_call(self, caller: str, callee: str) -> bool:
        return _covers(self._may_call.get(caller, ()), callee)

    def may_ring(self, callee: str, caller: str, *, ours: bool) -> bool:
        callers = self._callers.get(callee, ())
        return _covers(callers, caller) if callers else ours


def _covers(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
