"""`events.clean`: nothing that it lets through moves a cursor, turns the writing around or hides."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.events import clean

# Written down here by themselves (Unicode 15: general categories, Default_Ignorable_Code_Point, Bidi_Control).
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ZERO_WIDTH = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180e\u200b\u200c\u200d\u2060\u2064\u3164\ufe0f\ufeff\uffa0"
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
OTHERS = "\x00\x07\x08\x1b\x7f\x90\x9b\x9d\ud800\ue000\ufff9\U000e0001\U000e007f\U000e0100"

texts = st.text(st.one_of(st.characters(), st.sampled_from(BIDIRECTIONAL + ZERO_WIDTH + BREAKS + OTHERS)))


@given(texts, st.integers(1, 60))
def test_what_comes_out_can_be_shown(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert not set(shown) & set(BIDIRECTIONAL + ZERO_WIDTH + BREAKS + OTHERS)
    assert all(unicodedata.category(c)[0] in "LMNPS" or unicodedata.category(c) == "Zs" for c in shown)
    assert len(f"<{shown}>".splitlines()) == 1
    shown.encode("utf-8")
    assert clean(shown, limit) == shown


@given(texts)
def test_each_character_stays_in_its_place(text: str) -> None:
    """None is left out: two different names do not become one that somebody trusts, but for what is banned."""
    shown = clean(text, 10_000)
    assert len(shown) == len(text)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))


@given(st.binary(max_size=80))
def test_bytes_are_text_too(data: bytes) -> None:
    assert clean(data) == clean(data.decode("utf-8", "replace"))


@pytest.mark.parametrize("text", ["", " ", "hanako@harbour.example", "受付 café Ünal Ελλάδα שלום", "a b\u3000c", "👍"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\ufffd]0;owned\ufffd"),
        ("\x9b2J", "\ufffd2J"),
        ("pc\u202e12cp", "pc\ufffd12cp"),
        ("pay\u200bpal", "pay\ufffdpal"),
        (b"RING\r\n", "RING\ufffd\ufffd"),
        (b"\xff\xfeA", "\ufffd\ufffdA"),
        ("x" * 501, "x" * 499 + "…"),
        (None, "None"),
        (12, "12"),
    ],
)
def test_what_is_not_is_replaced(text: object, shown: str) -> None:
    assert clean(text) == shown
