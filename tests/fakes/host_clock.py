"""A host's clocks that stand still until a test moves them."""

from __future__ import annotations

import errno

from appliance.clock import HostClock


class FakeHost(HostClock):
    """Stands still until it is moved; `refuses`: it may not be set."""

    def __init__(self, wall: float, *, boot: float = 20.0, boot_id: str = "this", refuses: bool = False) -> None:
        self.boot_id = boot_id
        self.refuses = refuses
        self._wall, self._boot = wall, boot

    def wall(self) -> float:
        return self._wall

    def boot(self) -> float:
        return self._boot

    def set_wall(self, wall: float) -> None:
        if self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self._wall = wall

    def step(self, wall: float) -> None:
        """As a person or chronyd does it."""
        self._wall = wall

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._boot += seconds
