"""What calls were good for and what they cost, by day, month and user (`posthouse report`). Pure: entries of the ledger
in, rows out.

Theory of operation. A call counts on the local day on which it connected. Its cost and its time are shared among the
users whose messages it carried, in proportion to their bytes; those of a call without a message are nobody's ("").
A call that never connected counts only by what its dials may have cost.

Beside what was paid stands what the same messages would have cost with a call for each: the line's least overhead, in
time and in bytes, and the message's own bytes at that call's rate, by the tariff of the line now, without free minutes.
A call per request would also look for mail where there is none; that is left out, so what is saved is rather more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from appliance.call import Share
from appliance.calls.budget import DEFAULT_BYTES_S, DEFAULT_OVERHEAD_S
from appliance.calls.tariff import Billed, price

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from appliance.calls.entry import Entry
    from appliance.config.model import Tariff

__all__ = ["report"]

CENT: Final = Decimal("0.0001")
"""A user's share of a cost is rounded to this; what that leaves over is the last one's."""


@dataclass(slots=True)
class _Row:
    calls: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    cost: Decimal = Decimal(0)
    sent: int = 0
    fetched: int = 0
    each_cost: Decimal = Decimal(0)

    def add(self, *, connected: bool, seconds: float, cost: Decimal, share: Share, each_cost: Decimal) -> None:
        self.calls += connected
        self.seconds += seconds
        self.cost += cost
        self.bytes_in += share.bytes_in
        self.bytes_out += share.bytes_out
        self.sent += share.sent
        self.fetched += share.fetched
        self.each_cost += each_cost

    def as_json(self, **key: str) -> dict[str, Any]:
        return {
            **key,
            "calls": self.calls,
            "seconds": round(self.seconds, 1),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "cost": f"{self.cost.normalize():f}",
            "sent": self.sent,
            "fetched": self.fetched,
            "each_calls": self.sent + self.fetched,
            "each_cost": f"{self.each_cost.normalize():f}",
        }


@dataclass(slots=True)
class _Table:
    """Rows by what they are for and the currency."""

    rows: dict[tuple[str, str], _Row] = field(default_factory=dict)

    def row(self, key: str, currency: str) -> _Row:
        return self.rows.setdefault((key, currency), _Row())

    def as_json(self, name: str) -> list[dict[str, Any]]:
        return [row.as_json(**{name: key, "currency": c}) for (key, c), row in sorted(self.rows.items())]


def report(entries: Iterable[Entry], tariffs: Mapping[str, Tariff], zone: ZoneInfo) -> dict[str, Any]:
    """`since` and `until` (RFC 3339 dates of the zone, null where there is no call), and rows `total`, `days`, `months`
    and `users`: `day`, `month` or `user`, `currency`, `calls` (connected), `seconds`, `bytes_in`, `bytes_out` (of a
    user: of its messages), `cost`, `sent`, `fetched`, and `each_calls`, `each_cost` with a call for each message.
    `tariffs` by the line's name. Calls that are under way do not count yet."""
    ended = [e for e in entries if e.ended is not None]
    overheads = _overheads(ended)
    days, months, users, total = _Table(), _Table(), _Table(), _Table()
    for entry in ended:
        currency, charge = entry.charge.currency, entry.charge
        if entry.connected is None and not charge.cost:
            continue
        shares = _shares(entry)
        each = {
            user: _each_cost(entry, share, tariffs.get(entry.line), zone, overheads.get(entry.line, _Overhead()))
            for user, share in shares.items()
        }
        day = datetime.fromtimestamp((entry.connected or entry.started).wall, zone).date().isoformat()
        tally = entry.tally
        whole = Share(tally.sent, tally.fetched, tally.bytes_in, tally.bytes_out)
        for table, key in ((days, day), (months, day[:7]), (total, "")):
            table.row(key, currency).add(
                connected=entry.connected is not None,
                seconds=entry.duration_s,
                cost=charge.cost,
                share=whole,
                each_cost=sum(each.values(), Decimal(0)),
            )
        for user, (part, cost) in _parts(shares, charge.cost).items():
            users.row(user, currency).add(
                connected=entry.connected is not None,
                seconds=entry.duration_s * part,
                cost=cost,
                share=shares[user],
                each_cost=each[user],
            )
    keys = sorted(day for day, _ in days.rows)
    return {
        "since": keys[0] if keys else None,
        "until": keys[-1] if keys else None,
        "total": total.as_json("all"),
        "days": days.as_json("day"),
        "months": months.as_json("month"),
        "users": users.as_json("user"),
    }


def _shares(entry: Entry) -> Mapping[str, Share]:
    """By user; one of "" where no message was anybody's."""
    tally = entry.tally
    if tally.users:
        return tally.users
    return {"": Share(tally.sent, tally.fetched, tally.bytes_in, tally.bytes_out)}


def _parts(shares: Mapping[str, Share], cost: Decimal) -> dict[str, tuple[float, Decimal]]:
    """User -> its part of the call, and of its cost; all of both together."""
    weights = {user: share.bytes_in + share.bytes_out for user, share in shares.items()}
    whole = sum(weights.values())
    parts = {user: weight / whole if whole else 1 / len(weights) for user, weight in weights.items()}
    costs = {user: (cost * Decimal(part)).quantize(CENT) for user, part in parts.items()}
    last = list(costs)[-1]
    costs[last] += cost - sum(costs.values(), Decimal(0))
    return {user: (parts[user], costs[user]) for user in parts}


@dataclass(frozen=True, slots=True)
class _Overhead:
    """What a call costs that carries nothing: seconds beyond its bytes, and bytes beyond those of its messages."""

    seconds: float = DEFAULT_OVERHEAD_S
    volume: int = 0


def _overheads(entries: Sequence[Entry]) -> dict[str, _Overhead]:
    """Line -> the least that one of its calls had."""
    out: dict[str, _Overhead] = {}
    for entry in entries:
        if entry.connected is not None and entry.tally.moved:
            whole = entry.tally.bytes_in + entry.tally.bytes_out
            seconds = max(0.0, entry.duration_s - whole / _bytes_s(entry))
            volume = max(0, whole - sum(s.bytes_in + s.bytes_out for s in _shares(entry).values()))
            least = out.get(entry.line, _Overhead(seconds, volume))
            out[entry.line] = _Overhead(min(seconds, least.seconds), min(volume, least.volume))
    return out


def _bytes_s(entry: Entry) -> float:
    return entry.rate / 10 if entry.rate else DEFAULT_BYTES_S


def _each_cost(entry: Entry, share: Share, tariff: Tariff | None, zone: ZoneInfo, overhead: _Overhead) -> Decimal:
    """Of a call for each of these messages, all of the same size."""
    messages = share.sent + share.fetched
    if tariff is None or not messages or entry.connected is None:
        return Decimal(0)
    size = (share.bytes_in + share.bytes_out) // messages + overhead.volume
    seconds = overhead.seconds + size / _bytes_s(entry)
    return messages * price(Billed(tariff, zone), entry.connected.wall, seconds, size).cost
