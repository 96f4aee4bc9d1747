"""One committer for everybody: sessions share flushes.

A session hands over a piece of synchronous work (create, write, rename …) and waits. The committer runs all the work
that has gathered in one thread, then flushes once (`Disk.flush_batch`), then lets every session go on: what
`commit` returns is on stable storage. While one batch flushes the next one gathers. When nothing has come for
`CHECKPOINT_S` the redo log is emptied.

Errors. Work that raises fails alone, with its own error. A flush that fails fails its whole batch: nobody is told that
his message is safe when nobody knows. Where the disk has a redo log the process then ends: the kernel tells of such an
error once, and only a new start, which does again what is in the log, is sure of what the disk has.
"""

from __future__ import annotations

import math
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

CHECKPOINT_S: Final = 5.0
"""So long after the last batch the file system is flushed, which empties the redo log."""
SLOW_S: Final = 0.02
SLOW_FOR_S: Final = 60.0
"""Quick work is done on the event loop, since a thread would fight with it for the interpreter at each system call: it
takes half the messages a second. Where work took longer than `SLOW_S` the disk is a slow one: a thread does it then."""
MAX_BATCH: Final = 256
"""Pieces of work in one batch, so that no session waits for an endless one."""
STOPPED: Final = "the committer has stopped"


@dataclass(slots=True, eq=False)
class _Entry:
    work: Callable[[], Any]
    done: trio.Event
    quick: bool
    then: Callable[[], None] | None
    worked: bool = False
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
        self._slow_until = 0.0
        self._batch_since: float | None = None

    @property
    def batch_s(self) -> float:
        """For how many seconds the batch under work has been; 0 while none is. A disk that hangs keeps one for ever."""
        return 0.0 if self._batch_since is None else trio.current_time() - self._batch_since

    async def commit(self, work: Callable[[], T], *, quick: bool = False, then: Callable[[], None] | None = None) -> T:
        """Runs `work` and returns its value once it is on stable storage. `quick`: it makes, writes and renames a few
        small files at most, and flushes nothing. `then` is called on the event loop once `work` has been done, also
        where the flush failed or the caller has gone: for what is kept in memory beside what is on the disk.

        Raises what `work` raised, or OSError when the flush failed. Once handed over, work is done even if
        the caller is cancelled; only its answer is lost then.
        """
        if self._stopped:
            raise OSError("the committer has stopped")
        entry = _Entry(work, trio.Event(), quick, then)
        self._waiting.append(entry)
        self._wake.set()
        await entry.done.wait()
        if entry.error is not None:
            raise entry.error
        return entry.value  # type: ignore[no-any-return]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled; what was handed over before that is still done."""
        self._stopped = False
        task_status.started()
        try:
            while not self.disk.broken:
                with trio.move_on_after(CHECKPOINT_S if self.disk.dirty else math.inf) as pause:
                    await self._wake.wait()
                if pause.cancelled_caught:
                    await self._in_thread(self._checkpoint)
                else:
                    await self._one_batch()
            raise OSError("the disk failed to flush: what it has is uncertain until the redo log is done again")
        finally:
            self._stopped = True
            with trio.CancelScope(shield=True):
                try:
                    while self._waiting and not self.disk.broken:
                        await self._one_batch()
                    await self._in_thread(self._checkpoint)
                finally:
                    self._tell(self._waiting, OSError(STOPPED))

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(work, *arguments, limiter=self._limiter)

    async def _one_batch(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        if not self._waiting:
            self._wake = trio.Event()
        self._batch_since = trio.current_time()
        try:
            if all(entry.quick for entry in batch) and trio.current_time() >= self._slow_until:
                began = trio.current_time()
                changes = self._work(batch)
                if trio.current_time() - began > SLOW_S:
                    self._slow_until = began + SLOW_FOR_S
                await self._in_thread(self._flush, batch, changes)
            else:
                await self._in_thread(lambda: self._flush(batch, self._work(batch)))
        except BaseException:
            # A defect: nobody may wait for ever, and nobody may believe that it is safe.
            self._tell(batch, OSError(STOPPED))
            raise
        finally:
            self._batch_since = None
        self._tell(batch)

    @staticmethod
    def _tell(entries: list[_Entry], error: OSError | None = None) -> None:
        for entry in entries:
            entry.error = entry.error or error
            if entry.worked and entry.then is not None:
                entry.then()
            entry.done.set()

    def _work(self, batch: list[_Entry]) -> object:
        self.disk.begin_batch()
        for entry in batch:
            try:
                entry.value = entry.work()
                entry.worked = True
            except Exception as error:
                entry.error = error
        return self.disk.end_batch()

    def _flush(self, batch: list[_Entry], changes: object) -> None:
        try:
            self.disk.make_durable(changes, self._root)
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
            for entry in batch:
                entry.error = entry.error or OSError(error.errno, error.strerror)

    def _checkpoint(self) -> None:
        try:
            self.disk.checkpoint()
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)
