"""What dropbear is given: the two files in the place of the host's, its arguments, and its host key."""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
from pathlib import Path

import pytest

from appliance.app.ssh import host_key
from appliance.config.load import load
from appliance.config.passwords import hash_password
from appliance.config.rules import ssh_hosts
from appliance.network import dropbear
from fakes.config import SITE, write

PASSWORD = "Blau-Kessel-42"


def crypt(key: str, setting: str) -> str:
    """The C library's own, which dropbear asks (crypt(3))."""
    function = ctypes.CDLL(ctypes.util.find_library("crypt")).crypt
    function.restype = ctypes.c_char_p
    found: bytes = function(key.encode(), setting.encode())
    return found.decode()


def test_the_password_is_one_that_the_c_library_knows() -> None:
    hashed = hash_password(PASSWORD)
    shadow = dropbear.files(hashed, ["192.0.2.1"], "/k", "/bin/sh", uid=470, gid=470)["shadow"]
    name, field = shadow.splitlines()[0].split(":")[:2]
    assert (name, field) == ("admin", hashed)
    assert crypt(PASSWORD, field) == field
    assert crypt("Blau-Kessel-43", field) != field


def test_one_user_is_let_in_alone() -> None:
    found = dropbear.files("$7$x", ["192.0.2.1"], "/k", "/bin/sh", uid=470, gid=471)
    assert found["passwd"].splitlines()[0] == "admin:x:470:471:Administrator:/:/bin/sh"
    assert [line.split(":")[1] for line in found["shadow"].splitlines()] == ["$7$x", "*"]


def test_where_it_listens() -> None:
    found = dropbear.files("$7$x", ["192.0.2.1", "fd00::1"], "/state/keys/ssh.key", "/bin/sh", uid=1, gid=1)
    assert found["environment"] == "KEY=/state/keys/ssh.key\nLISTEN=-p 192.0.2.1:22 -p [fd00::1]:22\n"


@pytest.mark.parametrize(("text", "hosts"), [
    ('[[interface]]\nname = "lan"\ndevice = "e0"\naddresses = ["10.0.0.1/24", "fd00::1/64"]\n[mail]\nsmtp = ["10.9.9.9:25"]', ("10.0.0.1", "fd00::1")),
    ('[mail]\nsmtp = ["10.0.0.1:25", "10.0.0.1:587"]\npop3 = ["[::1]:110"]', ("10.0.0.1", "::1")),
    ("", ()),
])  # fmt: skip
def test_its_addresses_are_those_on_the_lan(tmp_path: Path, text: str, hosts: tuple[str, ...]) -> None:
    assert ssh_hosts(load(write(tmp_path, SITE + text))) == hosts


def test_the_host_key_is_made_once_and_is_dropbears(tmp_path: Path) -> None:
    file = tmp_path / "ssh.key"
    shown = host_key(file)
    assert host_key(file) == shown and file.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(
        ["dropbearkey", "-y", "-f", file], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert shown in said and "ssh-ed25519 AAAA" in said


@pytest.mark.parametrize("damage", [b"", b"\x00" * 83, b"nonsense"], ids=["empty", "zeros", "nonsense"])
def test_a_damaged_host_key_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "ssh.key"
    file.write_bytes(damage)
    shown = host_key(file)
    assert dropbear.fingerprint(file.read_bytes()) == shown != ""
