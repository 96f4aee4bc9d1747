"""The one door to the terminal: what a modem, a server, a peer or a file says can neither steer it nor lie about order.

A terminal obeys control characters and escape sequences (ECMA-48), 8-bit ones among them; bidirectional characters
(UAX #9) make a line read other than it is. Such a character is shown as Python would write it: `\\x1b[2J`, `\\u202e`.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Final

from appliance.events.text import fit_to_show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SafeWriter", "safe", "speaks_utf8"]

TAB: Final = 8


def safe(text: str, *, ascii_only: bool = False) -> str:
    """`text` with its line ends, and nothing else that a terminal obeys. `ascii_only`: for one that does not speak
    UTF-8 and would take the bytes of some letter for an 8-bit control character."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c, ascii_only) for line in text.splitlines(keepends=True) for c in _tabbed(line))


def _tabbed(line: str) -> str:
    return line.expandtabs(TAB) if "\t" in line else line


def _shown(c: str, ascii_only: bool) -> str:
    if c == "\n":
        return c
    if fit_to_show(c) and (c.isascii() or not ascii_only):
        return c
    return f"\\x{ord(c):02x}" if c.isascii() else c.encode("ascii", "backslashreplace").decode()


def speaks_utf8(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the person's locale says that the terminal does (locale(7)); Python's UTF-8 mode says nothing of it."""
    named = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    return "utf" in named.lower()


class SafeWriter(io.TextIOBase):
    """A standard output for verbs: what is printed to it goes to `put`, made safe, a piece at a time."""

    def __init__(self, put: Callable[[str], None], *, ascii_only: bool) -> None:
        self._put = put
        self._ascii_only = ascii_only

    @property
    def encoding(self) -> str:  # type: ignore[override]  # what verbs ask before they draw bars
        return "ascii" if self._ascii_only else "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._put(safe(text, ascii_only=self._ascii_only))
        return len(text)
