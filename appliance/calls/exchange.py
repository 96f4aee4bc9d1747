"""The work of a call that is up: every job side by side, until there is nothing left to do. Owns who is busy and what
was left; must not know how the line came up, nor how it is put down.

Theory of operation. Each job runs in a task of its own: `run`, then `wait_work`, then `run` again. When all of them
wait at once and `linger` has passed, the exchange is over.

Bulk mail goes in time that is paid already (`call.PaidTime`). On a line that costs nothing by its time that is all of
the call. On another it begins when all else is done, and is what is then left of the started unit: the exchange ends
before the next one begins, unless there is something else to do again. A call lingers into no new unit either.
"""

from __future__ import annotations

import functools
import math
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import AllPaid, LineState, OpenCall, Outcome
from appliance.calls.metered import MeteredStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance import call
    from appliance.call import JobReport, Reason
    from appliance.calls.entry import Entry
    from appliance.calls.meter import Meter
    from appliance.clock import Clock

__all__ = ["Exchange"]

FILL_LEAST_S: Final = 2.0
"""Paid time shorter than this carries no message: a round trip or two of a satellite."""


class Exchange:
    """One per call. `enter` is told the line's state, `tell` takes progress lines."""

    def __init__(
        self,
        jobs: Sequence[call.Job],
        *,
        linger_s: float,
        meter: Meter,
        clock: Clock,
        enter: Callable[[LineState], None],
        tell: Callable[[str], None],
    ) -> None:
        self._jobs = jobs
        self._linger_s = linger_s
        self._meter = meter
        self._clock = clock
        self._enter = enter
        self._tell = tell
        self._paid = _PaidTime(self._wake)
        self._left: set[str] = set()
        self._reached: set[str] = set()
        self._busy: set[str] = set()
        self._changed = trio.Event()

    @property
    def busy(self) -> bool:
        return bool(self._busy)

    @property
    def job_done(self) -> bool:
        """Whether a job reached its server and left nothing."""
        return bool(self._reached - self._left)

    def outcome(self) -> Outcome:
        """Of the call, were it over now with no job busy."""
        return Outcome.PARTIAL if self._left else Outcome.COMPLETE

    async def run(
        self, nursery: trio.Nursery, line: call.Line, entry: Entry, reason: Reason, rate: int, longest_s: float
    ) -> Outcome:
        """Runs the jobs in `nursery` until there is nothing left to do and `linger` has passed."""

        async def open_stream(job: str, host: str, port: int) -> trio.abc.HalfCloseableStream:
            stream = await line.open_stream(host, port)
            self._reached.add(job)
            return stream if line.carried() is not None else MeteredStream(stream, entry.tally)

        paid = self._paid if self._meter.by_time() else AllPaid()
        self._busy = {job.name for job in self._jobs}
        self._enter(LineState.EXCHANGING)
        for job in self._jobs:
            opens = functools.partial(open_stream, job.name)
            by_hand = line.carried() is None
            open_call = OpenCall(
                entry.id, line.name, reason, rate, opens, entry.tally, self._tell, by_hand, paid, longest_s,
                moving=self._moving, carried=lambda: line.carried() or (entry.tally.bytes_in, entry.tally.bytes_out),
            )  # fmt: skip
            nursery.start_soon(self._work, job, open_call)
        while True:
            while self._busy - self._paid.alone:
                await self._changed.wait()
            now = self._clock.now()
            if not self._busy:
                self._paid.begin(self._meter.paid_s(now) or 0.0)
                self._enter(LineState.LINGERING)
            idle = frozenset(self._busy)  # nothing to do, or nothing that is worth a new unit
            until = self._paid.until if idle else trio.current_time() + self._meter.linger_s(self._linger_s, now)
            with trio.move_on_at(until):
                while self._idle(idle):
                    await self._changed.wait()
            if self._idle(idle):
                return self.outcome()
            if self._busy:
                self._enter(LineState.EXCHANGING)

    def _idle(self, before: frozenset[str]) -> bool:
        """Whether the same jobs as before are busy, with bulk mail alone."""
        return self._busy == before <= self._paid.alone

    def _moving(self) -> set[str]:
        """The jobs that have work under way; one that waits for paid time has not."""
        return self._busy if self._paid.left_s() else self._busy - self._paid.alone

    # ---- jobs
    async def _work(self, job: call.Job, open_call: OpenCall) -> None:
        """One job, for as long as the call is up. One that fails unexpectedly is over; the others go on."""
        try:
            while True:
                report = await job.run(open_call)
                self._take_report(job, open_call, report)
                self._now_busy(job.name, busy=False)
                await job.wait_work()
                self._now_busy(job.name, busy=True)
        except Exception as error:
            self._left.add(job.name)
            open_call.count(failed=1)
            events.emit(events.JOB_CRASHED, call_id=open_call.id, job=job.name, error=_where(error))
            self._now_busy(job.name, busy=False)

    def _take_report(self, job: call.Job, open_call: OpenCall, report: JobReport) -> None:
        if report.left:
            self._left.add(job.name)
            events.emit(events.JOB_FAILED, call_id=open_call.id, job=job.name, why=report.detail)
        else:
            self._left.discard(job.name)

    def _now_busy(self, job: str, *, busy: bool) -> None:
        (self._busy.add if busy else self._busy.discard)(job)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _PaidTime:
    """Implements `call.PaidTime`. `until` is Trio's time, `alone` the jobs that have nothing but bulk mail to do;
    `changed` is called when that is another one."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.until = -math.inf
        self.alone: set[str] = set()
        self._changed = changed
        self._begun = trio.Event()

    def begin(self, seconds: float) -> None:
        """From now on, where that is long enough to be of use."""
        if seconds >= FILL_LEAST_S and not self.left_s():
            self.until = trio.current_time() + seconds
            self._begun.set()
            self._begun = trio.Event()

    def left_s(self) -> float:
        return max(0.0, self.until - trio.current_time())

    async def wait_begun(self) -> None:
        if not self.left_s():
            await self._begun.wait()

    def carries_bulk(self, job: str, *, alone: bool) -> None:
        (self.alone.add if alone else self.alone.discard)(job)
        self._changed()


def _where(error: BaseException) -> str:
    """The error and the line of code that it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
