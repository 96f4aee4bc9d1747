"""Terminals that log in here (RELAY §2, §3): login, enrolment, counter, welcome, the table with its changes, bye.

It owns the logins: who is online, by which connection and certificate. What a login changes it tells the `LoginTable`;
what is about connection requests it hands to the `Requests`. It must not know peers, circuits or files.

Theory of operation. A `Terminal` is the speaker of one connection:

| state    | frames that it takes                                   | leaves to                                        |
|----------|--------------------------------------------------------|--------------------------------------------------|
| greeted  | login                                                  | checking (a password is checked); in; over       |
| checking | none but ping, pong, bye                               | greeted, at once judged anew; over               |
| in       | list, connect, accept, reject, cancel, ping, pong, bye | over                                             |
| over     | none                                                   |                                                  |

`error` with `enrol` or `counter` leaves it greeted: another login may follow on the same connection.

A login is looked at in this order: certificate and proof, enrolment, counter (RELAY §2). One of the same name and the
same certificate always replaces the older, which is a ghost; one with another certificate does too, or is refused
(`relay.duplicate_login`).
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from appliance import events
from appliance.protocol.relay import FRAME_LIMIT, FrameError, are_services, strings_bytes
from appliance.relay.enrolment import CheckBusy, SlowDown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from appliance.relay.connection import Connection
    from appliance.relay.enrolment import Enrolment
    from appliance.relay.timers import Timer, Timers

__all__ = ["KEEPALIVE_S", "LoginTable", "Requests", "Terminal", "Terminals"]

KEEPALIVE_S: Final = 30
"""RELAY §4: after so much silence a ping, after twice that the login is lost."""
LOGIN_LIMIT: Final = 3
"""RELAY §2: logins on a connection."""
PASSWORD_LIMIT: Final = 511
"""As `config.passwords`."""
LISTEN_EVERY_S: Final = 2
"""One look at all of them costs less than a deadline for each: 5,000 would keep 1 MB of those."""
GATHER_S: Final = 0.01
"""RELAY §3: changes are gathered so long before watchers hear of them."""


class LoginTable(Protocol):
    """The login table, as logins see it."""

    def known_counter(self, name: str) -> int:
        """The highest that is known for this name, here or in accepted entries; 0 for none."""
        ...

    def too_far_ahead(self, counter: int) -> bool:
        """More than a day ahead of a clock that is trusted."""
        ...

    def online_elsewhere(self, name: str, fingerprint: bytes) -> bool:
        """Whether the name is online at another relay server with another certificate than this one."""
        ...

    def logged_in(self, name: str, counter: int, services: Sequence[str], fingerprint: bytes) -> None: ...

    def logged_out(self, name: str, counter: int, *, said: bool) -> None:
        """`said`: with a `bye`."""
        ...

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole table as `table` shows it."""
        ...

    def row(self, name: str) -> dict[str, Any] | None: ...


class Requests(Protocol):
    """Connection requests, as a terminal's frames reach them. Frames have been checked for their form only."""

    def from_terminal(self, terminal: Terminal, kind: str, body: Mapping[str, Any]) -> None:
        """`connect`, `accept`, `reject` or `cancel`."""
        ...

    def terminal_gone(self, terminal: Terminal) -> None: ...


class Terminal:
    """One connection of a terminal. `certificate` (DER), `fingerprint`, `counter` and `services` once it is in."""

    __slots__ = ("_logins", "_pinged", "_set", "certificate", "connection", "counter", "fingerprint", "name",
                 "said_bye", "services", "state", "watches")  # fmt: skip

    def __init__(self, terminals: Terminals, connection: Connection, name: str) -> None:
        self._set = terminals
        self._logins = 0
        self._pinged = False
        self.connection = connection
        self.name = name
        self.state = "greeted"
        self.certificate = b""
        self.fingerprint = b""
        self.counter = 0
        self.services: tuple[str, ...] = ()
        self.watches = False
        self.said_bye = False

    @property
    def online(self) -> bool:
        return self.state == "in"

    def send(self, kind: str, body: Mapping[str, Any]) -> None:
        self.connection.send(kind, body)

    # ---- the connection's speaker
    def on_open(self) -> None:
        """Has been."""

    def on_frame(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "ping":
            self.connection.send("pong")
        elif kind == "pong":
            pass
        elif kind == "bye":
            self.said_bye = True
            self.connection.close("it said bye")
        elif self.state == "greeted" and kind == "login":
            self._login(body)
        elif self.state == "in" and kind == "list":
            self._set.list(self, watch=bool(body.get("watch")))
        elif self.state == "in" and kind in ("connect", "accept", "reject", "cancel"):
            self._set.requests.from_terminal(self, kind, body)
        elif kind in KINDS:
            raise FrameError("out-of-order", f"no {kind} now")
        else:
            raise FrameError("unknown-type", "unknown type of frame")

    def on_end(self, why: str) -> None:
        was, self.state = self.state, "over"
        if was == "in":
            self._set.ended(self, why)

    # ---- logging in
    def _login(self, body: Mapping[str, Any]) -> None:
        self._logins += 1
        if self._logins > LOGIN_LIMIT:
            raise FrameError("limit", f"more than {LOGIN_LIMIT} logins on a connection")
        certificate, proof = body.get("certificate"), body.get("proof")
        counter, services, password = body.get("counter"), body.get("services") or [], body.get("password")
        if not isinstance(certificate, bytes) or not isinstance(proof, bytes) or not _is_counter(counter):
            raise FrameError("bad-body", "login without a certificate, a proof or a counter")
        if not are_services(services):
            raise FrameError("bad-body", "services must be names")
        if password is not None and (not isinstance(password, str) or len(password) > PASSWORD_LIMIT):
            raise FrameError("bad-body", "the password is no text, or too long")
        assert isinstance(counter, int)
        fingerprint = self._set.prove(certificate, proof, self.name, counter)
        if fingerprint is None:
            self._refused("certificate or proof")
            return
        self.certificate, self.fingerprint = certificate, fingerprint
        self.counter, self.services = counter, _shared(tuple(map(sys.intern, services)))
        if self._set.enrolment.fingerprint(self.name) == fingerprint and self.name in self._set.enrolment.passwords:
            self._enrolled()
        elif password is None:
            self.connection.send("error", {"code": "enrol", "text": "this certificate is not enrolled for this name"})
        else:
            self.state = "checking"
            self._set.start(lambda: self._enrol(password))

    async def _enrol(self, password: str) -> None:
        try:
            good = await self._set.enrolment.enrol(self.name, self.fingerprint, password, self.connection.client)
        except SlowDown as error:
            self._end("slow-down", str(error))
            return
        except CheckBusy as error:
            self._end("limit", str(error))
            return
        except OSError as error:
            self._end("internal", f"the disk failed: {error.strerror}")
            return
        if self.state != "checking":
            return  # it has gone meanwhile
        self.state = "greeted"
        if good:
            events.emit(events.TERMINAL_ENROLLED, terminal=self.name, client=self.connection.client)
            self._enrolled()
        else:
            self._refused("password or certificate")

    def _enrolled(self) -> None:
        """Certificate and name belong together; what is left is whether this is the newest login."""
        table = self._set.table
        known = table.known_counter(self.name)
        if self.counter <= known or table.too_far_ahead(self.counter):
            self.connection.send("error", {"code": "counter", "text": "the counter must grow", "counter": known})
            return
        older = self._set.online.get(self.name)
        if not self._set.replace_others and (
            (older is not None and older.fingerprint != self.fingerprint)
            or table.online_elsewhere(self.name, self.fingerprint)
        ):
            self._end("duplicate", "this name is logged in already")
            return
        if older is not None:
            self._set.replaced(older)
        self.state = "in"
        self.connection.authenticated(FRAME_LIMIT)
        self.connection.send("welcome", {"relay": self._set.site, "keepalive": KEEPALIVE_S})
        self._set.came(self)

    def listen(self, now: float) -> None:
        """Whether it is still there."""
        silent = now - self.connection.heard
        if silent >= 2 * KEEPALIVE_S:
            self.connection.close("it has fallen silent")
        elif silent < KEEPALIVE_S:
            self._pinged = False
        elif not self._pinged:
            self._pinged = True
            self.connection.send("ping")

    def _refused(self, what: str) -> None:
        events.emit(events.TERMINAL_REFUSED, terminal=self.name, client=self.connection.client, what=what)
        self._end("bad-login", "wrong name, certificate or password")

    def _end(self, code: str, text: str) -> None:
        self.connection.end("error", {"code": code, "text": text})


KINDS: Final = frozenset(
    ("login", "list", "connect", "accept", "reject", "cancel", "hello", "peer", "join", "have", "update", "ack",
     "route", "invite", "ready", "waiting", "unavailable", "welcome", "table", "error", "joined")
)  # fmt: skip
"""Types that there are; others are `unknown-type`."""


@functools.lru_cache(maxsize=256)
def _shared(services: tuple[str, ...]) -> tuple[str, ...]:
    """The same for all who offer the same, which most terminals of a site do."""
    return services


def _is_counter(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**64


class Terminals:
    """All logins of this relay server. `online`: name -> its login. `site` is our name.

    `prove(certificate, proof, name, counter)`: the certificate's fingerprint, or None where it is none or the proof is
    wrong. `start` runs an async function in the background. `may_see(name, other)`: whether a terminal's `may_call`
    covers another.
    """

    def __init__(
        self,
        *,
        site: str,
        enrolment: Enrolment,
        table: LoginTable,
        timers: Timers,
        prove: Callable[[bytes, bytes, str, int], bytes | None],
        start: Callable[[Callable[[], Any]], None],
        may_see: Callable[[str, str], bool],
        replace_others: bool,
        encode: Callable[[str, Mapping[str, Any]], bytes],
    ) -> None:
        self.site = site
        self.enrolment = enrolment
        self.table = table
        self.timers = timers
        self.prove = prove
        self.start = start
        self.replace_others = replace_others
        self.online: dict[str, Terminal] = {}
        self.requests: Requests
        self._may_see = may_see
        self._encode = encode
        self._watchers: set[Terminal] = set()
        self._changed: set[str] = set()
        self._telling: Timer | None = None
        self._listening: Timer | None = None

    def greet(self, connection: Connection, name: str) -> None:
        """A `hello` with the role of a terminal has come."""
        connection.speaker = Terminal(self, connection, sys.intern(name))

    # ---- logins
    def came(self, terminal: Terminal) -> None:
        self.online[terminal.name] = terminal
        if self._listening is None:
            self._listening = self.timers.after(LISTEN_EVERY_S, self._listen)
        self.table.logged_in(terminal.name, terminal.counter, terminal.services, terminal.fingerprint)
        events.emit(events.TERMINAL_IN, terminal=terminal.name, client=terminal.connection.client)

    def _listen(self) -> None:
        now = trio.current_time()
        for terminal in tuple(self.online.values()):
            terminal.listen(now)
        self._listening = self.timers.after(LISTEN_EVERY_S, self._listen) if self.online else None

    def replaced(self, terminal: Terminal) -> None:
        """Another login of its name stands: it is told, stops, and does not come back by itself."""
        del self.online[terminal.name]
        terminal.connection.end("bye", {"reason": "replaced"})

    def ended(self, terminal: Terminal, why: str) -> None:
        """Its connection is over; `why` "" where we ended it."""
        self._watchers.discard(terminal)
        self.requests.terminal_gone(terminal)
        why = "it said bye" if terminal.said_bye else why or "ended by us"
        events.emit(events.TERMINAL_OUT, terminal=terminal.name, why=why)
        if self.online.get(terminal.name) is terminal:
            del self.online[terminal.name]
            self.table.logged_out(terminal.name, terminal.counter, said=terminal.said_bye)

    def lost_elsewhere(self, name: str) -> None:
        """The same name stands at another relay server (RELAY §3)."""
        terminal = self.online.get(name)
        if terminal is not None:
            self.replaced(terminal)

    def forget(self, name: str) -> None:
        """Its enrolment is gone: so is its login."""
        terminal = self.online.get(name)
        if terminal is not None:
            self.replaced(terminal)
            self.table.logged_out(name, terminal.counter, said=True)

    def stop(self) -> None:
        """Tells everybody that this relay server stops."""
        for terminal in tuple(self.online.values()):
            terminal.connection.end("bye", {"reason": "stopping"})

    # ---- the table
    def list(self, terminal: Terminal, *, watch: bool) -> None:
        """Answers `list`."""
        if watch:
            self._watchers.add(terminal)
        terminal.connection.send_long(self._tables(terminal))

    def _tables(self, terminal: Terminal) -> Iterator[bytes]:
        rows = (row for row in self.table.rows() if self._may_see(terminal.name, row["name"]))
        for part, last in _parts(rows):
            yield self._encode("table", {"entries": part, "last": last})

    def changed(self, names: Sequence[str]) -> None:
        """The entries of these names, or the routes to them, are other ones."""
        if not self._watchers:
            return
        self._changed.update(names)
        if self._telling is None:
            self._telling = self.timers.after(GATHER_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        names, self._changed = sorted(self._changed), set()
        rows = [self.table.row(name) or {"name": name, "presence": None} for name in names]
        for terminal in tuple(self._watchers):
            seen = [row for row in rows if self._may_see(terminal.name, row["name"])]
            for part, last in _parts(seen) if seen else ():
                terminal.send("table", {"entries": part, "last": last})


TABLE_ROWS: Final = 500
TABLE_BYTES: Final = 48 * 1024
"""RELAY §3 and §1: what a `table` may have; rows are estimated, so some room is left."""
ROW_BYTES: Final = 128
"""Of a row without its names: its keys, and numbers of 9 bytes."""


def _parts(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """Rows in parts that fit in a frame each, and whether it is the last; one part at least."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        names = (row["name"], row.get("relay") or "", *row.get("path", ()), *row.get("services", ()))
        row_bytes = ROW_BYTES + strings_bytes(names)
        if len(part) == TABLE_ROWS or (part and size + row_bytes > TABLE_BYTES):
            yield part, False
            part, size = [], 0
        part.append(row)
        size += row_bytes
    yield part, True
