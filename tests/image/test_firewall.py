"""The firewall from both sides, with a call up: nmap at the provider, a machine of the LAN, and another user of the host."""

from __future__ import annotations

import pytest

from . import lan
from .inject import ROOT
from .lan import Pc, scan
from .provider import SERVER, SITE_ADDRESS, Provider
from .site import SMTP, Site
from .telephone import Telephone
from .test_ppp import message

RELAY = 7400
SSH = 22
OTHER = 8022
"""A daemon that somebody has started on the host, on every address."""
PORTS = f"{SSH},25,53,80,110,143,{SMTP},{RELAY},{OTHER}"
UDP_PORTS = "53,67,123"
SYSCTL = "rootfs-overlay/usr/lib/sysctl.d/50-posthouse.conf"
"""What the image has in its kernel from the start, and Posthouse's user may not switch on."""
PACKETS = "/var/log/from-the-lan"


@pytest.mark.seconds(420)
@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(True, id="with relay.listen and firewall.forward"),
        pytest.param(False, id="closed", marks=pytest.mark.long),
    ],
)
def test_with_a_call_up(opened: bool, site: Site, provider: Provider, telephone: Telephone) -> None:
    """Closed, nothing is open from the line and nothing of the LAN's gets out; opened, what is configured and no more."""
    pc = Pc(site.guest)
    interface = lan.interface() | {"dhcp_pool": ""}
    site.config["interface"] = [interface]
    site.config["mail"]["smtp"] += [f"{lan.ADDRESS}:{SMTP}"]
    site.config["schedule"]["linger"] = "20m"
    if opened:
        site.config["relay"] = {"listen": [f"0.0.0.0:{RELAY}"]}
        site.config["firewall"] = {"forward": [f"{lan.PC_ADDRESS} tcp 25"]}
    site.become_ordinary()
    site.guest.run("sysctl", "-q", "-p", "-", input=(ROOT / SYSCTL).read_bytes())
    for port in (SSH, OTHER):
        site.guest.daemon("python3", "-m", "http.server", str(port), log="/dev/null")
    site.start()
    pc.wait_reaches()
    before = state(site)
    site.send("somebody@world.example", message("go-out"))
    site.dial_nowait()
    site.wait_line("lingering")
    provider.guest.daemon("tcpdump", "-i", "any", "-n", "-l", "--immediate-mode", "src net 192.168.77.0/24 or tcp port 25", log=PACKETS)  # fmt: skip
    provider.guest.wait(f"grep -q listening {PACKETS}", "tcpdump listens")

    # From the line.
    assert scan(provider.guest, SITE_ADDRESS, PORTS) == ({RELAY} if opened else set())
    assert scan(provider.guest, SITE_ADDRESS, UDP_PORTS, udp=True) == set()
    # From the LAN: its own services, and the line only as `forward` has it.
    assert pc.open_ports(lan.ADDRESS, PORTS) == {SMTP, SSH, *([RELAY] if opened else [])}
    assert pc.connects(SERVER, 25, seconds=15) == opened
    assert not pc.connects(SERVER, 110)
    assert pc.run("ping", "-c", "1", "-W", "2", SERVER, check=False).code != 0
    # From the host: others than Posthouse send nothing.
    others = "import socket; socket.create_connection(('{}', {}), 3)"
    for user in ("root", "nobody"):
        argv = ("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", others.format(SERVER, 110))
        assert site.guest.run(*argv, check=False).code != 0, f"{user} reaches {SERVER}"
    seen = provider.guest.get(PACKETS).decode()
    assert "192.168.77." not in seen, "an address of the LAN was seen on the line"
    assert (f" IP {SITE_ADDRESS}." in seen) == opened, seen  # as the sender: the scan came to its port 25 too

    site.guest.run("posthouse", "hangup")
    call = site.wait_call_over()
    assert call["sent"] == 1, call
    assert state(site) == before


def state(site: Site) -> str:
    """What a call might leave behind in the kernel."""
    return site.guest.sh(
        "ip -o link | cut -d: -f2; ip route show table all; ip rule; nft -s list ruleset; cat /etc/resolv.conf"
    )
