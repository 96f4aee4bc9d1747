"""The committer: shared flushes, who gets which error, cancelled waiters, the end."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.storage.committer import MAX_BATCH, Committer
from appliance.storage.disk import Disk


class SlowDisk(Disk):
    """A flush waits for `go`, which is set unless a test clears it; `failing`: the numbers (from 1)
    of those that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.go = threading.Event()
        self.go.set()
        self.flushing = threading.Event()
        self.failing: set[int] = set()

    def syncfs(self, path: Path) -> None:
        self.batches += 1
        self.flushing.set()
        assert self.go.wait(5)
        if self.batches in self.failing:
            raise OSError(errno.EIO, "broken")


@asynccontextmanager
async def running(disk: Disk, root: Path) -> AsyncIterator[Committer]:
    async with trio.open_nursery() as nursery:
        committer = Committer(disk, root)
        await nursery.start(committer.run)
        with trio.fail_after(5):
            yield committer
        nursery.cancel_scope.cancel()


async def flush_begun(disk: SlowDisk) -> None:
    """Waits until the committer's thread stands in a flush."""
    assert await trio.to_thread.run_sync(disk.flushing.wait, 5)
    disk.flushing.clear()


async def test_a_value_comes_back_flushed(tmp_path: Path) -> None:
    disk = Disk()
    async with running(disk, tmp_path) as committer:
        before = disk.flushes
        assert await committer.commit(lambda: (tmp_path / "x").write_text("a")) == 1
        assert disk.flushes == before + 1


async def test_what_gathers_during_a_flush_shares_the_next_one(tmp_path: Path) -> None:
    disk = SlowDisk()
    done: list[int] = []
    async with running(disk, tmp_path) as committer, trio.open_nursery() as nursery:

        async def session(i: int) -> None:
            assert await committer.commit(lambda: i) == i
            done.append(i)

        disk.go.clear()
        nursery.start_soon(session, 0)
        await flush_begun(disk)
        for i in range(1, 51):
            nursery.start_soon(session, i)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []  # the first flush is not over: nobody has been told anything
        disk.go.set()
    assert sorted(done) == list(range(51))
    assert disk.batches == 2


async def test_a_batch_is_bounded(tmp_path: Path) -> None:
    disk = SlowDisk()
    sizes: list[int] = []
    n = 0

    def work() -> None:
        nonlocal n
        n += 1

    async with running(disk, tmp_path) as committer, trio.open_nursery() as nursery:
        disk.go.clear()
        nursery.start_soon(committer.commit, work)
        await flush_begun(disk)
        for _ in range(2 * MAX_BATCH + 1):
            nursery.start_soon(committer.commit, work)
        await trio.testing.wait_all_tasks_blocked()
        sizes.append(n)
        disk.go.set()
    assert n == 2 * MAX_BATCH + 2
    assert disk.batches == 1 + 3


async def test_work_runs_in_the_order_in_which_it_came(tmp_path: Path) -> None:
    disk = SlowDisk()
    ran: list[int] = []
    async with running(disk, tmp_path) as committer, trio.open_nursery() as nursery:
        disk.go.clear()
        nursery.start_soon(committer.commit, lambda: None)
        await flush_begun(disk)
        for i in range(10):
            nursery.start_soon(committer.commit, lambda i=i: ran.append(i))
            await trio.testing.wait_all_tasks_blocked()
        disk.go.set()
    assert ran == list(range(10))


async def test_work_that_raises_fails_alone(tmp_path: Path) -> None:
    disk = SlowDisk()
    told: dict[str, object] = {}

    def bad() -> None:
        raise OSError(errno.ENOSPC, "full")

    def defect() -> None:
        raise KeyError("defect")

    async with running(disk, tmp_path) as committer, trio.open_nursery() as nursery:

        async def session(name: str, work: Callable[[], object]) -> None:
            try:
                told[name] = await committer.commit(work)
            except Exception as error:
                told[name] = error

        disk.go.clear()
        nursery.start_soon(session, "first", lambda: 1)
        await flush_begun(disk)
        for name, work in (("bad", bad), ("good", lambda: 2), ("defect", defect)):
            nursery.start_soon(session, name, work)
        await trio.testing.wait_all_tasks_blocked()
        disk.go.set()
    assert (told["first"], told["good"]) == (1, 2)
    assert isinstance(told["bad"], OSError)
    assert told["bad"].errno == errno.ENOSPC
    assert isinstance(told["defect"], KeyError)


async def test_a_flush_that_fails_fails_its_whole_batch_and_no_other(
    tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors.append("the disk failed")
    disk = SlowDisk()
    disk.failing = {2}
    told: dict[str, object] = {}
    async with running(disk, tmp_path) as committer:

        async def session(name: str, work: Callable[[], object]) -> None:
            try:
                told[name] = await committer.commit(work)
            except (OSError, ZeroDivisionError) as error:
                told[name] = type(error), getattr(error, "errno", 0)

        async with trio.open_nursery() as nursery:
            disk.go.clear()
            nursery.start_soon(session, "first", lambda: 1)
            await flush_begun(disk)
            nursery.start_soon(session, "own", lambda: 1 // 0)
            nursery.start_soon(session, "second", lambda: 2)
            nursery.start_soon(session, "third", lambda: 3)
            await trio.testing.wait_all_tasks_blocked()
            disk.go.set()
        await session("later", lambda: 4)
    failed = (OSError, errno.EIO)
    assert told == {"first": 1, "own": (ZeroDivisionError, 0), "second": failed, "third": failed, "later": 4}


async def test_a_cancelled_waiter_loses_the_answer_alone(tmp_path: Path) -> None:
    disk = SlowDisk()
    ran: list[str] = []
    async with running(disk, tmp_path) as committer:
        disk.go.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.commit, lambda: ran.append("first"))
            await flush_begun(disk)
            nursery.start_soon(committer.commit, lambda: ran.append("second"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        disk.go.set()
        await committer.commit(lambda: ran.append("third"))
    assert ran == ["first", "second", "third"]


async def test_the_end_drains_and_refuses_what_comes_later(tmp_path: Path) -> None:
    disk = SlowDisk()
    ran: list[int] = []
    committer = Committer(disk, tmp_path)
    async with trio.open_nursery() as sessions:
        async with trio.open_nursery() as nursery:
            await nursery.start(committer.run)
            disk.go.clear()
            for i in range(MAX_BATCH + 5):
                sessions.start_soon(committer.commit, lambda i=i: ran.append(i))
            await flush_begun(disk)
            nursery.cancel_scope.cancel()
            disk.go.set()
        assert sorted(ran) == list(range(MAX_BATCH + 5))
    with pytest.raises(OSError, match="has stopped"):
        await committer.commit(lambda: None)


async def test_a_committer_that_crashes_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system gives no more threads."""
    committer = Committer(Disk(), tmp_path)

    async def no_thread(*args: object, **kwargs: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    async with trio.open_nursery() as sessions:

        async def session() -> None:
            with trio.fail_after(5), pytest.raises(OSError, match="has stopped"):
                await committer.commit(lambda: None)

        for _ in range(MAX_BATCH + 1):
            sessions.start_soon(session)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr("appliance.storage.committer.trio.to_thread.run_sync", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            await committer.run()
