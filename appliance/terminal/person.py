"""The person at the terminal: questions with yes or no, and the enrolling password. Owns standard input while it asks.

One thread reads lines for as long as the process lives, so a question that is withdrawn leaves no second reader behind;
a line that nobody has asked for is dropped, never taken for the answer to the next question.
"""

from __future__ import annotations

import os
import sys
import termios
import threading
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NoPerson", "Person", "password_from"]

LINE_BYTES: Final = 4096
"""A terminal hands over one line at a time, at most this long (termios(3), canonical mode)."""
PASSWORD_VARIABLE: Final = "POSTHOUSE_PASSWORD"


class NoPerson(Exception):
    """Standard input is no terminal, or has ended: nobody to ask."""


class Person:
    """Questions may come from several tasks; they take turns."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._answer: str | None = None
        self._answered = trio.Event()
        self._asking = False
        self._gone = False
        self._reader: threading.Thread | None = None

    @property
    def there(self) -> bool:
        return sys.stdin is not None and sys.stdin.isatty() and not self._gone

    async def yes(self, question: str) -> bool:
        """Whether the answer is yes. Raises NoPerson."""
        async with self._turn:
            answer = await self._ask(f"{question} [y/N] ")
        return answer.strip().lower() in ("y", "yes")

    async def secret(self, question: str) -> str:
        """A line that is not shown while it is typed. Raises NoPerson."""
        async with self._turn:
            if not self.there:
                raise NoPerson
            before = termios.tcgetattr(0)
            quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
            termios.tcsetattr(0, termios.TCSAFLUSH, quiet)
            try:
                answer = await self._ask(question)
            finally:
                termios.tcsetattr(0, termios.TCSAFLUSH, before)
                print(file=sys.stderr, flush=True)
        return answer.rstrip("\r\n")

    async def _ask(self, question: str) -> str:
        if not self.there:
            raise NoPerson
        if self._reader is None:
            termios.tcflush(0, termios.TCIFLUSH)  # what was typed before any question
            token = trio.lowlevel.current_trio_token()
            self._reader = threading.Thread(target=self._read, args=(token,), daemon=True)
            self._reader.start()
        self._answer, self._answered, self._asking = None, trio.Event(), True
        try:
            print(question, end="", file=sys.stderr, flush=True)
            await self._answered.wait()
        except trio.Cancelled:
            print(file=sys.stderr, flush=True)  # whatever is said next is no part of the question
            raise
        finally:
            self._asking = False
        if self._answer is None:
            raise NoPerson
        return self._answer

    def _read(self, token: trio.lowlevel.TrioToken) -> None:
        # Not sys.stdin: its buffer's lock, held at the interpreter's end, would abort it.
        while True:
            try:
                line = os.read(0, LINE_BYTES)
            except OSError:
                line = b""
            try:
                token.run_sync_soon(self._take, line)
            except trio.RunFinishedError:
                return
            if not line:
                return

    def _take(self, line: bytes) -> None:
        if not line:
            self._gone = True
        elif not self._asking:
            return  # nobody has asked
        elif self._answer is None:
            self._answer = line.decode(errors="replace")
        self._answered.set()


async def password_from(file: Path | None, name: str, person: Person) -> str:
    """From the file, the environment or a prompt. Raises NoPerson, OSError, ValueError for one that is no text."""
    if file is not None:
        return (await trio.Path(file).read_text(encoding="utf-8")).rstrip("\r\n")
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return given
    return await person.secret(f"Password of {name}, to enrol this terminal: ")
