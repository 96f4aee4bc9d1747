"""Files that are wrong: every error line that each gets. Most are in config_wrong.txt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.config.load import ConfigErrors, load
from appliance.config.schema import ROOT, Table, Tables, tables
from appliance.config.units import Kind
from appliance.events import clean
from fakes.config import SITE, errors, write

BLOCK = re.compile(r"^===(!?) (.*)\n((?:.*\n)*?)---\n((?:[^=#\n].*\n)+)", re.MULTILINE)
WRONG = BLOCK.findall((Path(__file__).parent / "config_wrong.txt").read_text("utf-8"))
DURATION = 'expected a duration such as "90s", "10m", "2h" or "5d"'
PERIOD = 'expected a window such as "mon-fri 07:00-22:00" or "sat 22:00-02:00"'


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.mark.parametrize(("whole", "title", "text", "lines"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong(tmp_path: Path, whole: str, title: str, text: str, lines: str) -> None:
    path = write(tmp_path, text if whole else SITE + text, f'hex = "{"00" * 32}"\ns = "secret-value"')
    said = errors(path)
    assert said == [f"posthouse.toml:{line}" for line in lines.splitlines()]
    assert "hunter2" not in str(said) and "secret-value" not in str(said)


def test_the_table_was_read_whole() -> None:
    table = (Path(__file__).parent / "config_wrong.txt").read_text("utf-8")
    assert len(WRONG) == len(re.findall("^===", table, re.MULTILINE)) > 80


def test_several_at_once(tmp_path: Path) -> None:
    """Of every sort, in the order of the file, secrets.toml's last."""
    text = """\
[site]
domain = "no domain"
timezone = "Mars/Olympus"
[[line]]
name = "a"
baud = "fast"
tariff = "t"
[schedule]
every = 3
windows = ["mon 08:00-09:00", "whenever", "mon 08:30-09:30"]
[[user]]
name = "u"
addresses = ["x", "u@h.example"]
[[user]]
name = "U"
addresses = ["U@H.example"]
password = "plain"
[[user.account]]
protocol = "pop"
"""
    assert errors(write(tmp_path, text, "n = 1")) == [
        "posthouse.toml:1: site.name: is missing; expected 1 to 63 of a-z 0-9 - .",
        'posthouse.toml:2: site.domain: "no domain" is no domain; expected a domain such as "harbour.example"',
        'posthouse.toml:3: site.timezone: "Mars/Olympus" is no time zone of this system; '
        'expected a zone such as "UTC" or "Asia/Tokyo"',
        'posthouse.toml:4: line[0].port: is missing; expected a device such as "/dev/ttyS1", for kind = "modem"',
        'posthouse.toml:4: line[0].numbers: is missing; expected at least one number to dial, for kind = "modem"',
        "posthouse.toml:6: line[0].baud: is a string; expected one of 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, "
        "57600, 115200, 230400, 460800, 921600, 1000000, 2000000, 3000000, 4000000",
        'posthouse.toml:7: line[0].tariff: "t" is no [[tariff]]\'s name; expected a [[tariff]], and there is none',
        f'posthouse.toml:9: schedule.every: is an integer; {DURATION}, or "" for none',
        f'posthouse.toml:10: schedule.windows[1]: "whenever" is no window; {PERIOD}',
        "posthouse.toml:10: schedule.windows[2]: overlaps schedule.windows[0]; expected windows apart from each other",
        'posthouse.toml:13: user[0].addresses[0]: "x" is no mail address; expected an address such as '
        '"hanako@harbour.example"',
        'posthouse.toml:15: user[1].name: "U" is user[0].name already; expected another one',
        'posthouse.toml:16: user[1].addresses[0]: "U@H.example" is user[0].addresses[1] already; expected another one',
        "posthouse.toml:17: user[1].password: is no $7$ string; expected what `posthouse passwd` prints",
        'posthouse.toml:18: user[1].account[0].host: is missing; expected a host such as "mail.isp.example"',
        "posthouse.toml:18: user[1].account[0].login: is missing; expected the login at the account's server",
        "posthouse.toml:18: user[1].account[0].secret: is missing; expected the name of the secret of this login",
        'posthouse.toml:19: user[1].account[0].protocol: unknown word "pop"; expected "imap" or "pop3"',
        "secrets.toml:1: n: is an integer; expected the secret as text in quotes",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\na = " + "1" * 5000, "1: toml: has a number that is too long; expected 64-bit integers"),
        ("a = " + "[" * 10_000, "1: toml: is nested too deeply; expected TOML 1.0"),
    ],
)
def test_beyond_the_parser(tmp_path: Path, text: str, line: str) -> None:
    assert errors(write(tmp_path, text)) == [f"posthouse.toml:{line}"]


def test_no_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, SITE)
    path.write_bytes(b'[site]\nname = "h\xe4fen"\n')
    assert errors(path) == ["posthouse.toml:2: toml: is no UTF-8 text; expected a file saved as UTF-8"]


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.toml"
    assert errors(path) == [
        "posthouse.toml:1: toml: can't be read: No such file or directory; expected a configuration file"
    ]
    path.mkdir()
    assert errors(path) == ["posthouse.toml:1: toml: can't be read: Is a directory; expected a configuration file"]


def test_what_is_shown_is_cleaned(tmp_path: Path) -> None:
    text = SITE + '[schedule]\nevery = "\\u001b[31m\\u202e' + "x" * 200 + '"\n"\\u0007" = 1'
    said = errors(write(tmp_path, text))
    assert len(said) == 2 and all(line.isprintable() and len(line) < 300 for line in said)
    assert said[1].startswith('posthouse.toml:6: schedule."\ufffd": unknown key; expected ')


VALUES = ["5", "-1", "9" * 30, "1.5", "nan", "true", '""', '"x"', '"*"', "[]", '[5, ""]', "{}", '{ a = "b" }', "[{}]"]
VALUES += ["1979-05-27", "07:30:00", '"\\u0000\\u202e"', '"1:1"', '"a@b"']


def headers(name: str) -> tuple[str, Table]:
    """What opens this table, and what it is."""
    text, path, table = "", "", ROOT
    for part in name.split(".") if name else []:
        path = f"{path}.{part}".lstrip(".")
        entry = table.entries[part]
        assert not isinstance(entry, Kind)
        text += f"[[{path}]]\n" if isinstance(entry, Tables) else f"[{path}]\n"
        table = entry.each if isinstance(entry, Tables) else entry
    return text, table


@pytest.mark.parametrize("name", [name for name, _ in tables()])
def test_any_value_anywhere_is_taken_or_refused(tmp_path: Path, name: str) -> None:
    text, table = headers(name)
    for key in table.entries:
        for value in VALUES:
            path = write(tmp_path, f"{text}{key} = {value}")
            try:
                load(path)
            except ConfigErrors as wrong:
                form = re.compile(rf"{re.escape(str(path))}:[123]: [\w.\[\]]+: .+; expected .+")
                assert all(form.fullmatch(w) and clean(w, 1000) == w for w in wrong.lines)


# Files that the configuration names


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("certificate", None, 'can\'t be read: No such file or directory; expected a PEM file with certificates'),
        ("certificate", "-----BEGIN PRIVATE KEY-----",
         "has no PEM certificate in it; expected a PEM file with certificates"),
        ("key", "-----BEGIN CERTIFICATE-----", "has no PEM private key in it; expected a PEM file with a key"),
        ("key", "-----BEGIN ENCRYPTED PRIVATE KEY-----",
         "is protected by a passphrase; expected a key that can be read without one"),
    ],
)  # fmt: skip
def test_wrong_pem_files(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    (tmp_path / "certificate.pem").write_text("-----BEGIN CERTIFICATE-----")
    (tmp_path / "key.pem").write_text("-----BEGIN EC PRIVATE KEY-----")
    file = tmp_path / f"{name}.pem"
    file.unlink() if content is None else file.write_text(content)
    path = write(tmp_path, SITE + '[mail]\ncertificate = "certificate.pem"\nkey = "key.pem"')
    (line,) = errors(path)
    assert line.startswith(f'posthouse.toml:{5 if name == "certificate" else 6}: mail.{name}: "')
    assert line.endswith(said)


@pytest.mark.parametrize(("has", "lacks"), [("certificate", "key"), ("key", "certificate")])
def test_a_certificate_without_its_key(tmp_path: Path, has: str, lacks: str) -> None:
    (tmp_path / "x.pem").write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----")
    (line,) = errors(write(tmp_path, SITE + f'[mail]\n{has} = "x.pem"'))
    assert line.startswith(f"posthouse.toml:4: mail.{lacks}: is missing; expected the PEM file with the ")
