"""What those who ask for a call have of it: the call that was asked for, its progress, and why there was none. Plain
data; `caller` owns it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from appliance.call import LineState
    from appliance.calls.entry import Entry

__all__ = ["CallRefused", "Dialling", "Told"]


class CallRefused(Exception):
    """The policy refuses a call by hand; the text says why, and until when."""


@dataclass(eq=False)
class Dialling:
    """A call that was asked for or is under way. `done` is set at its end; then `entry` is its, or `refused` says why
    there was none. `force`: it passes the budget."""

    done: trio.Event = field(default_factory=trio.Event)
    entry: Entry | None = None
    refused: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A line of a call's progress, and the state of the phone line at that moment."""

    state: LineState
    text: str
