"""The part that calls: joins the lines, the jobs and the policy. A new configuration makes a new `Caller`, once no
call is under way.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets as randomness
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from appliance import events
from appliance.calls.caller import Caller
from appliance.calls.cycle import Way
from appliance.config.model import Bearer, LineKind
from appliance.mail.upstream.fetcher import FetchJob
from appliance.modem.device_line import DeviceLine
from appliance.modem.line import ModemLine
from appliance.modem.power import GpioPower
from appliance.modem.ppp_network import PppNetwork
from appliance.modem.pppd import unfit
from appliance.modem.profiles import completed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from appliance.app.house import House
    from appliance.call import Job
    from appliance.calls.ledger import Ledger
    from appliance.config.model import Config, Line
    from appliance.storage.disk import Disk

__all__ = ["CallerPart"]


class CallerPart:
    name = "caller"
    waits_for_call = True

    def __init__(self, house: House) -> None:
        self._house = house
        self._first = True
        self._powers: dict[str, GpioPower] = {}

    def slice(self, config: Config) -> tuple[object, ...]:
        secrets = tuple(config.secrets.items())
        money = (config.tariff, config.budget)
        return (config.site, config.line, config.schedule, money, config.mail.bulk_max_age_s, config.user, secrets)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        house = self._house
        core, config = house.core, house.config
        jobs = await trio.to_thread.run_sync(core.jobs, config)
        pins = await trio.to_thread.run_sync(Pins.stored, core.disk, core.paths.keys, core.ledger)
        free_lines, self._first = self._first, False
        caller = house.caller = Caller(
            schedule=config.schedule,
            timezone=config.site.timezone,
            bulk_max_age_s=config.mail.bulk_max_age_s,
            ways=[_way(line, config.secrets, pins, self._power(line)) for line in config.line],
            ledger=core.ledger,
            jobs=lambda: [*jobs, *house.relay.jobs(config)],
            prospect=lambda: replace(core.office.prospect(), upstream_bytes=_upstream(jobs)),
            clock=core.clock,
            started=house.started,
            free_lines=free_lines,
            time=house.clock.timekeeper,
            tariffs=config.tariff,
            budget=config.budget,
            window=house.firewall,
        )
        core.spool.on_change = caller.poke
        house.relay.line_wanted()
        await caller.run(task_status=task_status)

    def _power(self, line: Line) -> GpioPower | None:
        """An output is held from its first use to the process's end, whatever configuration comes."""
        if not line.power_gpio:
            return None
        return self._powers.setdefault(line.power_gpio, GpioPower(line.power_gpio))

    async def drain(self) -> None:
        """A call is hung up when the service is stopped, which takes as long as it takes."""
        await self._house.supervisor.stop(self.name)


def _upstream(jobs: Sequence[Job]) -> int:
    """Bytes that are known to wait to be fetched."""
    return sum(job.upstream_bytes for job in jobs if isinstance(job, FetchJob))


def _way(line: Line, secrets: Mapping[str, str], pins: Pins, power: GpioPower | None) -> Way:
    """A `[[line]]` and what it goes over, or why it can't be used."""
    secret = secrets.get(line.ppp_secret, "")
    # Sixteen bits of a digest tell another login from this one, and tell a reader of the ledger nothing of it.
    identity = hashlib.sha256(repr((line, secret)).encode()).hexdigest()[:4]
    if line.kind is LineKind.INTERFACE:
        return Way(line, DeviceLine(line), identity=identity)
    line = completed(line)
    network = None
    if line.bearer is Bearer.PPP:
        why = unfit(line.profile, line.ppp_login, secret)
        if why:
            why = f"ppp_login or ppp_secret can't be used: {why}"
            events.emit(events.LINE_NOT_USABLE, line=line.name, why=why)
            return Way(line, None, why)
        network = PppNetwork(line, secret)
    pin = secrets.get(line.pin, "")
    pin_identity = pins.identity(line.name, pin)
    record = pins.ledger.pin(pin_identity) if pin else None
    modem = ModemLine(line, network=network, pin=pin, pin_record=record, power=power)
    return Way(line, modem, identity=identity, pin=pin_identity)


class Pins:
    """Names the PINs of SIMs for the ledger. A PIN has so few digits that whoever had a mere digest could find it: this
    one is keyed with what lies in keys/. Where that is lost, a refused PIN is given once more."""

    def __init__(self, ledger: Ledger, key: bytes) -> None:
        self.ledger = ledger
        self._key = key

    @classmethod
    def stored(cls, disk: Disk, keys: Path, ledger: Ledger) -> Pins:
        """With the key in keys/, made where there is none. Blocks; raises OSError."""
        file = keys / "pin.key"
        if not file.exists():
            disk.replace_file(file, randomness.token_bytes(32))
        return cls(ledger, file.read_bytes())

    def identity(self, line: str, pin: str) -> str:
        """Of this line's PIN; "" where it has none."""
        digest = hmac.new(self._key, f"{line}\0{pin}".encode(), hashlib.sha256).hexdigest()
        return digest[:16] if pin else ""
