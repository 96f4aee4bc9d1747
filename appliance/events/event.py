"""What an event is, and how it reaches the journal."""

from __future__ import annotations

import logging
import string
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from appliance.events.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "Event", "around", "emit", "table", "trace"]

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_log = logging.getLogger("posthouse")
_table: dict[str, Event] = {}
_around: ContextVar[Mapping[str, str]] = ContextVar("posthouse_around", default=MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the table.

    `id`: as in the journal's field EVENT. `message_id`: its MESSAGE_ID (systemd.journal-fields(7)), 32 hexadecimal
    digits that were drawn for it once (`systemd-id128 new`) and stay its own, whatever else changes; "" for what is
    only there to be read at level `DEBUG`, and has no catalog text. `level`: of `logging`. `text`: a format string over
    the fields, each of which `fields.FIELDS` explains. `follows`: what follows from it. `action`: what a person does
    about it, "" where nothing is to be done. `fold`: for what somebody outside, or a fault that lasts, can cause as
    often as it likes: those of them that agree in these fields are one entry a minute (`folding`); None: each is an
    entry. `alarm`: it is also mailed (`[alerts]`).
    """

    id: str
    message_id: str
    level: int
    text: str
    follows: str = ""
    action: str = ""
    fold: tuple[str, ...] | None = None
    alarm: bool = False

    def __post_init__(self) -> None:
        if self.id in _table:
            raise ValueError(f"event {self.id} is in the table twice")
        _table[self.id] = self

    @property
    def fields(self) -> tuple[str, ...]:
        """Those that it is emitted with, in the order of its text."""
        named = [name for _, name, _, _ in string.Formatter().parse(self.text) if name]
        return tuple(dict.fromkeys(named))


def table() -> dict[str, Event]:
    """id -> event, of all there are."""
    return dict(_table)


def emit(event: Event, /, **fields: object) -> None:
    """Puts one event into the journal (the handlers of the logger `posthouse`), its fields cleaned. A field that is
    None reads `none` and is left out of the entry's own fields, as an empty one is."""
    if not _log.isEnabledFor(event.level):
        return
    cleaned = {k: "none" if v is None else clean(v) for k, v in fields.items()}
    given = {k: v for k, v in cleaned.items() if v and fields[k] is not None}
    if known := _around.get():
        given = {**known, **given}
    # What `Logger.log` does, at half its cost: a relay server tells of thousands of circuits.
    caller = sys._getframe(1)
    code = caller.f_code
    text = event.text.format_map(cleaned).rstrip()
    record = logging.LogRecord(
        _log.name, event.level, code.co_filename, caller.f_lineno, text, None, None, code.co_name
    )
    record.__dict__.update(posthouse_event=event, posthouse_fields=given)
    _log.handle(record)


@contextmanager
def around(**fields: object) -> Iterator[None]:
    """What is emitted within this, also by tasks and threads that are begun in it, has these fields too."""
    before = _around.set({**_around.get(), **{k: clean(v) for k, v in fields.items()}})
    try:
        yield
    finally:
        _around.reset(before)


def trace(error: BaseException) -> None:
    """The traceback of a defect, at debug level, behind the event that told of it."""
    _log.debug("traceback", exc_info=error)
