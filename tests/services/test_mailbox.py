"""The mailbox: names, listing beside another program that moves files, quota, recovery, and the power cut."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.mail.delivery import Inbox
from appliance.mail.store import mailbox as module
from appliance.mail.store.mailbox import Mailbox, MessageGone
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.storage.recording import Fate, RecordingDisk, power_cut

MAIL = b"Subject: x\r\n\r\nbody\r\n"


def make(root: Path, *, disk: Disk | None = None, user: str = "hanako", **options) -> Mailbox:
    disk = disk or Disk()
    paths = StatePaths(root)
    paths.make(disk)
    box = Mailbox(user, paths, Committer(disk, root), site="harbour", **options)
    box.recover()
    return box


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    return make(tmp_path)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Mailbox]:
    box = make(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(box._committer.run)
        yield box
        nursery.cancel_scope.cancel()


def put(box: Mailbox, data: bytes = MAIL, **options) -> Path:
    """Delivers by rename, without the flush."""
    source = box.root / "tmp" / f"source{time.monotonic_ns()}"
    source.write_bytes(data)
    return box.move_in(source, len(data), zlib.crc32(data), **options)


def contents(box: Mailbox) -> list[bytes]:
    out = []
    for message in box.messages():
        with box.open(message) as file:
            out.append(file.read())
    return out


def to_cur(path: Path, flags: str = "S") -> Path:
    """What Dovecot does when a message is seen."""
    return path.rename(path.parent.parent / "cur" / f"{path.name.partition(':')[0]}:2,{flags}")


# ---- delivering
async def test_deliver_is_durable_with_one_flush_and_keeps_the_key(running: Mailbox) -> None:
    inbox: Inbox = running
    before = running._disk.flushes
    draft = inbox.draft()
    await draft.write(MAIL)
    await inbox.deliver(draft, key="k1")
    assert running._disk.flushes == before + 1
    assert contents(running) == [MAIL]
    assert inbox.delivered_keys() == {"k1"}
    assert not list((running.root / "tmp").iterdir())


async def test_a_large_draft_and_a_discarded_one(running: Mailbox) -> None:
    big = os.urandom(300_000)
    draft, other = running.draft(), running.draft()
    for i in range(0, len(big), 7000):
        await draft.write(big[i : i + 7000])
        await other.write(big[i : i + 7000])
    await other.discard()
    await running.deliver(draft, key="")
    assert contents(running) == [big]
    assert not list((running.root / "tmp").iterdir())


async def test_a_failed_delivery_leaves_nothing(running: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> None:
        raise OSError(28, "No space left on device")

    draft = running.draft()
    await draft.write(MAIL)
    monkeypatch.setattr(running._disk, "write", full)
    with pytest.raises(OSError, match="No space"):
        await running.deliver(draft, key="k")
    await draft.discard()
    assert not list(running.root.rglob("*.*"))
    assert not running.delivered_keys()


def test_the_name_says_size_sum_key_and_site(box: Mailbox) -> None:
    data = b"a\nb\r\nc\n"  # two bare line feeds: Dovecot counts them as CRLF
    path = put(box, data, key="abc123")
    assert path.parent == box.root / "new"
    seconds, rest = path.name.split(".", 1)
    assert abs(int(seconds) - time.time()) < 60
    assert rest.startswith("M")
    assert f"C{zlib.crc32(data):08x}Kabc123.harbour,S=7,W=9" in rest
    (message,) = box.messages()
    assert (message.size, message.wire_size, message.crc32, message.key) == (7, 9, zlib.crc32(data), "abc123")


@pytest.mark.parametrize("cut", range(7))
def test_bare_line_feeds_are_counted_across_reads(box: Mailbox, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(module, "READ", cut + 1)
    put(box, b"a\r\nb\n\r\r\n\n")
    assert box.messages()[0].wire_size == 9 + 2


@pytest.mark.parametrize("key", ["A", "a.b", "a" * 33, "../x"])
def test_a_key_that_does_not_fit_a_name_is_refused(box: Mailbox, key: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        put(box, key=key)


def test_a_site_name_can_not_break_a_file_name(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    box = Mailbox("hanako", paths, Committer(Disk(), tmp_path), site="a/b:2,S=9")
    box.recover()
    put(box)
    assert contents(box) == [MAIL]
    assert box.messages()[0].size == len(MAIL)


def test_one_message_to_three_users_takes_its_room_once(tmp_path: Path) -> None:
    boxes = [make(tmp_path, user=u) for u in ("a", "b", "c")]
    source = tmp_path / "spool" / "incoming" / "x"
    source.write_bytes(MAIL)
    paths = [b.link_in(source, len(MAIL), zlib.crc32(MAIL), key="id1") for b in boxes]
    assert {p.stat().st_ino for p in paths} == {source.stat().st_ino}
    assert source.stat().st_nlink == 4
    assert [contents(b) for b in boxes] == [[MAIL]] * 3


@pytest.mark.parametrize("prefix", [b"", b"Return-Path: <a@b>\r\n"])
@pytest.mark.parametrize("data", [b"", MAIL, os.urandom(3_000_000)])
def test_copy_in_puts_a_prefix_in_front(box: Mailbox, tmp_path: Path, data: bytes, prefix: bytes) -> None:
    source = tmp_path / "x"
    source.write_bytes(data)
    path = box.copy_in(source, prefix=prefix, key="k")
    assert path.read_bytes() == prefix + data
    assert source.read_bytes() == data
    (message,) = box.messages()
    assert (message.size, message.crc32) == (len(prefix + data), zlib.crc32(prefix + data))


def test_order_of_delivery_holds_though_the_clock_stands_still_or_goes_back(tmp_path: Path) -> None:
    times = iter([1000.0, 1000.0, 999.0, 1000.000001, 1001.5])
    box = make(tmp_path, wall=lambda: next(times))
    paths = [put(box, b"%d" % i) for i in range(5)]
    assert contents(box) == [b"0", b"1", b"2", b"3", b"4"]
    to_cur(paths[3])
    to_cur(paths[0])
    assert contents(box) == [b"0", b"1", b"2", b"3", b"4"]


# ---- beside another program
def test_what_dovecot_moves_flags_and_deletes_is_followed(box: Mailbox) -> None:
    one, two, three = (put(box, b"%d" % i) for i in range(3))
    before = box.messages()
    uidls = [m.uidl for m in before]
    assert len(set(uidls)) == 3
    assert all(1 <= len(u) <= 70 and all(0x21 <= ord(c) <= 0x7E for c in u) for u in uidls)
    seen = to_cur(one)
    assert [m.uidl for m in box.messages()] == uidls
    seen.rename(seen.with_name(seen.name + "T"))
    to_cur(two, "")
    assert [m.uidl for m in box.messages()] == uidls
    assert [m.path.parent.name for m in box.messages()] == ["cur", "cur", "new"]
    three.unlink()
    assert [m.uidl for m in box.messages()] == uidls[:2]
    with box.open(before[0]) as file:  # by what a listing said before all that
        assert file.read() == b"0"
    with pytest.raises(MessageGone):
        box.open(before[2])


def test_files_of_other_programs_count_too(box: Mailbox) -> None:
    cur = box.root / "cur"
    (cur / "1700000000.M5P6.host,S=3,W=4:2,S").write_bytes(b"a\nb")
    (cur / "1600000000.1234.host:2,").write_bytes(b"12345")
    (cur / "odd name, without anything").write_bytes(b"1234567")
    (cur / ".hidden").write_bytes(b"no mail")
    got = [(m.size, m.wire_size, m.crc32, m.key) for m in box.messages()]
    assert got == [(5, 5, None, ""), (3, 4, None, ""), (7, 7, None, "")]
    assert box.usage == 15
    box.recover()
    assert len(box.messages()) == 3


def test_a_settled_listing_is_used_again_and_a_fresh_one_is_not(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    read = box._read
    monkeypatch.setattr(box, "_read", lambda known: scans.append(1) or read(known))
    put(box)
    box.messages()
    box.messages()
    assert len(scans) == 2  # too soon after the change to trust the folder's time
    for folder in ("new", "cur"):
        os.utime(box.root / folder, (1_700_000_000, 1_700_000_000))
    box.messages()
    assert len(scans) == 3
    assert [m.size for m in box.messages()] == [len(MAIL)]
    assert box.usage == len(MAIL)
    assert len(scans) == 3
    put(box)
    assert len(box.messages()) == 2


def test_a_change_while_the_folder_is_read_makes_it_read_again(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(box)
    read, moved = box._read, []

    def reading(known):
        out = read(known)
        if not moved:
            moved.append(to_cur(path))
            os.utime(box.root / "cur", ns=(1, 1))  # as a clock with a fine tick would show it
        return out

    monkeypatch.setattr(box, "_read", reading)
    assert [m.path for m in box.messages()] == moved


def test_a_message_in_both_folders_is_one_message(box: Mailbox) -> None:
    path = put(box)
    os.link(path, box.root / "cur" / f"{path.name}:2,S")  # as a program that moves by link and unlink leaves it
    assert [m.path.parent.name for m in box.messages()] == ["cur"]
    assert box.usage == len(MAIL)


async def test_delete_finds_what_was_moved_and_flushes_once(running: Mailbox) -> None:
    paths = [put(running, b"%d" % i) for i in range(4)]
    listed = running.messages()
    to_cur(paths[0], "RS")
    paths[1].unlink()
    flushes = running._disk.flushes
    await running.delete(listed[:3])
    assert running._disk.flushes == flushes + 1
    assert contents(running) == [b"3"]


async def test_delete_says_when_it_could_not(running: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    put(running)

    def broken(path: Path, *, moved: bool) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(running._disk, "unlink", broken)
    with pytest.raises(OSError, match="Input/output"):
        await running.delete(running.messages())
    assert contents(running) == [MAIL]


# ---- quota
def test_quota_counts_octets_in_new_and_cur(tmp_path: Path) -> None:
    box = make(tmp_path, quota_bytes=100)
    path = put(box, b"x" * 60)
    assert (box.usage, box.has_room(40), box.has_room(41)) == (60, True, False)
    to_cur(path).unlink()
    assert (box.usage, box.has_room(100)) == (0, True)
    assert make(tmp_path, user="other").has_room(1 << 40)


def test_the_disk_is_asked_where_somebody_knows_it(tmp_path: Path) -> None:
    free = [100]
    box = make(tmp_path, free_bytes=lambda: free[0])
    assert (box.disk_has_room(99), box.disk_has_room(100)) == (True, False)
    free[0] = 0
    assert not box.disk_has_room(0)
    assert make(tmp_path, user="other").disk_has_room(1 << 40)


# ---- recovery
def test_recovery_puts_aside_what_is_damaged_and_removes_leftovers(
    box: Mailbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, short, long, wrong, seen_short, seen_wrong, seen_good = (put(box, b"message %d" % i) for i in range(7))
    short.write_bytes(b"mess")
    long.write_bytes(b"message 2 and more")
    wrong.write_bytes(b"message X")
    for path, data in ((seen_short, b""), (seen_wrong, b"message Y"), (seen_good, b"message 6")):
        to_cur(path).write_bytes(data)
    (box.root / "new" / "1700000000.M5P6.host,S=3").write_bytes(b"not three, and not ours to judge")
    draft = box.root / "tmp" / "1700000000.M000001P1.draft"
    draft.write_bytes(b"half")
    young, old = box.root / "tmp" / "dovecot1", box.root / "tmp" / "dovecot2"
    young.touch()
    old.touch()
    os.utime(old, (1, 1))

    box = make(tmp_path)
    assert good.exists()
    assert sorted(contents(box)) == [b"message 0", b"message 6", b"not three, and not ours to judge"]
    aside = sorted(p.read_bytes() for p in (tmp_path / "spool" / "corrupt").iterdir())
    assert aside == [b"", b"mess", b"message 2 and more", b"message X", b"message Y"]
    assert [p.name for p in (box.root / "tmp").iterdir()] == ["dovecot1"]
    assert sum("is damaged" in r.getMessage() for r in caplog.records) == 5
    caplog.clear()
    make(tmp_path)
    assert not caplog.records


def test_recovery_goes_on_while_dovecot_moves_and_deletes(
    box: Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, damaged, gone = (put(box, b"message %d" % i) for i in range(3))
    damaged.write_bytes(b"mess")
    listing = box.messages()
    to_cur(good)
    moved = to_cur(damaged)
    gone.unlink()
    messages, stale = Mailbox.messages, [listing]
    monkeypatch.setattr(Mailbox, "messages", lambda self: stale.pop() if stale else messages(self))
    box.recover()
    assert contents(box) == [b"message 0"]
    assert [p.name for p in (tmp_path / "spool" / "corrupt").iterdir()] == [f"hanako.{moved.name}"]


def test_what_was_flushed_long_ago_is_not_read_in_cur(box: Mailbox, tmp_path: Path) -> None:
    old, short, fresh = (to_cur(put(box, data)) for data in (b"old 1", b"old 3", b"new 1"))
    old.write_bytes(b"old 2")
    short.write_bytes(b"old")
    for path in (old, short):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    fresh.write_bytes(b"new 2")
    assert contents(make(tmp_path)) == [b"old 2"]


async def test_power_cut_after_every_operation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Deliveries by draft, rename and link, then a deletion, cut behind each operation: what was promised is there
    once and whole, what was not is whole or absent, and what was deleted for good stays away."""
    live = tmp_path / "live"
    live.mkdir()
    disk = RecordingDisk(live)
    box, other = make(live, disk=disk), make(live, disk=disk, user="taro")
    other._committer = box._committer
    first, second, third = b"first " * 9, os.urandom(200_000), b"third " * 7

    async with trio.open_nursery() as nursery:
        await nursery.start(box._committer.run)
        draft = box.draft()
        await draft.write(first)
        await box.deliver(draft, key="k1")
        disk.mark("first")
        draft = box.draft()
        for i in range(0, len(second), 50_000):
            await draft.write(second[i : i + 50_000])
        await box.deliver(draft, key="k2")
        disk.mark("second")

        source = live / "spool" / "incoming" / "x"

        def local() -> None:
            fd = disk.create(source)
            disk.write(fd, third)
            disk.close(fd)
            other.link_in(source, len(third), zlib.crc32(third), key="k3")
            box.move_in(source, len(third), zlib.crc32(third), key="k3")

        await box._committer.commit(local)
        disk.mark("third")
        begun = len(disk.operations)
        await box.delete([m for m in box.messages() if m.key == "k1"])
        disk.mark("deleted")
        nursery.cancel_scope.cancel()

    aside = 0
    bodies = {"first": first, "second": second, "third": third}
    for n in range(len(disk.operations) + 1):
        for fate in Fate:
            for seed in range(4 if fate is Fate.MIXED else 1):
                root = tmp_path / "cut"
                power_cut(disk, n, fate, root, seed=seed)
                after = [make(root), make(root, user="taro")]
                promised = {what for at, what in disk.marks if at <= n}
                found = [contents(b) for b in after]
                for bodies_found in found:
                    assert set(bodies_found) <= set(bodies.values())
                    assert len(set(bodies_found)) == len(bodies_found)
                if "deleted" in promised:
                    assert first not in found[0]
                elif "first" in promised and n <= begun:
                    assert first in found[0]
                assert "second" not in promised or second in found[0]
                assert "third" not in promised or (third in found[0] and found[1] == [third])
                assert after[0].delivered_keys() == {f"k{1 + list(bodies.values()).index(f)}" for f in found[0]}
                aside += len(list((root / "spool" / "corrupt").iterdir()))
                root.rename(tmp_path / f"done-{n}-{fate.name}-{seed}")
    assert aside  # some cuts did leave damage, and it was found


async def test_what_the_redo_log_brought_back_beside_its_moved_self_goes(tmp_path: Path, running: Mailbox) -> None:
    draft = running.draft()
    draft.write_nowait(b"Subject: once\r\n\r\n")
    await running.deliver(draft)
    (message,) = running.messages()
    (running.root / "cur" / f"{message.base}:2,S").hardlink_to(message.path)
    running.recover()
    assert [m.path.parent.name for m in running.messages()] == ["cur"]


@pytest.mark.parametrize("there", [b"", b"Subject: onc\0\r\n\r\n"])
async def test_and_takes_its_place_where_only_the_name_had_reached_the_disk(
    tmp_path: Path, running: Mailbox, there: bytes
) -> None:
    draft = running.draft()
    draft.write_nowait(b"Subject: once\r\n\r\n")
    await running.deliver(draft)
    (message,) = running.messages()
    (running.root / "cur" / f"{message.base}:2,S").write_bytes(there)
    running.recover()
    assert [m.path.name for m in running.messages()] == [f"{message.base}:2,S"]
    assert contents(running) == [b"Subject: once\r\n\r\n"]


async def test_what_is_delivered_in_the_place_of_another(running: Mailbox) -> None:
    stub = b"stub"
    put(running, stub, key="stub1")
    to_cur(put(running, b"other", key="k2"))
    to_cur(running.messages()[0].path)
    for text, key, replaces in ((b"whole", "k3", "stub1"), (b"more", "k4", "none")):
        draft = running.draft()
        await draft.write(text)
        await running.deliver(draft, key=key, replaces=replaces)
    assert sorted(contents(running)) == [b"more", b"other", b"whole"]
