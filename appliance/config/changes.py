"""What one configuration has otherwise than another, place by place: for programs, as the diff is for people. Pure."""

from __future__ import annotations

from datetime import date, time
from typing import TYPE_CHECKING, Any

from appliance.config.faults import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["changes", "plain"]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{`path`, `before`, `after`} of each value that differs, None where there is none; `path` as `config set` takes
    it. Elements go by their names where all have one: what stands behind a removed one has not changed."""
    old, new = dict(_values("", before)), dict(_values("", after))
    return [
        {"path": path, "before": plain(old.get(path)), "after": plain(new.get(path))}
        for path in [*old, *(path for path in new if path not in old)]
        if old.get(path) != new.get(path) or type(old.get(path)) is not type(new.get(path))
    ]


def plain(value: Any) -> Any:
    """As JSON can have it: a candidate may have a date, which TOML has and no key takes; it becomes a string."""
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [plain(below) for below in value]
    return str(value) if isinstance(value, (date, time)) else value


def _values(path: str, at: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(at, dict) and at:
        for key, below in at.items():
            yield from _values(f"{path}.{show((key,))}" if path else show((key,)), below)
    elif isinstance(at, list) and at and all(isinstance(element, dict) for element in at):
        names = [element.get("name") for element in at]
        named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        for number, element in enumerate(at):
            yield from _values(f"{path}[{names[number] if named else number}]", element)
    elif path:
        yield path, at
