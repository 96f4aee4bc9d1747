"""What is remembered of a call: one entry of the ledger, and the summary of all entries that decides about the
next call. Without I/O; `ledger` keeps these on disk, `policy` reads them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from appliance.call import Outcome, Reason, Tally
from appliance.calls.redial import Dial
from appliance.clock import Mark, rfc3339

__all__ = ["Entry", "Summary", "mark_from", "mark_record"]

FETCHING: Final = frozenset({Reason.AT, Reason.EVERY, Reason.WAKE, Reason.CONNECTION_REQUEST})
"""Reasons whose purpose an empty queue does not meet: the other side has to be asked."""


@dataclass(slots=True)
class Entry:
    """One call. Owned by the ledger, which alone changes it.

    `line` and `number` are the last that were tried. `due`: the occurrence of `schedule.at` (Unix seconds) that
    the call serves. `seen`: the last moment at which the call is known to have been under way.
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

    @property
    def duration_s(self) -> float:
        """From `connected` until it ended, or until it was last seen; 0 when it never connected."""
        until = self.ended or self.seen
        if self.connected is None or until is None:
            return 0.0
        return self.connected.seconds_until(until)

    def as_json(self) -> dict[str, Any]:
        """As `posthouse calls --json` prints it (DESIGN §6). Without a tariff a call costs nothing."""
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
            "units": 0,
            "cost": "0",
            "currency": "",
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
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Entry:
        """Raises KeyError, TypeError or ValueError for a record that is no entry."""
        return cls(
            id=int(record["id"]),
            line=str(record["line"]),
            reason=Reason(record["reason"]),
            started=mark_from(record["started"]),
            due=None if record["due"] is None else float(record["due"]),
            number=str(record["number"]),
            dials=[Dial(str(n), mark_from(at), str(result)) for n, at, result in record["dials"]],
            connected=mark_from(record["connected"]) if record["connected"] else None,
            rate=int(record["rate"]),
            ended=mark_from(record["ended"]) if record["ended"] else None,
            outcome=Outcome(record["outcome"]) if record["outcome"] else None,
            tally=Tally(**record["tally"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The past as the policy needs it.

    `complete_end`: the end of the last complete call. `gap_from`: of the last complete automatic one, from which
    `min_gap` counts. `automatic_start`, `at_done`: when the last automatic call began, and the occurrence of
    `schedule.at` that the last call of that reason served. `failures`: calls in a row that were not complete.
    `last_end`: the last call's end, which `retry` counts from. `fruitless`: that call was connected and moved
    nothing. `unmet`: the reasons of the automatic ones among the failures. `dials`: for the redial rules.
    """

    last_end: Mark | None = None
    complete_end: Mark | None = None
    gap_from: Mark | None = None
    automatic_start: Mark | None = None
    at_done: float | None = None
    failures: int = 0
    fruitless: bool = False
    unmet: frozenset[Reason] = frozenset()
    dials: tuple[Dial, ...] = ()

    def after(self, entry: Entry) -> Summary:
        """The summary with one more call, which has ended. The dials stay: they are known before the end is."""
        complete = entry.outcome is Outcome.COMPLETE
        automatic = entry.reason is not Reason.BY_HAND
        unmet = self.unmet
        if complete:
            unmet = frozenset()
        elif automatic and entry.reason is not Reason.RETRY:
            unmet = unmet | {entry.reason}
        return Summary(
            last_end=entry.ended,
            complete_end=entry.ended if complete else self.complete_end,
            gap_from=entry.ended if complete and automatic else self.gap_from,
            automatic_start=entry.started if automatic else self.automatic_start,
            at_done=self.at_done if entry.due is None else entry.due,
            failures=0 if complete else self.failures + 1,
            fruitless=not complete and entry.connected is not None and not entry.tally.moved,
            unmet=unmet,
            dials=self.dials,
        )

    def wants_retry(self, *, queued: bool) -> bool:
        """Whether what an automatic call failed to do is still to be done; `queued`: messages wait."""
        return bool(self.unmet) and (queued or not FETCHING.isdisjoint(self.unmet))


def mark_record(mark: Mark) -> list[Any]:
    """A moment as the ledger's file has it, to the millisecond."""
    return [round(mark.wall, 3), round(mark.boot, 3), mark.boot_id]


def mark_from(record: Any) -> Mark:
    wall, boot, boot_id = record
    return Mark(float(wall), float(boot), str(boot_id))
