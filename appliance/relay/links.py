"""One link to another relay server (RELAY §2, §4): who it is, that it is alive, its frames in their order.

It owns the connection and its authentication; what the frames say is for `peers.Peers`, whose `Wire` is told of them.

| state   | opener                                | acceptor             | leaves to |
|---------|---------------------------------------|----------------------|-----------|
| opening | TLS, the certificate is the pinned one |                      | proving   |
| proving | has sent hello and peer; welcome      | hello has come; peer | up; over  |
| up      | `FRAMES`, ping, pong, bye             | the same             | over      |
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from appliance.events import clean
from appliance.protocol.relay import FRAME_LIMIT, VERSION, FrameError, is_seconds, peer_proof

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.relay.connection import Connection
    from appliance.relay.timers import Timer, Timers

__all__ = ["Ended", "PeerLink", "Wire"]

KEEPALIVE_S: Final = 30
UNANSWERED_S: Final = 60.0
"""A `ping` or a `peer` without an answer for so long: the link is dead."""
SOON_S: Final = 0.01
"""So much early is in time."""
NONCE_BYTES: Final = 16
PEER, WELCOME = "posthouse peer 1", "posthouse welcome 1"


class Ended:
    """How a link ended: `back` is the moment of Trio's clock when it is up again, None for one that is lost."""

    def __init__(self, why: str, back: float | None) -> None:
        self.why = why
        self.back = back


class Wire(Protocol):
    """Who is told what comes over links."""

    def secret_of(self, name: str) -> bytes | None:
        """The 32 bytes shared with this peer, None for a name that is none."""
        ...

    def up(self, link: PeerLink) -> bool:
        """It has proved itself; False: it is not wanted (there is a better one)."""
        ...

    def frame(self, link: PeerLink, kind: str, body: Mapping[str, Any]) -> None: ...
    def flush(self) -> None:
        """What is gathered goes out first: an invitation may depend on it."""
        ...

    def down(self, link: PeerLink, ended: Ended) -> None:
        """One that was up has ended."""
        ...


class PeerLink:
    """`opened_there`: the peer has opened it. `stays` and `back_in` of either side, in seconds from the beginning."""

    def __init__(
        self,
        wire: Wire,
        timers: Timers,
        me: str,
        certificate: bytes,
        connection: Connection,
        name: str,
        *,
        opened_there: bool,
        fingerprint: str = "",
        keepalive: int = KEEPALIVE_S,
        stays: float = 0.0,
        back_in: float | None = None,
    ) -> None:
        """`certificate` is our own (DER); `fingerprint` the peer's, for one that we open."""
        self._wire = wire
        self._timers = timers
        self._me = me
        self._certificate = certificate
        self.connection = connection
        self.name = name
        self.opened_there = opened_there
        self.keepalive = keepalive
        self.stays = stays
        self.back_in = back_in
        self._their_back_in: float | None = None
        self._fingerprint = fingerprint
        self._nonce = b""
        self._pinged: float | None = None
        self._timer: Timer | None = None
        self.state = "proving" if opened_there else "opening"
        self.began = trio.current_time()
        self.settled = trio.Event()
        """It is up, or over."""
        self.ended = trio.Event()
        self._bye: Ended | None = None
        self.why = ""

    # ---- the connection's speaker
    def on_open(self) -> None:
        """TLS is there, on a link that we open."""
        if self.opened_there:
            return
        shown = self.connection.peer_certificate()
        if "sha256:" + hashlib.sha256(shown).hexdigest() != self._fingerprint:
            self.connection.close("it shows another certificate than `fingerprint` says")
            return
        self._certificate = shown
        secret = self._wire.secret_of(self.name)
        assert secret is not None
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        proof = peer_proof(secret, PEER, self._me, self.name, shown, self._nonce)
        self.state = "proving"
        self.connection.send("hello", {"version": VERSION, "role": "relay", "name": self._me})
        body = {"nonce": self._nonce, "proof": proof, "keepalive": self.keepalive, **self._lasting()}
        self.connection.send("peer", body)
        self.connection.not_longer_than(UNANSWERED_S, "it does not answer")

    def on_frame(self, kind: str, body: Mapping[str, Any]) -> None:
        if self.state == "proving":
            self._prove(kind, body)
        elif kind == "ping":
            self.connection.send("pong")
        elif kind == "pong":
            self._pinged = None
        elif kind == "bye":
            back_in = body.get("back_in")
            back = trio.current_time() + float(back_in) if is_seconds(back_in) else None
            self._bye = Ended(f"it said bye ({clean(body.get('reason'), 20)})", back)
            self.connection.close("it said bye")
        elif kind == "error":
            self.connection.close(f"it says {clean(body.get('code'), 20)}: {clean(body.get('text'), 200)}")
        elif kind in FRAMES:
            self._wire.frame(self, kind, body)
        elif kind in ("hello", "peer", "welcome", "login", "list", "connect", "join"):
            raise FrameError("out-of-order", f"no {kind} now")
        else:
            raise FrameError("unknown-type", "unknown type of frame")

    def on_end(self, why: str) -> None:
        was, self.state = self.state, "over"
        if self._timer is not None:
            self._timer.cancel()
        self.why = why
        self.settled.set()
        self.ended.set()
        if was == "up":
            self._wire.down(self, self._bye or Ended(why or "ended by us", self._planned()))

    # ---- proofs
    def _prove(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "error" and not self.opened_there:
            self.connection.close(f"it refuses us: {clean(body.get('code'), 20)}")
            return
        if kind != ("peer" if self.opened_there else "welcome"):
            raise FrameError("out-of-order", f"no {kind} now")
        secret = self._wire.secret_of(self.name)
        nonce, proof = body.get("nonce") if self.opened_there else self._nonce, body.get("proof")
        if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES or not isinstance(proof, bytes):
            raise FrameError("bad-body", f"no {kind}")
        opener, acceptor = (self.name, self._me) if self.opened_there else (self._me, self.name)
        label = PEER if self.opened_there else WELCOME
        want = peer_proof(secret or bytes(32), label, opener, acceptor, self._certificate, nonce)
        if secret is None or not hmac.compare_digest(proof, want):
            raise FrameError("bad-login", "wrong name or secret")
        if not self.opened_there and body.get("relay") != self.name:
            raise FrameError("bad-login", "another relay server")
        self._lasts(body)
        if self.opened_there:
            self.keepalive = 0 if body.get("keepalive") == 0 else KEEPALIVE_S
            answer = peer_proof(secret, WELCOME, opener, acceptor, self._certificate, nonce)
            self.connection.send("welcome", {"relay": self._me, "proof": answer, **self._lasting()})
        self.state = "up"
        self.connection.authenticated(FRAME_LIMIT)
        if not self._wire.up(self):
            self.connection.end("bye", {"reason": "replaced"})
            return
        self.settled.set()
        self._timer = self._timers.after(self._next_look(), self._look)

    def _lasting(self) -> dict[str, Any]:
        body: dict[str, Any] = {"stays": self.stays}
        return body if self.back_in is None else {**body, "back_in": self.back_in}

    def _lasts(self, body: Mapping[str, Any]) -> None:
        stays, back_in = body.get("stays") or 0, body.get("back_in")
        if not is_seconds(stays) or not (back_in is None or is_seconds(back_in)):
            raise FrameError("bad-body", "stays and back_in are seconds")
        self.stays = min((s for s in (self.stays, float(stays)) if s > 0), default=0.0)
        self._their_back_in = None if back_in is None else float(back_in)

    def _planned(self) -> float | None:
        """When it is up again, where its end was due."""
        back_in = self.back_in if self.back_in is not None else self._their_back_in
        due = self.stays > 0 and trio.current_time() >= self.began + self.stays
        return self.began + back_in if due and back_in is not None else None

    # ---- alive
    def _next_look(self) -> float:
        """Seconds until something is due, as far as is known now."""
        if not self.keepalive:
            return max(0.0, self.began + self.stays - trio.current_time()) if self.stays else UNANSWERED_S
        due = self.connection.heard + self.keepalive
        if self._pinged is not None:
            due = min(due + self.keepalive, self._pinged + UNANSWERED_S)
        return max(SOON_S, due - trio.current_time())

    def _look(self) -> None:
        now = trio.current_time()
        silent = now - self.connection.heard
        if not self.keepalive:
            if self.stays and now >= self.began + self.stays:
                self.connection.close("it has lasted as long as it was meant to")
                return
        elif silent >= 2 * self.keepalive - SOON_S or (self._pinged is not None and now - self._pinged >= UNANSWERED_S):
            self.connection.close("it has fallen silent")
            return
        elif silent >= self.keepalive - SOON_S and self._pinged is None:
            self._pinged = now
            self.connection.send("ping")
        if self.state == "up":
            self._timer = self._timers.after(self._next_look(), self._look)

    # ---- for requests and peers
    def send(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "invite":
            self._wire.flush()
        self.connection.send(kind, body)

    def fail(self, why: str) -> None:
        self.connection.close(why)

    def leave(self, reason: str, back_in: float | None) -> None:
        """Ends it by plan, or since we stop."""
        body: dict[str, Any] = {"reason": reason}
        if back_in is not None:
            body["back_in"] = back_in
            self._bye = Ended(reason, trio.current_time() + back_in)
        self.connection.end("bye", body)


FRAMES: Final = frozenset(("have", "route", "update", "ack", "invite", "accept", "reject", "ready", "cancel"))
