"""dnsmasq's configuration as text: what follows from which of ours, and that dnsmasq itself has nothing against it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.config.model import Interface, Site
from appliance.network.dnsmasq import configuration, lans

LAN = Interface(
    name="lan", device="br-lan", addresses=("10.9.0.1/16", "192.168.77.1/24", "fd00::1/64"),
    dhcp_pool="192.168.77.100-192.168.77.199",
)  # fmt: skip
GUESTS = Interface(name="guests", device="e1", addresses=("172.16.0.1/12",), dhcp_pool="172.16.0.2-172.31.255.254")
PLAIN = Interface(name="wan", device="e2", addresses=("192.0.2.1/24",))
HARBOUR = Site(name="harbour", domain="harbour.example")


def text(*interfaces: Interface, site: Site = HARBOUR, router: bool = False) -> list[str]:
    return configuration(site, lans(interfaces), Path("/run/posthouse"), router=router).splitlines()


def test_who_is_served() -> None:
    found = lans((PLAIN, LAN, GUESTS))
    assert [(lan.name, lan.device, str(lan.network)) for lan in found] == [
        ("lan", "br-lan", "192.168.77.0/24"), ("guests", "e1", "172.16.0.0/12"),
    ]  # fmt: skip


def test_only_there() -> None:
    lines = text(PLAIN, LAN, GUESTS)
    assert [x for x in lines if x.startswith(("interface=", "except", "bind", "listen"))] == [
        "bind-dynamic", "interface=br-lan", "interface=e1", "except-interface=lo",
    ]  # fmt: skip


def test_pools() -> None:
    assert [x for x in text(PLAIN, LAN, GUESTS) if x.startswith(("dhcp-range", "dhcp-option"))] == [
        "dhcp-range=set:lan,192.168.77.100,192.168.77.199,255.255.255.0,12h",
        "dhcp-option=tag:lan,option:router",
        "dhcp-range=set:guests,172.16.0.2,172.31.255.254,255.240.0.0,12h",
        "dhcp-option=tag:guests,option:router",
    ]
    assert not [x for x in text(LAN, router=True) if "option:router" in x]


@pytest.mark.parametrize("site", [HARBOUR, Site(name="harbour")])
@pytest.mark.parametrize("router", [True, False])
def test_there_is_never_a_server_above(site: Site, router: bool) -> None:
    lines = text(LAN, GUESTS, site=site, router=router)
    assert {"no-resolv", "no-poll", "no-hosts"} <= set(lines)
    assert not [x for x in lines if x.startswith(("server", "address=", "resolv-file", "rev-server", "servers-file"))]


NAMES = [
    (HARBOUR, ["harbour", "harbour.example", "harbour.harbour.example"]
     + [f"{n}.harbour.example" for n in ("mail", "smtp", "pop", "pop3", "imap")],
     ["local=/harbour.example/", "local=/harbour/"]),
    (Site(name="harbour"), ["harbour"], ["local=/harbour/"]),
    (Site(name="mail", domain="häfen.example"),
     ["mail", "xn--hfen-loa.example", *(f"{n}.xn--hfen-loa.example" for n in ("mail", "smtp", "pop", "pop3", "imap"))],
     ["local=/xn--hfen-loa.example/", "local=/mail/"]),
]  # fmt: skip


@pytest.mark.parametrize(("site", "names", "local"), NAMES, ids=[s.name + s.domain for s, _, _ in NAMES])
def test_names(site: Site, names: list[str], local: list[str]) -> None:
    lines = text(LAN, site=site)
    assert [x for x in lines if x.startswith("interface-name")] == [f"interface-name={n},br-lan/4" for n in names]
    assert [x for x in lines if x.startswith("local=")] == local


@pytest.mark.parametrize("site", [site for site, _, _ in NAMES])
def test_dnsmasq_takes_it(tmp_path: Path, site: Site) -> None:
    dnsmasq = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    assert dnsmasq, "install dnsmasq-base"
    file = tmp_path / "dnsmasq.conf"
    file.write_text(configuration(site, lans((LAN, GUESTS)), tmp_path, router=False))
    done = subprocess.run([dnsmasq, "--test", f"--conf-file={file}"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "dnsmasq: syntax check OK.\n")
