"""The part that tells of what lasts (calls that all fail, no money, a disk that fills) and, with `[alerts]`, mails it:
alarms, and the state every so often.

An alarm is an event of the table that is marked so (`Event.alarm`); what it tells of (a line, an account) and the event
together are its kind. Each kind comes at most once in `AGAIN_S`, also over restarts, and not while the mail before it
waits to be sent. What comes close together is one mail.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import trio

from appliance import events
from appliance.app.verbs import status_of
from appliance.control import views
from appliance.mail import alerts as mail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.app.house import House
    from appliance.config.model import Config
    from appliance.events import Event
    from appliance.storage.disk import Disk

__all__ = ["AlertsPart"]

AGAIN_S: Final = 86400.0
"""At most so often comes an alarm of one kind."""
GATHER_S: Final = 3.0
"""What comes within this is one mail: a call that fails tells of several things at its end."""
LOOK_S: Final = 60.0
"""So often is looked at what lasts. It is all in memory but for the disk's free room."""
NO_CALL_S: Final = 86400.0
"""Calls that have failed for so long are an alarm; a night of a line that is down is none."""
DISK_SHARE: Final = 0.1
"""Of the disk: with less than this free for new mail it is filling."""
WAITING_LIMIT: Final = 20
"""Alarms in one mail."""
CALLS_SHOWN: Final = 10
STATUS: Final = "status"
STATUS_LOOK_S: Final = 3600.0
"""So often is looked at the least whether the state is due: the wall clock may jump."""


class Told:
    """When each kind was last mailed: kind -> Unix seconds, in a file of the state. Blocks; raises OSError."""

    def __init__(self, disk: Disk, file: Path) -> None:
        self._disk, self._file = disk, file
        self._at: dict[str, float] = {}
        try:
            stored = json.loads(file.read_bytes())
            self._at = {str(kind): float(at) for kind, at in stored.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            pass  # none yet, or torn: an alarm too many

    def within(self, kind: str, seconds: float, now: float) -> bool:
        """Whether it was within the last `seconds`. A time in the future is one of a wrong clock."""
        return 0 <= now - self._at.get(kind, float("-inf")) < seconds

    def keep(self, kinds: list[str], now: float) -> None:
        self._at.update(dict.fromkeys(kinds, now))
        old = [kind for kind, at in self._at.items() if kind != STATUS and not 0 <= now - at < AGAIN_S]
        for kind in old:
            del self._at[kind]
        self._disk.replace_file(self._file, json.dumps(self._at).encode())


class Alarms(logging.Handler):
    """Gathers the alarms among the events, from any thread. `heard` is called for each in Trio's own."""

    def __init__(self, heard: Callable[[str, str, Event], None]) -> None:
        super().__init__()
        self._heard = heard
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        event: Event | None = getattr(record, "posthouse_event", None)
        if event is None or not event.alarm:
            return
        fields: dict[str, str] = record.posthouse_fields  # type: ignore[attr-defined]
        kind = " ".join([event.id, *(fields[name] for name in ("line", "host", "login") if name in fields)])
        try:
            self._token.run_sync_soon(self._heard, kind, record.getMessage(), event)
        except trio.RunFinishedError:
            pass


class AlertsPart:
    name = "alerts"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._lasting: set[str] = set()
        self._waiting: dict[str, tuple[str, Event]] = {}
        self._came = trio.Event()

    def slice(self, config: Config) -> tuple[object, ...]:
        return (config.alerts,)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            if self._house.config.alerts.to:
                await nursery.start(self._mail)
            task_status.started()
            while True:
                self._look()
                await trio.sleep(LOOK_S)

    async def drain(self) -> None:
        """Nothing to end."""

    # ---- what lasts
    def _look(self) -> None:
        """Tells the journal of each once, when it begins."""
        caller, core = self._house.caller, self._house.core
        if self._begins("money", bool(why := caller.wants_money)):
            events.emit(events.BUDGET_GONE, why=why)
        if self._begins("calls", (failing_s := caller.failing_s) >= NO_CALL_S):
            events.emit(events.NO_CALL, hours=f"{failing_s / 3600:.0f}")
        free, stat = core.office.free_bytes(), os.statvfs(core.paths.root)
        if self._begins("disk", free < DISK_SHARE * stat.f_blocks * stat.f_frsize):
            events.emit(events.DISK_FILLING, bytes=free)

    def _begins(self, what: str, is_so: bool) -> bool:
        before = what in self._lasting
        (self._lasting.add if is_so else self._lasting.discard)(what)
        return is_so and not before

    # ---- mail
    async def _mail(self, *, task_status: trio.TaskStatus[None]) -> None:
        core = self._house.core
        told = await trio.to_thread.run_sync(Told, core.disk, core.paths.alerts)
        handler, log = Alarms(self._heard), logging.getLogger("posthouse")
        log.addHandler(handler)
        try:
            task_status.started()
            while True:
                with trio.move_on_after(await self._post_status(told)):
                    await self._came.wait()
                if self._came.is_set():
                    await trio.sleep(GATHER_S)
                    await self._post_alarms(told)
        finally:
            log.removeHandler(handler)

    def _heard(self, kind: str, text: str, event: Event) -> None:
        if len(self._waiting) < WAITING_LIMIT:
            self._waiting[kind] = text, event
            self._came.set()

    async def _post_alarms(self, told: Told) -> None:
        waiting, self._waiting, self._came = self._waiting, {}, trio.Event()
        now = self._now()
        unsent = {kind for e in self._house.core.spool.messages.values() for kind in e.alert.split("; ")}
        kinds = [kind for kind in waiting if kind not in unsent and not told.within(kind, AGAIN_S, now)]
        if not kinds:
            return
        parts = []
        for text, event in (waiting[kind] for kind in kinds):
            parts.append(f"{text}\n\nWhat follows: {event.follows}\nWhat to do: {event.action or 'Nothing.'}\n")
        first = waiting[kinds[0]][0] if len(kinds) == 1 else f"{len(kinds)} alarms"
        at = datetime.fromtimestamp(now, self._zone).strftime("%Y-%m-%d %H:%M")
        text = f"{at}\n\n" + "\n".join(parts)
        await self._post(told, kinds, first, text)

    async def _post_status(self, told: Told) -> float:
        """If it is due; -> in how many seconds it is."""
        every_s, now = self._house.config.alerts.every_s, self._now()
        if every_s is None:
            return float("inf")
        if not told.within(STATUS, every_s, now):
            status = views.status(status_of(self._house), self._zone)
            calls = views.calls(self._house.core.ledger.calls()[-CALLS_SHOWN:], self._zone)
            await self._post(told, [STATUS], "status", f"{status}\n\nThe last calls:\n\n{calls}\n")
        return min(every_s, STATUS_LOOK_S)

    async def _post(self, told: Told, kinds: list[str], subject: str, text: str) -> None:
        house = self._house
        site, to = house.config.site.name, house.config.alerts.to
        try:
            with trio.CancelScope(shield=True):  # or whoever replaces this part mails it again
                why = await mail.post(
                    house.core.office, house.core.clock, kind="; ".join(kinds), sender=self._sender(), to=to, site=site,
                    subject=events.clean(f"{site}: {subject}", 120), text=text,
                )  # fmt: skip
                await trio.to_thread.run_sync(told.keep, kinds, self._now())
        except OSError as error:
            why = str(error)
        if why:
            events.emit(events.ALERT_NOT_SENT, to=to, why=why)

    def _sender(self) -> str:
        """An address of the postmaster's that a smarthost carries; bounces come to him."""
        config, router = self._house.config, self._house.core.office.router
        own = [a for user in config.user if user.name == router.postmaster for a in user.addresses]
        own.append(f"{router.postmaster or 'postmaster'}@{config.site.domain}")
        return next((a for a in own if router.smarthosts(a)), own[0])

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self._house.config.site.timezone)

    def _now(self) -> float:
        return self._house.core.clock.now().wall
