"""The terminal that a person sits at: what it can do, plain lines from it, pages to it, and its interrupt key.

A serial line mostly has no size, is slow, or has a terminal behind it that nobody knows: there a line is read as the
kernel edits it, and nothing is ever drawn anew. Where more is possible `editor` reads the lines.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING, Final

from appliance.console.safe import SafeWriter, safe, speaks_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

__all__ = ["IGNORED", "Interrupts", "Terminal", "TimedOut", "can_edit"]

SLOW: Final = {termios.B300, termios.B600, termios.B1200, termios.B2400, termios.B4800, termios.B9600}
"""Redrawing a line of 80 columns takes 80 ms and more at these speeds, at every key."""
DUMB: Final = frozenset({"", "dumb", "unknown", "network", "dialup"})
"""Names in TERM that promise nothing (terminfo(5))."""
LINES: Final = 24
"""Of a page where the terminal does not say how high it is."""
IGNORED: Final = (signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU)
MORE: Final = "-- more: Enter, or q to stop --"


class TimedOut(Exception):
    """Nobody has typed anything until the time that was given."""


def can_edit(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether lines can be edited in place there."""
    try:
        speed = termios.tcgetattr(fd)[5]
        size = os.get_terminal_size(fd)
    except (termios.error, OSError):
        return False
    return environ.get("TERM", "") not in DUMB and speed not in SLOW and size.columns > 0 and size.lines > 0


class Interrupts:
    """Ctrl-C ends what was asked for, never the console: it raises KeyboardInterrupt inside `allowed` alone. The quit
    and suspend keys do nothing, and a program that had the terminal does not stop us when we take it back. For the life
    of the process. `came`: one was taken since that was last set to False."""

    def __init__(self) -> None:
        self._allowed = self.came = False
        signal.signal(signal.SIGINT, self._interrupt)
        for signum in IGNORED:
            signal.signal(signum, signal.SIG_IGN)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._allowed:
            self._allowed, self.came = False, True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False


class Terminal:
    """Standard input and output. `touched`: when a person last typed something, by the monotonic clock."""

    def __init__(self) -> None:
        self.ascii_only = not speaks_utf8()
        self.is_one = sys.stdin.isatty() and sys.stdout.isatty()
        self.touched = time.monotonic()
        self.writer = SafeWriter(self._put, ascii_only=self.ascii_only)
        self._out = sys.stdout
        self._typed = b""
        """Behind the line that was read last."""

    def _put(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # nobody is there any more
            raise EOFError from None

    def say(self, text: str) -> None:
        """A line."""
        self.writer.write(text + "\n")

    def put(self, text: str) -> None:
        """Without a line end."""
        self.writer.write(text)

    # ---- reading
    def read_line(self, prompt: str, until: float) -> str:
        """A line without its end, as the kernel lets it be edited; `until` by the monotonic clock. A program that types
        sees no prompt. Raises TimedOut, EOFError, KeyboardInterrupt."""
        if self.is_one:
            self.put(prompt)
        while b"\n" not in self._typed:
            ready, _, _ = select.select([0], [], [], max(0.0, min(until - time.monotonic(), 1e6)))
            if not ready:
                raise TimedOut
            try:
                data = os.read(0, 4096)
            except OSError:  # the line is gone
                data = b""
            self.touched = time.monotonic()
            self._typed += data
            if not data:
                if not self._typed:
                    raise EOFError
                self._typed += b"\n"
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode("utf-8", "replace").replace("\r", "")

    def forget_typed(self) -> None:
        """What was typed ahead."""
        self._typed = b""
        if self.is_one:
            termios.tcflush(0, termios.TCIFLUSH)

    def read_password(self, prompt: str) -> str:
        """Without an echo. Raises EOFError, KeyboardInterrupt."""
        try:
            return getpass.getpass(safe(prompt), stream=None)
        finally:
            self.touched = time.monotonic()

    # ---- pages
    def page(self, text: str, until: Callable[[], float]) -> None:
        """Shows it, a screen at a time, where a person looks at it. `until()`: how long to wait for the key. Raises
        TimedOut, KeyboardInterrupt."""
        text = safe(text, ascii_only=self.ascii_only)
        lines = text.removesuffix("\n").split("\n") if text else []
        while lines:
            height, width = self.size()
            taken, rows = 0, 0
            while taken < len(lines) and rows + (high := 1 + max(0, len(lines[taken]) - 1) // width) <= height - 1:
                taken, rows = taken + 1, rows + high
            taken = len(lines) if not self.is_one else max(1, taken)
            self.put("\n".join(lines[:taken]) + "\n")
            lines = lines[taken:]
            if lines:
                try:
                    if self.read_line(MORE, until()).strip().lower().startswith("q"):
                        return
                except EOFError:
                    return

    def size(self) -> tuple[int, int]:
        """(lines, columns)."""
        try:
            size = os.get_terminal_size(1)
        except OSError:
            return LINES, 80
        return size.lines or LINES, size.columns or 80

    # ---- lent
    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """To a program for as long as that takes. It is ours again behind that, as it was but for the line's speed: who
        has changed that (stty(1)) has changed it on the other side too."""
        before = termios.tcgetattr(0) if self.is_one else None
        try:
            yield
        finally:
            if before is not None:
                with contextlib.suppress(termios.error, OSError):  # nobody is there any more
                    os.tcsetpgrp(0, os.getpgrp())
                    before[4:6] = termios.tcgetattr(0)[4:6]
                    termios.tcsetattr(0, termios.TCSADRAIN, before)
                with contextlib.suppress(OSError):  # the program's typing counts; the kernel notes it to 8 s
                    since = time.time() - os.fstat(0).st_atime
                    self.touched = max(self.touched, time.monotonic() - max(0.0, since))
            self._typed = b""
