"""Nothing that comes from outside steers the terminal: what `safe` lets through is what a person sees."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.safe import SafeWriter, safe, speaks_utf8

HOSTILE = [
    ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("\x9b31m", "\\x9b31m"),
    ("over\rwritten", "over\\x0dwritten"),
    ("gone\x08\x08\x7f", "gone\\x08\\x08\\x7f"),
    ("user\u202egnp.exe", "user\\u202egnp.exe"),
    ("\u2066hidden\u2069", "\\u2066hidden\\u2069"),
    ("\u200b\ufeff", "\\u200b\\ufeff"),
    ("\U000e0041", "\\U000e0041"),
    ("\ud800", "\\ud800"),
    ("new\u2028line", "new\\u2028line"),
    ("form\x0cfeed\x0b", "form\\x0cfeed\\x0b"),
    ("\x00", "\\x00"),
    ("AT\x1bP+q544e\x1b\\", "AT\\x1bP+q544e\\x1b\\"),
    ("東京 Zürich\n", "東京 Zürich\n"),
    ("a\tb\n\tc", "a       b\n        c"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE, ids=[s for _, s in HOSTILE])
def test_hostile_text_is_shown_as_what_it_is(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_letters_are_shown_by_number_where_the_terminal_speaks_no_utf_8() -> None:
    assert safe("\u26db é a\n", ascii_only=True) == "\\u26db \\xe9 a\n"  # U+26DB is E2 9B 9B: twice an 8-bit CSI


@given(st.text())
def test_nothing_else_gets_through(text: str) -> None:
    assert all(c == "\n" or category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in safe(text))
    assert safe(text, ascii_only=True).isascii()


def test_a_verb_s_output_passes_it() -> None:
    out: list[str] = []
    writer = SafeWriter(out.append, ascii_only=False)
    print("\x1b[31mred", file=writer)
    assert "".join(out) == "\\x1b[31mred\n"


def test_the_locale_says_whether_the_terminal_speaks_utf_8() -> None:
    assert speaks_utf8({"LANG": "C.UTF-8"}) and speaks_utf8({"LC_ALL": "ja_JP.utf8", "LANG": "C"})
    assert not speaks_utf8({}) and not speaks_utf8({"LANG": "en_US.UTF-8", "LC_ALL": "C"})
