"""A neighbour that listens only on addresses which the host has when it starts, where Posthouse's own services need not
wait (ip(7), IP_FREEBIND): it is started anew when one comes that was missing. A device comes late, and an IPv6 address
is none yet while it is being probed (RFC 4862 §5.4), or without a carrier.
"""

from __future__ import annotations

import errno
import math
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.network.neighbour import Neighbour

__all__ = ["LateAddresses", "is_there"]

LOOK_S: Final = 10.0


def is_there(host: str) -> bool:
    """Whether this address can be listened on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


class LateAddresses:
    """A `Neighbour` in front of another. `here`: what that one can listen on, as `look` has found last."""

    def __init__(self, neighbour: Neighbour, hosts: Iterable[str]) -> None:
        self._neighbour = neighbour
        self._hosts = tuple(hosts)
        self.here: tuple[str, ...] = ()

    def look(self) -> None:
        """For the next start."""
        self.here = tuple(host for host in self._hosts if is_there(host))

    async def start(self) -> str:
        if not self.here:
            return "none of its addresses is there yet"
        return await self._neighbour.start()

    async def stop(self) -> str:
        return await self._neighbour.stop()

    async def wait_ended(self) -> str:
        missing = [host for host in self._hosts if host not in self.here]
        while not any(map(is_there, missing)):
            with trio.move_on_after(LOOK_S if missing else math.inf):
                return await self._neighbour.wait_ended()
        return ""
