"""dnsmasq's configuration for the LAN, as text, made of ours alone; and who wants it at all. Pure.

DHCP for each interface with a `dhcp_pool`. DNS there for the site's own names and for nothing else: dnsmasq never has a
server above it and reads neither /etc/hosts nor /etc/resolv.conf, so that a question costs no call, and gets the same
answer with and without a line, at once. Every other name is refused, which makes a resolver turn to its next server.

The site's own names: its name, its domain, and `mail smtp pop pop3 imap` there, all for the address of the interface on
which the question came; and what the DHCP clients call themselves. Without `site.domain` they stand alone.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.config.model import Interface, Site

__all__ = ["SERVICE_NAMES", "Lan", "configuration", "lans"]

SERVICE_NAMES: Final = ("mail", "smtp", "pop", "pop3", "imap")
"""What people write into mail programs; `posthouse` needs no other."""
LEASE_TIME: Final = "12h"
"""A working day: who comes back the next morning finds his address, and 150 guests a day do not use a pool up."""
MAX_LEASES: Final = 1000
"""A pool may be larger; a flood of clients that make their addresses up must not eat the memory."""


@dataclass(frozen=True, slots=True)
class Lan:
    """An interface that dnsmasq serves."""

    name: str
    device: str
    network: ipaddress.IPv4Network
    first: str
    last: str


def lans(interfaces: Sequence[Interface]) -> tuple[Lan, ...]:
    """Those with a pool; its network is the one of the interface's addresses that holds it (`config.rules`)."""
    found = []
    for interface in interfaces:
        if not interface.dhcp_pool:
            continue
        first, last = interface.dhcp_pool.split("-")
        networks = [ipaddress.ip_interface(a).network for a in interface.addresses]
        network = next(
            n for n in networks if isinstance(n, ipaddress.IPv4Network) and ipaddress.IPv4Address(first) in n
        )
        found.append(Lan(interface.name, interface.device, network, first, last))
    return tuple(found)


def configuration(site: Site, served: Sequence[Lan], folder: Path, *, router: bool) -> str:
    """The whole file. `folder` is where the leases and the process's number are kept; `router`: clients may get onto
    the line (`firewall.forward`), so they are told to send there what is not for the LAN."""
    lines = [
        "# Written by Posthouse from its own configuration, whenever that changes. What is changed here is lost.",
        f"pid-file={folder}/dnsmasq.pid",
        "",
        "# Only where the LAN is, also on a device that comes late.",
        "bind-dynamic",
        *(f"interface={lan.device}" for lan in served),
        "except-interface=lo",
        "",
        "# Only the site's own names.",
        "no-resolv",
        "no-poll",
        "no-hosts",
        "bogus-priv",
        "cache-size=0",
        "localise-queries",
        *_names(site, served),
        *_not_for_clients(site),
        "",
        "# DHCP. Leases are kept until the next start of the host: a client gets the same address again without them.",
        "dhcp-authoritative",
        f"dhcp-lease-max={MAX_LEASES}",
        f"dhcp-leasefile={folder}/dnsmasq.leases",
        *_pools(served, router=router),
    ]
    return "\n".join(lines) + "\n"


def _names(site: Site, served: Sequence[Lan]) -> list[str]:
    names = [site.name]
    lines = []
    if site.domain:
        domain = site.domain if site.domain.isascii() else site.domain.encode("idna").decode()  # as the wire has it
        names += [domain, *(f"{label}.{domain}" for label in (site.name, *SERVICE_NAMES))]
        lines = [f"domain={domain}", f"local=/{domain}/"]
    lines.append(f"local=/{site.name}/")
    for lan in served:
        lines += [f"interface-name={name},{lan.device}/4" for name in dict.fromkeys(names)]
    return lines


def _not_for_clients(site: Site) -> list[str]:
    """A DHCP client's name becomes one of the LAN's, but not these: ours, and the one by which browsers look for a
    proxy (CERT VU#598349)."""
    taken = dict.fromkeys((site.name, *SERVICE_NAMES, "wpad", "localhost"))
    return [*(f"dhcp-name-match=set:taken,{name}" for name in taken), "dhcp-ignore-names=tag:taken"]


def _pools(served: Sequence[Lan], *, router: bool) -> list[str]:
    lines = []
    for lan in served:
        lines.append(f"dhcp-range=set:{lan.name},{lan.first},{lan.last},{lan.network.netmask},{LEASE_TIME}")
        if not router:
            lines.append(f"dhcp-option=tag:{lan.name},option:router")
    return lines
