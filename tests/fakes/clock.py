"""A clock that stands still until a test moves it, alone or together with a Trio MockClock."""

from __future__ import annotations

import trio

from appliance.clock import Mark

NOON = 1_767_614_400.0
"""Monday 2026-01-05 12:00 UTC."""


class FakeClock:
    """Both clocks move by `advance`, the wall clock alone by `set_wall`. With `mock` they also follow that one."""

    def __init__(self, wall: float = NOON, *, boot: float = 1000.0, mock: trio.abc.Clock | None = None) -> None:
        self.wall, self.boot, self.boot_id = wall, boot, "boot-1"
        self.trusted = True
        self._mock = mock

    def now(self) -> Mark:
        passed = self._mock.current_time() if self._mock else 0.0
        return Mark(self.wall + passed, self.boot + passed, self.boot_id)

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def set_wall(self, wall: float) -> None:
        """A step of the wall clock, as chrony or a person makes it."""
        self.wall += wall - self.now().wall

    def reboot(self, *, off_s: float = 10.0) -> None:
        """The power was away for `off_s`; the wall clock ran on (a board without a battery: `set_wall` behind it)."""
        now = self.now()
        self.wall += off_s
        self.boot += 5.0 - now.boot
        self.boot_id = f"boot-{int(self.boot_id[5:]) + 1}"
