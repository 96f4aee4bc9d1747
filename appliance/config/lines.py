"""Where in a TOML text each key, table, value and array element stands. tomllib gives values without places, so this
index is our own.

It knows where things are, not what they mean: tomllib parses and judges, this scans the same text beside it. On a
text that tomllib refuses the scan ends where it can't go on; what came before is still found, which is how a
syntax error gets its key path.

Theory of operation. One pass. A header `[a.b]` or `[[a.b]]` sets the table that the following keys belong to; a part
of a header that names an array of tables stands for its newest element (TOML 1.0, "Array of Tables"). A key is
followed by `=` and a value; strings are skipped whole, arrays and inline tables are entered. A place has the line of
its first mention, but a table that has a header of its own the header's.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from appliance.config.faults import KeyPath

__all__ = ["LineIndex", "Pair", "Section"]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*+")
_KEY = re.compile(r"""[ \t]*(?:([A-Za-z0-9_-]+)|("(?:[^"\\\n]|\\.)*"|'[^'\n]*'))[ \t]*""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}'''  # up to two quotes may stand before the closing three
    r"""|'''.*?'{3,5}"""
    r'''|"(?:[^"\\\n]|\\.)*"'''
    r"""|'[^'\n]*'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^\s,\]}#][^,\]}#\n]*")


class _Lost(Exception):
    """The text is no TOML from here on."""


class Section(NamedTuple):
    """A header `[path]`, or `[[path]]` with the element's number behind it, from `start` to its last bracket."""

    path: KeyPath
    start: int
    end: int


class Pair(NamedTuple):
    """`KEY = VALUE` from its key to its value's end. `table`: where its key begins to count, the section or the inline
    table that it stands in; `inline`: the latter."""

    table: KeyPath
    path: KeyPath
    start: int
    end: int
    inline: bool


class LineIndex:
    """`line(path)` counts from 1. `values`: the place of each key and array element, from its value's first character
    to behind its last; `sections` and `pairs` in the order of the text. All three count characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._ends = [m.start() for m in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._elements: dict[KeyPath, int] = {}  # arrays of tables: how many there are so far
        self.values: dict[KeyPath, tuple[int, int]] = {}
        self.sections: list[Section] = []
        self.pairs: list[Pair] = []
        try:
            self._document()
        except (_Lost, RecursionError):
            pass

    def line(self, path: KeyPath) -> int:
        """The line of this place; of a key that is missing, that of the table it is missing in; 1 where there is
        nothing of it at all."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def paths(self) -> dict[KeyPath, int]:
        """Every place there is with its line."""
        return dict(self._lines)

    def last_before(self, line: int) -> KeyPath:
        """The last place that begins on this line or before it; () where there is none."""
        best: KeyPath = ()
        best_line = 0
        for path, at in self._lines.items():
            if best_line <= at <= line:
                best, best_line = path, at
        return best

    def _here(self) -> int:
        return bisect_left(self._ends, self._pos) + 1

    def _blank(self) -> str:
        """Goes on to the next thing, and returns its first character, "" at the end."""
        if m := _BLANK.match(self._text, self._pos):
            self._pos = m.end()
        return self._text[self._pos : self._pos + 1]

    def _take(self, expected: str) -> None:
        if not self._text.startswith(expected, self._pos):
            raise _Lost
        self._pos += len(expected)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        m = pattern.match(self._text, self._pos)
        if not m:
            raise _Lost
        self._pos = m.end()
        return m

    def _document(self) -> None:
        table: KeyPath = ()
        while first := self._blank():
            if first == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        line, start = self._here(), self._pos
        mark = "[[" if self._text.startswith("[[", self._pos) else "["
        self._take(mark)
        *parents, last = self._keys()
        self._take("]" * len(mark))
        path: KeyPath = ()
        for part in parents:
            path = (*path, part)
            self._lines.setdefault(path, line)
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
        path = (*path, last)
        if mark == "[[":
            self._lines.setdefault(path, line)
            count = self._elements[path] = self._elements.get(path, 0) + 1
            path = (*path, count - 1)
        self._lines[path] = line
        self.sections.append(Section(path, start, self._pos))
        return path

    def _keys(self) -> list[str]:
        """A key, dotted or not, as its parts."""
        parts = []
        while True:
            bare, quoted = self._match(_KEY).groups()
            try:
                parts.append(bare if bare is not None else next(iter(tomllib.loads(f"{quoted} = 0"))))
            except tomllib.TOMLDecodeError:
                raise _Lost from None
            if not self._text.startswith(".", self._pos):
                return parts
            self._take(".")

    def _pair(self, table: KeyPath, *, inline: bool = False) -> None:
        line, start = self._here(), self._pos
        path = table
        for part in self._keys():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._take("=")
        if self._blank() == "":
            raise _Lost
        self._value(path)
        self.pairs.append(Pair(table, path, start, self._pos, inline))

    def _value(self, path: KeyPath) -> None:
        start = self._pos
        first = self._text[self._pos]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in "\"'":
            self._match(_STRING)
        else:
            self._match(_SCALAR)
            while self._text[self._pos - 1] in " \t":
                self._pos -= 1
        self.values[path] = (start, self._pos)

    def _array(self, path: KeyPath) -> None:
        self._take("[")
        count = 0
        while self._blank() != "]":
            place = (*path, count)
            self._lines.setdefault(place, self._here())
            if self._pos == len(self._text):
                raise _Lost
            self._value(place)
            count += 1
            if self._blank() == ",":
                self._take(",")
        self._take("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._take("{")
        while self._blank() != "}":
            self._pair(path, inline=True)
            if self._blank() == ",":
                self._take(",")
        self._take("}")
