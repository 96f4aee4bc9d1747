"""The part that tells senders of mail that waits too long (`mail.warn_after`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from appliance import events

if TYPE_CHECKING:
    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["NoticesPart"]

OFTEN_S: Final = 60.0
"""At most so often is looked: mail that became late together is one look."""
SELDOM_S: Final = 600.0
"""At least so often: what came meanwhile, was released, or got its age by another clock."""


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
                seconds = await self._house.core.office.warn_late()
            except OSError as error:
                events.emit(events.STORAGE_FAILED, error=error)
                seconds = SELDOM_S
            await trio.sleep(min(max(seconds, OFTEN_S), SELDOM_S))

    async def drain(self) -> None:
        """Nothing to end."""
