"""Key paths as a person types them, and what may stand there: `user[0].account[1].port`, `user[hanako].password`.

An element of an array of tables may be named by its `name` in place of its number. What a path is of, and how its value
is written, says `schema`; a value is read as its kind wants it, so that words need no quotes.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from appliance.config.faults import KeyPath, Unfit, choice, nearest, quoted, show
from appliance.config.schema import ROOT, Table, Tables
from appliance.config.units import WORDS_OF_TOML, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.config.schema import Entry

__all__ = ["PathError", "entry_at", "parse", "read_value", "resolve"]

_PART: Final = re.compile(r"""(?:^|\.)(?:([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*"))|\[([^\[\]]*)\]""")


class PathError(Exception):
    """The text is no place of the configuration, or no value of it; says what is expected."""


def parse(text: str) -> tuple[str | int, ...]:
    """The parts; `[name]` is a text with `[` in front of it, for `resolve`. Raises PathError."""
    parts: list[str | int] = []
    at = 0
    while at < len(text):
        m = _PART.match(text, at)
        if m is None or (at == 0 and m[3] is not None):
            raise PathError(f"{quoted(text)} is no path; expected keys and numbers such as user[0].account[1].port")
        bare, in_quotes, element = m.groups()
        if element is not None:
            parts.append(int(element) if element.isascii() and element.isdigit() else f"[{element}")
        else:
            parts.append(bare or next(iter(_toml(in_quotes + " = 0", text))))
        at = m.end()
    return tuple(parts)


def resolve(text: str, data: Mapping[str, Any]) -> KeyPath:
    """The place that this text means in `data`. It need not be there, but a name in brackets must. Raises PathError."""
    at: Any = data
    out: list[str | int] = []
    for part in parse(text):
        key = part
        if isinstance(part, str) and part.startswith("["):
            names = [e.get("name") for e in at if isinstance(e, dict)] if isinstance(at, list) else []
            if part[1:] not in names:
                known = [str(n) for n in names if n]
                offer = f"; expected {choice(known)}" if known else ""
                raise PathError(f"{show(tuple(out))} has no {quoted(part[1:])}{offer}")
            key = names.index(part[1:])
        out.append(key)
        try:
            at = at[key]
        except (KeyError, IndexError, TypeError):
            at = None
    return tuple(out)


def entry_at(path: KeyPath) -> Entry:
    """What may stand at this place: of an element of an array what the element is. Raises PathError."""
    entry: Entry = ROOT
    for n, part in enumerate(path):
        here = show(path[:n])
        if isinstance(entry, Table) and isinstance(part, str):
            if part not in entry.entries:
                near = nearest(part, list(entry.entries))
                expected = quoted(near) if near else choice(sorted(entry.entries))
                raise PathError(f"{show(path[: n + 1])}: unknown key; expected {expected}")
            entry = entry.entries[part]
        elif isinstance(entry, Tables) and isinstance(part, int):
            entry = entry.each
        elif isinstance(entry, Kind) and entry.array and isinstance(part, int):
            entry = entry._replace(array=False)
        elif isinstance(entry, Kind) and entry.takes == (dict,) and isinstance(part, str):
            entry = Kind((str,), str, "text")  # services of a device: their names are the person's own
        elif isinstance(entry, Tables):
            raise PathError(f"{show(path)}: {here} are tables; expected a number, such as {here}[0]")
        else:
            raise PathError(f"{show(path)}: nothing is below {here}")
    return entry


def read_value(text: str, path: KeyPath) -> object:
    """What `text` means at this place, as tomllib would have it. Words need no quotes, and a single value will do for
    an array. Raises PathError for a place that takes no value, and for a value that is none of its kind."""
    entry = entry_at(path)
    if not isinstance(entry, Kind):
        raise PathError(f"{show(path)} is a table; set one of its keys: {choice(sorted(_keys(entry)))}")
    try:
        if not entry.array:
            value = _scalar(text, entry)
            _check(entry, value)
            return value
        values = _toml("x = " + text, text)["x"] if text.lstrip().startswith("[") else [_scalar(text, entry)]
        for one in values:
            _check(entry, one)
    except Unfit as unfit:
        raise PathError(f"{show(path)}: {unfit.what}; expected {unfit.expected or entry.expected}") from None
    return values


def _keys(entry: Table | Tables) -> list[str]:
    return list((entry.each if isinstance(entry, Tables) else entry).entries)


def _scalar(text: str, kind: Kind) -> object:
    stripped = text.strip()
    if bool in kind.takes:
        if stripped not in ("true", "false"):
            raise Unfit(f"is {quoted(text)}", "true or false")
        return stripped == "true"
    if int in kind.takes and re.fullmatch(r"[+-]?[0-9]+", stripped):
        return int(stripped)
    if dict in kind.takes:
        return _toml("x = " + text, text)["x"]
    if str in kind.takes:
        return _toml("x = " + text, text)["x"] if re.fullmatch(r'".*"|\'.*\'', stripped) else text
    raise Unfit(f"is {quoted(text)}")


def _check(kind: Kind, value: object) -> None:
    if type(value) not in kind.takes:
        raise Unfit(f"is {WORDS_OF_TOML.get(type(value), 'a date or time')}")
    if not (kind.relative or kind.secret):
        kind.read(value)


def _toml(line: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(line)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        raise PathError(f"{quoted(text)} is no value; expected TOML 1.0") from None
