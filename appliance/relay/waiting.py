"""Requests that wait for their callee (RELAY §5), durable: they outlive the caller's connection and this process.

It owns who waits for whom until when, and tells `Requests` to try again; it must not know how a request is made.

How it works. A request waits from the moment when a reason came that waiting helps. Whenever the table changes about
its callee it is looked at again, and made again under the same id when the callee is online; until its answer it stays
on the disk. A caller whose connection broke, or who has not come back since our start, has `COME_BACK_S` to send the
same `connect` again, which takes it up; while nobody hears it, nobody is rung.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.clock import Mark
from appliance.relay.request import Ask, Found, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from appliance.clock import Clock
    from appliance.relay.records import Records
    from appliance.relay.request import Link, Side
    from appliance.relay.terminals import Terminal
    from appliance.relay.timers import Timer, Timers

__all__ = ["Waiting"]

COME_BACK_S: Final = 60.0
MEET_S: Final = 60.0
"""Two lines that are to be up together: each dials and trains for as long as it takes, some later than planned."""
CALL_AGAIN_S: Final = (600.0, 1800.0, 7200.0)
"""After a call that did not reach the callee; a request that waits for days must not keep the line busy."""


@dataclass(eq=False, slots=True)
class _Wait:
    """`terminal`: who hears of it, None while the caller is away. `trying`: a request is under way for it. `timer`: its
    end, or the end of patience with a caller who is away. `calls`: how many were made while it waited; the next is not
    wanted before `not_before`, of Trio's clock."""

    ask: Ask
    since: Mark
    refusal: Refusal
    terminal: Terminal | None
    timer: Timer | None = None
    trying: bool = False
    durable: bool = False
    calls: int = 0
    not_before: float = 0.0


class Waiting:
    """`find(name)` as `Directory`'s; `place(terminal, ask)` makes a request; `given_up(id)` is called for one whose
    caller has not come back; `start` runs an async function in the background; `changed` is called when what waits is
    another."""

    def __init__(
        self,
        records: Records,
        clock: Clock,
        timers: Timers,
        *,
        find: Callable[[str], Found | None],
        place: Callable[[Side, Ask], None],
        given_up: Callable[[bytes], None],
        start: Callable[[Callable[[], Awaitable[None]]], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._records = records
        self._clock = clock
        self._timers = timers
        self._find = find
        self._place = place
        self._given_up = given_up
        self._start = start
        self._changed = changed
        self._all: dict[bytes, _Wait] = {}

    def load(self) -> None:
        """Takes up what waited when the process ended. Once, when timers run."""
        for key, value in self._records.items():
            match value:
                case {
                    "caller": str() as caller, "callee": str() as callee, "service": str() as service,
                    "wait": float() | int() as wait, "mark": [wall, boot, str() as boot_id],
                }:  # fmt: skip
                    ask = Ask(bytes.fromhex(key), caller, callee, service, b"", (), float(wait))
                    mark = Mark(float(wall), float(boot), boot_id)
                    one = self._all[ask.id] = _Wait(ask, mark, Refusal("lost"), None, durable=True)
                    self._set_timer(one)
                case _:
                    events.emit(events.NOT_UNDERSTOOD, file=self._records.path, what=f"the request {key}")

    def __len__(self) -> int:
        return len(self._all)

    def count(self, terminal: Terminal) -> int:
        """Of this caller, without those that are being tried."""
        return sum(w.terminal is terminal and not w.trying for w in self._all.values())

    # ---- what requests tell
    def begin(self, terminal: Terminal, ask: Ask, refusal: Refusal) -> None:
        """A reason came that waiting helps."""
        one = self._all.get(ask.id)
        if one is None:
            one = self._all[ask.id] = _Wait(ask, self._clock.now(), refusal, terminal)
            self._start(lambda: self._keep(one))
        else:
            one.refusal, one.trying, one.terminal = refusal, False, terminal
            if one.durable:
                self._tell(one)
        self._set_timer(one)
        self._changed()

    def answered(self, id: bytes) -> None:
        """It waits no more: accepted, or refused for good. One that never waited is no error."""
        one = self._all.pop(id, None)
        if one is not None:
            if one.timer is not None:
                one.timer.cancel()
            self._forget(id)
            self._changed()

    def is_anothers(self, terminal: Terminal, ask: Ask) -> bool:
        """Whether another request has this id, or this one is being tried."""
        one = self._all.get(ask.id)
        return one is not None and (one.ask.what != ask.what or one.terminal not in (None, terminal) or one.trying)

    def take_up(self, terminal: Terminal, ask: Ask) -> bool:
        """The same `connect` once more; False where none waits."""
        one = self._all.get(ask.id)
        if one is None:
            return False
        one.terminal = terminal
        one.ask = replace(one.ask, certificate=ask.certificate)
        self._set_timer(one)
        self._tell(one)
        self._look(one)
        return True

    def gone(self, terminal: Terminal) -> None:
        """A caller's connection is over."""
        for one in self._all.values():
            if one.terminal is terminal:
                one.terminal, one.trying = None, False
                self._set_timer(one)

    def cancel(self, side: Side, id: bytes) -> None:
        """By the caller. Others' are let alone."""
        one = self._all.get(id)
        if one is not None and one.terminal is side:
            self.answered(id)

    # ---- what the table tells
    def table_changed(self, names: Iterable[str]) -> None:
        """About these names."""
        if self._all:
            names = set(names)
            for one in [w for w in self._all.values() if w.ask.callee in names]:
                self._look(one)
            self._changed()

    def _look(self, one: _Wait) -> None:
        if one.terminal is None or one.trying:
            return
        found = self._find(one.ask.callee)
        if found is not None and found.presence == "online":
            one.trying = True
            self._place(one.terminal, replace(one.ask, wait=max(1.0, self._left(one))))

    def line_wanted(self) -> float | None:
        """In how many seconds a call of ours is wanted for one that waits: at once (0), or when the other side is back
        where that is known; None: for none."""
        moments, now = [], trio.current_time()
        for one in self._all.values():
            found = None if one.trying or one.terminal is None else self._find(one.ask.callee)
            if found is not None and found.by_call and found.presence != "offline":
                moments.append(max(found.back_in or 0.0, one.not_before - now))
        return min(moments, default=None)

    def meets(self, link: Link) -> bool:
        """Whether one that waits is for a terminal behind this link which is about to be back: a call made for it
        stays up until then."""
        waiting = [self._find(one.ask.callee) for one in self._all.values() if one.terminal is not None]
        behind = [f for f in waiting if f is not None and f.link is link and f.presence == "suspended"]
        return any(f.back_in is not None and f.back_in <= MEET_S and f.late <= MEET_S for f in behind)

    def call_over(self) -> None:
        """A call has ended that these would have liked: they don't ask for the next one at once."""
        for one in self._all.values():
            one.not_before = trio.current_time() + CALL_AGAIN_S[min(one.calls, len(CALL_AGAIN_S) - 1)]
            one.calls += 1
        self._changed()

    # ---- inside
    def _left(self, one: _Wait) -> float:
        return one.ask.wait - one.since.seconds_until(self._clock.now())

    def _set_timer(self, one: _Wait) -> None:
        if one.timer is not None:
            one.timer.cancel()
        seconds = max(0.0, self._left(one))
        if one.terminal is None:
            seconds = min(seconds, COME_BACK_S)
        one.timer = self._timers.after(seconds, lambda: self._over(one))

    def _over(self, one: _Wait) -> None:
        if one.trying:
            return  # it has an answer of its own; and no time to wait after it
        self.answered(one.ask.id)
        if one.terminal is None:
            self._given_up(one.ask.id)
        else:
            one.terminal.send("unavailable", one.refusal.body(one.ask.id))

    def _tell(self, one: _Wait) -> None:
        if one.terminal is not None and not one.trying:
            body: dict[str, Any] = {"id": one.ask.id, "wait": max(0.0, self._left(one)), "reason": one.refusal.reason}
            if one.refusal.back_in is not None:
                body["back_in"] = one.refusal.back_in
            one.terminal.send("waiting", body)

    async def _keep(self, one: _Wait) -> None:
        """On the disk, and only then `waiting`."""
        ask, mark = one.ask, one.since
        value = {"caller": ask.caller, "callee": ask.callee, "service": ask.service, "wait": ask.wait,
                 "mark": [mark.wall, mark.boot, mark.boot_id]}  # fmt: skip
        try:
            await self._records.put(ask.id.hex(), value)
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
            if self._all.pop(ask.id, None) is one and one.terminal is not None:
                one.terminal.send("unavailable", one.refusal.body(ask.id))
            return
        one.durable = True
        if self._all.get(ask.id) is not one:
            self._forget(ask.id)
        else:
            self._tell(one)
            self._look(one)

    def _forget(self, id: bytes) -> None:
        self._start(lambda: self._forget_now(id))

    async def _forget_now(self, id: bytes) -> None:
        try:
            await self._records.forget(id.hex())
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
