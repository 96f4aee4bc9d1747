"""Places of the configuration as they are typed, and what may be written there: what completion offers. Pure; the
schema knows which places there are, the candidate how many elements an array has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from appliance.config.keypath import PathError, entry_at, resolve
from appliance.config.schema import ROOT, Table, Tables
from appliance.config.units import Kind
from appliance.console.parse import Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from appliance.config.schema import Entry

__all__ = ["joined", "places", "takes_open_value", "values"]


def joined(context: str, path: str) -> str:
    """A path that counts from `context`, whole. What completion leaves open at its end (`mail.`, `user[`) is closed."""
    path = path.rstrip(".[")
    return context + ("." if context and path and not path.startswith("[") else "") + path


def takes_open_value(path: str, context: str, data: Mapping[str, Any]) -> bool:
    """Whether a value stands there which is no secret and names none. Raises nothing."""
    try:
        whole = resolve(joined(context, path), data)
        kind = entry_at(whole)
    except PathError:
        return False
    return isinstance(kind, Kind) and not kind.secret and "password" not in whole


def places(begun: str, context: str, data: Mapping[str, Any]) -> list[Choice]:
    """How a path that has begun so can go on: `mail.` and `user[` where more must follow. Raises nothing."""
    m = re.fullmatch(r"(.*?)([.\[]?)([^.\[\]]*)", begun, re.DOTALL)
    assert m is not None
    head, mark, begins = m.groups()
    if head.endswith("]") and not mark and begins:
        return []
    whole = joined(context, head)
    try:
        place = resolve(whole, data)
        entry: Entry = entry_at(place) if place else ROOT
    except PathError:
        return []
    if mark == "[":
        array = isinstance(entry, Tables) or (isinstance(entry, Kind) and entry.array)
        return list(_elements(head, begins, _at(data, place), entry)) if array else []
    if not isinstance(entry, Table):
        return []
    stem = f"{head}." if head else ""
    return [_key(stem + key, below) for key, below in entry.entries.items() if key.startswith(begins)]


def values(begun: str, path: str, context: str, data: Mapping[str, Any]) -> list[Choice]:
    """What may be written at a place: how it is written, and the words that it can be."""
    try:
        kind = entry_at(resolve(joined(context, path), data))
    except PathError as error:
        return [Choice("(wrong)", str(error), "")]
    if not isinstance(kind, Kind):
        return [Choice("(wrong)", "a table: set one of its keys", "")]
    words = re.findall(r'"([a-z-]+)"', kind.expected) if kind.expected.startswith('"') else []
    words = ["true", "false"] if bool in kind.takes else words
    offered = [Choice(word, "", word) for word in words if word.startswith(begun)]
    return [Choice("VALUE", kind.expected, ""), *offered]


def _key(typed: str, entry: Entry) -> Choice:
    match entry:
        case Table():
            return Choice(f"{typed}.", "", f"{typed}.")
        case Tables():
            return Choice(f"{typed}[", "", f"{typed}[")
        case Kind():
            return Choice(typed, f"{'several: ' if entry.array else ''}{entry.expected}", typed)


def _elements(head: str, begins: str, found: Any, entry: Entry) -> Iterable[Choice]:
    """Those that there are, by name or else by number, and the next one."""
    elements = found if isinstance(found, list) else []
    end = "]." if isinstance(entry, Tables) else "]"
    for number, element in enumerate([*elements, None]):
        name = str(element.get("name", number)) if isinstance(element, dict) else str(number)
        if name.startswith(begins):
            typed = f"{head}[{name}{end}"
            yield Choice(typed, "a new one" if element is None else "", typed)


def _at(data: Any, place: Iterable[str | int]) -> Any:
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data
