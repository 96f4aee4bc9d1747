"""Wall time, boot time and whether the wall clock can be trusted. A leaf: every room may import it.

Boards have no battery: after power comes back the wall clock may be anywhere. So intervals are measured
on the boot clock (CLOCK_BOOTTIME, which runs on while suspended), a moment is kept as a `Mark` of both
clocks, and `at` and `windows` hold only while the wall clock is trusted.

Theory of operation (docs/decisions/0007-the-time-of-a-call.md). At the start the host's clock is judged once: it is
trusted when it is later than both the last time seen, which is on stable storage (`Seen`), and the build. Else it is a
guess: it starts from the later of the two, and stays a guess over a restart within the same boot. Somebody's word ends
that: the network's (`told`), chrony's (`confirmed`), or that of whoever sets the host's clock meanwhile, which shows by
the wall clock having moved against the boot clock. A word also lowers the last time seen: a clock that was once in the
future would else never be trusted again. Nobody's word puts it before the build.
"""

from __future__ import annotations

import errno
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from appliance import events

__all__ = ["Clock", "HostClock", "Mark", "Seen", "SystemClock", "build_time", "rfc3339", "unix"]

STEP_S: Final = 2.0
"""By so much a clock is stepped at least: the network tells whole seconds, and a leap second is no step."""
DOUBT_S: Final = 86400.0
"""By so much the network's word must differ from a trusted clock to count: mobile networks are now and then hours off,
with the wrong time zone."""


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


@dataclass(frozen=True, slots=True)
class Seen:
    """The last time seen, in Unix seconds, as it is kept over a stop. `guess`: the host's wall clock less its boot
    clock, where the wall clock was a guess then, in the boot `boot_id`."""

    wall: float
    boot_id: str = ""
    guess: float | None = None

    def as_bytes(self) -> bytes:
        """JSON, in one line."""
        return json.dumps({"seen": round(self.wall, 3), "boot_id": self.boot_id, "guess": self.guess}).encode()

    @classmethod
    def parse(cls, data: bytes) -> Seen:
        """Raises ValueError."""
        try:
            record = json.loads(data)
            guess = record["guess"]
            return cls(float(record["seen"]), str(record["boot_id"]), None if guess is None else float(guess))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of the last time seen: {error}") from None


def build_time() -> float:
    """When this version was made, in Unix seconds: the time of the package's own file, which in an image is that of its
    last commit (SOURCE_DATE_EPOCH). 0.0 where it can't be read."""
    try:
        return Path(__file__).with_name("__init__.py").stat().st_mtime
    except OSError:
        return 0.0


class HostClock:
    """The kernel's clocks. Without `may_set` this process leaves the wall clock alone, whatever it could do."""

    def __init__(self, *, may_set: bool = False) -> None:
        self._may_set = may_set
        try:
            self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            self.boot_id = ""

    def wall(self) -> float:
        return time.time()

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def set_wall(self, wall: float) -> None:
        """Raises OSError: mostly PermissionError, without CAP_SYS_TIME."""
        if not self._may_set:
            raise PermissionError(errno.EPERM, "root is not given it for that")
        time.clock_settime(time.CLOCK_REALTIME, wall)


class SystemClock:
    """The host's clocks, and whether the wall clock can be believed. Where the host's may not be set, what is known to
    be right is kept as an offset to it. `begin` before all else; until then it is trusted from `built` on."""

    def __init__(self, *, built: float | None = None, host: HostClock | None = None) -> None:
        self._host = host or HostClock()
        self._built = build_time() if built is None else built
        self._floor = self._built
        self._offset = 0.0
        self._guess = False
        self._shift = self._host_shift()
        """The host's wall clock less its boot clock: where that changes, somebody has set the clock."""

    def begin(self, seen: Seen) -> None:
        """Judges the host's clock by what was seen before the start, and puts it right as far as that goes."""
        host = self._host
        self._floor = max(self._built, seen.wall)
        same_boot = seen.boot_id == host.boot_id
        self._guess = seen.guess is not None and same_boot and abs(self._shift - seen.guess) < STEP_S
        if host.wall() < self._floor:
            self._guess = True
            self._put(self._floor, "the last time seen" if seen.wall >= self._built else "the time of the build")

    def now(self) -> Mark:
        self._look()
        return Mark(self._host.wall() + self._offset, self._host.boot(), self._host.boot_id)

    @property
    def trusted(self) -> bool:
        return self.now().wall >= self._floor and not self._guess

    def seen(self) -> Seen:
        """For the next start."""
        now = self.now()
        return Seen(now.wall, now.boot_id, self._shift if self._guess else None)

    def told(self, wall: float, source: str) -> None:
        """The network's word for what time it is now, in Unix seconds; `source` says whose, for the journal. A trusted
        clock is not changed by it unless one of the two is wrong altogether."""
        away = abs(wall - self.now().wall)
        if wall < self._built or (self.trusted and away < DOUBT_S):
            return
        if away >= STEP_S:
            self._put(wall, source)
        self._believe(source)

    def confirmed(self, source: str) -> None:
        """The host's clock is right: somebody who keeps it says so."""
        self._look()
        if self._host.wall() >= self._built and not (self.trusted and self._offset == 0.0):
            self._offset = 0.0
            self._believe(source)

    def _believe(self, source: str) -> None:
        """The clock as it is now."""
        before, self._guess = self._guess, False
        wall = self._host.wall() + self._offset
        before = before or wall < self._floor
        self._floor = max(self._built, min(self._floor, wall))
        if before:
            events.emit(events.CLOCK_TRUSTED, source=source)

    def _look(self) -> None:
        """Whether somebody has set the host's clock: a person, or who keeps it. That is his word for it, unless it is
        from before the build."""
        shift = self._host_shift()
        if abs(shift - self._shift) < STEP_S:
            return
        before, self._shift = self._host.boot() + self._shift + self._offset, shift
        self._offset = 0.0
        wall = self._host.wall()
        source = "the host's clock was set"
        events.emit(events.CLOCK_STEPPED, before=rfc3339(before), after=rfc3339(wall), source=source)
        if wall >= self._built:
            self._believe(source)

    def _put(self, wall: float, source: str) -> None:
        """Sets the host's clock or, where that is not allowed, our own against it."""
        before, self._offset = self._host.wall() + self._offset, 0.0
        try:
            self._host.set_wall(wall)
        except OSError as error:
            self._offset = wall - self._host.wall()
            events.emit(events.CLOCK_NOT_SET, error=error.strerror or error)
        self._shift = self._host_shift()
        events.emit(events.CLOCK_STEPPED, before=rfc3339(before), after=rfc3339(wall), source=source)

    def _host_shift(self) -> float:
        return self._host.wall() - self._host.boot()


def rfc3339(wall: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC with milliseconds; None stays None."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix(text: str) -> float:
    """RFC 3339 as Unix seconds. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()
