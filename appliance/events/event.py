"""What an event is, and how it reaches the journal."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from appliance.events.text import clean

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "Event", "emit", "table", "trace"]

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_log = logging.getLogger("posthouse")
_table: dict[str, Event] = {}


@dataclass(frozen=True, slots=True)
class Event:
    """`id` as in the journal's field EVENT, `level` of `logging`, `text` a format string over the fields,
    `action` what a person does about it ("" where nothing is to be done)."""

    id: str
    level: int
    text: str
    action: str = ""

    def __post_init__(self) -> None:
        if self.id in _table:
            raise ValueError(f"event {self.id} is in the table twice")
        _table[self.id] = self


def table() -> dict[str, Event]:
    """id -> event, of all there are."""
    return dict(_table)


def emit(event: Event, /, **fields: object) -> None:
    """Puts one event into the journal (the handlers of the logger `posthouse`), its fields cleaned."""
    if not _log.isEnabledFor(event.level):
        return
    cleaned = {k: clean(v) for k, v in fields.items()}
    _log.log(
        event.level, "%s", event.text.format_map(cleaned), extra={"posthouse_event": event, "posthouse_fields": cleaned}
    )


def trace(error: BaseException) -> None:
    """The traceback of a defect, at debug level, behind the event that told of it."""
    _log.debug("traceback", exc_info=error)
