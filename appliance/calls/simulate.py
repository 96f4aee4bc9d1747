"""Traffic replayed against a schedule, tariffs and a budget (`posthouse simulate`): the policy, budget and meter
that the appliance has, over a line that is a rate and an overhead. Pure.

Theory of operation. Time goes from one moment at which the policy could say something else to the next: a message that
is submitted, the next call's time, the moment to look again. What waits upstream changes nothing: nobody knows of it
before a call. Where the policy says 'call', the call is reckoned: it connects after `DIAL_S`, its overhead passes, then
both directions move side by side at the line's rate, urgent mail first and small before large; what is submitted
meanwhile joins. It ends after `linger`, at `max_call` or where its money ends; what did not fit waits for the next one.
Bulk mail goes as in a call: in any on a line that is free, else in the rest of a started unit, or when it is too old.

Every dial is answered. What lines, providers and modems do to calls is not simulated.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from appliance.call import Outcome, Prospect, Reason, Tally
from appliance.calls.entry import Entry, Summary
from appliance.calls.exchange import FILL_LEAST_S
from appliance.calls.meter import A_MOMENT_S, Meter, Metering
from appliance.calls.policy import Times, decide, estimates, purse
from appliance.calls.tariff import Billed, price
from appliance.clock import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.calls.policy import Settings
    from appliance.calls.traffic import Message
    from appliance.config.model import Tariff

__all__ = ["Carrier", "Result", "Waits", "one_call_each", "simulate"]

DIAL_S: Final = 15.0
"""From ATD to CONNECT, unpaid."""
AFTER_S: Final = 62 * 86400.0
"""So long after the last message what is left may still be carried: a budget may say 'next month'."""
AGE_SLACK_S: Final = 1.0
"""A call that is made for a message's age finds it old enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """The line and the mail's rules: `rate` in bit/s, of which ten carry a byte; `overhead_s` from CONNECT until mail
    moves and behind its end."""

    rate: int
    overhead_s: float
    bulk_size_bytes: int
    bulk_max_age_s: float

    def is_bulk(self, message: Message) -> bool:
        if message.priority == "urgent" or message.incoming:
            return False
        return message.size > self.bulk_size_bytes or message.priority == "non-urgent"

    @property
    def bytes_s(self) -> float:
        return self.rate / 10


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from a message's time until it has been carried."""

    messages: int
    mean: float
    most: float
    """95 of 100 wait no longer."""
    longest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Waits:
        s = sorted(seconds)
        if not s:
            return cls(0, 0.0, 0.0, 0.0)
        return cls(len(s), sum(s) / len(s), s[math.ceil(len(s) * 0.95) - 1], s[-1])


@dataclass(slots=True)
class Result:
    """`seconds` on the line; `left`: messages that no call has carried, those that are too large for any among them;
    `reasons`: of the calls, how many; `waits` by urgent, out, in."""

    calls: int = 0
    seconds: float = 0.0
    cost: Decimal = Decimal(0)
    currency: str = ""
    left: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    waits: dict[str, Waits] = field(default_factory=dict)


class _Site:
    """What waits, and what was carried. `normal` in the order of its going, `bulk` and `upstream` as it came."""

    def __init__(self, traffic: Sequence[Message], carrier: Carrier) -> None:
        self.carrier = carrier
        self.normal: list[Message] = []
        self.bulk: list[Message] = []
        self.upstream: deque[Message] = deque()
        self.waited: dict[str, list[float]] = {"urgent": [], "out": [], "in": []}
        self.bytes = 0
        self._outgoing = deque(m for m in traffic if not m.incoming)
        self._incoming = deque(m for m in traffic if m.incoming)

    @property
    def next_out(self) -> float | None:
        """When the next message is submitted."""
        return self._outgoing[0].at if self._outgoing else None

    @property
    def to_come(self) -> int:
        return len(self._outgoing) + len(self._incoming)

    @property
    def waiting(self) -> int:
        return len(self.normal) + len(self.bulk) + len(self.upstream)

    def advance(self, now: float) -> bool:
        """Takes in what has come by then; whether anything has been submitted."""
        before = len(self._outgoing)
        while self._outgoing and self._outgoing[0].at <= now:
            message = self._outgoing.popleft()
            if self.carrier.is_bulk(message):
                self.bulk.append(message)
            else:
                self.normal.append(message)
                self.bytes += message.size
        while self._incoming and self._incoming[0].at <= now:
            self.upstream.append(self._incoming.popleft())
        return len(self._outgoing) < before

    def prospect(self) -> Prospect:
        return Prospect(
            messages=len(self.normal),
            bytes=self.bytes,
            oldest=self.normal[0].at if self.normal else None,
            urgent=sum(m.priority == "urgent" for m in self.normal),
            bulk_messages=len(self.bulk),
            bulk_bytes=sum(m.size for m in self.bulk),
            bulk_oldest=self.bulk[0].at if self.bulk else None,
        )

    def carried(self, message: Message, at: float) -> None:
        kind = "in" if message.incoming else "urgent" if message.priority == "urgent" else "out"
        self.waited[kind].append(at - message.at)


def simulate(settings: Settings, carrier: Carrier, traffic: Sequence[Message]) -> Result:
    """What calls the policy makes for this traffic, what they cost, and how long the mail waits."""
    most = (settings.schedule.max_call_s - carrier.overhead_s) * carrier.bytes_s  # DESIGN §2: refused at submission
    site, past, result = _Site([m for m in traffic if m.size <= most], carrier), Summary(), Result()
    too_large = len(traffic) - site.to_come
    now = started = traffic[0].at
    last = traffic[-1].at + AFTER_S
    while now <= last:
        site.advance(now)
        if not site.to_come and not site.waiting:
            break
        times = Times(now=_mark(now, started), started=_mark(started, started))
        decision = decide(settings, site.prospect(), past, times)
        if decision.reason is not None:
            entry = _call(settings, site, past, times, decision.reason, decision.due)
            past = past.after(entry)
            assert entry.ended is not None
            now = entry.ended.wall
            result.calls += 1
            result.seconds += entry.duration_s
            result.cost += entry.charge.cost
            result.currency = entry.charge.currency or result.currency
            result.reasons[entry.reason.value] = result.reasons.get(entry.reason.value, 0) + 1
            continue
        moments = [m for m in (decision.next.at, decision.look, site.next_out) if m is not None]
        if not moments:
            break
        now = max(min(moments), now + A_MOMENT_S)
    result.left = site.waiting + site.to_come + too_large
    result.waits = {kind: Waits.of(seconds) for kind, seconds in site.waited.items()}
    return result


def one_call_each(tariff: Tariff | None, settings: Settings, carrier: Carrier, traffic: Sequence[Message]) -> Result:
    """A call for each message, at once."""
    result = Result(calls=len(traffic), currency=tariff.currency if tariff is not None else "")
    waited: dict[str, list[float]] = {"urgent": [], "out": [], "in": []}
    for message in traffic:
        seconds = carrier.overhead_s + message.size / carrier.bytes_s
        result.seconds += seconds
        if tariff is not None:
            result.cost += price(Billed(tariff, settings.zone), message.at + DIAL_S, seconds, message.size).cost
        kind = "in" if message.incoming else "urgent" if message.priority == "urgent" else "out"
        waited[kind].append(DIAL_S + seconds)
    result.waits = {kind: Waits.of(seconds) for kind, seconds in waited.items()}
    return result


def _mark(wall: float, start: float) -> Mark:
    return Mark(wall, wall - start, "simulated")


def _call(settings: Settings, site: _Site, past: Summary, times: Times, reason: Reason, due: float | None) -> Entry:
    """One call, from its decision until it is on-hook."""
    start, now = times.started.wall, times.now
    money = purse(settings, past, times)
    metering = Metering(
        billed={w.name: money.billed(w.tariff, now.wall) for w in settings.ways if w.tariff is not None},
        estimates=estimates(settings, site.prospect(), past),
        left=money.left(now.wall, reserve=reason is Reason.URGENT),
    )
    tally = Tally()
    meter = Meter(metering, lambda: tally.bytes_in + tally.bytes_out)
    way = next((w for w in settings.ways if not w.unusable and not meter.refuses(w.name, now)), settings.ways[0])
    _, reserved = meter.before_dial(way.name, now)
    connect = _mark(now.wall + DIAL_S, start)
    meter.connected(connect)
    limit_s = min(settings.schedule.max_call_s, meter.lasts_s(connect))
    end_s, cut = _exchange(site, meter, tally, connect, start, limit_s, linger_s=settings.schedule.linger_s)
    ended = _mark(connect.wall + end_s, start)
    return Entry(
        1, way.name, reason, now, due=due, connected=connect, rate=site.carrier.rate, ended=ended, tally=tally,
        outcome=Outcome.MAX_CALL if cut else Outcome.COMPLETE, charge=meter.so_far(ended), reserved=reserved,
    )  # fmt: skip


def _exchange(
    site: _Site, meter: Meter, tally: Tally, connect: Mark, start: float, limit_s: float, *, linger_s: float
) -> tuple[float, bool]:
    """Carries what there is; -> the call's length, and whether something had to stay for want of time."""
    carrier, now = site.carrier, connect.wall
    site.advance(now)
    out_s = in_s = carrier.overhead_s
    cut = False
    while True:
        _ripen(site, now + max(out_s, in_s), all_of_it=not meter.by_time())
        out_s, cut_out = _send(site, tally, now, out_s, limit_s)
        in_s, cut_in = _fetch(site, tally, now, in_s, limit_s)
        cut = cut or cut_out or cut_in
        busy_s = max(out_s, in_s)
        if cut or not site.advance(now + busy_s):
            break
    busy_s = min(busy_s, limit_s)
    paid_s = meter.paid_s(_mark(now + busy_s, start)) or 0.0
    if not cut and paid_s >= FILL_LEAST_S:
        busy_s = _fill(site, tally, now, busy_s, paid_s)
    lingers = meter.linger_s(linger_s, _mark(now + busy_s, start))
    return (limit_s if cut else min(busy_s + lingers, limit_s)), cut


def _ripen(site: _Site, at: float, *, all_of_it: bool) -> None:
    """Bulk mail that goes like any other: all of it where the line is free, else what is too old."""
    young: list[Message] = []
    for message in site.bulk:
        if all_of_it or at - message.at >= site.carrier.bulk_max_age_s - AGE_SLACK_S:
            site.normal.append(message)
            site.bytes += message.size
        else:
            young.append(message)
    site.bulk = young


def _send(site: _Site, tally: Tally, connect: float, at_s: float, limit_s: float) -> tuple[float, bool]:
    stays = []
    for message in sorted(site.normal, key=lambda m: (m.priority != "urgent", m.size)):
        after_s = at_s + message.size / site.carrier.bytes_s
        if after_s > limit_s:
            stays.append(message)
            continue
        at_s = after_s
        tally.sent += 1
        tally.bytes_out += message.size
        site.bytes -= message.size
        site.carried(message, connect + at_s)
    site.normal = sorted(stays, key=lambda m: m.at)
    return at_s, bool(stays)


def _fetch(site: _Site, tally: Tally, connect: float, at_s: float, limit_s: float) -> tuple[float, bool]:
    while site.upstream:
        after_s = at_s + site.upstream[0].size / site.carrier.bytes_s
        if after_s > limit_s:
            return at_s, True
        at_s = after_s
        message = site.upstream.popleft()
        tally.fetched += 1
        tally.bytes_in += message.size
        site.carried(message, connect + at_s)
    return at_s, False


def _fill(site: _Site, tally: Tally, connect: float, at_s: float, paid_s: float) -> float:
    """Bulk mail that fits into what is paid."""
    until_s, stays = at_s + paid_s, []
    if not site.bulk:
        return at_s
    for message in site.bulk:
        after_s = at_s + message.size / site.carrier.bytes_s
        if after_s > until_s:
            stays.append(message)
            continue
        at_s = after_s
        tally.sent += 1
        tally.bytes_out += message.size
        site.carried(message, connect + at_s)
    site.bulk = stays
    return at_s
