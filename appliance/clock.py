"""Wall time, boot time and whether the wall clock can be trusted. A leaf: every room may import it.

Boards have no battery: after power comes back the wall clock may be anywhere. So intervals are measured
on the boot clock (CLOCK_BOOTTIME, which runs on while suspended), a moment is kept as a `Mark` of both
clocks, and `at` and `windows` hold only while the wall clock is trusted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "Mark", "SystemClock", "rfc3339", "unix"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment by both clocks: `wall` in Unix seconds, `boot` in seconds since the boot named `boot_id`."""

    wall: float
    boot: float
    boot_id: str

    def seconds_until(self, later: Mark) -> float:
        """The seconds from here to `later`: by the boot clock within one boot, else by the wall clock, and then at
        least as long as `later`'s boot had lasted; never below 0."""
        if self.boot_id and self.boot_id == later.boot_id:
            return max(0.0, later.boot - self.boot)
        lasted = later.boot if self.boot_id and later.boot_id else 0.0
        return max(lasted, later.wall - self.wall)


class Clock(Protocol):
    """What a room needs of time. The product's is `SystemClock`; tests move one of their own by hand."""

    def now(self) -> Mark:
        """This moment."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the wall clock can be believed."""
        ...


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SystemClock:
    """The kernel's clocks. Without chrony the wall clock is trusted when it is later than both the last
    time seen and the build (DESIGN §2); `seen` raises the last time seen, in Unix seconds."""

    def __init__(self, *, built: float = 0.0) -> None:
        self._boot_id = _boot_id()
        self._not_before = built

    def now(self) -> Mark:
        return Mark(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), self._boot_id)

    def seen(self, wall: float) -> None:
        self._not_before = max(self._not_before, wall)

    @property
    def trusted(self) -> bool:
        return time.time() >= self._not_before


def rfc3339(wall: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC with milliseconds; None stays None."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix(text: str) -> float:
    """RFC 3339 as Unix seconds. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()
