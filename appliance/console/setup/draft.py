"""The answers of the first start as a configuration: its text, its secrets, and what is wrong with it.

It knows no question: an answer is places of the configuration with their values, under the key of the question that it
answers. Whether a value will do is `config`'s to say, never decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from appliance.config.edit import written
from appliance.config.load import faults_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from appliance.config.faults import Fault, KeyPath

__all__ = ["Answer", "Draft"]

HEAD: Final = "# Made by `posthouse setup`. Every key: docs/configuration.md; `posthouse config set` changes one.\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """`typed`: what the question's default is when it is asked again, "" for what is not shown. `settings`: places and
    values; `secrets`: names and values."""

    typed: str
    settings: Sequence[tuple[KeyPath, object]] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class Draft:
    """`file`: where the configuration will be. `order`: the keys of the questions, as the text has their answers."""

    def __init__(self, file: Path, order: Sequence[str]) -> None:
        self.file = file
        self._order = order
        self._answers: dict[str, Answer] = {}

    def put(self, key: str, answer: Answer) -> list[Fault]:
        """Takes an answer, unless it is faulty: then what is wrong with it."""
        before = self._answers.get(key)
        self._answers[key] = answer
        own = [path for path, _ in answer.settings]
        faults = [f for f in self.faults() if any(f.path[: len(path)] == path for path in own)]
        if faults:
            if before is None:
                del self._answers[key]
            else:
                self._answers[key] = before
        return faults

    def forget(self, key: str) -> None:
        """The question is not asked any more."""
        self._answers.pop(key, None)

    def get(self, key: str) -> Answer | None:
        return self._answers.get(key)

    def typed(self, key: str, default: str = "") -> str:
        """What was typed for a question; the default where it was not asked."""
        answer = self._answers.get(key)
        return default if answer is None else answer.typed

    def faults(self) -> list[Fault]:
        """All that is wrong with it."""
        return faults_of(self.text(), self.file, self.secrets())

    def text(self) -> str:
        """`posthouse.toml`: the tables in the order in which questions come to them."""
        tables: dict[KeyPath, list[str]] = {}
        for answer in (self._answers[key] for key in self._order if key in self._answers):
            for (*table, key), value in answer.settings:
                tables.setdefault(tuple(table), []).append(f"{key} = {written(value)}\n")
        return HEAD + "".join(f"\n{_header(table)}\n{''.join(lines)}" for table, lines in tables.items())

    def secrets(self) -> dict[str, str]:
        """Those that it names."""
        return {name: value for answer in self._answers.values() for name, value in answer.secrets.items()}


def _header(table: KeyPath) -> str:
    """Of a table, or of one in an array of tables."""
    name = ".".join(part for part in table if isinstance(part, str))
    return f"[[{name}]]" if isinstance(table[-1], int) else f"[{name}]"
