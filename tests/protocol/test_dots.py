"""Dot-stuffing both ways: exact at every cut, and nothing but CR LF . CR LF ends the data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.dots import Stuffer, Unstuffer

PIECES = st.lists(
    st.sampled_from([b".", b"..", b"\r\n", b"\r", b"\n", b"a", b"\r\n.", b".\r\n", b"\0", b"\xff"]), max_size=30
)


def cut(data: bytes, every: int) -> list[bytes]:
    return [data[i : i + every] for i in range(0, len(data), every)] or [b""]


def unstuff(wire: bytes, every: int) -> tuple[bytes, bytes, bool]:
    reader, out, rest = Unstuffer(), b"", b""
    for piece in cut(wire, every):
        if reader.ended:
            rest += piece
        else:
            out += reader.feed(piece)
            rest += reader.rest
    return out, rest, reader.ended


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"", b".\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.b\r\n..c\r\n", b"a\r\n..b\r\n...c\r\n.\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
        (b"a\n.b\r.c\r\n", b"a\n.b\r.c\r\n.\r\n"),
    ],
)
@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_stuffing(message: bytes, wire: bytes, every: int) -> None:
    stuffer = Stuffer()
    assert b"".join(stuffer.feed(p) for p in cut(message, every)) + stuffer.finish() == wire
    expected = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert unstuff(wire + b"QUIT\r\n", every) == (expected, b"QUIT\r\n", True)


@given(PIECES, st.integers(1, 7))
def test_round_trip_over_any_cut(pieces: list[bytes], every: int) -> None:
    message = b"".join(pieces)
    stuffer = Stuffer()
    wire = b"".join(stuffer.feed(p) for p in cut(message, every)) + stuffer.finish()
    expected = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert unstuff(wire, every) == (expected, b"", True)


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r\n.\r\r\n", b".\r\n"]
)
@pytest.mark.parametrize("every", [1, 100])
def test_no_other_end_of_data(end: bytes, every: int) -> None:
    assert unstuff(b"a" + end + b"MAIL FROM:<evil@example>\r\n", every)[2] is False
