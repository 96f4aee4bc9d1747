"""The ledger: every call and every dial, on stable storage. Owns the file `state/ledger`; knows no line and no
policy, only gives the latter its `Summary`.

The file is a `storage.journal`. A call is first written piece by piece, each piece on stable storage before
the caller goes on, then once more as a whole:

| record `t` | when                               | holds                               |
|------------|------------------------------------|-------------------------------------|
| call       | before anything else               | the entry as far as it is known     |
| dial       | before ATD                         | line, number, moment                |
| result     | a dial has ended, CONNECT included | its result, moment, rate            |
| mark       | once a minute while a call is up   | moment, figures                     |
| end        | the line is on-hook                | the whole entry: replaces the above |
| spent      | first in a file that was shortened | what the calls that fell away cost, |
|            |                                    | of the last 40 days: for the budget |
| pin        | before a SIM is given its PIN, and | the PIN's identity, what became of  |
|            | after; of no call                  | it; the last record counts          |

Each cost is what the call comes to should nothing more be heard of it (`entry.Charge`). At the start an entry without
an end is closed as `interrupted`, ended when it was last seen, with the last cost that was written. Damaged lines (a
torn tail after a power cut, mostly) are put aside in `spool/corrupt`, and what is whole stays, be it a newer version's.
The file is kept below `LIMIT`: beyond it, the newest entries that fit into half of that stay.

A full disk stops neither calls nor the ledger: `state/ledger.reserve` is room taken in advance, given up when
an append finds no other, taken again when there is some. Should that not help either, the record waits in
memory for the next append, with an event, and the call goes on: the redial rules are obeyed from memory.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from dataclasses import asdict, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.call import Outcome, PinState, Reason
from appliance.calls.entry import FREE, Charge, Entry, Spending, Summary, mark_from, mark_record, tally_from
from appliance.calls.redial import CONNECTED, Dial, forget
from appliance.storage import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from appliance.clock import Mark
    from appliance.storage.committer import Committer
    from appliance.storage.paths import StatePaths

__all__ = ["Ledger"]

LIMIT: Final = 4 * 1024 * 1024
"""Bytes of the file: some 4,000 calls, and what a board reads in a second at the start."""
RESERVE: Final = 256 * 1024
"""Bytes kept for a full disk: some 200 calls, a week of hourly retries."""
STRANGE_LIMIT: Final = 256 * 1024
"""Bytes of a newer version's records that a file keeps when it is shortened, the newest."""
PINS_LIMIT: Final = 64
"""PINs that are remembered: more than anybody configures and takes away again."""
PENDING_LIMIT: Final = 10_000
"""Records that wait in memory for a disk that takes none: beyond it the oldest are lost."""
APPEND_DEADLINE_S: Final = 30.0
"""A flush on a worn SD card takes seconds; one that takes longer must not keep a paid line up."""


class Ledger:
    """One per process; outlives every `Caller`. `open` before all else, `close` after all else.

    `_entries`, `_dials` and `_summary` belong to the event loop; `_fd` and `_bytes` to the committer's thread
    once it runs; `_pending` is handed over from the one to the other.
    """

    def __init__(self, committer: Committer, paths: StatePaths) -> None:
        self._committer = committer
        self._disk = committer.disk
        self._path = paths.ledger
        self._reserve = paths.ledger.with_name(paths.ledger.name + ".reserve")
        self._corrupt = paths.corrupt
        self._fd = -1
        self._bytes = 0
        self._pending: deque[bytes] = deque(maxlen=PENDING_LIMIT)
        self._entries: list[Entry] = []
        self._dials: list[Dial] = []
        self._pins: dict[str, PinState] = {}
        self._carried: list[Spending] = []
        self._strange: list[bytes] = []
        self._last_id = 0
        self._summary = Summary()

    # ---- reading
    def summary(self) -> Summary:
        """The past as the policy needs it."""
        refused = frozenset(pin for pin, state in self._pins.items() if state is PinState.REFUSED)
        return replace(self._summary, dials=tuple(self._dials), pins_refused=refused)

    def calls(self) -> list[dict[str, Any]]:
        """What `posthouse calls --json` prints, newest last; a call that is under way has `ended` null."""
        return [entry.as_json() for entry in self._entries]

    def totals(self) -> tuple[int, int, int]:
        """Calls that connected, messages sent and messages fetched, over all entries: for 'calls saved'."""
        up = [entry for entry in self._entries if entry.connected]
        return len(up), sum(e.tally.sent for e in up), sum(e.tally.fetched for e in up)

    def last(self) -> Entry | None:
        """The newest call."""
        return self._entries[-1] if self._entries else None

    def entries(self) -> Sequence[Entry]:
        """All of them, newest last, to look at: for `posthouse report`."""
        return self._entries

    def best_rate(self, calls: int) -> int:
        """The highest rate of the last so many calls, in bit/s; 0 when none said one."""
        return max((entry.rate for entry in self._entries[-calls:]), default=0)

    # ---- start and end: synchronous, while no call is under way
    def open(self) -> None:
        """Reads the file, mends it, closes calls that have no end. Raises OSError for a disk that fails."""
        self._disk.mkdir(self._path.parent)
        if not self._path.exists():
            self._disk.close(self._disk.create(self._path))
            self._disk.fsync_folder(self._path.parent)
        self._read()
        self._summary = Summary(spent=tuple(self._carried))
        self._fd = self._disk.open_append(self._path)
        for entry in self._entries:
            if entry.ended is None:
                entry.ended, entry.outcome = entry.seen or entry.started, Outcome.INTERRUPTED
                events.emit(events.CALL_INTERRUPTED, call_id=entry.id)
                self._pending.append(journal.encode([{"t": "end", **entry.as_record()}]))
            self._summary = self._summary.after(entry)
            self._dials = forget(self._dials + entry.dials)
        try:
            self._write_pending()
            self._disk.fdatasync(self._fd)
            del self._entries[: self._shorten(list(self._entries))]
        except OSError as error:
            self._behind(error)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)

    # ---- a call, piece by piece. Each returns when its record is on stable storage, cancelled or not
    async def begin(self, reason: Reason, line: str, now: Mark, *, due: float | None = None) -> Entry:
        """A new call; `due` as in `Entry`."""
        self._last_id = max(self._last_id, self._entries[-1].id if self._entries else 0) + 1
        entry = Entry(self._last_id, line, reason, now, due=due)
        self._entries.append(entry)
        await self._append({"t": "call", **entry.as_record()})
        return entry

    async def dial(
        self,
        entry: Entry,
        line: str,
        number: str,
        now: Mark,
        *,
        charge: Charge = FREE,
        reserved: Decimal = FREE.cost,
    ) -> None:
        """To be awaited before ATD."""
        dial = Dial(number, now)
        entry.line, entry.number, entry.seen = line, number, now
        entry.charge, entry.reserved = charge, reserved
        entry.dials.append(dial)
        self._dials = forget([*self._dials, dial])
        await self._append(
            {
                "t": "dial",
                "id": entry.id,
                "line": line,
                "number": number,
                "at": mark_record(now),
                "charge": charge.as_record(),
                "reserved": str(reserved),
            }
        )

    async def result(
        self,
        entry: Entry,
        outcome: Outcome | None,
        dialled: Mark,
        now: Mark,
        *,
        rate: int = 0,
        charge: Charge = FREE,
    ) -> None:
        """How the last dial ended; None: CONNECT, with its rate in bit/s. `dialled`: when ATD went out."""
        entry.charge = charge
        before = entry.dials[-1]
        dial = Dial(before.number, dialled, CONNECTED if outcome is None else outcome.value)
        _take_result(entry, dial, now, rate)
        self._dials = forget([dial if d is before else d for d in self._dials])
        await self._append(
            {
                "t": "result",
                "id": entry.id,
                "dialled": mark_record(dialled),
                "result": dial.result,
                "at": mark_record(now),
                "rate": rate,
                "charge": charge.as_record(),
            }
        )

    async def mark(self, entry: Entry, now: Mark, *, charge: Charge = FREE) -> None:
        """The call is still up, with these figures so far."""
        entry.seen, entry.charge = now, charge
        await self._append(
            {
                "t": "mark",
                "id": entry.id,
                "at": mark_record(now),
                "tally": asdict(entry.tally),
                "charge": charge.as_record(),
            }
        )

    async def end(
        self,
        entry: Entry,
        outcome: Outcome,
        now: Mark,
        *,
        job_done: bool = False,
        put_down: bool = False,
        identity: str = "",
        charge: Charge = FREE,
    ) -> None:
        """The line is on-hook; the rest as in `Entry`."""
        entry.ended, entry.outcome, entry.job_done, entry.put_down = now, outcome, job_done, put_down
        entry.identity, entry.charge = identity, charge
        self._summary = self._summary.after(entry)
        entries = list(self._entries)
        dropped = await self._append({"t": "end", **entry.as_record()}, lambda: self._shorten(entries))
        del self._entries[:dropped]

    # ---- of no call
    def pin(self, identity: str) -> LedgerPin:
        """What is known of the PIN with this identity, now and later."""
        return LedgerPin(self, identity)

    async def note_pin(self, identity: str, state: PinState) -> bool:
        """As `call.PinRecord`."""
        self._pins = _newest_pins({**{k: v for k, v in self._pins.items() if k != identity}, identity: state})
        await self._append(_pin_record(identity, state))
        return not self._pending

    def pin_state(self, identity: str) -> PinState:
        return self._pins.get(identity, PinState.NEW)

    # ---- the file
    async def _append(self, record: dict[str, Any], then: Callable[[], int] | None = None) -> int:
        """Adds a record, runs `then` behind it in the committer's thread; -> what that returned."""
        self._pending.append(journal.encode([record]))

        def work() -> int:
            self._write_pending()
            return then() if then is not None else 0

        with trio.move_on_after(APPEND_DEADLINE_S, shield=True) as scope:
            try:
                return await self._committer.commit(work)
            except OSError as error:
                self._behind(error)
        if scope.cancelled_caught:
            self._behind(OSError(errno.ETIMEDOUT, f"no answer within {APPEND_DEADLINE_S:g} s"))
        return 0

    def _write_pending(self) -> None:
        while self._pending:
            data = self._pending[0]
            try:
                self._write(data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.exists():
                    raise
                self._disk.unlink(self._reserve)
                events.emit(events.LEDGER_RESERVE_USED)
                self._write(data)
            self._pending.popleft()

    def _write(self, data: bytes) -> None:
        try:
            self._disk.write(self._fd, data)
        except OSError:
            self._disk.truncate(self._fd, self._bytes)  # a part of the line may be there
            raise
        self._bytes += len(data)

    def _shorten(self, entries: list[Entry]) -> int:
        """Brings a file that has outgrown `LIMIT` down to its newest entries; -> how many fell away. Leaves it
        as it is when the disk has no room. Takes the reserve again, too."""
        self._take_reserve()
        if self._bytes <= LIMIT:
            return 0
        lines: list[bytes] = []
        size = 0
        for entry in reversed(entries):
            line = journal.encode([{"t": "end", **entry.as_record()}])
            size += len(line)
            if size > LIMIT // 2:
                break
            lines.append(line)
        dropped = entries[: len(entries) - len(lines)]
        kept = {entry.started for entry in entries[len(dropped) :]}
        carried = [one for one in self._summary.spent if one.at not in kept]
        heads = [
            *([_spent_record(carried)] if carried else []),
            *(_pin_record(*pin) for pin in list(self._pins.items())),
        ]
        try:
            self._replace(b"".join([*(journal.encode([h]) for h in heads), *_newest(self._strange), *reversed(lines)]))
        except OSError as error:
            self._behind(error)
            return 0
        return len(dropped)

    def _replace(self, data: bytes) -> None:
        self._disk.replace_file(self._path, data)
        self._bytes = len(data)
        if self._fd >= 0:
            old, self._fd = self._fd, self._disk.open_append(self._path)
            self._disk.close(old)

    def _take_reserve(self) -> None:
        if self._reserve.exists():
            return
        try:
            fd = self._disk.create(self._reserve)
            try:
                self._disk.write(fd, random.randbytes(RESERVE))  # no file system can compress it away
            finally:
                self._disk.close(fd)
        except OSError:
            if self._reserve.exists():
                self._disk.unlink(self._reserve)

    def _behind(self, error: OSError) -> None:
        events.emit(events.LEDGER_BEHIND, error=error, records=len(self._pending))

    # ---- replay
    def _read(self) -> None:
        """Fills `_entries`; what is damaged is put aside and taken out of the file, what is strange stays in it."""
        data = self._path.read_bytes()
        entries: dict[int, Entry] = {}
        good, bad = bytearray(), bytearray()
        for line in data.splitlines(keepends=True):
            records = journal.decode(line).records
            if not records:
                bad += line
                continue
            good += line
            record = records[0]
            if isinstance(number := record.get("id"), int):
                self._last_id = max(self._last_id, number)
            if not (_apply_pin(self._pins, record) or _apply_spent(self._carried, record) or _apply(entries, record)):
                self._strange.append(line)
        if self._strange:
            events.emit(events.NOT_UNDERSTOOD, file=self._path, what=f"{len(self._strange)} records")
        self._entries = [entries[number] for number in sorted(entries)]
        self._pins = _newest_pins(self._pins)
        self._bytes = len(good)
        if not bad:
            return
        self._put_aside(bytes(bad))
        if not data.startswith(good):
            try:
                self._replace(bytes(good))
                return
            except OSError as error:
                self._behind(error)
                self._bytes = data.rfind(b"\n") + 1  # damaged lines in the middle are passed over again next time
        fd = self._disk.open_append(self._path)
        try:
            self._disk.truncate(fd, self._bytes)
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _put_aside(self, damaged: bytes) -> None:
        n = 1
        while (path := self._corrupt / f"ledger.{n}").exists():
            n += 1
        try:
            self._disk.mkdir(self._corrupt)
            self._disk.replace_file(path, damaged)
        except OSError as error:
            self._behind(error)
        events.emit(events.PUT_ASIDE, file=self._path, why=f"{len(damaged)} bytes are no whole record", moved_to=path)


class LedgerPin:
    """`call.PinRecord` of one PIN."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self._ledger = ledger
        self._identity = identity

    @property
    def state(self) -> PinState:
        return self._ledger.pin_state(self._identity)

    async def note(self, state: PinState) -> bool:
        return await self._ledger.note_pin(self._identity, state)


def _newest(lines: list[bytes]) -> list[bytes]:
    size, kept = 0, list[bytes]()
    for line in reversed(lines):
        size += len(line)
        if size > STRANGE_LIMIT:
            break
        kept.insert(0, line)
    return kept


def _newest_pins(pins: dict[str, PinState]) -> dict[str, PinState]:
    return dict(list(pins.items())[-PINS_LIMIT:])


def _pin_record(identity: str, state: PinState) -> dict[str, Any]:
    return {"t": "pin", "id": 0, "pin": identity, "state": state.value}


def _apply_pin(pins: dict[str, PinState], record: dict[str, Any]) -> bool:
    """Takes one record in; False when it is none of a PIN."""
    try:
        if record["t"] != "pin":
            return False
        identity, state = str(record["pin"]), PinState(record["state"])
    except (KeyError, TypeError, ValueError):
        return False
    pins.pop(identity, None)
    pins[identity] = state
    return True


def _spent_record(spent: Iterable[Spending]) -> dict[str, Any]:
    return {"t": "spent", "id": 0, "spent": [one.as_record() for one in spent]}


def _apply_spent(carried: list[Spending], record: dict[str, Any]) -> bool:
    """Takes one record in; False when it is none of what was spent."""
    try:
        if record["t"] != "spent":
            return False
        carried[:] = [Spending.from_record(one) for one in record["spent"]]
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _apply(entries: dict[int, Entry], record: dict[str, Any]) -> bool:
    """Takes one record in; False when it is none of ours. A record of a call whose beginning is lost says nothing."""
    try:
        kind, number = record["t"], record["id"]
        if kind not in ("call", "end", "dial", "result", "mark"):
            return False
        if kind in ("call", "end"):
            entries[number] = Entry.from_record(record)
            return True
        entry = entries.get(number)
        if entry is None:
            return True
        entry.seen = mark_from(record["at"])
        entry.charge = Charge.from_record(record.get("charge"))
        if kind == "dial":
            entry.line, entry.number = str(record["line"]), str(record["number"])
            entry.reserved = Decimal(record.get("reserved", "0"))
            entry.dials.append(Dial(entry.number, entry.seen))
        elif kind == "result":
            dial = Dial(entry.dials[-1].number, mark_from(record["dialled"]), str(record["result"]))
            _take_result(entry, dial, entry.seen, int(record["rate"]))
        elif kind == "mark":
            entry.tally = tally_from(record["tally"])
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, AttributeError):
        return False
    return True


def _take_result(entry: Entry, dial: Dial, now: Mark, rate: int) -> None:
    entry.dials[-1] = dial
    entry.seen = now
    if dial.result == CONNECTED:
        entry.connected, entry.rate = now, rate
