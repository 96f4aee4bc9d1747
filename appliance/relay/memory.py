"""What of the login table outlives the process (RELAY §3): our epoch and our own entries.

    "epoch"     {"epoch": N}
    "e/NAME"    counter, presence, services, fingerprint, and when it became so

It makes the registry at the start: a new epoch, above the last one and at least the clock; who was online is lost until
it logs in again. Others' slices are asked for anew, and come as a full run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from appliance import events
from appliance.clock import Mark
from appliance.relay.registry import LOST, ONLINE, REMOVED, Registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.clock import Clock
    from appliance.relay.records import Records

__all__ = ["Memory"]


class Memory:
    """`registry` is made here; `start` runs in the background."""

    def __init__(
        self,
        records: Records,
        clock: Clock,
        site: str,
        start: Callable[[Callable[[], Awaitable[None]]], None],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._records = records
        self._clock = clock
        self._start = start
        self._now = now
        last = records.get("epoch").get("epoch", 0)
        self.registry = Registry(site, max(int(last) + 1, int(clock.now().wall)))

    async def begin(self) -> None:
        """Before anybody is told: our epoch is on the disk. Raises OSError."""
        await self._records.put("epoch", {"epoch": self.registry.own.epoch})
        now, here = self._now(), self._clock.now()
        for key, value in self._records.items():
            match key, value:
                case "epoch", _:
                    pass
                case _, {
                    "counter": int() as counter, "presence": int() as presence, "services": list() as services,
                    "fingerprint": str() as digits, "since": [wall, boot, str() as boot_id],
                } if key.startswith("e/"):  # fmt: skip
                    presence = LOST if presence == ONLINE else presence
                    since = now - Mark(float(wall), float(boot), boot_id).seconds_until(here)
                    self.registry.publish(key[2:], presence, since, counter, services, bytes.fromhex(digits))
                case _:
                    events.emit(events.NOT_UNDERSTOOD, file=self._records.path, what=key)
        self._records.let_go()  # the registry has them

    def keep_epoch(self, epoch: int, then: Callable[[], None]) -> None:
        """Our epoch is to be this one; `then` once that is on the disk."""

        async def keep() -> None:
            try:
                await self._records.put("epoch", {"epoch": epoch})
            except OSError as error:
                events.emit(events.STORAGE_FAILED, error=error)
                return
            then()

        self._start(keep)

    def keep(self, name: str) -> None:
        """One of our own entries has changed, or is gone."""
        self._start(lambda: self._keep(name))

    async def _keep(self, name: str) -> None:
        entry = self.registry.own.entries.get(name)
        try:
            if entry is None or entry.presence == REMOVED:
                await self._records.forget(f"e/{name}")
                return
            here = self._clock.now()
            age = self._now() - entry.since
            value: dict[str, Any] = {
                "counter": entry.counter,
                "presence": entry.presence,
                "services": list(entry.services),
                "fingerprint": entry.fingerprint.hex(),
                "since": [here.wall - age, here.boot - age, here.boot_id],
            }
            await self._records.put(f"e/{name}", value)
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
