"""The service that makes the calls: asks the policy when, runs one `Cycle` at a time, tells the others. Owns the
plan and the call that is up; must not know what the jobs do.

Theory of operation. `run` loops: ask the policy; where it says 'now', make the call; else sleep until the next
call's time, until somebody pokes it (what waits has changed, a call was asked for), and at most `LOOK_EVERY_S`,
since the wall clock may jump. `dial` leaves a request behind, pokes, and waits for the call that it becomes; a
call that is under way already is joined. A ring on an idle line (`rings`) asks for a call too. Cancelling `run` hangs
up first. With `free_lines`, `run` begins by hanging up each line, which a process that was killed may have left
off-hook; a call waits for that.

Before its first call it shows what the ledger's last one left behind.

A new configuration means a new Caller over the same ledger, made when `run` of the old one has ended.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio

from appliance import events
from appliance.call import LineState, NextCall, Reason
from appliance.calls import recurrence
from appliance.calls.budget import CIRCUIT_LEAST_BYTES, CIRCUIT_LEAST_S, NO_BUDGET
from appliance.calls.cycle import Cycle, Way, free, state_after
from appliance.calls.dialling import CallRefused, Dialling, Told
from appliance.calls.entry import Spending
from appliance.calls.meter import Metering
from appliance.calls.policy import Decision, Requests, Settings, Times, WayOut, affordable, decide, estimates, purse
from appliance.calls.rings import Rings
from appliance.clock import rfc3339
from appliance.config.model import LineKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from appliance.call import Job, Prospect, Tally, TimeOfCall, Window
    from appliance.calls.entry import Entry
    from appliance.calls.ledger import Ledger
    from appliance.clock import Clock, Mark
    from appliance.config.model import Budget, Schedule, Tariff

__all__ = ["CallRefused", "Caller", "Dialling", "Told", "Way"]

LOOK_EVERY_S: Final = 60.0
"""So late at most does a call come whose time a jump of the wall clock has brought near."""
GATHER_S: Final = 0.1
"""Pokes within this are one: fifty sessions hand over messages at once, and each look goes through the queue."""
STALLED_S: Final = 120.0
"""Beyond what a step may last by its own deadlines: then it hangs."""
STOPPING: Final = "the service that dials is stopping"
PROGRESS_LINES: Final = 500
"""Lines of progress kept of a call and buffered for a watcher; a slow one loses lines and never stalls a call."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What `status` says of the line while this caller has made no call."""

    name: str
    state: LineState
    since: Mark
    reason: str | None = None
    number: str | None = None


class Caller:
    """One per configuration. `started` is when the process's `run` started, which `every` counts from. `free_lines`:
    for the first one in a process. `window` is opened while a call is up."""

    def __init__(
        self,
        *,
        schedule: Schedule,
        timezone: str,
        bulk_max_age_s: float,
        ways: Sequence[Way],
        ledger: Ledger,
        jobs: Callable[[], Sequence[Job]],
        prospect: Callable[[], Prospect],
        clock: Clock,
        started: Mark,
        free_lines: bool = False,
        window: Window | None = None,
        time: TimeOfCall | None = None,
        tariffs: Sequence[Tariff] = (),
        budget: Budget = NO_BUDGET,
    ) -> None:
        self._schedule = schedule
        prices = {tariff.name: tariff for tariff in tariffs}
        self._settings = Settings(
            schedule=schedule,
            ways=tuple(_way_out(w, prices.get(w.config.tariff)) for w in ways),
            zone=ZoneInfo(timezone),
            bulk_max_age_s=bulk_max_age_s,
            budget=budget,
        )
        self._ways = tuple(ways)
        self._ledger = ledger
        self._jobs = jobs
        self._prospect = prospect
        self._clock = clock
        self._started = started
        self._free_lines = free_lines
        self._window = window
        self._time = time
        self._rings = Rings([w.line for w in ways if w.line and w.config.wake_numbers and not w.unusable], self._woken)
        self._wake = False
        self._shown = self._from_ledger()
        self._in_hand = trio.Lock()
        """Of the lines: whoever opens a port holds it."""
        self._cycle: Cycle | None = None
        self._wanted: Dialling | None = None
        self._under_way: Dialling | None = None
        self._connection_at: float | None = None
        self._poked = trio.Event()
        self._ended = False
        self._looked: float | None = None
        self._announced: object = None
        self._progress: deque[Told] = deque(maxlen=PROGRESS_LINES)
        self._watchers: set[trio.MemorySendChannel[Told]] = set()

    # ---- the service
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Makes the calls until cancelled; a call that is up is then hung up and closed in the ledger first."""
        self._ended = False
        task_status.started()
        try:
            if self._free_lines:
                async with self._in_hand:
                    await self._free_all()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._rings.run)
                await self._make_calls()
        finally:
            self._refuse(STOPPING)
            self._ended = True
            for watcher in self._watchers:
                watcher.close()

    async def _make_calls(self) -> None:
        while True:
            self._looked = trio.current_time()
            decision = self._decide()
            if decision.reason is None:
                self._refuse(decision.refused)
                self._announce(decision)
                await self._wait(decision)
            else:
                await self._call(decision.reason, decision.due)

    def _woken(self, line: str, number: str) -> None:
        events.emit(events.WOKEN, line=line, number=number)
        self._wake = True
        self.poke()

    def poke(self) -> None:
        """What waits has changed: look again whether to call."""
        self._poked.set()

    def request_connection(self, at: float | None) -> None:
        """A connection request wants a call from that moment on (wall-clock Unix seconds); None: none does any more."""
        if at != self._connection_at:
            self._connection_at = at
            self.poke()

    def back_in(self) -> float | None:
        """In how many seconds the line is up again by plan, if a call ended now: by `every` and `at`, within the
        windows; None where neither says so."""
        schedule, now, zone = self._schedule, self._clock.now().wall, self._settings.zone
        moments = [now + schedule.every_s] if schedule.every_s is not None else []
        if self._clock.trusted and (at := recurrence.next_at(schedule.at, zone, now)) is not None:
            moments.append(at)
        due = min(moments, default=None)
        if due is not None and schedule.windows and self._clock.trusted:
            due = recurrence.next_open(schedule.windows, zone, due)
        return None if due is None else due - now

    def call_for_connection(self, at: float) -> NextCall:
        """The first call that a connection request would have which wants one from that moment on (Unix seconds); at
        `None` there is none, and the reason says why."""
        if self._under_way is not None:
            return NextCall(at, "a call is under way")
        return self._decide(Requests(connection_request=True, connection_at=at)).next

    def line_budget(self) -> float | None:
        """In how many seconds a connection request may have the line that the budget does not give it now, `inf` where
        it never may; None where it may: the money lasts for a circuit, in the call that is up or in a new one."""
        past, times, least_s = self._ledger.summary(), self._times(), 0.0
        if self._cycle is not None and self._under_way is not None:
            if self._cycle.has_for(CIRCUIT_LEAST_S, CIRCUIT_LEAST_BYTES):
                return None
            least_s = CIRCUIT_LEAST_S
            if (entry := self._cycle.entry) is not None:  # not spent yet
                past = replace(past, spent=(*past.spent, Spending(entry.started, entry.charge)))
        elif not self._schedule.connection_request:
            return None
        at, _ = affordable(self._settings, self._prospect(), past, times, circuit=True)
        seconds = math.inf if at is None else max(least_s, at - times.now.wall)
        return seconds or None

    # ---- by hand
    def dial_nowait(self, *, force: bool = False) -> Dialling:
        """Asks for a call, or joins the one that is under way. Raises CallRefused. `force` passes the budget."""
        if self._under_way is not None:
            return self._under_way
        if self._wanted is None:
            refused = STOPPING if self._ended else self._decide(Requests(by_hand=True, force=force)).refused
            if refused:
                raise CallRefused(refused)
            self._wanted = Dialling(force=force)
            self.poke()
        return self._wanted

    async def dial(self, *, force: bool = False) -> dict[str, Any]:
        """Asks for a call, or joins the one that is under way; -> it, ended, as in `calls`. Raises CallRefused."""
        return await self.ended(self.dial_nowait(force=force))

    async def ended(self, dialling: Dialling) -> dict[str, Any]:
        """Waits for the end of a call that was asked for; -> it, as in `calls`. Raises CallRefused."""
        await dialling.done.wait()
        if dialling.entry is None:
            raise CallRefused(dialling.refused)
        return dialling.entry.as_json()

    def hang_up(self) -> bool:
        """Ends the call that is up or being dialled; False when there is none. The call's end comes later."""
        return self._cycle is not None and self._cycle.hang_up()

    async def tell_modem(self, command: str, name: str = "") -> list[str]:
        """Gives the modem of a line, the first one's by default, a person's command line while no call is under way;
        -> the lines of its answer. A call that comes due meanwhile waits for it. Raises CallRefused."""
        ways = [w for w in self._ways if w.config.kind is LineKind.MODEM and name in ("", w.config.name)]
        if not ways:
            raise CallRefused(f"no line called {name} has a modem" if name else "no line with a modem is configured")
        if ways[0].line is None:
            raise CallRefused(ways[0].unusable)
        if self._ended or self._under_way is not None or self._in_hand.locked():
            raise CallRefused("the line is not idle")
        async with self._in_hand, self._rings.quiet():
            try:
                return await ways[0].line.command(command)
            except OSError as error:
                raise CallRefused(str(error)) from None

    async def wait_idle(self) -> None:
        """Returns once no call is under way or asked for."""
        while dialling := self._under_way or self._wanted:
            await dialling.done.wait()

    # ---- looking
    @property
    def device(self) -> str:
        """The network device of the call that is up; "" while there is none."""
        return self._cycle.device if self._cycle is not None else ""

    @property
    def ways(self) -> tuple[Way, ...]:
        """The lines, in the order in which they are tried."""
        return self._ways

    @property
    def tally(self) -> Tally | None:
        """What the call that is under way has moved so far; None when there is none."""
        cycle = self._cycle if self._under_way else None
        if cycle is None or cycle.entry is None:
            return None
        cycle.weigh()
        return cycle.entry.tally

    @property
    def line_state(self) -> LineState:
        """As `status` shows it."""
        return self._cycle.state if self._cycle is not None else self._shown.state

    @property
    def no_money(self) -> bool:
        """Whether something waits for a call that the budget does not allow now."""
        prospect, times = self._prospect(), self._times()
        if self._under_way is not None or not (prospect.messages or prospect.bulk_messages):
            return False
        return affordable(self._settings, prospect, self._ledger.summary(), times)[0] != times.now.wall

    @property
    def wants_money(self) -> str:
        """Why a call is not made that would be made now if there were no budget; "" where it is not so."""
        if self._under_way is not None or self._settings.budget == NO_BUDGET:
            return ""
        decision, free = self._decide(), self._decide(settings=replace(self._settings, budget=NO_BUDGET))
        return decision.next.reason if decision.reason is None and free.reason is not None else ""

    @property
    def failing_s(self) -> float:
        """For how long every call has failed, since the start of the first such one; 0 where the last was good for
        something, or was ended by hand."""
        first: Entry | None = None
        for entry in reversed(self._ledger.entries()):
            if entry.served or entry.put_down:
                break
            if entry.ended is not None:
                first = entry
        return 0.0 if first is None else first.started.seconds_until(self._clock.now())

    @property
    def stalled(self) -> bool:
        """Whether the next look, or the end of the call that is up, is overdue: this service makes no progress."""
        if self._ended or self._looked is None:
            return False
        cycle = self._cycle if self._under_way else None
        if cycle is None:
            return trio.current_time() - self._looked > LOOK_EVERY_S + STALLED_S
        since = cycle.since.seconds_until(self._clock.now())
        return cycle.state is LineState.EXCHANGING and since > self._schedule.max_call_s + STALLED_S

    @property
    def next_call(self) -> NextCall:
        """When the next call will be and why, or why there is none; while one is under way, that one."""
        if self._under_way is not None:
            return NextCall(None, "a call is under way")
        return self._decide().next

    def status(self) -> dict[str, Any]:
        """`line` of `posthouse status --json` (DESIGN §6). Between calls `reason` and `number` are null, after a
        failed one they are that call's."""
        cycle, upcoming = self._cycle, self.next_call
        shown = self._shown
        if cycle is not None:
            shown = _Shown(cycle.name, cycle.state, cycle.since, cycle.reason.value, cycle.number or None)
        known = shown.state is not LineState.IDLE
        return {
            "name": shown.name,
            "state": shown.state.value,
            "reason": shown.reason if known else None,
            "number": shown.number if known else None,
            "since": rfc3339(shown.since.wall),
            "next_call": rfc3339(upcoming.at),
            "next_call_reason": upcoming.reason,
        }

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Told]]:
        """The progress of calls, a line at a time, from the beginning of the one that is under way. The channel
        ends with `run`."""
        send, receive = trio.open_memory_channel[Told](PROGRESS_LINES)
        for told in self._progress if self._under_way is not None else ():
            send.send_nowait(told)
        if self._ended:
            send.close()
        self._watchers.add(send)
        try:
            with send, receive:
                yield receive
        finally:
            self._watchers.discard(send)

    # ---- inside
    def _from_ledger(self) -> _Shown:
        last = self._ledger.last()
        names = [way.config.name for way in self._ways]
        if last is None or last.ended is None or last.outcome is None or last.line not in names:
            return _Shown(names[0] if names else "", LineState.IDLE, self._started)
        return _Shown(last.line, state_after(last.outcome), last.ended, last.reason.value, last.number or None)

    async def _free_all(self) -> None:
        before = self._shown
        try:
            for way in self._ways:
                self._shown = _Shown(way.config.name, LineState.HANGING_UP, self._clock.now())
                await free(way)
        finally:
            self._shown = before

    def _decide(self, requests: Requests | None = None, settings: Settings | None = None) -> Decision:
        if requests is None:
            asked = self._connection_at is not None
            requests = Requests(
                by_hand=self._wanted is not None,
                force=self._wanted is not None and self._wanted.force,
                connection_request=asked,
                connection_at=self._connection_at,
                wake=self._wake,
            )
        settings = settings or self._settings
        return decide(settings, self._prospect(), self._ledger.summary(), self._times(), requests)

    def _times(self) -> Times:
        return Times(now=self._clock.now(), started=self._started, trusted=self._clock.trusted)

    def _metering(self, reason: Reason, dialling: Dialling, *, by_hand: bool) -> Metering:
        """What the call that begins now may cost."""
        settings, past, times = self._settings, self._ledger.summary(), self._times()
        money, now = purse(settings, past, times), times.now.wall
        reserve = by_hand or reason is Reason.URGENT
        circuit = reason is Reason.CONNECTION_REQUEST and not by_hand
        return Metering(
            billed={way.name: money.billed(way.tariff, now) for way in settings.ways if way.tariff is not None},
            estimates=estimates(settings, self._prospect(), past, circuit=circuit),
            left=None if dialling.force else money.left(now, reserve=reserve),
        )

    async def _call(self, reason: Reason, due: float | None) -> None:
        """One call; also the one that was asked for, if one was."""
        by_hand = self._wanted is not None
        dialling = self._under_way = self._wanted or Dialling()
        self._wanted = None
        self._wake = False
        self._announced = None
        self._progress.clear()
        try:
            cycle = self._cycle = Cycle(
                reason=reason,
                due=due,
                ways=self._ways,
                ledger=self._ledger,
                clock=self._clock,
                jobs=self._jobs(),
                linger_s=self._schedule.linger_s,
                max_call_s=self._schedule.max_call_s,
                tell=self._tell,
                window=self._window,
                time=self._time,
                metering=self._metering(reason, dialling, by_hand=by_hand),
            )
            try:
                async with self._in_hand, self._rings.quiet():
                    await cycle.run()
            finally:
                dialling.entry = cycle.entry
        finally:
            self._under_way = None
            dialling.refused = "the call could not be made"
            dialling.done.set()

    async def _wait(self, decision: Decision) -> None:
        now = self._clock.now().wall
        moments = [at for at in (decision.next.at, decision.look) if at is not None]
        seconds = max(0.0, min([LOOK_EVERY_S, *(at - now for at in moments)]))
        with trio.move_on_after(seconds):
            await self._poked.wait()
            await trio.sleep(GATHER_S)
        self._poked = trio.Event()

    def _refuse(self, why: str) -> None:
        if self._wanted is not None and why:
            self._wanted.refused = why
            self._wanted.done.set()
            self._wanted = None

    def _announce(self, decision: Decision) -> None:
        """Into the journal, when the plan is another one: not at each message that waits for the same call."""
        at = decision.next.at
        plan = (decision.cause, None if at is None else round(at / 10))
        if plan != self._announced:
            self._announced = plan
            events.emit(events.CALL_PLANNED, at=rfc3339(at), why=decision.next.reason)

    def _tell(self, line: str) -> None:
        told = Told(self._cycle.state if self._cycle else LineState.IDLE, events.clean(line))
        self._progress.append(told)
        for watcher in self._watchers:
            try:
                watcher.send_nowait(told)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                pass


def _way_out(way: Way, tariff: Tariff | None) -> WayOut:
    line = way.config
    return WayOut(
        line.name,
        line.numbers,
        line.country,
        way.unusable,
        dials_numbers=line.kind is not LineKind.INTERFACE,
        identity=way.identity,
        pin=way.pin,
        tariff=tariff,
    )
