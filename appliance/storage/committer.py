"""One committer for everybody: sessions share flushes.

A session hands over a piece of synchronous work (create, write, rename …) and waits. The committer runs
all the work that has gathered in one thread, then flushes the file system once (`syncfs`), then lets every
session go on: what `commit` returns is on stable storage. While one batch flushes the next one gathers.

Errors. Work that raises fails alone, with its own error. A flush that fails fails its whole batch: nobody
is told that his message is safe when nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["Committer"]

T = TypeVar("T")

MAX_BATCH: Final = 256
"""Pieces of work in one batch, so that no session waits for an endless one."""


@dataclass(slots=True, eq=False)
class _Entry:
    work: Callable[[], Any]
    done: trio.Event
    value: Any = None
    error: BaseException | None = None


class Committer:
    """`run` is its service; `commit` is for everybody. `flushes` counts the batches."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self._root = root
        self._waiting: list[_Entry] = []
        self._wake = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self._stopped = False

    async def commit(self, work: Callable[[], T]) -> T:
        """Runs `work` in the committer's thread and returns its value once it is on stable storage.

        Raises what `work` raised, or OSError when the flush failed. Once handed over, work is done even if
        the caller is cancelled; only its answer is lost then.
        """
        if self._stopped:
            raise OSError("the committer has stopped")
        entry = _Entry(work, trio.Event())
        self._waiting.append(entry)
        self._wake.set()
        await entry.done.wait()
        if entry.error is not None:
            raise entry.error
        return entry.value  # type: ignore[no-any-return]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled; what was handed over before that is still done."""
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                await self._one_batch()
        finally:
            self._stopped = True
            with trio.CancelScope(shield=True):
                while self._waiting:
                    await self._one_batch()

    async def _one_batch(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        if not self._waiting:
            self._wake = trio.Event()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._work, batch, limiter=self._limiter)
        for entry in batch:
            entry.done.set()

    def _work(self, batch: list[_Entry]) -> None:
        done = 0
        for entry in batch:
            try:
                entry.value = entry.work()
                done += 1
            except Exception as error:
                entry.error = error
        if not done:
            return
        try:
            self.disk.syncfs(self._root)
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
            for entry in batch:
                entry.error = entry.error or OSError(error.errno, error.strerror)
