"""Tickets for data connections (RELAY §5): 16 random bytes, good once, for the name that it was given to, for a while.

It owns what has been issued; it must not know what a ticket is for: whoever issues it says what is done with the
connection that comes with it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LINE_TICKET_S", "TICKET_S", "Tickets"]

TICKET_BYTES: Final = 16
DRAWN: Final = 64
"""Tickets' bytes that are drawn at once: a system call for each would be a third of what issuing one costs."""
TICKET_S: Final = 30.0
LINE_TICKET_S: Final = 180.0
"""On a link without keepalive, which goes over a line (RELAY §5)."""


@dataclass(frozen=True, slots=True)
class _Issued:
    name: str
    until: float
    take: Callable[[int, bool], None]


class Tickets:
    """All that are out. Whoever issues one revokes it when it is no longer wanted, so that none stay for ever."""

    def __init__(self) -> None:
        self._issued: dict[bytes, _Issued] = {}
        self._random = b""

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, name: str, seconds: float, take: Callable[[int, bool], None]) -> bytes:
        """A ticket for `name`; `take` is called with the descriptor of the connection that comes with it, non-blocking
        and whoever takes it's own from then on, and whether it goes over a line."""
        if not self._random:
            self._random = os.urandom(DRAWN * TICKET_BYTES)
        ticket, self._random = self._random[:TICKET_BYTES], self._random[TICKET_BYTES:]
        self._issued[ticket] = _Issued(name, trio.current_time() + seconds, take)
        return ticket

    def revoke(self, ticket: bytes) -> None:
        """One that is not out is no error."""
        self._issued.pop(ticket, None)

    def redeem(self, ticket: bytes, name: str) -> Callable[[int, bool], None] | None:
        """Who takes the connection; None where the ticket is not good. Another's ticket stays good for him."""
        issued = self._issued.get(ticket)
        if issued is None or issued.name != name or issued.until < trio.current_time():
            return None
        del self._issued[ticket]
        return issued.take
