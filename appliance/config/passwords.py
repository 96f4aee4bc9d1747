"""Passwords as crypt(5) `$7$` strings: scrypt (RFC 7914), written so that libxcrypt, and so Dovecot's `{CRYPT}`,
checks the same string.

The form, from crypt(5) and libxcrypt: `$7$`, one character for log2 N, five for r, five for p, the salt, `$`, 43
characters for the 32 bytes of the key. Numbers are in base 64 of `./0-9A-Za-z`, least significant character first;
bytes go by threes, little-endian. scrypt's salt is the salt's *characters*, not the bytes they stand for.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import Final, NamedTuple

__all__ = ["hash_password", "is_password_hash", "verify_password"]

COST_LOG2, BLOCK, PARALLEL = 14, 8, 1
"""N = 2^14, r = 8, p = 1: one check takes 16 MiB, and some 30 ms on a PC."""

SALT_BYTES: Final = 16
KEY_BYTES: Final = 32

MEMORY_LIMIT: Final = 64 * 1024 * 1024
"""128·N·r at most: what libxcrypt's own gensalt takes by default. A mistyped string must not eat a board's memory."""

PARALLEL_LIMIT: Final = 4

PASSWORD_LIMIT: Final = 511
"""Bytes: libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE, behind which Dovecot could not check what we wrote."""

_DIGITS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(
    r"\$7\$([./0-9A-Za-z])([./0-9A-Za-z]{5})([./0-9A-Za-z]{5})([./0-9A-Za-z]{1,86})\$([./0-9A-Za-z]{43})"
)


class _Stored(NamedTuple):
    cost_log2: int
    block: int
    parallel: int
    salt: bytes
    key: str


def hash_password(password: str) -> str:
    """The string to store. Blocks for a while: call it in a thread. Raises ValueError, in words for a person, for a
    password that can't be used: empty, with a NUL, too long."""
    secret = password.encode()
    if not secret:
        raise ValueError("the password is empty")
    if b"\0" in secret:
        raise ValueError("the password has a NUL character")
    if len(secret) > PASSWORD_LIMIT:
        raise ValueError(f"the password is longer than {PASSWORD_LIMIT} bytes")
    salt = _encode_bytes(os.urandom(SALT_BYTES))
    key = _derive(secret, _Stored(COST_LOG2, BLOCK, PARALLEL, salt.encode(), ""))
    return f"$7${_DIGITS[COST_LOG2]}{_encode_number(BLOCK, 5)}{_encode_number(PARALLEL, 5)}{salt}${key}"


def verify_password(password: str, stored: str) -> bool:
    """Whether `stored` was made of this password; False for a string that is no `$7$` or over the limits. Takes the
    same time for every wrong password. Blocks for a while: call it in a thread."""
    secret = password.encode("utf-8", "surrogateescape")
    parsed = _parse(stored)
    if parsed is None or len(secret) > PASSWORD_LIMIT:
        return False
    return hmac.compare_digest(_derive(secret, parsed), parsed.key)


def is_password_hash(text: str) -> bool:
    """Whether `verify_password` can check this string."""
    return _parse(text) is not None


def _parse(stored: str) -> _Stored | None:
    m = _FORM.fullmatch(stored)
    if not m:
        return None
    cost, block, parallel, salt, key = m.groups()
    parsed = _Stored(_DIGITS.index(cost), _decode_number(block), _decode_number(parallel), salt.encode(), key)
    fits = (
        parsed.block >= 1
        and 1 <= parsed.cost_log2 < 16 * parsed.block  # RFC 7914 §2
        and 1 <= parsed.parallel <= PARALLEL_LIMIT
        and (128 * parsed.block) << parsed.cost_log2 <= MEMORY_LIMIT
    )
    return parsed if fits else None


def _derive(secret: bytes, stored: _Stored) -> str:
    n, r, p = 1 << stored.cost_log2, stored.block, stored.parallel
    # OpenSSL counts the blocks of V, of B and two of its own against maxmem.
    room = 128 * r * (n + p + 2) + 1024
    return _encode_bytes(hashlib.scrypt(secret, salt=stored.salt, n=n, r=r, p=p, maxmem=room, dklen=KEY_BYTES))


def _encode_number(value: int, length: int) -> str:
    return "".join(_DIGITS[value >> 6 * i & 63] for i in range(length))


def _decode_number(text: str) -> int:
    return sum(_DIGITS.index(c) << 6 * i for i, c in enumerate(text))


def _encode_bytes(data: bytes) -> str:
    """Three bytes to four characters; one left over to two, two to three."""
    groups = (data[i : i + 3] for i in range(0, len(data), 3))
    return "".join(_encode_number(int.from_bytes(g, "little"), len(g) + 1) for g in groups)
