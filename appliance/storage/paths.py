"""Where everything lies under `site.state` (DESIGN §7)."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["StatePaths", "lock_state"]


class StatePaths:
    """The folders and files of one site's state, put together once: they are asked for with every message."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "spool" / "incoming"
        self.queue = root / "spool" / "queue"
        self.hold = root / "spool" / "hold"
        self.corrupt = root / "spool" / "corrupt"
        self.mail = root / "mail"
        self.ledger = root / "ledger"
        self.fetched = root / "fetched"
        self.keys = root / "keys"
        self.version = root / "version"

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
