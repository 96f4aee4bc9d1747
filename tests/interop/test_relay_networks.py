"""Three sites in network namespaces: a and b each behind a router that translates addresses and lets nothing in, with the
same private addresses; the hub at an address that everybody reaches. Cables are cut, put back and slow; a laptop moves.

    pc11 ─┐                                             ┌─ pc21 (sshd, HTTP, …)
          ├─ 192.168.1.0/24 ─ gate a ─ 203.0.113.0/24 ─ gate b ─ 192.168.1.0/24 ─┤
    relay a                            relay hub                              relay b
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.netns import Namespace, namespace
from fakes.ports import free_port

from .product import running
from .providers import wait_until
from .relay_world import BLOCK, Pc, RelaySite, Sshd, Tcp, blocks, give_blocks, server, sha_of, tell_sha

HUB = "203.0.113.1"
GATES = {"a": "203.0.113.11", "b": "203.0.113.12"}
RULES = """
table ip site {
  chain out { type nat hook postrouting priority 100; oifname "wan" masquerade; }
  chain in { type filter hook forward priority 0; policy drop;
             iifname "lan" accept; ct state established,related accept; }
  chain gate { type filter hook input priority 0; policy drop; iifname { "lo", "lan" } accept; ct state established accept; }
}
"""


class Site:
    """A gate, and hosts behind it: the relay server has .2."""

    def __init__(self, stack: contextlib.ExitStack, name: str, hub: Namespace) -> None:
        self.name = name
        self.gate = stack.enter_context(namespace(f"gate-{name}"))
        self.gate.ip("link", "add", "lan", "type", "bridge")
        self.gate.ip("addr", "add", "192.168.1.1/24", "dev", "lan")
        self.gate.ip("link", "set", "lan", "up")
        hub.cable(f"to-{name}", self.gate, "wan")
        hub.ip("link", "set", f"to-{name}", "master", "net", "up")
        self.gate.ip("addr", "add", f"{GATES[name]}/24", "dev", "wan")
        self.gate.ip("link", "set", "wan", "up")
        self.gate.exec("sysctl", "-qw", "net.ipv4.ip_forward=1")
        nft = [shutil.which("nft") or "/usr/sbin/nft", "-f", "-"]
        subprocess.run(self.gate.argv(*nft), input=RULES, text=True, check=True, timeout=30)
        self.relay_host = self.host(stack, "relay", 2)

    def host(self, stack: contextlib.ExitStack, name: str, number: int) -> Namespace:
        made = stack.enter_context(namespace(f"{name}-{self.name}"))
        self.plug(made, number)
        return made

    def plug(self, host: Namespace, number: int) -> None:
        self.gate.cable(f"p{number}", host, "eth0")
        self.gate.ip("link", "set", f"p{number}", "master", "lan", "up")
        host.ip("addr", "add", f"192.168.1.{number}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        host.ip("route", "add", "default", "via", "192.168.1.1")

    def unplug(self, number: int) -> None:
        self.gate.ip("link", "del", f"p{number}")

    def cut(self) -> None:
        self.gate.ip("link", "set", "wan", "down")

    def heal(self) -> None:
        self.gate.ip("link", "set", "wan", "up")


class World:
    def __init__(self, root: Path, stack: contextlib.ExitStack) -> None:
        self.root, self.stack = root, stack
        net = stack.enter_context(namespace("hub"))
        net.ip("link", "add", "net", "type", "bridge")
        net.ip("addr", "add", f"{HUB}/24", "dev", "net")
        net.ip("link", "set", "net", "up")
        self.net = net
        self.sites = {name: Site(stack, name, net) for name in ("a", "b")}
        self.hub = RelaySite(
            root / "hub", "hub", terminals=("laptop",), peers={"a": None, "b": None}, address=HUB, host=net
        )
        stack.enter_context(running(self.hub))
        self.a, self.b = (self._relay(name, f"pc{i}1") for i, name in enumerate("ab", 1))
        pc11, pc21 = (self.sites[n].host(stack, "pc", 21) for n in "ab")
        self.pc11, self.pc21 = Pc(root, "pc11", self.a, pc11), Pc(root, "pc21", self.b, pc21)
        stack.callback(self.pc11.stop)
        stack.callback(self.pc21.stop)
        self.sshd = Sshd(root / "ssh")
        self.http = root / "http"
        self.http.mkdir()
        port = free_port()
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(self.http), str(port)]
        offers = {
            "ssh": stack.enter_context(self.sshd.serve(pc21)),
            "http": stack.enter_context(server(argv, port, pc21)),
        }
        for name, handler in (("sha", tell_sha), ("source", give_blocks)):
            service = Tcp(handler, pc21)
            stack.callback(service.close)
            offers[name] = service.at
        self.pc21.login(**offers)
        self.pc11.login()
        wait_until(lambda: self.a.shows("pc21") == "online", "pc21 is online in a's table")

    def _relay(self, name: str, terminal: str) -> RelaySite:
        site = RelaySite(
            self.root / name, name, terminals=(terminal,), peers={"hub": self.hub}, address="192.168.1.2",
            host=self.sites[name].relay_host,
        )  # fmt: skip
        self.stack.enter_context(running(site))
        return site


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("networks"), stack)


def test_the_sites_are_behind_address_translation(w: World) -> None:
    """The hub sees the gates alone, and nothing behind them, nor the gates themselves, can be reached from it."""
    for name, gate in GATES.items():
        assert f"the link to the relay server {name} ({gate}) is up" in w.hub.journal()
        with w.net.socket() as knock:
            knock.settimeout(0.5)
            with pytest.raises(OSError):
                knock.connect((gate, int((w.a if name == "a" else w.b).at.rpartition(":")[2])))
    assert {row["name"]: row["path"] for row in w.a.ask("terminals")}["pc21"] == ["b", "hub", "a"]


def test_ssh_from_site_to_site(w: World) -> None:
    done = w.pc11.run(
        w.sshd.client("ssh", w.pc11.proxy, w.sshd.at("pc21"), "ip -br addr show dev eth0; cat; exit 7"), input=b"typed"
    )
    assert (done.returncode, done.stderr) == (7, b"")
    assert b"192.168.1.21/24" in done.stdout and done.stdout.endswith(b"typed")


def test_curl_reads_at_the_other_site(w: World, tmp_path: Path) -> None:
    data = os.urandom(10 * BLOCK)
    (w.http / "file").write_bytes(data)
    port = w.pc11.forward("pc21", "http")
    done = w.pc11.run(["curl", "-sS", "--fail", "-o", f"{tmp_path}/file", f"http://127.0.0.1:{port}/file"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("which", ["a", pytest.param("b", marks=pytest.mark.long)])
def test_a_cable_that_is_put_back_soon_costs_time_and_no_bytes(w: World, which: str) -> None:
    """The gate forgets its translations with the cable. At a, the side that sends makes a new one at once; at b, where
    bytes only come in, it is made by the keepalive after a minute."""
    size = 60 * BLOCK
    with w.pc11.piped("connect", "pc21", "sha") as (child, stdin, stdout):
        for i, block in enumerate(blocks(size)):
            stdin.write(block)
            if i == 20:
                w.sites[which].cut()
                time.sleep(1)
                w.sites[which].heal()
        stdin.close()
        assert stdout.read().decode() == sha_of(size)
        assert child.wait(10) == 0


def test_a_slow_line_carries_bytes_and_requests_beside_them(w: World) -> None:
    """256 kbit/s both ways at gate b: bytes are whole, and a second request is answered while they move."""
    ends = ((w.sites["b"].gate, "wan"), (w.net, "to-b"))
    for host, device in ends:
        host.exec(
            "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", "256kbit", "burst", "8k", "latency", "400ms"
        )
    try:
        size = 150_000
        begun = time.monotonic()
        with w.pc11.piped("connect", "pc21", "source") as (child, stdin, stdout):
            stdin.write(str(size).encode())
            stdin.close()
            first = stdout.read(1)
            done = w.pc11.terminal("connect", "pc21", "sha", input=b"x")
            assert (done.returncode, done.stdout.decode()) == (0, hashlib.sha256(b"x").hexdigest()), done.stderr
            got = first + stdout.read()
            assert (child.wait(10), hashlib.sha256(got).hexdigest()) == (0, sha_of(size))
        assert time.monotonic() - begun > size * 8 / 256_000 * 0.8, "the line was not slow"
    finally:
        for host, device in ends:
            host.exec("tc", "qdisc", "del", "dev", device, "root")


def test_a_laptop_that_moves_to_another_site_is_back_within_seconds(w: World) -> None:
    """It is logged in at the hub; its old login is a ghost there, since its last network took every farewell away."""
    with contextlib.ExitStack() as stack:
        host = w.sites["a"].host(stack, "laptop", 50)
        laptop = Pc(w.root, "laptop", w.hub, host)
        stack.callback(laptop.stop)
        laptop.login()
        wait_until(lambda: w.a.shows("laptop") == "online", "the laptop is online in a's table")
        logins = laptop.said().count("is logged in")
        w.sites["a"].unplug(50)
        time.sleep(0.5)
        begun = time.monotonic()
        w.sites["b"].plug(host, 50)
        wait_until(lambda: laptop.said().count("is logged in") > logins, "it is back")
        assert time.monotonic() - begun < 8
        assert "moved to another network" in laptop.said()
        wait_until(lambda: w.a.shows("laptop") == "online", "and online in a's table")
        assert laptop.holder is not None and laptop.holder.poll() is None


@pytest.mark.long
def test_a_cable_that_stays_cut_is_noticed_and_healed(w: World) -> None:
    """Twice the keepalive: then its terminals are lost, a call says so, and a running transfer ends as an error."""
    size = 1000 * BLOCK
    with w.pc11.piped("connect", "pc21", "source") as (child, stdin, stdout):
        stdin.write(str(size).encode())
        stdin.close()
        first = next(iter(blocks(size)))
        assert stdout.read(len(first)) == first
        w.sites["b"].cut()
        try:
            wait_until(lambda: w.a.shows("pc21") == "lost", "pc21 is lost at a", patience=90)
            done = w.pc11.terminal("connect", "pc21", "sha")
            assert done.returncode == 3 and b"pc21 is lost" in done.stderr
            child.kill()
        finally:
            w.sites["b"].heal()
    wait_until(lambda: w.a.shows("pc21") == "online", "pc21 is online again", patience=90)
    done = w.pc11.terminal("connect", "pc21", "sha", input=b"x")
    assert (done.returncode, done.stdout.decode()) == (0, hashlib.sha256(b"x").hexdigest()), done.stderr
