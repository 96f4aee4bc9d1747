"""A whole laboratory: an exchange, modems, a provider's number and the provider behind it, put together and running.

`open_laboratory` runs it in the caller's Trio process; `LabThread` in a thread of its own, for tests that talk to it
with blocking clients. It knows nothing of Posthouse: that is a child process with a modem's pty as its port.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

import trio

from appliance.lab.exchange import STANDARD_RATE, Access, Circuit, Exchange, Progress, Telephone
from appliance.lab.line import Gate, Line
from appliance.lab.mobile import PACKET_NUMBER, MobileModem, Sim
from appliance.lab.modem import Modem, ModemState
from appliance.lab.provider import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["NUMBER", "LabThread", "Laboratory", "open_laboratory"]

NUMBER: Final = "0570000111"
"""The provider's number."""
HOME_NUMBERS: Final = ("0451234567", "0451234568", "0451234569", "0451234570")
"""The modems' own."""
START_S: Final = 10.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Laboratory:
    """`modem` and `line` are the first modem's; the provider's gates are `line.gates["smtp"]` and `["pop3"]`."""

    exchange: Exchange
    access: Access
    provider: Provider
    modems: list[Modem]

    @property
    def modem(self) -> Modem:
        return self.modems[0]

    @property
    def line(self) -> Line:
        line = self.modem.line
        assert line is not None
        return line


@asynccontextmanager
async def open_laboratory(
    *,
    rate: int = STANDARD_RATE,
    round_trip_s: float = 0.0,
    paced: bool = True,
    modems: int = 1,
    ring_s: float = 0.1,
    train_s: float = 0.1,
    profile: dict[int, int] | None = None,
    hangs_up_on_close: bool = False,
    provider: Provider | None = None,
    sim: Sim | None = None,
) -> AsyncIterator[Laboratory]:
    """Everything runs when this is entered and has ended when it is left. `profile`: see `Modem`. With a `sim` the
    modems are `MobileModem`s, and the provider answers *99# too."""
    exchange = Exchange()
    access = Access(NUMBER, rate, ring_s, train_s)
    exchange.subscribe(access)
    if sim is not None:
        exchange.subscribe(Access(PACKET_NUMBER, rate, ring_s, train_s))
    provider = provider or Provider()
    async with trio.open_nursery() as nursery:
        await nursery.start(provider.run)
        stations = []
        for number in HOME_NUMBERS[:modems]:
            line = Line(round_trip_s, paced)
            line.add_gate("smtp", "127.0.0.1", provider.smtp_port)
            line.add_gate("pop3", "127.0.0.1", provider.pop3_port)
            modem: Modem = Modem(exchange, number, line, profile or {}, hangs_up_on_close)
            if sim is not None:
                modem = MobileModem(exchange, number, line, profile or {}, hangs_up_on_close, sim=sim)
            exchange.subscribe(modem)
            await nursery.start(line.run)
            await nursery.start(modem.run)
            stations.append(modem)
        yield Laboratory(exchange, access, provider, stations)
        nursery.cancel_scope.cancel()


class LabThread:
    """The same in a thread, as a context manager. What reads single values may look at `lab` directly; what acts goes
    through `do`, or one of the methods here. `open` makes it, for those who want another."""

    open: Callable[..., AbstractAsyncContextManager[Laboratory]] = staticmethod(open_laboratory)

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="laboratory", daemon=True)
        self.lab: Laboratory

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(START_S) or self._failure is not None:
            raise RuntimeError(f"the laboratory did not start: {self._failure}")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self._stop.set)
        except trio.RunFinishedError:
            pass  # it failed by itself; said below
        self._thread.join(START_S)
        if self._failure is not None:
            raise RuntimeError("the laboratory failed") from self._failure

    def do(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `act` in the laboratory's thread and returns what it returns."""
        return trio.from_thread.run_sync(lambda: act(*args, **kwargs), trio_token=self._token)

    def add_gate(self, name: str, host: str, port: int) -> Gate:
        """A gate to a server of the test's own; it opens with the next call."""
        return self.do(self.lab.line.add_gate, name, host, port)

    def ring(self, caller: str, *, seconds: float = 1.0) -> Progress:
        """Somebody with the number `caller` lets the first modem ring for so long and hangs up; how that went."""
        number = self.lab.modem.number

        async def ring() -> Circuit | Progress:
            return await self.lab.exchange.place(Telephone(caller), number, patience_s=seconds)

        outcome = trio.from_thread.run(ring, trio_token=self._token)
        return outcome if isinstance(outcome, Progress) else Progress.CONNECTED

    def wait_on_hook(self, timeout: float = 10.0) -> None:
        """Blocks until the modem is on-hook. Raises TimeoutError."""
        self._wait_state(timeout, ModemState.COMMAND)

    def wait_online(self, timeout: float = 10.0) -> None:
        """Blocks until a call is up. Raises TimeoutError."""
        self._wait_state(timeout, ModemState.ONLINE)

    def _wait_state(self, timeout: float, state: ModemState) -> None:
        async def wait() -> bool:
            with trio.move_on_after(timeout):
                await self.lab.modem.wait_state(state)
            return self.lab.modem.state is state

        if not trio.from_thread.run(wait, trio_token=self._token):
            raise TimeoutError(f"the modem is not {state} after {timeout:g} s but {self.lab.modem.state}")

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as failure:
            self._failure = failure
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with self.open(**self._options) as self.lab:
            self._started.set()
            await self._stop.wait()
