"""Connection requests (RELAY §5): from a terminal's `connect`, or a peer's `invite`, to a circuit or a refusal.

It owns the requests that are under way here, by side and id, and what has been rung; it must not know connections,
files or who is logged in: it asks a `Directory`, and sides are whatever can be sent a frame.

Theory of operation. A request comes from one side (the caller's terminal, or the peer before us) and goes to another
(the callee, or the peer after us). Its states:

| state    | begins with                | ends with                                                               |
|----------|----------------------------|-------------------------------------------------------------------------|
| ringing  | the invitation is sent     | accept; reject; cancel; a side that is lost; `RING_S`, or of a peer       |
|          |                            | `ANSWER_S`, and its link is then dead                                   |
| accepted | `accept` comes back        | both legs in: a circuit; the tickets' time; cancel; a link lost before  |
|          |                            | its `ready`                                                             |
| waiting  | a reason that waiting may  | the callee is online: ringing again; `wait` over; cancel; a caller that |
|          | help, if the caller waits  | stays away (`waiting.Waiting` has these)                                |

Once `accept` has passed, whoever accepts connections issues a ticket to whoever opens them: to a terminal always we,
between peers the one that has accepted the peer link. A leg that comes is kept until the other one is in.

Rung ids are remembered, so that a request that comes again, after a broken link or out of waiting, never rings twice:
its answer is repeated, or awaited.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol.relay import FrameError
from appliance.relay.request import (
    CALLEE,
    CALLER,
    PATH_LIMIT,
    WAITABLE,
    Ask,
    Refusal,
    Request,
    id_of,
    is_link,
    takes_line,
)
from appliance.relay.tickets import LINE_TICKET_S, TICKET_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.relay.request import Callee, Directory, Link, Side
    from appliance.relay.terminals import Terminal
    from appliance.relay.tickets import Tickets
    from appliance.relay.timers import Timers
    from appliance.relay.waiting import Waiting

__all__ = ["Requests"]

RING_S: Final = 60.0
ANSWER_S: Final = 90.0
"""A peer that has not answered an invitation by then is dead: each one after it rings for `RING_S` at most."""
REMEMBER_S: Final = 60.0
"""RELAY §5: a rung id, at least."""
TERMINAL_PENDING: Final = 16
PEER_PENDING: Final = 256
RUNG_LIMIT: Final = 4096
"""Rung ids remembered; a new one is refused above it."""


@dataclass(slots=True)
class _Rung:
    """What is remembered of an `Ask`. `answer`: None while it rings."""

    caller: str
    callee: str
    service: str
    until: float
    request: Request | None
    answer: Refusal | bytes | None = None


class Requests:
    """`join(first, second, request)` makes a circuit of two descriptors. `open_leg(link, ticket, done)` opens a data
    connection to a peer; `done` hears its descriptor or None, and whether it goes over our line.
    `may_have_another(terminal)`: one circuit more. `line_budget()`: in how many seconds the budget allows the line what
    it does not allow now, `inf` where that is not known; None where it does."""

    def __init__(
        self,
        site: str,
        directory: Directory,
        tickets: Tickets,
        timers: Timers,
        *,
        join: Callable[[int, int, Request], None],
        open_leg: Callable[[Link, bytes, Callable[[int | None, bool], None]], None],
        may_have_another: Callable[[str], bool],
        line_budget: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._site = site
        self._directory = directory
        self._tickets = tickets
        self._timers = timers
        self._join = join
        self._open_leg = open_leg
        self._may_have_another = may_have_another
        self._line_budget = line_budget
        self._by: tuple[dict[tuple[Side, bytes], Request], dict[tuple[Side, bytes], Request]] = ({}, {})
        self._asked: dict[bytes, Request] = {}  # by terminals of ours; an id is one terminal's
        self._pending: Counter[Side] = Counter()
        self._rung: dict[bytes, _Rung] = {}
        self.waiting: Waiting

    def __len__(self) -> int:
        return len({id(r) for by in self._by for r in by.values()})

    def pending(self, side: Side) -> int:
        """Requests that are under way from or to that side."""
        return self._pending[side]

    # ---- from terminals
    def from_terminal(self, terminal: Terminal, kind: str, body: Mapping[str, Any]) -> None:
        """Raises FrameError for a body that has not its form."""
        if kind == "connect":
            self._connect(terminal, Ask.connect(body, terminal.name, terminal.certificate))
        elif kind == "accept":
            self.accept(terminal, id_of(body), terminal.certificate)
        elif kind == "reject":
            self.reject(terminal, id_of(body), Refusal.parse(body))
        else:
            self.cancel(terminal, id_of(body))

    def _connect(self, terminal: Terminal, ask: Ask) -> None:
        asked = self._asked.get(ask.id)
        active = asked is not None and (asked.sides[CALLER] is not None or asked.ask.what != ask.what)
        if active or self.waiting.is_anothers(terminal, ask):
            terminal.send("unavailable", Refusal("duplicate-id").body(ask.id))
        elif self.waiting.take_up(terminal, ask):
            pass
        elif self._pending[terminal] + self.waiting.count(terminal) >= TERMINAL_PENDING or not self._may_have_another(
            terminal.name
        ):
            terminal.send("unavailable", Refusal("too-many").body(ask.id))
        elif not self._directory.may_call(ask.caller, ask.callee):
            terminal.send("unavailable", Refusal("forbidden").body(ask.id))
        else:
            self.place(terminal, ask)

    def terminal_gone(self, terminal: Terminal) -> None:
        """Its login is over. A caller whose request may wait has a while to come back, and it rings on meanwhile;
        circuits go on."""
        for request in self._of(CALLER, terminal):
            if request.accepted and all(request.given):
                self._let_go_on(request)
            elif request.ask.wait:
                self._let_go_on(request)
                self.waiting.begin(terminal, request.ask, Refusal("lost"))
            else:
                self._withdraw(request)
        self.waiting.gone(terminal)
        why = Refusal("offline" if terminal.said_bye else "lost")
        for request in self._of(CALLEE, terminal):
            if not request.accepted:
                self._refuse(request, why)

    def given_up(self, id: bytes) -> None:
        """A caller who was away has not come back in time."""
        request, rung = self._asked.get(id), self._rung.get(id)
        if request is not None and request.sides[CALLER] is None:
            self._withdraw(request)
        elif rung is not None and isinstance(rung.answer, bytes) and (callee := self._directory.here(rung.callee)):
            del self._rung[id]
            callee.send("cancel", {"id": id})

    # ---- from peers
    def invite(self, link: Link, body: Mapping[str, Any]) -> None:
        """A peer's `invite`. Raises FrameError, also for one too many (`limit`)."""
        ask = Ask.invite(body)
        before = self._by[CALLER].get((link, ask.id))
        if before is not None:
            if not before.accepted:
                return
            self._finish(before)  # asked for again: so is its answer, and there are new tickets
        if self._pending[link] >= PEER_PENDING:
            raise FrameError("limit", f"more than {PEER_PENDING} requests")
        if self._site in ask.path or len(ask.path) >= PATH_LIMIT:
            link.send("reject", Refusal("loop").body(ask.id))
        elif not self._directory.vouched(link, ask):
            link.send("reject", Refusal("forbidden").body(ask.id))
        else:
            self.place(link, ask)

    def ready(self, link: Link, body: Mapping[str, Any]) -> None:
        """A peer's ticket: we have opened the link, so we open the data connection."""
        id, ticket = id_of(body), body.get("ticket")
        if not isinstance(ticket, bytes):
            raise FrameError("bad-body", "ready without a ticket")
        for which in (CALLER, CALLEE):
            request = self._by[which].get((link, id))
            if request is not None and request.accepted and not request.given[which] and not link.opened_there:
                request.given[which] = True
                self._open_leg(link, ticket, functools.partial(self._leg_opened, request, which))
                return

    def link_lost(self, link: Link) -> None:
        """It is down; requests whose tickets have passed go on."""
        for which in (CALLER, CALLEE):
            for request in self._of(which, link):
                if request.accepted and request.given[which]:
                    continue
                if which == CALLEE:
                    self._refuse(request, Refusal("lost"))
                elif request.ask.wait and not request.accepted and self._rings_here(request):
                    self._let_go_on(request)
                else:
                    self._withdraw(request)

    # ---- from either
    def accept(self, side: Side, id: bytes, certificate: bytes) -> None:
        """The callee, or the peer after us, says yes. To an id that is over: `cancel`."""
        request = self._by[CALLEE].get((side, id))
        if request is None:
            side.send("cancel", {"id": id})
        elif not request.accepted:
            self._accepted(request, certificate)

    def reject(self, side: Side, id: bytes, refusal: Refusal) -> None:
        """The callee, or the peer after us, says no, also after it has said yes."""
        request = self._by[CALLEE].get((side, id))
        if request is not None:
            self._refuse(request, refusal)

    def cancel(self, side: Side, id: bytes) -> None:
        """The caller, or the peer before us, has changed its mind; or a callee has, which is a refusal."""
        request = self._by[CALLER].get((side, id))
        if request is not None:
            self._withdraw(request)
        self.waiting.cancel(side, id)
        request = self._by[CALLEE].get((side, id))
        if request is not None:
            self._refuse(request, Refusal("cancelled"))

    # ---- ringing
    def place(self, origin: Side, ask: Ask) -> None:
        """A request that may be made: to the callee, or onwards, or refused."""
        request = Request(ask, [origin, None])
        if not is_link(origin):
            before = self._asked.get(ask.id)
            if before is not None:  # that of a caller who was away
                self._finish(before)
            self._asked[ask.id] = request
        self._by[CALLER][origin, ask.id] = request
        self._pending[origin] += 1
        found = self._directory.find(ask.callee)
        if found is None:
            self._refuse(request, Refusal("not-registered"))
        elif takes_line(found, origin) and (seconds := self._line_budget()) is not None:
            back_in = None if math.isinf(seconds) else seconds
            self._refuse(request, Refusal("line-budget", found.presence, back_in))
        elif found.presence != "online":
            self._refuse(request, Refusal(found.presence, found.presence, found.back_in, age=found.age))
        elif found.link is not None:
            self._hand_on(request, found.link)
        else:
            self._ring(request)

    def _hand_on(self, request: Request, link: Link) -> None:
        if len(request.ask.path) + 1 >= PATH_LIMIT:
            self._refuse(request, Refusal("loop"))
        elif self._pending[link] >= PEER_PENDING:
            self._refuse(request, Refusal("too-many"))
        else:
            self._to(request, link)
            request.timer = self._timers.after(ANSWER_S, lambda: link.fail("it does not answer an invitation"))
            link.send("invite", request.ask.onwards(self._site))

    def _ring(self, request: Request) -> None:
        ask = request.ask
        callee = self._directory.here(ask.callee)
        ours = not ask.path
        if callee is None:
            self._refuse(request, Refusal("offline", "offline"))
        elif not self._directory.may_ring(ask.callee, ask.caller, ours=ours):
            self._refuse(request, Refusal("forbidden"))
        elif ask.service not in callee.services:
            self._refuse(request, Refusal("no-service"))
        elif (rung := self._rung_before(ask.id)) is not None:
            self._again(request, callee, rung)
        elif (
            self._pending[callee] >= TERMINAL_PENDING
            or not self._may_have_another(ask.callee)
            or not self._room_for_rung()
        ):
            self._refuse(request, Refusal("too-many"))
        else:
            self._to(request, callee)
            until = trio.current_time() + max(REMEMBER_S, ask.wait)
            # No strings of their own for thousands of rung ids: those of the terminals are interned too.
            what = ask.caller, sys.intern(ask.callee), sys.intern(ask.service)
            self._rung[ask.id] = _Rung(*what, until, request)
            request.timer = self._timers.after(RING_S, lambda: self._rang_out(request))
            callee.send("invite", ask.onwards(self._site))

    def _rang_out(self, request: Request) -> None:
        self._send(request, CALLEE, "cancel", {"id": request.id})
        self._refuse(request, Refusal("timeout"))

    def _rung_before(self, id: bytes) -> _Rung | None:
        """What is remembered of this id; forgotten here where its time is over."""
        rung = self._rung.get(id)
        if rung is None or rung.answer is None or rung.until >= trio.current_time():
            return rung
        del self._rung[id]
        return None

    def _room_for_rung(self) -> bool:
        """Forgets what is over, and above the limit the oldest of those that were answered."""
        now = trio.current_time()
        while self._rung:
            id, first = next(iter(self._rung.items()))
            if first.until >= now or first.answer is None:
                break
            del self._rung[id]
        if len(self._rung) < RUNG_LIMIT:
            return True
        oldest = next((id for id, rung in self._rung.items() if rung.answer is not None), None)
        if oldest is not None:
            del self._rung[oldest]
        return oldest is not None

    def _rings_here(self, request: Request) -> bool:
        rung = self._rung.get(request.id)
        return rung is not None and rung.request is request

    def _again(self, request: Request, callee: Callee, rung: _Rung) -> None:
        """It has rung already: the answer is repeated, or awaited on behalf of the request that came now."""
        if (rung.caller, rung.callee, rung.service) != request.ask.what:
            self._refuse(request, Refusal("duplicate-id"))
            return
        if isinstance(rung.answer, Refusal):
            if rung.answer.reason in WAITABLE:  # it went away before it answered, and is here again
                del self._rung[request.id]
                self._ring(request)
            else:
                self._refuse(request, rung.answer)
            return
        older = rung.request
        if older is not None and not older.over:
            if rung.answer is None and older.sides[CALLER] is not None:
                self._refuse(request, Refusal("duplicate-id"))
                return
            self._finish(older)
        rung.request = request
        self._to(request, callee)
        if rung.answer is not None:
            self._accepted(request, rung.answer)
        else:
            request.timer = self._timers.after(RING_S, lambda: self._rang_out(request))

    def _let_go_on(self, request: Request) -> None:
        """The way back is lost, but the request may come again, and its answer with it."""
        self._leave(request, CALLER)
        request.sides[CALLER] = None

    def _remember(self, request: Request, answer: Refusal | bytes) -> None:
        rung = self._rung.get(request.id)
        if rung is not None and rung.request is request:
            rung.answer = answer

    # ---- accepted
    def _accepted(self, request: Request, certificate: bytes) -> None:
        request.accepted = True
        request.callee_certificate = certificate
        self._remember(request, certificate)
        origin = request.sides[CALLER]
        if origin is None:
            self._finish(request)  # it will be asked for again
            return
        if request.timer is not None:
            request.timer.cancel()
        over_line = any(side is not None and is_link(side) and side.keepalive == 0 for side in request.sides)
        seconds = LINE_TICKET_S if over_line else TICKET_S
        request.timer = self._timers.after(seconds, lambda: self._no_circuit(request))
        if is_link(origin):
            origin.send("accept", {"id": request.id, "certificate": certificate})
        else:
            self.waiting.answered(request.id)
        for which in (CALLER, CALLEE):
            self._give(request, which, seconds)

    def _give(self, request: Request, which: int, seconds: float) -> None:
        """A ticket for the side that opens its connection to us."""
        side = request.sides[which]
        assert side is not None
        body: dict[str, Any] = {"id": request.id}
        if is_link(side):
            if not side.opened_there:
                return  # the ticket comes from there
        else:
            body["certificate"] = request.callee_certificate if which == CALLER else request.ask.certificate
        request.given[which] = True
        body["ticket"] = self._tickets.issue(side.name, seconds, lambda fd, line: self._leg(request, which, fd, line))
        request.tickets.append(body["ticket"])
        self._send(request, which, "ready", body)

    def _leg_opened(self, request: Request, which: int, fd: int | None, over_line: bool) -> None:
        if fd is not None:
            self._leg(request, which, fd, over_line)
        elif not request.over:
            self._no_circuit(request)

    def _leg(self, request: Request, which: int, fd: int, over_line: bool) -> None:
        """One of the two data connections is in."""
        request.came(which, fd, over_line=over_line)
        first, second = request.legs
        if request.over:
            request.close_legs()
        elif first is not None and second is not None:
            request.legs = [None, None]
            self._finish(request)
            self._join(first, second, request)

    def _no_circuit(self, request: Request) -> None:
        self._send(request, CALLEE, "cancel", {"id": request.id})
        self._refuse(request, Refusal("no-circuit"))

    # ---- ending
    def _refuse(self, request: Request, refusal: Refusal) -> None:
        """Tells the side that the request came from, or lets it wait, and ends it."""
        self._remember(request, refusal)
        origin = request.sides[CALLER]
        self._finish(request)
        if origin is None:
            return
        if is_link(origin):
            origin.send("reject", refusal.body(request.id))
        elif request.ask.wait and refusal.reason in WAITABLE:
            self.waiting.begin(origin, request.ask, refusal)  # type: ignore[arg-type]
        else:
            self.waiting.answered(request.id)
            origin.send("unavailable", refusal.body(request.id))

    def _withdraw(self, request: Request) -> None:
        """The caller's side wants it no more: it has not rung."""
        if self._rings_here(request):
            del self._rung[request.id]
        self._send(request, CALLEE, "cancel", {"id": request.id})
        self._finish(request)

    def _to(self, request: Request, side: Side) -> None:
        request.sides[CALLEE] = side
        self._by[CALLEE][side, request.id] = request
        self._pending[side] += 1

    def _send(self, request: Request, which: int, kind: str, body: Mapping[str, Any]) -> None:
        side = request.sides[which]
        if side is not None:
            side.send(kind, body)

    def _finish(self, request: Request) -> None:
        """Nothing more comes of it but what has been joined."""
        request.over = True
        if request.timer is not None:
            request.timer.cancel()
        for ticket in request.tickets:
            self._tickets.revoke(ticket)
        request.close_legs()
        rung = self._rung.get(request.id)
        if rung is not None and rung.request is request and rung.answer is not None:
            rung.request = None  # its answer is all that is remembered
        self._drop(request)

    def _drop(self, request: Request) -> None:
        for which in (CALLER, CALLEE):
            self._leave(request, which)
        if self._asked.get(request.id) is request:
            del self._asked[request.id]

    def _leave(self, request: Request, which: int) -> None:
        side = request.sides[which]
        if side is not None and self._by[which].get((side, request.id)) is request:
            del self._by[which][side, request.id]
            self._pending[side] -= 1
            if not self._pending[side]:
                del self._pending[side]

    def close(self) -> None:
        """The relay server stops: connections that have come for circuits to be are closed."""
        for request in [r for by in self._by for r in by.values()]:
            self._finish(request)

    def _of(self, which: int, side: Side) -> list[Request]:
        return [request for (s, _), request in self._by[which].items() if s is side]
