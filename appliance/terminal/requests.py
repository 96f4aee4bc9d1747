"""Connection requests of this terminal (RELAY §5), from `connect` to a ticket or a refusal. Owned by the holder of the
login; who asks is a client of the local socket, this process's own commands included.

A request outlives the connection that it was made on: after a broken link, or a relay server's restart, the same
`connect` goes out again within the 60 s in which it is taken up. One that its client gives up is cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.terminal.dial import Unreachable
from appliance.terminal.fields import octets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.terminal.login import Keeper
    from appliance.terminal.session import Session

__all__ = ["Requests"]

PENDING: Final = 16
"""RELAY §1: of one terminal. More wait here for their turn."""
TURN_S: Final = 10.0
"""For a turn; after it `too-many`: those before it wait for a terminal that is away."""
LOGIN_S: Final = 20.0
"""For a try that is just being made."""
RETAKE_S: Final = 60.0
"""RELAY §5: the same `connect` again within this time."""
ANSWER_S: Final = 300.0
"""The callee rings for 60 s, behind at most four relay servers each of which bounds its part: this is for none of them
answering."""
QUEUE: Final = 16
"""Messages about one request that nobody has looked at yet; there are three at most in a sane one."""


class Requests:
    """`take` is told what comes for any id; `run` is one request."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._turns = trio.CapacityLimiter(PENDING)
        self._inboxes: dict[bytes, trio.MemorySendChannel[tuple[str, Mapping[str, Any]]]] = {}

    def take(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Whether it was about one of these requests."""
        inbox = self._inboxes.get(octets(body, "id"))
        if inbox is None:
            return False
        try:
            inbox.send_nowait((kind, body))
        except trio.WouldBlock:
            pass
        return True

    async def run(
        self,
        id: bytes,
        to: str,
        service: str,
        wait_s: float,
        progress: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> tuple[str, Mapping[str, Any], Session | None]:
        """-> `ready` and its session, or `unavailable`; `progress` hears what `waiting` says."""
        try:
            with trio.fail_after(TURN_S):
                await self._turns.acquire_on_behalf_of(id)
        except trio.TooSlowError:
            return "unavailable", {"reason": "too-many"}, None
        except RuntimeError:  # this id has its turn already
            return "unavailable", {"reason": "duplicate-id"}, None
        sender, inbox = trio.open_memory_channel[tuple[str, "Mapping[str, Any]"]](QUEUE)
        self._inboxes[id] = sender
        try:
            return await self._go_on(id, to, service, wait_s, progress, inbox)
        finally:
            del self._inboxes[id]
            self._turns.release_on_behalf_of(id)

    async def _go_on(
        self,
        id: bytes,
        to: str,
        service: str,
        wait_s: float,
        progress: Callable[[Mapping[str, Any]], Awaitable[None]],
        inbox: trio.MemoryReceiveChannel[tuple[str, Mapping[str, Any]]],
    ) -> tuple[str, Mapping[str, Any], Session | None]:
        until = trio.current_time() + wait_s
        patience = until
        while True:
            session = await self.session()
            if session is None and self._keeper.over is None and trio.current_time() < patience:
                left = patience - trio.current_time()
                await progress({"reason": "no-relay", "text": self._keeper.trouble, "wait": left})
                with trio.move_on_at(patience):
                    session = await self._next_session()
            if session is None:
                return "unavailable", {"reason": "no-relay"}, None
            left = max(0.0, until - trio.current_time())
            answer = await self._ask(session, id, to, service, left, progress, inbox)
            if answer is not None:
                return (*answer, session)
            patience = trio.current_time() + RETAKE_S

    async def session(self) -> Session | None:
        """The login that is up, or that one try, made at once, brings up."""
        keeper = self._keeper
        failures = keeper.failures
        keeper.hurry()
        with trio.move_on_after(LOGIN_S):
            while keeper.session is None and keeper.over is None and keeper.failures == failures:
                await keeper.wait_changed()
        return keeper.session

    async def _next_session(self) -> Session | None:
        """As soon as there is a login; None where there will be none any more."""
        while self._keeper.session is None and self._keeper.over is None:
            await self._keeper.wait_changed()
        return self._keeper.session

    async def _ask(
        self,
        session: Session,
        id: bytes,
        to: str,
        service: str,
        wait_s: float,
        progress: Callable[[Mapping[str, Any]], Awaitable[None]],
        inbox: trio.MemoryReceiveChannel[tuple[str, Mapping[str, Any]]],
    ) -> tuple[str, Mapping[str, Any]] | None:
        """The answer; None where the connection ended before it."""
        answer: tuple[str, Mapping[str, Any]] | None = None
        try:
            await session.send("connect", {"id": id, "to": to, "service": service, "wait": round(wait_s)})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_over, session, nursery.cancel_scope)
                answer = await self._answer(wait_s + ANSWER_S, progress, inbox)
                nursery.cancel_scope.cancel()
        except Unreachable:
            return None
        finally:
            # Given up by its client, or by us; where the session is over it says nothing to anybody.
            if answer is None:
                await self._cancel(session, id)
        if answer is None and self._keeper.session is session:
            return "unavailable", {"reason": "timeout"}
        return answer

    async def _answer(
        self,
        within_s: float,
        progress: Callable[[Mapping[str, Any]], Awaitable[None]],
        inbox: trio.MemoryReceiveChannel[tuple[str, Mapping[str, Any]]],
    ) -> tuple[str, Mapping[str, Any]] | None:
        with trio.move_on_after(within_s):
            while True:
                kind, body = await inbox.receive()
                if kind == "waiting":
                    await progress(body)
                elif kind in ("ready", "unavailable"):
                    return kind, body
        return None

    async def _until_over(self, session: Session, scope: trio.CancelScope) -> None:
        while self._keeper.session is session:
            await self._keeper.wait_changed()
        scope.cancel()

    async def _cancel(self, session: Session, id: bytes) -> None:
        if self._keeper.session is session:
            with trio.move_on_after(1.0, shield=True):
                try:
                    await session.send("cancel", {"id": id})
                except Unreachable:
                    pass
