"""State that a newer version wrote, met by this one behind an update that was taken back: what it knows it reads, what it
does not know it leaves where it is and says so, and the newer one, when it comes again, finds it as it left it.

The newer version is made of journal lines and files as it might write them: values and records that this one has not.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance import __version__
from appliance.app.core import Core
from appliance.call import Outcome, Reason
from appliance.calls import ledger as ledger_module
from appliance.calls.entry import Charge
from appliance.calls.ledger import Ledger
from appliance.clock import SystemClock
from appliance.config.load import load
from appliance.config.store import Editor, Store
from appliance.mail.envelope import Envelope, Recipient, RecipientState, Verdict
from appliance.mail.store import spool as spool_module
from appliance.mail.store.fetched import SPARE_LINES, FetchedRecord, Known, KnownState
from appliance.mail.store.spool import Spool
from appliance.relay import records as records_module
from appliance.relay.memory import Memory
from appliance.relay.others import Others
from appliance.relay.records import Records
from appliance.relay.registry import Registry
from appliance.relay.routes import Routes
from appliance.relay.slice_files import SliceFiles
from appliance.storage import journal
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, unlock
from appliance.storage.redo import HEADER_BYTES, RedoDisk
from fakes.clock import FakeClock
from fakes.config import SITE
from fakes.relay_sites import HandTimers


class Inline:
    """A committer without a thread."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def commit(
        self, work: Callable[[], Any], *, quick: bool = False, then: Callable[[], None] | None = None
    ) -> Any:
        await trio.lowlevel.checkpoint()
        value = work()
        if then is not None:
            then()
        return value


DELIVERED = Verdict(RecipientState.DELIVERED, "250 kept")
BODY = b"Subject: x\r\n\r\n"


def add(path: Path, *records: dict[str, Any]) -> bytes:
    """-> the lines, as they are in the file."""
    data = journal.encode(records)
    with path.open("ab") as file:
        file.write(data)
    return data


# ---- the spool
class NewerPriority(StrEnum):
    URGENT = "urgent"
    NORMAL = "normal"
    NON_URGENT = "non-urgent"
    WHENEVER = "whenever"


def opened(root: Path) -> Spool:
    paths, disk = StatePaths(root), Disk()
    paths.make(disk)
    spool = Spool(paths, disk, Inline(disk), SystemClock())
    spool.recover()
    return spool


def queued(spool: Spool) -> Envelope:
    envelope = Envelope(
        spool.new_id(), "hanako@harbour.example", [Recipient("a@far.example")], received=1_800_000_000.0
    )
    draft = spool.draft(envelope.id)
    draft.write_nowait(BODY)
    draft.finish()
    envelope.size, envelope.crc32 = draft.size, draft.crc32
    spool.place(envelope)
    spool.admit(envelope)
    return envelope


def rewrite(env: Path, **changes: Any) -> bytes:
    """The envelope as a newer version would have written it."""
    (first, *more) = journal.replay(env).records
    env.write_bytes(journal.encode([{**first, **changes}, *more]))
    return env.read_bytes()


async def test_a_message_of_which_a_newer_version_says_more_is_sent(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    envelope = queued(spool)
    env = tmp_path / f"spool/queue/{envelope.id}.env"
    recipient = {"address": "a@far.example", "state": "queued", "reply": "", "notify": "", "orcpt": "", "by": "pigeon"}
    rewrite(env, recipients=[recipient], route="east")
    add(env, {"weather": "rain"})
    again = opened(tmp_path)
    assert list(again.messages) == [envelope.id]
    await again.settle(again.messages[envelope.id], {0: DELIVERED})
    assert not env.exists()


@pytest.mark.parametrize("held", [False, True], ids=["queued", "held"])
@pytest.mark.parametrize(
    ("first", "behind"),
    [({"priority": "whenever"}, ()), ({"recipients": "in the file beside"}, ()),
     ({}, ({"recipients": [0], "state": "on its way"},)), ({}, ({"recipients": [7], "state": "queued"},))],
    ids=["its priority", "its recipients", "its state", "a recipient that came later"],
)  # fmt: skip
async def test_a_message_that_only_a_newer_version_understands_waits_for_it(
    tmp_path: Path, held: bool, first: dict[str, Any], behind: tuple[dict[str, Any], ...],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    spool = opened(tmp_path)
    envelope, other = queued(spool), queued(spool)
    if held:
        await spool.hold(envelope, True)
    env = tmp_path / f"spool/{'hold' if held else 'queue'}/{envelope.id}.env"
    rewrite(env, **first)
    add(env, *behind)
    before = env.read_bytes()
    for _ in range(2):  # at each start
        caplog.clear()
        again = opened(tmp_path)
        assert list(again.messages) == [other.id]
        assert f"{env} holds what this version does not know" in caplog.text
        assert (env.read_bytes(), env.with_suffix(".eml").read_bytes()) == (before, BODY)
    assert not list((tmp_path / "spool/corrupt").iterdir())
    await again.settle(again.messages[other.id], {0: DELIVERED})
    if "priority" in first:  # the newer one again
        monkeypatch.setattr(spool_module, "Priority", NewerPriority)
        assert str(opened(tmp_path).messages[envelope.id].priority) == "whenever"


def test_an_envelope_without_a_whole_line_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = opened(tmp_path)
    envelope = queued(spool)
    env = tmp_path / f"spool/queue/{envelope.id}.env"
    env.write_bytes(env.read_bytes()[:-9])
    assert opened(tmp_path).messages == {}
    assert "is damaged" in caplog.text and not env.exists()


# ---- the ledger
def open_ledger(root: Path) -> Ledger:
    (root / "spool/corrupt").mkdir(parents=True, exist_ok=True)
    ledger = Ledger(Inline(Disk()), StatePaths(root))
    ledger.open()
    return ledger


async def call(ledger: Ledger, clock: FakeClock, outcome: Outcome = Outcome.COMPLETE, cost: int = 0) -> int:
    entry = await ledger.begin(Reason.QUEUED_MESSAGES, "pstn", clock.now())
    await ledger.dial(entry, "pstn", "1", clock.now())
    await ledger.result(entry, None, clock.now(), clock.now(), rate=9600)
    clock.advance(60)
    charge = Charge(1, Charge().cost + cost, "JPY", "day")
    await ledger.end(entry, outcome, clock.now(), charge=charge)
    return entry.id


def as_newer(path: Path, **changes: Any) -> bytes:
    """The last call's entry as a newer version would have written it."""
    lines = path.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[-1][9:])
    lines[-1] = journal.encode([{**record, **changes}])
    path.write_bytes(b"".join(lines))
    return lines[-1]


async def test_what_a_newer_version_s_call_has_cost_counts(tmp_path: Path) -> None:
    """Whatever it calls the reason and the outcome, and whatever else it notes."""
    ledger, clock = open_ledger(tmp_path), FakeClock()
    await call(ledger, clock, cost=30)
    ledger.close()
    tally = {"sent": 1, "fetched": 2, "by_pigeon": 3, "users": {"hanako": {"sent": 1, "by_pigeon": 1}}}
    charge = [1, "30", "JPY", "day", 0.0, "by moonlight"]
    line = as_newer(
        tmp_path / "ledger", reason="moonrise", outcome="half-complete", tally=tally, charge=charge, moon=0.5
    )
    again = open_ledger(tmp_path)
    (found,) = again.calls()
    assert (found["cost"], found["sent"], found["fetched"], found["dials"]) == ("30", 1, 2, 1)
    assert (found["reason"], found["outcome"]) == ("retry", "partial")
    assert [s.charge.cost for s in again.summary().spent] == [30]
    assert await call(again, clock) == 2
    again.close()
    assert line in (tmp_path / "ledger").read_bytes()


async def test_records_that_only_a_newer_version_knows_stay_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_module, "LIMIT", 6000)
    ledger, clock = open_ledger(tmp_path), FakeClock()
    await call(ledger, clock)
    ledger.close()
    file = tmp_path / "ledger"
    strange = add(file, {"t": "weather", "rain": True}, {"t": "end", "id": 7, "started": "yesterday"}, {"no": "kind"})
    again = open_ledger(tmp_path)
    assert "3 records" in caplog.text and [c["id"] for c in again.calls()] == [1]
    assert await call(again, clock) == 8  # the number 7 is taken
    for _ in range(20):  # more than the file may hold: it is shortened
        await call(again, clock)
    again.close()
    data = file.read_bytes()
    assert len(data) < 2 * 6000 and b'"id":8,' not in data
    for line in strange.splitlines():
        assert line in data
    assert not list((tmp_path / "spool/corrupt").iterdir())
    last = open_ledger(tmp_path)
    assert last.calls()[-1]["id"] == 28
    last.close()


# ---- what was fetched
async def test_a_message_of_which_only_a_newer_version_knows_the_state_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is neither fetched, which might be twice, nor deleted."""
    disk = Disk()
    record = functools.partial(FetchedRecord, disk, Inline(disk), tmp_path, "record", corrupt=tmp_path)
    await record().begin(5.0, [])
    line = add(tmp_path / "record", {"uid": "u1", "state": "half", "size": 3}, {"moon": 0.5})
    gone = add(tmp_path / "record", {"uid": "u2", "state": "half", "size": 4})
    known = record()
    assert "3 records" in caplog.text
    assert known.known["u1"].state is KnownState.SKIPPED
    await known.forget(["u2"])
    for n in range(SPARE_LINES):
        await known.add(Known(f"x{n}", KnownState.FETCHED, 1))
    await known.forget([f"x{n}" for n in range(SPARE_LINES)])  # the file is written anew
    data = (tmp_path / "record").read_bytes()
    assert len(data) < 500
    assert all(one in data for one in line.splitlines()) and gone not in data
    again = record()
    assert (set(again.known), again.first_fetch) == ({"u1"}, 5.0)
    await again.add(Known("u1", KnownState.FETCHED, 3))  # the newer one has taken it up meanwhile, and gone again
    again._write_anew()
    assert record().known["u1"].state is KnownState.FETCHED


# ---- the relay server's
async def test_what_only_a_newer_version_knows_of_terminals_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records_module, "SPARE_LINES", 5)
    disk, file = Disk(), tmp_path / "terminals"
    records = functools.partial(Records, disk, Inline(disk), file)
    await records().put("pc11", {"certificate": "ab"})
    strange = add(file, {"key": "pc11", "rights": ["all"]}, {"moon": 0.5})
    known = records()
    assert "2 records" in caplog.text
    assert known.get("pc11") == {"certificate": "ab"}  # not forgotten
    for n in range(20):
        await known.put("pc12", {"certificate": f"{n:02x}"})
    data = file.read_bytes()
    assert data.count(b"\n") < 20  # written anew
    assert all(line in data for line in strange.splitlines())
    assert records().get("pc11") == {"certificate": "ab"}


async def test_what_has_been_let_go_of_is_written_anew_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "SPARE_LINES", 5)
    disk, file = Disk(), tmp_path / "table"
    records = functools.partial(Records, disk, Inline(disk), file)
    await records().put("e/pc11", {"counter": 3})
    strange = add(file, {"moon": 0.5})
    known = records()
    known.let_go()
    for n in range(20):
        await known.put("e/pc12", {"counter": n})
        await known.put("e/pc13", {"counter": n})
    await known.forget("e/pc13")
    assert set(known._values.values()) == {b""}  # nothing of them stays in memory
    data = file.read_bytes()
    assert data.count(b"\n") < 20 and strange in data  # written anew
    assert dict(records().items()) == {"e/pc11": {"counter": 3}, "e/pc12": {"counter": 19}}


async def test_a_file_that_was_damaged_is_not_written_anew_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "SPARE_LINES", 5)
    disk, file = Disk(), tmp_path / "table"
    known = Records(disk, Inline(disk), file)
    for name in ("e/pc11", "e/pc12"):
        await known.put(name, {"counter": 3})
    known.let_go()
    spoilt = file.read_bytes().replace(b"pc12", b"pc1?")
    file.write_bytes(spoilt)
    for n in range(20):
        await known.put("e/pc13", {"counter": n})
    assert file.read_bytes().startswith(spoilt)  # and whatever else can be read of it


async def test_an_entry_of_our_table_that_only_a_newer_version_knows_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk, file = Disk(), tmp_path / "table"
    records = functools.partial(Records, disk, Inline(disk), file)
    known = records()
    await known.put("e/pc11", {"counter": 3, "presence": "asleep"})
    await known.put("epoch", {"epoch": 41, "of": "the moon"})
    memory = Memory(known, FakeClock(), "harbour", lambda task: None, now=lambda: 0.0)
    assert memory.registry.own.epoch > 41
    await memory.begin()
    assert f"{file} holds what this version does not know (e/pc11)" in caplog.text
    assert records().get("e/pc11") == {"counter": 3, "presence": "asleep"}


async def test_another_relay_server_s_slice_that_is_not_understood_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds nothing but what that one tells again."""
    disk = Disk()
    committer = Inline(disk)
    add(tmp_path / "hub.slice", {"at": [1.0, 1.0, "x"], "slice": {"layout": 2}})
    files = SliceFiles(disk, committer, tmp_path)
    registry = Registry("harbour", 1)
    others = Others(files, Records(disk, committer, tmp_path / "routes"), registry, Routes("harbour", forget_after_s=100.0), FakeClock(),
                    HandTimers(lambda: 0.0), lambda task: None, now=lambda: 0.0)  # fmt: skip
    await others.load(["hub"])
    assert "hub.slice is damaged" in caplog.text and "hub" not in registry.slices


# ---- the redo log
def batch(disk: RedoDisk, path: Path, data: bytes) -> None:
    disk.begin_batch()
    fd = disk.create(path)
    disk.write(fd, data)
    disk.close(fd)
    disk.make_durable(disk.end_batch(), path.parent)


def test_a_redo_log_of_another_size_is_replayed(tmp_path: Path) -> None:
    newer = RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 5000)
    newer.open_log()
    batch(newer, tmp_path / "mail", b"accepted")
    (tmp_path / "mail").unlink()  # the power went before the file system had it
    older = RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 2000)
    assert older.open_log() > 0
    assert (tmp_path / "mail").read_bytes() == b"accepted"
    assert (tmp_path / "redo").stat().st_size == HEADER_BYTES + 2000
    batch(older, tmp_path / "mail2", b"too")
    (tmp_path / "mail2").unlink()
    assert RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 5000).open_log() > 0
    assert (tmp_path / "mail2").read_bytes() == b"too"


@pytest.mark.parametrize("how", ["another layout", "another operation"])
def test_a_redo_log_that_is_not_understood_is_put_aside(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    newer = RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 2000)
    newer.open_log()
    batch(newer, tmp_path / "mail", b"accepted")
    log = tmp_path / "redo"
    if how == "another layout":
        log.write_bytes(b"phredo2\n" + log.read_bytes()[8:])
    else:
        data = log.read_bytes().replace(b"\xa6create", b"\xa6weaver")
        head, body = data[HEADER_BYTES : HEADER_BYTES + 24], data[HEADER_BYTES + 28 :]
        body = body[: struct.unpack_from(">4sQQI", head)[3]]
        summed = head + struct.pack(">I", zlib.crc32(body, zlib.crc32(head))) + body
        log.write_bytes((data[:HEADER_BYTES] + summed).ljust(HEADER_BYTES + 2000, b"\0"))
    before = log.read_bytes()
    for n in (1, 2):
        older = RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 2000)
        assert older.open_log() == 0
        assert (tmp_path / f"redo.{n}").read_bytes() == before
        assert f"redo.{n} holds what this version does not know" in caplog.text
        batch(older, tmp_path / f"later{n}", b"")
        older.close_log()
        log.write_bytes(before)  # and once more
    assert b"accepted" in (tmp_path / "redo.1").read_bytes()


# ---- the whole state, and the configuration's revisions
@pytest.mark.parametrize(
    ("before", "newer"),
    [("99.0", True), (f"{__version__}.1", True), ("0.0.9", False), (__version__, False), ("what is this", False)],
)
def test_who_wrote_last_is_told(
    tmp_path: Path, before: str, newer: bool, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    file = tmp_path / "posthouse.toml"
    file.write_text(SITE + f'state = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n')
    (tmp_path / "state").mkdir()
    (tmp_path / "state/version").write_text(before + "\n")
    for time in (1, 2):
        core = Core(load(file))
        core.close()
        unlock(core.locks)
        assert (f"by Posthouse {before}, which is newer" in caplog.text) == (newer and time == 1)
        caplog.clear()
    assert (tmp_path / "state/version").read_text() == f"{__version__}\n"


def test_revisions_with_more_to_them_are_listed_and_kept(tmp_path: Path) -> None:
    file, folder = tmp_path / "posthouse.toml", tmp_path / "config"
    file.write_text(SITE)
    store, me = Store(file, folder, Disk()), Editor("hanako", "ttyS0")
    store.set("schedule.at", "07:30", me, 1)
    store.commit(me, "", 1)
    records = journal.replay(folder / "revisions").records
    (folder / "revisions").write_bytes(journal.encode([{**r, "signed": "by the moon"} for r in records]))
    store.set("schedule.at", "08:30", me, 2)
    assert store.commit(me, "", 2).revision == 3
    assert [r.get("signed") for r in journal.replay(folder / "revisions").records] == [
        "by the moon",
        "by the moon",
        None,
    ]
    assert [r["number"] for r in store.revisions()] == [3, 2, 1]
