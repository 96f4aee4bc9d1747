"""The kernel's devices by rtnetlink(7). The only module that imports pyroute2, which costs 40 ms and 6 MB, all of it
twice as much: it is itself imported only where interfaces are configured.

pyroute2 runs an event loop inside, with sockets bound to their thread. So a `Kernel` is opened, used and closed within
one call in one thread (1 ms). What has *changed* is heard of on a socket of our own, `open_watch`, whose content nobody
parses: whoever is told observes anew, so that a message that was lost or misread can do no harm.
"""

from __future__ import annotations

import errno
import gc
import importlib.util
import ipaddress
import os
import socket
import sys
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.network.plan import (
    AddAddress,
    AddRoute,
    Change,
    CreateBridge,
    DeleteBridge,
    Device,
    FreePort,
    Origin,
    RemoveAddress,
    RemoveRoute,
    Route,
    SeenAddress,
    SetMtu,
    SetUp,
    StopStp,
    TakePort,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType


@contextmanager
def _no_package_init(name: str) -> Iterator[None]:
    """Within, modules of that package are imported without what its `__init__` does: pyroute2's imports all that there
    is, databases and wireless networks included."""
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None:
        yield
        return
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]  # who asks for the package itself gets it


with _no_package_init("pyroute2"):
    from pyroute2.iproute import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["Netlink", "close_way", "open_watch", "open_way"]

IFF_UP: Final = 0x1
IFF_LOWER_UP: Final = 0x10000
IFA_F_PERMANENT: Final = 0x80
RT_TABLE_MAIN: Final = 254
RTN_UNICAST: Final = 1
RTPROT_KERNEL: Final = 2
RTPROT_STATIC: Final = 4
RTPROT_DHCP: Final = 16
ORIGINS: Final = {
    RTPROT_KERNEL: Origin.KERNEL, 9: Origin.KERNEL, RTPROT_STATIC: Origin.STATIC, RTPROT_DHCP: Origin.DHCP
}  # fmt: skip
"""9: RTPROT_RA."""
PROTOCOLS: Final = {Origin.KERNEL: RTPROT_KERNEL, Origin.STATIC: RTPROT_STATIC, Origin.DHCP: RTPROT_DHCP}
SCOPE_LINK: Final = 253

GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (linux/rtnetlink.h)."""
WATCH_BUFFER: Final = 256 * 1024
"""Some 500 messages. When it overflows the kernel says ENOBUFS, which is a change like another."""


def open_watch() -> trio.socket.SocketType:
    """A socket that becomes readable when a link, an address or a route changes. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WATCH_BUFFER)
        sock.bind((0, GROUPS))
        return trio.socket.from_stdlib_socket(sock)
    except BaseException:
        sock.close()
        raise


class Netlink:
    """A `settle.Kernel`: the real one, of the network namespace that we run in. A context manager for one thread.
    Raises OSError."""

    def __init__(self) -> None:
        self._ip: Any = IPRoute()
        self._indices: dict[str, int] = {}

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip.close()
        self._ip = None
        # It leaves 1,800 objects in cycles each time, and where a router advertises itself that is all day long. Those
        # that wait for the next collection hold up what the heap has around them, which grows by 2 MB in a day.
        gc.collect()

    def observe(self) -> dict[str, Device]:
        addresses: dict[int, list[SeenAddress]] = {}
        routes: dict[int, list[Route]] = {}
        try:
            for message in self._ip.get_addr():
                addresses.setdefault(message["index"], []).append(_address(message))
            for family in (socket.AF_INET, socket.AF_INET6):
                for message in self._ip.get_routes(family=family, table=RT_TABLE_MAIN):
                    if (route := _route(message)) is not None:
                        routes.setdefault(message.get_attr("RTA_OIF"), []).append(route)
            links = [_device(message, addresses, routes) for message in self._ip.get_links()]
        except NetlinkError as error:
            raise _os_error(error) from error
        self._indices = {d.name: d.index for d in links}
        return {d.name: d for d in links}

    def apply(self, change: Change) -> None:
        try:
            self._apply(change)
        except NetlinkError as error:
            raise _os_error(error) from error

    def _apply(self, change: Change) -> None:
        ip = self._ip
        if isinstance(change, CreateBridge):
            ip.link("add", ifname=change.device, kind="bridge")
            return
        index = self._index(change.device)
        match change:
            case DeleteBridge():
                ip.link("del", index=index)
            case TakePort(bridge=bridge):
                ip.link("set", index=index, master=self._index(bridge))
            case FreePort():
                ip.link("set", index=index, master=0)
            case SetMtu(mtu=mtu):
                ip.link("set", index=index, mtu=mtu)
            case SetUp():
                ip.link("set", index=index, state="up")
            case StopStp():
                ip.link("set", index=index, kind="bridge", br_stp_state=0)
            case AddAddress(address=address, lifetime_s=lifetime_s):
                self._add_address(index, address, lifetime_s)
            case RemoveAddress(address=address):
                ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            case AddRoute(route=route):
                ip.route("add", **_route_request(index, route), proto=PROTOCOLS[route.origin])
            case RemoveRoute(route=route):
                ip.route("del", **_route_request(index, route))
            case _:
                raise TypeError(f"not a change: {change!r}")

    def _index(self, name: str) -> int:
        try:
            return self._indices[name]
        except KeyError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from None

    def _add_address(self, index: int, address: Any, lifetime_s: int) -> None:
        request: dict[str, Any] = {
            "index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen
        }  # fmt: skip
        if address.version == 4 and address.network.prefixlen < 31:
            request["broadcast"] = str(address.network.broadcast_address)
        if lifetime_s:
            request |= {"preferred_lft": lifetime_s, "valid_lft": lifetime_s}
        self._ip.addr("replace", **request)


def _device(message: Any, addresses: dict[int, list[SeenAddress]], routes: dict[int, list[Route]]) -> Device:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else "") or ""
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "bridge" else None
    index = message["index"]
    return Device(
        index,
        message.get_attr("IFLA_IFNAME"),
        kind=kind,
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message["flags"] & IFF_LOWER_UP),
        mtu=message.get_attr("IFLA_MTU") or 0,
        master=message.get_attr("IFLA_MASTER") or 0,
        stp=bool(data and data.get_attr("IFLA_BR_STP_STATE")),
        addresses=tuple(addresses.get(index, ())),
        routes=tuple(routes.get(index, ())),
    )


def _address(message: Any) -> SeenAddress:
    # IFA_LOCAL is our own end of a point-to-point link, IFA_ADDRESS the other's (linux/if_addr.h).
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return SeenAddress(ipaddress.ip_interface(f"{text}/{message['prefixlen']}"), bool(flags & IFA_F_PERMANENT))


def _route(message: Any) -> Route | None:
    """None: one that is none of ours to look at (another table, a blackhole, several paths)."""
    if (message.get_attr("RTA_TABLE") or message["table"]) != RT_TABLE_MAIN or message["type"] != RTN_UNICAST:
        return None
    if message.get_attr("RTA_OIF") is None:
        return None
    everything = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    gateway = message.get_attr("RTA_GATEWAY")
    source = message.get_attr("RTA_PREFSRC")
    return Route(
        ipaddress.ip_network(f"{message.get_attr('RTA_DST') or everything}/{message['dst_len']}"),
        ipaddress.ip_address(gateway) if gateway else None,
        message.get_attr("RTA_PRIORITY") or 0,
        source=ipaddress.ip_address(source) if source else None,
        origin=ORIGINS.get(message["proto"], Origin.OTHER),
    )


def _route_request(index: int, route: Route) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": socket.AF_INET if route.destination.version == 4 else socket.AF_INET6,
        "dst": str(route.destination),
        "oif": index,
        "table": RT_TABLE_MAIN,
    }
    if route.metric:
        request["priority"] = route.metric
    if route.gateway is not None:
        request["gateway"] = str(route.gateway)
    elif route.destination.version == 4:
        request["scope"] = SCOPE_LINK
        if route.source is not None:
            request["prefsrc"] = str(route.source)
    return request


def _os_error(error: Any) -> OSError:
    return OSError(abs(error.code), str(error))


# ---- the way of a call
CALL_TABLE: Final = 7400
CALL_PRIORITIES: Final = (7400, 7401)
"""Of the rules: first the main table but for its default routes, then the call's; both before the host's own."""
NO_FAMILY: Final = frozenset(
    {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENETUNREACH, errno.EINVAL, errno.ENODEV}
)
"""What a kernel says that has no IPv6, or a device that has none: ENODEV where its MTU is below IPv6's least, 1280, as
on a telephone line."""


def open_way(device: str, from_devices: Sequence[str], uids: Sequence[int]) -> None:
    """What comes from these devices, and what programs of these users send, goes over `device` unless the host knows
    a narrower way. A routing table of its own: nobody else's packets take it. Blocks; raises OSError."""
    close_way()
    try:
        with IPRoute() as ip:
            index = next(iter(ip.link_lookup(ifname=device)), None)
            if index is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    _open_family(ip, family, index, from_devices, uids)
                except NetlinkError as error:
                    if family == socket.AF_INET or abs(error.code) not in NO_FAMILY:
                        raise
    except NetlinkError as error:
        raise _os_error(error) from error


def _open_family(ip: Any, family: int, index: int, from_devices: Sequence[str], uids: Sequence[int]) -> None:
    route: dict[str, Any] = {"family": family, "dst": "default", "oif": index, "table": CALL_TABLE}
    for message in ip.get_default_routes(family=family, table=RT_TABLE_MAIN):
        if message.get_attr("RTA_OIF") == index and (gateway := message.get_attr("RTA_GATEWAY")):
            route["gateway"] = gateway
    ip.route("replace", **route)
    whose = [{"iifname": name} for name in from_devices]
    whose += [{"uid_range": f"{uid}:{uid}"} for uid in uids]
    narrower, the_call = CALL_PRIORITIES
    for one in whose:
        ip.rule("add", family=family, priority=narrower, table=RT_TABLE_MAIN, FRA_SUPPRESS_PREFIXLEN=0, **one)
        ip.rule("add", family=family, priority=the_call, table=CALL_TABLE, **one)


def close_way() -> None:
    """Nothing of a call's way is left; also of one that an earlier process died in. Blocks; raises OSError."""
    try:
        with IPRoute() as ip:
            for family in (socket.AF_INET, socket.AF_INET6):
                for rule in list(ip.get_rules(family=family)):
                    if rule.get_attr("FRA_PRIORITY") in CALL_PRIORITIES:
                        ip.rule("del", **_rule_request(rule))
                for message in list(ip.get_routes(family=family, table=CALL_TABLE)):
                    ip.route("del", family=family, dst="default", oif=message.get_attr("RTA_OIF"), table=CALL_TABLE)
    except NetlinkError as error:
        raise _os_error(error) from error


def _rule_request(rule: Any) -> dict[str, Any]:
    request = {"family": rule["family"], "priority": rule.get_attr("FRA_PRIORITY"), "table": rule.get_attr("FRA_TABLE")}
    if name := rule.get_attr("FRA_IIFNAME"):
        request["iifname"] = name
    if uids := rule.get_attr("FRA_UID_RANGE"):
        request["uid_range"] = uids if isinstance(uids, str) else f"{uids['start']}:{uids['end']}"
    return request
