"""One login (RELAY §2): a control connection from its first byte to its end. Owns the connection and its liveness; what
its messages mean is for whoever runs it.

The order is fixed: the relay server's certificate is compared with its pin before anything but `hello` is sent, and the
password goes out only where the relay server asks for it (`enrol`) after that.

Liveness. The relay server names a `keepalive`: after that much silence we ping, after twice that the connection is
over. Long before that a changed network is noticed: every `LOOK_S`, and when the system tells of one, it is looked at
which address this computer would send from. Where the connection's own address is gone, the connection is; where
addresses have changed otherwise, or this computer has slept, a ping has some seconds to be answered: three times as
long as the login took, and `PROBE_S` at most.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol import relay
from appliance.protocol.errors import RemoteProtocolError
from appliance.terminal.dial import Endpoint, Unreachable, open_control
from appliance.terminal.fields import number, text
from appliance.terminal.network import AddressChanges, local_address, owns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.terminal.state import State

__all__ = ["Credentials", "LoginRefused", "Session", "WrongRelay", "log_in"]

LOGIN_S: Final = 60.0
"""For each answer while logging in: before authentication the relay server waits as long on a line."""
LOGINS: Final = 3
"""On one connection (RELAY §2)."""
COUNTER_LIMIT: Final = 1 << 62
"""A counter of the relay server's that leaves room for all logins to come in its 8 bytes."""
SEND_S: Final = 60.0
CLOSE_S: Final = 2.0
LOOK_S: Final = 2.0
PROBE_S: Final = 10.0
"""An answer over a satellite's line, with its turn-around of 3 s each way."""
PROBE_LEAST_S: Final = 2.0
"""The same in a quick network that has just come up."""
SLEPT_S: Final = 10.0
"""Longer than planned between two looks: this computer was suspended."""
RECEIVE_BYTES: Final = 64 * 1024


class WrongRelay(Exception):
    """The relay server shows another certificate than the pinned one."""


class LoginRefused(Exception):
    """The relay server's `error`; `code` as in RELAY §1. `final`: to try again would not help."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text or code)
        self.code = code
        self.final = code in ("bad-login", "enrol", "duplicate", "version", "bad-frame", "bad-body", "unknown-type")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in where. `pin`: the fingerprint to expect, or None to ask `confirm`, which raises where nobody
    confirms. `password` is called when the relay server asks for it, and raises where there is none."""

    relay: Endpoint
    name: str
    services: tuple[str, ...]
    pin: str | None
    confirm: Callable[[str], Awaitable[None]]
    password: Callable[[], Awaitable[str]]


async def log_in(who: Credentials, state: State) -> Session:
    """Raises Unreachable, WrongRelay, LoginRefused, and what `confirm` and `password` raise."""
    tls, certificate = await open_control(who.relay)
    try:
        shown = relay.fingerprint(certificate)
        if who.pin is None:
            await who.confirm(shown)
        elif who.pin != shown:
            raise WrongRelay(shown)
        session = Session(tls, who.relay, who.name, shown)
        await session.send("hello", {"version": relay.VERSION, "role": "terminal", "name": who.name})
        await _logins(session, who, state, certificate)
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return session


async def _logins(session: Session, who: Credentials, state: State, certificate: bytes) -> None:
    own = state.certificate()
    key = state.key.read_bytes()
    password, above = "", 0
    for _ in range(LOGINS):
        counter = state.next_counter(int(time.time() * 1000), above)
        body: dict[str, Any] = {
            "certificate": own,
            "counter": counter,
            "services": list(who.services),
            "proof": relay.sign_login(key, certificate, who.name, counter),
        }
        if password:
            body["password"] = password
        asked = trio.current_time()
        await session.send("login", body)
        kind, answer = await session.answer()
        session.answer_s = trio.current_time() - asked
        if kind == "welcome":
            session.relay_name = text(answer, "relay")
            session.keepalive_s = max(0.0, number(answer, "keepalive") or 0.0)
            return
        code, known = text(answer, "code"), answer.get("counter")
        if code == "enrol" and not password:
            password = await who.password()
        elif code == "counter" and isinstance(known, int) and 0 <= known < COUNTER_LIMIT:
            above = known
        else:
            raise LoginRefused(code, text(answer, "text"))
    raise LoginRefused("counter", "the relay server knows a later login each time")


class Session:
    """A connection that is logged in, or about to be. `run` reads it in one task; any may send."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream], to: Endpoint, name: str, fingerprint: str) -> None:
        self._tls = tls
        self._socket = tls.transport_stream.socket
        self._frames = relay.Decoder()
        self._sending = trio.Lock()
        self._heard = trio.current_time()
        self._over = trio.Event()
        self._to = to
        self.name = name
        self.fingerprint = fingerprint
        self.relay_name = ""
        self.keepalive_s = 0.0
        self.answer_s = PROBE_S
        """How long the relay server took to answer the last login."""
        self.why = "the connection ended"
        """Once it has ended."""

    @property
    def address(self) -> Endpoint:
        """The relay server's address as this connection found it, for data connections."""
        try:
            host, port = socket.getnameinfo(self._socket.getpeername(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        except OSError:
            return self._to
        return Endpoint(host, int(port))

    async def send(self, kind: str, body: Mapping[str, Any] | None = None) -> None:
        """One frame. Raises Unreachable once the connection is over; a cancelled send ends it."""
        async with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()  # nothing has gone out yet
            try:
                with trio.fail_after(SEND_S):
                    await self._tls.send_all(relay.encode(kind, body or {}))
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self._break("the connection broke")
                raise Unreachable(self.why) from error
            except trio.Cancelled:
                self._break("a message was cut off")
                raise

    def _break(self, why: str) -> None:
        self.why = why
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    async def answer(self) -> tuple[str, Mapping[str, Any]]:
        """While logging in: `welcome` or `error`. Raises Unreachable, LoginRefused."""
        try:
            with trio.fail_after(LOGIN_S):
                while True:
                    frame = await self._next()
                    if frame is None:
                        raise Unreachable(f"{self._to} closed the connection")
                    if frame[0] in ("welcome", "error"):
                        return frame
        except trio.TooSlowError:
            raise Unreachable(f"{self._to} does not answer the login within {LOGIN_S:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Unreachable(f"{self._to} broke the connection off") from error
        except RemoteProtocolError as error:
            raise Unreachable(f"what answers at {self._to} is no relay server: {error}") from error

    async def _next(self) -> tuple[str, Mapping[str, Any]] | None:
        while (frame := self._frames.next()) is None:
            data = await self._tls.receive_some(RECEIVE_BYTES)
            if not data:
                return None
            self._heard = trio.current_time()
            self._frames.feed(data)
        return frame

    # ---- logged in
    async def run(self, take: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Until the connection is over, `why` then says why. Every message but `ping` and `pong` goes to `take`, which
        does not block."""
        try:
            await self._read(take)
        finally:
            self._over.set()
            with trio.CancelScope(shield=True):  # closing by force does not wait
                await trio.aclose_forcefully(self._tls)

    async def _read(self, take: Callable[[str, Mapping[str, Any]], None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                while (frame := await self._next()) is not None:
                    kind, body = frame
                    if kind == "ping":
                        nursery.start_soon(self._say, "pong")
                    elif kind != "pong":
                        take(kind, body)
            except RemoteProtocolError as error:
                self.why = f"the relay server sent what is no frame: {error}"
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    async def _say(self, kind: str) -> None:
        try:
            await self.send(kind)
        except Unreachable:
            pass  # `run` sees it too

    async def log_out(self) -> None:
        """`bye`, bounded, while `run` is still running; the connection is over behind it."""
        with trio.move_on_after(CLOSE_S, shield=True):
            try:
                await self.send("bye", {"reason": "logout"})
                self._socket.shutdown(socket.SHUT_WR)  # and is not closed yet: no reset may overtake it
                await self._over.wait()
            except (Unreachable, OSError):
                pass

    # ---- liveness
    async def _watch(self) -> None:
        with AddressChanges() as changes:
            await self._look(changes)

    async def _look(self, changes: AddressChanges) -> None:
        family, own = self._socket.family, self._socket.getsockname()
        peer = self._socket.getpeername()
        way = local_address(peer, family)
        pinged = 0.0
        every_s = min(LOOK_S, self.keepalive_s / 4) if self.keepalive_s else LOOK_S
        while True:
            before = _boot_time()
            told = await changes.wait(every_s)
            if _boot_time() - before > LOOK_S + SLEPT_S:
                await self._probe("this computer was asleep")
            was, way = way, local_address(peer, family)
            if (told or way not in (was, None)) and not owns(own, family):
                self._break("this computer has moved to another network")
                return
            if way is None:
                way = ""  # no way just now; probed when there is one again
            elif told or way != was:
                await self._probe("the network has changed")
            silent = trio.current_time() - self._heard
            if self.keepalive_s and silent >= 2 * self.keepalive_s:
                self._break(f"the relay server has been silent for {silent:.0f} s")
                return
            if self.keepalive_s and silent >= self.keepalive_s and trio.current_time() - pinged >= self.keepalive_s:
                pinged = trio.current_time()
                await self._say("ping")

    async def _probe(self, why: str) -> None:
        """Whether the relay server still answers on this connection."""
        asked = trio.current_time()
        patience_s = min(PROBE_S, max(PROBE_LEAST_S, 3 * self.answer_s))
        with trio.move_on_after(patience_s):
            await self._say("ping")
        while self._heard < asked:
            if trio.current_time() - asked > patience_s:
                self._break(f"{why}, and the relay server does not answer any more")
                return
            await trio.sleep(0.1)


def _boot_time() -> float:
    """Runs on while the computer sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
