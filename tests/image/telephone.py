"""The telephone network between two virtual machines: an exchange and a modem at each one's serial port.

The modems are the laboratory's, in a thread; a machine's ttyS1 (or its USB adapter) is connected to a modem by a unix
socket. The exchange keeps the rate to the byte, and its records are what a call is checked against.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from appliance.lab.exchange import CallRecord, Exchange
from appliance.lab.laboratory import LabThread
from appliance.lab.modem import Modem

PROVIDER = "0570000111"
"""The provider's number."""
SITE = "0451234567"
OTHER = "0459999999"
"""Somebody else, who can keep the provider's line busy."""
PARTIES = {"site": SITE, "provider": PROVIDER}
ANSWER = ("provider",)
"""Whose modems answer at the first ring."""

CARRIED_S = 90.0
"""From a request for a call to bytes of its mail on the wire: 10 s on an idle machine."""


@dataclass(eq=False)
class Socket:
    """A modem's serial port as a unix socket, which one machine at a time connects to."""

    modem: Modem
    path: Path

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            self.path.unlink(missing_ok=True)
            await listener.bind(str(self.path))
            listener.listen(1)
            task_status.started()
            while True:
                port, _ = await listener.accept()
                await self.modem.serve(trio.SocketStream(port))


@dataclass(eq=False)
class Network:
    exchange: Exchange
    sockets: dict[str, Socket]

    @property
    def site(self) -> Socket:
        return self.sockets["site"]


@asynccontextmanager
async def open_network(
    folder: Path,
    *,
    rate: int,
    guard_s: float = 0.4,
    parties: Mapping[str, str] = PARTIES,
    answer: Collection[str] = ANSWER,
) -> AsyncIterator[Network]:
    """A modem for each of the `parties`, its port the socket NAME.modem in `folder`. `guard_s`: the modems' guard time; one
    of today has 1 s."""
    exchange = Exchange(rate=rate)
    async with trio.open_nursery() as nursery:
        sockets = {}
        for name, number in parties.items():
            modem = Modem(exchange, number, profile={0: int(name in answer), 12: round(guard_s * 50)})
            exchange.subscribe(modem)
            sockets[name] = Socket(modem, folder / f"{name}.modem")
            await nursery.start(sockets[name].run)
        yield Network(exchange, sockets)
        nursery.cancel_scope.cancel()


class Telephone(LabThread):
    """The network in a thread. What reads single values looks at `network`; what acts is a method here."""

    def __init__(self, folder: Path, *, rate: int = 33600, **parties: Any) -> None:
        """`parties`: as `open_network` takes them."""
        super().__init__()
        self.folder, self.rate, self._parties = folder, rate, parties
        self.open = self._open

    @asynccontextmanager
    async def _open(self, **_: Any) -> AsyncIterator[Any]:
        async with open_network(self.folder, rate=self.rate, **self._parties) as self.network:
            yield self.network

    # ---- what happened
    @property
    def records(self) -> list[CallRecord]:
        return self.network.exchange.records

    @property
    def dials(self) -> list[str]:
        """What the site's modem was told to dial."""
        return self.network.site.modem.dials

    @property
    def transcript(self) -> str:
        """The site's dialogue with its modem, for a test that failed."""
        return self.transcript_of("site")

    def transcript_of(self, party: str) -> str:
        return "\n".join(f"{at:.2f} {way} {text}" for at, way, text in self.network.sockets[party].modem.transcript)

    @property
    def carried(self) -> int:
        """Bytes that the call which is up has carried both ways; 0 while none is."""
        return sum(c.record.bytes_in + c.record.bytes_out for c in self.network.exchange.circuits)

    def wait_carried(self, count: int, *, seconds: float = CARRIED_S) -> None:
        """Until a call is up and has carried so many bytes."""
        end = time.monotonic() + seconds
        while self.carried < count:
            assert time.monotonic() < end, f"no call carried {count} bytes within {seconds:g} s: {self.records}"
            time.sleep(0.02)

    # ---- what a test does
    def drop(self) -> None:
        """The carrier is lost in the middle of a call."""
        self.do(self.network.exchange.drop_all)

    def deaden(self) -> None:
        """Nothing comes through any more, the carrier stays."""
        self.do(self._deaden)

    def _deaden(self) -> None:
        for circuit in self.network.exchange.circuits:
            circuit.dead = True

    def mute(self, mute: bool = True) -> None:
        """The site's modem hangs."""
        self.do(setattr, self.network.site.modem, "mute", mute)

    def engage(self) -> None:
        """Somebody else has called the provider."""
        self.do(self._engage)

    def _engage(self) -> None:
        other = Modem(self.network.exchange, OTHER)
        trio.lowlevel.spawn_system_task(self._occupy, other)

    async def _occupy(self, other: Modem) -> None:
        await self.network.exchange.place(other, PROVIDER, patience_s=60)
