"""The firewall's rules as text, and what keeps them in force: simulated time, a firewall in software."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from appliance.app.firewall import rules_of
from appliance.config.load import load
from appliance.network.firewall import REFUSE, SBIN, Rules, ruleset
from appliance.network.guard import Guard

CLOSED = Rules(lan=("br-lan",), lines=("posthouse*", "wwan0"), mail=(25, 110), relay=(), forward=(), users=(106, 107))
OPENED = replace(CLOSED, relay=(7400,), forward=("192.168.77.20 tcp 443", "fd00:77::/64 udp 123"))


def chain(text: str, name: str) -> list[str]:
    body = text.partition(f"chain {name} {{\n")[2].partition("\t}")[0]
    return [line.strip() for line in body.splitlines()]


def test_closed_nothing_comes_from_the_line_and_nothing_of_the_lan_gets_onto_it() -> None:
    text = ruleset(CLOSED)
    assert chain(text, "from_line")[0] == "iifname != @open drop"
    assert chain(text, "from_line")[-1] == "drop"
    assert not [rule for rule in chain(text, "from_line") if "dport" in rule]
    assert not [rule for rule in chain(text, "forward") if "ct state new" in rule]
    assert not [rule for rule in chain(text, "postrouting") if "masquerade" in rule]
    assert "policy drop" in chain(text, "input")[0] and "policy drop" in chain(text, "forward")[0]


def test_opened_is_what_is_configured() -> None:
    text = ruleset(OPENED)
    assert "tcp dport { 7400 } ct state new accept" in chain(text, "from_line")
    assert chain(text, "forward")[-3:-1] == [
        'iifname { "br-lan" } oifname @open ip saddr 192.168.77.20 tcp dport 443 ct state new accept',
        'iifname { "br-lan" } oifname @open ip6 saddr fd00:77::/64 udp dport 123 ct state new accept',
    ]
    assert chain(text, "postrouting")[-1] == 'iifname { "br-lan" } oifname @open masquerade'


def test_the_line_is_for_posthouse_and_chrony() -> None:
    assert chain(ruleset(CLOSED), "to_line")[-2:] == ["meta skuid { 106, 107 } accept", REFUSE]
    assert chain(ruleset(CLOSED), "output")[1] == 'oifname { "posthouse*", "wwan0" } jump to_line'


def test_the_lan_has_mail_relay_dns_dhcp_and_ssh() -> None:
    rules = chain(ruleset(OPENED), "from_lan")
    assert "tcp dport { 22, 25, 53, 110, 7400 } ct state new accept" in rules
    assert "udp dport { 53, 67, 68 } accept" in rules
    assert rules[-1] == REFUSE


def test_a_line_whose_device_is_managed_too_is_no_lan(tmp_path: Path) -> None:
    """`iifname LAN oifname LAN accept` would let everybody on the LAN through to it, call or not."""
    file = tmp_path / "posthouse.toml"
    file.write_text(
        '[site]\nname = "harbour"\n[[interface]]\nname = "lan"\ndevice = "br-lan"\n[[interface]]\nname = "wan"\n'
        'device = "w0"\ndhcp = true\n[[line]]\nname = "wan"\nkind = "interface"\ndevice = "w0"\n'
    )
    made = rules_of(load(file))
    assert made is not None
    assert (made.lan, made.lines, made.leased) == (("br-lan",), ("posthouse*", "w0"), ("w0",))
    text = ruleset(made)
    assert 'iifname { "br-lan" } oifname { "br-lan" } accept' in chain(text, "forward")
    # Its lease is renewed without a call too.
    assert chain(text, "from_line")[:2] == [
        'iifname { "w0" } udp sport 67 udp dport 68 accept', "iifname != @open drop"
    ]  # fmt: skip
    assert chain(text, "to_line")[:2] == [
        'oifname { "w0" } udp sport 68 udp dport 67 accept',
        f"oifname != @open {REFUSE}",
    ]


@pytest.mark.parametrize(
    "rules",
    [CLOSED, OPENED, replace(CLOSED, leased=("wwan0",)), replace(OPENED, lines=(), users=()), replace(OPENED, lan=())],
)
def test_nft_takes_every_text(rules: Rules) -> None:
    nft = shutil.which("nft", path=SBIN)
    assert nft
    checked = subprocess.run(
        ["unshare", "--net", nft, "--check", "--file", "-"], input=ruleset(rules), capture_output=True, text=True,
        timeout=30,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")


# ---- in force
class FakeFirewall:
    """`fails`: how many loads do."""

    def __init__(self) -> None:
        self.table = ""
        self.opened: list[str] = []
        self.loads = 0
        self.fails = 0

    async def load(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        self.loads += 1
        if self.fails:
            self.fails -= 1
            raise OSError("nft: not permitted")
        self.table = text

    async def listed(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.table

    async def set_open(self, device: str) -> None:
        await trio.lowlevel.checkpoint()
        self.opened.append(device)


class Bench:
    def __init__(self) -> None:
        self.firewall = FakeFirewall()
        self.here, self.kernel = trio.socket.socketpair(type=trio.socket.SOCK_DGRAM)  # type: ignore[attr-defined]
        self.guard = Guard("the rules", self.firewall, lambda: self.here)

    async def changes(self, table: str | None = None) -> None:
        """Somebody changes something; the kernel says so in several messages."""
        if table is not None:
            self.firewall.table = table
        for _ in range(3):
            await self.kernel.send(b"message")
        await trio.sleep(5)


@asynccontextmanager
async def guarding(fails: int = 0) -> AsyncIterator[Bench]:
    bench = Bench()
    bench.firewall.fails = fails
    with bench.kernel:
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.guard.run)
            yield bench
            nursery.cancel_scope.cancel()


def said(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(r.posthouse_event.id == event for r in caplog.records)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def journal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


async def test_what_is_changed_is_put_right_with_the_call_s_device_open(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarding() as bench:
        assert (bench.guard.lacks, bench.firewall.loads) == ("", 1)
        await bench.guard.open("posthouse0")
        await bench.changes()  # somebody else's table
        assert bench.firewall.loads == 1
        await bench.changes("")
        assert (bench.firewall.table, bench.firewall.opened) == ("the rules", ["posthouse0", "posthouse0"])
        await bench.guard.close()
        await bench.changes("the rules, less one")
        assert (bench.firewall.table, bench.firewall.opened[2:]) == ("the rules", [""])
        assert (said(caplog, "firewall-changed"), said(caplog, "firewall-loaded")) == (2, 3)


async def test_what_can_not_be_loaded_is_told_once_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarding(fails=4) as bench:
        assert bench.guard.lacks == "the firewall can't be loaded: nft: not permitted"
        with pytest.raises(OSError, match="not permitted"):
            await bench.guard.open("posthouse0")
        await trio.sleep(300)
        assert (bench.guard.lacks, bench.firewall.loads) == ("", 5)
        assert said(caplog, "firewall-failed") == 1
        await bench.guard.open("posthouse0")
        assert bench.firewall.opened == ["posthouse0"]


async def test_a_table_that_goes_and_can_not_be_loaded_again_keeps_calls_away(autojump_clock: MockClock) -> None:
    async with guarding() as bench:
        bench.firewall.fails = 1
        bench.firewall.table = ""
        await bench.kernel.send(b"message")
        await trio.sleep(0.5)
        assert bench.guard.lacks
        await trio.sleep(60)
        assert not bench.guard.lacks
