"""When to call, over hours and days: a gateway in a few lines asks the policy, makes the call, and asks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import time
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from appliance.call import Outcome, Prospect, Reason, Tally
from appliance.calls.entry import Entry, Summary
from appliance.calls.policy import Requests, Settings, Times, WayOut, decide
from appliance.clock import Mark
from appliance.config.model import Schedule
from fakes.clock import NOON

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
OFF = Schedule(urgent=False)
TWICE = replace(OFF, at=(time(7, 30), time(18)))
LENGTH_S = 20.0
NOTHING = Prospect()


def mark(wall: float) -> Mark:
    return Mark(wall, wall - NOON + 10 * DAY, "boot-1")


class Gateway:
    """`ends` says how each call ends: it gets the entry, without an outcome yet, and finishes it."""

    def __init__(self, schedule: Schedule, ends: Callable[[Entry], None], waiting: Prospect = NOTHING) -> None:
        self.schedule, self.ends, self.waiting = schedule, ends, waiting
        self.now = self.started = NOON
        self.summary = Summary()
        self.calls: list[Entry] = []
        self.texts: list[str] = []

    def prospect(self) -> Prospect:
        return self.waiting

    def run(self, seconds: float) -> None:
        """Until so long after noon; as `Caller.run`, but only at the moments that the policy names."""
        until = NOON + seconds
        settings = Settings(
            schedule=self.schedule, ways=(WayOut("pstn", ("1",)),), zone=ZoneInfo("UTC"), bulk_max_age_s=DAY
        )
        for _ in range(5000):
            times = Times(now=mark(self.now), started=mark(self.started))
            decision = decide(settings, self.prospect(), self.summary, times)
            if decision.reason is not None:
                self.call(decision.reason, decision.due)
                continue
            self.texts.append(decision.next.reason)
            moments = [at for at in (decision.next.at, decision.look) if at is not None]
            if not moments or min(moments) > until:
                self.now = until
                return
            assert min(moments) > self.now, "it would look for ever"
            self.now = min(moments)
        raise AssertionError("a call after the other")

    def call(self, reason: Reason, due: float | None = None) -> Entry:
        entry = Entry(len(self.calls) + 1, "pstn", reason, mark(self.now), due=due)
        self.now += LENGTH_S
        entry.ended = mark(self.now)
        self.ends(entry)
        self.summary = self.summary.after(entry)
        self.calls.append(entry)
        return entry

    @property
    def starts(self) -> list[float]:
        """Seconds since noon."""
        return [call.started.wall - NOON for call in self.calls]


def ending(
    outcome: Outcome, *, sent: int = 0, fetched: int = 0, job_done: bool = False, put_down: bool = False
) -> Callable[[Entry], None]:
    def end(entry: Entry) -> None:
        entry.outcome, entry.job_done, entry.put_down = outcome, job_done, put_down
        if outcome is not Outcome.BUSY:
            entry.connected = entry.started
            entry.tally = Tally(sent=sent, fetched=fetched)

    return end


BUSY = ending(Outcome.BUSY)


# ---- deferred by the server
class Deferring(Gateway):
    """One message, which the server answers 451 in every call; what the post office says of it."""

    def __init__(self, schedule: Schedule, outcome: Outcome, **counts: object) -> None:
        super().__init__(schedule, ending(outcome))
        self.counts = counts
        self.attempts, self.tried_at = 0, 0.0

    def prospect(self) -> Prospect:
        ladder = self.schedule.retry_s
        until = self.tried_at + ladder[min(self.attempts, len(ladder)) - 1] if self.attempts else 0.0
        if until > self.now:
            return Prospect(deferred=1, deferred_until=until)
        return Prospect(**self.counts)  # type: ignore[arg-type]

    def call(self, reason: Reason, due: float | None = None) -> Entry:
        self.attempts, self.tried_at = self.attempts + 1, self.now + LENGTH_S
        return super().call(reason, due)


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.PARTIAL])
@pytest.mark.parametrize(
    ("schedule", "counts"),
    [
        (Schedule(), {"messages": 1, "bytes": 9, "oldest": NOON, "urgent": 1}),
        (replace(OFF, queued_messages=1, min_gap_s=0.0), {"messages": 1, "bytes": 9, "oldest": NOON}),
        (replace(OFF, queued_messages=1), {"messages": 1, "bytes": 9, "oldest": NOON}),
        (replace(OFF, min_gap_s=0.0), {"bulk_messages": 1, "bulk_bytes": 9, "bulk_oldest": NOON - 2 * DAY}),
    ],
)
def test_a_message_that_its_server_defers_is_called_for_no_oftener_than_the_ladder_says(
    schedule: Schedule, counts: dict[str, object], outcome: Outcome
) -> None:
    gateway = Deferring(schedule, outcome, **counts)
    gateway.run(DAY)
    gaps = [b - a - LENGTH_S for a, b in pairwise(gateway.starts)]
    steps = [*schedule.retry_s, *[schedule.retry_s[-1]] * len(gaps)]
    assert all(gap >= step - 0.01 for gap, step in zip(gaps, steps, strict=False)), gaps
    assert 12 <= len(gateway.calls) <= len(schedule.retry_s) + 24
    assert any("1 message was deferred by its server and counts again at " in text for text in gateway.texts)


@pytest.mark.parametrize(
    ("schedule", "prospect", "at", "words"),
    [
        (OFF, Prospect(deferred=1), None, "1 message was deferred by its server and counts again at 12:05"),
        (OFF, Prospect(deferred=2), None, "2 messages were deferred by their servers and count again from 12:05"),
        (
            OFF,
            Prospect(messages=1, deferred=1),
            None,
            "1 message waits; no condition in [schedule] holds; "
            "1 message was deferred by its server and counts again at 12:05",
        ),
        (
            TWICE,
            Prospect(deferred=1),
            NOON + 6 * HOUR,
            "at 18:00; 1 message was deferred by its server and counts again at 12:05",
        ),
    ],
)
def test_not_now_names_what_was_deferred(schedule: Schedule, prospect: Prospect, at: float | None, words: str) -> None:
    settings = Settings(schedule=schedule, ways=(WayOut("pstn", ("1",)),), zone=ZoneInfo("UTC"), bulk_max_age_s=DAY)
    prospect = replace(prospect, deferred_until=NOON + 5 * MINUTE)
    decision = decide(settings, prospect, Summary(), Times(now=mark(NOON), started=mark(NOON)))
    assert (decision.next.at, decision.next.reason, decision.look) == (at, words, NOON + 5 * MINUTE)
    by_hand = decide(settings, prospect, Summary(), Times(now=mark(NOON), started=mark(NOON)), Requests(by_hand=True))
    assert by_hand.reason is Reason.BY_HAND


# ---- an account, or the line, that is out of order for days
@pytest.mark.parametrize("ends", [ending(Outcome.PARTIAL, fetched=2), ending(Outcome.PARTIAL, job_done=True)])
def test_one_account_out_of_order_adds_no_calls_to_at(ends: Callable[[Entry], None]) -> None:
    gateway = Gateway(TWICE, ends)
    gateway.run(3 * DAY)
    assert [call.reason for call in gateway.calls] == [Reason.AT] * 6
    assert gateway.starts == [h * HOUR for h in (6, 19.5, 30, 43.5, 54, 67.5)]


def test_one_account_out_of_order_adds_no_calls_to_every() -> None:
    gateway = Gateway(replace(OFF, every_s=4 * HOUR), ending(Outcome.PARTIAL, fetched=1))
    gateway.run(DAY)
    assert [call.reason for call in gateway.calls] == [Reason.EVERY] * 5


@pytest.mark.parametrize("ends", [BUSY, ending(Outcome.PARTIAL), ending(Outcome.CARRIER_LOST, fetched=1)])
def test_nobody_answers_one_pass_of_the_ladder_for_each_at(ends: Callable[[Entry], None]) -> None:
    gateway = Gateway(TWICE, ends)
    gateway.run(3 * DAY + 5 * HOUR)
    one_pass = [Reason.AT, *[Reason.RETRY] * len(TWICE.retry_s)]
    assert [call.reason for call in gateway.calls] == one_pass * 6


def test_nobody_answers_one_pass_of_the_ladder_for_each_every() -> None:
    gateway = Gateway(replace(OFF, every_s=12 * HOUR), BUSY)
    gateway.run(2 * DAY - HOUR)
    assert [call.reason for call in gateway.calls] == [Reason.EVERY, *[Reason.RETRY] * 4] * 3


def test_what_was_given_up_is_not_retried_for_mail_below_its_threshold() -> None:
    gateway = Gateway(replace(TWICE, queued_messages=5), BUSY, Prospect(messages=1, bytes=9, oldest=NOON))
    gateway.run(DAY + 5 * HOUR)
    assert len(gateway.calls) == 10


def test_a_partial_call_that_left_the_mail_is_made_again_for_it() -> None:
    waiting = Prospect(messages=1, bytes=9, oldest=NOON)
    gateway = Gateway(replace(OFF, queued_messages=1), ending(Outcome.PARTIAL, fetched=1), waiting)
    gateway.run(1.5 * HOUR)
    gaps = [b - a - LENGTH_S for a, b in pairwise(gateway.starts)]
    assert gaps == pytest.approx([MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR])


def test_an_at_is_not_lost_to_another_call_that_began_behind_it_and_failed() -> None:
    gateway = Gateway(TWICE, BUSY)
    gateway.now = NOON + 6 * HOUR
    gateway.call(Reason.URGENT)
    assert gateway.calls[0].started.wall == NOON + 6 * HOUR
    gateway.ends = ending(Outcome.COMPLETE)
    gateway.run(12 * HOUR)
    assert [(call.reason, call.due) for call in gateway.calls[1:]] == [(Reason.AT, NOON + 6 * HOUR)]


# ---- by hand
@pytest.mark.parametrize("min_gap_s", [0.0, 600.0])
def test_a_call_hung_up_by_hand_leaves_conditions_to_wait(min_gap_s: float) -> None:
    waiting = Prospect(messages=1, bytes=9, oldest=NOON, urgent=1)
    schedule = replace(OFF, urgent=True, queued_messages=1, min_gap_s=min_gap_s, retry_s=(60.0, 300.0))
    gateway = Gateway(schedule, ending(Outcome.HUNG_UP, put_down=True), waiting)
    gateway.run(HOUR)
    gaps = {round(b - a - LENGTH_S, 3) for a, b in pairwise(gateway.starts)}
    assert gaps == {max(min_gap_s, 60.0)}
    assert gateway.summary.failures == 0
    assert any("hung up by hand: not before " in text for text in gateway.texts)


def test_a_call_hung_up_by_hand_is_not_made_again() -> None:
    gateway = Gateway(replace(TWICE, every_s=5 * HOUR), ending(Outcome.HUNG_UP, put_down=True))
    gateway.run(7 * HOUR)
    assert [call.reason for call in gateway.calls] == [Reason.EVERY, Reason.AT]
    assert gateway.summary.unmet == frozenset()


def test_a_retry_hung_up_by_hand_is_the_last_one() -> None:
    gateway = Gateway(TWICE, BUSY)
    gateway.run(6 * HOUR + 30)
    gateway.ends = ending(Outcome.HUNG_UP, put_down=True)
    gateway.run(18 * HOUR)
    assert [call.reason for call in gateway.calls] == [Reason.AT, Reason.RETRY]


def test_a_call_that_the_stop_of_the_process_ended_is_made_again() -> None:
    gateway = Gateway(TWICE, ending(Outcome.HUNG_UP))
    gateway.run(6 * HOUR + 10 * MINUTE)
    assert [call.reason for call in gateway.calls] == [Reason.AT, Reason.RETRY, Reason.RETRY][: len(gateway.calls)]
    assert len(gateway.calls) >= 2


@pytest.mark.parametrize("ends", [BUSY, ending(Outcome.CARRIER_LOST)])
def test_test_dials_by_hand_put_nobody_further_than_the_first_step(ends: Callable[[Entry], None]) -> None:
    gateway = Gateway(replace(OFF, queued_messages=1), ends)
    for _ in range(5):
        gateway.call(Reason.BY_HAND)
    gateway.waiting = Prospect(messages=1, bytes=9, oldest=NOON)
    last = gateway.now
    gateway.run(5 * LENGTH_S + MINUTE)
    assert gateway.calls[-1].reason is Reason.QUEUED_MESSAGES
    assert gateway.calls[-1].started.wall - last == MINUTE
    assert gateway.summary.failures == 2


def test_a_test_dial_by_hand_takes_no_step_back() -> None:
    gateway = Gateway(replace(OFF, queued_messages=1), BUSY)
    for _ in range(3):
        gateway.call(Reason.QUEUED_MESSAGES)
    gateway.call(Reason.BY_HAND)
    assert gateway.summary.failures == 3
