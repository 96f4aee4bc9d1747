"""The record of fetched mail: what it holds after a restart, a torn tail, a failed append, a long history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.clock import Mark
from appliance.config.model import Account
from appliance.mail.store.fetched import (
    SPARE_LINES,
    FetchedRecord,
    Known,
    KnownState,
    by_message,
    delivery_key,
    record_name,
)
from appliance.storage import journal
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk

ACCOUNT = Account(protocol="pop3", host="pop", port=110, login="hanako")
A = Known("a", KnownState.FETCHED, 10, "ffff")
B = Known("b", KnownState.SKIPPED, 20)


def opened(folder: Path, committer: Committer) -> FetchedRecord:
    return FetchedRecord(committer.disk, committer, folder, "record", corrupt=folder / "corrupt")


@asynccontextmanager
async def committing(folder: Path, disk: Disk | None = None) -> AsyncIterator[Committer]:
    async with trio.open_nursery() as nursery:
        committer = Committer(disk or Disk(), folder)
        await nursery.start(committer.run)
        yield committer
        nursery.cancel_scope.cancel()


async def test_what_is_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    async with committing(tmp_path) as committer:
        record = opened(tmp_path, committer)
        assert (record.known, record.first_fetch) == ({}, None)
        await record.begin(123.5, [B])
        await record.add(A, Known("ö x", KnownState.FETCHED, 1))
        await record.forget(["ö x", "never seen"])
        await record.forget([])
        for it in (record, opened(tmp_path, committer)):
            assert it.known == {"a": A, "b": B}
            assert it.first_fetch == 123.5


async def test_a_first_fetch_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    """Whatever a power cut leaves of it: a message that is not known to be skipped would be fetched and deleted."""
    skipped = [Known(f"s{i}", KnownState.SKIPPED, i) for i in range(4)]
    async with committing(tmp_path) as committer:
        await opened(tmp_path, committer).begin(123.5, skipped)
        whole = (tmp_path / "record").read_bytes()
        for cut in range(len(whole)):
            (tmp_path / "record").write_bytes(whole[:cut])
            record = opened(tmp_path, committer)
            assert (record.known, record.first_fetch) == ({}, None), cut
        await record.begin(124.5, skipped[1:])
        for it in (record, opened(tmp_path, committer)):
            assert {s.uid for s in skipped[1:]} <= it.known.keys()
            assert it.first_fetch == 124.5


@pytest.mark.parametrize("cut", range(1, 40, 3))
async def test_a_torn_tail_is_put_aside_and_written_over(tmp_path: Path, cut: int) -> None:
    async with committing(tmp_path) as committer:
        record = opened(tmp_path, committer)
        await record.begin(1.0, [B])
        whole = record.path.read_bytes()
        await record.add(A)
        torn = record.path.read_bytes()[:-cut]
        record.path.write_bytes(torn)
        again = opened(tmp_path, committer)
        assert again.known == {"b": B}
        assert record.path.read_bytes() == whole
        assert [p.read_bytes() for p in (tmp_path / "corrupt").iterdir()] == [torn]
        await again.add(A)
        assert opened(tmp_path, committer).known == {"a": A, "b": B}
        assert not journal.replay(record.path).torn


class Torn(Disk):
    """A disk that gets full in the middle of a write."""

    full = False

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        if self.full:
            super().write(fd, bytes(data)[: len(data) // 2])
            raise OSError(28, "no space left on device")
        super().write(fd, data)


async def test_an_append_that_failed_leaves_no_hole(tmp_path: Path) -> None:
    disk = Torn()
    async with committing(tmp_path, disk) as committer:
        record = opened(tmp_path, committer)
        await record.begin(1.0, [])
        disk.full = True
        with pytest.raises(OSError, match="no space"):
            await record.add(A)
        assert record.known == {}
        disk.full = False
        await record.add(B)
        assert opened(tmp_path, committer).known == record.known == {"b": B}
        assert not (tmp_path / "corrupt").exists()


async def test_history_is_dropped(tmp_path: Path) -> None:
    async with committing(tmp_path) as committer:
        record = opened(tmp_path, committer)
        await record.begin(5.0, [B])
        asked = Mark(5.0, 2.0, "boot")
        await record.check(asked)
        for n in range(0, SPARE_LINES + 100, 100):
            some = [Known(f"u{n + i}", KnownState.FETCHED, i) for i in range(100)]
            await record.add(*some)
            await record.forget([k.uid for k in some])
        assert len(journal.replay(record.path).records) < SPARE_LINES
        await record.add(A)
        again = opened(tmp_path, committer)
        assert again.known == record.known == {"a": A, "b": B}
        assert again.first_fetch == 5.0
        assert again.checked == record.checked == asked


async def test_many_at_once_are_all_kept(tmp_path: Path) -> None:
    async with committing(tmp_path) as committer:
        record = opened(tmp_path, committer)
        before = committer.disk.flushes
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(record.add, Known(f"u{n}", KnownState.FETCHED, n))
        assert len(opened(tmp_path, committer).known) == 50
        assert committer.disk.flushes - before <= 5


async def test_a_cancelled_append_leaves_memory_and_file_alike(tmp_path: Path) -> None:
    async with committing(tmp_path) as committer:
        record = opened(tmp_path, committer)
        with trio.move_on_after(0):
            await record.begin(7.0, [B])
        await record.add(A)
        again = opened(tmp_path, committer)
        assert (record.known, record.first_fetch) == (again.known, again.first_fetch)


def test_names_and_keys_are_safe_and_tell_accounts_apart() -> None:
    accounts = [
        ACCOUNT,
        replace(ACCOUNT, login="../../etc/passwd"),
        replace(ACCOUNT, login="ha nako\n\x00é" * 50),
        replace(ACCOUNT, port=995),
        replace(ACCOUNT, host="."),
    ]
    names = {record_name(user, a) for a in accounts for user in ("hanako", "taro")}
    assert len(names) == 10
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) <= 100
        assert name.isascii()
        assert name.isprintable()
    keys = {delivery_key(u, a, uid) for a in accounts for u in ("hanako", "taro") for uid in ("1", "2", "é")}
    assert len(keys) == 30
    assert all(len(k) <= 32 and k.isalnum() and k == k.lower() for k in keys)


def test_by_message() -> None:
    assert by_message([A, B]) == {("ffff", 10): A}
