"""The board's reset button: finds the input device that has KEY_RESTART (gpio-keys, gpio-keys-polled) and says how long
it was held. What a press means is `meaning`; who carries that out is not here.
"""

from __future__ import annotations

import fcntl
import os
import struct
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance.host.led_table import REBOOT_BELOW_S, RESET_FROM_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Action", "Held", "Press", "find", "meaning", "presses"]

EV_KEY: Final = 0x01
KEY_RESTART: Final = 0x198
"""linux/input-event-codes.h."""
EVIOCSCLOCKID: Final = 0x400445A0
CLOCK_MONOTONIC: Final = 1
EVENT: Final = struct.Struct("@llHHi")
"""struct input_event: seconds, microseconds, type, code, value (linux/input.h)."""
INPUT_FOLDER: Final = Path("/sys/class/input")
DEVICE_FOLDER: Final = Path("/dev/input")


class Action(StrEnum):
    REBOOT = "reboot"
    NOTHING = "nothing"
    FACTORY_RESET = "factory-reset"


def meaning(held_s: float) -> Action:
    """Of a press that lasted so long."""
    if held_s < REBOOT_BELOW_S:
        return Action.REBOOT
    return Action.FACTORY_RESET if held_s >= RESET_FROM_S else Action.NOTHING


class Held:
    """The button went down."""


class Press(float):
    """The button was let go after so many seconds."""


class Timing:
    """The kernel's events in, what happened out. A release without its press (one that began before anybody looked)
    means nothing, and a second press without a release between (events were lost) begins anew."""

    def __init__(self) -> None:
        self._since: float | None = None

    def feed(self, event: bytes) -> Held | Press | None:
        """One `EVENT`. A held key repeats with the value 2."""
        seconds, microseconds, kind, code, value = EVENT.unpack(event)
        if (kind, code) != (EV_KEY, KEY_RESTART):
            return None
        at = seconds + microseconds / 1e6
        if value == 1:
            self._since = at
            return Held()
        if value == 0 and self._since is not None:
            since, self._since = self._since, None
            return Press(at - since)
        return None


def find(inputs: Path = INPUT_FOLDER, devices: Path = DEVICE_FOLDER) -> Path | None:
    """The first device that has such a key; None where there is none. Its keys are a bitmap in words of hexadecimal
    digits, the highest first (Documentation/input/)."""
    for folder in sorted(inputs.glob("event*")):
        try:
            words = (folder / "device/capabilities/key").read_text().split()
            bits = struct.calcsize("@l") * 8
            index, bit = divmod(KEY_RESTART, bits)
            if index < len(words) and int(words[-1 - index], 16) >> bit & 1:
                return devices / folder.name
        except (OSError, ValueError):
            continue
    return None


async def presses(device: Path) -> AsyncGenerator[Held | Press, None]:
    """What happens to the button of this device, until it goes away. Raises OSError."""
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(
                fd, EVIOCSCLOCKID, struct.pack("@i", CLOCK_MONOTONIC)
            )  # else a step of the clock is a long press
        except OSError:
            pass
        timing = Timing()
        while True:
            await trio.lowlevel.wait_readable(fd)
            data = os.read(fd, EVENT.size * 16)
            if len(data) < EVENT.size:
                raise OSError(f"{device} is gone")
            for at in range(0, len(data) - EVENT.size + 1, EVENT.size):
                if (what := timing.feed(data[at : at + EVENT.size])) is not None:
                    yield what
    finally:
        os.close(fd)
