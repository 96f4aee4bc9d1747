"""An Inbox over real drafts, its mailbox a dict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from appliance.storage.disk import Disk
from appliance.storage.draft import Draft


class FakeInbox:
    """`delivered`: (key, bytes) in the order of delivery. `room`: bytes that still fit, None for any;
    `disk`: says how many bytes the disk has, beside what the drafts hold."""

    user = "hanako"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.delivered: list[tuple[str, bytes]] = []
        self.room: int | None = None
        self.disk: Callable[[], int] = lambda: 1 << 60
        self.fail = False
        self._serial = 0

    @property
    def messages(self) -> list[bytes]:
        return [data for _, data in self.delivered]

    # ---- the contract
    def has_room(self, size: int) -> bool:
        return self.room is None or size <= self.room

    def disk_has_room(self, size: int) -> bool:
        return size < self.disk()

    def draft(self) -> Draft:
        self._serial += 1
        return Draft(Disk(), self.folder / f"{self._serial}.draft")

    async def deliver(self, draft: Draft, *, key: str, replaces: str = "") -> None:
        assert 0 < len(key) <= 32
        assert key.isalnum()
        assert key == key.lower()
        await trio.lowlevel.checkpoint()
        if self.fail:
            raise OSError(28, "no space left on device")
        draft.finish()
        self.delivered = [(k, data) for k, data in self.delivered if not replaces or k != replaces]
        self.delivered.append((key, draft.path.read_bytes()))
        draft.path.unlink()
        if self.room is not None:
            self.room -= draft.size

    def delivered_keys(self) -> set[str]:
        return {key for key, _ in self.delivered}
