"""Where everything lies under `site.state` (DESIGN §7)."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["StatePaths", "lock_state"]


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The folders and files of one site's state."""

    root: Path

    @property
    def incoming(self) -> Path:
        return self.root / "spool" / "incoming"

    @property
    def queue(self) -> Path:
        return self.root / "spool" / "queue"

    @property
    def hold(self) -> Path:
        return self.root / "spool" / "hold"

    @property
    def corrupt(self) -> Path:
        return self.root / "spool" / "corrupt"

    @property
    def mail(self) -> Path:
        return self.root / "mail"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def fetched(self) -> Path:
        return self.root / "fetched"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def version(self) -> Path:
        return self.root / "version"

    def make(self, disk: Disk) -> None:
        """Makes the folders that are missing."""
        for folder in (self.incoming, self.queue, self.hold, self.corrupt, self.mail, self.fetched, self.keys):
            disk.mkdir(folder)


def lock_state(paths: StatePaths) -> int:
    """Makes this process the only one that writes below the root; -> the descriptor that holds the lock. Raises
    BlockingIOError when another Posthouse has it."""
    fd = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
