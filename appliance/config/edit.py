"""Changes one place of a TOML text and leaves all others as they are: comments, order, layout, to the byte.

It owns the text and knows nothing of what it configures. A key's value is put in the place of the old one; a new key
comes behind the last of its table, a new table behind the last of its kind or of the table that it belongs to, with a
blank line before it. What is removed goes in whole lines, and the blank lines about it become one.

Every result is read again by tomllib and must be the old data with that one change, or the edit is refused: what can't
be edited by path is left to a person.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from appliance.config.faults import show
from appliance.config.lines import LineIndex

if TYPE_CHECKING:
    from appliance.config.faults import KeyPath

__all__ = ["EditError", "deleted", "with_value", "written"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class EditError(Exception):
    """It can't be done; says why."""


def with_value(text: str, path: KeyPath, value: object) -> str:
    """`text` with this value there, made where it is not. Elements are made one behind the last. Raises EditError."""
    wanted = tomllib.loads(text)
    _put(wanted, path, value)
    edit = _Edit(text)
    edit.set(path, value)
    return edit.checked(wanted, path)


def deleted(text: str, path: KeyPath) -> str:
    """`text` without what is there: a key, an element, a table with all below it. Raises EditError."""
    wanted = tomllib.loads(text)
    _remove(wanted, path)
    edit = _Edit(text)
    edit.delete(path)
    return edit.checked(wanted, path)


def written(value: object) -> str:
    """A value as TOML has it on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{_key(k)} = {written(v)}" for k, v in value.items()) + " }" if value else "{}"
    raise EditError(f"{value!r} is no value")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else written(key)


def _header(table: KeyPath) -> str:
    names = ".".join(_key(p) for p in table if isinstance(p, str))
    return f"[[{names}]]" if isinstance(table[-1], int) else f"[{names}]"


# ---- what the data shall be
def _put(data: Any, path: KeyPath, value: object) -> None:
    for n, part in enumerate(path):
        last = n == len(path) - 1
        new: Any = value if last else [] if isinstance(path[n + 1], int) else {}
        if isinstance(part, int):
            if not isinstance(data, list) or part > len(data):
                count = len(data) if isinstance(data, list) else 0
                raise EditError(f"{show(path[:n])} has {count} elements; the next one is [{count}]")
            if part == len(data):
                data.append(new)
        elif not isinstance(data, dict):
            raise EditError(f"{show(path[:n])} is no table")
        if last:
            data[part] = value
        elif isinstance(part, str):
            data.setdefault(part, new)
        data = data[part]


def _remove(data: Any, path: KeyPath) -> None:
    try:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]
    except (KeyError, IndexError, TypeError):
        raise EditError(f"{show(path)} is not set") from None


class _Edit:
    """One change of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._index = LineIndex(text)

    def checked(self, wanted: object, path: KeyPath) -> str:
        try:
            fits = _pruned(tomllib.loads(self.text)) == _pruned(wanted)
        except tomllib.TOMLDecodeError:
            fits = False
        if not fits:
            raise EditError(f"{show(path)} can't be changed by its path as the file is written; edit the file")
        return self.text

    # ---- set
    def set(self, path: KeyPath, value: object) -> None:
        index = self._index
        if path in index.values:
            self._replace(*index.values[path], written(value))
        elif isinstance(path[-1], int):
            self._append_element(path, value)
        else:
            self._add_key(path, value)

    def _append_element(self, path: KeyPath, value: object) -> None:
        array, number = path[:-1], path[-1]
        if array not in self._index.values:
            self.set(array, [value])
            return
        start, end = self._index.values[array]
        assert isinstance(number, int)
        if number == 0:
            self._replace(start, end, f"[{written(value)}]")
        else:
            before = self._index.values[*array, number - 1][1]
            self._replace(before, before, f", {written(value)}")

    def _add_key(self, path: KeyPath, value: object) -> None:
        table, key = path[:-1], path[-1]
        assert isinstance(key, str)
        if table in self._index.values:  # an inline table
            start, end = self._index.values[table]
            inside = [p for p in self._index.pairs if p.table == table and p.inline]
            at = inside[-1].end if inside else start + 1
            pair = f"{_key(key)} = {written(value)}"
            self._replace(at, at, f", {pair}" if inside else f" {pair} " if end - start == 2 else f" {pair}")
            return
        section = next((s for s in self._index.sections if s.path == table), None)
        dotted = [p for p in self._index.pairs if not p.inline and p.path[: len(table)] == table and p.table != table]
        line = f"{_key(key)} = {written(value)}"
        if section is None and dotted and len(dotted[-1].table) < len(table):  # its keys stand as `table.key = …`
            prefix = ".".join(_key(str(p)) for p in table[len(dotted[-1].table) :])
            self._add_line(dotted[-1].end, dotted[-1].start, f"{prefix}.{line}")
            return
        own = [p for p in self._index.pairs if p.table == table and not p.inline]
        if own:
            self._add_line(own[-1].end, own[-1].start, line)
        elif section is not None:
            self._add_line(section.end, section.start, line)
        elif not table:
            self._replace(0, 0, f"{line}\n" + ("\n" if self.text and not self.text.startswith("\n") else ""))
        else:
            self._add_section(table, line)

    def _add_line(self, behind: int, like: int, line: str) -> None:
        """A line of its own below the one that ends at or after `behind`, indented as the one with `like`."""
        indent = re.match(r"[ \t]*", self.text[self._line_start(like) :])
        at = self._line_end(behind)
        new = (indent[0] if indent else "") + line + "\n"
        self._replace(at, at, new if self.text[:at].endswith("\n") or not at else "\n" + new)

    def _add_section(self, table: KeyPath, line: str) -> None:
        there = {s.path for s in self._index.sections}
        elements = [table[:n] for n in range(1, len(table)) if isinstance(table[n - 1], int)]
        header = "\n".join(_header(t) + "\n" for t in elements if t not in there) + _header(table)
        family = table[:-1]
        group: list[int] = []
        while not group and family:
            group = self._ends_of(family)
            family = family[:-1]
        at = self._group_end(max(group)) if group else len(self.text)
        before, behind = self.text[:at], self.text[at:]
        gap = "" if not before or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"
        after = "\n" if behind and not behind.startswith("\n") else ""
        self._replace(at, at, f"{gap}{header}\n{line}\n{after}")

    def _ends_of(self, family: KeyPath) -> list[int]:
        """Where what belongs to this table ends: its headers and pairs, and those of all below it."""
        ends = [s.end for s in self._index.sections if s.path[: len(family)] == family]
        return ends + [p.end for p in self._index.pairs if p.path[: len(family)] == family]

    def _group_end(self, end: int) -> int:
        """Behind the line that ends a table, and the comments that hang on to it: a comment right above the next header
        is that one's."""
        at = self._line_end(end)
        comments = re.compile(r"(?:[ \t]*#[^\n]*\n)+(?=\s*(?:\n|\Z))").match(self.text, at)
        return comments.end() if comments else at

    # ---- delete
    def delete(self, path: KeyPath) -> None:
        pair = next((p for p in self._index.pairs if p.path == path), None)
        if pair is not None and not pair.inline:
            self._cut_lines([(pair.start, pair.end)])
        elif path in self._index.values or pair is not None:
            self._cut_element(*((pair.start, pair.end) if pair else self._index.values[path]))
        else:
            below = len(path)
            spans = [(s.start, s.end) for s in self._index.sections if s.path[:below] == path]
            pairs = [p for p in self._index.pairs if not p.inline and p.path[:below] == path]
            self._cut_lines(sorted([*spans, *((p.start, p.end) for p in pairs)]))

    def _cut_lines(self, spans: list[tuple[int, int]]) -> None:
        """The lines of these, with what stands between two that follow each other in one table's text."""
        starts = [s.start for s in self._index.sections] + [p.start for p in self._index.pairs if not p.inline]
        blocks: list[tuple[int, int]] = []
        for start, end in spans:
            begin, stop = self._line_start(start), self._line_end(end)
            if blocks and not any(blocks[-1][1] <= s < begin for s in starts):
                blocks[-1] = (blocks[-1][0], stop)
            else:
                blocks.append((begin, stop))
        for begin, stop in reversed(blocks):
            before, behind = self.text[:begin], self.text[stop:]
            if before.endswith("\n\n") or not before:
                behind = behind.removeprefix("\n") if behind.startswith("\n") else behind
            if not behind:
                before = before.rstrip("\n") + "\n" if before.strip() else ""
            self.text = before + behind

    def _cut_element(self, start: int, end: int) -> None:
        """Of an array or an inline table, with the comma that it needs no more."""
        if behind := re.compile(r"[ \t]*,[ \t]*").match(self.text, end):
            self._replace(start, behind.end(), "")
        elif before := re.compile(r",\s*\Z").search(self.text[:start]):
            self._replace(before.start(), end, "")
        else:
            self._replace(start, end, "")

    # ---- the text
    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        """Behind the line's LF, or the text's end."""
        end = self.text.find("\n", at)
        return len(self.text) if end < 0 else end + 1

    def _replace(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]


def _pruned(data: Any) -> Any:
    """Without tables and arrays that are empty: TOML has no words for an array of no tables, and an empty table
    configures nothing."""
    if isinstance(data, dict):
        below = {k: _pruned(v) for k, v in copy.copy(data).items()}
        return {k: v for k, v in below.items() if v != {} and v != []}
    if isinstance(data, list):
        return [_pruned(e) for e in data]
    return data
