"""The part that tells systemd the state in one line (`systemctl status`): sd_notify's STATUS=."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio

from appliance.call import LineState
from appliance.events import clean
from appliance.host.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["StatusLinePart", "status_line"]

LOOK_S: Final = 60.0
"""So often is looked at what nobody tells of: a plan that the time alone has changed."""
PAUSE_S: Final = 1.0
"""At least so far apart are two lines: a busy LAN changes the queue a hundred times a second."""


def status_line(line: Mapping[str, Any], messages: int, zone: tzinfo) -> str:
    """`line` as in `status` (DESIGN §6), `messages`: how many wait."""
    waits = "nothing waits" if not messages else f"{messages} message{'s wait' if messages > 1 else ' waits'}"
    if line["state"] not in (LineState.IDLE.value, LineState.FAILED.value):
        what = " ".join(word for word in (line["name"], line["state"], line["number"]) if word)
        return clean(f"{what} ({line['reason'] or 'no call'}); {waits}")
    before = "the last call failed; " if line["state"] == LineState.FAILED.value else ""
    planned = "no call planned"
    if line["next_call"]:
        planned = f"next call {datetime.fromisoformat(line['next_call']).astimezone(zone):%Y-%m-%d %H:%M}"
    return clean(f"{before}{planned} ({line['next_call_reason']}); {waits}")


class StatusLinePart:
    name = "status-line"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._changed = trio.Event()

    def slice(self, config: Config) -> tuple[object, ...] | None:
        return (config.site.timezone,) if os.environ.get("NOTIFY_SOCKET") else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        zone, told = ZoneInfo(self._house.config.site.timezone), ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_calls)
            nursery.start_soon(self._watch_queue)
            task_status.started()
            while True:
                text = self._text(zone)
                if text != told:
                    notify(STATUS=text)
                told = text
                with trio.move_on_after(LOOK_S):
                    await self._changed.wait()
                    await trio.sleep(PAUSE_S)
                self._changed = trio.Event()

    async def drain(self) -> None:
        """Nothing to end."""

    def _text(self, zone: tzinfo) -> str:
        caller = self._house.caller_or_none
        return status_line(caller.status(), len(self._house.core.spool.messages), zone) if caller else "starting"

    async def _watch_queue(self) -> None:
        while True:
            await self._house.core.spool.wait_changed()
            self._changed.set()

    async def _watch_calls(self) -> None:
        while True:
            if (caller := self._house.caller_or_none) is not None:
                with caller.watch() as lines:
                    async for _ in lines:
                        self._changed.set()
                self._changed.set()
            await trio.sleep(PAUSE_S)  # a new configuration makes a new caller
