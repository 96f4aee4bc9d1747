"""Frames and proofs of the relay protocol: whole, byte at a time, and garbage; proofs against vectors made apart."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LocalProtocolError
from appliance.protocol.relay import (
    FIRST_LIMIT,
    FRAME_LIMIT,
    Decoder,
    FrameError,
    encode,
    fingerprint,
    login_message,
    peer_proof,
    sign_login,
)
from appliance.transport.self_signed import make_self_signed

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
BODIES = st.dictionaries(st.text(max_size=10), VALUES, max_size=5)


def frame(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def decode(data: bytes, step: int, limit: int = FRAME_LIMIT) -> list[Any]:
    decoder, out = Decoder(limit), []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        while (message := decoder.next()) is not None:
            out.append(message)
    return out


@given(messages=st.lists(st.tuples(st.text(max_size=12), BODIES), max_size=4), step=st.integers(1, 200))
def test_what_is_encoded_is_decoded_in_any_pieces(messages: list[tuple[str, dict[str, Any]]], step: int) -> None:
    assert decode(b"".join(encode(kind, body) for kind, body in messages), step) == messages


def test_a_frame_as_the_text_has_it() -> None:
    assert encode("ping") == b"\0\0\0\x07\x92\xa4ping\x80"
    assert encode("bye", {"reason": "logout", "back_in": None}) == b"\0\0\0\x14\x92\xa3bye\x81\xa6reason\xa6logout"
    assert encode("join", {"ticket": b"12"}) == b"\0\0\0\x12\x92\xa4join\x81\xa6ticket\xc4\x0212"


def test_nil_and_left_out_mean_the_same() -> None:
    assert decode(frame(msgpack.packb(["x", {"a": None, "b": 0}])), 1) == [("x", {"b": 0})]


def test_missing_reads_nothing_of_what_is_behind() -> None:
    data = encode("joined") + b"\x16\x03raw"
    decoder, at = Decoder(), 0
    while (message := decoder.next()) is None:
        assert decoder.missing > 0
        part = data[at : at + decoder.missing]
        decoder.feed(part)
        at += len(part)
    assert message == ("joined", {}) and data[at:] == b"\x16\x03raw"


BAD = [
    b"", b"\xc1", b"\x92\xa1x", b"\x92\xa1x\x80\x00", b"\x91\xa1x", b"\x92\x01\x80", b"\x92\xa1x\x90", b"\x92\xa1x\xc0",
    b"\x80", b"\xa1x", b"\x92\xa2\xff\xfe\x80", b"\x92\xa1x\x81\x01\x02", b"\x92\xa1x\x81\xc4\x01k\x02",
    b"\x92\xa1x\x81\xa1k\xc7\x01\x05z", b"\x92\xa1x\x81\x90\x01", b"\x91" * 3000, b"\xdd\xff\xff\xff\xff", b"\x93\xa1x\x80\x00",
]  # fmt: skip


@pytest.mark.parametrize("content", BAD)
def test_what_is_no_message_is_a_bad_frame(content: bytes) -> None:
    with pytest.raises(FrameError) as error:
        decode(frame(content), 1000)
    assert error.value.code == "bad-frame"


@pytest.mark.parametrize("limit", [FIRST_LIMIT, FRAME_LIMIT])
def test_a_frame_over_the_limit_is_refused_by_its_length_alone(limit: int) -> None:
    assert decode(frame(msgpack.packb(["x", {"a": b"x" * (limit - 9)}])), 1 << 20, limit)
    with pytest.raises(FrameError) as error:
        decode(struct.pack(">I", limit + 1), 1, limit)
    assert error.value.code == "too-large"
    with pytest.raises(LocalProtocolError):
        encode("x", {"a": b"x" * FRAME_LIMIT})


@given(st.binary(max_size=300))
def test_garbage_parses_or_is_a_frame_error(content: bytes) -> None:
    for data in (content, frame(content)):
        try:
            decode(data, 7)
        except FrameError:
            pass


# ---- proofs
def test_what_a_login_signs() -> None:
    want = b"posthouse login 1\0" + hashlib.sha256(b"der").digest() + b"pc21\0\0\0\0\0\0\0\x01\x02"
    assert login_message(b"der", "pc21", 258) == want


def test_a_login_is_signed_by_either_kind_of_key() -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    message = login_message(b"der", "pc21", 7)
    _, pem = make_self_signed(["pc21"])
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    key.public_key().verify(sign_login(pem, b"der", "pc21", 7), message, ec.ECDSA(hashes.SHA256()))

    def as_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    edwards = ed25519.Ed25519PrivateKey.generate()
    edwards.public_key().verify(sign_login(as_pem(edwards), b"der", "pc21", 7), message)
    for other in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(ValueError, match="neither P-256 nor Ed25519"):
            sign_login(as_pem(other), b"der", "pc21", 7)


def test_a_peers_proof() -> None:
    """Against HMAC written out by its definition."""
    text = b"posthouse peer 1\0harbour\0hub\0" + hashlib.sha256(b"der").digest() + b"n" * 16
    pads = [bytes(b ^ p for b in b"k" * 32 + bytes(32)) for p in (0x36, 0x5C)]
    want = hashlib.sha256(pads[1] + hashlib.sha256(pads[0] + text).digest()).digest()  # RFC 2104 §2
    assert peer_proof(b"k" * 32, "posthouse peer 1", "harbour", "hub", b"der", b"n" * 16) == want


def test_a_fingerprint() -> None:
    assert fingerprint(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
