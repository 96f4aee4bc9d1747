"""What a DHCP server has lent, as udhcpc's script hands it over: text in, a `Lease` out. Pure.

The script (`udhcpc-script`) writes for each event a record of NAME=VALUE, each ended by NUL, and an empty one at its
end. What stands in it comes from a server on the network: it is read strictly, and a lease that makes no sense is none.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from appliance.network.plan import Origin, Route

if TYPE_CHECKING:
    from appliance.network.plan import Address, Wanted

__all__ = ["BadLease", "Lease", "Records", "read", "with_lease"]

RECORD_LIMIT: Final = 16 * 1024
"""Bytes of one record: a DHCP message is at most 1,500 or so, and udhcpc writes its options out as text."""
SHORTEST_S: Final = 60
"""A lease for less would be renewed all the time: taken as this long."""
LONGEST_S: Final = 0x7FFFFFFF
"""Seconds; 0xffffffff is for ever (RFC 2131 §3.3), which the kernel writes as 0."""
METRIC: Final = 1024
"""Of a lease's routes: any route that is configured comes before them."""


class BadLease(ValueError):
    """Says what of it makes no sense."""


@dataclass(frozen=True, slots=True)
class Lease:
    """`seconds` 0: for ever. `routes` with the lease's origin and metric."""

    address: ipaddress.IPv4Interface
    seconds: int
    routes: tuple[Route, ...] = ()
    server: str = ""


class Records:
    """Bytes of the script's in, whole records out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, str]]:
        """Raises BadLease for a record over the limit."""
        self._buffer += data
        *whole, rest = bytes(self._buffer).split(b"\0\0")
        self._buffer[:] = rest
        if len(rest) > RECORD_LIMIT:
            raise BadLease("a record without an end")
        return [_fields(record) for record in whole]


def _fields(record: bytes) -> dict[str, str]:
    pairs = (field.partition(b"=") for field in record.split(b"\0"))
    return {name.decode("ascii", "replace"): value.decode("utf-8", "replace") for name, _, value in pairs if name}


def read(fields: dict[str, str]) -> Lease:
    """Of a record `bound` or `renew`. Raises BadLease."""
    try:
        address = ipaddress.IPv4Interface(f"{fields['ip']}/{fields.get('mask') or fields['subnet']}")
        seconds = int(fields["lease"])
    except (KeyError, ValueError) as error:
        raise BadLease(f"no address, mask or time: {error}") from None
    ip = address.ip
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or ip.is_reserved:
        raise BadLease(f"{ip} can't be a host's address")
    seconds = 0 if seconds > LONGEST_S else max(seconds, SHORTEST_S)
    return Lease(address, seconds, _routes(fields, address), fields.get("serverid", ""))


def _routes(fields: dict[str, str], address: ipaddress.IPv4Interface) -> tuple[Route, ...]:
    """Of option 121 where there is one, which replaces option 3 (RFC 3442); else the first router that is on the link.
    What can't be read, or reached, is left out."""
    pairs: list[tuple[str, str]] = []
    if static := fields.get("staticroutes", "").split():
        pairs = list(zip(static[::2], static[1::2], strict=False))
    else:
        pairs = [("0.0.0.0/0", router) for router in fields.get("router", "").split()[:1]]
    routes: dict[ipaddress.IPv4Network, Route] = {}
    for destination, gateway in pairs:
        try:
            network, via = ipaddress.IPv4Network(destination), ipaddress.IPv4Address(gateway)
        except ValueError:
            continue
        if via in address.network and via != address.ip:
            routes.setdefault(network, Route(network, via, METRIC, origin=Origin.DHCP))
    return tuple(routes.values())


def with_lease(wanted: Wanted, lease: Lease | None) -> Wanted:
    """What is wanted of a device with this lease, or with none any more."""
    if lease is None:
        return replace(wanted, lease_unknown=False)
    addresses = wanted.addresses if lease.address in wanted.addresses else (*wanted.addresses, lease.address)
    configured = {r.destination for r in wanted.routes}
    routes = (*wanted.routes, *(r for r in lease.routes if r.destination not in configured))
    ours = lease.address in wanted.addresses or not lease.seconds
    leased: dict[Address, int] = {} if ours else {lease.address: lease.seconds}
    return replace(wanted, addresses=addresses, routes=routes, leased=leased, lease_unknown=False)
