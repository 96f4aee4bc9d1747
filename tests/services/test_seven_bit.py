"""8-bit bodies as quoted-printable: the same content, nothing but ASCII in what was changed, signed parts untouched."""

from __future__ import annotations

import email
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.mail.seven_bit import seven_bit

LONG = "港" * 60


def convert(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) if b"\r\n" not in data else [x + b"\r\n" for x in data.split(b"\r\n")]
    if b"\r\n" in data:
        lines[-1] = lines[-1][:-2]
        lines = [x for x in lines if x]
    return b"".join(seven_bit(lines, lines))


def contents(message: Message) -> list[tuple[str, bytes]]:
    out = []
    for part in message.walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            out.append((part.get_content_type(), payload))
    return out


def same(before: bytes, after: bytes) -> None:
    assert contents(email.message_from_bytes(after)) == contents(email.message_from_bytes(before))
    assert all(len(line) <= 998 for line in after.split(b"\r\n"))


HEAD = "Subject: x\r\nMIME-Version: 1.0\r\n"
TEXT = "Content-Type: text/plain; charset=utf-8\r\n"
CTE = "Content-Transfer-Encoding: 8bit\r\n"
MULTI = 'Content-Type: multipart/mixed;\r\n\tboundary="b 1"\r\n'

WHOLE = {
    "simple": f"{HEAD}{TEXT}{CTE}\r\nJürgen = wrote\t \r\n.\r\n..\r\n{LONG}\r\nlast ä",
    "no encoding named": f"{HEAD}{TEXT}\r\nJürgen\r\n",
    "no mime": "Subject: x\r\n\r\nJürgen\r\n",
    "folded encoding": f"{HEAD}{TEXT}Content-Transfer-Encoding:\r\n 8bit\r\nX-Y: z\r\n\r\nJürgen\r\n",
    "multipart": f"{HEAD}{MULTI}{CTE}\r\npreamble\r\n--b 1\r\n{TEXT}{CTE}\r\nJürgen\r\n--b 1\r\n{TEXT}\r\nplain\r\n--b 1--\r\nepilogue\r\n",
    "attached": f"{HEAD}{MULTI}\r\n--b 1\r\nContent-Type: message/rfc822\r\n{CTE}\r\n{HEAD}{TEXT}{CTE}\r\nJürgen\r\n--b 1--\r\n",
    "nested": f"{HEAD}{MULTI}\r\n--b 1\r\nContent-Type: multipart/alternative; boundary=b2\r\n\r\n--b2\r\n{TEXT}{CTE}\r\nä\r\n--b2--\r\n"
    f"--b 1\r\n{TEXT}{CTE}\r\nö\r\n--b 1--\r\n",
    "an inner end is missing": f"{HEAD}{MULTI}\r\n--b 1\r\nContent-Type: multipart/alternative; boundary=b2\r\n\r\n--b2\r\n{TEXT}{CTE}\r\nä\r\n"
    f"--b 1\r\n{TEXT}{CTE}\r\nö\r\n--b 1--\r\n",
    "base64 beside": f"{HEAD}{MULTI}\r\n--b 1\r\n{TEXT}Content-Transfer-Encoding: base64\r\n\r\nw6Q=\r\n--b 1\r\n{TEXT}{CTE}\r\nä\r\n--b 1--\r\n",
}  # fmt: skip


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_the_content_stays_and_every_byte_is_ascii(text: str) -> None:
    data = text.encode()
    after = convert(data)
    assert after.isascii()
    same(data, after)
    assert b": 8bit" not in after
    assert convert(after) == after


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}{TEXT}\r\nplain\r\n",
        f"{HEAD}{MULTI}\r\n--b 1\r\n{TEXT}\r\nplain\r\n--b 1--\r\n",
        f"{HEAD}{TEXT}",
        "",
        f"{HEAD}Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n{TEXT}{CTE}\r\nJürgen\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--s--\r\n",
        f"{HEAD}Content-Type: multipart/encrypted; boundary=s\r\n\r\n--s\r\n\r\nä\r\n--s--\r\n",
        "Subject: Jürgen\r\n\r\nx\r\n",
    ],
)  # fmt: skip
def test_what_stays_as_it_is(text: str) -> None:
    assert convert(text.encode()) == text.encode()


def test_a_signed_part_beside_another() -> None:
    signed = f"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n{TEXT}{CTE}\r\nJürgen\r\n--s--\r\n"
    data = f"{HEAD}{MULTI}\r\n--b 1\r\n{signed}--b 1\r\n{TEXT}{CTE}\r\nä\r\n--b 1--\r\n".encode()
    after = convert(data)
    assert signed.encode() in after
    assert b"=C3=A4" in after


@given(st.lists(st.sampled_from([
    b"--b", b"--b--", b"--c", b"--c--", b"", b"\xc3\xa4 ", b"Content-Type: multipart/mixed; boundary=b",
    b"Content-Type: multipart/signed; boundary=c", b"Content-Type: message/rfc822", b"Content-Transfer-Encoding: 8bit", b" x", b"x\r\xff\nz",
])))  # fmt: skip
def test_whatever_the_structure_nothing_is_lost(lines: list[bytes]) -> None:
    whole = [line + b"\r\n" for line in lines]
    after = b"".join(seven_bit(whole, whole))
    assert after.count(b"--b") == b"".join(whole).count(b"--b")
    unchanged = [
        x
        for x in whole
        if x.isascii()
        and b"=" not in x
        and not x.lower().startswith(b"content-transfer")
        and x.strip() not in (b"", b"x")
    ]
    assert all(x in after for x in unchanged)
