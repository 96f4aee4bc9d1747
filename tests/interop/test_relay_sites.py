"""Two sites and a hub in network namespaces: each site behind a router with address translation, both with the same private
addresses, which the other one never hears of. Cables are cut, healed and slowed.

    pc11 10.1.0.3 ─┐                                                           ┌─ 10.1.0.3 pc21
       a 10.1.0.2 ─┴─ router 198.51.100.2 ── hub 198.51.100.1 ── 198.51.100.3 ─┴─ 10.1.0.2 b
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fakes.netns import Namespace, namespace

from .product import running
from .providers import wait_until
from .relay_world import BLOCK, Pc, RelaySite, Sshd, Tcp, blocks, sha_of, tell_sha

HUB = "198.51.100.1"
TRANSLATE = "table ip nat { chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }; }"


@dataclass
class Site:
    """A site's router, the host of its relay server, and that of its PC."""

    router: Namespace
    server: Namespace
    pc: Namespace

    def cable(self, state: str) -> None:
        """The one to the hub, `up` or `down`."""
        self.router.ip("link", "set", "wan", state)

    def slow(self, rate: str) -> None:
        self.router.exec(
            "tc", "qdisc", "replace", "dev", "wan", "root", "tbf", "rate", rate, "burst", "4k", "latency", "300ms"
        )


@contextlib.contextmanager
def site(internet: Namespace, label: str, number: int) -> Iterator[Site]:
    with namespace(f"{label}-router") as router, namespace(f"{label}-server") as server, namespace(f"{label}-pc") as pc:
        router.cable("wan", internet, label)
        internet.ip("link", "set", label, "master", "net")
        internet.ip("link", "set", label, "up")
        router.ip("addr", "add", f"198.51.100.{number}/24", "dev", "wan")
        router.ip("link", "set", "wan", "up")
        router.ip("link", "add", "lan", "type", "bridge")
        router.ip("addr", "add", "10.1.0.1/24", "dev", "lan")
        router.ip("link", "set", "lan", "up")
        for host, address in ((server, "10.1.0.2"), (pc, "10.1.0.3")):
            end = f"p{address[-1]}"
            router.cable(end, host, "lan")
            router.ip("link", "set", end, "master", "lan")
            router.ip("link", "set", end, "up")
            host.ip("addr", "add", f"{address}/24", "dev", "lan")
            host.ip("link", "set", "lan", "up")
            host.ip("route", "add", "default", "via", "10.1.0.1")
        router.exec("sysctl", "-qw", "net.ipv4.ip_forward=1")
        router.exec("nft", TRANSLATE)
        yield Site(router, server, pc)


@dataclass
class Sites:
    internet: Namespace
    one: Site
    two: Site
    hub: RelaySite
    a: RelaySite
    b: RelaySite
    pc11: Pc
    pc21: Pc
    sshd: Sshd


@pytest.fixture(scope="module")
def s(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    root = tmp_path_factory.mktemp("sites")
    with contextlib.ExitStack() as stack:
        internet = stack.enter_context(namespace("internet"))
        internet.ip("link", "add", "net", "type", "bridge")
        internet.ip("addr", "add", f"{HUB}/24", "dev", "net")
        internet.ip("link", "set", "net", "up")
        one, two = stack.enter_context(site(internet, "one", 2)), stack.enter_context(site(internet, "two", 3))
        hub = RelaySite(root / "hub", "hub", peers={"a": None, "b": None}, address=HUB, port=7400, host=internet)
        stack.enter_context(running(hub))
        at_sites = []
        for label, place, terminal in (("a", one, "pc11"), ("b", two, "pc21")):
            relay = RelaySite(
                root / label, label, terminals=(terminal,), peers={"hub": hub}, address="10.1.0.2", port=7400, host=place.server
            )  # fmt: skip
            stack.enter_context(running(relay))
            pc = Pc(root, terminal, relay, place.pc)
            stack.callback(pc.stop)
            at_sites += [relay, pc]
        a, pc11, b, pc21 = at_sites
        assert isinstance(a, RelaySite) and isinstance(b, RelaySite) and isinstance(pc11, Pc) and isinstance(pc21, Pc)
        sshd = Sshd(root / "ssh")
        service = Tcp(tell_sha, two.pc)
        stack.callback(service.close)
        pc21.login(ssh=stack.enter_context(sshd.serve(two.pc)), sha=service.at)
        pc11.login()
        wait_until(lambda: a.shows("pc21") == "online", "pc21 is online in a's table")
        yield Sites(internet, one, two, hub, a, b, pc11, pc21, sshd)


def test_the_sites_never_hear_of_each_others_addresses(s: Sites) -> None:
    for host in (s.internet, s.one.router, s.two.router):
        others = [
            r["dst"]
            for r in host.show("-4", "route", "show", "table", "main")
            if not r["dst"].startswith("198.51.100.")
        ]
        assert others in ([], ["10.1.0.0/24"])
    peers = {row["name"]: row for row in s.hub.ask("peers")}
    assert {name: row["state"] for name, row in peers.items()} == {"a": "up", "b": "up"}
    established = s.internet.exec("ss", "-Htn", "state", "established", "sport = :7400")
    assert {line.split()[3].rpartition(":")[0] for line in established.splitlines()} == {"198.51.100.2", "198.51.100.3"}


def test_ssh_logs_into_the_machine_at_the_other_site(s: Sites) -> None:
    done = s.pc11.run(s.sshd.client("ssh", s.pc11.proxy, s.sshd.at("pc21"), "ip netns identify $$"))
    assert (done.returncode, done.stdout.decode().strip()) == (0, s.two.pc.name), done.stderr


def send(s: Sites, size: int) -> subprocess.Popen[bytes]:
    child = s.pc11.popen(
        s.pc11.argv("connect", "pc21", "sha"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    for block in blocks(size):
        child.stdin.write(block)
    return child


def test_a_cable_that_is_cut_for_a_moment_costs_no_byte(s: Sites) -> None:
    size = 60 * BLOCK
    child = send(s, size // 2)
    s.two.cable("down")
    time.sleep(2)
    s.two.cable("up")
    assert child.stdin is not None and child.stdout is not None
    for i, block in enumerate(blocks(size)):
        if i >= size // 2 // BLOCK:
            child.stdin.write(block)
    child.stdin.close()
    assert child.stdout.read().decode() == sha_of(size)
    assert child.wait(30) == 0


def test_a_slow_line_carries_a_call(s: Sites) -> None:
    s.two.slow("128kbit")
    try:
        begun = time.monotonic()
        data = b"x" * 100_000
        done = s.pc11.terminal("connect", "pc21", "sha", input=data)
        assert (done.returncode, done.stdout.decode()) == (0, hashlib.sha256(data).hexdigest()), done.stderr
        assert time.monotonic() - begun > 3, "it was not slow at all"
    finally:
        s.two.router.exec("tc", "qdisc", "del", "dev", "wan", "root")


@pytest.mark.long
def test_a_cable_that_stays_cut_is_noticed_and_a_waiting_call_goes_on_when_it_heals(s: Sites) -> None:
    s.two.cable("down")
    try:
        wait_until(lambda: s.a.shows("pc21") == "lost", "pc21 is lost in a's table", patience=120)
        done = s.pc11.terminal("connect", "pc21", "sha")
        assert done.returncode == 3 and b"pc21 is lost" in done.stderr
        waiting = s.pc11.popen(
            s.pc11.argv("connect", "--wait", "10m", "pc21", "sha"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip
        assert waiting.stderr is not None
        assert b"waiting up to 10 min" in waiting.stderr.readline()
    finally:
        s.two.cable("up")
    out, _ = waiting.communicate(b"x", timeout=120)
    assert (waiting.returncode, out.decode()) == (0, hashlib.sha256(b"x").hexdigest())
    assert s.a.shows("pc21") == "online"
