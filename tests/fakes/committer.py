"""A committer without a thread, so that a MockClock may jump: work is done and flushed before `commit` returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from appliance.storage.disk import Disk

T = TypeVar("T")


class InlineCommitter:
    """As `storage.Committer`, for tests with simulated time."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self._root = root

    async def commit(self, work: Callable[[], T], *, quick: bool = False) -> T:
        await trio.lowlevel.checkpoint()
        value = work()
        self.disk.syncfs(self._root)
        return value
