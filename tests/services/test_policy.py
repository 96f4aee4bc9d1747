"""When to call: tables of situations, and what holds in every one of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.call import Outcome, Prospect, Reason, Tally
from appliance.calls.entry import Entry, Summary
from appliance.calls.policy import Decision, Requests, Settings, Times, WayOut, decide, retry_wait_s
from appliance.calls.redial import Dial
from appliance.clock import Mark
from appliance.config.model import Schedule, Window
from fakes.clock import FakeClock

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
OFF = Schedule(urgent=False)
PSTN = WayOut("pstn", ("0570000111",))
WEEKDAYS = Window(frozenset(range(5)), time(7), time(22))


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = utc("2026-01-05 12:00")  # a Monday


def mark(wall: float) -> Mark:
    return Mark(wall, wall - NOON + 10 * DAY, "boot-1")


def settings(schedule: Schedule = OFF, *ways: WayOut, zone: str = "UTC") -> Settings:
    return Settings(schedule=schedule, ways=ways or (PSTN,), zone=ZoneInfo(zone), bulk_max_age_s=DAY)


def times(now: float = NOON, *, started: float = NOON - 5 * HOUR, trusted: bool = True) -> Times:
    return Times(now=mark(now), started=mark(started), trusted=trusted)


def ended(
    outcome: Outcome,
    reason: Reason = Reason.QUEUED_MESSAGES,
    *,
    at: float = NOON - 30,
    length: float = 20,
    due: float | None = None,
    up: bool = True,
    sent: int = 1,
) -> Entry:
    started = mark(at - length)
    return Entry(
        1,
        "pstn",
        reason,
        started,
        due=due,
        connected=started if up else None,
        ended=mark(at),
        outcome=outcome,
        tally=Tally(sent=sent if up else 0),
    )


def past(*entries: Entry) -> Summary:
    summary = Summary()
    for entry in entries:
        summary = summary.after(entry)
    return summary


BY_HAND = Requests(by_hand=True)
WAITING = Prospect(messages=3, bytes=9000, oldest=NOON - 2 * HOUR)
URGENT = replace(WAITING, urgent=1)
BUSY = ended(Outcome.BUSY, up=False)


@pytest.mark.parametrize(
    ("schedule", "prospect", "summary", "requests", "reason"),
    [
        (OFF, Prospect(), past(), Requests(), None),
        (OFF, URGENT, past(), Requests(), None),
        (OFF, URGENT, past(), BY_HAND, Reason.BY_HAND),
        (OFF, Prospect(), past(), BY_HAND, Reason.BY_HAND),
        (Schedule(), URGENT, past(), Requests(), Reason.URGENT),
        (Schedule(), WAITING, past(), Requests(), None),
        (
            Schedule(connection_request=True),
            WAITING,
            past(),
            Requests(connection_request=True),
            Reason.CONNECTION_REQUEST,
        ),
        (OFF, WAITING, past(), Requests(connection_request=True), None),
        (OFF, WAITING, past(), Requests(wake=True), Reason.WAKE),
        (replace(OFF, at=(time(12),)), Prospect(), past(), Requests(), Reason.AT),
        (replace(OFF, at=(time(12, 1),)), Prospect(), past(), Requests(), None),
        (replace(OFF, every_s=5 * HOUR), Prospect(), past(), Requests(), Reason.EVERY),  # since the start of run
        (replace(OFF, every_s=6 * HOUR), Prospect(), past(), Requests(), None),
        (
            replace(OFF, every_s=HOUR),
            Prospect(),
            past(ended(Outcome.COMPLETE, at=NOON - HOUR)),
            Requests(),
            Reason.EVERY,
        ),
        (replace(OFF, every_s=HOUR), Prospect(), past(ended(Outcome.COMPLETE, at=NOON - HOUR + 1)), Requests(), None),
        (replace(OFF, queued_messages=3), WAITING, past(), Requests(), Reason.QUEUED_MESSAGES),
        (replace(OFF, queued_messages=4), WAITING, past(), Requests(), None),
        (replace(OFF, queued_size_bytes=9000), WAITING, past(), Requests(), Reason.QUEUED_SIZE),
        (replace(OFF, queued_size_bytes=9001), WAITING, past(), Requests(), None),
        (replace(OFF, oldest_message_s=2 * HOUR), WAITING, past(), Requests(), Reason.OLDEST_MESSAGE),
        (replace(OFF, oldest_message_s=2 * HOUR + 1), WAITING, past(), Requests(), None),
        (OFF, Prospect(bulk_messages=1, bulk_oldest=NOON - DAY), past(), Requests(), Reason.BULK),
        (OFF, Prospect(bulk_messages=1, bulk_oldest=NOON - DAY + 1), past(), Requests(), None),
        (replace(OFF, queued_messages=1), Prospect(bulk_messages=9, bulk_oldest=NOON), past(), Requests(), None),
        # the first that holds is the reason
        (Schedule(at=(time(12),), every_s=HOUR, queued_messages=1), URGENT, past(), Requests(), Reason.URGENT),
        (Schedule(at=(time(12),), every_s=HOUR, queued_messages=1), WAITING, past(), Requests(), Reason.AT),
        (Schedule(at=(time(13),), every_s=HOUR, queued_messages=1), WAITING, past(), Requests(), Reason.EVERY),
        (
            Schedule(every_s=9 * HOUR, queued_messages=1, queued_size_bytes=1),
            WAITING,
            past(),
            Requests(),
            Reason.QUEUED_MESSAGES,
        ),
        (Schedule(queued_size_bytes=1, oldest_message_s=1), WAITING, past(), Requests(), Reason.QUEUED_SIZE),
        (Schedule(queued_messages=1), WAITING, past(), BY_HAND, Reason.QUEUED_MESSAGES),
        # min_gap: not for urgent ones, wakes, by hand; only behind a complete automatic call
        (replace(OFF, queued_messages=1), WAITING, past(ended(Outcome.COMPLETE)), Requests(), None),
        (
            replace(OFF, queued_messages=1),
            WAITING,
            past(ended(Outcome.COMPLETE, at=NOON - 10 * MINUTE)),
            Requests(),
            Reason.QUEUED_MESSAGES,
        ),
        (
            replace(OFF, queued_messages=1),
            WAITING,
            past(ended(Outcome.COMPLETE, Reason.BY_HAND)),
            Requests(),
            Reason.QUEUED_MESSAGES,
        ),
        (Schedule(queued_messages=1), URGENT, past(ended(Outcome.COMPLETE)), Requests(), Reason.URGENT),
        (OFF, Prospect(), past(ended(Outcome.COMPLETE)), Requests(wake=True), Reason.WAKE),
        (OFF, Prospect(), past(ended(Outcome.COMPLETE)), BY_HAND, Reason.BY_HAND),
        # windows: not for urgent ones and by hand
        (
            replace(OFF, queued_messages=1, windows=(Window(frozenset({0}), time(13), time(14)),)),
            WAITING,
            past(),
            Requests(),
            None,
        ),
        (replace(OFF, queued_messages=1, windows=(WEEKDAYS,)), WAITING, past(), Requests(), Reason.QUEUED_MESSAGES),
        (Schedule(windows=(Window(frozenset({0}), time(13), time(14)),)), URGENT, past(), Requests(), Reason.URGENT),
        (
            replace(OFF, windows=(Window(frozenset({0}), time(13), time(14)),)),
            WAITING,
            past(),
            Requests(wake=True),
            None,
        ),
        (replace(OFF, windows=(Window(frozenset({0}), time(13), time(14)),)), WAITING, past(), BY_HAND, Reason.BY_HAND),
        # retry holds every automatic call, also an urgent one
        (Schedule(queued_messages=1), URGENT, past(BUSY), Requests(), None),
        (Schedule(queued_messages=1), URGENT, past(BUSY), Requests(wake=True), None),
        (Schedule(queued_messages=1), URGENT, past(ended(Outcome.BUSY, Reason.BY_HAND, up=False)), Requests(), None),
        (Schedule(queued_messages=1), URGENT, past(ended(Outcome.PARTIAL)), Requests(), None),
        (Schedule(queued_messages=1), URGENT, past(BUSY), BY_HAND, Reason.BY_HAND),
        (Schedule(), URGENT, past(ended(Outcome.BUSY, up=False, at=NOON - MINUTE)), Requests(), Reason.URGENT),
        # ... and then the call is made again, while its purpose is unmet
        (OFF, WAITING, past(ended(Outcome.BUSY, up=False, at=NOON - MINUTE)), Requests(), Reason.RETRY),
        (OFF, Prospect(), past(ended(Outcome.BUSY, up=False, at=NOON - MINUTE)), Requests(), None),
        (OFF, Prospect(), past(ended(Outcome.BUSY, Reason.AT, up=False, at=NOON - MINUTE)), Requests(), Reason.RETRY),
        (OFF, Prospect(), past(ended(Outcome.INTERRUPTED, Reason.EVERY, at=NOON - MINUTE)), Requests(), Reason.RETRY),
        (OFF, WAITING, past(ended(Outcome.BUSY, Reason.BY_HAND, up=False, at=NOON - MINUTE)), Requests(), None),
        (OFF, WAITING, past(BUSY, ended(Outcome.COMPLETE, Reason.BY_HAND)), Requests(), None),
        (replace(OFF, retry_s=()), WAITING, past(ended(Outcome.BUSY, up=False, at=NOON - DAY)), Requests(), None),
    ],
)
def test_reason(
    schedule: Schedule, prospect: Prospect, summary: Summary, requests: Requests, reason: Reason | None
) -> None:
    decision = decide(settings(schedule), prospect, summary, times(), requests)
    assert decision.reason == reason, decision
    assert decision.next.reason


IN_WINDOW = Window(frozenset({0}), time(13), time(14))


@pytest.mark.parametrize(
    ("schedule", "prospect", "summary", "at", "words"),
    [
        (OFF, Prospect(), past(), None, "nothing waits"),
        (OFF, WAITING, past(), None, "3 messages wait; no condition in [schedule] holds"),
        (replace(OFF, at=(time(6, 30), time(18))), Prospect(), past(), "2026-01-05 18:00", "at 18:00"),
        (replace(OFF, at=(time(6, 30),)), Prospect(), past(), "2026-01-06 06:30", "at 06:30"),
        (replace(OFF, every_s=6 * HOUR), Prospect(), past(), "2026-01-05 13:00", "every 6h"),
        (
            replace(OFF, oldest_message_s=3 * HOUR),
            WAITING,
            past(),
            "2026-01-05 13:00",
            "oldest_message: the oldest has waited 3h",
        ),
        (
            OFF,
            Prospect(bulk_messages=1, bulk_oldest=NOON),
            past(),
            "2026-01-06 12:00",
            "bulk_max_age: bulk mail has waited 1d",
        ),
        (
            replace(OFF, queued_messages=1),
            WAITING,
            past(ended(Outcome.COMPLETE, at=NOON - MINUTE)),
            "2026-01-05 12:09",
            "queued_messages: 3 messages wait; min_gap after the last call until 12:09",
        ),
        (
            replace(OFF, queued_messages=1, windows=(IN_WINDOW,)),
            WAITING,
            past(),
            "2026-01-05 13:00",
            "queued_messages: 3 messages wait; windows: the next opens mon 13:00",
        ),
        (
            replace(OFF, queued_messages=1, windows=(Window(frozenset(), time(1), time(2)),)),
            WAITING,
            past(),
            None,
            "queued_messages: 3 messages wait; windows: none ever opens",
        ),
        (
            Schedule(),
            URGENT,
            past(BUSY),
            "2026-01-05 12:00:30",
            "urgent: 1 urgent message waits; retry after 1 failed call: not before 12:00:30",
        ),
        (
            OFF,
            WAITING,
            past(BUSY, BUSY),
            "2026-01-05 12:04:30",
            "a failed call is made again; retry after 2 failed calls: not before 12:04:30",
        ),
        # the earliest counts, whatever its place in the order
        (replace(OFF, at=(time(18),), every_s=6 * HOUR), Prospect(), past(), "2026-01-05 13:00", "every 6h"),
        # a window that opens when the gap is long over
        (
            replace(OFF, at=(time(12, 30),), windows=(IN_WINDOW,)),
            Prospect(),
            past(),
            "2026-01-05 13:00",
            "at 12:30; windows: the next opens mon 13:00",
        ),
    ],
)
def test_next_call(schedule: Schedule, prospect: Prospect, summary: Summary, at: str | None, words: str) -> None:
    decision = decide(settings(schedule), prospect, summary, times())
    assert decision.reason is None
    assert decision.next.at == (None if at is None else pytest.approx(utc(at), abs=0.001))
    assert decision.next.reason == words


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ((), "no line is configured"),
        (
            (WayOut("sat", ("1",), unusable="bearer ppp is not built yet"),),
            "no line can be used: sat: bearer ppp is not built yet",
        ),
        ((WayOut("pstn", ()),), "no line can be used: pstn: no numbers"),
    ],
)
def test_no_way_out(ways: tuple[WayOut, ...], words: str) -> None:
    nowhere = replace(settings(Schedule(every_s=1.0)), ways=ways)
    decision = decide(nowhere, URGENT, past(), times(), BY_HAND)
    assert decision == Decision(None, decision.next, refused=words)
    assert (decision.next.at, decision.next.reason) == (None, words)
    assert decide(nowhere, URGENT, past(), times()).refused == ""


@pytest.mark.parametrize(
    ("now", "started", "summary", "reason"),
    [
        # fell while nothing ran: not made up
        ("2026-01-05 08:00", "2026-01-05 07:45", past(), None),
        ("2026-01-05 08:00", "2026-01-05 07:29", past(), Reason.AT),
        # a call that is over and complete has served it, a partial one that was good for something too
        (
            "2026-01-05 08:00",
            "2026-01-05 07:00",
            past(ended(Outcome.COMPLETE, Reason.BY_HAND, at=utc("2026-01-05 07:31"), length=120)),
            None,
        ),
        (
            "2026-01-05 08:00",
            "2026-01-05 07:00",
            past(ended(Outcome.PARTIAL, at=utc("2026-01-05 07:32"))),
            Reason.RETRY,
        ),
        # one that failed has not, wherever it began, by hand or not
        (
            "2026-01-05 08:00",
            "2026-01-05 07:00",
            past(ended(Outcome.CARRIER_LOST, at=utc("2026-01-05 07:31"), length=120)),
            Reason.AT,
        ),
        (
            "2026-01-05 08:00",
            "2026-01-05 07:00",
            past(ended(Outcome.PARTIAL, at=utc("2026-01-05 07:32"), sent=0)),
            Reason.AT,
        ),
        (
            "2026-01-05 08:00",
            "2026-01-05 07:00",
            past(ended(Outcome.BUSY, Reason.BY_HAND, at=utc("2026-01-05 07:32"), up=False)),
            Reason.AT,
        ),
        # the call set the clock back behind its own time
        (
            "2026-01-05 07:29",
            "2026-01-05 07:00",
            past(ended(Outcome.COMPLETE, Reason.AT, at=utc("2026-01-05 07:28"), due=utc("2026-01-05 07:30"))),
            None,
        ),
        (
            "2026-01-05 07:31",
            "2026-01-05 07:00",
            past(ended(Outcome.COMPLETE, Reason.AT, at=utc("2026-01-05 07:28"), due=utc("2026-01-05 07:30"))),
            None,
        ),
        # but a call of next year, from a wrong clock, serves nothing
        (
            "2026-01-05 07:31",
            "2026-01-05 07:00",
            past(ended(Outcome.COMPLETE, Reason.AT, at=utc("2026-01-05 07:28"), due=utc("2027-01-05 07:30"))),
            Reason.AT,
        ),
    ],
)
def test_at_that_was_missed(now: str, started: str, summary: Summary, reason: Reason | None) -> None:
    schedule = replace(OFF, at=(time(7, 30),), min_gap_s=0.0)
    decision = decide(settings(schedule), WAITING, summary, times(utc(now), started=utc(started)))
    assert decision.reason == reason, decision


def test_at_held_by_something_is_made_when_it_is_over() -> None:
    schedule = replace(OFF, at=(time(11, 55),), min_gap_s=10 * MINUTE)
    complete = past(ended(Outcome.COMPLETE, at=utc("2026-01-05 11:54")))
    held = decide(settings(schedule), Prospect(), complete, times())
    assert held.reason is None
    assert held.next.at == pytest.approx(utc("2026-01-05 12:04"))
    then = decide(settings(schedule), Prospect(), complete, times(utc("2026-01-05 12:04")))
    assert then.reason is Reason.AT
    assert then.due == utc("2026-01-05 11:55")


def test_untrusted_clock_ignores_at_and_windows() -> None:
    schedule = Schedule(urgent=False, at=(time(12),), windows=(IN_WINDOW,), queued_messages=3)
    assert decide(settings(schedule), Prospect(), past(), times(trusted=False)).next.reason == "nothing waits"
    assert decide(settings(schedule), WAITING, past(), times(trusted=False)).reason is Reason.QUEUED_MESSAGES


def test_local_time_is_the_sites() -> None:
    decision = decide(settings(replace(OFF, at=(time(7, 30),)), zone="Asia/Tokyo"), Prospect(), past(), times())
    assert decision.next.at == utc("2026-01-05 22:30")
    assert decision.next.reason == "at 07:30"


@pytest.mark.parametrize(
    ("ladder", "calls", "wait"),
    [
        ((60.0, 300.0), [], 0),
        ((60.0, 300.0), [BUSY], 60),
        ((60.0, 300.0), [BUSY, BUSY], 300),
        ((60.0, 300.0), [BUSY] * 5, 300),
        ((60.0, 300.0), [BUSY, ended(Outcome.COMPLETE)], 0),
        ((60.0, 300.0), [BUSY, ended(Outcome.COMPLETE), BUSY], 60),
        ((60.0, 300.0), [ended(Outcome.CARRIER_LOST, sent=1)], 60),
        ((60.0, 300.0), [ended(Outcome.CARRIER_LOST, sent=0)], 120),  # billed for nothing
        ((60.0, 300.0), [BUSY, ended(Outcome.PARTIAL, sent=0)], 600),
        ((60.0, 300.0), [ended(Outcome.PARTIAL, sent=0), BUSY], 300),
        ((), [BUSY], 600),
    ],
)
def test_retry_ladder(ladder: tuple[float, ...], calls: list[Entry], wait: float) -> None:
    assert retry_wait_s(replace(OFF, retry_s=ladder), past(*calls)) == wait


def test_empty_ladder_without_min_gap_does_not_dial_in_a_loop() -> None:
    assert retry_wait_s(replace(OFF, retry_s=(), min_gap_s=0.0), past(BUSY)) == MINUTE


@pytest.mark.parametrize(
    ("country", "dials", "wait"),
    [
        ("", [0, 1, 2, 3, 4], 0),
        ("jp", [], 0),
        ("jp", [0, 10], 0),
        ("jp", [0, 10, 20], 182 - 30),
        ("jp", [-160, 10, 20], 0),
        ("jp", [-151, 10, 20], 1),
        ("jp", [0, 10, -20, 20, 25], 182 - 10),  # any three, not only those from a row's first
    ],
)
def test_redial_rules_bind_by_hand_and_urgent(country: str, dials: list[float], wait: float) -> None:
    # dials at so many seconds before 12:00:00 less 30; all without an answer
    made = tuple(Dial("0570000111", mark(NOON - 30 + s), "busy") for s in sorted(dials))
    summary = replace(past(), dials=made)
    way = WayOut("pstn", ("0570000111",), country)
    by_hand = decide(settings(Schedule(), way), URGENT, summary, times(), BY_HAND)
    alone = decide(settings(Schedule(), way), URGENT, summary, times())
    if not wait:
        assert by_hand.reason is alone.reason is Reason.URGENT
        return
    assert by_hand.reason is alone.reason is None
    assert by_hand.next.at == alone.next.at == pytest.approx(NOON + wait)
    assert "redial rules: country jp allows two redials within three minutes" in by_hand.refused
    assert alone.refused == ""


def test_a_number_that_the_modem_refuses_is_held_for_automatic_calls_alone() -> None:
    summary = replace(past(), dials=(Dial("1", mark(NOON - 60), "blacklisted"),))
    one = WayOut("pstn", ("1",))
    held = decide(settings(Schedule(), one), URGENT, summary, times())
    assert (held.reason, held.next.at) == (None, pytest.approx(NOON + HOUR - 60))
    assert "the modem itself refuses it (blacklisted); 1 again at" in held.next.reason
    assert decide(settings(OFF, one), WAITING, summary, times(), BY_HAND).reason is Reason.BY_HAND
    assert decide(settings(Schedule(), WayOut("pstn", ("1", "2"))), URGENT, summary, times()).reason is Reason.URGENT


def test_redial_rules_are_per_number_and_a_connected_call_is_no_redial() -> None:
    busy = tuple(Dial("1", mark(NOON - s), "busy") for s in (3, 2, 1))
    two = WayOut("pstn", ("1", "2"), "jp")
    one = WayOut("pstn", ("1",), "jp")
    summary = replace(past(), dials=busy)
    assert decide(settings(OFF, one), WAITING, summary, times(), BY_HAND).reason is None
    assert decide(settings(OFF, two), WAITING, summary, times(), BY_HAND).reason is Reason.BY_HAND
    spare = WayOut("gsm", ("1",))
    assert decide(settings(OFF, one, spare), WAITING, summary, times(), BY_HAND).reason is Reason.BY_HAND
    connected = replace(past(), dials=(*busy, Dial("1", mark(NOON - 0.5), "connected")))
    assert decide(settings(OFF, one), WAITING, connected, times(), BY_HAND).reason is Reason.BY_HAND


@pytest.mark.parametrize("schedule", [Schedule(queued_messages=1), Schedule(), Schedule(every_s=HOUR)])
def test_a_refused_login_stops_automatic_calls(schedule: Schedule) -> None:
    """Until somebody calls by hand, whatever comes of that but another refusal; or the line logs in with another."""
    way, changed = replace(PSTN, identity="1a2b"), replace(PSTN, identity="3c4d")
    refused = replace(ended(Outcome.LOGIN_REFUSED, sent=0, at=NOON - 2 * DAY), identity="1a2b")

    def planned(summary: Summary, by: WayOut = way) -> Decision:
        return decide(settings(schedule, by), URGENT, summary, times())

    assert planned(past()).reason is not None
    stopped = planned(past(refused))
    assert (stopped.reason, stopped.next.at) == (None, None)
    assert "the provider refused the login" in stopped.next.reason
    assert decide(settings(schedule, way), URGENT, past(refused), times(), BY_HAND).reason is Reason.BY_HAND
    assert planned(past(refused), changed).reason is not None
    for outcome in Outcome:
        by_hand = replace(ended(outcome, Reason.BY_HAND, at=NOON - DAY, sent=0), identity="1a2b")
        again = planned(past(refused, by_hand))
        assert (again.next.at is None) == (outcome is Outcome.LOGIN_REFUSED), outcome


def test_intervals_are_the_boot_clocks() -> None:
    clock = FakeClock(NOON)
    schedule = replace(OFF, every_s=HOUR)
    complete = Entry(1, "pstn", Reason.EVERY, clock.now(), ended=clock.now(), outcome=Outcome.COMPLETE)
    clock.set_wall(utc("2031-01-01 00:00"))
    clock.advance(10 * MINUTE)
    at = Times(now=clock.now(), started=clock.now())
    assert decide(settings(schedule), Prospect(), past(complete), at).next.at == utc("2031-01-01 01:00")
    clock.set_wall(utc("1999-01-01 00:00"))
    at = Times(now=clock.now(), started=clock.now())
    assert decide(settings(schedule), Prospect(), past(complete), at).next.at == utc("1999-01-01 00:50")
    # another boot, and a clock that began again in the past: at least this boot's time has passed
    clock.reboot()
    clock.advance(2 * HOUR)
    clock.set_wall(utc("1999-01-01 00:00"))
    at = Times(now=clock.now(), started=clock.now())
    assert decide(settings(schedule), Prospect(), past(complete), at).reason is Reason.EVERY


def test_message_of_a_wrong_clock_does_not_wait_for_ever() -> None:
    schedule = replace(OFF, oldest_message_s=HOUR)
    ahead = Prospect(messages=1, bytes=1, oldest=NOON + 400 * DAY)
    assert decide(settings(schedule), ahead, past(), times()).reason is Reason.OLDEST_MESSAGE
    a_little = Prospect(messages=1, bytes=1, oldest=NOON + 1)
    assert decide(settings(schedule), a_little, past(), times()).next.at == NOON + HOUR + 1


# ---- in every situation
maybe = st.none()
seconds = st.floats(0.0, 3 * DAY)
schedules = st.builds(
    Schedule,
    urgent=st.booleans(),
    connection_request=st.booleans(),
    at=st.lists(st.builds(time, st.integers(0, 23), st.integers(0, 59)), max_size=3).map(tuple),
    every_s=maybe | st.floats(60.0, DAY),
    queued_messages=st.integers(0, 4),
    queued_size_bytes=maybe | st.integers(1, 5000),
    oldest_message_s=maybe | st.floats(1.0, 2 * DAY),
    windows=st.lists(
        st.builds(
            Window,
            st.frozensets(st.integers(0, 6)),
            st.builds(time, st.integers(0, 23)),
            st.builds(time, st.integers(0, 23)),
        ),
        max_size=2,
    ).map(tuple),
    min_gap_s=st.floats(0.0, HOUR),
    retry_s=st.lists(st.floats(1.0, HOUR), max_size=3).map(tuple),
)
prospects = st.builds(
    Prospect,
    messages=st.integers(1, 5),
    bytes=st.integers(0, 9000),
    oldest=seconds.map(lambda s: NOON - s),
    urgent=st.integers(0, 2),
    bulk_messages=st.integers(0, 1),
    bulk_oldest=maybe | seconds.map(lambda s: NOON - s),
) | st.just(Prospect())
calls = st.lists(
    st.tuples(st.sampled_from(Outcome), st.sampled_from(Reason), st.booleans(), st.floats(1.0, 2 * DAY)), max_size=4
)
dials = st.lists(st.tuples(st.sampled_from(["1", "2"]), st.floats(0.0, 300.0)), max_size=8)
countries = st.sampled_from(["", "jp"])


def situation(history: list[tuple[Outcome, Reason, bool, float]], made: list[tuple[str, float]]) -> Summary:
    history = sorted(history, key=lambda h: -h[3])
    summary = past(*(ended(o, r, at=NOON - s, up=up) for o, r, up, s in history))
    in_order = sorted(made, key=lambda d: -d[1])
    return replace(summary, dials=tuple(Dial(n, mark(NOON - s), "busy") for n, s in in_order))


@given(schedules, prospects, calls, dials, countries, st.booleans(), st.sampled_from(["UTC", "Europe/Berlin"]))
def test_at_the_next_calls_time_there_is_a_call_and_not_before(
    schedule: Schedule,
    prospect: Prospect,
    history: list[tuple[Outcome, Reason, bool, float]],
    made: list[tuple[str, float]],
    country: str,
    trusted: bool,
    zone: str,
) -> None:
    here = settings(schedule, WayOut("pstn", ("1", "2"), country), zone=zone)
    summary = situation(history, made)
    decision = decide(here, prospect, summary, times(trusted=trusted))
    assert decision.next.reason
    if decision.next.at is None:
        assert decision.reason is None
        for later in (MINUTE, HOUR, DAY, 9 * DAY):
            assert decide(here, prospect, summary, times(NOON + later, trusted=trusted)).reason is None
        return
    assert decision.next.at >= NOON
    assert (decision.reason is not None) == (decision.next.at == NOON)
    then = decide(here, prospect, summary, times(decision.next.at, trusted=trusted))
    assert then.reason is not None
    if decision.reason is None:
        part = (decision.next.at - NOON) / 2
        if part > 0.01:
            between = decide(here, prospect, summary, times(NOON + part, trusted=trusted))
            assert between.reason is None
            assert between.next.at == pytest.approx(decision.next.at, abs=0.01)


@given(schedules, prospects, calls, dials, countries)
def test_a_call_has_a_condition_and_by_hand_is_refused_by_redial_rules_alone(
    schedule: Schedule,
    prospect: Prospect,
    history: list[tuple[Outcome, Reason, bool, float]],
    made: list[tuple[str, float]],
    country: str,
) -> None:
    here = settings(schedule, WayOut("pstn", ("1", "2"), country))
    summary = situation(history, made)
    by_hand = decide(here, prospect, summary, times(), BY_HAND)
    assert (by_hand.reason is None) == bool(by_hand.refused)
    if not country:
        assert by_hand.reason is not None
    alone = decide(here, prospect, summary, times())
    assert alone.reason is not Reason.BY_HAND
    quiet = Schedule(urgent=False, retry_s=())
    if prospect.bulk_oldest is None:
        assert decide(replace(here, schedule=quiet), prospect, summary, times(NOON + 9 * DAY)).reason is None
