"""The control socket's words: objects out, the same objects in; everything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.control import Decoder, encode
from appliance.protocol.errors import RemoteProtocolError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4), st.integers(1, 20))
def test_what_goes_in_comes_out(messages: list[dict[str, Any]], every: int) -> None:
    data = b"".join(encode(m) for m in messages)
    assert data.count(b"\n") == len(messages)  # an object is a line, whatever its strings hold
    decoder = Decoder(1 << 20)
    got = []
    for at in range(0, len(data), every):
        decoder.feed(data[at : at + every])
        while (message := decoder.next()) is not None:
            got.append(message)
    assert got == [json.loads(json.dumps(m)) for m in messages]


def test_text_that_is_no_utf8_goes_through() -> None:
    """An argument of the command line may hold any bytes (PEP 383)."""
    decoder = Decoder(1000)
    decoder.feed(encode({"id": "x\udcff"}))
    assert decoder.next() == {"id": "x?"}


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"hello\n", b"[]\n", b"7\n", b'"x"\n', b"null\n", b"{\n", b'{"a":}\n', b"\xff\xfe\n", b"{}{}\n",
        b"[" * 60_000 + b"\n", b'{"a":' * 10_000 + b"\n", b'{"a":' + b"1" * 6000 + b"}\n",
    ],
)  # fmt: skip
def test_garbage_is_refused(line: bytes) -> None:
    decoder = Decoder(64 * 1024)
    decoder.feed(line)
    with pytest.raises(RemoteProtocolError):
        decoder.next()


def test_a_long_line_is_refused_before_its_end() -> None:
    decoder = Decoder(1000)
    decoder.feed(b"{" + b" " * 999)
    assert decoder.next() is None
    decoder.feed(b"  ")
    with pytest.raises(RemoteProtocolError):
        decoder.next()


@given(st.binary(max_size=200))
def test_bytes_are_an_object_or_refused(data: bytes) -> None:
    decoder = Decoder(100)
    decoder.feed(data)
    try:
        while (message := decoder.next()) is not None:
            assert isinstance(message, dict)
    except RemoteProtocolError:
        pass
