"""One connection request at this relay server (RELAY §5): whence it came, where it went, how far it is; and the circuit
that becomes of it. The words that go over the wire about it are checked here.

It owns the tickets, the legs that are in and the deadline of one request; `requests` decides what happens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard

from appliance.events import clean
from appliance.protocol.relay import FrameError, is_name, is_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.relay.timers import Timer

__all__ = [
    "CALLEE", "CALLER", "WAITABLE", "Ask", "Callee", "Directory", "Found", "Link", "Refusal", "Request", "Side",
    "id_of", "is_link", "takes_line",
]  # fmt: skip

CALLER, CALLEE = 0, 1
"""The two sides of a request, and the legs of its circuit in this order."""

ID_BYTES: Final = 16
NAME_LIMIT: Final = 63
TEXT_LIMIT: Final = 200
CERTIFICATE_LIMIT: Final = 1024
PATH_LIMIT: Final = 4
WAIT_LIMIT_S: Final = 30 * 86400.0
"""A month: longer than any line stays away, and a bound for what is kept."""

REASONS: Final = frozenset(
    ("not-registered", "offline", "suspended", "lost", "expired", "forbidden", "no-service", "rejected", "timeout",
     "cancelled", "line-budget", "loop", "no-circuit", "duplicate-id", "too-many", "certificate-changed")
)  # fmt: skip
WAITABLE: Final = frozenset(("offline", "suspended", "lost", "expired", "line-budget"))
"""Reasons that `wait` covers."""
PRESENCES: Final = frozenset(("online", "suspended", "lost", "offline", "expired"))


class Side(Protocol):
    """A terminal that is logged in here, a device, or the link to a peer. `name`: under which it opens connections."""

    @property
    def name(self) -> str: ...
    def send(self, kind: str, body: Mapping[str, Any]) -> None: ...


class Link(Side, Protocol):
    """The link to a peer. `opened_there`: the peer has opened it, so tickets are ours to issue. `keepalive`: 0 where it
    is up only while a call is."""

    @property
    def opened_there(self) -> bool: ...
    @property
    def keepalive(self) -> int: ...
    def fail(self, why: str) -> None:
        """Ends the link as one that does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name of the table is. `presence` as shown; `link`: the next hop, None for one that is here; `back_in`
    seconds, where the presence is suspended, and `late` how long ago that was over; `by_call`: only a call of ours
    brings the way to it up; `age`: seconds since the presence is so."""

    presence: str
    link: Link | None = None
    back_in: float | None = None
    by_call: bool = False
    age: float | None = None
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request came to nothing. `age`: seconds since the presence is so."""

    reason: str
    presence: str | None = None
    back_in: float | None = None
    text: str = ""
    age: float | None = None

    def body(self, id: bytes) -> dict[str, Any]:
        body: dict[str, Any] = {"id": id, "reason": self.reason}
        if self.presence is not None:
            body["presence"] = self.presence
        if self.back_in is not None:
            body["back_in"] = self.back_in
        if self.text:
            body["text"] = self.text
        if self.age is not None:
            body["age"] = self.age
        return body

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Refusal:
        """Of a `reject`. A reason that nobody knows is `rejected`."""
        reason, presence, back_in, age = (body.get(key) for key in ("reason", "presence", "back_in", "age"))
        return cls(
            reason if isinstance(reason, str) and reason in REASONS else "rejected",
            presence if isinstance(presence, str) and presence in PRESENCES else None,
            float(back_in) if is_seconds(back_in) else None,
            clean(body.get("text") or "", TEXT_LIMIT),
            float(age) if is_seconds(age) else None,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for: of a `connect` or an `invite`. `caller` and `certificate` (DER) are the calling terminal's,
    `path` the relay servers that it has passed, `wait` seconds."""

    id: bytes
    caller: str
    callee: str
    service: str
    certificate: bytes
    path: tuple[str, ...] = ()
    wait: float = 0.0

    @classmethod
    def connect(cls, body: Mapping[str, Any], caller: str, certificate: bytes) -> Ask:
        """Raises FrameError."""
        return cls(id_of(body), caller, text_of(body, "to"), text_of(body, "service"), certificate, (), _wait_of(body))

    @classmethod
    def invite(cls, body: Mapping[str, Any]) -> Ask:
        """Raises FrameError."""
        certificate, path = certificate_of(body), body.get("path")
        if not isinstance(path, list) or not path or not all(is_name(p) for p in path):
            raise FrameError("bad-body", "invite without a path")
        return cls(
            id_of(body),
            text_of(body, "from"),
            text_of(body, "to"),
            text_of(body, "service"),
            certificate,
            tuple(path[: PATH_LIMIT + 1]),
            _wait_of(body),
        )

    @property
    def what(self) -> tuple[str, str, str]:
        """Who calls whom for what: one that comes again under its id has the same."""
        return self.caller, self.callee, self.service

    def onwards(self, me: str) -> dict[str, Any]:
        """The `invite` that the next relay server, or the callee, gets from this one."""
        return {
            "id": self.id,
            "from": self.caller,
            "to": self.callee,
            "service": self.service,
            "certificate": self.certificate,
            "path": [*self.path, me],
            "wait": self.wait,
        }


NOT_OVER_LINE: Final = (False, False)


class Callee(Protocol):
    """A terminal that is logged in here, or a device."""

    @property
    def services(self) -> Sequence[str]: ...
    @property
    def name(self) -> str: ...
    @property
    def certificate(self) -> bytes: ...
    def send(self, kind: str, body: Mapping[str, Any]) -> None: ...


class Directory(Protocol):
    """The login table, the routes and the configuration, as requests need them."""

    def find(self, name: str) -> Found | None:
        """Where a terminal is; None for one in no table."""
        ...

    def here(self, name: str) -> Callee | None:
        """The terminal or device of this name that is online here."""
        ...

    def vouched(self, link: Link, ask: Ask) -> bool:
        """Whether `ask.caller` is an online entry of `ask.path[0]`, accepted from that neighbour, with this
        certificate."""
        ...

    def may_call(self, caller: str, callee: str) -> bool:
        """At the caller's relay server."""
        ...

    def may_ring(self, callee: str, caller: str, *, ours: bool) -> bool:
        """At the callee's; `ours`: the caller is logged in here."""
        ...


@dataclass(eq=False, slots=True)
class Request:
    """One that is under way. `sides`: where it came from and where it went; None for a caller that may come back.
    `accepted`: the callee has said yes, legs are awaited. `given`: for which legs a `ready` has passed. `over_line`:
    which legs go over our line."""

    ask: Ask
    sides: list[Side | None]
    accepted: bool = False
    callee_certificate: bytes = b""
    timer: Timer | None = None
    tickets: list[bytes] = field(default_factory=list)
    legs: list[int | None] = field(default_factory=lambda: [None, None])
    over_line: tuple[bool, bool] = NOT_OVER_LINE
    given: list[bool] = field(default_factory=lambda: [False, False])
    over: bool = False

    @property
    def id(self) -> bytes:
        return self.ask.id

    def came(self, which: int, fd: int, *, over_line: bool) -> None:
        """A leg is in."""
        self.legs[which] = fd
        if over_line:
            caller, callee = self.over_line
            self.over_line = (caller or which == CALLER, callee or which == CALLEE)

    def close_legs(self) -> None:
        """Those that are in, where no circuit comes of them."""
        for i, fd in enumerate(self.legs):
            if fd is not None:
                os.close(fd)
                self.legs[i] = None


def is_link(side: Side) -> TypeGuard[Link]:
    """The link to a peer, not a terminal or a device."""
    return hasattr(side, "opened_there")


def takes_line(found: Found, origin: Side | None = None) -> bool:
    """Whether a circuit, from a terminal of ours or from that side, would go over our line or take a call of ours."""
    links = [side for side in (origin, found.link) if side is not None and is_link(side)]
    return any(link.keepalive == 0 for link in links) or (found.by_call and found.presence != "offline")


def id_of(body: Mapping[str, Any]) -> bytes:
    """Raises FrameError."""
    id = body.get("id")
    if not isinstance(id, bytes) or len(id) != ID_BYTES:
        raise FrameError("bad-body", f"an id has {ID_BYTES} bytes")
    return id


def certificate_of(body: Mapping[str, Any]) -> bytes:
    """The other terminal's (DER). Raises FrameError."""
    certificate = body.get("certificate")
    if not isinstance(certificate, bytes) or not 0 < len(certificate) <= CERTIFICATE_LIMIT:
        raise FrameError("bad-body", f"no certificate, or one of more than {CERTIFICATE_LIMIT} bytes")
    return certificate


def text_of(body: Mapping[str, Any], key: str) -> str:
    """A name in a frame. Raises FrameError."""
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT:
        raise FrameError("bad-body", f"no {key}")
    return value


def _wait_of(body: Mapping[str, Any]) -> float:
    wait = body.get("wait") or 0
    if not is_seconds(wait):
        raise FrameError("bad-body", "wait is a number of seconds")
    return min(float(wait), WAIT_LIMIT_S)
