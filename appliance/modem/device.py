"""A network device as the kernel shows it: whether it carries IP, with which addresses, and how many bytes it moved.

It owns nothing of the device: it looks, and changes nothing. It reads what Linux shows to everybody (/proc/net, ioctl),
a few quick system calls each time; a netlink socket of its own only rings when something has changed, and what that was
is looked up, so that a lost or forged notice does no harm. No library is loaded for it: the room that follows all
interfaces has one, a call needs one device.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Counters", "DeviceState", "addresses", "look", "wait_for"]

LOOK_S: Final = 5.0
"""Looks at least that often, should a notice be lost."""
GROUPS: Final = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR (rtnetlink(7))."""
SIOCGIFFLAGS: Final = 0x8913
SIOCGIFADDR: Final = 0x8915
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IPV6_GLOBAL: Final = "00"
"""The scope's column in if_inet6; link-local and site-local are others."""
IPV6_NOT_YET: Final = 0x40 | 0x08
"""IFA_F_TENTATIVE, IFA_F_DADFAILED."""
NAME_LIMIT: Final = 15


@dataclass(frozen=True, slots=True)
class DeviceState:
    """`running`: up, with a carrier where it has one. Link-local addresses reach nobody beyond the link, and count for
    none."""

    present: bool
    running: bool
    ipv4: bool
    ipv6: bool

    @property
    def carries(self) -> bool:
        """Whether a call can go over it."""
        return self.running and (self.ipv4 or self.ipv6)

    def lacks(self, device: str) -> str:
        """Why no call can go over it, as a sentence; "" where one can."""
        if not self.present:
            return f"there is no device {device}"
        if not self.running:
            return f"{device} is down"
        return "" if self.carries else f"{device} has no address"


def look(device: str) -> DeviceState:
    """As it is now. A name that can be no device's is of one that is not there."""
    name = device.encode()
    if not name or len(name) > NAME_LIMIT:
        return DeviceState(False, False, False, False)
    request = struct.pack("16s24x", name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        except OSError:
            return DeviceState(False, False, False, False)
        try:
            address = ipaddress.IPv4Address(fcntl.ioctl(sock, SIOCGIFADDR, request)[20:24])
            ipv4 = not address.is_link_local
        except OSError:
            ipv4 = False
    return DeviceState(True, flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING, ipv4, _has_ipv6(device))


def addresses(device: str) -> frozenset[str]:
    """Its own, as `getsockname` writes them, but without zones: the first IPv4 address (a line's device has one) and
    all IPv6 addresses. Empty for a device that is not there."""
    found = {str(ipaddress.IPv6Address(int(row[0], 16))) for row in _ipv6_rows(device)}
    name = device.encode()
    if name and len(name) <= NAME_LIMIT:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            request = struct.pack("16s24x", name)
            found.add(str(ipaddress.IPv4Address(fcntl.ioctl(sock, SIOCGIFADDR, request)[20:24])))
    return frozenset(found)


def _has_ipv6(device: str) -> bool:
    return any(row[3] == IPV6_GLOBAL and not int(row[4], 16) & IPV6_NOT_YET for row in _ipv6_rows(device))


def _ipv6_rows(device: str) -> list[list[str]]:
    """Of if_inet6: address, index, length of the prefix, scope, flags, device."""
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return []
    return [row for row in map(str.split, lines) if len(row) == 6 and row[5] == device]


async def wait_for(device: str, condition: Callable[[DeviceState], bool]) -> DeviceState:
    """Returns once `condition` holds, with the state in which it does. Raises OSError without netlink."""
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as notices:
        await notices.bind((0, GROUPS))
        while not condition(state := look(device)):
            with trio.move_on_after(LOOK_S):
                try:
                    await notices.recv(65536)
                except OSError:  # ENOBUFS: notices were lost
                    await trio.lowlevel.checkpoint()
        return state


class Counters:
    """Bytes that a device has carried since `start`. Keeps the last figures when the device goes."""

    def __init__(self) -> None:
        self._device = ""
        self._base = (0, 0)
        self._last: tuple[int, int] | None = None

    def start(self, device: str, *, fresh: bool = False) -> None:
        """Counts from now, of this device; of a `fresh` one, made for this call, from its beginning."""
        self._device = device
        self._base = (0, 0) if fresh else _figures(device) or (0, 0)
        self._last = (0, 0)

    def forget(self) -> None:
        """There is no call yet that these would be of."""
        self._device, self._last = "", None

    def read(self) -> tuple[int, int] | None:
        """(in, out); None before `start`. A device that began to count anew has lost what it had."""
        if self._device and (now := _figures(self._device)) is not None:
            moved = (now[0] - self._base[0], now[1] - self._base[1])
            self._last = moved if min(moved) >= 0 else self._last
        return self._last

    def stop(self) -> None:
        """The last look: what the device carries from now on is not counted."""
        self.read()
        self._device = ""


def _figures(device: str) -> tuple[int, int] | None:
    for line in Path("/proc/net/dev").read_text("ascii", "replace").splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == device:
            columns = figures.split()
            return int(columns[0]), int(columns[8])
    return None
