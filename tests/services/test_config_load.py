"""Files that are right: what the model holds of them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.config.model import Bearer, Config, LineKind, Tls, Window
from appliance.config.schema import attribute, tables
from fakes.config import HASH, LINE, SITE, write

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
    text += "[[user]]\nname = 'u'\n"
    text += "account = [{ protocol = 'pop3', host = '::1', login = 'u', secret = 's', backlog = 'all' }]"
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
