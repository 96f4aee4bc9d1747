"""The part that tells senders of mail that waits too long (`mail.warn_after`), and why it does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import trio

from appliance import events
from appliance.call import Outcome
from appliance.clock import Mark
from appliance.control.views import went_wrong
from appliance.mail.envelope import Delay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from appliance.app.house import House
    from appliance.call import NextCall
    from appliance.calls.entry import Entry
    from appliance.config.model import Config
    from appliance.mail.envelope import Envelope

__all__ = ["NoticesPart", "delay_of"]

OFTEN_S: Final = 60.0
"""At most so often is looked: mail that became late together is one look."""
SELDOM_S: Final = 600.0
"""At least so often: what came meanwhile, was released, or got its age by another clock."""

NO_ANSWER: Final = "4.4.1"
BAD_CONNECTION: Final = "4.4.2"
LOGIN_REFUSED: Final = "4.7.0"
ROUTING: Final = "4.4.0"
"""RFC 3463 §3.5: X.4.1 is of a system that 'was busy, or was unable to take a call'."""


class NoticesPart:
    name = "notices"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house

    def slice(self, config: Config) -> tuple[object, ...]:
        return (config.mail.warn_after_s,)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            try:
                seconds = await self._house.core.office.warn_late(self._delay)
            except OSError as error:
                events.emit(events.STORAGE_FAILED, error=error)
                seconds = SELDOM_S
            await trio.sleep(min(max(seconds, OFTEN_S), SELDOM_S))

    async def drain(self) -> None:
        """Nothing to end."""

    def _delay(self, envelope: Envelope) -> Delay:
        house = self._house
        caller, zone = house.caller_or_none, ZoneInfo(house.config.site.timezone)
        upcoming = caller.next_call if caller is not None else None
        return delay_of(envelope, house.core.ledger.entries(), upcoming, house.core.clock.now(), zone)


def delay_of(envelope: Envelope, calls: Sequence[Entry], upcoming: NextCall | None, now: Mark, zone: tzinfo) -> Delay:
    """What keeps a message here, as far as the line goes: how the last call ended, and when the next one is."""
    sentences, status, failing = [], ROUTING, False
    last = next((c for c in reversed(calls) if c.ended is not None and c.outcome is not None), None)
    came = Mark(envelope.received, envelope.boot, envelope.boot_id)
    if last is None or last.ended is None or last.ended.seconds_until(now) >= came.seconds_until(now):
        sentences.append("No call has been made since it came.")
    else:
        said, status = _ended(last)
        failing = not last.served
        sentences.append(f"The last call, which began {_day_and_time(last.started.wall, zone)}, {said}.")
    if upcoming is not None and upcoming.at is not None:
        sentences.append(f"The next call is planned for {_day_and_time(upcoming.at, zone)} ({upcoming.reason}).")
    elif upcoming is not None:
        sentences.append(f"No call is planned now: {upcoming.reason}.")
    return Delay(tuple(sentences), status, failing)


def _ended(call: Entry) -> tuple[str, str]:
    """How a call ended, in words, and the status code for what waits because of it."""
    if call.outcome is Outcome.COMPLETE:
        return "did all that it had to do", ROUTING
    if call.outcome is Outcome.PARTIAL:
        return "was connected, but could not do everything", ROUTING
    status = BAD_CONNECTION if call.connected is not None else NO_ANSWER
    if call.outcome is Outcome.LOGIN_REFUSED:
        status = LOGIN_REFUSED
    said, _, _ = went_wrong(str(call.outcome)).partition(":")  # what to do about it is the operator's
    return f"failed: {said}", status


def _day_and_time(moment: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(moment, zone):%Y-%m-%d %H:%M}"
