"""The relay server as a whole: joins listener, terminals, devices, peers, requests, circuits and the login table, and
runs them.

It owns the tasks and the parts; it must not know calls or the control socket. What is async here runs in one nursery;
all else happens in callbacks of the epoll set and of the timers; circuits have a thread.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.protocol.relay import encode
from appliance.relay.circuits import Circuits, TooManyCircuits
from appliance.relay.devices import Devices
from appliance.relay.dialling import Dialling
from appliance.relay.directory import Directory
from appliance.relay.enrolment import Enrolment
from appliance.relay.epoll import EpollSet
from appliance.relay.links import PeerLink
from appliance.relay.listener import Listener
from appliance.relay.memory import Memory
from appliance.relay.others import Others
from appliance.relay.pacing import Pacing
from appliance.relay.peers import Peer, Peers
from appliance.relay.proof import prove_login
from appliance.relay.requests import Requests
from appliance.relay.routes import Routes
from appliance.relay.terminals import Terminals
from appliance.relay.tickets import Tickets
from appliance.relay.timers import Timers
from appliance.relay.waiting import Waiting

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from appliance.clock import Clock
    from appliance.config.model import Relay
    from appliance.relay.circuits import Circuit
    from appliance.relay.connection import Connection
    from appliance.relay.identity import Identity
    from appliance.relay.records import Records
    from appliance.relay.request import Callee, Link, Request
    from appliance.relay.slice_files import SliceFiles

__all__ = ["RECORDS", "CircuitLabel", "RelayServer"]

RECORDS: Final = ("table", "enrolled", "waiting", "routes")
"""The files of `records.Records` that a relay server has."""

TERMINAL_CIRCUITS: Final = 64
"""RELAY §1: of one terminal, as caller or callee."""
STOP_S: Final = 0.2
"""For the `bye` of everybody to leave."""
TIDY_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class CircuitLabel:
    """Who is connected to what."""

    caller: str
    callee: str
    service: str


class RelayServer:
    """One run of the relay server. `keys`: peer -> the shared secret's 32 bytes. `records` are
    `RECORDS`. `verify(password, stored)` is `config.passwords`'; `over_line(socket)`: whether a connection has come in
    over a line; `line_wanted` is called when `waiting.line_wanted` may have changed; `line_budget` as in `Requests`.
    `devices`: name -> its identity.

    `on_line`: the circuits that go over the line of a call, and which of their legs do; `line_taken`: one more does."""

    def __init__(
        self,
        *,
        site: str,
        config: Relay,
        keys: Mapping[str, bytes],
        identity: Identity,
        context: ssl.SSLContext,
        records: Mapping[str, Records],
        slices: SliceFiles,
        verify: Callable[[str, str], bool],
        clock: Clock,
        devices: Mapping[str, Identity],
        over_line: Callable[[socket.socket], bool] = lambda sock: False,
        line_wanted: Callable[[], None] = lambda: None,
        line_budget: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.site = site
        self.identity = identity
        self.epoll = EpollSet()
        self.timers = Timers()
        self.tickets = Tickets()
        self.circuits = Circuits(idle_limit_s=config.idle_limit_s, soon=self.epoll.soon)
        self.on_line: dict[Circuit, tuple[bool, bool]] = {}
        self.line_taken = trio.Event()
        self.pacing = Pacing(lambda: list(self.on_line))
        self.enrolment = Enrolment(records["enrolled"], verify)
        self.directory = Directory(site, clock)
        self.memory = Memory(records["table"], clock, site, self.start)
        self._config = config
        self._of_terminal: dict[str, int] = {}
        self._conflicts: dict[str, str] = {}  # name -> the owner that the journal was told of
        self._on_circuit_end = self._circuit_ended  # one for all: each look-up makes another
        self._nursery: trio.Nursery | None = None
        registry, routes = self.memory.registry, Routes(site, config.forget_after_s)
        self.peers = Peers(
            site,
            registry,
            routes,
            self.timers,
            changed=self._table_changed,
            overruled=self._overruled,
            outranked=self.directory.outranked,
            keep=self.memory.keep_epoch,
            make_link=lambda connection, name: self._link(connection, name, opened_there=True),
        )
        self.peers.others = Others(slices, records["routes"], registry, routes, clock, self.timers, self.start)
        for peer in config.peer:
            self.peers.all[peer.name] = Peer(peer.name, keys.get(peer.name, b""), peer.terminals, peer.address)
        self.dialling = Dialling(site, self.epoll, self.timers, make_link=self._own_link)
        self.directory.peers = self.peers
        self.directory.local = self.here
        self.directory.keep = self.memory.keep
        self.terminals = Terminals(
            site=site,
            enrolment=self.enrolment,
            table=self.directory,
            timers=self.timers,
            prove=functools.partial(prove_login, identity.der),
            start=self.start,
            may_see=self.directory.may_call,
            replace_others=config.duplicate_login == "replace",
            encode=encode,
        )
        self.requests = self.terminals.requests = self.peers.requests = Requests(
            site,
            self.directory,
            self.tickets,
            self.timers,
            join=self._join,
            open_leg=self._open_leg,
            may_have_another=lambda name: self._of_terminal.get(name, 0) < TERMINAL_CIRCUITS,
            line_budget=line_budget,
        )
        self.waiting = self.requests.waiting = Waiting(
            records["waiting"],
            clock,
            self.timers,
            find=self.directory.find,
            place=self.requests.place,
            given_up=self.requests.given_up,
            start=self.start,
            changed=line_wanted,
        )
        self.devices = Devices(
            table=self.directory,
            tickets=self.tickets,
            requests=self.requests,
            counter=lambda name: max(registry.own.epoch * 1000, self.directory.known_counter(name) + 1),
            start=self.start,
        )
        for device in config.device:
            own = devices[device.name]
            self.devices.add(device, own.key, own.der, own.digest)
        self.listener = Listener(
            self.epoll,
            self.timers,
            context,
            self.tickets,
            greet={"terminal": self.terminals.greet, "relay": self.peers.greet},
            over_line=over_line,
        )
        self.configure(config)

    async def run(
        self, sockets: Sequence[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves on these listening sockets until cancelled; circuits then end, terminals are told. Raises OSError
        where its beginning can't be recorded."""
        await self.memory.begin()
        await self.peers.begin()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.listener.open(sockets)
                self.waiting.load()
                for part in (self.epoll.run, self.timers.run, self.circuits.run, self.devices.run, self._tidy):
                    nursery.start_soon(part)
                for peer in self._config.peer:
                    if peer.address and peer.connect == "always":
                        nursery.start_soon(self.dialling.keep, self.peers.all[peer.name])
                task_status.started()
        finally:
            self._nursery = None
            self.close()

    async def drain(self) -> None:
        """Accepts no more, says `bye` to everybody, and keeps what it knows of the others."""
        self.listener.close()
        self.peers.stop()
        self.terminals.stop()
        await trio.sleep(STOP_S)
        await self.peers.others.save()

    def close(self) -> None:
        """What is left of it."""
        self.terminals.stop()
        self.requests.close()
        self.epoll.close()

    def configure(self, config: Relay) -> None:
        """Takes over what may change while it runs: accounts, their permissions, and the limit of idleness."""
        self.directory.configure(config)
        # Interned here, a name that comes in a frame is this one and no second string.
        self.enrolment.passwords = {sys.intern(account.name): account.password for account in config.account}
        self.circuits.idle_limit_s = config.idle_limit_s
        for name in [n for n in self.terminals.online if n not in self.enrolment.passwords]:
            self.terminals.forget(name)

    async def enrol(self, name: str) -> str:
        """Forgets the name's certificate and ends its login; -> a one-time password. Raises OSError."""
        password = await self.enrolment.begin_anew(name)
        self.terminals.forget(name)
        return password

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs it in the background; nothing once the relay server has stopped."""
        if self._nursery is not None:
            self._nursery.start_soon(work)

    # ---- the table
    def here(self, name: str) -> Callee | None:
        """The terminal or the device of this name that is online here."""
        return self.terminals.online.get(name) or self.devices.get(name)

    def _table_changed(self, names: Sequence[str]) -> None:
        for name in names:
            owner = self.directory.conflict(name)
            if owner is not None and self._conflicts.get(name) != owner:
                self._conflicts[name] = owner
                events.emit(events.NAME_CONFLICT, terminal=name, owner=owner)
        self.terminals.changed(names)
        self.waiting.table_changed(names)

    def _overruled(self, name: str) -> None:
        self.memory.keep(name)
        self.terminals.lost_elsewhere(name)

    async def _tidy(self) -> None:
        """Forgets who is gone for long."""
        while True:
            await trio.sleep(TIDY_EVERY_S)
            for name in self.peers.tidy(self._config.forget_after_s):
                self.memory.keep(name)

    # ---- links
    def _link(self, connection: Connection, name: str, *, opened_there: bool) -> PeerLink:
        return PeerLink(
            self.peers, self.timers, self.site, self.identity.der, connection, name, opened_there=opened_there
        )

    def _own_link(
        self, connection: Connection, peer: Peer, keepalive: int, stays: float, back_in: float | None
    ) -> PeerLink:
        fingerprint = next(p.fingerprint for p in self._config.peer if p.name == peer.name)
        return PeerLink(
            self.peers,
            self.timers,
            self.site,
            self.identity.der,
            connection,
            peer.name,
            opened_there=False,
            fingerprint=fingerprint,
            keepalive=keepalive,
            stays=stays,
            back_in=back_in,
        )

    def _open_leg(self, link: Link, ticket: bytes, done: Callable[[int | None, bool], None]) -> None:
        assert isinstance(link, PeerLink)
        address = self.peers.all[link.name].address

        async def open_it() -> None:
            # A link that we open is without a keepalive where it goes over our line.
            done(await self.dialling.open_leg(link, address, ticket), link.keepalive == 0)

        self.start(open_it)

    # ---- circuits
    def _join(self, first: int, second: int, request: Request) -> None:
        ask = request.ask
        label = CircuitLabel(ask.caller, sys.intern(ask.callee), sys.intern(ask.service))
        try:
            circuit = self.circuits.join(first, second, label, self._on_circuit_end)
        except (TooManyCircuits, OSError) as error:
            events.emit(events.CIRCUIT_FAILED, caller=ask.caller, callee=ask.callee, service=ask.service, why=error)
            return
        if any(request.over_line):
            self.on_line[circuit] = request.over_line
            self.line_taken.set()
        for name in (ask.caller, ask.callee):
            self._of_terminal[name] = self._of_terminal.get(name, 0) + 1
        events.emit(events.CIRCUIT_UP, caller=ask.caller, callee=ask.callee, service=ask.service)

    def _circuit_ended(self, circuit: Circuit, why: str) -> None:
        label = circuit.label
        assert isinstance(label, CircuitLabel)
        self.on_line.pop(circuit, None)
        for name in (label.caller, label.callee):
            left = self._of_terminal[name] - 1
            if left:
                self._of_terminal[name] = left
            else:
                del self._of_terminal[name]
        up, down = circuit.legs
        events.emit(
            events.CIRCUIT_ENDED,
            caller=label.caller,
            callee=label.callee,
            service=label.service,
            seconds=round(trio.current_time() - circuit.since),
            why=why or "both sides have ended",
            bytes_up=up.moved,
            bytes_down=down.moved,
        )
