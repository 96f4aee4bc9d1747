"""Reads `posthouse.toml` and all it names into a `Config`, or says everything that is wrong with it at once.

It owns the walk over the file: which keys there are, what type they have, what is missing. How one value is
written it asks the kinds (`units.py`, `addresses.py`), what fits together the rules (`rules.py`, `rules_mail.py`),
where things stand `document.py`. It changes nothing and needs no running Posthouse.

A wrong value is replaced by its kind's `blank` and the walk goes on, so that one run finds all faults; a `Config` is
handed out only when there were none.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.config import copies, rules, rules_mail
from appliance.config.document import Document
from appliance.config.faults import (
    ConfigErrors,
    ErrorLine,
    Fault,
    Faults,
    KeyPath,
    Unfit,
    choice,
    nearest,
    quoted,
    show,
)
from appliance.config.model import Config
from appliance.config.schema import ROOT, Entry, Table, Tables, attribute, required, tables
from appliance.config.secrets import SECRETS_FILE, Secrets, credentials_folder
from appliance.config.units import WORDS_OF_TOML, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConfigErrors", "faults_in", "faults_of", "load"]


def load(path: Path, *, credentials: Path | None = None, beside: Path | None = None) -> Config:
    """The configuration in this file. Raises ConfigErrors.

    Paths in it are relative to its folder, `secrets.toml` lies beside it; so they are to `beside`'s, where the file is
    one that is to take that one's place. `credentials` is the folder of systemd's,
    by default $CREDENTIALS_DIRECTORY. `Config.secrets` holds those that the configuration names.
    """
    try:
        raw = copies.read(path)
    except OSError as error:
        fault = Fault((), f"can't be read: {error.strerror}", "a configuration file")
        raise ConfigErrors([ErrorLine(path, 1, fault)]) from None
    document = Document(path, raw)
    home = beside or path
    secrets = Secrets(home.with_name(SECRETS_FILE), credentials or credentials_folder())
    config, faults = _read(document, home, secrets)
    if faults or secrets.errors:
        raise ConfigErrors([document.error(f) for f in faults] + secrets.errors)
    return config


def faults_in(path: Path) -> list[dict[str, str | int]]:
    """What is wrong with this file, for programs: `ErrorLine.parts` of each fault."""
    try:
        load(path)
    except ConfigErrors as errors:
        return [line.parts for line in errors.lines]
    return []


def faults_of(text: str, file: Path, secrets: Mapping[str, str]) -> list[Fault]:
    """What would be wrong if `file` held this text, with these secrets beside it, in the text's order: for who asks a
    person for one value after the other. Nothing is written. Raises ConfigErrors where the text is no TOML."""
    document = Document(file, text.encode())
    return _read(document, file, Secrets(file.with_name(SECRETS_FILE), None, values=secrets))[1]


def _read(document: Document, home: Path, secrets: Secrets) -> tuple[Config, list[Fault]]:
    reader = _Reader(home.absolute().parent)
    config: Config = reader.table(ROOT, document.data, ())
    rules.check(config, reader.faults)
    rules_mail.check(config, reader.faults)
    named = reader.resolve(secrets)
    return replace(config, secrets=named), sorted(reader.faults, key=lambda f: document.line(f.path))


class _Reader:
    """`faults`: what was wrong so far. `_named`: the places that name a secret."""

    def __init__(self, folder: Path) -> None:
        self.faults = Faults()
        self._folder = folder
        self._named: list[tuple[KeyPath, Kind, str]] = []

    def table(self, table: Table, data: Mapping[str, object], path: KeyPath) -> Any:
        """The dataclass that this table's is."""
        values: dict[str, object] = {}
        for key, raw in data.items():
            place = (*path, key)
            entry = table.entries.get(key)
            if entry is None:
                self.faults.add(place, "unknown key", _known(key, table))
            else:
                values[attribute(key, entry)] = self._entry(entry, raw, place)
        for key in required(table):
            entry = table.entries[key]
            if attribute(key, entry) not in values:
                self.faults.add((*path, key), "is missing", _expected(entry, (key,)))
                values[attribute(key, entry)] = _blank(entry)
        table.complete(values)
        return table.target(**values)

    def resolve(self, secrets: Secrets) -> dict[str, str]:
        """The secrets that the file names; one that is missing or has a wrong form is a fault where it is named."""
        found = {}
        for path, kind, name in self._named:
            value = secrets.get(name)
            if value is None:
                # The name is not shown: it may be the secret itself, put in the wrong place. And where the file is at
                # fault, the secret may well be in it.
                if secrets.whole:
                    near = secrets.nearest(name)
                    expected = quoted(near) if near else "the name of one that stands there"
                    self.faults.add(path, f"names no secret of {SECRETS_FILE}", expected)
            elif not re.fullmatch(kind.secret, value):
                self.faults.add(path, "the secret that it names has a wrong form", kind.secret_form)
            else:
                found[name] = value
        return found

    def _entry(self, entry: Entry, raw: object, path: KeyPath) -> object:
        if isinstance(entry, Kind):
            return self._values(entry, raw, path) if entry.array else self._value(entry, raw, path)
        if isinstance(entry, Table):
            if not isinstance(raw, dict):
                self.faults.add(path, f"is {_toml_word(raw)}", _expected(entry, path))
                return _blank(entry)
            return self.table(entry, raw, path)
        if not isinstance(raw, list):
            self.faults.add(path, f"is {_toml_word(raw)}", _expected(entry, path))
            return ()
        elements = []
        for i, element in enumerate(raw):
            if not isinstance(element, dict):
                self.faults.add((*path, i), f"is {_toml_word(element)}", _expected(entry, path))
                elements.append(_blank(entry.each))
            else:
                elements.append(self.table(entry.each, element, (*path, i)))
        return tuple(elements)

    def _values(self, kind: Kind, raw: object, path: KeyPath) -> tuple[object, ...]:
        if not isinstance(raw, list):
            self.faults.add(path, f"is {_toml_word(raw)}", f"an array, each {kind.expected}")
            return ()
        return tuple(self._value(kind, element, (*path, i)) for i, element in enumerate(raw))

    def _value(self, kind: Kind, raw: object, path: KeyPath) -> object:
        if type(raw) not in kind.takes:
            self.faults.add(path, f"is {_toml_word(raw)}", kind.expected)
            return kind.blank
        if kind.relative and raw:
            raw = str(self._folder / str(raw))
        try:
            value = kind.read(raw)
        except Unfit as unfit:
            self.faults.add((*path, *unfit.at), unfit.what, unfit.expected or kind.expected)
            return kind.blank
        if kind.secret and raw:
            self._named.append((path, kind, str(raw)))
        return value


def _toml_word(raw: object) -> str:
    return WORDS_OF_TOML.get(type(raw), "a date or time")


def _expected(entry: Entry, path: KeyPath) -> str:
    name = show(tuple(p for p in path if isinstance(p, str)))
    if isinstance(entry, Tables):
        return f"tables [[{name}]]"
    if isinstance(entry, Table):
        return f"one table [{name}]"
    return f"an array, each {entry.expected}" if entry.array else entry.expected


def _blank(entry: Entry) -> object:
    if isinstance(entry, Table):
        return entry.target(**{attribute(k, entry.entries[k]): _blank(entry.entries[k]) for k in required(entry)})
    return () if isinstance(entry, Tables) or entry.array else entry.blank


def _known(key: str, table: Table) -> str:
    """What an unknown key was most likely meant to be: a known one of this table, or one of another table that
    ended up here because a [header] stands between."""
    if near := nearest(key, list(table.entries)):
        return f'"{near}"'
    others = [name for name, other in tables() if name and key in other.entries]
    if others:
        return f"it in {' or '.join(f'[{name}]' for name in others)}"
    return choice(sorted(table.entries))
