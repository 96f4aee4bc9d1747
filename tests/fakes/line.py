"""A line in software that does what a test says, step by step, and remembers what was asked of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

import trio

from appliance.call import Dialled, Outcome

BLOCK = "block"
"""As a step: it does not end by itself."""

Step = Outcome | Dialled | OSError | str | None


class FakeLine:
    """`prepare`, `dials`, `negotiate`, `hang_up`: what each does, one after the other, then the last for ever. A
    step is the result, an OSError to raise, or `BLOCK`. `log` holds what was called; `hooks` (by the step's name) are
    called at its beginning. `figures` is what `carried` says; a number put into `rings` rings."""

    def __init__(
        self,
        name: str = "pstn",
        *,
        prepare: Iterable[Step] = (None,),
        dials: Iterable[Step] = (Dialled(None, 9600, "CONNECT 9600"),),
        negotiate: Iterable[Step] = (None,),
        hang_up: Iterable[Step] = (None,),
        command: Iterable[Step] = (None,),
    ) -> None:
        self.name = name
        self.device = ""
        self.dns: tuple[str, ...] = ()
        self.figures: tuple[int, int] | None = None
        self.time: datetime | None = None
        self.log: list[str] = []
        self.off_hook = False
        self.watched = False
        self.hooks: dict[str, Callable[[], None]] = {}
        self._steps = {
            "prepare": deque(prepare),
            "dial": deque(dials),
            "negotiate": deque(negotiate),
            "hang_up": deque(hang_up),
            "command": deque(command),
        }
        self.rings, self._ringing = trio.open_memory_channel[str](10)
        self.listening = False
        self._lost: Outcome | OSError = Outcome.CARRIER_LOST
        self._carrier = trio.Event()

    def drop(self, outcome: Outcome | OSError = Outcome.CARRIER_LOST) -> None:
        """The carrier is gone."""
        self._lost = outcome
        self._carrier.set()

    @property
    def dialled(self) -> list[str]:
        return [entry[5:] for entry in self.log if entry.startswith("dial ")]

    async def prepare(self, tell: Callable[[str], None] = lambda text: None) -> Outcome | None:
        outcome = await self._step("prepare")
        assert outcome is None or isinstance(outcome, Outcome)
        return outcome

    async def dial(self, number: str) -> Dialled:
        assert not self.off_hook, "dialled while off-hook"
        result = await self._step("dial", number)
        dialled = Dialled(result) if isinstance(result, Outcome) else result
        assert isinstance(dialled, Dialled)
        self.off_hook = dialled.connected
        return dialled

    async def negotiate(self) -> Outcome | None:
        outcome = await self._step("negotiate")
        assert outcome is None or isinstance(outcome, Outcome)
        return outcome

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        return await trio.open_tcp_stream(host, port)

    async def network_time(self) -> datetime | None:
        await trio.lowlevel.checkpoint()
        return self.time

    def carried(self) -> tuple[int, int] | None:
        return self.figures

    async def wait_carrier_lost(self) -> Outcome:
        self.watched = True
        try:
            await self._carrier.wait()
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                for _ in range(5):  # as a nursery takes some steps to unwind
                    await trio.lowlevel.checkpoint()
            raise
        finally:
            self.watched = False
        if isinstance(self._lost, OSError):
            raise self._lost
        return self._lost

    async def wait_wake(self) -> str:
        assert not self.listening
        self.listening = True
        try:
            return await self._ringing.receive()
        finally:
            with trio.CancelScope(shield=True):  # as a port takes some steps to close
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
            self.listening = False

    async def command(self, command: str) -> list[str]:
        await self._step("command", command)
        return [command, "OK"]

    async def hang_up(self) -> None:
        await self._step("hang_up")
        self.off_hook = False

    async def _step(self, name: str, what: str = "") -> object:
        assert not self.watched or name == "negotiate", f"{name} while another task waits for the carrier's end"
        assert not self.listening, f"{name} while another task listens for rings"
        self.log.append(f"{name} {what}".strip())
        if name in self.hooks:
            self.hooks[name]()
        await trio.lowlevel.checkpoint()
        steps = self._steps[name]
        step = steps.popleft() if len(steps) > 1 else steps[0]
        if step == BLOCK:
            await trio.sleep_forever()
        if isinstance(step, OSError):
            raise step
        return step
