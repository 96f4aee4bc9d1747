"""secrets.toml and systemd's credentials: which value holds, what is refused, and that none is ever shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.config.load import ConfigErrors, load
from fakes.config import SITE, errors, write

SMARTHOST = SITE + '[[mail.smarthost]]\nhost = "h"\nlogin = "l"\nsecret = "isp"'
NO_SECRET = (
    "posthouse.toml:7: mail.smarthost[0].secret: names no secret of secrets.toml; "
    "expected the name of one that stands there"
)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o666])
def test_permissions_of_others_are_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, SMARTHOST, "isp = 'isp-word'")
    file = tmp_path / "secrets.toml"
    file.chmod(mode)
    assert errors(path) == [
        f"secrets.toml:1: toml: others than its owner have permissions on it (mode {mode:04o}); "
        "expected none: chmod 600 secrets.toml"
    ]
    file.chmod(0o400)
    assert load(path).secrets == {"isp": "isp-word"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o400


def test_permissions_are_refused_even_where_no_secret_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, SITE, "")
    assert load(path).secrets == {}
    (tmp_path / "secrets.toml").chmod(0o644)
    assert len(errors(path)) == 1


def test_no_secrets_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, SITE)).secrets == {}
    assert errors(write(tmp_path, SMARTHOST)) == [NO_SECRET]


@pytest.mark.parametrize(
    ("secrets", "line"),
    [
        ("isp = 1234", "secrets.toml:1: isp: is an integer; expected the secret as text in quotes"),
        ("\nisp = ''", "secrets.toml:2: isp: is empty; expected the secret as text in quotes"),
        ("[isp]\nx = 'y'", "secrets.toml:1: isp: is a table; expected the secret as text in quotes"),
        ("isp = word", "secrets.toml:1: isp: invalid value at column 7; expected a value: text in quotes such as "
         '"2h", a number, true, false or an [array]'),
    ],
)  # fmt: skip
def test_wrong_secrets_files(tmp_path: Path, secrets: str, line: str) -> None:
    assert errors(write(tmp_path, SMARTHOST, secrets)) == [line]  # the secret may well be in it


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    (line,) = errors(write(tmp_path, SMARTHOST, 'ips = "hunter2"'))
    assert line.endswith('names no secret of secrets.toml; expected "ips"')
    assert "hunter2" not in line


def test_a_secret_that_would_break_a_protocol_line(tmp_path: Path) -> None:
    (line,) = errors(write(tmp_path, SMARTHOST, 'isp = "a\\r\\nQUIT"'))
    assert line.endswith("the secret that it names has a wrong form; expected text without control characters")
    assert "QUIT" not in line


def test_credentials_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, SMARTHOST, "isp = 'of the file'")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    assert load(path, credentials=credentials).secrets == {"isp": "of the file"}
    (credentials / "isp").write_text("of systemd\n")
    assert load(path, credentials=credentials).secrets == {"isp": "of systemd"}
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert load(path).secrets == {"isp": "of systemd"}
    (tmp_path / "secrets.toml").unlink()
    assert load(path).secrets == {"isp": "of systemd"}


def test_a_credentials_name_is_no_path(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (tmp_path / "isp").write_text("outside")
    path = write(tmp_path, SMARTHOST.replace('"isp"', '"../isp"'))
    with pytest.raises(ConfigErrors):
        load(path, credentials=credentials)


def test_a_secrets_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, SITE)
    (tmp_path / "secrets.toml").mkdir()
    assert errors(path) == [
        "secrets.toml:1: toml: can't be read: Is a directory; expected a file that Posthouse's user may read"
    ]
