"""Where everything lies under `site.state` (DESIGN §7)."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["StatePaths", "lock_folders", "lock_state", "unlock"]


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
        self.relay = root / "relay"
        self.keys = root / "keys"
        self.config = root / "config"
        self.version = root / "version"
        self.clock = root / "clock"
        self.alerts = root / "alerts"
        # Of a backup and a restore (`app.backup`).
        self.snapshot = root / "backup"
        self.restored = root / "restore"
        self.restoring = root / "restoring"
        self.before_restore = root / "before-restore"

    def make(self, disk: Disk) -> None:
        """Makes the folders that are missing."""
        spool = (self.incoming, self.queue, self.hold, self.corrupt)
        for folder in (*spool, self.mail, self.fetched, self.relay, self.keys):
            disk.mkdir(folder)


def lock_state(paths: StatePaths) -> int:
    """Makes this process the only one that writes below the root; as `lock_folders`."""
    return _lock(paths.root)


def lock_folders(*folders: Path) -> tuple[int, ...]:
    """Makes these folders this process's own; -> the descriptors that hold the locks. Raises BlockingIOError, with the
    folder as its `filename`, when another Posthouse has one of them."""
    locks: list[int] = []
    try:
        for folder in dict.fromkeys(f.resolve() for f in folders):
            locks.append(_lock(folder))
    except OSError:
        unlock(locks)
        raise
    return tuple(locks)


def unlock(locks: Iterable[int]) -> None:
    """Before the process ends, which does it anyhow."""
    for fd in locks:
        os.close(fd)


def _lock(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise BlockingIOError(error.errno, error.strerror, str(folder)) from None
    except OSError:
        os.close(fd)
        raise
    return fd
