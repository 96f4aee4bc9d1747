"""The part that calls: joins the lines, the jobs and the policy. A new configuration makes a new `Caller`, once no
call is under way.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from appliance import events
from appliance.calls.caller import Caller
from appliance.calls.cycle import Way
from appliance.config.model import Bearer, LineKind
from appliance.modem.device_line import DeviceLine
from appliance.modem.line import ModemLine
from appliance.modem.ppp_network import PppNetwork
from appliance.modem.pppd import unfit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.app.house import House
    from appliance.config.model import Config, Line

__all__ = ["CallerPart"]


class CallerPart:
    name = "caller"
    waits_for_call = True

    def __init__(self, house: House) -> None:
        self._house = house
        self._first = True

    def slice(self, config: Config) -> tuple[object, ...]:
        secrets = tuple(config.secrets.items())
        return (config.site, config.line, config.schedule, config.mail.bulk_max_age_s, config.user, secrets)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        house = self._house
        core, config = house.core, house.config
        jobs = await trio.to_thread.run_sync(core.jobs, config)
        free_lines, self._first = self._first, False
        caller = house.caller = Caller(
            schedule=config.schedule,
            timezone=config.site.timezone,
            bulk_max_age_s=config.mail.bulk_max_age_s,
            ways=[_way(line, config.secrets) for line in config.line],
            ledger=core.ledger,
            jobs=lambda: [*jobs, *house.relay.jobs(config)],
            prospect=core.office.prospect,
            clock=core.clock,
            started=house.started,
            free_lines=free_lines,
        )
        core.spool.on_change = caller.poke
        house.relay.line_wanted()
        await caller.run(task_status=task_status)

    async def drain(self) -> None:
        """A call is hung up when the service is stopped, which takes as long as it takes."""
        await self._house.supervisor.stop(self.name)


def _way(line: Line, secrets: Mapping[str, str]) -> Way:
    """A `[[line]]` and what it goes over, or why it can't be used."""
    secret = secrets.get(line.ppp_secret, "")
    # Sixteen bits of a digest tell another login from this one, and tell a reader of the ledger nothing of it.
    identity = hashlib.sha256(repr((line, secret)).encode()).hexdigest()[:4]
    if line.kind is LineKind.INTERFACE:
        return Way(line, DeviceLine(line), identity=identity)
    if line.bearer is Bearer.NONE:
        return Way(line, ModemLine(line), identity=identity)
    why = unfit(line.profile, line.ppp_login, secret)
    if why:
        why = f"ppp_login or ppp_secret can't be used: {why}"
        events.emit(events.LINE_NOT_USABLE, line=line.name, why=why)
        return Way(line, None, why)
    return Way(line, ModemLine(line, network=PppNetwork(line, secret)), identity=identity)
