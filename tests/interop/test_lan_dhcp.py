"""DHCP and DNS on real wires: dnsmasq as Posthouse runs it against udhcpc and a resolver in another namespace, and
Posthouse's own DHCP client against a dnsmasq that somebody else runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.netns import Namespace, namespace

from .product import Product, Table
from .providers import wait_until

PATIENCE = 20.0
LAN: Table = {
    "name": "lan", "device": "e0", "addresses": ["192.168.77.1/24"], "dhcp_pool": "192.168.77.100-192.168.77.199",
}  # fmt: skip
OFFICE: Table = {"name": "office", "device": "e0", "dhcp": True}

SHOW_LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
echo "ip=$ip mask=$mask router=$router dns=$dns domain=$domain lease=$lease server=$serverid"
"""

RESOLVE = """
import sys, time, dns.message, dns.query, dns.rcode
server, *questions = sys.argv[1:]
for q in questions:
    name, kind = q.split("/")
    began = time.monotonic()
    r = dns.query.udp(dns.message.make_query(name, kind), server, timeout=5)
    assert time.monotonic() - began < 1, q
    print(q, dns.rcode.to_text(r.rcode()), *[x.to_text() for a in r.answer for x in a])
"""


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts and a cable: e0 here, f0 there, which is up."""
    with namespace("here") as here, namespace("far") as far:
        here.cable("e0", far, "f0")
        far.ip("link", "set", "f0", "up")
        yield here, far


@contextlib.contextmanager
def posthouse(here: Namespace, folder: Path, *interfaces: Table, more: Table | None = None) -> Iterator[Product]:
    site: Table = {
        "name": "harbour", "domain": "harbour.example", "state": folder / "state", "runtime": folder / "run"
    }  # fmt: skip
    product = Product(folder, {"site": site, "interface": list(interfaces), **(more or {})}, {})
    try:
        product.start(preexec_fn=here.enter)
        yield product
        assert product.stop() == 0
    finally:
        if product.alive:
            product.kill()
    errors = [line for line in product.journal().splitlines() if " E " in line or "Traceback" in line]
    assert errors == []


def said(product: Product, text: str, count: int = 1) -> None:
    try:
        wait_until(lambda: product.journal().count(text) >= count, f"the journal says {text!r}", patience=PATIENCE)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{product.journal()[-3000:]}") from error


def processes(space: Namespace, program: str) -> list[int]:
    def name(pid: str) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().strip()
        return ""

    pids = subprocess.run(["ip", "netns", "pids", space.name], capture_output=True, text=True, timeout=30).stdout
    return [int(pid) for pid in pids.split() if name(pid) == program]


# ---- for the LAN
def lease(space: Namespace, folder: Path, hostname: str) -> dict[str, str]:
    """What a client there is lent."""
    script = folder / "show-lease"
    script.write_text(SHOW_LEASE)
    script.chmod(0o755)
    done = space.exec(
        "udhcpc", "-f", "-q", "-n", "-i", "f0", "-s", str(script), "-x", f"hostname:{hostname}", "-t", "5", "-T", "1"
    )
    return dict(pair.partition("=")[::2] for pair in done.split())


def resolve(space: Namespace, *questions: str, server: str = "192.168.77.1") -> list[str]:
    return space.exec(sys.executable, "-c", RESOLVE, server, *questions).splitlines()


def test_a_client_of_the_lan(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, far = wire
    with posthouse(here, tmp_path, LAN) as product:
        said(product, "DHCP and DNS for lan")
        assert product.status()["services"]["dnsmasq"] == "running"
        lent = lease(far, tmp_path, "pc21")
        low, high = 100, 199
        assert lent["ip"].startswith("192.168.77.")
        assert low <= int(lent["ip"].rpartition(".")[2]) <= high
        assert (lent["mask"], lent["dns"], lent["domain"]) == ("24", "192.168.77.1", "harbour.example")
        assert (lent["router"], lent["lease"]) == ("", "43200")  # nobody gets onto the line
        own = ["harbour", "harbour.example"]
        own += [f"{n}.harbour.example" for n in ("harbour", "mail", "smtp", "pop", "pop3", "imap")]
        questions = [f"{name}/A" for name in own]
        assert resolve(far, *questions) == [f"{q} NOERROR 192.168.77.1" for q in questions]
        assert resolve(far, "pc21.harbour.example/A", "pc21/A") == [
            f"pc21.harbour.example/A NOERROR {lent['ip']}", f"pc21/A NOERROR {lent['ip']}",
        ]  # fmt: skip
        assert resolve(far, "nobody.harbour.example/A", "mail.harbour.example/AAAA", "harbour.example/MX") == [
            "nobody.harbour.example/A NXDOMAIN", "mail.harbour.example/AAAA NOERROR", "harbour.example/MX NOERROR",
        ]  # fmt: skip
        foreign = ["www.example.com/A", "example.com/MX", "localhost/A", "9.9.9.9.in-addr.arpa/PTR", "pc/A", "./NS"]
        assert resolve(far, *foreign) == [f"{q} REFUSED" for q in foreign]
    assert processes(here, "dnsmasq") == []


def test_a_client_that_calls_itself_by_our_names(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, far = wire
    with posthouse(here, tmp_path, LAN):
        for name in ("mail", "harbour", "wpad"):
            lent = lease(far, tmp_path, name)
            far.ip("addr", "flush", "dev", "f0")
            far.ip("addr", "add", f"{lent['ip']}/24", "dev", "f0")
            answers = resolve(far, f"{name}/A", f"{name}.harbour.example/A")
            assert not [a for a in answers if lent["ip"] in a], answers


def test_with_a_way_onto_the_line_there_is_a_router(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    from appliance.config.model import Config, Firewall, Interface, Site
    from appliance.network.dnsmasq import configuration, lans

    config = Config(
        site=Site(name="harbour"), firewall=Firewall(forward=("192.168.77.20 tcp 443",)),
        interface=(Interface(name="lan", device="e0", addresses=("192.168.77.1/24",),
                             dhcp_pool="192.168.77.100-192.168.77.199"),),
    )  # fmt: skip
    here, far = wire
    here.ip("addr", "add", "192.168.77.1/24", "dev", "e0")
    here.ip("link", "set", "e0", "up")
    file = tmp_path / "dnsmasq.conf"
    file.write_text(configuration(config.site, lans(config.interface), tmp_path, router=True))
    process = here.spawn("dnsmasq", "-k", f"--conf-file={file}")
    wait_until(lambda: (tmp_path / "dnsmasq.pid").exists(), "dnsmasq runs", patience=PATIENCE)
    assert lease(far, tmp_path, "pc21")["router"] == "192.168.77.1"
    process.terminate()
    process.wait(30)


def test_a_device_that_comes_late_and_two_lans(tmp_path: Path) -> None:
    second: Table = {
        "name": "guests", "device": "e1", "addresses": ["192.168.78.1/24"], "dhcp_pool": "192.168.78.10-192.168.78.20"
    }  # fmt: skip
    with namespace("here") as here, namespace("far") as far, posthouse(here, tmp_path, LAN, second) as product:
        said(product, "DHCP and DNS for lan, guests")
        here.cable("e0", far, "f0")
        here.cable("e1", far, "f1")
        for device in ("f0", "f1"):
            far.ip("link", "set", device, "up")
        assert lease(far, tmp_path, "pc21")["dns"] == "192.168.77.1"
        far.ip("addr", "add", "192.168.78.9/24", "dev", "f1")
        question = "mail.harbour.example/A"
        assert resolve(far, question) == [f"{question} NOERROR 192.168.77.1"]
        assert resolve(far, question, server="192.168.78.1") == [f"{question} NOERROR 192.168.78.1"]


def test_dnsmasq_is_kept_running(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """Killed, it is started again; left behind by a Posthouse that was killed, it does not hold the next one's
    ports."""
    here, far = wire
    with posthouse(here, tmp_path, LAN) as product:
        (pid,) = processes(here, "dnsmasq")
        os.kill(pid, signal.SIGKILL)
        said(product, "no DHCP and DNS for lan, tried again: it ended with -9")
        said(product, "DHCP and DNS for lan", 3)
        (pid,) = processes(here, "dnsmasq")
        product.kill()
        assert processes(here, "dnsmasq") == [pid]
        product.start(preexec_fn=here.enter)
        said(product, "DHCP and DNS for lan", 4)
        assert len(processes(here, "dnsmasq")) == 1
        assert processes(here, "dnsmasq") != [pid]
        product.config["interface"] = [{**LAN, "dhcp_pool": "192.168.77.50-192.168.77.60"}]
        product.write()
        assert product.process
        product.process.send_signal(signal.SIGHUP)
        said(product, "configuration read again: dnsmasq")
        assert lease(far, tmp_path, "pc22")["ip"].rpartition(".")[2] in [str(n) for n in range(50, 61)]
        product.config["interface"] = [{k: v for k, v in LAN.items() if k != "dhcp_pool"}]
        product.write()
        product.process.send_signal(signal.SIGHUP)
        said(product, "configuration read again: dnsmasq", 2)
        assert processes(here, "dnsmasq") == []
        assert "dnsmasq" not in product.status()["services"]
    assert "put right" not in product.journal()


def test_a_port_that_is_taken(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, _ = wire
    hog = here.spawn("dnsmasq", "-k", "--port=0", "--conf-file=/dev/null", "--dhcp-range=10.9.0.2,10.9.0.9")
    time.sleep(0.3)
    with posthouse(here, tmp_path, LAN) as product:
        said(
            product, "no DHCP and DNS for lan, tried again: it ended with 2: dnsmasq: failed to bind DHCP server socket"
        )
        hog.terminate()
        hog.wait(30)
        said(product, "I DHCP and DNS for lan")
        assert product.journal().count("tried again") == 1


# ---- as a client
@contextlib.contextmanager
def server(far: Namespace, folder: Path, network: str = "172.20.1", time_s: int = 120, *options: str) -> Iterator[None]:
    far.ip("addr", "flush", "dev", "f0")
    far.ip("addr", "add", f"{network}.1/24", "dev", "f0")
    (folder / "server.pid").unlink(missing_ok=True)
    process = far.spawn(
        "dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--interface=f0", "--bind-interfaces", "--no-ping",
        "--dhcp-authoritative", f"--dhcp-range={network}.50,{network}.60,{time_s}", f"--pid-file={folder}/server.pid",
        f"--dhcp-leasefile={folder}/server.leases", *options,
    )  # fmt: skip
    wait_until(lambda: (folder / "server.pid").exists(), "the server runs", patience=PATIENCE)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def lent(here: Namespace) -> set[str]:
    return here.addresses("e0")


def test_a_lease(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, far = wire
    office = {**OFFICE, "addresses": ["192.168.5.1/24"]}
    with server(far, tmp_path), posthouse(here, tmp_path, office) as product:
        said(product, "from the DHCP server 172.20.1.1 for 120 s, with 0.0.0.0/0 via 172.20.1.1")
        wait_until(lambda: len(lent(here)) == 2, "the address is there", patience=PATIENCE)
        (address,) = lent(here) - {"192.168.5.1/24"}
        assert address.startswith("172.20.1.5")
        assert address.endswith("/24")
        assert here.routes("e0") == {"192.168.5.0/24", "172.20.1.0/24", "default via 172.20.1.1"}
        (route,) = here.show("route", "show", "default")
        assert (route["metric"], route["protocol"]) == (1024, "dhcp")
        (entry,) = (a for one in here.show("addr", "show", "dev", "e0") for a in one["addr_info"] if a.get("dynamic"))
        assert 60 < entry["valid_life_time"] <= 120  # the kernel takes it away in time
        here.ip("addr", "del", address, "dev", "e0")
        wait_until(lambda: address in lent(here), "the address is back", patience=PATIENCE)
        said(product, "office: something else changed it; put right: e0 lacked " + address)
        (pid,) = processes(here, "udhcpc")
        os.kill(pid, signal.SIGUSR1)  # renew
        time.sleep(0.5)
        assert product.journal().count("from the DHCP server") == 1
        product.config["interface"] = [{**office, "mtu": 1400}]
        product.write()
        assert product.process
        product.process.send_signal(signal.SIGHUP)
        said(product, "configuration read again: interfaces")
        assert address in lent(here)
        wait_until(lambda: processes(here, "udhcpc") not in ([], [pid]), "a new client asks", patience=PATIENCE)
        time.sleep(0.5)
        assert address in lent(here)
        assert product.journal().count("from the DHCP server") == 1
        assert (tmp_path / "server.leases").read_text().split()[3] == "harbour"
        product.config["interface"] = []
        product.write()
        product.process.send_signal(signal.SIGHUP)
        said(product, "configuration read again: firewall, interfaces")
        assert lent(here) == set()
        assert here.routes("e0") == set()
        assert processes(here, "udhcpc") == []


def test_a_server_that_comes_late_and_a_lease_that_is_refused(
    wire: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    """No server: told once. Then one; then the cable goes into another network, where the address is not for us."""
    here, far = wire
    with posthouse(here, tmp_path, OFFICE) as product:
        said(product, "office: no lease, asked again: no DHCP server answers")
        assert product.status()["services"]["interfaces"] == "running"
        with server(far, tmp_path):
            wait_until(lambda: lent(here), "an address", patience=40)
        here.ip("link", "set", "e0", "down")  # put right, and so a new carrier
        (tmp_path / "server.leases").unlink()
        with server(far, tmp_path, "172.21.2"):
            said(product, "from the DHCP server 172.21.2.1")
            wait_until(lambda: {a[:9] for a in lent(here)} == {"172.21.2."}, "another address", patience=PATIENCE)
            assert {r for r in here.routes("e0") if "via" in r} == {"default via 172.21.2.1"}
        assert product.journal().count("no DHCP server answers") == 1


def test_the_carrier_goes_and_comes(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, far = wire
    with server(far, tmp_path), posthouse(here, tmp_path, OFFICE) as product:
        wait_until(lambda: lent(here), "an address", patience=PATIENCE)
        before = lent(here)
        far.ip("link", "set", "f0", "down")
        wait_until(lambda: processes(here, "udhcpc") == [], "nobody asks", patience=PATIENCE)
        assert lent(here) == before
        far.ip("link", "set", "f0", "up")
        wait_until(lambda: processes(here, "udhcpc"), "somebody asks", patience=PATIENCE)
        here.ip("link", "del", "e0")
        wait_until(lambda: processes(here, "udhcpc") == [], "nobody asks", patience=PATIENCE)
        assert product.status()["services"]["interfaces"] == "running"


def test_udhcpc_ends_with_us(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    here, far = wire
    with server(far, tmp_path), posthouse(here, tmp_path, OFFICE) as product:
        wait_until(lambda: lent(here), "an address", patience=PATIENCE)
        before = lent(here)
        product.kill()
        wait_until(lambda: processes(here, "udhcpc") == [], "udhcpc has ended", patience=PATIENCE)
        assert lent(here) == before
        product.start(preexec_fn=here.enter)
        assert lent(here) == before  # stays until the server has spoken
        said(product, "from the DHCP server", 2)
        assert lent(here) == before


def test_without_privileges(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """The rest runs, and the journal says what is missing."""
    here, _ = wire
    libc = ctypes.CDLL(None, use_errno=True)
    drop_from_bounding_set, capabilities = 24, 41  # prctl(2), capabilities(7)

    def poor() -> None:
        here.enter()
        for capability in range(capabilities):
            libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)

    here.ip("link", "set", "e0", "up")
    pool = {"addresses": ["192.168.77.1/24"], "dhcp_pool": LAN["dhcp_pool"]}
    product = Product(
        tmp_path, {"site": {"name": "harbour", "state": tmp_path / "state", "runtime": tmp_path / "run"},
                   "interface": [OFFICE, {"name": "lan", "device": "br-lan", "ports": ["p0"], **pool}]}, {},
    )  # fmt: skip
    try:
        product.start(preexec_fn=poor)
        said(product, "lan: not as configured, tried again: bridge br-lan was missing: Operation not permitted")
        said(product, "office: no lease, asked again: udhcpc ended with 1: socket: Operation not permitted")
        said(product, "no DHCP and DNS for lan, tried again: it ended with 2: dnsmasq: ")
        services = product.status()["services"]
        assert {services[name] for name in ("interfaces", "dnsmasq", "smtp")} == {"running"}
        assert product.stop() == 0
    finally:
        if product.alive:
            product.kill()
    assert [line for line in product.journal().splitlines() if " E " in line or "Traceback" in line] == []


def test_a_lease_that_ends(wire: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """udhcpc counts: the shortest lease that dnsmasq gives is 2 minutes, too long for a test, so it is told to
    forget."""
    here, far = wire
    with server(far, tmp_path), posthouse(here, tmp_path, OFFICE) as product:
        wait_until(lambda: lent(here), "an address", patience=PATIENCE)
        (pid,) = processes(here, "udhcpc")
        os.kill(pid, signal.SIGUSR2)  # release
        said(product, "office: the lease of 172.20.1.")
        wait_until(lambda: not lent(here) and not here.routes("e0"), "nothing is left of it", patience=PATIENCE)
