"""A person at `posthouse console` on a pseudo-terminal: types lines, and sees what a terminal would be sent."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect

from .product import ROOT

PATIENCE_S = 60.0
PLAIN = r"(?m)^[\w-]+\*?( \[[^\]\r\n]*\])?( \([^)\r\n]*\))?> "
"""All that a prompt may hold, so that no row with an address in brackets is taken for one."""
EDITED = re.escape("\x1b[?2004h")
"""Bracketed paste is switched on for the time of a line."""
_DRAWING = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Console:
    """`child` is pexpect's. `ready`: what is sent to the terminal when a line may be typed."""

    def __init__(self, child: pexpect.spawn[str], ready: str) -> None:
        self.child = child
        self._ready = ready

    def wait(self, pattern: str, *, patience: float = PATIENCE_S) -> str:
        """-> what came before the pattern, without what moves the cursor."""
        self.child.expect(pattern, timeout=patience)
        return _DRAWING.sub("", self.child.before or "")

    def prompt(self) -> str:
        """Waits until a line may be typed; -> what was shown before."""
        return self.wait(self._ready)

    def type(self, line: str) -> str:
        """A line and Enter; -> what it showed, the line itself left out."""
        self.child.send(line + "\r")
        return self.prompt().partition("\n")[2]


@contextlib.contextmanager
def console(
    file: Path, *, term: str = "dumb", size: tuple[int, int] = (24, 80), lang: str = "C.UTF-8"
) -> Iterator[Console]:
    """On a terminal with this name and size (lines, columns); gone at the end, whatever happens."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "SSH_", "SUDO_"))}
    child: pexpect.spawn[str] = pexpect.spawn(
        sys.executable, ["-m", "appliance", "console", "--config", str(file)], cwd=str(ROOT), encoding="utf-8",
        env={**environ, "TERM": term, "LANG": lang}, dimensions=size, timeout=PATIENCE_S, use_poll=True
    )  # fmt: skip
    child.logfile_read = sys.stdout  # what a failing test shows
    try:
        yield Console(child, PLAIN if term == "dumb" else EDITED)
    finally:
        child.close(force=True)
