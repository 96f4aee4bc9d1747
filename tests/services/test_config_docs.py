"""docs/configuration.md against the schema and the model: each table has its section, each key its row with the
default that it really has, and what it shows as TOML loads."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from appliance.config.load import load
from appliance.config.schema import ROOT, Table, Tables, attribute, required, tables
from appliance.config.units import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
HEADING = re.compile(r"^#{2,3} `(\[\[?[\w.]+\]\]?)`\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = dict(HEADING.findall(PAGE))

IN_WORDS = {
    ("line", "baud"): "the profile's",
    ("line", "init"): "the profile's",
    ("tariff.periods", "from"): "all day",
    ("tariff.periods", "to"): "all day",
}
"""Defaults that are no TOML value."""


def heading(name: str) -> str:
    entry: Any = ROOT
    for part in name.split("."):
        entry = (entry.each if isinstance(entry, Tables) else entry).entries[part]
    return f"[[{name}]]" if isinstance(entry, Tables) else f"[{name}]"


def default(table: Table, key: str) -> object:
    field = next(f for f in fields(table.target) if f.name == attribute(key, table.entries[key]))
    return field.default_factory() if field.default_factory is not MISSING else field.default


def read(kind: Kind, raw: Any) -> object:
    return tuple(kind.read(r) for r in raw) if kind.array else kind.read(raw)


NAMED = [(name, table) for name, table in tables() if name]


@pytest.mark.parametrize(("name", "table"), NAMED, ids=[n for n, _ in NAMED])
def test_every_key_with_its_default(name: str, table: Table) -> None:
    rows = {key: cell for key, cell, _ in ROW.findall(SECTIONS[heading(name)])}
    sub = {key for key, entry in table.entries.items() if not isinstance(entry, Kind)}
    assert set(rows) - sub == set(table.entries) - sub
    for key, cell in rows.items():
        entry = table.entries[key]
        if key in required(table):
            assert cell == "required", key
        elif (name, key) in IN_WORDS:
            assert cell == IN_WORDS[name, key]
        else:
            raw = tomllib.loads(f"x = {cell.strip('`')}")["x"]
            expected = default(table, key)
            assert (read(entry, raw) if isinstance(entry, Kind) else tuple(raw)) == expected, key


def test_no_section_without_a_table() -> None:
    assert set(SECTIONS) == {heading(name) for name, _ in NAMED}


def test_the_small_site_loads_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config_text, secrets_text = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[:2]
    (tmp_path / "posthouse.toml").write_text(config_text)
    (tmp_path / "secrets.toml").write_text(secrets_text)
    (tmp_path / "secrets.toml").chmod(0o600)
    config = load(tmp_path / "posthouse.toml")
    assert set(config.secrets) == {"isp", "smtp-isp", "hanako-isp"}


def test_the_defaults_written_out_are_the_defaults(tmp_path: Path) -> None:
    """Every default that the page shows, as one file, is what an empty file means."""
    text = ""
    for name, table in NAMED:
        if heading(name).startswith("[["):
            continue
        text += f"[{name}]\n"
        if name == "site":
            text += 'name = "harbour"\n'
        for key, cell, _ in ROW.findall(SECTIONS[heading(name)]):
            if cell != "required" and isinstance(table.entries[key], Kind):
                text += f"{key} = {cell.strip('`')}\n"
    (tmp_path / "posthouse.toml").write_text(text)
    (tmp_path / "smallest.toml").write_text('site.name = "harbour"')
    assert load(tmp_path / "posthouse.toml") == load(tmp_path / "smallest.toml")
