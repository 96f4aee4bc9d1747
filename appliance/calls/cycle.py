"""One call, from the decision until the line is on-hook. Owns the line and the call's entry in the ledger for
that long; must not know what the jobs do, nor when the next call will be.

Theory of operation. A `Cycle` is made for one call and thrown away. Its states are `call.LineState`:

| state       | what happens                                     | leaves to                             |
|-------------|--------------------------------------------------|---------------------------------------|
| idle        | nothing yet, or the call is over                 | dialling                              |
| dialling    | `prepare`, then dials                            | negotiating (CONNECT); hanging-up     |
| negotiating | `negotiate`, the window is opened, the time asked | exchanging; hanging-up               |
| exchanging  | the jobs, side by side                           | lingering (all wait for work); hanging-up |
| lingering   | `linger`                                         | exchanging (one found work); hanging-up |
| hanging-up  | the window is closed, `hang_up`; shielded, with deadlines | dialling (the next line); idle; failed |
| failed      | as idle, after a call that reached nobody        |                                       |

Dialling goes line by line, in order. A line gets up to `attempts` dials: its numbers in turn, `redial_wait`
between them, those passed over that the redial rules forbid now. Each dial is in the ledger before ATD.

What ends a call that is up, each with its outcome: nothing left to do (complete; partial where a job left
work), the carrier or the network gone, `max_call`, `hang_up`, the process that stops (hung-up both). A line
that drops while lingering takes nothing away from a call whose work was done: complete.

A call's bytes are what the line's device has carried; where there is none, the payload of the jobs' streams.

Once a call is connected it is the only one: it is billed, so no other line is tried behind it. The line is
hung up at the moment the call is over, not when the last job has cleaned up behind itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Dialled, LineState, Outcome, Reason
from appliance.calls import redial
from appliance.calls.exchange import Exchange
from appliance.calls.meter import Meter, Metering
from appliance.calls.policy import PIN_REFUSED
from appliance.calls.window import WindowOfCall
from appliance.config.model import LineKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance import call
    from appliance.calls.entry import Entry
    from appliance.calls.ledger import Ledger
    from appliance.clock import Clock, Mark
    from appliance.config import model

__all__ = ["Cycle", "Way", "free", "state_after"]

PREPARE_DEADLINE_S: Final = 200.0
"""A modem that does not answer is brought back within 100 s and initialised in 20; then a SIM takes up to 20 s and a
network 45. Nothing is paid for meanwhile, and `hang_up` ends it at once."""
DIAL_GRACE_S: Final = 30.0
"""On top of `dial_timeout`, which the line itself keeps, and in which it aborts the dial."""
NEGOTIATE_DEADLINE_S: Final = 120.0
"""PPP over a satellite takes 20 s; pppd gives up by itself long before this."""
HANG_UP_DEADLINE_S: Final = 40.0
"""The end of PPP, 8 s; DTR, two guard times, ATH, a look at DCD, and all of it again: 28 s by satellite."""
PAUSE_S: Final = 10.0
"""A redial rule's wait up to this is a pause between two dials of one call; a longer one ends the line's attempts."""
MARK_EVERY_S: Final = 60.0
"""So well is the length of a call known that a power cut ended; a flush a minute while the line is paid."""
LOOK_EVERY_S: Final = 1.0
"""So often is a line that is paid by volume weighed against the budget."""

_GOOD: Final = frozenset({Outcome.COMPLETE, Outcome.PARTIAL, Outcome.HUNG_UP, Outcome.MAX_CALL})
"""Outcomes after which the line is shown as idle; it worked. After the others it is shown as failed."""
_PREPARE_AGAIN: Final = frozenset({Outcome.MODEM_SILENT, Outcome.MODEM_ERROR, Outcome.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Way:
    """A `[[line]]` and what is dialled with. `unusable`: why it can't be dialled at all, "" when it can. `identity`
    changes when what it logs in with does, `pin` when its SIM's PIN does; "" where it has none."""

    config: model.Line
    line: call.Line | None
    unusable: str = ""
    identity: str = ""
    pin: str = ""


def state_after(outcome: Outcome) -> LineState:
    """The line's state once a call with this outcome is over."""
    return LineState.IDLE if outcome in _GOOD else LineState.FAILED


async def free(way: Way) -> None:
    """Hangs up what a process that was killed may have left off-hook. Bounded in time; a line that can't be
    reached is an event."""
    if way.line is None or way.unusable:
        return
    name, line = way.config.name, way.line
    try:
        try:
            with trio.move_on_after(PREPARE_DEADLINE_S):
                await line.prepare()
        finally:
            with trio.move_on_after(HANG_UP_DEADLINE_S, shield=True):
                await line.hang_up()
    except OSError as error:
        events.emit(events.MODEM_PROBLEM, line=name, what=error)


class Cycle:
    """One call. `state`, `since`, `name` (of the line) and `number` are for `status`; `entry` is the ledger's, once
    begun; `tell` takes progress lines; `metering`: what it may cost, where that is something."""

    def __init__(
        self,
        *,
        reason: Reason,
        due: float | None,
        ways: Sequence[Way],
        ledger: Ledger,
        clock: Clock,
        jobs: Sequence[call.Job],
        linger_s: float,
        max_call_s: float,
        tell: Callable[[str], None],
        window: call.Window | None = None,
        time: call.TimeOfCall | None = None,
        metering: Metering | None = None,
    ) -> None:
        self.reason = reason
        self.state = LineState.IDLE
        self.since = clock.now()
        self.name = ways[0].config.name if ways else ""
        self.number = ""
        self.entry: Entry | None = None
        self._due = due
        refused = ledger.summary().pins_refused
        ways = [replace(w, unusable=PIN_REFUSED) if w.pin in refused and not w.unusable else w for w in ways]
        self._ways = [way for way in ways if not way.unusable and way.line is not None]
        self._passed_over = [way for way in ways if way not in self._ways]
        self._ledger = ledger
        self._clock = clock
        self._max_call_s = max_call_s
        self._tell = tell
        self._window = WindowOfCall(window, time)
        self._line: call.Line | None = None
        self._atd = self.since
        self._scope: trio.CancelScope | None = trio.CancelScope()
        self._verdict: Outcome | None = None
        self._outcome = Outcome.HUNG_UP
        self._put_down = False
        self._identity = ""
        self._meter = Meter(metering or Metering(billed={}, estimates={}), self._carried)
        self._exchange = Exchange(jobs, linger_s=linger_s, meter=self._meter, clock=clock, enter=self._enter, tell=tell)
        self._unwatched = trio.Event()
        self._unwatched.set()

    def hang_up(self) -> bool:
        """Ends the call wherever it is; False when it is over already."""
        if not self._stop(Outcome.HUNG_UP):
            return False
        self._put_down = self._verdict is Outcome.HUNG_UP
        return True

    @property
    def device(self) -> str:
        """The network device of the line that is up; "" while none is, or where the network is simply there."""
        return self._line.device if self._line is not None else ""

    def has_for(self, seconds: float, volume: int) -> bool:
        """Whether the budget lets this call go on for so many seconds and bytes yet."""
        return self._meter.has_for(seconds, volume, self._clock.now())

    def weigh(self) -> None:
        """Brings the figures of bytes up to date, where the line's device counts them."""
        if self._line is not None:
            self._weigh(self._line)

    async def run(self) -> Entry:
        """The whole call; -> its entry, ended. Cancelled, it hangs up and closes the entry first."""
        assert self._scope is not None, "a cycle runs once"
        name = self._ways[0].config.name if self._ways else self.name
        self.entry = entry = await self._ledger.begin(self.reason, name, self._clock.now(), due=self._due)
        with events.around(call_id=entry.id):
            await self._run(entry, name)
        return entry

    async def _run(self, entry: Entry, name: str) -> None:
        assert self._scope is not None
        events.emit(events.CALL_STARTED, call_id=entry.id, line=name, reason=self.reason.value)
        self._tell(f"call {entry.id}: {self.reason.value}")
        dialling = self._scope
        try:
            with dialling:
                self._outcome = await self._reach(entry)
            if dialling.cancelled_caught:
                self._outcome = self._verdict or Outcome.HUNG_UP
        except Exception:
            self._outcome = Outcome.MODEM_ERROR
            raise
        finally:
            self._scope = None
            try:
                await self._put_on_hook()
            finally:
                ended = self._clock.now()
                job_done = self._exchange.job_done
                put_down = self._put_down and self._outcome is Outcome.HUNG_UP
                identity = self._identity if self._outcome is Outcome.LOGIN_REFUSED else ""
                try:
                    await self._ledger.end(
                        entry,
                        self._outcome,
                        ended,
                        job_done=job_done,
                        put_down=put_down,
                        identity=identity,
                        charge=self._meter.so_far(ended),
                    )
                finally:  # who waits for the line to be idle finds the call ended
                    self._enter(state_after(self._outcome))
                self._report(entry, self._outcome)

    # ---- dialling
    async def _reach(self, entry: Entry) -> Outcome:
        """Line after line until one is connected and its call over; -> the outcome."""
        for way in self._passed_over:
            events.emit(events.LINE_NOT_USABLE, line=way.config.name, why=way.unusable or "it has no modem")
        outcome = Outcome.NO_NETWORK
        if why := self._window.lacks():
            events.emit(events.WINDOW_PROBLEM, line=self.name, what=why)
            self._tell(why)
            return outcome
        for way in self._ways:
            assert way.line is not None
            if self._too_dear(way.config.name):
                continue
            self._line, self.name, self._identity = way.line, way.config.name, way.identity
            self._enter(LineState.DIALLING)
            try:
                result = await self._dial(way, way.line, entry)
                if result.connected:
                    return await self._stay_up(way.line, entry, result.rate)
            except OSError as error:
                events.emit(events.MODEM_PROBLEM, line=way.config.name, what=error)
                result = Dialled(Outcome.MODEM_ERROR)
            assert result.outcome is not None
            outcome = result.outcome
            await self._put_on_hook()
        return outcome

    def _too_dear(self, line: str) -> bool:
        """Whether the budget has not enough left for even the shortest call over this line."""
        why = self._meter.refuses(line, self._clock.now())
        if why:
            events.emit(events.LINE_NOT_USABLE, line=line, why=why)
            self._tell(f"{line}: {why}")
        return bool(why)

    async def _dial(self, way: Way, line: call.Line, entry: Entry) -> Dialled:
        """Up to `attempts` dials over one line; -> the last one's end."""
        config = way.config
        if failed := await self._prepare(line):
            return failed
        last = Dialled(Outcome.DELAYED)
        turn = 0
        for attempt in range(1, config.attempts + 1):
            if attempt > 1:
                await trio.sleep(config.redial_wait_s)
            if last.outcome in _PREPARE_AGAIN and (failed := await self._prepare(line)):
                return failed
            allowed = await self._next_number(config, turn, entry)
            if allowed is None:
                break
            if attempt > 1 and self._too_dear(config.name):
                break
            turn, number = allowed
            last = await self._dial_once(config, line, entry, number, attempt)
            if last.connected or last.outcome is Outcome.PIN_REFUSED:
                break
        return last

    async def _prepare(self, line: call.Line) -> Dialled | None:
        """None: the line can dial."""
        with trio.move_on_after(PREPARE_DEADLINE_S) as scope:
            outcome = await line.prepare(lambda text: self._tell(f"{self.name}: {text}"))
        if scope.cancelled_caught:
            outcome = Outcome.MODEM_SILENT
        if outcome is None:
            return None
        self._tell(f"{self.name}: {outcome.value}")
        return Dialled(outcome)

    async def _next_number(self, config: model.Line, turn: int, entry: Entry) -> tuple[int, str] | None:
        """The next of the numbers in turn that may be dialled now, and the turn behind it; "" where the line has none
        to dial. A pause between two dials is waited for, a longer one is not."""
        if config.kind is LineKind.INTERFACE:
            return turn + 1, ""
        while True:
            shortest = math.inf
            for n in range(turn, turn + len(config.numbers)):
                number = config.numbers[n % len(config.numbers)]
                wait, rule = self._forbidden(config, number, entry)
                if not wait:
                    return n + 1, number
                shortest = min(shortest, wait)
                if wait > PAUSE_S:
                    events.emit(events.REDIAL_FORBIDDEN, number=number, seconds=f"{wait:.0f}", rule=rule)
                    self._tell(f"{number} may not be dialled for {wait:.0f} s: {rule}")
            if shortest > PAUSE_S:
                return None
            await trio.sleep(shortest)

    def _forbidden(self, config: model.Line, number: str, entry: Entry) -> tuple[float, str]:
        """For how long yet, and why; (0, "") when it may be dialled. What a modem refused before a call by hand was
        asked for is no reason: its power may have been cycled."""
        now, dials = self._clock.now(), self._ledger.summary().dials
        refused = entry.dials if self.reason is Reason.BY_HAND else dials
        return max(redial.wait_s(config.country, number, dials, now), redial.modem_wait_s(number, refused, now))

    async def _dial_once(self, config: model.Line, line: call.Line, entry: Entry, number: str, attempt: int) -> Dialled:
        self.number = number
        self._enter(LineState.DIALLING)
        charge, reserved = self._meter.before_dial(config.name, self._clock.now())
        await self._ledger.dial(entry, config.name, number, self._clock.now(), charge=charge, reserved=reserved)
        events.emit(events.DIALLING, call_id=entry.id, number=number, dial=len(entry.dials))
        self._tell(f"dialling {number} ({attempt} of {config.attempts})")
        self._atd = self._clock.now()
        dialled = Dialled(None)
        try:
            with trio.move_on_after(config.dial_timeout_s + DIAL_GRACE_S) as scope:
                dialled = await line.dial(number)
            if scope.cancelled_caught:
                dialled = Dialled(Outcome.TIMEOUT)
        except BaseException:  # given up, or the port is gone: it may have been answered
            self._meter.after_dial(None, self._atd, self._clock.now())
            raise
        if dialled.outcome is not None:
            events.emit(
                events.DIAL_FAILED, call_id=entry.id, number=number, outcome=dialled.outcome.value, text=dialled.text
            )
            self._tell(f"{number}: {dialled.outcome.value} {dialled.text}".rstrip())
            now = self._clock.now()
            charge = self._meter.after_dial(dialled.outcome, self._atd, now)
            await self._ledger.result(entry, dialled.outcome, self._atd, now, charge=charge)
        return dialled

    # ---- the call that is up
    async def _stay_up(self, line: call.Line, entry: Entry, rate: int) -> Outcome:
        """From CONNECT until the call is over, with the line on-hook; -> the outcome."""
        up = self._clock.now()
        self._meter.connected(up)
        events.emit(events.CONNECTED, call_id=entry.id, number=self.number, rate=rate)
        self._tell(f"CONNECT {rate}" if rate else "CONNECT")
        self._enter(LineState.NEGOTIATING)
        self._unwatched = trio.Event()
        async with trio.open_nursery() as nursery:
            # Beside the work: the line is paid while a slow disk flushes.
            nursery.start_soon(self._keep_ledger, entry, up, rate)
            nursery.start_soon(self._watch_carrier, line, entry)
            nursery.start_soon(self._watch_budget)
            try:
                with trio.move_on_after(min(self._max_call_s, self._meter.lasts_s(up))) as scope:
                    self._scope = scope
                    outcome = await self._come_up(line) or await self._exchange.run(
                        nursery, line, entry, self.reason, rate, self._max_call_s
                    )
                if scope.cancelled_caught:
                    outcome = self._verdict or Outcome.MAX_CALL
                self._outcome = outcome
            finally:
                self._scope = None
                nursery.start_soon(self._put_on_hook)
                nursery.cancel_scope.cancel()
        return outcome

    async def _come_up(self, line: call.Line) -> Outcome | None:
        """None: the network is up, its window open, and the time known where it can be had."""
        outcome = await self._negotiate(line) or await self._window.open(line)
        if outcome is not None:
            self._tell(outcome.value)
        elif line.device:
            self._tell(f"the network is up on {line.device}")
        return outcome

    async def _negotiate(self, line: call.Line) -> Outcome | None:
        try:
            with trio.fail_after(NEGOTIATE_DEADLINE_S):
                outcome = await line.negotiate()
        except (OSError, trio.TooSlowError) as error:
            events.emit(events.MODEM_PROBLEM, line=self.name, what=str(error) or "no end of the negotiation")
            outcome = Outcome.NEGOTIATION_FAILED
        return outcome

    async def _keep_ledger(self, entry: Entry, up: Mark, rate: int) -> None:
        await self._ledger.result(entry, None, self._atd, up, rate=rate, charge=self._meter.if_cut(up))
        while True:
            await trio.sleep(MARK_EVERY_S)
            self.weigh()
            now = self._clock.now()
            await self._ledger.mark(entry, now, charge=self._meter.if_cut(now))

    async def _watch_budget(self) -> None:
        """Ends a call whose next unit of volume the budget does not pay."""
        while self._meter.by_volume():
            await trio.sleep(LOOK_EVERY_S)
            self.weigh()
            if self._meter.used_up(self._clock.now()):
                self._tell("the budget is used up")
                self._stop(Outcome.MAX_CALL)

    async def _watch_carrier(self, line: call.Line, entry: Entry) -> None:
        try:
            outcome = await line.wait_carrier_lost()
        except OSError as error:
            events.emit(events.MODEM_PROBLEM, line=self.name, what=error)
            outcome = Outcome.CARRIER_LOST
        finally:
            self._unwatched.set()
        seconds = self._atd.seconds_until(self._clock.now())
        events.emit(events.CARRIER_LOST, call_id=entry.id, seconds=f"{seconds:.1f}")
        self._tell(outcome.value)
        done = self.state is LineState.LINGERING and not self._exchange.busy
        self._stop(self._exchange.outcome() if done else outcome)

    # ---- the end
    def _stop(self, verdict: Outcome) -> bool:
        """Ends what is under way with this outcome, unless something else has ended it before."""
        if self._scope is None:
            return False
        self._verdict = self._verdict or verdict
        self._scope.cancel()
        return True

    async def _put_on_hook(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        self._enter(LineState.HANGING_UP)
        self._tell("hanging up")
        await self._window.close()
        self._weigh(line)
        problem = ""
        with trio.move_on_after(HANG_UP_DEADLINE_S, shield=True) as scope:
            try:
                await self._unwatched.wait()  # two tasks must not read one port
                await line.hang_up()
            except OSError as error:
                problem = str(error)
        if scope.cancelled_caught:
            problem = f"not on-hook after {HANG_UP_DEADLINE_S:g} s"
        if problem:
            events.emit(events.MODEM_PROBLEM, line=self.name, what=problem)
        self._weigh(line)

    def _weigh(self, line: call.Line) -> None:
        carried = line.carried()
        if carried is not None and self.entry is not None and self.entry.connected is not None:
            self.entry.tally.bytes_in, self.entry.tally.bytes_out = carried

    def _carried(self) -> int:
        return self.entry.tally.bytes_in + self.entry.tally.bytes_out if self.entry is not None else 0

    def _report(self, entry: Entry, outcome: Outcome) -> None:
        tally, seconds = entry.tally, f"{entry.duration_s:.1f}"
        events.emit(
            events.CALL_ENDED,
            call_id=entry.id,
            outcome=outcome.value,
            seconds=seconds,
            sent=tally.sent,
            fetched=tally.fetched,
            failed=tally.failed,
            bytes_in=tally.bytes_in,
            bytes_out=tally.bytes_out,
            cost=f"{entry.charge.cost:f}",
            currency=entry.charge.currency,
        )
        if outcome is Outcome.LOGIN_REFUSED:
            events.emit(events.LOGIN_REFUSED, line=self.name)
        self._tell(
            f"on-hook after {seconds} s: {outcome.value}; "
            f"sent {tally.sent}, fetched {tally.fetched}, failed {tally.failed}"
        )

    def _enter(self, state: LineState) -> None:
        if state is not self.state:
            self.state, self.since = state, self._clock.now()
