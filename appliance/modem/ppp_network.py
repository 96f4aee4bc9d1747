"""The network that PPP makes of a line's carrier, call after call: what `ModemLine` asks of the bearer "ppp".

It owns the call's `Ppp`, its connections and its counters, and remembers nothing of it once the next call begins. It
must not know how a modem is dialled or hung up; the port is lent to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Outcome
from appliance.modem.device import Counters
from appliance.modem.over_device import OverDevice
from appliance.modem.pppd import Ppp, PppError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config import model
    from appliance.modem.port import Port

__all__ = ["PppNetwork"]

COUNT_S: Final = 1.0
"""The device goes with pppd, and its figures with it: what is known when the line drops is that old at most."""


class PppNetwork:
    """`device` and `dns` as `call.Line` has them. `make` is for tests."""

    def __init__(self, config: model.Line, secret: str, *, make: Callable[[], Ppp] | None = None) -> None:
        self.device = ""
        self.dns: tuple[str, ...] = ()
        self._line = config.name
        self._make = make or (lambda: Ppp(config.name, config.profile, config.ppp_login, secret))
        self._ppp: Ppp | None = None
        self._port: Port | None = None
        self._up = trio.Event()
        self._streams: OverDevice | None = None
        self._counters = Counters()

    async def prepare(self) -> Outcome | None:
        """None: a call can have PPP. Asked before one is paid for."""
        self._counters.forget()
        self._up = trio.Event()
        self._ppp = self._ppp or self._make()
        try:
            await self._ppp.open()
        except PppError as error:
            self._ppp = None
            return self._no_ppp(error)
        return None

    async def come_up(self, port: Port) -> Outcome | None:
        """Brings PPP up on the carrier; None: it is. From now until `end` the port is pppd's. Raises PortError."""
        ppp = self._ppp = self._ppp or self._make()
        self._port = port
        try:
            await ppp.start(await port.lend())
        except PppError as error:
            return self._no_ppp(error)
        failed = await ppp.wait_up()
        if failed is None:
            self.device, self.dns = ppp.device, ppp.dns
            self._streams = OverDevice(self.device, self.dns)
            self._counters.start(self.device, fresh=True)
            self._up.set()
        return failed

    async def wait_lost(self) -> Outcome:
        """Returns when a network that was up has ended; never, where none came up."""
        await self._up.wait()
        assert self._ppp is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_counting)
            outcome = await self._ppp.wait_ended()
            nursery.cancel_scope.cancel()
        return outcome

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        """As `call.Line` has it."""
        if self._streams is None:
            raise OSError("the network is not up")
        return await self._streams.open_stream(host, port)

    def carried(self) -> tuple[int, int] | None:
        """As `call.Line` has it."""
        return self._counters.read()

    async def end(self, *, gently: bool) -> bool:
        """Ends PPP and takes the port back; whether it had been lent. `gently`: the carrier is still there. Bounded in
        time; to be followed by `close`. Raises PortError."""
        port, self._port = self._port, None
        self._counters.stop()
        self._streams = None
        self.device, self.dns = "", ()
        if self._ppp is not None:
            await self._ppp.stop(gently=gently)
        if port is not None:
            await port.take_back()
        return port is not None

    async def close(self) -> None:
        """Once the modem is on-hook: nothing of the call's PPP is left. Bounded in time; idempotent."""
        ppp, self._ppp = self._ppp, None
        if ppp is not None:
            await ppp.aclose()

    def _no_ppp(self, error: PppError) -> Outcome:
        events.emit(events.LINE_DOWN, line=self._line, what=error)
        return Outcome.NEGOTIATION_FAILED

    async def _keep_counting(self) -> None:
        while True:
            self._counters.read()
            await trio.sleep(COUNT_S)
