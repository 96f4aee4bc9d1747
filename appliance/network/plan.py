"""What `[[interface]]` wants against what the kernel shows, as pure data: `plan` says which changes lead from one to
the other. Must not know netlink, processes or time.

Device and interface are two things (netifd's DESIGN): a *device* is what the kernel has under a name, and may be
absent; an *interface* is what the configuration wants of one device, or of a bridge and its ports. A port is a device
like another, of which no addresses are wanted but a bridge above it.

A managed device ends as configured: what it has and nobody configured is taken away. Left alone are what the kernel or
a router makes by itself (link-local addresses, addresses and routes of router advertisements, connected routes), other
routing tables than the main one, and every device that no interface names.

One plan need not be enough: the kernel makes and removes things of its own when something is changed (a link that goes
down loses its routes). Whoever applies a plan observes and plans again, until nothing is left to do.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from appliance.config.model import Interface

__all__ = [
    "AddAddress",
    "AddRoute",
    "Address",
    "Change",
    "CreateBridge",
    "DeleteBridge",
    "Device",
    "Ip",
    "Network",
    "Origin",
    "RemoveAddress",
    "RemoveRoute",
    "Route",
    "SeenAddress",

    "SetMtu",
    "SetUp",
    "State",
    "StopStp",
    "Unfit",
    "Wanted",
    "plan",
    "retire",
    "state",
]  # fmt: skip

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_METRIC: Final = 1024
"""What the kernel makes of an IPv6 route without a metric (IP6_RT_PRIO_USER, include/uapi/linux/ipv6_route.h)."""


class Origin(StrEnum):
    """Who made a route (rtm_protocol, rtnetlink(7))."""

    KERNEL = "kernel"
    """The kernel for an address, or for a router advertisement."""
    STATIC = "static"
    DHCP = "dhcp"
    OTHER = "other"


class State(StrEnum):
    """Of an interface."""

    ABSENT = "absent"
    """Its device is not there: no error, it may come."""
    SETTING_UP = "setting-up"
    """There, but not as configured: something could not be done yet."""
    NO_CARRIER = "no-carrier"
    """As configured, but nothing is plugged in."""
    UP = "up"


@dataclass(frozen=True, slots=True)
class Route:
    """Of the main table, unicast. `gateway` None: on the link itself. `source` is of no account for which route it
    is."""

    destination: Network
    gateway: Ip | None = None
    metric: int = 0
    source: Ip | None = field(default=None, compare=False)
    origin: Origin = field(default=Origin.STATIC, compare=False)

    def __str__(self) -> str:
        return f"{self.destination} via {self.gateway}" if self.gateway else str(self.destination)

    @classmethod
    def read(cls, text: str) -> Route:
        """As configured, "10.0.0.0/8 via 192.168.77.254"."""
        destination, _, gateway = text.partition(" via ")
        network = ipaddress.ip_network(destination.strip())
        metric = IPV6_METRIC if network.version == 6 else 0
        return cls(network, ipaddress.ip_address(gateway.strip()), metric)


@dataclass(frozen=True, slots=True)
class SeenAddress:
    address: Address
    permanent: bool = True
    """False: it ends by itself (a lease, a router advertisement)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One that the kernel has. `up`: administratively (IFF_UP); `master`: the index of the bridge above it, 0 for none;
    `stp`: of a bridge."""

    index: int
    name: str
    kind: str = ""
    up: bool = False
    carrier: bool = False
    mtu: int = 1500
    master: int = 0
    stp: bool = False
    addresses: tuple[SeenAddress, ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one device: an interface's (`bridge` with ports, or a device that is there by itself), or a
    port's (`master`). `mtu` 0: as it is. `leased` are the addresses, of those in `addresses`, that a DHCP server has
    lent and for how many seconds. `lease_unknown`: a DHCP client has just begun; what an earlier one was lent stays
    until it is heard of."""

    interface: str
    device: str
    bridge: bool = False
    ports: tuple[str, ...] = ()
    master: str = ""
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    mtu: int = 0
    leased: Mapping[Address, int] = field(default_factory=dict)
    lease_unknown: bool = False

    @classmethod
    def of(cls, interface: Interface) -> tuple[Wanted, ...]:
        """An interface's device and its ports."""
        own = cls(
            interface.name,
            interface.device,
            bridge=bool(interface.ports),
            ports=interface.ports,
            addresses=tuple(ipaddress.ip_interface(a) for a in interface.addresses),
            routes=tuple(Route.read(r) for r in interface.routes),
            mtu=interface.mtu,
            lease_unknown=interface.dhcp,
        )
        ports = (cls(interface.name, port, master=interface.device, mtu=interface.mtu) for port in interface.ports)
        return (own, *ports)


# ---- changes
@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do to a device, named since it may not exist yet. As text: what had been wrong, for the journal."""

    device: str


@dataclass(frozen=True, slots=True)
class CreateBridge(Change):
    def __str__(self) -> str:
        return f"bridge {self.device} was missing"


@dataclass(frozen=True, slots=True)
class DeleteBridge(Change):
    def __str__(self) -> str:
        return f"bridge {self.device} is configured no more"


@dataclass(frozen=True, slots=True)
class TakePort(Change):
    bridge: str

    def __str__(self) -> str:
        return f"{self.device} was no port of {self.bridge}"


@dataclass(frozen=True, slots=True)
class FreePort(Change):
    """`bridge`: ours that it was a port of, "" for another's."""

    bridge: str = ""

    def __str__(self) -> str:
        return f"{self.device} was a port of {self.bridge or 'another bridge'}"


@dataclass(frozen=True, slots=True)
class SetMtu(Change):
    mtu: int
    was: int

    def __str__(self) -> str:
        return f"{self.device} had MTU {self.was}, not {self.mtu}"


@dataclass(frozen=True, slots=True)
class StopStp(Change):
    def __str__(self) -> str:
        return f"{self.device} spoke the spanning tree protocol"


@dataclass(frozen=True, slots=True)
class SetUp(Change):
    def __str__(self) -> str:
        return f"{self.device} was down"


@dataclass(frozen=True, slots=True)
class AddAddress(Change):
    address: Address
    lifetime_s: int = 0
    """0: for ever. An address that is there gets this lifetime."""

    def __str__(self) -> str:
        return f"{self.device} lacked {self.address}"


@dataclass(frozen=True, slots=True)
class RemoveAddress(Change):
    address: Address

    def __str__(self) -> str:
        return f"{self.device} had {self.address} too"


@dataclass(frozen=True, slots=True)
class AddRoute(Change):
    route: Route

    def __str__(self) -> str:
        return f"{self.device} lacked the route {self.route}"


@dataclass(frozen=True, slots=True)
class RemoveRoute(Change):
    route: Route

    def __str__(self) -> str:
        return f"{self.device} had the route {self.route} too"


@dataclass(frozen=True, slots=True)
class Unfit(Change):
    """Nothing to do: the device can't be what is wanted, and only a person can change that."""

    why: str

    def __str__(self) -> str:
        return self.why


# ---- the plan


def plan(
    wanted: Sequence[Wanted], seen: Mapping[str, Device], *, renewed: frozenset[str] = frozenset()
) -> list[Change]:
    """What is to be done now so that each managed device becomes what is wanted; devices that are absent wait. On those
    `renewed` leased addresses get their lifetime anew."""
    changes: list[Change] = []
    for one in wanted:
        device = seen.get(one.device)
        if device is None:
            if one.bridge:
                changes.append(CreateBridge(one.device))
        elif one.bridge and device.kind != "bridge":
            changes.append(Unfit(one.device, f"{one.device} is there but is no bridge"))
        else:
            changes += _of_device(one, device, seen, one.device in renewed)
    return changes


def _of_device(one: Wanted, device: Device, seen: Mapping[str, Device], renewed: bool) -> Iterator[Change]:
    if one.bridge:
        if device.stp:
            yield StopStp(device.name)
        for other in seen.values():
            if other.master == device.index and other.name not in one.ports:
                yield FreePort(other.name, device.name)
    if one.master:
        bridge = seen.get(one.master)
        if bridge is not None and bridge.kind == "bridge" and device.master != bridge.index:
            yield TakePort(device.name, one.master)
    elif device.master:
        yield FreePort(device.name)
    if one.mtu and device.mtu != one.mtu:
        yield SetMtu(device.name, one.mtu, device.mtu)
    if not device.up:
        yield SetUp(device.name)
    yield from _addresses(one, device, renewed)
    yield from _routes(one, device)


def _addresses(one: Wanted, device: Device, renewed: bool) -> Iterator[Change]:
    permanent = {a.address: a.permanent for a in device.addresses}
    for seen in device.addresses:
        if seen.address not in one.addresses and not _left_alone(one, seen):
            yield RemoveAddress(device.name, seen.address)
    for address in one.addresses:
        leased = address in one.leased
        stays = permanent.get(address, False)
        if address not in permanent or (renewed if leased else not stays):
            yield AddAddress(device.name, address, one.leased.get(address, 0))


def _left_alone(one: Wanted, seen: SeenAddress) -> bool:
    if seen.address.ip.is_link_local:
        return True
    return not seen.permanent and (seen.address.version == 6 or one.lease_unknown)


def _routes(one: Wanted, device: Device) -> Iterator[Change]:
    wanted = {*one.routes, *_connected(one)}
    have = set(device.routes)
    for route in device.routes:
        foreign = route.origin is not Origin.KERNEL and not (one.lease_unknown and route.origin is Origin.DHCP)
        if foreign and route not in wanted:
            yield RemoveRoute(device.name, route)
    if not device.up:
        return  # the kernel takes none
    # Connected ones first: gateways are reached through them.
    for route in sorted(wanted - have, key=lambda r: (r.gateway is not None, str(r))):
        yield AddRoute(device.name, route)


def _connected(one: Wanted) -> Iterator[Route]:
    """The routes that the kernel makes for addresses, so that one that was deleted by hand comes back."""
    for address in one.addresses:
        if address.network.prefixlen < address.max_prefixlen:
            metric = 256 if address.version == 6 else 0  # IP6_RT_PRIO_ADDRCONF
            yield Route(address.network, None, metric, source=address.ip, origin=Origin.KERNEL)


def retire(old: Sequence[Wanted], wanted: Sequence[Wanted], seen: Mapping[str, Device]) -> list[Change]:
    """What is to be undone of devices that `old` had and `wanted` has no more: our bridges, addresses and routes. What
    is still wanted is not touched."""
    kept = {one.device for one in wanted}
    changes: list[Change] = []
    for one in old:
        device = seen.get(one.device)
        if one.device in kept or device is None:
            continue
        if one.bridge:
            if device.kind == "bridge":
                changes.append(DeleteBridge(device.name))
            continue
        bridge = seen.get(one.master)
        if bridge is not None and device.master == bridge.index:
            changes.append(FreePort(device.name, one.master))
        changes += [RemoveRoute(device.name, r) for r in one.routes if r in device.routes]
        changes += [RemoveRoute(device.name, r) for r in device.routes if one.lease_unknown and r.origin is Origin.DHCP]
        for seen_address in device.addresses:
            leased = one.lease_unknown and seen_address.address.version == 4 and not seen_address.permanent
            if leased or seen_address.address in one.addresses:
                changes.append(RemoveAddress(device.name, seen_address.address))
    return changes


def state(one: Wanted, seen: Mapping[str, Device], left: Sequence[Change]) -> State:
    """Of an interface, by its own device; `left`: what a plan still holds for it or its ports."""
    device = seen.get(one.device)
    if device is None:
        return State.ABSENT
    if left:
        return State.SETTING_UP
    return State.UP if device.carrier else State.NO_CARRIER
