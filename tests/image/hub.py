"""The provider of two sites at once, and the hub behind it: pppd at two modems, one on a USB adapter, and `posthouse run` as a
relay server at an address that the default route alone reaches. It has no mail servers and no name server."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.lab.house import toml

from . import provider
from .guest import Guest
from .provider import SERVER
from .site import FILE, JOURNAL, wait_ready
from .telephone import PROVIDER, Telephone

PORT = 7400
ADDRESS = f"{SERVER}:{PORT}"
USB_NUMBER = "0570000112"
MODEMS = {"hub": PROVIDER, "hub-usb": USB_NUMBER}
"""Of its two lines, as `telephone.open_network` takes them."""


@dataclass(frozen=True)
class Subscriber:
    """A site that calls here: its number and its PPP login, its address on the line, the secret of its relay server's link."""

    name: str
    dials: str
    tty: str
    address: str
    ppp_secret: str
    peer_secret: str


SITES = (
    Subscriber("harbour", PROVIDER, "ttyS1", "10.64.0.2", "Sehr-geheim-7", "5a" * 32),
    Subscriber("lagoon", USB_NUMBER, "ttyUSB0", "10.64.0.3", "Ganz-geheim-8", "a5" * 32),
)


def prepare(guest: Guest) -> None:
    """A booted machine with the kernel's parts that it takes, its address and its files."""
    guest.sh(
        "hostname hub.isp.example; modprobe -a ppp_async ppp_deflate bsd_comp xhci_pci ftdi_sio; ip link add behind type dummy;"
        f"ip addr add {SERVER}/32 dev behind; ip link set behind up; groupadd -f posthouse; mkdir -p /etc/posthouse"
    )
    for one in SITES:
        guest.put(f"/etc/ppp/peers/{one.name}", provider.answering(one.tty, one.address))
        guest.put(
            f"/usr/local/sbin/access-{one.name}",
            f"#!/bin/sh\nwhile :; do pppd call {one.name}; sleep 0.2; done\n", mode=0o755,
        )  # fmt: skip
    secrets = "".join(f'{one.name} isp "{one.ppp_secret}" {one.address}\n' for one in SITES)
    guest.put("/etc/ppp/chap-secrets", secrets, mode=0o600)
    guest.sh("python3 -c 'import appliance.app'")


class Hub:
    """A prepared machine that has just been started, with its modems and its relay server."""

    def __init__(self, guest: Guest, telephone: Telephone) -> None:
        self.guest = guest
        guest.machine.plug_serial("second", telephone.folder / "hub-usb.modem")
        guest.wait("test -c /dev/ttyUSB0", "the USB adapter is there")
        for one in SITES:
            guest.daemon(f"access-{one.name}", log="/var/log/access.log")
        peers = [{"name": one.name, "secret": one.name, "connect": "never"} for one in SITES]
        config = {
            "site": {"name": "hub", "domain": "hub.example"},
            "relay": {"listen": [f"0.0.0.0:{PORT}"], "peer": peers},
        }
        guest.put(FILE, toml(config))
        guest.put("/etc/posthouse/secrets.toml", toml({one.name: one.peer_secret for one in SITES}), mode=0o600)
        guest.daemon("posthouse", "run", log=JOURNAL)
        wait_ready(guest)
        script = "posthouse status --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"fingerprint\"])'"
        self.fingerprint = guest.sh(script).strip()

    def logs(self) -> str:
        """For a test that failed."""
        return self.guest.sh(f"tail -n 60 /var/log/pppd.log /var/log/access.log {JOURNAL}", check=False)
