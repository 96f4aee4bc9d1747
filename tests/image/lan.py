"""A machine of the LAN: a network namespace inside the site's machine, plugged into a port of the LAN's bridge.

`prepare` makes the ports and the namespace; the bridge is Posthouse's to make (`SITE_INTERFACE`).
"""

from __future__ import annotations

from typing import Any

from .guest import Ended, Guest

ADDRESS = "192.168.77.1"
"""Posthouse's on the LAN."""
PC_ADDRESS = "192.168.77.20"
SCAN_S = 300.0
"""Two hundred ports at 33,600 bit/s that do not answer: 20 s."""
POOL = "192.168.77.100-192.168.77.199"


def interface() -> dict[str, Any]:
    """The `[[interface]]` that the LAN is on."""
    return {
        "name": "lan", "device": "br-lan", "ports": ["lan0", "lan1"], "addresses": [f"{ADDRESS}/24"], "dhcp_pool": POOL,
    }  # fmt: skip


class Pc:
    """A machine on the LAN, its default route through Posthouse."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.sh(
            "ip netns add pc; ip link add lan1 type dummy; ip link add lan0 type veth peer name eth0 netns pc;"
            f"ip netns exec pc sh -euc 'ip link set lo up; ip link set eth0 up; ip addr add {PC_ADDRESS}/24 dev eth0;"
            f"ip route add default via {ADDRESS}'"
        )

    def run(self, *argv: str, seconds: float = 60.0, check: bool = True) -> Ended:
        return self.guest.run("ip", "netns", "exec", "pc", *argv, seconds=seconds, check=check)

    def wait_reaches(self) -> None:
        """Until Posthouse's address on the LAN answers."""
        self.guest.wait(f"ip netns exec pc ping -c 1 -W 1 {ADDRESS}", "the LAN is up")

    def connects(self, host: str, port: int, *, seconds: float = 3.0) -> bool:
        """Whether a TCP connection is made."""
        script = f"import socket; socket.create_connection(({host!r}, {port}), {seconds})"
        return self.run("python3", "-c", script, check=False).code == 0

    def open_ports(self, host: str, ports: str, *, udp: bool = False) -> set[int]:
        return scan(self.guest, host, ports, udp=udp, netns="pc")


def scan(guest: Guest, host: str, ports: str, *, udp: bool = False, netns: str = "") -> set[int]:
    """The ports that nmap finds open: those that answer as a service does. Ports that say nothing are not."""
    kind = ["-sU", "--max-retries", "0"] if udp else ["-sS", "--max-retries", "1"]
    inside = ["ip", "netns", "exec", netns] if netns else []
    ended = guest.run(
        *inside, "nmap", "-n", "-Pn", *kind, "-T4", "--open", "-oG", "-", "-p", ports, host, seconds=SCAN_S
    )
    return {
        int(entry.split("/")[0])
        for line in ended.out.splitlines()
        if "Ports: " in line
        for entry in line.split("Ports: ")[1].split("\t")[0].split(", ")
        if entry.split("/")[1] == "open"
    }
