"""The running Posthouse as the console asks it, and the stored configuration where none runs. Looks only; what is done
goes by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.config.whereabouts import ConfigErrors, whereabouts
from appliance.console.parse import Candidates, Choice
from appliance.control.client import SOCKET_NAME, NotRunning, Refused, ask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["House"]


class House:
    """`file`: the configuration."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.candidates: Candidates = {
            "message": lambda begun, given: self._named("queue", "id", begun),
            "terminal": lambda begun, given: self._named("terminals", "name", begun),
        }

    @property
    def state(self) -> Path | None:
        """The folder of the state; None where the file does not say."""
        try:
            return whereabouts(self._file).state
        except ConfigErrors:
            return None

    def ask(self, verb: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """What the running Posthouse answers; None where none runs, or it refuses."""
        try:
            return ask(whereabouts(self._file).runtime / SOCKET_NAME, verb, arguments)
        except (NotRunning, Refused, ConfigErrors):
            return None

    def _named(self, verb: str, key: str, begun: str) -> list[Choice]:
        names = [str(row[key]) for row in self.ask(verb) or ()]
        return [Choice(name, "", name) for name in names if name.startswith(begun)]
