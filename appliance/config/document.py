"""One TOML file of a person's: its text parsed, the place of everything in it, and error lines that name the place."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from appliance.config.faults import ConfigErrors, ErrorLine, Fault, KeyPath, show
from appliance.config.lines import LineIndex
from appliance.events import clean

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Document"]

_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

_KEY_TUPLE = re.compile(r"(?<=Cannot declare )\(.*\)(?= twice)|(?<=namespace )\(.*\)")
"""tomllib shows a table's name as Python writes a tuple."""

_EXPECTED: Final = (
    # Beginnings of tomllib's messages, and what the person most likely left out.
    ("Invalid value", 'a value: text in quotes such as "2h", a number, true, false or an [array]'),
    ("Expected newline or end of document", 'one KEY = VALUE a line, text in quotes, such as every = "2h"'),
    ("Expected '=' after a key", "KEY = VALUE"),
    ("Cannot overwrite a value", "each key once in its table"),
    ("Cannot declare", "each [table] once, and [[table]] for one of several"),
    ("Unclosed array", "] at the array's end, and commas between its elements"),
    ("Invalid initial character for a key", "a key of letters, digits, - and _"),
    ("Invalid statement", "KEY = VALUE, [table] or [[table]]"),
    ("Unterminated string", "the closing quotes"),
    ("Expected ']", "] or ]] at the end of the table's name"),
)
_ANY_TOML: Final = "TOML 1.0"


class Document:
    """`data` as tomllib makes it. Raises ConfigErrors with one line where the bytes are no TOML."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path = path
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise self._error(line, (), "is no UTF-8 text", "a file saved as UTF-8") from None
        # As tomllib does, so that both see the same lines.
        text = text.replace("\r\n", "\n")
        self._index = LineIndex(text)
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise self._syntax_error(text, str(error)) from None
        except ValueError:  # Python's limit on the digits of an integer
            raise self._error(1, (), "has a number that is too long", "64-bit integers") from None
        except RecursionError:
            raise self._error(1, (), "is nested too deeply", _ANY_TOML) from None

    def error(self, fault: Fault) -> ErrorLine:
        return ErrorLine(self.path, self.line(fault.path), fault)

    def line(self, path: KeyPath) -> int:
        return self._index.line(path)

    def _error(self, line: int, path: KeyPath, what: str, expected: str) -> ConfigErrors:
        return ConfigErrors([ErrorLine(self.path, line, Fault(path, what, expected))])

    def _syntax_error(self, text: str, message: str) -> ConfigErrors:
        m = _PLACE.fullmatch(message)
        said, number, column = m.groups() if m else (message, None, None)
        line = int(number) if number else text.rstrip().count("\n") + 1
        where = f"column {column}" if column else "the end of the file"
        expected = next((e for start, e in _EXPECTED if said.startswith(start)), _ANY_TOML)
        said = _KEY_TUPLE.sub(lambda m: show(tuple(ast.literal_eval(m[0]))), said)
        what = f"{clean(said[:1].lower() + said[1:])} at {where}"
        return self._error(line, self._index.last_before(line), what, expected)
