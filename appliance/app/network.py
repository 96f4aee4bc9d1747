"""The parts of the host's own network: its interfaces with their DHCP clients, and DHCP and DNS for the LAN. Without
`[[interface]]` there is neither, and nothing of the host is touched.
"""

from __future__ import annotations

import functools
import ipaddress
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.host.units import Unit, systemd_runs
from appliance.network.dnsmasq import configuration, lans
from appliance.network.lan import LanServices
from appliance.network.neighbour import Child, Neighbour
from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.app.house import House
    from appliance.config.model import Config
    from appliance.config.model import Interface as InterfaceConfig
    from appliance.network.interfaces import Interfaces
    from appliance.network.lease import Lease
    from appliance.network.plan import State

__all__ = ["DnsmasqPart", "InterfacesPart", "own_addresses"]

DNSMASQ_UNIT: Final = "posthouse-dnsmasq.service"
RUNTIME_OF_UNIT: Final = "/run/posthouse"
"""Where the unit looks for its configuration; with another `site.runtime` dnsmasq is our own child."""


def own_addresses(config: Config) -> frozenset[str]:
    """Those that this host has as soon as their devices are there: who listens on one of them need not wait."""
    return frozenset(str(ipaddress.ip_interface(a).ip) for x in config.interface for a in x.addresses)


class InterfacesPart:
    """Keeps what it managed last: a new configuration takes back what it does not want any more, also when it has no
    interfaces at all."""

    name = "interfaces"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._managed: tuple[InterfaceConfig, ...] = ()
        self.states: Mapping[str, State] = {}
        """Interface -> what it is in."""
        self._own_mtu: dict[str, int] = {}
        self._leases: dict[tuple[str, str], Lease] = {}

    def slice(self, config: Config) -> tuple[object, ...] | None:
        wanted = tuple(replace(x, dhcp_pool="") for x in config.interface)  # which is dnsmasq's
        return wanted if wanted or self._managed else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        # Here and not above: pyroute2 costs 40 ms and 6 MB.
        from appliance.network.dhcp_client import DhcpClient
        from appliance.network.interfaces import Interfaces
        from appliance.network.netlink import Netlink, open_watch

        config = self._house.config
        old, self._managed = self._managed, config.interface
        interfaces = Interfaces(config.interface, Netlink, open_watch, old=old, own_mtu=self._own_mtu)
        self.states = interfaces.states
        async with trio.open_nursery() as nursery:
            await nursery.start(interfaces.run)
            task_status.started()
            for interface in config.interface:
                if interface.dhcp:
                    lend = functools.partial(self._lend, interfaces, interface)
                    lease = self._leases.get((interface.name, interface.device))
                    link = interfaces.links[interface.name]
                    client = DhcpClient(interface, link, lend, hostname=config.site.name, lease=lease)
                    nursery.start_soon(client.run)

    def _lend(self, interfaces: Interfaces, interface: InterfaceConfig, lease: Lease | None) -> None:
        """Hands a lease on, and keeps it for the client of a changed configuration, which asks for the same again."""
        key = (interface.name, interface.device)
        if lease is None:
            self._leases.pop(key, None)
        else:
            self._leases[key] = lease
        interfaces.set_lease(interface.name, lease)

    async def drain(self) -> None:
        pass


class DnsmasqPart:
    """DHCP and DNS for the LAN, where an interface has a pool."""

    name = "dnsmasq"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house

    def slice(self, config: Config) -> tuple[object, ...] | None:
        served = lans(config.interface)
        site = config.site
        return (served, site.name, site.domain, bool(config.firewall.forward)) if served else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        config = self._house.config
        served = lans(config.interface)
        file = config.site.runtime / "dnsmasq.conf"
        text = configuration(config.site, served, config.site.runtime, router=bool(config.firewall.forward)).encode()

        async def write() -> None:
            await trio.to_thread.run_sync(Disk().replace_file, file, text)

        neighbour: Neighbour = Unit(DNSMASQ_UNIT)
        own_folder = str(config.site.runtime) != RUNTIME_OF_UNIT
        if own_folder or not systemd_runs() or not await Unit(DNSMASQ_UNIT).exists():
            program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin") or "dnsmasq"
            option = f"--conf-file={file}"
            command = [program, "--keep-in-foreground", "--log-facility=-", option]
            neighbour = Child(command, config.site.runtime / "dnsmasq.pid", option)
        names = ", ".join(lan.name for lan in served)

        def failed(why: str) -> None:
            events.emit(events.DNSMASQ_FAILED, interfaces=names, why=why)

        def started() -> None:
            events.emit(events.DNSMASQ_STARTED, interfaces=names)

        await LanServices(write, neighbour, started, failed).run(task_status=task_status)

    async def drain(self) -> None:
        pass
