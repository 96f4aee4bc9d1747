"""When to call: a pure function of the configuration, what waits, the past, the time and what was asked for.
The same function answers 'when is the next call?' everywhere.

Theory of operation. `decide` looks at two things.

- Causes: what wants a call, each with the moment from which it does, in the order of DESIGN §5 `[schedule]`.
- Holds: what forbids one until a moment. Which cause passes which hold:

| cause | from when | retry | min_gap | windows | redial rules | budget |
|---|---|---|---|---|---|---|
| urgent | now, while urgent mail waits | held | passes | passes | held | with the reserve |
| connection-request, wake | now, while one is asked for | held | passes | held | held | held |
| at | a local time that no call has served | held | held | held | held | held |
| every | that long after the last call that served it, or the start of `run` | held | held | held | held | held |
| queued-messages, queued-size | now, once so much waits | held | held | held | held | held |
| oldest-message | that long after its reception | held | held | held | held | held |
| bulk | `mail.bulk_max_age` after its reception | held | held | held | held | held |
| retry | now, while a failed automatic call's purpose is unmet, see below | held | held | held | held | held |
| by-hand | when somebody asks | passes | passes | passes | held | with the reserve; `force` passes |

A cause's call is made at the first moment when it is due and nothing holds it. Of those that are so now the
first in the table is the call's reason; where none is, the earliest of all is the next call.

- retry: `retry_s` after the end of the last call while that one, by hand or not, was not complete; the ladder
  goes up with each such automatic call in a row. An automatic call that was connected and moved nothing was billed
  for nothing: its wait is doubled. A call by hand puts nobody further than the first step.
- A partial call that moved something, or one of whose jobs was done, has served `at` and `every`: one account that
  is out of order makes no calls. One that did not is made again as often as the ladder has steps; then `at` and
  `every` wait for their next occurrence.
- min_gap counts from the last automatic call that met its purpose; after a failed one it is `retry` that says when.
- A call that `posthouse hangup` ended has served `at`, `every` and retry, and is no failure; every automatic call
  then waits for `min_gap` or the ladder's first step, whichever is longer.
- Messages that a server has deferred cause no call until `Prospect.deferred_until`: nothing is planned for them, but
  that is a moment to look again (`Decision.look`).
- A call whose login was refused is the last automatic one until somebody calls by hand or the line logs in with
  something else: a provider locks an account that keeps trying.
- A line whose SIM has refused its PIN is no way out at all, also by hand, until it has another PIN.
- A number that the modem itself refused (DELAYED, BLACKLISTED) is held a while, for automatic calls alone.
- An `at` that fell while no Posthouse ran is not made up; one that something held is called as soon as it may.
- While the clock is untrusted, `at` and `windows` are ignored, and the dearest price is assumed (DESIGN §2).
- The budget holds a call until one of the lines is affordable (`budget`); which one is dialled is the cycle's. For a
  connection request it must last for a circuit.

The wall clock may jump. Every past moment is a `Mark`, and is first put on today's wall clock: now less the
seconds since, which the boot clock counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from appliance.call import NextCall, Prospect, Reason
from appliance.calls import recurrence, redial
from appliance.calls.budget import NO_BUDGET, Estimate, Purse, estimate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from appliance.calls.entry import Summary
    from appliance.clock import Mark
    from appliance.config.model import Budget, Schedule, Tariff

__all__ = [
    "PIN_REFUSED", "Decision", "Requests", "Settings", "Times", "WayOut", "affordable", "decide", "estimates", "purse",
    "retry_wait_s",
]  # fmt: skip

TOLERANCE_S: Final = 0.001
"""What is due within this is due now: moments are sums of floats."""
RETRY_FLOOR_S: Final = 60.0
"""With an empty `retry` a failed call still holds the next one so long: a busy number is not dialled in a loop."""
PIN_REFUSED: Final = "its SIM has refused the PIN: put another into secrets.toml"
BUDGET_AHEAD_S: Final = 70 * 86400.0
"""A call that neither this month's nor the next one's money makes is never made."""
CLOCK_SLACK_S: Final = 3600.0
"""A message or an `at` further in the future than this is of a wrong clock: ordinary corrections are smaller."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """A `[[line]]` as the policy sees it. `unusable`: why it can't be dialled at all, "" when it can. A line that is up
    by itself `dials_numbers` not. `identity`: of what it logs in with; `pin`: of its SIM's PIN, "" for none. Without a
    `tariff` it is free."""

    name: str
    numbers: tuple[str, ...]
    country: str = ""
    unusable: str = ""
    dials_numbers: bool = True
    identity: str = ""
    pin: str = ""
    tariff: Tariff | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The slice of the configuration that decides."""

    schedule: Schedule
    ways: tuple[WayOut, ...]
    zone: ZoneInfo
    bulk_max_age_s: float
    budget: Budget = NO_BUDGET


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """`now`, when `run` `started`, and whether the wall clock is `trusted`."""

    now: Mark
    started: Mark
    trusted: bool = True

    def wall_of(self, mark: Mark) -> float:
        """A past moment on today's wall clock."""
        return self.now.wall - mark.seconds_until(self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What was asked for. `force`: the call by hand passes the budget. `connection_at`: from when a
    connection request wants its call (wall-clock Unix seconds), None: at once."""

    by_hand: bool = False
    force: bool = False
    connection_request: bool = False
    connection_at: float | None = None
    wake: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason`: call now, for this; None: not now. `next` is the next call (now, where there is a reason), or
    why there is none. `cause`: the next call's reason-to-be. `due`: the occurrence of `at` that a call made
    now serves. `refused`: why a call asked for by hand is not made ("" when none was asked for or it is made).
    `look`: when what waits is another (Unix seconds): look again then at the latest."""

    reason: Reason | None
    next: NextCall
    cause: Reason | None = None
    due: float | None = None
    refused: str = ""
    look: float | None = None


@dataclass(frozen=True, slots=True)
class _Cause:
    reason: Reason
    due: float
    text: str


@dataclass(frozen=True, slots=True)
class _Hold:
    until: float
    text: str


def decide(
    settings: Settings, prospect: Prospect, past: Summary, times: Times, requests: Requests = Requests()
) -> Decision:
    """Whether to call now, and why; else when and why, or why not."""
    now = times.now.wall
    settings = _without_refused_pins(settings, past)
    blocked = _no_way_out(settings)
    if blocked:
        return Decision(None, NextCall(None, blocked), refused=blocked if requests.by_hand else "")
    rules = _redial_hold(settings, past, times, automatic=False)
    own_rules = _redial_hold(settings, past, times, automatic=True)
    best: tuple[float, _Cause, str] | None = None
    never = refused = ""
    money = _Money(settings, prospect, past, times)
    for cause in _causes(settings, prospect, past, times, requests):
        by_hand = cause.reason is Reason.BY_HAND
        forced = by_hand and requests.force
        at, text = _first_allowed(
            cause, rules if by_hand else own_rules, settings, past, times, None if forced else money
        )
        if by_hand and (at is None or at > now):
            refused = rules.text if rules else f"{text} (`posthouse dial --force` passes the budget)"
        if at is None:
            never = never or text
        elif best is None or at < best[0]:
            best = (at, cause, text)
            if at <= now:
                break
    deferred = _deferred(prospect, now, settings.zone)
    if best is None:
        text = "; ".join(t for t in (never or _nothing(prospect), deferred) if t)
        return Decision(None, NextCall(None, text), refused=refused, look=prospect.deferred_until)
    at, cause, text = best
    if at <= now:
        return Decision(
            cause.reason, NextCall(at, text), cause.reason, cause.due if cause.reason is Reason.AT else None
        )
    text = f"{text}; {deferred}" if deferred else text
    return Decision(None, NextCall(at, text), cause.reason, refused=refused, look=prospect.deferred_until)


def retry_wait_s(schedule: Schedule, past: Summary) -> float:
    """How long after the last call's end the failures in a row hold automatic calls; 0 when there were none."""
    if not past.failures:
        return 0.0
    ladder = _ladder(schedule)
    wait = ladder[min(past.failures, len(ladder)) - 1]
    return wait * 2 if past.fruitless else wait


def _ladder(schedule: Schedule) -> tuple[float, ...]:
    return schedule.retry_s or (max(RETRY_FLOOR_S, schedule.min_gap_s),)


def _causes(
    settings: Settings, prospect: Prospect, past: Summary, times: Times, requests: Requests
) -> Iterator[_Cause]:
    schedule, now = settings.schedule, times.now.wall
    if schedule.urgent and prospect.urgent:
        yield _Cause(Reason.URGENT, now, f"urgent: {_count(prospect.urgent, 'urgent message')}")
    if schedule.connection_request and requests.connection_request:
        text = "connection_request: a terminal asks for a connection"
        yield _Cause(Reason.CONNECTION_REQUEST, max(now, requests.connection_at or now), text)
    if requests.wake:
        yield _Cause(Reason.WAKE, now, "wake: a ring from a wake number")
    if schedule.at and times.trusted:
        yield from _at(settings, past, times)
    if schedule.every_s is not None:
        since = times.wall_of(past.every_from or times.started)
        yield _Cause(Reason.EVERY, since + schedule.every_s, f"every {_span(schedule.every_s)}")
    if schedule.queued_messages and prospect.messages >= schedule.queued_messages:
        yield _Cause(Reason.QUEUED_MESSAGES, now, f"queued_messages: {_count(prospect.messages, 'message')}")
    if schedule.queued_size_bytes is not None and prospect.messages and prospect.bytes >= schedule.queued_size_bytes:
        yield _Cause(Reason.QUEUED_SIZE, now, f"queued_size: {prospect.bytes} bytes wait")
    if schedule.oldest_message_s is not None and prospect.oldest is not None:
        due = _aged(prospect.oldest, schedule.oldest_message_s, now)
        text = f"oldest_message: the oldest has waited {_span(schedule.oldest_message_s)}"
        yield _Cause(Reason.OLDEST_MESSAGE, due, text)
    if prospect.bulk_oldest is not None:
        due = _aged(prospect.bulk_oldest, settings.bulk_max_age_s, now)
        yield _Cause(Reason.BULK, due, f"bulk_max_age: bulk mail has waited {_span(settings.bulk_max_age_s)}")
    queued = bool(prospect.messages or prospect.bulk_messages)
    if schedule.retry_s and past.wants_retry(queued=queued, steps=len(schedule.retry_s)):
        yield _Cause(Reason.RETRY, now, "a failed call is made again")
    if requests.by_hand:
        yield _Cause(Reason.BY_HAND, now, "by hand")


def _at(settings: Settings, past: Summary, times: Times) -> Iterator[_Cause]:
    """The occurrence that no call has served yet, or else the next one. One that fell before `run` started, or
    before the end of a call that served, or for which a call was made, is served."""
    schedule, now = settings.schedule, times.now.wall
    served = max(times.wall_of(m) for m in (times.started, past.served_end) if m is not None)
    if past.at_done is not None and past.at_done <= now + CLOCK_SLACK_S:
        served = max(served, past.at_done)  # a call that set the clock back does not meet its own time again
    last = recurrence.last_at(schedule.at, settings.zone, now)
    if last is not None and last > served:
        due: float | None = last
    else:
        due = recurrence.next_at(schedule.at, settings.zone, max(now, served))
    if due is not None:
        yield _Cause(Reason.AT, due, f"at {_clock_time(due, due, settings.zone)}")


def _first_allowed(
    cause: _Cause, rules: _Hold | None, settings: Settings, past: Summary, times: Times, money: _Money | None
) -> tuple[float | None, str]:
    """When this cause's call may be made, and in words why then; None where it never may, and why not. Without `money`
    the budget is passed."""
    now, schedule, zone = times.now.wall, settings.schedule, settings.zone
    holds: list[_Hold] = [rules] if rules else []
    automatic = cause.reason is not Reason.BY_HAND
    if automatic and any(way.identity == past.login_refused for way in settings.ways):
        return None, f"{cause.text}; the provider refused the login: mend it, or `posthouse dial`"
    if automatic and past.failures and past.last_end is not None:
        until = times.wall_of(past.last_end) + retry_wait_s(schedule, past)
        failed = _count(past.failures, "failed call", "")
        holds.append(_Hold(until, f"retry after {failed}: not before {_clock_time(until, now, zone)}"))
    if automatic and past.put_down is not None:
        until = times.wall_of(past.put_down) + max(schedule.min_gap_s, _ladder(schedule)[0])
        holds.append(_Hold(until, f"hung up by hand: not before {_clock_time(until, now, zone)}"))
    patient = automatic and cause.reason not in (Reason.URGENT, Reason.CONNECTION_REQUEST, Reason.WAKE)
    if patient and past.gap_from is not None:
        until = times.wall_of(past.gap_from) + schedule.min_gap_s
        holds.append(_Hold(until, f"min_gap after the last call until {_clock_time(until, now, zone)}"))
    at, text = max(cause.due, now), cause.text
    last = max(holds, key=lambda hold: hold.until, default=None)
    if last is not None and last.until > at + TOLERANCE_S:
        at, text = last.until, f"{cause.text}; {last.text}"
    windows = schedule.windows if automatic and cause.reason is not Reason.URGENT and times.trusted else ()
    reserve, circuit = cause.reason in (Reason.URGENT, Reason.BY_HAND), cause.reason is Reason.CONNECTION_REQUEST
    while True:  # until a moment at which a window is open and there is money
        if windows:
            opening = recurrence.next_open(windows, zone, at)
            if opening is None:
                return None, f"{cause.text}; windows: none ever opens"
            if opening > at:
                at, text = opening, f"{cause.text}; windows: the next opens {_day_time(opening, zone)}"
        enough, why = money.first_affordable(at, reserve=reserve, circuit=circuit) if money is not None else (at, "")
        if enough is None or enough > max(now, cause.due) + BUDGET_AHEAD_S:
            return None, f"{cause.text}; {why}"
        if enough <= at:
            break
        at, text = enough, f"{cause.text}; {why}; again {_clock_time(enough, now, zone)}"
    return (now if at <= now + TOLERANCE_S else at), text


class _Money:
    """What the budget allows, looked into only once a cause has come so far."""

    def __init__(self, settings: Settings, prospect: Prospect, past: Summary, times: Times) -> None:
        self._given = settings, prospect, past, times
        self._purse: Purse | None = None
        self._ways: list[tuple[Tariff | None, Estimate]] = []

    def first_affordable(self, at: float, *, reserve: bool, circuit: bool) -> tuple[float | None, str]:
        settings, prospect, past, times = self._given
        if settings.budget.per_day is None and settings.budget.per_month is None:
            return at, ""
        if self._purse is None:
            self._purse = purse(settings, past, times)
            expected = estimates(settings, prospect, past)
            self._ways = [(way.tariff, expected[way.name]) for way in settings.ways if not way.unusable]
        ways = [(tariff, what.with_circuit()) for tariff, what in self._ways] if circuit else self._ways
        return self._purse.first_affordable(ways, at, reserve=reserve)


def affordable(
    settings: Settings, prospect: Prospect, past: Summary, times: Times, *, circuit: bool = False
) -> tuple[float | None, str]:
    """When the budget allows a call that may not use the reserve, and, `circuit`, that lasts for one; as
    `Purse.first_affordable`."""
    return _Money(settings, prospect, past, times).first_affordable(times.now.wall, reserve=False, circuit=circuit)


def purse(settings: Settings, past: Summary, times: Times) -> Purse:
    """What the budget has left now, and the free minutes."""
    month_day = next((way.tariff.month_day for way in settings.ways if way.tariff is not None), 1)
    return Purse(settings.budget, past.spent, times.now, zone=settings.zone, month_day=month_day, trusted=times.trusted)


def estimates(settings: Settings, prospect: Prospect, past: Summary, *, circuit: bool = False) -> dict[str, Estimate]:
    """What a call over each of the lines will be like, by the line's name; `circuit`: one that is made for one."""
    longest = settings.schedule.max_call_s
    expected = {way.name: estimate(prospect, past.recent, way.name, max_call_s=longest) for way in settings.ways}
    return {name: what.with_circuit() for name, what in expected.items()} if circuit else expected


def _redial_hold(settings: Settings, past: Summary, times: Times, *, automatic: bool) -> _Hold | None:
    """Until when no number of any usable line may be dialled; None when one may. Numbers that the modem itself
    refused are held for automatic calls alone."""
    first: tuple[float, str, str] | None = None
    for way in settings.ways:
        if not way.unusable and not way.dials_numbers:
            return None
        for number in () if way.unusable else way.numbers:
            wait, rule = redial.wait_s(way.country, number, past.dials, times.now)
            if automatic:
                wait, rule = max((wait, rule), redial.modem_wait_s(number, past.dials, times.now))
            if not wait:
                return None
            if first is None or wait < first[0]:
                first = (wait, rule, number)
    if first is None:
        return None
    wait, rule, number = first
    until = times.now.wall + wait
    return _Hold(until, f"redial rules: {rule}; {number} again at {_clock_time(until, times.now.wall, settings.zone)}")


def _without_refused_pins(settings: Settings, past: Summary) -> Settings:
    ways = tuple(
        replace(way, unusable=PIN_REFUSED) if way.pin in past.pins_refused and not way.unusable else way
        for way in settings.ways
    )
    return replace(settings, ways=ways)


def _no_way_out(settings: Settings) -> str:
    if not settings.ways:
        return "no line is configured"
    reasons = [
        f"{way.name}: {way.unusable or 'no numbers'}"
        for way in settings.ways
        if way.unusable or (way.dials_numbers and not way.numbers)
    ]
    return f"no line can be used: {'; '.join(reasons)}" if len(reasons) == len(settings.ways) else ""


def _nothing(prospect: Prospect) -> str:
    waiting = prospect.messages + prospect.bulk_messages
    if waiting:
        return f"{_count(waiting, 'message')}; no condition in [schedule] holds"
    return "" if prospect.deferred else "nothing waits"


def _deferred(prospect: Prospect, now: float, zone: ZoneInfo) -> str:
    n, until = prospect.deferred, prospect.deferred_until
    if not n or until is None:
        return ""
    at = _clock_time(until, now, zone)
    if n == 1:
        return f"1 message was deferred by its server and counts again at {at}"
    return f"{n} messages were deferred by their servers and count again from {at}"


def _aged(then: float, age_s: float, now: float) -> float:
    return now if then > now + CLOCK_SLACK_S else then + age_s


def _count(n: int, what: str, verb: str = "wait") -> str:
    one = n == 1
    return f"{n} {what}{'' if one else 's'}" + (f" {verb}{'s' if one else ''}" if verb else "")


def _span(seconds: float) -> str:
    """A duration as the configuration writes it: the largest unit that divides it."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


def _clock_time(moment: float, now: float, zone: ZoneInfo) -> str:
    """Local time, with the day where it is another one than today."""
    local, today = datetime.fromtimestamp(moment, zone), datetime.fromtimestamp(now, zone).date()
    clock = f"{local:%H:%M}" if local.second == 0 else f"{local:%H:%M:%S}"
    return clock if local.date() == today else f"{local:%Y-%m-%d} {clock}"


def _day_time(moment: float, zone: ZoneInfo) -> str:
    local = datetime.fromtimestamp(moment, zone)
    return f"{local:%a %H:%M}".lower()
