"""Things that can't log in by themselves (`relay.device`): this relay server does it for them, and ends the terminals'
TLS in their place (RELAY §3, §6).

It owns the devices' presence and their end of circuits; the requests see a device as they see a terminal: something to
send `invite`, `ready` and `cancel` to.

A device is online while one of its services takes a connection: tried at the start, each minute, and at each call,
whose connection is kept for it. Its leg of the circuit is one end of a socket pair; a task at the other end does what a
called terminal does: handshake, 0x01, bytes. So the bytes of a device are seen here in the clear, those of terminals
never.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.relay.request import Refusal
from appliance.transport import circuit
from appliance.transport.listen import parse_address
from appliance.transport.sealing import SealingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from appliance.config.model import RelayDevice
    from appliance.relay.requests import Requests
    from appliance.relay.terminals import LoginTable
    from appliance.relay.tickets import Tickets

__all__ = ["Device", "Devices"]

TRY_EVERY_S: Final = 60.0
TRY_S: Final = 5.0
"""A device is on the LAN."""
HELD_S: Final = 240.0
"""A connection made for a call waits so long for its circuit: longer than the tickets of a line are good."""


class Device:
    """One. `key` is a PEM file with certificate and key, `certificate` DER, `fingerprint` its digest. Services:
    name -> ADDRESS:PORT."""

    def __init__(
        self, devices: Devices, config: RelayDevice, key: Path, certificate: bytes, fingerprint: bytes
    ) -> None:
        self._devices = devices
        self.name = config.name
        self._addresses = {service: parse_address(where) for service, where in config.services}
        self.services = tuple(self._addresses)
        self._key = key
        self.certificate = certificate
        self.fingerprint = fingerprint
        self.online: bool | None = None  # nobody has looked yet
        self.since = 0.0  # of Trio's clock
        self._calls: dict[bytes, _Call] = {}

    def send(self, kind: str, body: Mapping[str, Any]) -> None:
        """What a terminal is told, to the thing that stands for it."""
        id = body["id"]
        if kind == "invite":
            call = self._calls[id] = _Call(self, body["from"], body["service"], body["certificate"])
            self._devices.start(lambda: self._ring(id, call))
        elif kind == "ready" and id in self._calls:
            call = self._calls.pop(id)
            self._devices.start(lambda: self._answer(call, body["ticket"]))
        elif kind == "cancel" and id in self._calls:
            self._calls.pop(id).close()

    async def look(self) -> bool:
        """Whether one of its services answers."""
        for service in self.services:
            stream = await self._connect(service)
            if stream is not None:
                await trio.aclose_forcefully(stream)
                return True
        return False

    async def _connect(self, service: str) -> trio.SocketStream | None:
        address = self._addresses[service]
        try:
            with trio.fail_after(TRY_S):
                return await trio.open_tcp_stream(address.host, address.port)
        except (OSError, trio.TooSlowError):
            return None

    async def _ring(self, id: bytes, call: _Call) -> None:
        stream = await self._connect(call.service)
        if stream is None:
            self._calls.pop(id, None)
            age = trio.current_time() - self.since if self.online is False else None
            text = f"its {call.service} does not answer"
            self._devices.requests.reject(self, id, Refusal("offline", "offline", text=text, age=age))
            self._devices.set_online(self, await self.look())
            return
        self._devices.set_online(self, True)
        call.stream = stream
        if self._calls.get(id) is not call:  # cancelled meanwhile
            call.close()
            return
        self._devices.requests.accept(self, id, self.certificate)
        await trio.sleep(HELD_S)
        if self._calls.get(id) is call:
            del self._calls[id]
            call.close()

    async def _answer(self, call: _Call, ticket: bytes) -> None:
        """Its end of the circuit, until the circuit's end."""
        take = self._devices.tickets.redeem(ticket, self.name)
        if take is None:
            call.close()
            return
        leg, end = socket.socketpair()
        leg.setblocking(False)
        take(leg.detach(), False)
        sock = trio.socket.from_stdlib_socket(end)
        stream, call.stream = call.stream, None
        assert stream is not None
        local = circuit.LocalSocket(stream.socket)
        try:
            sealed = await circuit.seal(sock, self._key, call.certificate, caller=False)
            await circuit.tell_go(sock, sealed)
            await circuit.carry(sock, sealed, local, circuit.Carried())
        except (circuit.CircuitBroken, circuit.LocalBroken, SealingError, OSError) as error:
            events.emit(
                events.DEVICE_CIRCUIT_BROKEN, terminal=self.name, caller=call.caller, service=call.service, why=error
            )
        finally:
            local.reset()
            sock.close()


class _Call:
    """One that rings at a device, or waits for its circuit. `stream`: the connection to the service, once there."""

    def __init__(self, device: Device, caller: str, service: str, certificate: bytes) -> None:
        self.device = device
        self.caller = caller
        self.service = service
        self.certificate = certificate
        self.stream: trio.SocketStream | None = None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.socket.close()


class Devices:
    """All of this relay server's. `counter()` is the login counter of a device that comes online now."""

    def __init__(
        self,
        *,
        table: LoginTable,
        tickets: Tickets,
        requests: Requests,
        counter: Callable[[str], int],
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.tickets = tickets
        self.requests = requests
        self.start = start
        self._table = table
        self._counter = counter
        self._counters: dict[str, int] = {}
        self._all: dict[str, Device] = {}

    def add(self, config: RelayDevice, key: Path, certificate: bytes, fingerprint: bytes) -> None:
        """Before `run`."""
        self._all[config.name] = Device(self, config, key, certificate, fingerprint)

    def get(self, name: str) -> Device | None:
        """The device of this name. One that did not answer is tried again when it is called."""
        return self._all.get(name)

    async def run(self) -> None:
        """Looks after all of them, until cancelled."""
        async with trio.open_nursery() as nursery:
            for device in self._all.values():
                nursery.start_soon(self._watch, device)

    async def _watch(self, device: Device) -> None:
        while True:
            self.set_online(device, await device.look())
            await trio.sleep(TRY_EVERY_S)

    def set_online(self, device: Device, online: bool) -> None:
        if online == device.online:
            return
        if online or device.online is None:  # also one that has never answered has its entry
            counter = self._counters[device.name] = self._counter(device.name)
            self._table.logged_in(device.name, counter, device.services, device.fingerprint)
        device.online, device.since = online, trio.current_time()
        if online:
            events.emit(events.DEVICE_ONLINE, terminal=device.name)
        else:
            self._table.logged_out(device.name, self._counters[device.name], said=True)
            events.emit(events.DEVICE_OFFLINE, terminal=device.name)
