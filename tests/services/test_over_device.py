"""Connections and names over one device alone, on real devices in network namespaces with a real name server, and a
device that is up by itself as a line."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from appliance.call import Dialled, Outcome
from appliance.config.model import Line, LineKind
from appliance.modem import over_device as module
from appliance.modem.device import Counters, addresses, look, wait_for
from appliance.modem.device_line import DeviceLine
from appliance.modem.over_device import OverDevice
from fakes.netns import Namespace, namespace

SITE, ISP, FAR = "10.9.0.2", "10.9.0.1", "198.51.100.7"
SITE6, ISP6 = "2001:db8:9::2", "2001:db8:9::1"
WAIT_S = 20.0
SERVE = """
import socket, sys
for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
    s = socket.socket(family)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 7))
    s.listen()
    import threading
    def serve(s=s):
        while True:
            c, peer = s.accept()
            c.sendall(peer[0].encode())
            c.close()
    threading.Thread(target=serve).start()
print("ready", flush=True)
"""
DNS = """
no-resolv
no-hosts
log-queries
log-facility=-
port=53
local=/example/
host-record=mail.isp.example,198.51.100.7
host-record=both.isp.example,198.51.100.7,2001:db8:9::1
host-record=six.isp.example,2001:db8:9::1
cname=alias.isp.example,mail.isp.example
"""


@dataclass
class Net:
    site: Namespace
    isp: Namespace
    log: Path

    @property
    def asked(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [" ".join(line.partition("query[")[2].split()[:2]) for line in lines if "query[" in line]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """This process is in the site's namespace: `wan0` leads to the provider, `lan0` has the default route."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None)
    with namespace("site") as site, namespace("isp") as isp, namespace("lan") as lan:
        site.cable("wan0", isp, "site0")
        site.cable("lan0", lan, "site1")
        # The kernel's own words of IPv6 would count as packets of ours.
        subprocess.run(site.argv("sysctl", "-q", "-w", "net.ipv6.conf.lan0.disable_ipv6=1"), check=True)
        for host, device, addresses in (
            (site, "wan0", [f"{SITE}/24", f"{SITE6}/64"]),
            (isp, "site0", [f"{ISP}/24", f"{ISP6}/64"]),
            (site, "lan0", ["192.168.77.1/24"]),
            (lan, "site1", ["192.168.77.2/24"]),
        ):
            for address in addresses:
                host.ip("addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
            host.ip("link", "set", device, "up")
        isp.ip("addr", "add", f"{FAR}/32", "dev", "lo")
        site.ip("route", "add", "default", "via", "192.168.77.2")
        many = "".join(f"host-record=many.isp.example,198.51.100.{n}\n" for n in range(7, 60))
        (tmp_path / "dns").write_text(DNS + many)
        log = tmp_path / "dns.log"
        out = log.open("wb")
        programs = [
            subprocess.Popen(isp.argv("dnsmasq", "-k", "-C", str(tmp_path / "dns"), "--pid-file="), stderr=out),
            subprocess.Popen(isp.argv(sys.executable, "-c", SERVE), stdout=subprocess.PIPE),
        ]
        assert programs[1].stdout is not None and programs[1].stdout.readline() == b"ready\n"
        end = time.monotonic() + WAIT_S
        while b"started" not in log.read_bytes() and time.monotonic() < end:
            time.sleep(0.01)
        try:
            site.enter()
            yield Net(site, isp, log)
        finally:
            out.close()
            libc.setns(home, 0)
            os.close(home)
            for program in programs:
                program.kill()
                program.wait()
                if program.stdout is not None:
                    program.stdout.close()


def over(*dns: str, hosts: Path = Path("/none")) -> OverDevice:
    return OverDevice("wan0", dns or (ISP,), hosts=hosts)


async def peer_of(streams: OverDevice, host: str) -> str:
    """The address from which the server there saw us."""
    with trio.fail_after(WAIT_S):
        async with await streams.open_stream(host, 7) as stream:
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            return (await stream.receive_some()).decode()


async def test_it_goes_over_the_device_although_routes_lead_elsewhere(net: Net) -> None:
    before = Counters()
    before.start("lan0")
    assert await peer_of(over(), FAR) == SITE
    assert await peer_of(over(), "mail.isp.example") == SITE
    # Over the device, not one packet by the default route; an unbound one would take it.
    assert before.read() is not None and before.read()[1] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("198.51.100.9", ("198.51.100.9",)),
        ("2001:db8::9", ("2001:db8::9",)),
        ("mail.isp.example", ("198.51.100.7",)),
        ("MAIL.isp.example.", ("198.51.100.7",)),
        ("alias.isp.example", ("198.51.100.7",)),
        ("both.isp.example", ("198.51.100.7", "2001:db8:9::1")),
        ("six.isp.example", ("2001:db8:9::1",)),
    ],
)
async def test_names(net: Net, host: str, addresses: tuple[str, ...]) -> None:
    assert await over().resolve(host) == addresses


async def test_a_name_is_asked_once_a_call(net: Net) -> None:
    streams = over()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(streams.resolve, "mail.isp.example")
    await streams.resolve("Mail.ISP.example")
    assert sorted(net.asked) == ["AAAA] mail.isp.example", "A] mail.isp.example"]
    await over().resolve("mail.isp.example")
    assert len(net.asked) == 4


async def test_only_what_the_device_has_is_asked_for(net: Net) -> None:
    net.site.ip("-6", "addr", "flush", "dev", "wan0", "scope", "global")
    assert await over().resolve("both.isp.example") == ("198.51.100.7",)
    assert net.asked == ["A] both.isp.example"]
    with pytest.raises(socket.gaierror, match="has no address") as raised:
        await over().resolve("six.isp.example")
    assert raised.value.errno == socket.EAI_NONAME
    net.site.ip("addr", "flush", "dev", "wan0")
    with pytest.raises(OSError, match="wan0 has no address"):
        await over().resolve("mail.isp.example")


async def test_an_answer_that_does_not_fit_is_fetched_by_tcp(net: Net) -> None:
    assert len(await over().resolve("many.isp.example")) == module.ADDRESS_LIMIT
    assert net.asked.count("A] many.isp.example") == 2


async def test_a_name_that_does_not_exist(net: Net) -> None:
    with pytest.raises(socket.gaierror, match="does not exist") as raised:
        await over().resolve("none.example")
    assert raised.value.errno == socket.EAI_NONAME
    for host in ("a..b", "x" * 64 + ".example", ""):
        with pytest.raises(OSError, match="is no name"):
            await over().resolve(host)


async def test_the_next_server_is_asked(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_S", (0.3, 5.0, 5.0))
    # 10.9.0.99: nobody; 198.51.100.99: nobody answers ARP either
    assert await over("10.9.0.99", ISP).resolve("mail.isp.example") == ("198.51.100.7",)


async def test_no_server_answers(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_S", (0.1, 0.1, 0.1))
    with pytest.raises(socket.gaierror, match="does not answer|No route to host") as raised:
        await over("10.9.0.99").resolve("mail.isp.example")
    assert raised.value.errno == socket.EAI_AGAIN


async def test_a_server_that_refuses(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_PAUSE_S", 0.1)
    with pytest.raises(socket.gaierror, match="says REFUSED") as raised:
        await over().resolve("mail.elsewhere.test")
    assert raised.value.errno == socket.EAI_AGAIN


async def test_a_server_that_is_just_starting(net: Net) -> None:
    """Refused at once, as nothing listens there yet."""
    rules = "add table ip start; add chain ip start in { type filter hook input priority 0; }; "
    net.isp.exec("nft", rules + "add rule ip start in udp dport 53 reject")
    streams = over()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.resolve, "mail.isp.example")
        await trio.sleep(0.5)
        net.isp.exec("nft", "delete table ip start")
    assert await streams.resolve("mail.isp.example") == ("198.51.100.7",)


async def test_hosts_come_first(net: Net, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(b"# comment\n\n198.51.100.7 Mail.isp.example other # mail.example\nnonsense mail\n\xff\n")
    assert await over(hosts=hosts).resolve("mail.ISP.example") == ("198.51.100.7",)
    assert await over(hosts=hosts).resolve("other") == ("198.51.100.7",)
    assert net.asked == []


async def test_without_name_servers_the_hosts_resolver_is_asked(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def getaddrinfo(host: str, port: object, **_: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", (FAR, 0)), (socket.AF_INET6, 1, 6, "", (ISP6, 0, 0, 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    streams = OverDevice("wan0", (), hosts=Path("/none"))
    assert await peer_of(streams, "mail.isp.example") == SITE
    assert asked == ["mail.isp.example"]


async def test_the_next_address_is_tried(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEXT_ADDRESS_S", 0.3)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"10.9.0.98 twice\n{FAR} twice\n")
    assert await peer_of(over(hosts=hosts), "twice") == SITE
    with pytest.raises(ConnectionRefusedError):
        await over().open_stream(FAR, 8)
    monkeypatch.setattr(module, "STREAM_S", 0.3)
    with pytest.raises(TimeoutError, match="no connection to 10.9.0.98 port 25"):
        await over().open_stream("10.9.0.98", 25)


async def test_nothing_goes_anywhere_once_the_device_is_gone(net: Net) -> None:
    streams = over()
    async with await streams.open_stream(FAR, 7) as stream:
        await stream.receive_some()
        net.site.ip("link", "del", "wan0")
        with pytest.raises(OSError):
            await streams.open_stream(FAR, 7)
        with pytest.raises(OSError):
            await streams.resolve("mail.isp.example")


# ---- the device


async def test_a_device_as_it_is(net: Net) -> None:
    def now() -> tuple[bool, bool, bool, bool]:
        state = look("wan0")
        return state.present, state.running, state.ipv4, state.ipv6

    assert now() == (True, True, True, True)
    net.site.ip("addr", "flush", "dev", "wan0")
    assert now() == (True, True, False, False)
    net.site.ip("addr", "add", "169.254.7.7/16", "dev", "wan0")
    assert now() == (True, True, False, False)
    net.isp.ip("link", "set", "site0", "down")
    with trio.fail_after(WAIT_S):
        await wait_for("wan0", lambda state: not state.running)
    net.site.ip("link", "del", "wan0")
    assert now() == (False, False, False, False)
    for name in ("", "x" * 16, "no such"):
        assert not look(name).present
        assert look(name).lacks(name) == f"there is no device {name}"


def test_the_addresses_that_a_device_has(net: Net) -> None:
    own = addresses("wan0")
    assert {SITE, SITE6} <= own and not own & {ISP, ISP6, "127.0.0.1"}
    assert all(a.startswith("fe80::") for a in own - {SITE, SITE6})
    assert addresses("") == addresses("nosuch0") == addresses("a-name-that-is-too-long") == frozenset()


async def test_a_change_is_seen_at_once(net: Net) -> None:
    begun = time.monotonic()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for, "wan0", lambda state: not state.ipv4)
            await trio.sleep(0.2)
            net.site.ip("addr", "del", f"{SITE}/24", "dev", "wan0")
    assert time.monotonic() - begun < 3


async def test_counters_keep_what_a_device_that_is_gone_had(net: Net) -> None:
    counters = Counters()
    assert counters.read() is None
    await peer_of(over(), FAR)
    counters.start("wan0")
    assert counters.read() == (0, 0)
    await peer_of(over(), FAR)
    moved = counters.read()
    assert moved is not None and 100 < moved[0] < 2000 and 100 < moved[1] < 2000
    net.site.ip("link", "del", "wan0")
    assert counters.read() == moved
    counters.forget()
    assert counters.read() is None


# ---- as a line

CONFIG = Line(name="wwan", kind=LineKind.INTERFACE, device="wan0")


async def test_a_window_on_a_device(net: Net) -> None:
    line = DeviceLine(CONFIG)
    line_hosts = net.log.parent / "hosts"
    line_hosts.write_text("")
    for _ in range(2):
        assert await line.prepare() is None
        assert (line.device, line.carried()) == ("", None)
        assert await line.dial("") == Dialled(None)
        assert await line.negotiate() is None
        assert line.device == "wan0"
        async with await line.open_stream(FAR, 7) as stream:
            assert (await stream.receive_some()).decode() == SITE
        moved = line.carried()
        assert moved is not None and 100 < moved[0] < 2000 and 100 < moved[1] < 2000
        await line.hang_up()
        await line.hang_up()
        assert line.device == ""
        with pytest.raises(OSError, match="not up"):
            await line.open_stream(FAR, 7)
        net.site.exec("ping", "-c1", "-W2", ISP, check=False)
        assert line.carried() == moved  # what goes over it between the calls is not ours
    assert net.site.link("wan0")["operstate"] == "UP"  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("addr", "flush", "dev", "wan0"), "wan0 has no address"),
        (("link", "set", "wan0", "down"), "wan0 is down"),
        (("link", "del", "wan0"), "there is no device wan0"),
    ],
)
async def test_a_device_that_carries_nothing(
    net: Net, words: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    line = DeviceLine(CONFIG)
    assert await line.prepare() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_lost, line)
        await trio.sleep(0.2)
        net.site.ip(*words)
    assert f"wwan: {why}" in caplog.text
    caplog.clear()
    await line.hang_up()
    assert await line.prepare() is Outcome.NO_NETWORK
    assert await line.dial("") == Dialled(Outcome.NO_NETWORK, text=why)
    assert f"wwan: {why}" in caplog.text


async def _lost(line: DeviceLine) -> None:
    with trio.fail_after(WAIT_S):
        assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
