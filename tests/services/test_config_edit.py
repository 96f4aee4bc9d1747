"""Edits of one place in a TOML text: what they change, and that all else stays to the byte."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.edit import EditError, deleted, with_value, written
from appliance.config.faults import show

TEXT = """\
# The harbour's gateway.
[site]
name = "harbour"     # as the relay servers know it
domain = "harbour.example"

[[line]]
name = "pstn"
numbers = [
    "0570000111",   # the nearer one
    "0570000222",
]

# ---- people

[[user]]
name = "hanako"
addresses = ["hanako@harbour.example"]
  [[user.account]]
  host = "mail.isp.example"
  login = "hanako"
# hanako's is the first

[[user]]
name = "taro"

# ---- how often
[schedule]
every = "2h"
"""


def changed(before: str, after: str) -> list[str]:
    """The lines that went, and those that came, with `-` and `+`."""
    import difflib

    diff = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in diff if line[0] in "+-"]


@pytest.mark.parametrize(
    ("path", "value", "lines"),
    [
        (("site", "name"), "port", ['- name = "harbour"     # as the relay servers know it',
                                    '+ name = "port"     # as the relay servers know it']),
        (("site", "timezone"), "Asia/Tokyo", ['+ timezone = "Asia/Tokyo"']),
        (("line", 0, "numbers", 1), "117", ['-     "0570000222",', '+     "117",']),
        (("line", 0, "numbers", 2), "118", ['-     "0570000222",', '+     "0570000222", "118",']),
        (("line", 0, "attempts"), 5, ["+ attempts = 5"]),
        (("user", 0, "quota"), "1GiB", ['+ quota = "1GiB"']),
        (("user", 0, "account", 0, "port"), 993, ["+   port = 993"]),
        (("user", 1, "account", 0, "host"), "h", ["+ ", "+ [[user.account]]", '+ host = "h"']),
        (("user", 0, "account", 1, "host"), "h", ["+ ", "+ [[user.account]]", '+ host = "h"']),
        (("user", 2, "name"), "yuki", ["+ ", "+ [[user]]", '+ name = "yuki"']),
        (("line", 1, "name"), "gsm", ["+ ", "+ [[line]]", '+ name = "gsm"']),
        (("mail", "imap"), True, ["+ ", "+ [mail]", "+ imap = true"]),
        (("mail", "smarthost", 0, "host"), "h", ["+ ", "+ [[mail.smarthost]]", '+ host = "h"']),
        (("schedule", "at"), ["07:30", "18:00"], ['+ at = ["07:30", "18:00"]']),
    ],
    ids=lambda v: show(v) if isinstance(v, tuple) else "",
)  # fmt: skip
def test_a_value_is_set_and_nothing_else_changes(path: Any, value: Any, lines: list[str]) -> None:
    after = with_value(TEXT, path, value)
    assert sorted(changed(TEXT, after)) == sorted(lines)
    assert "\n\n\n" not in after


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (("site", "domain"), ['- domain = "harbour.example"']),
        (("line", 0, "numbers", 0), ['-     "0570000111",   # the nearer one', "+     # the nearer one"]),
        (("line", 0, "numbers"), ["- numbers = [", '-     "0570000111",   # the nearer one', '-     "0570000222",', "- ]"]),
        (("user", 0, "addresses", 0), ['- addresses = ["hanako@harbour.example"]', "+ addresses = []"]),
        (("user", 0, "account", 0), ["-   [[user.account]]", '-   host = "mail.isp.example"', '-   login = "hanako"']),
        (("user", 1), ["- [[user]]", '- name = "taro"', "- "]),
        (("schedule",), ["- [schedule]", '- every = "2h"']),
    ],
    ids=lambda v: show(v) if isinstance(v, tuple) else "",
)  # fmt: skip
def test_what_is_deleted_goes_and_nothing_else(path: Any, lines: list[str]) -> None:
    after = deleted(TEXT, path)
    assert sorted(changed(TEXT, after)) == sorted(lines)
    assert "\n\n\n" not in after


def test_users_come_and_go_and_leave_the_text_as_it_was() -> None:
    after = TEXT
    for i, name in enumerate(("yuki", "ken", "mari")):
        after = with_value(after, ("user", 2 + i, "name"), name)
        after = with_value(after, ("user", 2 + i, "account", 0, "host"), "h")
    assert "# ---- people" in after and after.count("[[user]]") == 5
    for _ in range(3):
        after = deleted(after, ("user", 2))
    assert after == TEXT


def test_tables_in_other_shapes() -> None:
    inline = 'a = { b = 1, c = "x" }\nsite.name = "n"\n'
    assert with_value(inline, ("a", "d"), True) == 'a = { b = 1, c = "x", d = true }\nsite.name = "n"\n'
    assert with_value(inline, ("a", "b"), 2) == 'a = { b = 2, c = "x" }\nsite.name = "n"\n'
    assert deleted(inline, ("a", "b")) == 'a = { c = "x" }\nsite.name = "n"\n'
    assert deleted(inline, ("a", "c")) == 'a = { b = 1 }\nsite.name = "n"\n'
    assert with_value(inline, ("site", "domain"), "d") == inline + 'site.domain = "d"\n'
    assert deleted(inline, ("site",)) == 'a = { b = 1, c = "x" }\n'
    assert with_value("", ("site", "name"), "n") == '[site]\nname = "n"\n'
    assert with_value("[a]\nx = 1", ("a", "y"), 2) == "[a]\nx = 1\ny = 2\n"
    assert with_value("e = {}\n", ("e", "x"), 1) == "e = { x = 1 }\n"
    assert with_value("[a.b]\nx = 1\n", ("a", "y"), 2) == "[a.b]\nx = 1\n\n[a]\ny = 2\n"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("user", 5, "name"), "user has 2 elements; the next one is [2]"),
        (("line", 0, "numbers", 7), "line[0].numbers has 2 elements; the next one is [2]"),
        (("site", "name", "x"), "site.name is no table"),
    ],
)
def test_what_can_not_be_set_says_why(path: Any, text: str) -> None:
    with pytest.raises(EditError) as refused:
        with_value(TEXT, path, "x")
    assert str(refused.value) == text


def test_what_is_not_there_can_not_be_deleted() -> None:
    for path in (("site", "x"), ("user", 2), ("user", 0, "name", 0), ("nothing",)):
        with pytest.raises(EditError, match="is not set"):
            deleted(TEXT, path)


VALUES = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.lists(st.text(max_size=5), max_size=4),
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
)  # fmt: skip


@given(VALUES)
def test_every_value_is_read_again_as_it_was_written(value: Any) -> None:
    if isinstance(value, str) and any(0xD800 <= ord(c) < 0xE000 for c in value):
        return
    assert tomllib.loads("x = " + written(value))["x"] == value


KEYS = st.sampled_from(["name", "host", "port", "x y", "each"])
TABLES = st.dictionaries(KEYS, VALUES, max_size=3)


def _document(draw: st.DrawFn) -> str:
    out = ["# top\n"]
    for name in ("site", "user", "user.account", "mail", "mail.extra"):
        for _ in range(draw(st.integers(0, 2))):
            many = name.startswith("user")
            if (not many and f"[{name}]\n" in out) or (name == "user.account" and "[[user]]\n" not in out):
                continue
            out.append(draw(st.sampled_from(["", "\n", "\n# about\n"])))
            out.append(f"[[{name}]]\n" if many else f"[{name}]\n")
            for key, value in draw(TABLES).items():
                out.append(f"{draw(st.sampled_from(['', '  ']))}{written(key)} = {written(value)}  # {key}\n")
    return "".join(out)


KEY = st.sampled_from(["name", "host", "each", "new key"])
NUMBER = st.integers(0, 2)
PATHS = st.one_of(
    st.tuples(st.just("site"), KEY),
    st.tuples(st.just("user"), NUMBER, KEY),
    st.tuples(st.just("user"), NUMBER, st.just("account"), NUMBER, KEY),
    st.tuples(st.just("user"), NUMBER, st.just("account"), NUMBER),
    st.tuples(st.just("user"), NUMBER),
    st.tuples(st.sampled_from(["site", "user", "mail", "new"])),
    st.tuples(st.just("mail"), KEY),
    st.tuples(st.just("mail"), st.just("extra"), KEY),
)


@settings(max_examples=300, deadline=None)
@given(st.composite(_document)(), PATHS, VALUES)
def test_random_edits_do_what_they_should_or_refuse(text: str, path: Any, value: Any) -> None:
    """That an edit is right, it checks itself; here: it is not refused where it could be done, and keeps comments."""
    acts = [lambda: deleted(text, path)]
    if isinstance(path[-1], str) and len(path) > 1:
        acts.append(lambda: with_value(text, path, value))
    for act in acts:
        try:
            after = act()
        except EditError as refused:
            assert re.search("is not set|the next one is|is no table", str(refused)), refused
            continue
        assert "# top\n" in after
        if isinstance(path[-1], str) and len(path) > 1:  # a table goes with the comments between its parts
            assert after.count("# about\n") == text.count("# about\n")
