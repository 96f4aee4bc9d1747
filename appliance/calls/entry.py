"""What is remembered of a call: one entry of the ledger, and the summary of all entries that decides about the
next call. Without I/O; `ledger` keeps these on disk, `policy` reads them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from appliance.call import Outcome, Reason, Share, Tally
from appliance.calls.redial import Dial
from appliance.clock import Mark, rfc3339

__all__ = ["FREE", "Charge", "Entry", "Past", "Spending", "Summary", "mark_from", "mark_record", "tally_from"]

RECENT: Final = 20
"""Calls whose figures say what the next one will be like."""
SPENDING_S: Final = 40 * 86400.0
"""For so long is remembered what calls have cost: the longest month, and clocks that are some days wrong."""

FETCHING: Final = frozenset({Reason.AT, Reason.EVERY, Reason.WAKE, Reason.CONNECTION_REQUEST})
"""Reasons whose purpose an empty queue does not meet: the other side has to be asked."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call costs by the `[[tariff]]` of that name, "" where it is free. `units` and `free_s` as in
    `tariff.Price`."""

    units: int = 0
    cost: Decimal = Decimal(0)
    currency: str = ""
    tariff: str = ""
    free_s: float = 0.0

    def as_record(self) -> list[Any]:
        return [self.units, str(self.cost), self.currency, self.tariff, self.free_s]

    @classmethod
    def from_record(cls, record: Any) -> Charge:
        """Raises TypeError or ValueError for what is none."""
        if record is None:  # written before there were tariffs
            return cls()
        units, cost, currency, tariff, free_s, *_ = record
        return cls(int(units), _decimal(cost), str(currency), str(tariff), float(free_s))


FREE: Final = Charge()


@dataclass(slots=True)
class Entry:
    """One call. Owned by the ledger, which alone changes it.

    `line` and `number` are the last that were tried. `due`: the occurrence of `schedule.at` (Unix seconds) that
    the call serves. `seen`: the last moment at which the call is known to have been under way. `job_done`: a job
    reached its server and left nothing. `put_down`: `posthouse hangup` ended it. `identity`: of the way whose login was
    refused (`cycle.Way`). `charge`: what it costs; until it has ended, what it costs should nothing more be heard of
    it. `reserved`: what it was expected to cost when it was dialled.
    """

    id: int
    line: str
    reason: Reason
    started: Mark
    due: float | None = None
    number: str = ""
    dials: list[Dial] = field(default_factory=list)
    connected: Mark | None = None
    rate: int = 0
    seen: Mark | None = None
    ended: Mark | None = None
    outcome: Outcome | None = None
    tally: Tally = field(default_factory=Tally)
    job_done: bool = False
    put_down: bool = False
    identity: str = ""
    charge: Charge = FREE
    reserved: Decimal = Decimal(0)

    @property
    def served(self) -> bool:
        """Whether it was good for something (`Summary`)."""
        partial = self.outcome is Outcome.PARTIAL and (self.tally.moved or self.job_done)
        return self.outcome is Outcome.COMPLETE or partial

    @property
    def duration_s(self) -> float:
        """From `connected` until it ended, or until it was last seen; 0 when it never connected."""
        until = self.ended or self.seen
        if self.connected is None or until is None:
            return 0.0
        return self.connected.seconds_until(until)

    def as_json(self) -> dict[str, Any]:
        """As `posthouse calls --json` prints it (DESIGN §6). Without a tariff a call costs nothing; while one is under
        way, what it would cost if it ended at its last mark, and a unit more."""
        return {
            "id": self.id,
            "line": self.line,
            "reason": self.reason.value,
            "number": self.number,
            "dials": len(self.dials),
            "started": rfc3339(self.started.wall),
            "connected": rfc3339(self.connected.wall if self.connected else None),
            "ended": rfc3339(self.ended.wall if self.ended else None),
            "duration_s": round(self.duration_s, 3),
            "outcome": self.outcome.value if self.outcome else None,
            "rate": self.rate,
            "bytes_in": self.tally.bytes_in,
            "bytes_out": self.tally.bytes_out,
            "sent": self.tally.sent,
            "fetched": self.tally.fetched,
            "failed": self.tally.failed,
            "circuits": self.tally.circuits,
            "units": self.charge.units,
            "cost": f"{self.charge.cost:f}",
            "currency": self.charge.currency,
        }

    def as_record(self) -> dict[str, Any]:
        """The whole entry as one record of the ledger's file; `from_record` reads it."""
        return {
            "id": self.id,
            "line": self.line,
            "reason": self.reason.value,
            "started": mark_record(self.started),
            "due": self.due,
            "number": self.number,
            "dials": [[d.number, mark_record(d.at), d.result] for d in self.dials],
            "connected": mark_record(self.connected) if self.connected else None,
            "rate": self.rate,
            "ended": mark_record(self.ended) if self.ended else None,
            "outcome": self.outcome.value if self.outcome else None,
            "tally": asdict(self.tally),
            "job_done": self.job_done,
            "put_down": self.put_down,
            "identity": self.identity,
            "charge": self.charge.as_record(),
            "reserved": str(self.reserved),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Entry:
        """Raises KeyError, TypeError or ValueError for a record that is no entry. Of a newer version's it takes what it
        knows: what a call has cost, and when it dialled, counts whatever that calls its reason and its outcome."""
        return cls(
            id=int(record["id"]),
            line=str(record["line"]),
            reason=_reason(str(record["reason"])),
            started=mark_from(record["started"]),
            due=None if record["due"] is None else float(record["due"]),
            number=str(record["number"]),
            dials=[Dial(str(n), mark_from(at), str(result)) for n, at, result, *_ in record["dials"]],
            connected=mark_from(record["connected"]) if record["connected"] else None,
            rate=int(record["rate"]),
            ended=mark_from(record["ended"]) if record["ended"] else None,
            outcome=_outcome(str(record["outcome"]), bool(record["connected"])) if record["outcome"] else None,
            tally=tally_from(record["tally"]),
            job_done=bool(record.get("job_done")),
            put_down=bool(record.get("put_down")),
            identity=str(record.get("identity", "")),
            charge=Charge.from_record(record.get("charge")),
            reserved=_decimal(record.get("reserved", "0")),
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What the length of a call depends on, of one that was connected."""

    line: str
    rate: int
    seconds: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Spending:
    """What was paid for a call that started then."""

    at: Mark
    charge: Charge

    def as_record(self) -> list[Any]:
        return [mark_record(self.at), self.charge.as_record()]

    @classmethod
    def from_record(cls, record: Any) -> Spending:
        """Raises TypeError or ValueError for what is none."""
        at, charge = record
        return cls(mark_from(at), Charge.from_record(charge))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The past as the policy needs it.

    A call is served when it was complete, or partial and yet good for something: it moved something, or one of its
    jobs was done. That meets every purpose of `FETCHING`; the others are met by a complete call alone.

    `last_end`: the last call's end, which `retry` counts from. `served_end`: that of the last one served.
    `every_from`: of the last one served or made for `every`. `gap_from`: of the last automatic one that met all
    purposes, from which `min_gap` counts. `put_down`: of the last call, if that was ended by hand. `at_done`: the
    occurrence of `schedule.at` that the last call of that reason served. `failures`: how far the ladder has been
    climbed. `fruitless`: the last automatic call was connected and moved nothing. `unmet`: the reasons of the
    automatic ones among the failures. `fetch_tries`: failed automatic calls in a row since the last of them that a
    purpose of `FETCHING` caused. `login_refused`: the identity of the last call's way, if its login was refused.
    `pins_refused`: those that a SIM has refused, ever. `dials`: for the redial rules. `recent`: the last calls that
    were connected, newest last. `spent`: what the calls of the last `SPENDING_S` have cost, those that cost something
    or used free seconds.
    """

    last_end: Mark | None = None
    served_end: Mark | None = None
    every_from: Mark | None = None
    gap_from: Mark | None = None
    put_down: Mark | None = None
    at_done: float | None = None
    failures: int = 0
    fruitless: bool = False
    unmet: frozenset[Reason] = frozenset()
    fetch_tries: int = 0
    login_refused: str | None = None
    pins_refused: frozenset[str] = frozenset()
    dials: tuple[Dial, ...] = ()
    recent: tuple[Past, ...] = ()
    spent: tuple[Spending, ...] = ()

    def after(self, entry: Entry) -> Summary:
        """The summary with one more call, which has ended. The dials stay: they are known before the end is."""
        complete, served = entry.outcome is Outcome.COMPLETE, entry.served
        automatic = entry.reason is not Reason.BY_HAND
        common = replace(
            self,
            last_end=entry.ended,
            served_end=entry.ended if served else self.served_end,
            every_from=entry.ended if served or entry.reason is Reason.EVERY else self.every_from,
            put_down=None,
            login_refused=entry.identity if entry.outcome is Outcome.LOGIN_REFUSED else None,
            at_done=self.at_done if entry.due is None else entry.due,
            recent=self._recent(entry),
            spent=self._spent(entry),
        )
        if complete:
            gap_from = entry.ended if automatic else self.gap_from
            return replace(common, gap_from=gap_from, failures=0, fruitless=False, unmet=frozenset(), fetch_tries=0)
        if entry.put_down:
            unmet = frozenset[Reason]() if entry.reason is Reason.RETRY else self.unmet
            return replace(common, put_down=entry.ended, fruitless=False, unmet=unmet)
        unmet = self.unmet | {entry.reason} if automatic and entry.reason is not Reason.RETRY else self.unmet
        if served:
            unmet -= FETCHING
        if not automatic:
            return replace(common, failures=max(self.failures, 1), unmet=unmet)
        met = served and not unmet
        return replace(
            common,
            gap_from=entry.ended if met else self.gap_from,
            failures=1 if met else self.failures + 1,
            fruitless=entry.connected is not None and not entry.tally.moved,
            unmet=unmet,
            fetch_tries=1 if entry.reason in FETCHING else self.fetch_tries + 1,
        )

    def _recent(self, entry: Entry) -> tuple[Past, ...]:
        if entry.connected is None:
            return self.recent
        tally = entry.tally
        past = Past(entry.line, entry.rate, entry.duration_s, tally.bytes_in, tally.bytes_out)
        return (*self.recent[-(RECENT - 1) :], past)

    def _spent(self, entry: Entry) -> tuple[Spending, ...]:
        if not entry.charge.cost and not entry.charge.free_s:
            return self.spent
        ended, old = entry.ended or entry.started, 0
        while old < len(self.spent) and self.spent[old].at.seconds_until(ended) > SPENDING_S:
            old += 1
        return (*self.spent[old:], Spending(entry.started, entry.charge))

    def wants_retry(self, *, queued: bool, steps: int) -> bool:
        """Whether what an automatic call failed to do is still to be done. `queued`: messages wait. `steps` of the
        ladder: so often is a call for `FETCHING` made again; then that purpose waits for its next occurrence."""
        if self.fetch_tries <= steps and not FETCHING.isdisjoint(self.unmet):
            return True
        return queued and not FETCHING.issuperset(self.unmet)


def mark_record(mark: Mark) -> list[Any]:
    """A moment as the ledger's file has it, to the millisecond."""
    return [round(mark.wall, 3), round(mark.boot, 3), mark.boot_id]


def mark_from(record: Any) -> Mark:
    wall, boot, boot_id = record
    return Mark(float(wall), float(boot), str(boot_id))


def tally_from(record: dict[str, Any]) -> Tally:
    """Raises TypeError for a record that is none."""
    users = {str(user): Share(**_known(Share, share)) for user, share in record.get("users", {}).items()}
    return Tally(**{**_known(Tally, record), "users": users})


def _known(kind: Any, record: dict[str, Any]) -> dict[str, Any]:
    """What this version has a place for."""
    return {f.name: record[f.name] for f in fields(kind) if f.name in record}


def _reason(text: str) -> Reason:
    """One that a newer version knows alone: an automatic call, without a purpose of its own."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.RETRY


def _outcome(text: str, connected: bool) -> Outcome:
    """One that a newer version knows alone: what is known is whether it connected."""
    try:
        return Outcome(text)
    except ValueError:
        return Outcome.PARTIAL if connected else Outcome.INTERRUPTED


def _decimal(text: Any) -> Decimal:
    try:
        return Decimal(str(text))
    except InvalidOperation:
        raise ValueError(f"{text!r} is no amount of money") from None
