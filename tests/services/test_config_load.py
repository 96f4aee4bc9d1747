"""Whole files: what is in them, and every line that a wrong one gets."""

from __future__ import annotations

import stat
from dataclasses import fields, is_dataclass
from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest

from appliance.config.load import ConfigErrors, load
from appliance.config.model import Bearer, Config, LineKind, Tls, Window
from appliance.config.schema import attribute, tables

HASH = "$7$C6..../....yOCHGXdqOV2N9hxQJDdRS.$DEaIJMDEM2OFuEr49MsY9TJtbBE1DWKYbvbsCODZWs/"
SITE = '[site]\nname = "harbour"\ndomain = "harbour.example"\n'
LINE = '[[line]]\nname = "pstn"\nport = "/dev/ttyS1"\nnumbers = ["1"]\n'
"""A whole line in 4 lines."""

WHOLE = """
[site]
name = "harbour"
domain = "harbour.example"
state = "/var/lib/posthouse"
runtime = "/run/posthouse"
timezone = "Asia/Tokyo"

[[interface]]
name = "lan"
device = "br-lan"
ports = ["eth0", "eth1"]
addresses = ["192.168.77.1/24"]
dhcp = false
routes = ["10.0.0.0/8 via 192.168.77.254"]
mtu = 0

dhcp_pool = "192.168.77.100-192.168.77.199"

[firewall]
forward = ["192.168.77.20 tcp 443"]

[[line]]
name = "pstn"
kind = "modem"
device = ""
port = "/dev/ttyS1"
baud = 115200
flow = "hardware"
profile = "hayes"
init = ["ATZ", "ATE0Q0V1X4&C1&D2"]
numbers = ["0570000111"]
dial_timeout = "60s"
attempts = 3
redial_wait = "5s"
country = ""
bearer = "ppp"
ppp_login = ""
ppp_secret = ""
apn = ""
pin = ""
power_gpio = "gpiochip0:17"
wake_numbers = []
tariff = "pstn"

[schedule]
urgent = true
connection_request = false
at = ["07:30", "18:00"]
every = "2h"
queued_messages = 0
queued_size = ""
oldest_message = ""
windows = ["mon-fri 07:00-22:00", "sat 22:00-02:00"]
min_gap = "10m"
retry = ["1m", "5m", "15m", "1h"]
linger = "2s"
max_call = "30m"

[[tariff]]
name = "pstn"
currency = "JPY"
setup = 0
minimum = "0s"
periods = [ { days = "mon-fri", from = "08:00", to = "23:00", unit = "180s", price = 10 },
            { unit = "240s", price = "8.5" } ]
billed_before_connect = "0s"
hangup_margin = "3s"
free_per_month = "0s"
month_day = 1
volume_unit = ""
volume_price = 0
fill_unit = true

[budget]
per_day = ""
per_month = "3000"
urgent_reserve = 500

[mail]
smtp = ["192.168.77.1:25", "192.168.77.1:587", "192.168.77.1:465"]
pop3 = ["192.168.77.1:110", "192.168.77.1:995"]
imap = false
certificate = ""
key = ""
require_login = true
plaintext_login = false
trusted_networks = []
message_limit = "20MiB"
recipient_limit = 1000
client_limit = 100
session_limit = 500
idle_timeout = "5m"
unknown = "reject"
postmaster = ""
warn_after = "24h"
give_up_after = "5d"
bulk_size = "1MiB"
bulk_max_age = "24h"
fetch_limit = "100KiB"
[[mail.alias]]
address = "office@harbour.example"
to = ["hanako"]
[[mail.smarthost]]
host = "smtp.isp.example"
port = 465
tls = "implicit"
ca = ""
login = ""
secret = ""
senders = ["*"]

[[user]]
name = "hanako"
password = "HASH"
addresses = ["hanako@harbour.example", "hanako@isp.example"]
quota = ""
  [[user.account]]
  protocol = "imap"
  host = "mail.isp.example"
  port = 993
  tls = "implicit"
  ca = ""
  login = "hanako"
  secret = "hanako-isp"
  folder = "INBOX"
  sent_folder = ""
  keep = false
  backlog = "0d"
  check_every = ""

[relay]
listen = ["0.0.0.0:7400"]
duplicate_login = "replace"
forget_after = "7d"
idle_limit = "1h"
  [[relay.peer]]
  name = "hub"
  address = ""
  fingerprint = ""
  secret = "peer-hub"
  connect = "call"
  terminals = ["*"]
  [[relay.account]]
  name = "pc11"
  password = "HASH"
  may_call = ["*"]
  callers = []
  roams = false
  [[relay.device]]
  name = "plc1"
  services = { modbus = "192.168.77.20:502" }
  callers = []

[alerts]
to = ""
every = ""
[console]
password = ""
idle = "10m"
ssh = false
[leds]
power = ""
line = ""
mail = ""
fault = ""
""".replace("HASH", HASH)
WHOLE_SECRETS = f'hanako-isp = "isp-word"\npeer-hub = "{"0f" * 32}"\nunused = "x"\n'


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def write(folder: Path, text: str, secrets: str | None = None) -> Path:
    path = folder / "posthouse.toml"
    path.write_text(text, "utf-8")
    if secrets is not None:
        (folder / "secrets.toml").write_text(secrets, "utf-8")
        (folder / "secrets.toml").chmod(0o600)
    return path


def errors(path: Path) -> list[str]:
    """The lines, without the folder."""
    with pytest.raises(ConfigErrors) as raised:
        load(path)
    assert str(raised.value) == "\n".join(raised.value.lines)
    return [line.replace(f"{path.parent}/", "") for line in raised.value.lines]


# Good files


def test_the_smallest(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[site]\nname = "harbour"'))
    assert config == Config(site=config.site)
    assert (config.site.name, config.site.domain, config.site.state) == ("harbour", "", Path("/var/lib/posthouse"))


def test_the_whole(tmp_path: Path) -> None:
    config = load(write(tmp_path, WHOLE, WHOLE_SECRETS))
    line, schedule, tariff, user = config.line[0], config.schedule, config.tariff[0], config.user[0]
    assert config.interface[0].dhcp_pool == "192.168.77.100-192.168.77.199"
    assert (line.kind, line.bearer, line.init) == (LineKind.MODEM, Bearer.PPP, ("ATZ", "ATE0Q0V1X4&C1&D2"))
    assert (schedule.at, schedule.every_s, schedule.queued_size_bytes) == ((time(7, 30), time(18)), 7200.0, None)
    assert schedule.windows[1] == Window(frozenset({5}), time(22), time(2))
    assert [(p.unit_s, p.price, p.start) for p in tariff.periods] == [
        (180.0, Decimal(10), time(8)),
        (240.0, Decimal("8.5"), None),
    ]
    assert (config.budget.per_day, config.budget.per_month) == (None, Decimal(3000))
    assert (config.mail.message_limit_bytes, config.mail.fetch_limit_bytes) == (20 << 20, 100 << 10)
    assert config.mail.alias[0].to == ("hanako",)
    assert (config.mail.smarthost[0].tls, config.mail.smarthost[0].senders) == (Tls.IMPLICIT, ("*",))
    assert (user.account[0].backlog_s, user.account[0].check_every_s, user.quota_bytes) == (0.0, None, None)
    assert config.relay.device[0].services == (("modbus", "192.168.77.20:502"),)
    assert config.secrets == {"hanako-isp": "isp-word", "peer-hub": "0f" * 32}  # those that are named
    assert "isp-word" not in repr(config) and HASH not in repr(config)


def test_written_by_a_program(tmp_path: Path) -> None:
    """Inline where a person writes tables, and CRLF, and a byte order mark."""
    text = (
        SITE
        + LINE
        + "bearer = 'none'\nflow = 'none'\n[mail]\nsmarthost = [{ host = '127.0.0.1', port = 2525, tls = 'none' }]\n"
    )
    text += "[[user]]\nname = 'u'\naccount = [{ protocol = 'pop3', host = '::1', login = 'u', secret = 's', backlog = 'all' }]"
    path = write(tmp_path, "\ufeff" + text.replace("\n", "\r\n"), "s = 'x'")
    config = load(path)
    account = config.user[0].account[0]
    assert (account.port, account.backlog_s, account.keep) == (995, None, False)
    assert config.line[0].bearer is Bearer.NONE


@pytest.mark.parametrize(
    ("protocol", "tls", "port"),
    [("imap", "implicit", 993), ("pop3", "implicit", 995), ("imap", "starttls", 143), ("pop3", "none", 110)],
)
def test_an_accounts_port_follows_its_protocol(tmp_path: Path, protocol: str, tls: str, port: int) -> None:
    account = f"[[user.account]]\nhost='h'\nlogin='l'\nsecret='s'\nprotocol='{protocol}'\ntls='{tls}'"
    config = load(write(tmp_path, SITE + "[[user]]\nname='u'\n" + account, "s = 'x'"))
    assert config.user[0].account[0].port == port


@pytest.mark.parametrize(
    ("key", "word"),
    [("kind", "modem"), ("flow", "hardware"), ("flow", "none"), ("profile", "hayes"), ("profile", "gsm"),
     ("profile", "iridium"), ("country", ""), ("country", "jp"), ("country", "us"), ("country", "eu"),
     ("bearer", "ppp"), ("bearer", "none")],
)  # fmt: skip
def test_words_of_a_line(tmp_path: Path, key: str, word: str) -> None:
    assert getattr(load(write(tmp_path, SITE + LINE + f'{key} = "{word}"')).line[0], key) == word


def test_other_words(tmp_path: Path) -> None:
    for tls in Tls:
        text = f'[[mail.smarthost]]\nhost = "h"\nport = 25\ntls = "{tls}"'
        assert load(write(tmp_path, SITE + text)).mail.smarthost[0].tls is tls
    for word in ("reject", "upstream", "hanako"):
        text = f'[mail]\nunknown = "{word}"\n[[user]]\nname = "hanako"'
        assert load(write(tmp_path, SITE + text)).mail.unknown == word
    for word in ("replace", "refuse"):
        assert load(write(tmp_path, SITE + f'[relay]\nduplicate_login = "{word}"')).relay.duplicate_login == word
    for word in ("always", "call", "never"):
        text = f'[[relay.peer]]\nname = "hub"\nsecret = "s"\nconnect = "{word}"'
        assert load(write(tmp_path, SITE + text, f's = "{"00" * 32}"')).relay.peer[0].connect == word
    assert (
        load(write(tmp_path, SITE + '[[line]]\nname="l"\nkind="interface"\ndevice="wwan0"')).line[0].device == "wwan0"
    )


def test_paths_are_relative_to_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    (folder / "tls").mkdir(parents=True)
    (folder / "tls" / "c.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (folder / "tls" / "k.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    text = SITE + 'state = "state"\n[mail]\ncertificate = "tls/c.pem"\nkey = "tls/k.pem"\n'
    write(folder, text + '[[mail.smarthost]]\nhost = "h"\nca = "tls/c.pem"\nlogin = "l"\nsecret = "s"', "s = 'x'")
    monkeypatch.chdir(tmp_path)
    config = load(Path("etc/posthouse.toml"))
    assert config.mail.certificate == config.mail.smarthost[0].ca == str(folder / "tls" / "c.pem")
    assert config.site.state == folder / "state"
    assert config.secrets == {"s": "x"}


def test_the_schema_is_the_models() -> None:
    """Every field of every dataclass has its key, and every key its field."""
    seen = set()
    for name, table in tables():
        assert is_dataclass(table.target)
        named = [attribute(key, entry) for key, entry in table.entries.items()]
        assert sorted(named) == sorted({f.name for f in fields(table.target)} - {"secrets"}), name
        seen.add(name)
    assert {"site", "tariff.periods", "mail.alias", "user.account", "relay.device"} <= seen


# Wrong files: what stands behind [site] and the two keys of SITE, so from line 4 on; and every error line

HAYES = '"hayes", "gsm" or "iridium"'
USER = '[[user]]\nname = "hanako"\naddresses = ["hanako@harbour.example"]\n'
ACCOUNT = '[[user.account]]\nprotocol = "pop3"\nhost = "h"\nlogin = "l"\nsecret = "s"\n'
DURATION = 'expected a duration such as "90s", "10m", "2h" or "5d"'
PERIOD = 'expected a window such as "mon-fri 07:00-22:00" or "sat 22:00-02:00"'

WRONG: list[tuple[str, list[str]]] = [
    # Unknown keys
    ("[schedule]\nevry = '2h'", ['5: schedule.evry: unknown key; expected "every"']),
    ("[schedule]\nMin-Gap = '2h'", ['5: schedule.Min-Gap: unknown key; expected "min_gap"']),
    ("[shedule]\nevery = '2h'", ['4: shedule: unknown key; expected "schedule"']),
    ("[firewall]\nxyzzy = 1", ['5: firewall.xyzzy: unknown key; expected "forward"']),
    ("[budget]\nzz = 1", ['5: budget.zz: unknown key; expected "per_day", "per_month" or "urgent_reserve"']),
    (
        "[[mail.alias]]\naddress = 'a@b.example'\nto = ['c@d.example']\nplaintext_login = true",
        ["7: mail.alias[0].plaintext_login: unknown key; expected it in [mail]"],
    ),
    ("[site.'x y']\na = 1", ['4: site."x y": unknown key; expected "domain", "name", "runtime", "state" or "timezone"']),
    # Types
    ("[schedule]\nevery = 2", [f'5: schedule.every: is an integer; {DURATION}, or "" for none']),
    ("[schedule]\nurgent = 'yes'", ["5: schedule.urgent: is a string; expected true or false"]),
    ("[schedule]\nat = '07:30'", ['5: schedule.at: is a string; expected an array, each a time of day such as "07:30"']),
    ("[schedule]\nat = [07:30:00]", ['5: schedule.at[0]: is a date or time; expected a time of day such as "07:30"']),
    ("[schedule]\nqueued_messages = true", ["5: schedule.queued_messages: is a boolean; expected an integer from 0 to 1000000"]),
    ("[line]\nname = 'pstn'", ["4: line: is a table; expected tables [[line]]"]),
    ("[[schedule]]\nurgent = true", ["4: schedule: is an array; expected one table [schedule]"]),
    ("[[user]]\nname = 'u'\naccount = 'pop3'", ["6: user[0].account: is a string; expected tables [[user.account]]"]),
    ("[mail]\nalias = ['a']", ["5: mail.alias[0]: is a string; expected tables [[mail.alias]]"]),
    ("[tariff]", ["4: tariff: is a table; expected tables [[tariff]]"]),
    (
        "[[tariff]]\nname = 't'\ncurrency = 'JPY'\nperiods = [{ unit = '60s', price = 0.15 }]",
        ['7: tariff[0].periods[0].price: is a float; expected an integer or a decimal string such as "0.15"'],
    ),
    # Values: one of each way to be wrong; test_config_units has the rest
    ("[schedule]\nevery = '2 hours'", [f'5: schedule.every: "2 hours" is no duration; {DURATION}, or "" for none']),
    ("[schedule]\nevery = '0s'", ['5: schedule.every: "0s" is too short; expected 1s or more']),
    ("[mail]\nmessage_limit = '20MB'", ['5: mail.message_limit: "20MB" is no size; expected a size such as "500B", "200KiB", "20MiB" or "2GiB"']),
    ("[schedule]\nat = [\n'07:30',\n'25:00']", ['7: schedule.at[1]: "25:00" is no time of day; expected a time of day such as "07:30"']),
    ("[mail]\nrecipient_limit = 0", ["5: mail.recipient_limit: 0 is out of range; expected an integer from 1 to 1000000"]),
    (LINE + "profile = 'hays'", [f'8: line[0].profile: unknown word "hays"; expected {HAYES}']),
    (LINE + "kind = 'modern'", ['8: line[0].kind: unknown word "modern"; expected "modem" or "interface"']),
    (LINE + "country = 'de'", ['8: line[0].country: unknown word "de"; expected "", "jp", "us" or "eu"']),
    (LINE + "bearer = 'slip'", ['8: line[0].bearer: unknown word "slip"; expected "ppp" or "none"']),
    (LINE + "flow = 'xon'", ['8: line[0].flow: unknown word "xon"; expected "hardware" or "none"']),
    (LINE + "baud = 115000", [
        "8: line[0].baud: 115000 is no rate of a serial port; expected one of 300, 600, 1200, 2400, 4800, 9600, 19200, "
        "38400, 57600, 115200, 230400, 460800, 921600, 1000000, 2000000, 3000000, 4000000"]),
    ("[[mail.smarthost]]\nhost = 'h'\ntls = 'ssl'", ['6: mail.smarthost[0].tls: unknown word "ssl"; expected "implicit", "starttls" or "none"']),
    ("[relay]\nduplicate_login = 'x'", ['5: relay.duplicate_login: unknown word "x"; expected "replace" or "refuse"']),
    (USER + ACCOUNT + "backlog = 'everything'", ['12: user[0].account[0].backlog: "everything" is no duration; expected a duration such as "0d" or "30d", or "all"']),
    ("[[interface]]\nname = 'lan'\ndevice = 'eth0'\nmtu = 20", ["7: interface[0].mtu: 20 is out of range; expected 0 for the device's own, or 68 to 65535"]),
    # Missing
    ("[[line]]\nport = '/dev/ttyS1'\nnumbers = ['1']", ["4: line[0].name: is missing; expected a name of letters, digits and - . _"]),
    ("[[line]]\nname = 'a'", [
        '4: line[0].port: is missing; expected a device such as "/dev/ttyS1", for kind = "modem"',
        '4: line[0].numbers: is missing; expected at least one number to dial, for kind = "modem"']),
    ("[[line]]\nname = 'a'\nkind = 'interface'", ['4: line[0].device: is missing; expected a network device such as "wwan0", for kind = "interface"']),
    ("[[mail.alias]]\naddress = 'a@b.example'", ["4: mail.alias[0].to: is missing; expected an array, each a user's name or a mail address"]),
    ("[[user.account]]", ["4: user: is a table; expected tables [[user]]"]),
    # References
    (LINE + "tariff = 'pstm'\n[[tariff]]\nname = 'pstn'\ncurrency = 'JPY'\nperiods = [{ unit = '3m', price = 10 }]",
     ['8: line[0].tariff: "pstm" is no [[tariff]]\'s name; expected "pstn"']),
    (LINE + "tariff = 'x'", ['8: line[0].tariff: "x" is no [[tariff]]\'s name; expected a [[tariff]], and there is none']),
    ("[mail]\npostmaster = 'hanoko'\n" + USER, ['5: mail.postmaster: "hanoko" is no user\'s name; expected "hanako"']),
    ("[mail]\nunknown = 'x'\n" + USER, ['5: mail.unknown: "x" is no user\'s name; expected "reject", "upstream" or "hanako"']),
    ("[mail]\nunknown = 'a b'", ['5: mail.unknown: unknown word "a b"; expected "reject", "upstream" or a user\'s name']),
    ("[[mail.alias]]\naddress = 'o@harbour.example'\nto = ['taro']\n" + USER, ['6: mail.alias[0].to[0]: "taro" is no user\'s name; expected "hanako"']),
    # Twice
    (USER + "[[user]]\nname = 'Hanako'\naddresses = ['HANAKO@harbour.example']", [
        '8: user[1].name: "Hanako" is user[0].name already; expected another one',
        '9: user[1].addresses[0]: "HANAKO@harbour.example" is user[0].addresses[0] already; expected another one']),
    (LINE + LINE, ['9: line[1].name: "pstn" is line[0].name already; expected another one']),
    ("[schedule]\nat = ['07:30', '7:30']", ['5: schedule.at[1]: "07:30" is schedule.at[0] already; expected another one']),
    ("[[mail.alias]]\naddress = 'Hanako@harbour.example'\nto = ['hanako']\n" + USER,
     ['5: mail.alias[0].address: "Hanako@harbour.example" is an address of user[0]; expected another one']),
    (USER + ACCOUNT + ACCOUNT, ["12: user[0].account[1]: is the same maildrop as user[0].account[0]; expected each maildrop once"]),
    ("[mail]\nsmtp = ['127.0.0.1:25', '0.0.0.0:25']\npop3 = ['[::]:25', '[::1]:25']", [
        '5: mail.smtp[1]: "0.0.0.0:25" is taken by mail.smtp[0] already; expected another port or address',
        '6: mail.pop3[1]: "[::1]:25" is taken by mail.pop3[0] already; expected another port or address']),
    ("[[relay.account]]\nname = 'pc1'\n[[relay.device]]\nname = 'pc1'",
     ['7: relay.device[0].name: "pc1" is relay.account[0].name already; expected another one']),
    ("[[interface]]\nname = 'a'\ndevice = 'br0'\nports = ['eth0']\n[[interface]]\nname = 'b'\ndevice = 'eth0'",
     ['10: interface[1].device: "eth0" is interface[0].ports[0] already; expected another one']),
    # What goes together
    ("[schedule]\nwindows = ['mon-fri 07:00-22:00', 'fri 21:00-23:00']",
     ["5: schedule.windows[1]: overlaps schedule.windows[0]; expected windows apart from each other"]),
    ("[schedule]\nwindows = ['mon 00:00-01:00', 'sun 23:00-00:30']",
     ["5: schedule.windows[1]: overlaps schedule.windows[0]; expected windows apart from each other"]),
    ("[schedule]\nretry = []", ['5: schedule.retry: is missing; expected at least one duration, such as ["1m", "5m", "15m", "1h"]']),
    (LINE + "ppp_login = 'x'", ["4: line[0].ppp_secret: is missing; expected the name of the secret of ppp_login"]),
    ("[[mail.smarthost]]\nhost = 'h'\nlogin = 'x'", ["4: mail.smarthost[0].secret: is missing; expected the name of the secret of this login"]),
    ("[[mail.smarthost]]\nhost = 'h'\nsecret = 's'", ["4: mail.smarthost[0].login: is missing; expected the login that the secret is for"]),
    ("[[mail.smarthost]]\nhost = 'h'\ntls = 'starttls'", ['6: mail.smarthost[0].tls: port 465 is TLS from the first byte; expected "implicit", or another port']),
    ("[[user]]\nname = 'u'\n[[user.account]]\nhost = 'h'", [
        "6: user[0].account[0].login: is missing; expected the login at the account's server",
        "6: user[0].account[0].secret: is missing; expected the name of the secret of this login"]),
    ("[[user]]\nname = 'reject'", ['5: user[0].name: "reject" is a word of mail.unknown; expected another name']),
    ("[[mail.alias]]\naddress = 'a@x.example'\nto = ['B@x.example']\n[[mail.alias]]\naddress = 'b@x.example'\nto = ['A@x.example']", [
        '6: mail.alias[0].to: leads back to "a@x.example"; expected users or addresses that are not this alias',
        '9: mail.alias[1].to: leads back to "b@x.example"; expected users or addresses that are not this alias']),
    ("[[relay.peer]]\nname = 'hub'\naddress = 'hub.example:7400'\nsecret = 'hex'",
     ["4: relay.peer[0].fingerprint: is missing; expected the peer's, as its `posthouse status` prints it"]),
    ("[[relay.peer]]\nname = 'harbour'", [
        "4: relay.peer[0].secret: is missing; expected the name of the secret shared with this peer",
        '5: relay.peer[0].name: "harbour" is this relay server\'s own name, site.name; expected the other one\'s']),
    ("[[relay.device]]\nname = 'plc1'\nservices = { modbus = 'x', Web = '10.0.0.1:80' }",
     ['6: relay.device[0].services.modbus: "x" is no HOST:PORT; expected a host and a port such as "hub.example:7400"']),
    ("[alerts]\nevery = '7d'", ["4: alerts.to: is missing; expected the address that they are sent to"]),
    ("[budget]\nurgent_reserve = 5", ["4: budget.per_month: is missing; expected what urgent_reserve is a part of"]),
    ("[budget]\nper_month = 5\nurgent_reserve = 6", ["6: budget.urgent_reserve: is more than per_month; expected a part of it"]),
    ("[[tariff]]\nname = 't'\ncurrency = 'EUR'", ["4: tariff[0].periods: is missing; expected what a unit of time costs, or volume_unit and volume_price"]),
    ("[[tariff]]\nname = 't'\ncurrency = 'EUR'\nvolume_price = 1\nperiods = [\n{ days = 'mon-fri', unit = '1m', price = 1 }\n]", [
        "4: tariff[0].volume_unit: is missing; expected what volume_price is for, such as \"10KiB\"",
        "8: tariff[0].periods: nothing holds on sat at 00:00; expected a last one without days, from and to"]),
    ("[[tariff]]\nname = 't'\ncurrency = 'EUR'\nperiods = [\n{ unit = '1m', price = 1 },\n{ days = 'mon', from = '08:00', to = '09:00', unit = '1m', price = 2 }\n]",
     ["9: tariff[0].periods[1]: never applies: those before it cover all of it; expected the special ones first"]),
    ("[[tariff]]\nname = 't'\ncurrency = 'EUR'\nperiods = [{ from = '08:00', unit = '1m', price = 1 }]",
     ["7: tariff[0].periods[0].to: is missing; expected both from and to, or neither"]),
    ("[[interface]]\nname = 'a'\ndevice = 'br0'\naddresses = ['10.0.0.1/24']\ndhcp_pool = '10.0.1.5-10.0.1.9'",
     ["8: interface[0].dhcp_pool: is in no network of interface.addresses; expected a range within one of them"]),
    ("[[interface]]\nname = 'a'\ndevice = 'br0'\naddresses = ['10.0.0.1/24']\ndhcp = true\ndhcp_pool = '10.0.0.5-10.0.0.9'",
     ["9: interface[0].dhcp_pool: dhcp = true makes this interface a client; expected no pool, or dhcp = false"]),
    # Secrets and passwords
    ("[[mail.smarthost]]\nhost = 'h'\nlogin = 'l'\nsecret = 'hunter2'",
     ["7: mail.smarthost[0].secret: names no secret of secrets.toml; expected the name of one that stands there"]),
    ("[[relay.peer]]\nname = 'hub'\nsecret = 's'",
     ["6: relay.peer[0].secret: the secret that it names has a wrong form; expected 32 bytes in hex: 64 digits"]),
    (LINE + "pin = 's'", ["8: line[0].pin: the secret that it names has a wrong form; expected 4 to 8 digits"]),
    ("[console]\npassword = 'hunter2'", ["5: console.password: is no $7$ string; expected what `posthouse passwd` prints"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), WRONG)
def test_wrong(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = write(tmp_path, SITE + text, f'hex = "{"00" * 32}"\ns = "secret-value"')
    said = errors(path)
    assert said == [f"posthouse.toml:{line}" for line in lines]
    assert "hunter2" not in str(said) and "secret-value" not in str(said)


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
        ("", "1: site: is missing; expected one table [site]"),
        ("site = 5", "1: site: is an integer; expected one table [site]"),
        ('[site]\nname = "h"\n[[user]]\nname="u"', "1: site.domain: is missing; expected the domain whose mail is delivered here, as there is mail"),
        ('[site]\nname = "h"\nruntime = "/x"\nstate = "/x"', "3: site.runtime: is the same folder as site.state; expected another one, that a restart may empty"),
        ('[site]\nname = "h"\nstate = ""', "3: site.state: is empty; expected a folder"),
        # Not TOML
        ('[site]\nname = "h"\n\n[schedule]\nevery = 2h', '5: schedule.every: expected newline or end of document after a statement at column 10; expected one KEY = VALUE a line, text in quotes, such as every = "2h"'),
        ("[site]\nname = harbour", '2: site.name: invalid value at column 8; expected a value: text in quotes such as "2h", a number, true, false or an [array]'),
        ("[site]\nname = 'a'\nname = 'b'", "3: site.name: cannot overwrite a value at the end of the file; expected each key once in its table"),
        ("[site]\nname = 'a'\n[site]", "3: site: cannot declare ('site',) twice at column 6; expected each [table] once, and [[table]] for one of several"),
        ("[site]\nname", "2: site.name: expected '=' after a key in a key/value pair at the end of the file; expected KEY = VALUE"),
        ("[mail]\nsmtp = ['127.0.0.1:25'\n\n", "2: mail.smtp[0]: unclosed array at the end of the file; expected ] at the array's end, and commas between its elements"),
        ("]", "1: toml: invalid statement at column 1; expected KEY = VALUE, [table] or [[table]]"),
        ("\na = " + "1" * 5000, "1: toml: has a number that is too long; expected 64-bit integers"),
        ("a = " + "[" * 10_000, "1: toml: is nested too deeply; expected TOML 1.0"),
    ],
)  # fmt: skip
def test_wrong_as_a_whole(tmp_path: Path, text: str, line: str) -> None:
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


# Files that the configuration names


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("certificate", None, 'can\'t be read: No such file or directory; expected a PEM file with certificates'),
        ("certificate", "-----BEGIN PRIVATE KEY-----", "has no PEM certificate in it; expected a PEM file with certificates"),
        ("key", "-----BEGIN CERTIFICATE-----", "has no PEM private key in it; expected a PEM file with a key"),
        ("key", "-----BEGIN ENCRYPTED PRIVATE KEY-----", "is protected by a passphrase; expected a key that can be read without one"),
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


# secrets.toml and systemd's credentials

SMARTHOST = SITE + '[[mail.smarthost]]\nhost = "h"\nlogin = "l"\nsecret = "isp"'
NO_SECRET = (
    "posthouse.toml:7: mail.smarthost[0].secret: names no secret of secrets.toml; "
    "expected the name of one that stands there"
)


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
    assert errors(write(tmp_path, SMARTHOST, secrets)) == [NO_SECRET, line]


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
