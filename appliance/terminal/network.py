"""Where this computer is in the network, and that it is another place now: looked at from time to time, and on Linux
told by the kernel (rtnetlink(7)), so that a move is seen at once, also between networks that give out the same address.
"""

from __future__ import annotations

import socket
from typing import Any, Final

import trio

__all__ = ["AddressChanges", "local_address", "owns"]

IPV4_ADDRESSES: Final = 0x10
"""RTMGRP_IPV4_IFADDR. Not IPv6's: every router advertisement would be one."""
MESSAGE_BYTES: Final = 64 * 1024


class AddressChanges:
    """Tells of addresses that come and go while the block lasts."""

    def __enter__(self) -> AddressChanges:
        self._socket: trio.socket.SocketType | None = None
        try:
            told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        except (AttributeError, OSError):
            return self  # another system, or forbidden: then it is looked at alone
        try:
            told.bind((0, IPV4_ADDRESSES))
        except OSError:
            told.close()
        else:
            self._socket = trio.socket.from_stdlib_socket(told)
        return self

    def __exit__(self, *args: object) -> None:
        if self._socket is not None:
            self._socket.close()

    async def wait(self, at_most_s: float) -> bool:
        """Until one has come or gone, True; False where there was none within that time."""
        with trio.move_on_after(at_most_s):
            if self._socket is None:
                await trio.sleep_forever()
            else:
                try:
                    await self._socket.recv(MESSAGE_BYTES)
                except OSError:
                    pass  # some were lost for want of room (netlink(7), ENOBUFS): so there were some
                return True
        return False


def local_address(to: tuple[Any, ...], family: int) -> str | None:
    """The address that this computer would send from to that one now; None without a way to it. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(to)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def owns(address: tuple[Any, ...], family: int) -> bool:
    """Whether that address is still one of this computer's."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
        return True
