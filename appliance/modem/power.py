"""A modem's power behind an output of the board (`power_gpio`): the only module that imports gpiod.

The output is active while the modem has power. It is requested for the first cycle, not before, and kept for as long as
the process runs: what an output does once nobody holds it is its driver's to decide (linux/gpio.h), mostly to stay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OFF_S", "GpioPower"]

OFF_S: Final = 5.0
"""A module's capacitors are empty after some seconds; SIMCom and Quectel ask for one at least."""
SWITCH_S: Final = 2.0
"""An output switches within milliseconds, one behind I2C or USB within tens of them."""
CONSUMER: Final = "posthouse"


class GpioPower:
    """`where` is `gpiochipN:LINE`, as the configuration has it. `off_s` and `gpiod` are for tests."""

    def __init__(
        self,
        where: str,
        *,
        off_s: float = OFF_S,
        gpiod: Callable[[], Any] = lambda: importlib.import_module("gpiod"),
    ) -> None:
        self.name = where
        self.off_s = off_s
        chip, _, line = where.partition(":")
        self._chip = f"/dev/{chip}"
        self._line = int(line)
        self._gpiod = gpiod
        self._request: Any = None

    async def cycle(self) -> None:
        """Off for `off_s` and on again, however it is cancelled. Raises OSError."""
        try:
            await self._switch(on=False)
            await trio.sleep(self.off_s)
        finally:
            with trio.CancelScope(shield=True):
                await self._switch(on=True)

    async def _switch(self, *, on: bool) -> None:
        try:
            with trio.fail_after(SWITCH_S):
                await trio.to_thread.run_sync(self._set, on, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise TimeoutError(f"{self.name} does not switch within {SWITCH_S:g} s") from None

    def _set(self, on: bool) -> None:
        try:
            gpiod = self._gpiod()
        except ImportError as error:
            raise OSError(f"the Python package gpiod is missing ({error})") from None
        try:
            value = gpiod.line.Value.ACTIVE if on else gpiod.line.Value.INACTIVE
            if self._request is None:
                settings = gpiod.LineSettings(direction=gpiod.line.Direction.OUTPUT, output_value=value)
                self._request = gpiod.request_lines(self._chip, consumer=CONSUMER, config={self._line: settings})
            else:
                self._request.set_value(self._line, value)
        except (OSError, ValueError, RuntimeError) as error:  # no such chip or line, held by another, no permission
            raise OSError(f"{self.name}: {error}") from None
