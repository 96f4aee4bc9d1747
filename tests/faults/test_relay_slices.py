"""What is kept of other relay servers: the power goes behind every operation, the file is damaged, too large, or the
disk takes nothing. What is taken up again is what was known at some moment since the last save, never a mixture; a
relay server starts whatever is there."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.relay import others, slice_files
from appliance.relay.others import Others
from appliance.relay.records import Records
from appliance.relay.registry import LOST, OFFLINE, ONLINE, REMOVED, Registry, Sent, Slice
from appliance.relay.routes import Routes
from appliance.relay.slice_files import SliceFiles
from appliance.storage.disk import Disk
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from appliance.storage.redo import RedoDisk
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.relay_sites import HandTimers

FORGET_S = 100_000.0


@dataclass
class Kept:
    """What a relay server has of the others. `look` is called behind each update."""

    registry: Registry
    routes: Routes
    others: Others
    look: Callable[[], None] = lambda: None

    def hear(self, body: dict[str, Any]) -> None:
        if self.registry.apply(body, NOW).ack is None:
            self.others.heard(body)
            self.look()

    def tell(self, owner: Registry, sent: Sent, *, frames: int = 1000) -> None:
        """So much of what the owner has to say."""
        for body in itertools.islice(owner.frames(owner.me, sent, NOW), frames):
            self.hear(body)


NOW = 5000.0


async def begin(
    root: Path, disk: Disk, *, limit: int = slice_files.FILES_LIMIT, peers: tuple[str, ...] = ("o",)
) -> Kept:
    """As at a start, with the peer `o`."""
    committer: Any = InlineCommitter(disk, root)
    files = SliceFiles(disk, committer, root / "others", limit=limit)
    records = Records(disk, committer, root / "routes")
    registry, routes = Registry("me", 1), Routes("me", FORGET_S)
    timers: Any = HandTimers(lambda: NOW)
    kept = Others(files, records, registry, routes, FakeClock(), timers, lambda work: None, lambda: NOW)
    await kept.load(peers)
    return Kept(registry, routes, kept)


def stand(s: Slice | None) -> tuple[Any, ...]:
    """All that a slice says."""
    if s is None:
        return ()
    entries = {
        e.name: (e.seq, e.counter, e.presence, round(e.since, 3), e.services, e.fingerprint) for e in s.entries.values()
    }
    return (s.epoch, s.seq, s.floor, s.fell_from, None if s.run is None else frozenset(s.run), entries)


def owner(n: int, *, epoch: int = 1) -> Registry:
    r = Registry("o", epoch)
    for i in range(n):
        r.publish(f"pc{i}", ONLINE, NOW - i, 100 + i, ["ssh", "http"], os.urandom(32))
    return r


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.relay.registry.FRAME_ENTRIES", 2)


async def history(kept: Kept, mark: Callable[[], None]) -> None:
    """A full run that is cut, its rest, changes, a new epoch's run that is cut, a neighbour's way to it."""

    async def step(save: bool) -> None:
        if save:
            await kept.others.save()
            mark()

    o, sent = owner(6), Sent(0, 0)
    kept.routes.link_up("o", NOW)
    kept.routes.heard("o", {"owner": "o", "path": ["o"], "state": "up"}, NOW)
    kept.others.rerouted()
    for n in range(3):
        kept.tell(o, sent, frames=1)
        await step(n == 1)
    await step(True)
    for n in range(4):
        o.set_presence(f"pc{n}", OFFLINE if n % 2 else LOST, NOW)
        kept.tell(o, sent)
        await step(n % 2 == 0)
    o.set_presence("pc1", REMOVED, NOW)
    kept.tell(o, sent)
    await step(True)
    again, sent = owner(5, epoch=2), Sent(0, 0)
    for n in range(2):
        kept.tell(again, sent, frames=1)
        await step(n == 1)
    kept.others._anew.add("o")  # in the middle of a run
    kept.tell(again, sent, frames=1)
    await step(True)


@pytest.mark.parametrize("with_log", [False, True])
@pytest.mark.parametrize("fate", list(Fate))
async def test_every_prefix_of_a_slice(fate: Fate, with_log: bool, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    plain = RecordingDisk(whole)
    kept = await begin(whole, logged(plain, whole) if with_log else plain)
    stood: list[tuple[int, tuple[Any, ...]]] = []  # (operations by then, what was known)
    saved: list[tuple[int, int]] = [(0, 0)]  # (operations by then, its place in `stood`)

    def look() -> None:
        stood.append((len(plain.operations), stand(kept.registry.slices.get("o"))))

    look()
    kept.look = look
    await history(kept, lambda: saved.append((len(plain.operations), len(stood) - 1)))
    states = [state for _, state in stood]
    assert len(set(map(repr, states))) >= 10 and len(saved) > 6
    first = next(n for n, op in enumerate(plain.operations) if op.name == "mkdir") + 1
    for n in range(first, len(plain.operations) + 1):
        root = tmp_path / f"{n}"
        power_cut(plain, n, fate, root, seed=n)
        disk = Disk()
        after = await begin(root, logged(disk, root) if with_log else disk)
        at_least = max(place for operations, place in saved if operations <= n)
        state = stand(after.registry.slices.get("o"))
        assert state in states[at_least:], f"cut behind operation {n}: {plain.operations[n - 1]}"
        await after.others.save()


def logged(disk: Disk, root: Path) -> RedoDisk:
    redo = RedoDisk(disk, root, log_bytes=64 * 1024)
    redo.open_log()
    return redo


async def test_what_is_taken_up_goes_on_where_it_was_and_resurrects_nobody(tmp_path: Path) -> None:
    kept = await begin(tmp_path, Disk())
    o, sent = owner(6), Sent(0, 0)
    kept.tell(o, sent)
    kept.routes.link_up("o", NOW)
    kept.routes.heard("o", {"owner": "far", "path": ["far", "o"], "state": "suspended", "back_in": 900}, NOW)
    kept.routes.heard("o", {"owner": "o", "path": ["o"], "state": "up"}, NOW)
    kept.others.rerouted()
    await kept.others.save()
    o.set_presence("pc0", OFFLINE, NOW)
    o.forget(NOW + FORGET_S, FORGET_S)
    o.forget(NOW + 3 * FORGET_S, FORGET_S)  # removed, told, and dropped while we are away
    again = await begin(tmp_path, Disk())
    assert "pc0" in again.registry.slices["o"].entries
    way = again.routes.best("o", NOW)
    assert way is not None and (way[1].state, way[1].since) == ("lost", NOW)  # nothing is up at a start
    way = again.routes.best("far", NOW)
    assert way is not None and (way[1].state, way[1].path) == ("lost", ("far", "o"))
    have = again.registry.have()["o"]
    bodies = list(o.frames("o", Sent(*have), NOW + 3 * FORGET_S))
    assert bodies[0]["base"] == 0
    for body in bodies:
        again.hear(body)
    assert "pc0" not in again.registry.slices["o"].entries
    await again.others.save()
    third = await begin(tmp_path, Disk(), peers=())
    assert stand(third.registry.slices["o"]) == stand(again.registry.slices["o"])
    assert third.routes.best("o", NOW) is None  # a peer no longer


async def test_a_link_that_was_down_by_plan_is_still_suspended(tmp_path: Path) -> None:
    kept = await begin(tmp_path, Disk())
    kept.routes.link_up("o", NOW)
    kept.routes.heard("o", {"owner": "o", "path": ["o"], "state": "up"}, NOW)
    kept.routes.link_down("o", NOW, NOW + 7200)
    kept.others.rerouted()
    await kept.others.save()
    way = (await begin(tmp_path, Disk())).routes.best("o", NOW)
    assert way is not None and (way[1].state, way[1].back) == ("suspended", NOW + 7200)


@pytest.mark.parametrize("damage", ["no line", "half", "middle", "another form", "missing update", "unreadable"])
async def test_a_damaged_file_is_thrown_away_with_a_line_in_the_journal(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await begin(tmp_path, Disk())
    o, sent = owner(4), Sent(0, 0)
    kept.tell(o, sent)
    await kept.others.save()
    before = stand(kept.registry.slices["o"])
    for name in ("pc0", "pc1"):
        o.set_presence(name, OFFLINE, NOW)
        kept.tell(o, sent)
        await kept.others.save()
    file = tmp_path / "others" / "o.slice"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    match damage:
        case "no line":
            file.write_bytes(b"\0" * 500)
        case "half":
            file.write_bytes(b"".join(lines)[:-20])
        case "middle":
            file.write_bytes(lines[0] + lines[1].replace(b"pc0", b"pc7") + lines[2])
        case "another form":
            file.write_bytes(slice_files.journal.encode([{"at": [0, 0, "x"], "slice": {"epoch": "later"}}]))
        case "missing update":
            file.write_bytes(lines[0] + lines[2])
    with monkeypatch.context() as patch:
        if damage == "unreadable":
            patch.setattr(slice_files.journal, "replay", unreadable)
            (tmp_path / "routes").unlink(missing_ok=True)
        again = await begin(tmp_path, Disk())
    s = again.registry.slices.get("o")
    if damage == "middle":
        assert stand(s) == before  # what stands before it is whole
    elif damage == "half":
        assert s is not None and s.seq == 5
    else:
        assert s is None and not again.registry.names()
    assert "and thrown away" in caplog.text or "torn and left out" in caplog.text
    await again.others.save()
    again.tell(o, Sent(*again.registry.have().get("o", (0, 0))))
    await again.others.save()
    third = await begin(tmp_path, Disk())
    assert stand(third.registry.slices["o"]) == stand(again.registry.slices["o"])
    assert third.registry.have()["o"] == [1, o.own.seq]


def unreadable(path: Path) -> Any:
    raise OSError(errno.EIO, "Input/output error") if path.exists() else FileNotFoundError(path)


async def test_what_has_no_room_is_not_kept_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = await begin(tmp_path, Disk(), limit=4000)
    small, large = Registry("small", 1), owner(100)
    small.publish("pc", ONLINE, NOW, 1, ["ssh"], bytes(32))
    for body in small.frames("small", Sent(0, 0), NOW):
        kept.hear(body)
    kept.tell(large, Sent(0, 0))
    await kept.others.save()
    assert "no room on the disk for what the relay server o tells" in caplog.text
    assert [p.name for p in (tmp_path / "others").iterdir()] == ["small.slice"]
    large.set_presence("pc1", OFFLINE, NOW)
    kept.tell(large, Sent(1, 100))
    await kept.others.save()
    assert caplog.text.count("no room") == 1


async def test_a_file_holds_what_is_known_and_little_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_files, "SPARE_BYTES", 500)
    kept = await begin(tmp_path, Disk())
    o, sent = owner(4), Sent(0, 0)
    sizes = []
    for n in range(200):
        o.set_presence("pc1", OFFLINE if n % 2 else ONLINE, NOW)
        kept.tell(o, sent)
        await kept.others.save()
        sizes.append((tmp_path / "others" / "o.slice").stat().st_size)
    assert max(sizes) < 3 * min(sizes) + 1500
    assert stand((await begin(tmp_path, Disk())).registry.slices["o"])[:2] == (1, o.own.seq)
    kept.registry.drop_owner("o")
    kept.others.gone("o")
    await kept.others.save()
    assert list((tmp_path / "others").iterdir()) == []


async def test_many_updates_at_once_make_one_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "GATHER_LIMIT", 3)
    kept = await begin(tmp_path, Disk())
    o, sent = owner(3), Sent(0, 0)
    for n in range(20):
        o.set_presence("pc1", OFFLINE if n % 2 else ONLINE, NOW)
        kept.tell(o, sent)
        assert sum(map(len, kept.others._due.values())) <= 3
    await kept.others.save()
    assert (tmp_path / "others" / "o.slice").read_bytes().count(b"\n") == 1
    assert (await begin(tmp_path, Disk())).registry.have()["o"] == [1, o.own.seq]


async def test_a_disk_that_takes_nothing_for_a_while_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    expected_errors.append("the disk failed")
    disk = Disk()
    kept = await begin(tmp_path, disk)
    o, sent = owner(4), Sent(0, 0)
    kept.tell(o, sent)
    await kept.others.save()

    def full(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    o.set_presence("pc1", OFFLINE, NOW)
    kept.tell(o, sent)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        await kept.others.save()
    o.set_presence("pc2", OFFLINE, NOW)
    kept.tell(o, sent)
    await kept.others.save()
    again = await begin(tmp_path, Disk())
    assert stand(again.registry.slices["o"]) == stand(kept.registry.slices["o"])


async def test_a_save_waits_for_one_that_may_fail_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    expected_errors.append("the disk failed")
    disk = Disk()
    kept = await begin(tmp_path, disk)
    o, sent = owner(4), Sent(0, 0)
    kept.tell(o, sent)
    await kept.others.save()
    committer: Any = kept.others._files._committer
    goes_on = trio.Event()

    async def commit(work: Callable[[], Any]) -> Any:
        monkeypatch.undo()
        await goes_on.wait()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(committer, "commit", commit)
    async with trio.open_nursery() as nursery:
        for name in ("pc1", "pc2"):
            o.set_presence(name, OFFLINE, NOW)
            kept.tell(o, sent)
            nursery.start_soon(kept.others.save)
            await trio.testing.wait_all_tasks_blocked()
        goes_on.set()
    again = await begin(tmp_path, Disk())
    assert stand(again.registry.slices["o"]) == stand(kept.registry.slices["o"])
