"""The header of a message on its way in: what is read of it, and that nothing in it can do harm."""

from __future__ import annotations

import time
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail.envelope import Priority
from appliance.mail.header import MAX_HEADER, MAX_MESSAGE_ID, Header, HeaderGatherer, priority_of_number, received_field


def read(data: bytes, every: int = 0) -> Header:
    gatherer = HeaderGatherer()
    for at in range(0, len(data), every or len(data) or 1):
        if gatherer.feed(data[at : at + every] if every else data):
            break
    return gatherer.read()


def fields(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", "Priority: urgent", "body"]).encode()


PRIORITIES = [
    ("Priority: urgent", Priority.URGENT),
    ("PRIORITY:   Urgent  ", Priority.URGENT),
    ("Priority: non-urgent", Priority.NON_URGENT),
    ("Priority: normal", Priority.NORMAL),
    ("X-Priority: 1 (Highest)", Priority.URGENT),
    ("X-Priority: 1", Priority.URGENT),
    ("X-Priority: 2 (High)", Priority.URGENT),
    ("X-Priority: 3", Priority.NORMAL),
    ("X-Priority: 5 (Lowest)", Priority.NORMAL),
    ("X-Priority: 10", Priority.NORMAL),
    ("Importance: high", Priority.URGENT),
    ("importance: HIGH", Priority.URGENT),
    ("Importance: low", Priority.NORMAL),
    ("MT-Priority: 4", Priority.URGENT),
    ("MT-Priority: -1", Priority.NON_URGENT),
    ("MT-Priority: 0", Priority.NORMAL),
    ("MT-Priority: x", Priority.NORMAL),
    ("MT-Priority: ²", Priority.NORMAL),
    ("MT-Priority: --1", Priority.NORMAL),
    ("MT-Priority: " + "9" * 6000, Priority.NORMAL),
    ("X-Priority:", Priority.NORMAL),
    ("Priority:\r\n urgent", Priority.URGENT),
    ("Priority: non-urgent\r\nX-Priority: 1", Priority.NON_URGENT),
    ("X-Priority: 1\r\nPriority: normal", Priority.NORMAL),
    ("X-Not-Priority: 1", Priority.NORMAL),
    ("Subject: Priority: urgent", Priority.NORMAL),
]


@pytest.mark.parametrize(("line", "priority"), PRIORITIES)
def test_priority(line: str, priority: Priority) -> None:
    assert read(fields("From: a@b.example", line, "Subject: x")).priority is priority


@pytest.mark.parametrize(("number", "priority"), [(-9, "non-urgent"), (-1, "non-urgent"), (0, "normal"), (9, "urgent")])
def test_priority_of_number(number: int, priority: str) -> None:
    assert priority_of_number(number) == priority


@pytest.mark.parametrize(
    ("data", "message_id", "has_date", "received", "well_formed"),
    [
        (fields("Message-ID: <x@y>", "Date: today", "Received: a", "Received: b"), "<x@y>", True, 2, True),
        (fields("message-id:\r\n\t<x@y>", "DATE:"), "<x@y>", True, 0, True),
        (fields("Message-Id : <old@style>"), "<old@style>", False, 0, True),
        (fields("Subject: none"), "", False, 0, True),
        (fields("Message-ID: <first@y>", "Message-ID: <second@y>"), "<first@y>", False, 0, True),
        (fields("Message-ID:"), "", False, 0, True),
        (fields("Message-ID: <ü@y>"), "<ü@y>", False, 0, True),
        (b"Message-ID: <\xff@y>\r\n\r\n", "<\ufffd@y>", False, 0, True),
        (b"\r\nReceived: in the body\r\n", "", False, 0, True),
        (b"", "", False, 0, True),
        (b"Subject: no end of the header\r\n", "", False, 0, True),
        (b"Date: no end of the line", "", True, 0, True),
        (b"hello, this is no header\r\nDate: x\r\n\r\n", "", False, 0, False),
        (b"From hanako Mon Jan  5 12:00:00 2026\r\nDate: x\r\n\r\n", "", False, 0, False),
        (b" folded from nothing\r\nDate: x\r\n\r\n", "", False, 0, False),
        (b": no name\r\nDate: x\r\n\r\n", "", False, 0, False),
        (b"Subject: x\r\nno field\r\nDate: x\r\n\r\n", "", True, 0, True),
    ],
)
@pytest.mark.parametrize("every", [0, 1, 7])
def test_read(data: bytes, message_id: str, has_date: bool, received: int, well_formed: bool, every: int) -> None:
    header = read(data, every)
    assert (header.message_id, header.has_date, header.received) == (message_id, has_date, received)
    assert header.well_formed is well_formed


@pytest.mark.parametrize(("size", "kept"), [(MAX_MESSAGE_ID, True), (MAX_MESSAGE_ID + 1, False), (200_000, False)])
def test_a_message_id_beyond_any_line_is_not_kept(size: int, kept: bool) -> None:
    name = f"<{'x' * (size - 2)}>"
    header = read(fields("Message-ID: " + name))
    assert header.message_id == (name if kept else "")
    assert header.has_message_id


def test_no_message_id_and_an_empty_one() -> None:
    assert not read(fields("Subject: x")).has_message_id
    assert not read(fields("Message-ID:  ")).has_message_id


def test_a_field_of_a_million_lines_takes_no_longer_than_its_bytes() -> None:
    """Ten times and more below the time that joining it line by line takes."""
    gatherer = HeaderGatherer()
    gatherer.data += b"Priority: urg\r\n" + b" \r\n" * 1_500_000 + b"\tx\r\nDate: y"
    began = time.monotonic()
    header = gatherer.read()
    assert time.monotonic() - began < 20
    assert header.has_date
    assert header.priority is Priority.NORMAL


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 1000])
def test_the_end_of_the_header_is_seen_wherever_it_is_cut(every: int) -> None:
    data = b"Subject: x\r\nDate: y\r\n\r\n" + b"body\r\n\r\n" * 50
    gatherer = HeaderGatherer()
    fed = 0
    while not gatherer.feed(data[fed : fed + every]):
        fed += every
    assert data.index(b"\r\n\r\n") + 4 <= fed + every < data.index(b"\r\n\r\n") + 4 + every or every == 1000
    assert gatherer.data == data[: fed + every]


def test_a_huge_header_is_given_up() -> None:
    gatherer = HeaderGatherer()
    piece = b"X-Long: " + b"x" * 1000 + b"\r\n"
    count = 0
    while not gatherer.feed(piece):
        count += 1
    assert not gatherer.whole
    assert MAX_HEADER < len(gatherer.data) <= MAX_HEADER + len(piece)


@pytest.mark.parametrize(("size", "whole"), [(MAX_HEADER, True), (MAX_HEADER + 1, False)])
def test_the_limit_is_the_same_in_one_piece(size: int, whole: bool) -> None:
    gatherer = HeaderGatherer()
    assert gatherer.feed(b"X: " + b"x" * (size - 3) + b"\r\n\r\nbody")
    assert gatherer.whole is whole


@given(
    st.lists(
        st.sampled_from(
            [b"MT-Priority: ", b"Priority:", b"\r\n", b" ", b"\t", b":", b"Received: x", b"-", b"9", b"\xb2"]
        )
        | st.binary(max_size=8),
        max_size=30,
    )
)
def test_anything_can_be_read(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert read(data) == read(data, 1)


@pytest.mark.parametrize(
    ("client", "recipient", "address"),
    [("192.168.77.20", "", "[192.168.77.20]"), ("fd00::1", "x@far.example", "[IPv6:fd00::1]")],
)
def test_received(client: str, recipient: str, address: str) -> None:
    """RFC 5321 §4.4."""
    raw = received_field(
        client_name="pc.example",
        client=client,
        hostname="harbour.harbour.example",
        protocol="ESMTPSA",
        message_id="abc",
        recipient=recipient,
        now=1_767_614_400.0,
    )
    assert raw.endswith(b"\r\n")
    assert all(len(line) <= 78 for line in raw.split(b"\r\n"))
    value = " ".join(str(message_from_bytes(raw + b"\r\n")["Received"]).split())
    to = f" for <{recipient}>" if recipient else ""
    by = f"by harbour.harbour.example with ESMTPSA id abc{to}"
    assert value == f"from pc.example ({address}) {by}; Mon, 05 Jan 2026 12:00:00 +0000"
