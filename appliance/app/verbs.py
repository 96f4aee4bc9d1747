"""What the control socket answers (DESIGN §6): the dispatch table handed to `control.server`, over the house. Each verb
looks or acts at once; what takes long belongs to the room that does it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio

from appliance import __version__, events
from appliance.app.backup import drop_snapshot
from appliance.app.looking import Looking
from appliance.calls.caller import CallRefused
from appliance.calls.report import report
from appliance.control.server import ControlError
from appliance.host.image import update_said
from appliance.mail.listing import list_message, queue_figures
from appliance.mail.office import MessageBusy
from appliance.mail.store.fetched import Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.app.house import House
    from appliance.calls.caller import Caller, Told
    from appliance.control.server import Progress
    from appliance.mail.envelope import Envelope

__all__ = ["Verbs", "status_of"]

WATCH_S: Final = 1.0


def status_of(house: House) -> dict[str, Any]:
    """`posthouse status --json` (DESIGN §6)."""
    core = house.core
    now = core.clock.now()
    return {
        "site": house.config.site.name,
        "version": __version__,
        "fingerprint": house.relay.fingerprint,
        "uptime_s": round(house.started.seconds_until(now)),
        "clock_trusted": core.clock.trusted,
        "line": house.caller.status(),
        "queue": queue_figures(core.office, now.wall),
        "users": len(house.config.user),
        "terminals": house.relay.counts(),
        "peers": house.relay.peer_counts(),
        "services": house.supervisor.states(),
        "listeners": house.listeners,
        "update": update_said(),
        "storage": {"flushes": core.disk.flushes, "free_bytes": core.office.free_bytes()},
    }


async def _show_until(done: trio.Event, caller: Caller, progress: Progress) -> None:
    """Each line of the call that is under way, or is about to be, until its end."""
    waiting = trio.CancelScope()

    async def stop() -> None:
        await done.wait()
        waiting.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        with caller.watch() as lines:
            while True:
                told: Told | None = None
                try:
                    if not done.is_set():
                        with trio.CancelScope() as waiting:  # and never while a line is being sent
                            told = await lines.receive()
                    if told is None:
                        told = lines.receive_nowait()
                except (trio.EndOfChannel, trio.WouldBlock):
                    break
                await progress.show({**caller.status(), "state": told.state.value, "text": told.text})
        nursery.cancel_scope.cancel()


class Verbs:
    """One per run. `table` is what `serve_control` takes."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.table: dict[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]] = {
            "status": self._status,
            "watch": self._watch,
            "dial": self._dial,
            "hangup": self._hangup,
            "queue": self._queue,
            "queue-show": self._queue_show,
            "queue-hold": functools.partial(self._queue_hold, on=True),
            "queue-release": functools.partial(self._queue_hold, on=False),
            "queue-remove": self._queue_remove,
            "queue-fetch": self._queue_fetch,
            "calls": self._calls,
            "report": self._report,
            "backup": self._backup,
            "backup-over": self._backup_over,
            "terminals": house.relay.terminals,
            "peers": house.relay.peers,
            "why": house.relay.why,
            "enrol": house.relay.enrol,
            **house.configuration.table,
            **Looking(house).table,
        }

    async def _status(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        return status_of(self.house)

    async def _watch(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        """Never returns: the client goes away."""
        line = self.house.caller.status()
        planned = f"next call {line['next_call']}: " if line["next_call"] else ""
        await progress.show({**line, "text": planned + line["next_call_reason"]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_figures, progress)
            while True:
                caller = self.house.caller
                with caller.watch() as lines:
                    async for told in lines:
                        await progress.show({**caller.status(), "state": told.state.value, "text": told.text})
                await trio.sleep(WATCH_S)  # a new configuration makes a new caller

    async def _watch_figures(self, progress: Progress) -> None:
        """While a call is up and moves something: how much so far."""
        before = ""
        while True:
            await trio.sleep(WATCH_S)
            if (tally := self.house.caller.tally) is not None:
                text = f"{tally.bytes_out} bytes out, {tally.bytes_in} in; {tally.sent} sent, {tally.fetched} fetched"
                if text != before:
                    await progress.show({**self.house.caller.status(), "text": text})
                before = text

    async def _dial(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        caller, force = self.house.caller, bool(arguments.get("force"))
        try:
            if not arguments.get("wait", True):
                caller.dial_nowait(force=force)
                return None
            dialling = caller.dial_nowait(force=force)
            if arguments.get("watch"):
                await _show_until(dialling.done, caller, progress)
            return await caller.ended(dialling)
        except CallRefused as refusal:
            events.emit(events.CALL_REFUSED, why=refusal)
            raise ControlError(str(refusal)) from None

    async def _hangup(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        if not self.house.caller.hang_up():
            raise ControlError("no call is up")

    async def _calls(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        return self.house.core.ledger.calls()

    async def _report(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """In a thread: some seconds' work where the ledger is full and the board slow."""
        config = self.house.config
        prices = {tariff.name: tariff for tariff in config.tariff}
        tariffs = {line.name: prices[line.tariff] for line in config.line if line.tariff}
        entries, zone = list(self.house.core.ledger.entries()), ZoneInfo(config.site.timezone)
        made = await trio.to_thread.run_sync(report, entries, tariffs, zone)
        return {"site": config.site.name, **made}

    async def _backup(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        await self._change(self.house.core.make_snapshot())

    async def _backup_over(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        await self._change(trio.to_thread.run_sync(drop_snapshot, self.house.core.paths))

    async def _queue(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        return [list_message(self.house.core.office, e) for e in self.house.core.spool.messages.values()]

    async def _queue_show(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        return list_message(self.house.core.office, self._message(arguments))

    async def _queue_hold(self, arguments: Mapping[str, Any], progress: Progress, *, on: bool) -> None:
        await self._change(self.house.core.office.hold(self._message(arguments), on))

    async def _queue_remove(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        await self._change(self.house.core.office.remove(self._message(arguments)))

    async def _queue_fetch(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        token = str(arguments.get("id"))
        try:
            found = await self.house.core.office.stubs.ask(token, Ask.GET)
        except OSError as error:
            raise ControlError(f"the disk failed: {error}") from None
        if not found:
            raise ControlError(f"no message {token!r} stays upstream; its stub says what it is called")

    async def _change(self, change: Awaitable[None]) -> None:
        try:
            await change
        except MessageBusy as busy:
            raise ControlError(str(busy)) from None
        except OSError as error:
            raise ControlError(f"the disk failed: {error}") from None

    def _message(self, arguments: Mapping[str, Any]) -> Envelope:
        envelope = self.house.core.spool.messages.get(str(arguments.get("id")))
        if envelope is None:
            raise ControlError(f"no message {arguments.get('id')!r} is in the queue")
        return envelope
