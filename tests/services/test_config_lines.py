"""The line index against hand-written texts and against generated TOML, whose lines are known as it is written."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.faults import KeyPath
from appliance.config.lines import LineIndex

TABLE = [
    ("a = 1\nb = 2\n", {("a",): 1, ("b",): 2}),
    ("\n# no = 1\n  a = 1 # b = 2\n", {("a",): 3}),
    ("[t]\n\na = 1\n[u]\na = 2", {("t",): 1, ("t", "a"): 3, ("u",): 4, ("u", "a"): 5}),
    ("[a.b]\nc = 1\n[a]\nd = 2", {("a",): 3, ("a", "b"): 1, ("a", "b", "c"): 2, ("a", "d"): 4}),
    ("a.b.c = 1\na.d = 2", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1, ("a", "d"): 2}),
    (
        '[[u]]\nn = 1\n  [[u.a]]\n  p = "x"\n[[u.a]]\n[[u]]\n[[u.a]]\nq = 1\n[u.s]\nz = 1',
        {
            ("u",): 1,
            ("u", 0): 1,
            ("u", 0, "n"): 2,
            ("u", 0, "a"): 3,
            ("u", 0, "a", 0): 3,
            ("u", 0, "a", 0, "p"): 4,
            ("u", 0, "a", 1): 5,
            ("u", 1): 6,
            ("u", 1, "a"): 7,
            ("u", 1, "a", 0): 7,
            ("u", 1, "a", 0, "q"): 8,
            ("u", 1, "s"): 9,
            ("u", 1, "s", "z"): 10,
        },
    ),
    ('a = """\nb = 1\n\\"""\n""""\nc = 1', {("a",): 1, ("c",): 5}),
    ("a = '''\nb = '1'\n'''''\nc = 1", {("a",): 1, ("c",): 4}),
    (
        "a = [ # 1\n 1,\n\n [2, 3], # x\n]\nb=1",
        {("a",): 1, ("a", 0): 2, ("a", 1): 4, ("a", 1, 0): 4, ("a", 1, 1): 4, ("b",): 6},
    ),
    (
        "a = { x = 1, y.z = [\n1, { q = '}' }] }",
        {
            ("a",): 1,
            ("a", "x"): 1,
            ("a", "y"): 1,
            ("a", "y", "z"): 1,
            ("a", "y", "z", 0): 2,
            ("a", "y", "z", 1): 2,
            ("a", "y", "z", 1, "q"): 2,
        },
    ),
    ("\"a b\" = 1\n'c.d' . e = 2\n\"\\u00e9\" = 3", {("a b",): 1, ("c.d",): 2, ("c.d", "e"): 2, ("é",): 3}),
    ('a = 1979-05-27 07:32:00 # x\nb = "]"\nc = \'#\'', {("a",): 1, ("b",): 2, ("c",): 3}),
    ("", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), TABLE)
def test_lines(text: str, lines: dict[KeyPath, int]) -> None:
    tomllib.loads(text)  # the table is of TOML
    assert LineIndex(text).paths() == lines


def test_a_missing_key_has_its_tables_line() -> None:
    index = LineIndex("\n[[u]]\n[[u]]\nn = 1")
    assert index.line(("u", 1, "password")) == 3
    assert index.line(("u", 1, "n", 0)) == 4
    assert index.line(("nothing",)) == 1


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("a = 1\n[t]\nb = [1,\n2\nc = 3", 3, ("t", "b", 0)),
        ("a = 1\nb = \n", 2, ("b",)),
        ("= 3", 1, ()),
        ("[t]\nx = 1\n]", 3, ("t", "x")),
        ("[" * 50_000, 1, ()),
        ("a = " + "[" * 50_000, 1, None),
        ("a = '", 1, ("a",)),
        ('"\\q" = 1', 1, ()),
    ],
)
def test_a_broken_text_is_indexed_up_to_the_fault(text: str, line: int, path: KeyPath | None) -> None:
    found = LineIndex(text).last_before(line)
    assert found == path if path is not None else found[:1] == ("a",)


@given(st.text(alphabet="ab.=\"'[]{},#\n\\ 1", max_size=60))
def test_any_text_is_scanned(text: str) -> None:
    """Never an exception; and of what tomllib takes, every place."""
    index = LineIndex(text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(index.paths()) == set(places(data))


def places(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Every place in what tomllib made."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    out = [path] if path else []
    for key, below in pairs:
        out += places(below, (*path, key))
    return out


# Generated TOML

KEYS = st.text(alphabet="abz09-_", min_size=1, max_size=4) | st.sampled_from(["a b", "x.y", "é", "[k]", 'q"', "", "#"])
SCALARS = st.sampled_from(
    ["1", "-0.5", "true", '"s"', "'l'",
     '"#]}"', "'''\n[x]\n'''", '"""a\n""\\""" """', "1979-05-27 07:32:00", '""""x"""""', '""'],
)  # fmt: skip
VALUES = st.recursive(
    SCALARS.map(lambda s: ("scalar", s)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda v: ("array", v))
        | st.dictionaries(KEYS, inner, max_size=3).map(lambda v: ("inline", v))
    ),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3).map(lambda v: ("table", v)),
    lambda inner: st.dictionaries(
        KEYS, VALUES | inner | st.lists(inner, min_size=1, max_size=3).map(lambda v: ("tables", v)), max_size=3
    ).map(lambda v: ("table", v)),
    max_leaves=8,
)


class Writer:
    """Writes TOML and notes where each place went."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def note(self, path: KeyPath) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def some(self, *choices: str) -> None:
        self.text += self.draw(st.sampled_from(choices))

    def key(self, key: str) -> str:
        bare = key and all(c in "abz09-_" for c in key)
        return key if bare and self.draw(st.booleans()) else json.dumps(key)

    def table(self, body: dict[str, Any], path: KeyPath, header: list[str]) -> None:
        later = []
        for key, (kind, value) in body.items():
            if kind in ("table", "tables"):
                later.append((key, kind, value))
                continue
            self.some("", "\n", "  ", "# x = [\n", "\r\n")
            self.note((*path, key))
            self.text += self.key(key)
            self.some(" = ", "=", "\t= ")
            self.value(kind, value, (*path, key))
            self.some("\n", " # y\n", "\r\n")
        for key, kind, value in later:
            name = [*header, key]
            for i, (_, element) in enumerate(value if kind == "tables" else [(kind, value)]):
                self.some("", "\n", "  ")
                place = (*path, key)
                if i == 0:
                    self.note(place)
                if kind == "tables":
                    place = (*place, i)
                    self.note(place)
                dotted = ".".join(self.key(k) for k in name)
                self.text += f"[[{dotted}]]\n" if kind == "tables" else f"[ {dotted} ]\n"
                self.table(element, place, name)

    def value(self, kind: str, value: Any, path: KeyPath) -> None:
        if kind == "scalar":
            self.text += value
        elif kind == "array":
            self.text += "["
            for i, (its_kind, element) in enumerate(value):
                self.some("", "\n", " # ]\n ")
                self.note((*path, i))
                self.value(its_kind, element, (*path, i))
                self.some(",", "\n,", ", ") if i < len(value) - 1 else self.some("", ",", "\n")
            self.text += "]"
        else:
            self.text += "{"
            for i, (key, (its_kind, element)) in enumerate(value.items()):
                self.text += ", " if i else " "
                self.note((*path, key))
                self.text += f"{self.key(key)} = "
                self.value(its_kind, element, (*path, key))
            self.text += "}"


@given(st.data(), TABLES)
def test_generated(data: st.DataObject, tree: tuple[str, dict[str, Any]]) -> None:
    writer = Writer(data.draw)
    writer.table(tree[1], (), [])
    index = LineIndex(writer.text.replace("\r\n", "\n"))
    assert index.paths() == writer.lines
    assert set(writer.lines) == set(places(tomllib.loads(writer.text)))
