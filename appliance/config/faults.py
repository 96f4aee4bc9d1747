"""What is wrong with a configuration: the places (key paths), the collector of faults, and the error that carries
all of them.

A key path is a tuple of keys and array indexes, `("user", 0, "account", 1, "protocol")`, shown as
`user[0].account[1].protocol`. Every text from the file passes `quoted` before it is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ConfigErrors",
    "ErrorLine",
    "Fault",
    "Faults",
    "KeyPath",
    "Unfit",
    "choice",
    "nearest",
    "quoted",
    "show",
    "shown",
]

SHOWN_LIMIT: Final = 80
"""Characters of a wrong value that an error line shows."""

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def show(path: KeyPath) -> str:
    """A key path as an error line has it; keys that TOML would quote are quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += ("." if out else "") + (part if _BARE_KEY.fullmatch(part) else quoted(part))
    return out


def shown(value: object) -> str:
    """A value from the file, cleaned and shortened."""
    return clean(value, SHOWN_LIMIT)


def quoted(text: object) -> str:
    """The same in double quotes."""
    return f'"{shown(text)}"'


def choice(words: list[str]) -> str:
    """`"a", "b" or "c"`."""
    shown = [quoted(w) for w in words]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def nearest(word: str, known: list[str]) -> str:
    """The known word that `word` was most likely meant to be, or ""."""
    import difflib  # only where something is wrong

    folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[near[0]] if near else ""


class Unfit(Exception):
    """A value that can't be taken. `expected` "": what its kind expects; `at`: the place below the value's own."""

    def __init__(self, what: str, expected: str = "", at: KeyPath = ()) -> None:
        super().__init__(what)
        self.what, self.expected, self.at = what, expected, at


class Fault(NamedTuple):
    path: KeyPath
    what: str
    expected: str


class Faults:
    """Gathers faults. One place has at most one, the first that was found there, and where a table as a whole is at
    fault nothing below it is."""

    def __init__(self) -> None:
        self._by_path: dict[KeyPath, Fault] = {}

    def add(self, path: KeyPath, what: str, expected: str) -> None:
        if not any(path[:n] in self._by_path for n in range(1, len(path) + 1)):
            self._by_path[path] = Fault(path, what, expected)

    def under(self, path: KeyPath) -> bool:
        """Whether anything at or below this place is at fault, so that what it says can't be relied on."""
        return any(p[: len(path)] == path for p in self._by_path)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._by_path.values())


class ErrorLine(str):
    """`FILE:LINE: KEY.PATH: what is wrong; what is expected`. `parts`: the same for programs: `file`, `line` (from 1),
    `path` ("" where the file as a whole is at fault), `what`, `expected`."""

    parts: dict[str, str | int]

    def __new__(cls, file: object, line: int, fault: Fault) -> ErrorLine:
        path = show(fault.path)
        made = super().__new__(cls, f"{clean(file)}:{line}: {path or 'toml'}: {fault.what}; expected {fault.expected}")
        made.parts = {
            "file": clean(file), "line": line, "path": path, "what": fault.what, "expected": fault.expected
        }  # fmt: skip
        return made


class ConfigErrors(Exception):
    """Everything that is wrong with a configuration, in the order of the file. None shows a secret's value."""

    def __init__(self, lines: list[ErrorLine]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
