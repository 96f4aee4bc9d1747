"""Circuits leave a call's mail its share of the line (RELAY §6).

It owns the pace of the circuits that go over the line of a call, whoever has opened their connections; it must not know
what the jobs of the call do. The one that carries the circuits looks (`look`) a few times a second.

How it works. While a job that is not one of these has work under way, the circuits have what `MAIL_SHARE` leaves of
the line, divided among those that move; else they go as fast as they can. The line's rate is what the modem said at
CONNECT, where a telephone circuit can be so fast: a modem that says more tells the speed of its port, or what its
network carries at best. Then it is the most that the line has carried in a `WINDOW_S` of this call. The kernel keeps
the pace, at the socket that sends: what comes from the line is held back where it goes on to the LAN, and its sender by
the windows that fill, some 64 KiB later. It forgives a socket that has nothing to send for a moment up to half of the
next packet's time (tcp_update_skb_after_send), so a stream that comes in pieces may go up to twice as fast: the paces
are corrected by what has really moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.call import OpenCall
    from appliance.relay.circuits import Circuit

__all__ = ["JOB", "MAIL_SHARE", "Pacing"]

JOB: Final = "relay "
"""How the names of the relay's own jobs begin."""
MAIL_SHARE: Final = 0.5
"""Half: each unit of the call is paid for, and mail that goes at half the line's rate keeps it up for twice as long at
the most, however many circuits there are; who types in one hardly notices that his line has become half as fast."""
SERIAL_BITS: Final = 10
"""Bits of the line for a byte, with start and stop."""
CIRCUIT_RATE: Final = 64_000
"""Bit/s of a telephone circuit (ITU-T G.711): no modem's CONNECT is honestly above it."""
WINDOW_S: Final = 2.0
"""Long enough for a few round trips of a satellite, so that a burst into a queue is not taken for the line's rate."""
LEAST_CORRECTION: Final = 0.5
"""The kernel lets nothing go more than twice as fast as its pace."""
ACTIVE_S: Final = 2.0
"""A circuit that has moved no byte for so long takes part in no division."""


class Pacing:
    """`on_line()`: the circuits that go over the line."""

    def __init__(self, on_line: Callable[[], list[Circuit]]) -> None:
        self._on_line = on_line
        self._call_id = -1
        self._best = 0.0  # bytes/s
        self._correction = 1.0
        self._began, self._carried, self._sum = 0.0, (0, 0), 0  # of the window: bytes of the line; and of the circuits
        self._moved: dict[Circuit, tuple[int, float]] = {}  # and when that was new
        self._paced: dict[Circuit, int | None] = {}

    def look(self, call: OpenCall) -> None:
        """Sets the paces as they are to be now."""
        now = trio.current_time()
        circuits = self._on_line()
        self._moved = {c: self._moved.get(c, (c.moved, now)) for c in circuits}
        for circuit, (before, _) in self._moved.items():
            if circuit.moved != before:
                self._sum += circuit.moved - before
                self._moved[circuit] = (circuit.moved, now)
        active = sum(now - at < ACTIVE_S for _, at in self._moved.values())
        self._measure(call, now)
        left = self._left(call)
        pace = None if left is None else max(1, int(left * self._correction / max(1, active)))
        self._paced = {c: self._paced.get(c) for c in circuits}
        for circuit, before_pace in self._paced.items():
            if before_pace != pace:
                circuit.pace(pace)
                self._paced[circuit] = pace

    def _left(self, call: OpenCall) -> float | None:
        """Bytes/s for the circuits; None: no limit, or none is known."""
        if all(name.startswith(JOB) for name in call.moving()):
            return None
        rate = call.rate / SERIAL_BITS if 0 < call.rate <= CIRCUIT_RATE else self._best
        return rate * (1 - MAIL_SHARE) if rate else None

    def _measure(self, call: OpenCall, now: float) -> None:
        if call.id != self._call_id:
            self._call_id, self._best, self._correction = call.id, 0.0, 1.0
        elif (seconds := now - self._began) < WINDOW_S:
            return
        else:
            into, out = (after - before for after, before in zip(call.carried(), self._carried, strict=True))
            self._best = max(self._best, into / seconds, out / seconds)
            left = self._left(call)
            if left is not None and self._sum:
                right = self._correction * left / (self._sum / seconds)
                self._correction = min(1.0, max(LEAST_CORRECTION, right))
        self._began, self._carried, self._sum = now, call.carried(), 0
