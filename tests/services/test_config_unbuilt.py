"""What is configured but not built is said, each with its place; what is built, and keys that are not off by
default, are never refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.config.unbuilt import unbuilt
from fakes.config import HASH, LINE, SITE, write

TARIFF = '[[tariff]]\nname = "t"\ncurrency = "JPY"\nperiods = [{ unit = "3m", price = 10 }]\n'
ACCOUNT = '[[user]]\nname = "u"\n[[user.account]]\nhost = "h"\nlogin = "l"\nsecret = "s"\n'

UNBUILT = [
    ("[console]\nssh = true", ["console.ssh: the console over ssh"]),
]  # fmt: skip

BUILT = [
    "",
    '[alerts]\nto = "a@b.example"\nevery = "7d"',
    '[leds]\npower = "a"\nline = "b"\nmail = "c"\nfault = "d"',
    '[[interface]]\nname = "lan"\ndevice = "br"\nports = ["e0"]\naddresses = ["10.0.0.1/24"]\ndhcp = true\nmtu = 1400\n'
    'routes = ["10.0.0.0/8 via 10.0.0.9"]\n[[interface]]\nname = "lan2"\ndevice = "e1"\naddresses = ["10.1.0.1/24"]\n'
    'dhcp_pool = "10.1.0.2-10.1.0.3"',
    LINE,  # bearer is "ppp" by default
    LINE + 'profile = "gsm"\napn = "internet"\npin = "pin"\npower_gpio = "gpiochip0:17"',
    '[[line]]\nname = "gsm"\nport = "/dev/ttyUSB2"\nprofile = "gsm"',
    LINE + 'profile = "iridium"',
    LINE + 'ppp_login = "l"\nppp_secret = "s"',
    '[[line]]\nname = "w"\nkind = "interface"\ndevice = "wwan0"',
    LINE + 'bearer = "none"\ncountry = "jp"\nattempts = 15\ninit = []\nflow = "none"',
    '[schedule]\nat = ["07:30"]\nevery = "2h"\nqueued_messages = 1\nqueued_size = "1MiB"\noldest_message = "1h"\n'
    'windows = ["mon 08:00-09:00"]\nurgent = false',
    '[mail]\nsmtp = ["127.0.0.1:0"]\npop3 = ["127.0.0.1:0"]\nimap = true\nfetch_limit = "5KiB"\nwarn_after = "1h"\n'
    'unknown = "upstream"\ntrusted_networks = ["127.0.0.0/8"]\nplaintext_login = true\n'
    '[[mail.alias]]\naddress = "a@harbour.example"\nto = ["b@c.example"]\n[[mail.smarthost]]\nhost = "h"',
    '[budget]\nurgent_reserve = 0\nper_day = ""',
    LINE + 'tariff = "t"\n' + TARIFF + "[budget]\nper_day = 5\nper_month = 50\nurgent_reserve = 1",
    "[schedule]\nconnection_request = true",
    '[[relay.peer]]\nname = "hub"\nsecret = "hex"',
    '[relay]\nlisten = ["127.0.0.1:7400"]\n[[relay.account]]\nname = "pc1"\n[[relay.device]]\nname = "plc1"',
    '[relay]\nduplicate_login = "refuse"\nforget_after = "1d"\nidle_limit = ""\n[console]\nidle = "1m"\n'
    f'password = "{HASH}"',
    ACCOUNT + 'protocol = "pop3"\nkeep = true\nbacklog = "all"\nfolder = "INBOX"\n',
    ACCOUNT + 'folder = "Lists"\nbacklog = "5d"\nsent_folder = "Sent"\n',
    '[[user]]\nname = "u"\nquota = "500MiB"',
    ACCOUNT + 'check_every = "1d"',
]


SECRETS = f's = "x"\npin = "0123"\nhex = "{"ab" * 32}"'


@pytest.mark.parametrize(("text", "sentences"), UNBUILT)
def test_unbuilt(tmp_path: Path, text: str, sentences: list[str]) -> None:
    config = load(write(tmp_path, SITE + text, SECRETS))  # `check` finds no fault
    assert unbuilt(config) == [f"{s} is not built yet" for s in sentences]


@pytest.mark.parametrize("text", BUILT)
def test_built(tmp_path: Path, text: str) -> None:
    assert unbuilt(load(write(tmp_path, SITE + text, SECRETS))) == []


def test_the_documentation_names_them(tmp_path: Path) -> None:
    """docs/configuration.md lists the same features as not built."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    section = page.partition("## What this version does not act on")[2].partition("\n## ")[0]
    for _, sentences in UNBUILT:
        for sentence in sentences:
            key = sentence.partition(": ")[0].replace("[0]", "")
            assert f"`{key}`" in section, key
