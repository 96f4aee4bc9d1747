"""The product's mail and calls as `app` joins them, in the test's own process and Trio run, on the laboratory's `Line`
instead of a modem: a call takes a few hundredths of a second, and the line drops after exactly the byte that a test
names. What the state's folder holds outlives a `Site`, as it outlives the process.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.app import Core
from appliance.call import Dialled, Outcome
from appliance.calls import caller
from appliance.calls.caller import Caller
from appliance.calls.cycle import Way
from appliance.config import model
from appliance.config.model import Account, Bearer, Config, Mail, Schedule, Smarthost, Tls, User
from appliance.lab.line import Line
from appliance.mail.envelope import Envelope, Recipient
from appliance.storage.disk import Disk
from appliance.storage.paths import unlock
from appliance.storage.redo import RedoDisk

USER = "hanako"
ADDRESS = "hanako@harbour.example"
NUMBER = "0570000111"


def without_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that cut lines, not power: what a flush is for has its own tests. Hundreds of sites are made, so the
    redo log is small, and a call by hand does not wait for other causes first."""
    monkeypatch.setattr(caller, "GATHER_S", 0.0)
    defaults = RedoDisk.__init__.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "log_bytes", 256 * 1024)
    monkeypatch.setattr(Disk, "syncfs", lambda self, path: None)
    monkeypatch.setattr(Disk, "fsync", lambda self, fd: None)
    monkeypatch.setattr(Disk, "fdatasync", lambda self, fd: None)


@dataclass
class GateLine:
    """Implements `call.Line` over the laboratory's line. `notice_s`: from the drop until the modem says NO CARRIER;
    until then a job meets silence, or with `Line.closes_on_drop` the end of its connections."""

    line: Line
    notice_s: float = 0.0
    name: str = "pstn"
    device: str = ""
    dns: tuple[str, ...] = ()
    _lost: trio.Event = field(default_factory=trio.Event)

    async def prepare(self, tell: Callable[[str], None] = lambda text: None) -> Outcome | None:
        return None

    async def dial(self, number: str) -> Dialled:
        self._lost = lost = trio.Event()
        self.line.up(33600, on_cut=lambda reason: lost.set())
        return Dialled(None, 33600)

    async def negotiate(self) -> Outcome | None:
        return None

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        return await trio.open_tcp_stream(host, port)

    def carried(self) -> tuple[int, int] | None:
        return None

    async def wait_carrier_lost(self) -> Outcome:
        await self._lost.wait()
        await trio.sleep(self.notice_s)
        return Outcome.CARRIER_LOST

    async def hang_up(self) -> None:
        self.line.down()


def configuration(
    root: Path,
    *,
    smarthosts: Sequence[int] = (),
    pop3: int = 0,
    logins: Sequence[str] = (),
    secrets: dict[str, str] | None = None,
    keep: bool = False,
) -> Config:
    """A site with one user, smarthosts at these ports of loopback and an account per login at port `pop3`; each login's
    password is in `secrets` under its name."""
    line = model.Line(name="pstn", port="unused", numbers=(NUMBER,), bearer=Bearer.NONE, attempts=1)
    hosts = tuple(Smarthost(host="127.0.0.1", port=p, tls=Tls.NONE, login="", secret="") for p in smarthosts)
    accounts = tuple(
        Account(
            protocol="pop3",
            host="127.0.0.1",
            port=pop3,
            tls=Tls.NONE,
            login=login,
            secret=login,
            backlog_s=None,
            keep=keep,
        )
        for login in logins
    )
    return Config(
        site=model.Site(name="harbour", domain="harbour.example", state=root / "state", runtime=root / "run"),
        line=(line,),
        schedule=Schedule(urgent=False, linger_s=0.0, min_gap_s=0.0),
        mail=Mail(smarthost=hosts),
        user=(User(name=USER, addresses=(ADDRESS,), account=accounts),),
        secrets=secrets or {},
    )


class Site:
    """One run of the product over a state folder. Made by `open_site`."""

    def __init__(self, core: Core, caller: Caller) -> None:
        self.core, self.caller = core, caller

    async def submit(self, data: bytes, *recipients: str, sender: str = ADDRESS) -> str:
        """As the LAN's SMTP service hands a message in; -> its id."""
        office = self.core.office
        envelope = Envelope(
            office.spool.new_id(), sender, [], self.core.clock.now().wall, user=USER, body="8BITMIME", size=len(data)
        )
        submission = office.begin(envelope)
        for address in recipients:
            assert office.add(submission, Recipient(address)) is None
        draft = office.spool.draft(envelope.id)
        await draft.write(data)
        await office.accept(submission, draft)
        return envelope.id

    async def call(self) -> dict[str, Any]:
        """A call by hand, until it is over; -> its entry in the ledger."""
        with trio.fail_after(30):
            return await self.caller.dial()

    def queue(self) -> dict[str, str]:
        """id -> state, of what is still to be sent."""
        office = self.core.office
        return {id: str(office.state_of(e)) for id, e in office.spool.messages.items()}

    def mailbox(self) -> list[bytes]:
        """The messages in the user's mailbox, as they lie on the disk."""
        box = self.core.paths.mail / USER
        return [p.read_bytes() for sub in ("new", "cur") for p in sorted((box / sub).iterdir())]


@asynccontextmanager
async def open_site(config: Config, line: GateLine) -> AsyncIterator[Site]:
    """Starts on what the state folder holds; stops as a killed process does, with nothing said to anybody."""
    core = Core(config)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(core.committer.run)
            calls = Caller(
                schedule=config.schedule,
                timezone="UTC",
                bulk_max_age_s=config.mail.bulk_max_age_s,
                ways=[Way(config.line[0], line)],
                ledger=core.ledger,
                jobs=functools.partial(core.jobs, config),
                prospect=core.office.prospect,
                clock=core.clock,
                started=core.clock.now(),
            )
            await nursery.start(calls.run)
            yield Site(core, calls)
            nursery.cancel_scope.cancel()
    finally:
        core.ledger.close()
        unlock(core.locks)
