"""`$7$` strings: both ways against libxcrypt itself, the limits, and what is no such string."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.passwords import PASSWORD_LIMIT, hash_password, is_password_hash, verify_password

PASSWORDS = ["Blue-kettle-42", "p", "grüße 日本", " spaces ", "x" * PASSWORD_LIMIT, "$7$"]


@pytest.fixture(scope="module")
def libcrypt() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = library.crypt_gensalt.restype = ctypes.c_char_p
    return library


@pytest.mark.parametrize("password", PASSWORDS)
def test_libxcrypt_takes_what_we_write(libcrypt: ctypes.CDLL, password: str) -> None:
    stored = hash_password(password)
    assert stored.startswith("$7$C6..../....") and is_password_hash(stored)
    assert libcrypt.crypt(password.encode(), stored.encode()).decode() == stored
    assert verify_password(password, stored)
    assert not verify_password(password + "x", stored)
    assert not verify_password("", stored)


@pytest.mark.parametrize("cost", [6, 7])
def test_we_take_what_libxcrypt_writes(libcrypt: ctypes.CDLL, cost: int) -> None:
    setting = libcrypt.crypt_gensalt(b"$7$", cost, b"0123456789abcdef" * 2, 32)
    stored = libcrypt.crypt("grüße".encode(), setting).decode()
    assert is_password_hash(stored)
    assert verify_password("grüße", stored)
    assert not verify_password("grusse", stored)


def test_every_hash_has_a_salt_of_its_own() -> None:
    assert hash_password("a") != hash_password("a")


@pytest.mark.parametrize("password", ["", "a\0b", "x" * (PASSWORD_LIMIT + 1), "é" * 256])
def test_passwords_that_cannot_be_used(password: str) -> None:
    with pytest.raises(ValueError, match="the password"):
        hash_password(password)


GOOD = "$7$C6..../....yOCHGXdqOV2N9hxQJDdRS.$DEaIJMDEM2OFuEr49MsY9TJtbBE1DWKYbvbsCODZWs/"


def test_the_good_one_is_good() -> None:
    assert verify_password("correct horse", GOOD)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "correct horse",
        GOOD[:-1],
        GOOD + "x",
        GOOD + "\n",
        GOOD.replace("$7$", "$6$"),
        GOOD.replace("yOCH", "yO H"),
        GOOD.replace("$7$C", "$7$F"),  # N = 2^17, r = 8: 128 MiB
        GOOD.replace("$7$C", "$7$z"),  # N = 2^63
        GOOD.replace("$7$C", "$7$."),  # N = 1
        GOOD.replace("C6..../....", "CU/.../...."),  # r = 96
        GOOD.replace("C6..../....", "C...../...."),  # r = 0
        GOOD.replace("C6..../....", "C6........."),  # p = 0
        GOOD.replace("C6..../....", "C6....3...."),  # p = 5
        GOOD.replace("C6..../....", "Czzzzzzzzzz"),
        GOOD.replace("C6..../....", "F/..../...."),  # r = 1 allows N below 2^16
    ],
)
def test_what_is_no_hash_or_costs_too_much(stored: str) -> None:
    assert not is_password_hash(stored)
    assert not verify_password("correct horse", stored)


@given(st.text(alphabet="$7C6./z", max_size=80) | st.text(max_size=20))
def test_any_string_is_judged(stored: str) -> None:
    assert not is_password_hash(stored)


def test_bytes_that_are_no_utf8_are_a_wrong_password() -> None:
    assert not verify_password(b"\xff\xfe".decode("utf-8", "surrogateescape"), GOOD)
    assert not verify_password("x" * 100_000, GOOD)
