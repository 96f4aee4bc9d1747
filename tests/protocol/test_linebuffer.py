"""Lines out of bytes that come cut anywhere: against a model that splits the whole at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LineTooLong
from appliance.protocol.linebuffer import LineBuffer

TABLE = [
    (b"", []),
    (b"a", []),
    (b"a\n", [b"a"]),
    (b"a\r\n", [b"a"]),
    (b"\n\r\n", [b"", b""]),
    (b"a\r\r\n", [b"a\r"]),
    (b"a\rb\n", [b"a\rb"]),
    (b"\r\r\n\n", [b"\r", b""]),
    (b"a\r\nb\nc", [b"a", b"b"]),
    (b"\0\xff\r\n", [b"\0\xff"]),
]


def lines(buffer: LineBuffer) -> list[bytes]:
    out = []
    while (line := buffer.next_line()) is not None:
        out.append(line)
    return out


@pytest.mark.parametrize(("data", "expected"), TABLE)
@pytest.mark.parametrize("every", [1, 2, 100])
def test_lines(data: bytes, expected: list[bytes], every: int) -> None:
    buffer = LineBuffer(100)
    got = []
    for at in range(0, len(data), every):
        buffer.feed(data[at : at + every])
        got += lines(buffer)
    assert got == expected
    assert buffer.take() == data[len(data) - len(buffer) :] + data.rpartition(b"\n")[2]
    assert len(buffer) == 0


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"yy"]), max_size=40), st.integers(1, 7))
def test_cuts_do_not_matter(pieces: list[bytes], every: int) -> None:
    data = b"".join(pieces)
    buffer = LineBuffer(1000)
    got = []
    for at in range(0, len(data), every):
        buffer.feed(data[at : at + every])
        got += lines(buffer)
    whole = data.split(b"\n")
    assert got == [line.removesuffix(b"\r") for line in whole[:-1]]
    assert buffer.take() == whole[-1]


@pytest.mark.parametrize(
    ("data", "too_long"),
    [
        (b"x" * 10 + b"\n", False),
        (b"x" * 10 + b"\r\n", False),
        (b"x" * 10 + b"\r", False),  # half of its end may be missing yet
        (b"x" * 10, False),
        (b"x" * 11, True),
        (b"x" * 11 + b"\r", True),
        (b"x" * 11 + b"\r\n", True),
        (b"x" * 11 + b"\nok\n", True),
    ],
)
def test_the_limit(data: bytes, too_long: bool) -> None:
    buffer = LineBuffer(10)
    buffer.feed(data)
    if not too_long:
        buffer.next_line()
        return
    for _ in range(2):  # nothing has changed: it says so again
        with pytest.raises(LineTooLong):
            buffer.next_line()
    assert len(buffer) == len(data)


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_skipping_a_long_line_goes_on_behind_it(every: int) -> None:
    buffer = LineBuffer(10)
    data = b"y" * 500 + b"\r\nshort\r\n"
    got: list[bytes] = []
    skipping = False
    for at in range(0, len(data), every):
        buffer.feed(data[at : at + every])
        while True:
            if skipping and not buffer.skip_line():
                assert len(buffer) == 0  # a line without an end takes no memory
                break
            skipping = False
            try:
                line = buffer.next_line()
            except LineTooLong:
                skipping = True
                continue
            if line is None:
                break
            got.append(line)
    assert got == [b"short"]


def test_raw_bytes_between_lines() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"BDAT 5\r\nab\ncdNOOP\r\nrest")
    assert buffer.next_line() == b"BDAT 5"
    assert bytes(buffer.peek()) == b"ab\ncdNOOP\r\nrest"
    assert buffer.take(3) == b"ab\n"
    assert buffer.take(2) == b"cd"
    assert buffer.next_line() == b"NOOP"
    assert buffer.next_line() is None
    assert buffer.take(100) == b"rest"
    assert buffer.take() == b""


def test_clear_forgets_everything() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"one\r\nNOOP\r\nhalf")
    assert buffer.next_line() == b"one"
    buffer.clear()
    assert len(buffer) == 0
    buffer.feed(b"new\r\n")
    assert buffer.next_line() == b"new"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("feed"), st.binary(max_size=12)),
            st.tuples(st.just("line"), st.none()),
            st.tuples(st.just("take"), st.integers(0, 8)),
            st.tuples(st.just("skip"), st.none()),
        ),
        max_size=40,
    )
)
def test_any_order_of_calls_against_a_plain_bytes_object(calls: list[tuple[str, object]]) -> None:
    buffer, model = LineBuffer(1000), b""
    for name, value in calls:
        if name == "feed":
            assert isinstance(value, bytes)
            buffer.feed(value)
            model += value
        elif name == "line":
            line, newline, rest = model.partition(b"\n")
            assert buffer.next_line() == (line.removesuffix(b"\r") if newline else None)
            model = rest if newline else model
        elif name == "take":
            assert isinstance(value, int)
            assert buffer.take(value) == model[:value]
            model = model[value:]
        else:
            assert buffer.skip_line() == (b"\n" in model)
            model = model.partition(b"\n")[2]
        assert len(buffer) == len(model)
        assert bytes(buffer.peek()) == model
