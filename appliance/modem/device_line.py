"""A device that is up by itself (`kind = "interface"`: a mobile router, an Ethernet to somebody's network) as a
`call.Line`: a call is a window on it, with a beginning, an end, and the bytes between them.

It owns nothing of the device, which somebody else brings up and keeps; it looks at it, and binds what goes out to it.
There is no number to dial and nothing to hang up.

    prepare()             present, up, with an address; else no-network, and why
    dial("")              the same look again; the counting begins
    wait_carrier_lost()   down, gone, or without an address: carrier-lost
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from appliance import events
from appliance.call import Dialled, Outcome
from appliance.modem.device import Counters, look, wait_for
from appliance.modem.over_device import OverDevice

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from appliance.config import model

__all__ = ["DeviceLine"]


class DeviceLine:
    """`call.Line` for a `[[line]]` of kind interface."""

    def __init__(self, config: model.Line) -> None:
        self.name = config.name
        self.device = ""
        self.dns: tuple[str, ...] = ()
        self._device = config.device
        self._streams: OverDevice | None = None
        self._counters = Counters()

    async def prepare(self, tell: Callable[[str], None] = lambda text: None) -> Outcome | None:
        self._counters.forget()
        await trio.lowlevel.checkpoint()
        lacks = look(self._device).lacks(self._device)
        if lacks:
            events.emit(events.LINE_DOWN, line=self.name, what=lacks)
            tell(lacks)
            return Outcome.NO_NETWORK
        return None

    async def dial(self, number: str) -> Dialled:
        lacks = look(self._device).lacks(self._device)
        await trio.lowlevel.checkpoint()
        if lacks:
            return Dialled(Outcome.NO_NETWORK, text=lacks)
        self._counters.start(self._device)
        return Dialled(None)

    async def negotiate(self) -> Outcome | None:
        await trio.lowlevel.checkpoint()
        self.device = self._device
        self._streams = OverDevice(self._device, self.dns)
        return None

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        if self._streams is None:
            raise OSError("the network is not up")
        return await self._streams.open_stream(host, port)

    async def network_time(self) -> datetime | None:
        await trio.lowlevel.checkpoint()
        return None

    def carried(self) -> tuple[int, int] | None:
        return self._counters.read()

    async def wait_carrier_lost(self) -> Outcome:
        state = await wait_for(self._device, lambda state: not state.carries)
        events.emit(events.LINE_DOWN, line=self.name, what=state.lacks(self._device))
        return Outcome.CARRIER_LOST

    async def wait_wake(self) -> str:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def command(self, command: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise OSError(f"{self._device} is no modem")

    async def hang_up(self) -> None:
        await trio.lowlevel.checkpoint()
        self._counters.stop()
        self._streams = None
        self.device = ""
