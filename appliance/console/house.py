"""The running Posthouse as the console asks it, and the stored configuration where none runs. Looks only; what is done
goes by the command line."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.config.faults import ConfigErrors
from appliance.config.store import Editor, Store, StoreError
from appliance.config.whereabouts import whereabouts
from appliance.console.parse import Candidates, Choice
from appliance.console.paths import places, takes_open_value, values
from appliance.control.client import SOCKET_NAME, NotRunning, Refused, ask
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.config.whereabouts import Whereabouts

__all__ = ["Editing", "House"]

OFFERED: Final = 50
"""Messages, terminals or users that completion lists: who looks for one among more types its beginning."""


class Editing(NamedTuple):
    """How it stands with the candidate. `editor`: who began it, None where nothing is being edited; `back_at`: when the
    last commit goes back by itself, by the monotonic clock (inf: at the next start), None where none waits for its
    confirmation."""

    editor: Editor | None = None
    back_at: float | None = None


class House:
    """`file`: the configuration. `context`: what the paths that are typed count from."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.context = ""
        self.candidates: Candidates = {
            "message": lambda begun, given: self._named("queue", "id", begun),
            "terminal": lambda begun, given: self._named("terminals", "name", begun),
            "user": lambda begun, given: self._configured(begun, "user"),
            "account": lambda begun, given: self._configured(begun, "relay", "account"),
            "path": lambda begun, given: places(begun, self.context, self.candidate()),
            "value": lambda begun, given: values(begun, given["PATH"], self.context, self.candidate()),
        }

    def ask(self, verb: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """What the running Posthouse answers; None where none runs, or it refuses."""
        try:
            return ask(self._whereabouts().runtime / SOCKET_NAME, verb, arguments)
        except (NotRunning, Refused, ConfigErrors):
            return None

    @property
    def state(self) -> Path | None:
        """The folder of the state; None where the file does not say."""
        try:
            return self._whereabouts().state
        except ConfigErrors:
            return None

    @property
    def name(self) -> str:
        """The site's; "" where nothing says it."""
        site = self.candidate().get("site")
        return str(site.get("name", "")) if isinstance(site, dict) else ""

    def candidate(self) -> Mapping[str, Any]:
        """What is being edited, or is stored, as data."""
        answer = self.ask("config-show", {"path": ""})
        if answer is None:
            try:
                answer = {"value": self._store().show()[1]}
            except (ConfigErrors, StoreError, OSError, UnicodeError):
                answer = {"value": {}}
        value: Mapping[str, Any] = answer["value"]
        return value

    def takes_open_value(self, path: str) -> bool:
        """Whether a value stands at the place that was typed which is no secret and names none."""
        return takes_open_value(path, self.context, self.candidate())

    def editing(self) -> Editing:
        """How it stands with the candidate now."""
        answer = self.ask("config-status")
        if answer is None:
            try:
                store = self._store()
                answer = {"editing": store.editing, "confirm_left_s": math.inf if store.unconfirmed else None}
            except (ConfigErrors, OSError):
                return Editing()
        who, left_s = answer["editing"], answer["confirm_left_s"]
        return Editing(
            Editor(who["who"], who["where"]) if who else None, None if left_s is None else time.monotonic() + left_s
        )

    def went_back(self) -> str:
        """What the last revision says, where it is a commit that was taken back; else ""."""
        last: Mapping[str, Any] = next(iter(self.ask("config-revisions") or ()), {})
        return str(last.get("comment")) if last.get("who") == "(not confirmed)" else ""

    def _whereabouts(self) -> Whereabouts:
        return whereabouts(self._file)

    def _store(self) -> Store:
        return Store(self._file, StatePaths(self._whereabouts().state).config, Disk())

    def _configured(self, begun: str, *path: str) -> list[Choice]:
        """The names of an array's elements in the candidate."""
        found: Any = self.candidate()
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        elements = found if isinstance(found, list) else []
        return _offered([str(e["name"]) for e in elements if isinstance(e, dict) and "name" in e], begun)

    def _named(self, verb: str, key: str, begun: str) -> list[Choice]:
        return _offered([str(row[key]) for row in self.ask(verb) or ()], begun)


def _offered(names: list[str], begun: str) -> list[Choice]:
    found = [Choice(name, "", name) for name in names if name.startswith(begun)]
    return found[:OFFERED]
