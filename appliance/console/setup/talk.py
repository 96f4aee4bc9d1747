"""A conversation in plain lines: what the first start asks, on any terminal, at 9600 bit/s, without a size or colour.

It owns the terminal and knows no question. Ctrl-C is the caller's (KeyboardInterrupt), the end of the input EOFError.
"""

from __future__ import annotations

import sys
import textwrap
from getpass import getpass
from typing import TYPE_CHECKING, Final

from appliance.console.safe import safe, speaks_utf8

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Back", "Talk"]

WIDTH: Final = 79
BACK, HELP = "<", "?"


class Back(Exception):
    """The person wants the question before."""


class Talk:
    """`read` and `read_hidden` are for tests."""

    def __init__(
        self,
        read: Callable[[], str] = sys.stdin.readline,
        read_hidden: Callable[[str], str] = getpass,
    ) -> None:
        self._read = read
        self._read_hidden = read_hidden
        self._ascii_only = not speaks_utf8()

    def say(self, text: str = "") -> None:
        """One paragraph, wrapped."""
        self.show(textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))

    def show(self, text: str) -> None:
        """Lines as they are, but for what no terminal should see."""
        print(safe(text, ascii_only=self._ascii_only), flush=True)

    def ask(self, prompt: str, default: str = "", *, help_text: str = "", hidden: bool = False) -> str:
        """The answer, or the default for an empty one. Raises Back, EOFError, KeyboardInterrupt."""
        shown = f"{prompt} [{safe(default)}]: " if default else f"{prompt}: "
        while True:
            answer = self._line(shown, hidden=hidden)
            if answer == BACK:
                raise Back
            if answer != HELP:
                return answer or default
            self.say(help_text or "Type an answer. `<` goes back to the question before.")

    def confirm(self, prompt: str, *, default: bool, help_text: str = "") -> bool:
        """yes or no. Raises as `ask`."""
        while True:
            answer = self.ask(f"{prompt} (yes, no)", "yes" if default else "no", help_text=help_text).lower()
            if answer in ("yes", "y"):
                return True
            if answer in ("no", "n"):
                return False
            self.say("Please answer yes or no.")

    def choose(self, prompt: str, words: tuple[str, ...], default: str, *, help_text: str = "") -> str:
        """One of these words, or its first letter. Raises as `ask`."""
        while True:
            answer = self.ask(f"{prompt} ({', '.join(words)})", default, help_text=help_text).lower()
            for word in words:
                if answer in (word, word[0]):
                    return word
            self.say(f"Please answer {', '.join(words[:-1])} or {words[-1]}.")

    def _line(self, prompt: str, *, hidden: bool) -> str:
        if hidden:
            return self._read_hidden(prompt)
        print(safe(prompt, ascii_only=self._ascii_only), end="", flush=True)
        line = self._read()
        if not line.endswith("\n"):
            raise EOFError
        return line.strip()
