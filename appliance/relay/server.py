"""The relay server as a whole: joins listener, terminals, requests, circuits and the login table, and runs them.

It owns the tasks and the parts; it must not know calls or the control socket. What is async here runs in one nursery;
all else happens in callbacks of the epoll set and of the timers.
"""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance import events
from appliance.protocol.relay import encode
from appliance.relay.circuits import Circuits, TooManyCircuits
from appliance.relay.devices import Devices
from appliance.relay.enrolment import Enrolment
from appliance.relay.epoll import EpollSet
from appliance.relay.listener import Listener
from appliance.relay.proof import prove_login
from appliance.relay.records import Records
from appliance.relay.requests import Directory, Requests
from appliance.relay.terminals import LoginTable, Terminals
from appliance.relay.tickets import Tickets
from appliance.relay.timers import Timers
from appliance.relay.waiting import Waiting

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from appliance.clock import Clock
    from appliance.config.model import Relay
    from appliance.relay.circuits import Circuit
    from appliance.relay.identity import Identity
    from appliance.relay.request import Link, Request
    from appliance.relay.requests import Callee

__all__ = ["CircuitLabel", "RelayServer"]

TERMINAL_CIRCUITS: Final = 64
"""RELAY §1: of one terminal, as caller or callee."""
STOP_S: Final = 0.2
"""For the `bye` of everybody to leave."""


@dataclass(frozen=True, slots=True)
class CircuitLabel:
    """Who is connected to what; `links`: the peers that it goes by."""

    caller: str
    callee: str
    service: str
    links: tuple[str, ...] = ()


class Table(LoginTable, Directory, Protocol):
    """The login table with the configuration, as `terminals` and `requests` see it."""


class RelayServer:
    """One run of the relay server. `verify(password, stored)` is `config.passwords`'; `over_line(address)`: whether a
    local address is a line's; `line_wanted` is called when `waiting.line_wanted` may have changed."""

    def __init__(
        self,
        *,
        site: str,
        config: Relay,
        identity: Identity,
        context: ssl.SSLContext,
        table: Table,
        enrolments: Records,
        waiting: Records,
        verify: Callable[[str, str], bool],
        clock: Clock,
        device_counter: Callable[[str], int] = lambda name: 1,
        over_line: Callable[[str], bool] = lambda address: False,
        line_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = identity
        self.epoll = EpollSet()
        self.timers = Timers()
        self.tickets = Tickets()
        self.circuits = Circuits(self.epoll, idle_limit_s=config.idle_limit_s)
        self.enrolment = Enrolment(enrolments, verify)
        self.table = table
        self._of_terminal: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None
        self.terminals = Terminals(
            site=site,
            enrolment=self.enrolment,
            table=table,
            timers=self.timers,
            prove=functools.partial(prove_login, identity.der),
            start=self.start,
            may_see=table.may_call,
            replace_others=config.duplicate_login == "replace",
            encode=encode,
        )
        self.requests = self.terminals.requests = Requests(
            site,
            table,
            self.tickets,
            self.timers,
            join=self._join,
            open_leg=self._open_leg,
            may_have_another=lambda name: self._of_terminal.get(name, 0) < TERMINAL_CIRCUITS,
        )
        self.waiting = self.requests.waiting = Waiting(
            waiting,
            clock,
            self.timers,
            find=table.find,
            place=self.requests.place,
            start=self.start,
            changed=line_wanted,
        )
        self.devices = Devices(
            table=table, tickets=self.tickets, requests=self.requests, counter=device_counter, start=self.start
        )
        self.listener = Listener(
            self.epoll,
            self.timers,
            context,
            self.tickets,
            greet={"terminal": self.terminals.greet},
            over_line=over_line,
        )
        self.configure(config)

    async def run(
        self, sockets: Sequence[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves on these listening sockets until cancelled; circuits then end, terminals are told."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.listener.open(sockets)
                self.waiting.load()
                for part in (self.epoll.run, self.timers.run, self.circuits.run, self.devices.run):
                    nursery.start_soon(part)
                task_status.started()
        finally:
            self._nursery = None
            self.close()

    async def drain(self) -> None:
        """Accepts no more, and says `bye` to everybody."""
        self.listener.close()
        self.terminals.stop()
        await trio.sleep(STOP_S)

    def close(self) -> None:
        """What is left of it."""
        self.terminals.stop()
        self.requests.close()
        self.epoll.close()

    def configure(self, config: Relay) -> None:
        """Takes over what may change while it runs: accounts and the limit of idleness."""
        self.enrolment.passwords = {account.name: account.password for account in config.account}
        self.circuits.idle_limit_s = config.idle_limit_s
        for name in [n for n in self.terminals.online if n not in self.enrolment.passwords]:
            self.terminals.forget(name)

    def here(self, name: str) -> Callee | None:
        """The terminal or the device of this name that is online here."""
        return self.terminals.online.get(name) or self.devices.get(name)

    def table_changed(self, names: Sequence[str]) -> None:
        """The entries of these names, or the ways to them, are other ones."""
        self.terminals.changed(names)
        self.waiting.table_changed(names)

    async def enrol(self, name: str) -> str:
        """Forgets the name's certificate and ends its login; -> a one-time password. Raises OSError."""
        password = await self.enrolment.begin_anew(name)
        self.terminals.forget(name)
        return password

    # ---- circuits
    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work)

    def _join(self, first: int, second: int, request: Request) -> None:
        ask = request.ask
        label = CircuitLabel(ask.caller, ask.callee, ask.service, request.links)
        try:
            self.circuits.join(first, second, label, self._circuit_ended)
        except (TooManyCircuits, OSError) as error:
            events.emit(events.CIRCUIT_FAILED, caller=ask.caller, callee=ask.callee, service=ask.service, why=error)
            return
        for name in (ask.caller, ask.callee):
            self._of_terminal[name] = self._of_terminal.get(name, 0) + 1
        events.emit(events.CIRCUIT_UP, caller=ask.caller, callee=ask.callee, service=ask.service)

    def _circuit_ended(self, circuit: Circuit, why: str) -> None:
        label = circuit.label
        assert isinstance(label, CircuitLabel)
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

    def _open_leg(self, link: Link, ticket: bytes, done: Callable[[int | None], None]) -> None:
        raise NotImplementedError
