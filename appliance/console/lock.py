"""Who may sit at the console: the administrator's password and how long a console stays open that nobody touches, as
`[console]` of the stored file says it.

A file that can't be read locks nobody out: whoever sits at the board could as well take failsafe in the boot menu, and
the console is where such a file is mended. A console that is open keeps the password that it has seen last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.config import copies
from appliance.config.document import Document
from appliance.config.faults import ConfigErrors, Unfit
from appliance.config.model import Console
from appliance.config.passwords import verify_password
from appliance.config.units import duration

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.console.terminal import Terminal

__all__ = ["Access", "Lock"]

WRONG_S: Final = 2.0
"""After a wrong password: eight characters are then beyond anybody who types."""


class Access(NamedTuple):
    """`password`: the string that it is checked against, "" for none."""

    password: str = ""
    idle_s: float = Console().idle_s

    @classmethod
    def read(cls, file: Path) -> Access | None:
        """As the file says it; None where it can't be read."""
        try:
            table = Document(file, copies.read(file)).data.get("console")
        except (OSError, ConfigErrors):
            return None
        if not isinstance(table, dict):
            return cls()
        password, idle = table.get("password", ""), table.get("idle")
        try:
            idle_s = cls().idle_s if idle is None else float(duration(1).read(idle))  # type: ignore[arg-type]
        except (Unfit, TypeError, AttributeError):
            idle_s = cls().idle_s
        return cls(password if isinstance(password, str) else "", idle_s)


class Lock:
    """`file`: the configuration."""

    def __init__(self, file: Path, terminal: Terminal) -> None:
        self._file = file
        self._terminal = terminal
        self._access = Access()
        self._stamp: tuple[int, int, int] | None = None
        """Of the file that it was read from: asked each second, it is read when it is another one."""

    @property
    def idle_s(self) -> float | None:
        """Seconds without a typed character until it is locked; None where there is no password."""
        self._look()
        return self._access.idle_s if self._access.password else None

    def until(self) -> float:
        """When this console locks itself if nobody types, by the monotonic clock; inf where there is no password, and
        for a program: that ends with its lines, and a lock would take the next ones for passwords."""
        idle_s = self.idle_s if self._terminal.is_one else None
        return float("inf") if idle_s is None else self._terminal.touched + idle_s

    def _look(self) -> None:
        try:
            found = self._file.stat()
        except OSError:
            found = None
        stamp = found and (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp is None or stamp != self._stamp:
            self._access, self._stamp = Access.read(self._file) or self._access, stamp

    @property
    def due(self) -> bool:
        return time.monotonic() >= self.until()

    def open(self) -> None:
        """Returns once the password was given, at once where there is none. Raises EOFError where nobody is there."""
        while self.idle_s is not None:
            try:
                self._terminal.forget_typed()
                if verify_password(self._terminal.read_password("Administrator's password: "), self._access.password):
                    return
            except UnicodeError:
                pass
            self._terminal.say("that is not the password")
            time.sleep(WRONG_S)
