"""systemd: readiness and the watchdog (sd_notify(3)), and journal entries with fields. The only module that
imports systemd-python, and only where systemd started us.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.events import clean
from appliance.events.folding import FoldingHandler

if TYPE_CHECKING:
    from appliance.events import Event

__all__ = ["log_to", "notify", "notify_reloading"]

LINE_LIMIT: Final = 4000
"""Characters of one line of the log: an event's text with all its fields at their longest."""


SOCKET: Final = Path("/run/systemd/journal/socket")
"""Where journald takes entries (systemd-journald.service(8))."""


def notify(**fields: str) -> None:
    """Tells systemd, e.g. `notify(READY="1")`; nothing where nobody listens."""
    if os.environ.get("NOTIFY_SOCKET"):
        from systemd import daemon  # type: ignore[attr-defined,unused-ignore]

        daemon.notify("\n".join(f"{k}={v}" for k, v in fields.items()))


def notify_reloading() -> None:
    """Says that a reload has begun; `notify(READY="1")` says that it is done (systemd.service(5), notify-reload)."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


def log_to(level: int, *, journal: bool = False) -> None:
    """Sends the log to the journal where standard error is connected to it (JOURNAL_STREAM, systemd.exec(5)) or, with
    `journal`, where there is one; else as plain lines to standard error. Repeats are folded."""
    handler: logging.Handler
    if _stderr_is_journal() or (journal and SOCKET.exists()):
        handler = _JournalHandler()
        handler.setFormatter(_Cleaned())
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Cleaned("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # none of our lines says them
    root = logging.getLogger()
    root.handlers[:] = [FoldingHandler(handler)]
    root.setLevel(level)


def _stderr_is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


class _Cleaned(logging.Formatter):
    """Also what other libraries log, and tracebacks, can be shown."""

    _shown = 0, ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if "\n" not in text:
            return clean(text, LINE_LIMIT)
        return "\n".join(clean(line, LINE_LIMIT) for line in text.split("\n"))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Made once for all entries of a second: a relay server tells of thousands."""
        second, shown = self._shown
        if second != int(record.created):
            second, shown = self._shown = int(record.created), super().formatTime(record, datefmt)
        return shown


class _JournalHandler(logging.Handler):
    """An entry with the event's ids and fields, as docs/journal.md has them: `journalctl EVENT=dial-failed`."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)

    def emit(self, record: logging.LogRecord) -> None:
        from systemd import journal  # type: ignore[attr-defined,unused-ignore]

        event: Event | None = getattr(record, "posthouse_event", None)
        fields: dict[str, Any] = {k.upper(): v for k, v in getattr(record, "posthouse_fields", {}).items()}
        if event is not None:
            fields["EVENT"] = event.id
            if event.message_id:
                fields["MESSAGE_ID"] = event.message_id
        fields["PRIORITY"] = next((p for level, p in self._PRIORITIES if record.levelno >= level), 7)
        where = {"CODE_FILE": record.pathname, "CODE_LINE": record.lineno, "CODE_FUNC": record.funcName}
        try:
            journal.send(self.format(record), SYSLOG_IDENTIFIER="posthouse", **where, **fields)
        except OSError:
            self.handleError(record)
