"""The bundle for support: what somebody who helps needs is in it, and no secret, wherever it has got to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.load import load
from appliance.config.passwords import hash_password
from appliance.console.support import NoBundle, bundle, struck_out

SECRETS = {
    "isp": 'Blau"Kessel\\7', "smarthost": "geheim-wort-x", "hanako-isp": "花子の秘密", "sim": "4711", "hub": "ab" * 32,
}  # fmt: skip
TEXT = """
# the old password was alt-geheim-1
[site]
name = "harbour"
domain = "harbour.example"
[[line]]
name = "gsm"
port = "/dev/ttyUSB2"
profile = "gsm"
numbers = ["*99#"]
ppp_login = "net"
ppp_secret = "isp"
pin = "sim"
[[mail.smarthost]]
host = "smtp.isp.example"
login = "site"
secret = "smarthost"
[[user]]
name = "hanako"
password = "HASH"
addresses = ["hanako@harbour.example"]
  [[user.account]]
  host = "mail.isp.example"
  login = "hanako"
  secret = "hanako-isp"
[[relay.peer]]
name = "hub"
secret = "hub"
[[relay.account]]
name = "pc11"
password = "HASH"
[[relay.device]]
name = "plc1"
services = { modbus = "192.168.77.20:502" }
[console]
password = "HASH"
"""
WRONG = """
pasword = "vertippt-geheim"
[[user]]
name = "taro"
pasword = "vertippt-auch"
[[user.account]]
host = "h"
login = "l"
secret = "kein-name-sondern-geheim"
"""
HASH = hash_password("Administrator-9")


def written(folder: Path, text: str = TEXT) -> Path:
    file = folder / "posthouse.toml"
    file.write_text(text.replace("HASH", HASH), "utf-8")
    secrets = folder / "secrets.toml"
    secrets.touch(0o600)
    secrets.write_text(
        "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in SECRETS.items()), "utf-8"
    )
    return file


def leaky(verb: str) -> object:
    """A Posthouse that tells its secrets wherever it can."""
    return [{"verb": verb, "said": f"login with {value} failed", "again": value} for value in (*SECRETS.values(), HASH)]


def journal() -> str:
    return "\n".join(f"PASS {value}: no ({value})" for value in (*SECRETS.values(), HASH)) + "\n14711 bytes"


def no_secret(text: str) -> None:
    found = [
        s
        for s in (*SECRETS.values(), HASH[3:], "alt-geheim-1", "vertippt", "kein-name")
        if s in text.replace("14711", "")
    ]
    assert found == []
    assert "Kessel" not in text and "\\u82b1" not in text


def test_what_helps_is_in_it_and_no_secret(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert load(file).line[0].ppp_secret == "isp"
    text = bundle(file, leaky, journal)
    no_secret(text)
    assert 'line[0].ppp_secret = "isp"' in text and "user[0].password = (left out)" in text
    assert 'relay.device[0].services = { modbus = "192.168.77.20:502" }' in text
    assert "no error" in text and os.uname().release in text and "MemTotal" in text
    assert "PASS (left out): no ((left out))" in text
    assert "14711 bytes" in text  # a PIN's figures are in every number


def test_without_a_posthouse_and_with_a_faulty_file(tmp_path: Path) -> None:
    file = written(tmp_path, WRONG + TEXT)
    text = bundle(file, lambda verb: None, lambda: "no journal")
    no_secret(text)
    assert "status: no answer" in text and "unknown key" in text and "user[0].account[0].secret = (left out)" in text
    file.write_text("nonsense", "utf-8")
    assert "can't be read" in bundle(file, lambda verb: None, journal)


def test_secrets_that_can_not_be_read_can_not_be_struck_out(tmp_path: Path) -> None:
    file = written(tmp_path)
    (tmp_path / "secrets.toml").write_text("isp = ")
    with pytest.raises(NoBundle, match="the secrets can't be struck out"):
        bundle(file, leaky, journal)


def test_credentials_of_systemd_are_secrets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "isp").write_text("aus-dem-umschlag\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    text = bundle(written(tmp_path), lambda verb: "aus-dem-umschlag", journal)
    no_secret(text)
    assert "umschlag" not in text


@given(st.text(), st.text(min_size=8), st.text())
def test_a_long_secret_is_struck_out_anywhere(before: str, secret: str, after: str) -> None:
    text = struck_out(before + secret + after, [secret])
    if secret.strip() and secret not in before + "(left out)" + after:
        assert secret not in text


def test_a_password_that_somebody_wrote_as_it_is(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT.replace('[console]\npassword = "HASH"', '[console]\npassword = "klartext-geheim"'))
    text = bundle(file, lambda verb: None, journal)
    no_secret(text)
    assert "klartext" not in text and "console.password: " in text
