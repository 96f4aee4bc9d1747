"""Calls that come in (RELAY §5, §6): invite, accept or reject, ready, data connection, the terminals' TLS, the service,
0x01, bytes. Owned by the holder of the login; one task a circuit, which outlives the connection that made it.

    invite -> no such service: no-service · another certificate than this name's pin: certificate-changed ·
              --ask and the person says no: rejected · else accept
    ready  -> join, handshake as TLS server, pin, connect to the service, 0x01, both directions
    cancel -> the question is withdrawn; the ticket is void, so a circuit that is being made fails by itself

A second `ready` for a call that was accepted comes with a new ticket after a link broke: the circuit is made again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.events import clean
from appliance.protocol.relay import fingerprint
from appliance.terminal import sentences
from appliance.terminal.dial import Endpoint, JoinRefused, Unreachable, join, open_tcp
from appliance.terminal.fields import octets, text
from appliance.terminal.state import StateError
from appliance.transport import circuit
from appliance.transport.sealing import SealingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.terminal.session import Session
    from appliance.terminal.state import State

__all__ = ["Callee"]

SERVICE_S: Final = 10.0
"""A service is on this computer or beside it."""
REMEMBERED: Final = 256
"""Accepted calls that a new `ready` may come for; RELAY §1 lets 16 be pending at once."""
NAME_LIMIT: Final = 63
LOST: Final = "the connection to the relay server broke before the answer"


@dataclass(frozen=True, slots=True)
class _Call:
    id: bytes
    caller: str
    service: str
    certificate: bytes

    def __str__(self) -> str:
        return f"{self.caller} {self.service}"


class Callee:
    """`take` is told what comes for it; `circuits` is the nursery that outlives sessions."""

    def __init__(
        self,
        state: State,
        offers: Mapping[str, Endpoint],
        say: Callable[[str], None],
        circuits: trio.Nursery,
        ask: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._state = state
        self._offers = offers
        self._say = say
        self._circuits = circuits
        self._ask = ask
        self._ringing: dict[bytes, trio.CancelScope] = {}
        self._lost: set[bytes] = set()  # of those, whose answer nobody hears any more
        self._accepted: OrderedDict[bytes, _Call] = OrderedDict()

    def take(self, session: Session, kind: str, body: Mapping[str, Any]) -> None:
        """`invite`, `ready` and `cancel`; what is about no call is ignored."""
        id = octets(body, "id")
        if not id:
            return
        if kind == "invite" and id not in self._ringing:
            scope = self._ringing[id] = trio.CancelScope()
            self._circuits.start_soon(self._ring, session, body, scope)
        elif kind == "ready" and id in self._accepted:
            self._circuits.start_soon(self._answer, session, self._accepted[id], body)
        elif kind == "cancel":
            self._accepted.pop(id, None)
            if id in self._ringing:
                self._ringing[id].cancel()

    def session_over(self) -> None:
        """Nobody hears an answer any more; what was accepted may still get its `ready` after the next login."""
        for id, scope in self._ringing.items():
            self._lost.add(id)
            scope.cancel()

    # ---- accepting
    async def _ring(self, session: Session, body: Mapping[str, Any], scope: trio.CancelScope) -> None:
        call = _Call(
            octets(body, "id"),
            clean(text(body, "from"), NAME_LIMIT),
            clean(text(body, "service"), NAME_LIMIT),
            octets(body, "certificate"),
        )
        try:
            with scope:
                await self._judge(session, call)
            if scope.cancelled_caught:
                self._say(f"{call}: {LOST if call.id in self._lost else 'the caller gave up'}")
        except Unreachable:
            self._say(f"{call}: {LOST}")
        except (OSError, StateError) as error:
            self._say(f"{call}: {error}")
        finally:
            del self._ringing[call.id]
            self._lost.discard(call.id)

    async def _judge(self, session: Session, call: _Call) -> None:
        reason, why = "", ""
        if call.service not in self._offers:
            reason, why = "no-service", f"{call.caller} asks for {call.service}, which is not offered"
        elif (pin := self._state.terminal_pin(call.caller)) not in (None, fingerprint(call.certificate)):
            reason = "certificate-changed"
            why = (
                f"{call}: rejected, for {call.caller} has another certificate than before ({pin}); if that is right, "
                f"`posthouse terminal forget {call.caller}`"
            )
        elif self._ask is not None and not await self._ask(f"{call.caller} calls {call.service}. Accept?"):
            reason, why = "rejected", f"{call}: rejected"
        if reason:
            self._say(why)
            await session.send("reject", {"id": call.id, "reason": reason})
            return
        self._accepted[call.id] = call
        while len(self._accepted) > REMEMBERED:
            self._accepted.popitem(last=False)
        await session.send("accept", {"id": call.id, "certificate": self._state.certificate()})

    # ---- the circuit
    async def _answer(self, session: Session, call: _Call, ready: Mapping[str, Any]) -> None:
        try:
            sock = await join(session.address, session.name, octets(ready, "ticket"))
            try:
                await self._circuit(sock, call)
            finally:
                sock.close()
        except (Unreachable, JoinRefused, circuit.NotConnected, SealingError) as error:
            self._say(f"{call}: no circuit: {clean(error)}")
        except (StateError, OSError) as error:
            self._say(f"{call}: no circuit: {error}")

    async def _circuit(self, sock: trio.socket.SocketType, call: _Call) -> None:
        sealed = await circuit.seal(sock, self._state.key, call.certificate, caller=False)
        # The caller has proved that the certificate is its own: only now it is worth a pin.
        shown = fingerprint(call.certificate)
        if self._state.pin_terminal(call.caller, shown) != shown:
            raise SealingError(f"{call.caller} has another certificate than before")
        where = self._offers[call.service]
        local = circuit.LocalSocket((await open_tcp(where, SERVICE_S)).socket)
        carried = circuit.Carried()
        begun = trio.current_time()
        try:
            await circuit.tell_go(sock, sealed)
            self._say(f"{call}: connected to {where}")
            await circuit.carry(sock, sealed, local, carried)
            how = "ended"
        except circuit.NotConnected:
            raise
        except circuit.CircuitBroken as error:
            how = f"broken off: {error}"
        except circuit.LocalBroken as error:
            how = f"broken off by {where}: {error}"
        finally:
            local.reset()
        moved = f"{sentences.size(carried.received)} in, {sentences.size(carried.sent)} out"
        self._say(f"{call}: {how}; {moved}, {sentences.span(trio.current_time() - begun)}")
