"""A telephone exchange: numbers, subscribers, and the calls between them, with the exchange's own record of each.

It knows tones and times, and circuits between two ends; it knows no AT commands (`modem.py`) and not what is said over
a circuit. A subscriber is a modem (`Station`) or a provider's number (`Access`). Each number's behaviour can be changed
at any time; it counts for calls that come after.

Theory of operation. `place` is one attempt, run in the caller's task and aborted by cancelling it:

    dial tone?            no   -> NO_DIALTONE
    digits, switching     an unknown number, or one out of service -> NO_CARRIER after the announcement
    engaged?              yes  -> BUSY
    ringing               nobody takes it off the hook until the caller gives up -> NO_ANSWER
    answered, training    no modem there -> NO_CARRIER, else CONNECTED with a rate

A circuit is ended by whoever calls `Circuit.end` first, with a reason; both ends are told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import trio

__all__ = ["Access", "CallRecord", "Circuit", "Exchange", "Progress", "Station", "Telephone"]

STANDARD_RATE: Final = 33600
"""V.34's last step in bit/s: what a good line gives."""


class Progress(StrEnum):
    """How an attempt ended, as tones tell it."""

    CONNECTED = "connected"
    NO_DIALTONE = "no dial tone"
    BUSY = "busy"
    NO_ANSWER = "no answer"
    NO_CARRIER = "no carrier"
    ABORTED = "aborted"


@dataclass(slots=True)
class CallRecord:
    """What the exchange writes down of an attempt; times in wall-clock Unix seconds, None: never."""

    caller: str
    number: str
    started: float
    connected: float | None = None
    ended: float | None = None
    rate: int = 0
    progress: Progress | None = None
    end_reason: str = ""
    bytes_out: int = 0
    """From the caller's modem, and to it; 0 for a call to a provider, which the caller's `Line` counts."""
    bytes_in: int = 0

    @property
    def seconds(self) -> float:
        """From CONNECT to the end; 0 for an attempt that did not connect."""
        return (self.ended or time.time()) - self.connected if self.connected else 0.0


class Station(Protocol):
    """A subscriber with a modem: its own number, and what the exchange tells it."""

    number: str

    @property
    def on_hook(self) -> bool: ...

    async def ring(self, caller: str) -> None:
        """Rings until it is answered, or cancelled; `caller` is the number to show."""
        ...

    def circuit_up(self, circuit: Circuit) -> None: ...

    def circuit_down(self, circuit: Circuit) -> None: ...

    async def hear(self, data: bytes) -> None:
        """Bytes from the circuit's other end."""
        ...


@dataclass(slots=True)
class Telephone:
    """Somebody who calls and hangs up again before it is answered. It must not be answered: it hears nothing."""

    number: str
    on_hook: bool = True

    async def ring(self, caller: str) -> None:
        await trio.sleep_forever()

    def circuit_up(self, circuit: Circuit) -> None: ...

    def circuit_down(self, circuit: Circuit) -> None: ...

    async def hear(self, data: bytes) -> None: ...


@dataclass(slots=True)
class Access:
    """A provider's number. What is behind it is reached over the caller's `Line` while a circuit is up."""

    number: str
    rate: int = STANDARD_RATE
    ring_s: float = 0.4
    train_s: float = 0.4
    engaged: bool = False
    answers: bool = True
    has_modem: bool = True
    trunks: int = 8
    """Calls at once; one more is engaged."""


@dataclass(slots=True, eq=False)
class Circuit:
    """A call that is up. `end` is idempotent. `dead`: the carrier stands and nothing comes through, as when the far
    end's equipment behind its modem has died."""

    record: CallRecord
    exchange: Exchange
    caller: Station
    callee: Station | Access
    up: bool = True
    dead: bool = False

    @property
    def rate(self) -> int:
        return self.record.rate

    def other(self, station: Station) -> Station | None:
        """The modem at the other end; None where that is a provider."""
        other = self.callee if station is self.caller else self.caller
        return None if isinstance(other, Access) else other

    def carry(self, sender: Station, data: bytes) -> None:
        """Writes down what `sender` puts on the circuit between two modems."""
        if sender is self.caller:
            self.record.bytes_out += len(data)
        else:
            self.record.bytes_in += len(data)

    def end(self, reason: str) -> None:
        if not self.up:
            return
        self.up = False
        self.record.ended = time.time()
        self.record.end_reason = reason
        self.exchange.circuits.remove(self)
        self.caller.circuit_down(self)
        if not isinstance(self.callee, Access):
            self.callee.circuit_down(self)


@dataclass(slots=True, eq=False)
class Exchange:
    """`records` are in the order of the attempts. `switch_s`: from the last digit to the first ring or tone."""

    switch_s: float = 0.2
    rate: int = STANDARD_RATE
    """Between two modems, in bit/s."""
    alive: bool = True
    """False: no dial tone for anybody."""
    records: list[CallRecord] = field(default_factory=list)
    circuits: list[Circuit] = field(default_factory=list)
    _numbers: dict[str, Access | Station] = field(default_factory=dict)
    _ringing: set[str] = field(default_factory=set)

    def subscribe(self, subscriber: Access | Station) -> None:
        if subscriber.number in self._numbers:
            raise ValueError(f"number {subscriber.number} is taken")
        self._numbers[subscriber.number] = subscriber

    def drop_all(self, reason: str = "dropped") -> None:
        """Ends every call, as a storm does."""
        for circuit in list(self.circuits):
            circuit.end(reason)

    async def place(self, caller: Station, number: str, *, patience_s: float) -> Circuit | Progress:
        """One attempt; gives up after `patience_s` (S7). A circuit, or why there is none."""
        record = CallRecord(caller.number, number, time.time())
        self.records.append(record)
        progress = Progress.ABORTED
        try:
            with trio.move_on_after(patience_s) as patience:
                progress = await self._attempt(caller, number, record)
            if patience.cancelled_caught:
                progress = Progress.NO_ANSWER
        finally:
            record.progress = progress
            if progress is not Progress.CONNECTED:
                record.ended = time.time()
                record.end_reason = str(progress)
        if progress is not Progress.CONNECTED:
            return progress
        # No checkpoint from the answer to here: the callee can't be taken by another caller in between.
        callee = self._numbers[number]
        circuit = Circuit(record, self, caller, callee)
        self.circuits.append(circuit)
        record.connected = time.time()
        caller.circuit_up(circuit)
        if not isinstance(callee, Access):
            callee.circuit_up(circuit)
        return circuit

    async def _attempt(self, caller: Station, number: str, record: CallRecord) -> Progress:
        if not self.alive:
            return Progress.NO_DIALTONE
        await trio.sleep(self.switch_s)
        callee = self._numbers.get(number)
        if callee is None or callee is caller:
            return Progress.NO_CARRIER
        if not isinstance(callee, Access):
            return await self._ring_station(callee, record)
        if callee.engaged or sum(c.callee is callee for c in self.circuits) >= callee.trunks:
            return Progress.BUSY
        if not callee.answers:
            await trio.sleep_forever()
        await trio.sleep(callee.ring_s)
        await trio.sleep(callee.train_s)
        if not callee.has_modem:
            return Progress.NO_CARRIER
        record.rate = callee.rate
        return Progress.CONNECTED

    async def _ring_station(self, callee: Station, record: CallRecord) -> Progress:
        if not callee.on_hook or callee.number in self._ringing:
            return Progress.BUSY
        self._ringing.add(callee.number)
        try:
            await callee.ring(record.caller)
        finally:
            self._ringing.remove(callee.number)
        record.rate = self.rate
        return Progress.CONNECTED
