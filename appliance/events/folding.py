"""Repeats as one entry. A handler of `logging` in front of the one that writes.

The first of its kind (`Event.fold`) is shown at once; those that follow within `WINDOW_S` are counted. The count comes
with the last of them, before the next entry that is written after that time, or at the end: no timer, so an idle
Posthouse stays silent.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.events.event import Event

__all__ = ["WINDOW_S", "FoldingHandler"]

WINDOW_S: Final = 60.0
KINDS_LIMIT: Final = 256
"""Kinds that are remembered at once, each with its last entry; a LAN has fewer clients that go wrong in a minute."""


@dataclass(slots=True)
class _Kind:
    until: float
    last: logging.LogRecord
    more: int = 0


class FoldingHandler(logging.Handler):
    """Hands to `behind` what is to be written. `clock`: seconds that only grow."""

    def __init__(self, behind: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._behind = behind
        self._clock = clock
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        for key in [k for k, kind in self._kinds.items() if kind.until <= now]:
            self._tell(self._kinds.pop(key))
        event: Event | None = getattr(record, "posthouse_event", None)
        if event is not None and event.fold is not None:
            fields = record.posthouse_fields  # type: ignore[attr-defined]
            key = (event.id, *(fields.get(name, "") for name in event.fold))
            if (kind := self._kinds.get(key)) is not None:
                kind.last, kind.more = record, kind.more + 1
                return
            if len(self._kinds) >= KINDS_LIMIT:
                self._tell(self._kinds.pop(next(iter(self._kinds))))
            self._kinds[key] = _Kind(now + WINDOW_S, record)
        self._behind.handle(record)

    def close(self) -> None:
        """Tells what was counted last; at the end of the process."""
        self.acquire()
        try:
            while self._kinds:
                self._tell(self._kinds.pop(next(iter(self._kinds))))
        finally:
            self.release()
        super().close()

    def _tell(self, kind: _Kind) -> None:
        if not kind.more:
            return
        record = copy.copy(kind.last)
        others = f" (and {kind.more - 1} more like it)" if kind.more > 1 else ""
        record.msg, record.args = record.getMessage() + others, ()
        record.posthouse_fields = {**record.posthouse_fields, "repeated": str(kind.more)}  # type: ignore[attr-defined]
        self._behind.handle(record)
