"""SASL PLAIN and LOGIN on the server's side: tables of exchanges, and garbage."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.sasl import MECHANISMS, Credentials, SaslExchange, SaslProblem


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("line", "name", "password"),
    [
        (b64("\0hanako\0pw"), "hanako", "pw"),
        (b64("hanako\0hanako\0pw"), "hanako", "pw"),
        (b64("\0花子@例え.example\0パスワード"), "花子@例え.example", "パスワード"),
        (b64("\0hanako\0"), "hanako", ""),
        (b64("\0a b\0c d e"), "a b", "c d e"),
    ],
)
def test_plain(line: bytes, name: str, password: str) -> None:
    exchange = SaslExchange("PLAIN")
    assert exchange.challenge == ""  # RFC 4616: the client speaks first
    assert exchange.step(line) == Credentials(name, password)


def test_login() -> None:
    exchange = SaslExchange("LOGIN")
    assert base64.b64decode(exchange.challenge) == b"Username:"
    assert exchange.step(b64("hanako")) is None
    assert base64.b64decode(exchange.challenge) == b"Password:"
    assert exchange.step(b64("pä")) == Credentials("hanako", "pä")


@pytest.mark.parametrize(
    "line",
    [
        b"*",  # RFC 4954 §4: the client cancels
        b"!!!",
        b"YWJj=",
        b" " + b64("\0a\0b"),
        b64(b"\0\xff\0\xfe"),
        b64("a"),
        b64("a\0b"),
        b64("\0a\0b\0c"),
        b64("boss\0hanako\0pw"),  # nobody logs in for another
        b"",
    ],
)
def test_plain_refused(line: bytes) -> None:
    with pytest.raises(SaslProblem):
        SaslExchange("PLAIN").step(line)


@pytest.mark.parametrize("lines", [[b"*"], [b64("me"), b"*"], [b"?"], [b64("me"), b64(b"\xff")]])
def test_login_refused(lines: list[bytes]) -> None:
    exchange = SaslExchange("LOGIN")
    for line in lines[:-1]:
        assert exchange.step(line) is None
    with pytest.raises(SaslProblem):
        exchange.step(lines[-1])


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "plain", "", "GSSAPI"])
def test_unknown_mechanism(mechanism: str) -> None:
    with pytest.raises(SaslProblem, match="PLAIN and LOGIN"):
        SaslExchange(mechanism)


def test_the_password_is_not_shown() -> None:
    credentials = SaslExchange("PLAIN").step(b64("\0hanako\0topsecret"))
    assert "topsecret" not in repr(credentials)


@given(st.sampled_from(MECHANISMS), st.lists(st.one_of(st.binary(max_size=30), st.binary(max_size=30).map(b64))))
def test_garbage_is_credentials_or_a_problem(mechanism: str, lines: list[bytes]) -> None:
    exchange = SaslExchange(mechanism)
    for line in lines:
        try:
            if exchange.step(line) is not None:
                return
        except SaslProblem:
            return
        assert mechanism == "LOGIN"
