"""The journal's lines: torn at every byte, damaged at every byte, whatever the records hold."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.storage.journal import decode, encode, replay

RECORDS: list[dict[str, Any]] = [
    {"id": "a", "n": 1},
    {"text": "line\nend\r\n", "ü": "花子\u2028", "nested": {"x": [1, 2.5, None, True]}},
    {},
    {"empty": ""},
]
SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]))


def ends(records: list[dict[str, Any]]) -> list[int]:
    """Where each line ends in the file."""
    return [len(encode(records[:n])) for n in range(len(records) + 1)]


def test_a_line_is_its_sum_and_json_for_a_person_to_read() -> None:
    line = encode([{"id": "x", "to": "ä"}])
    assert line.endswith(b"\n")
    assert json.loads(line[9:]) == {"id": "x", "to": "ä"}
    assert line[:9] == b"%08x " % zlib.crc32(line[9:-1])
    assert "ä".encode() in line


def test_torn_at_every_byte(tmp_path: Path) -> None:
    data, boundaries = encode(RECORDS), ends(RECORDS)
    for cut in range(len(data) + 1):
        whole = max(n for n, end in enumerate(boundaries) if end <= cut)
        got = decode(data[:cut])
        assert got.records == RECORDS[:whole]
        assert got.good_bytes == boundaries[whole]
        assert got.torn == (cut not in boundaries)


@pytest.mark.parametrize("how", ["zero", "flip"])
def test_damaged_at_every_byte(how: str) -> None:
    """Everything in front of the damage is there, nothing behind it is believed."""
    data, boundaries = encode(RECORDS), ends(RECORDS)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] = 0 if how == "zero" else damaged[at] ^ 0x01
        got = decode(bytes(damaged))
        intact = max(n for n, end in enumerate(boundaries) if end <= at)
        assert got.records == RECORDS[:intact]
        assert got.good_bytes == boundaries[intact]
        assert got.torn


def test_zeros_behind_the_end_are_torn() -> None:
    """As a power cut leaves them, where the length was written and the bytes were not."""
    data = encode(RECORDS)
    got = decode(data + b"\0" * 100)
    assert (got.records, got.good_bytes, got.torn) == (RECORDS, len(data), True)


@pytest.mark.parametrize("line", [b"[]", b"7", b'"x"', b"null", b"{", b"\xff"])
def test_a_right_sum_over_something_else_is_no_record(line: bytes) -> None:
    assert decode(b"%08x %b\n" % (zlib.crc32(line), line)).torn


def test_appending_behind_the_good_bytes_makes_it_whole_again() -> None:
    torn = encode(RECORDS)[:-3]
    good = decode(torn).good_bytes
    again = decode(torn[:good] + encode(RECORDS[-1:]))
    assert (again.records, again.torn) == (RECORDS, False)


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), SCALARS, max_size=4), max_size=5))
def test_what_goes_in_comes_out(records: list[dict[str, Any]]) -> None:
    data = encode(records)
    got = decode(data)
    assert (got.records, got.good_bytes, got.torn) == (records, len(data), False)


@given(st.binary(max_size=200))
def test_garbage_is_no_record(data: bytes) -> None:
    got = decode(data)
    assert got.records == []
    assert (got.good_bytes, got.torn) == (0, bool(data))


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    got = replay(tmp_path / "empty")
    assert (got.records, got.good_bytes, got.torn) == ([], 0, False)
    (tmp_path / "some").write_bytes(encode(RECORDS))
    assert replay(tmp_path / "some").records == RECORDS
