"""The relay protocol's frames and proofs, version 1 (RELAY §1, §2). SANS-IO: what a message means is for
whoever drives it.

    frame    4 bytes, big-endian: the length of what follows, at most `FRAME_LIMIT`
             msgpack [type, body]: type a str, body a map with str keys; a key left out and nil mean the same
    hello    the opener's first frame, on control connections and on data connections

A `Decoder` gives whole messages and raises `FrameError` for what is none; nothing behind such a frame is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgpack

from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.names import is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "FIRST_LIMIT", "FRAME_LIMIT", "VERSION", "Decoder", "FrameError", "Message", "are_services", "encode",
    "fingerprint", "is_name", "is_seconds", "login_message", "peer_proof", "sign_login", "strings_bytes",
]  # fmt: skip

VERSION: Final = 1
FRAME_LIMIT: Final = 65536
"""Bytes of a frame without its length: 500 entries of the table with room to spare."""
FIRST_LIMIT: Final = 4096
"""The same before authentication: a certificate of 1 KiB, a proof and a password."""
_LENGTH: Final = struct.Struct(">I")

SECONDS_LIMIT: Final = 2.0**40
"""Ages and waits beyond this, some 35,000 years, are no times; infinity and NaN are none either."""

SERVICE_LIMIT: Final = 64
SERVICE_NAME_LIMIT: Final = 63
"""Services of a terminal, and characters of the name of one."""

Message = tuple[str, dict[str, Any]]
"""A frame's type and body, without the keys that were nil."""


class FrameError(RemoteProtocolError):
    """`code` is what `error` says of it: `bad-frame` or `too-large`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def encode(kind: str, body: Mapping[str, Any] | None = None) -> bytes:
    """One frame. Raises LocalProtocolError for one that is too large."""
    if body is None:
        body = {}
    elif None in body.values():
        body = {key: value for key, value in body.items() if value is not None}
    content = msgpack.packb([kind, body])
    if len(content) > FRAME_LIMIT:
        raise LocalProtocolError(f"a frame {kind} of {len(content)} bytes")
    return _LENGTH.pack(len(content)) + bytes(content)


class Decoder:
    """`feed` bytes, take messages with `next`. `limit` may be raised once the other side is known."""

    __slots__ = ("_at", "_buffer", "limit")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self._buffer = b""
        self._at = 0  # what is before it was taken

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    @property
    def missing(self) -> int:
        """How many bytes the frame that has begun still needs at least: who reads no more than this reads nothing of
        what is behind the frame."""
        have = len(self._buffer) - self._at
        return max(0, _LENGTH.size + (self._length() if have >= _LENGTH.size else 0) - have)

    @property
    def left(self) -> int:
        """Bytes that no message has been made of."""
        return len(self._buffer) - self._at

    def next(self) -> Message | None:
        """The next message, or None until there are more bytes. Raises FrameError."""
        if len(self._buffer) - self._at < _LENGTH.size:
            return None
        begin = self._at + _LENGTH.size
        end = begin + self._length()
        if len(self._buffer) < end:
            return None
        content = self._buffer[begin:end]
        if end == len(self._buffer):
            self._buffer, end = b"", 0  # a connection that falls idle keeps nothing of its last frame
        self._at = end
        return _message(content)

    def _length(self) -> int:
        length: int = _LENGTH.unpack_from(self._buffer, self._at)[0]
        if length > self.limit:
            raise FrameError("too-large", f"a frame of {length} bytes, where {self.limit} are the most")
        return length


def _message(content: bytes) -> Message:
    try:
        found = msgpack.unpackb(content, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise FrameError("bad-frame", f"a frame is no msgpack: {type(error).__name__}") from None
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], str) and isinstance(found[1], dict)):
        raise FrameError("bad-frame", "a frame is no [type, body]")
    kind, body = found
    for key in body:
        if type(key) is not str:
            raise FrameError("bad-frame", f"a key of {kind[:20]!r} is no text")
    if None in body.values():
        body = {key: value for key, value in body.items() if value is not None}
    return kind, body


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension {code}")


# ---- words of bodies
def is_seconds(value: object) -> TypeGuard[int | float]:
    """A length of time, 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < SECONDS_LIMIT


def are_services(value: object) -> TypeGuard[list[str]]:
    """What a terminal offers: the same for its login and for its entry in the table, else a neighbour would close the
    link on which it hears of a login that was taken."""
    return (
        isinstance(value, list)
        and len(value) <= SERVICE_LIMIT
        and all(isinstance(s, str) and 0 < len(s) <= SERVICE_NAME_LIMIT and s.isprintable() for s in value)
    )


def strings_bytes(strings: Iterable[str]) -> int:
    """What these, each below 256 bytes, take in a frame at most: a character is up to 4 bytes."""
    return sum((len(s) if s.isascii() else len(s.encode())) + 2 for s in strings)


# ---- proofs
def fingerprint(certificate: bytes) -> str:
    """Of a certificate, DER, as it is written everywhere but on the wire: `sha256:` and hex."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def login_message(relay: bytes, name: str, counter: int) -> bytes:
    """What a terminal's `proof` signs; `relay`: the relay server's certificate, DER."""
    digest = hashlib.sha256(relay).digest()
    return b"posthouse login 1\0" + digest + name.encode("ascii") + b"\0" + struct.pack(">Q", counter)


def sign_login(key: bytes, relay: bytes, name: str, counter: int) -> bytes:
    """A terminal's `proof` with its key, PEM: ECDSA with SHA-256, DER-encoded, for P-256; Ed25519 as it is. Raises
    ValueError for a key of another kind."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    private = serialization.load_pem_private_key(key, None)
    message = login_message(relay, name, counter)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return private.sign(message, ec.ECDSA(hashes.SHA256()))
    raise ValueError("a key is neither P-256 nor Ed25519")


def peer_proof(secret: bytes, label: str, opener: str, acceptor: str, certificate: bytes, nonce: bytes) -> bytes:
    """The proof between relay servers: `label` is `posthouse peer 1` or `posthouse welcome 1`, `certificate` the
    acceptor's, DER, `secret` the 32 bytes that the configuration's hex stands for."""
    names = f"{label}\0{opener}\0{acceptor}\0".encode("ascii")
    return hmac.new(secret, names + hashlib.sha256(certificate).digest() + nonce, "sha256").digest()
