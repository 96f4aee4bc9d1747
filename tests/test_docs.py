"""The documentation says what is true: the names that it names exist, its tables are those of the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from appliance.call import LineState, Outcome
from appliance.mail.envelope import MessageState

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(markdown: str) -> list[list[str]]:
    """The cells of every table row but the rulers."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if not set(line) <= set("|- ")]


def test_catalog_and_journal_page_are_what_the_table_of_events_says() -> None:
    """systemd/posthouse.catalog and docs/journal.md; after a change in appliance/events/ scripts/journal-docs makes both."""
    checked = subprocess.run([ROOT / "scripts/journal-docs", "--check"], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_operating_names_every_state_and_outcome() -> None:
    operating = text("docs/operating.md")
    assert [s for s in MessageState if f"| {s.value} |" not in operating] == []
    assert [s for s in LineState if s.value not in operating] == []
    listed = " ".join(row[0] for row in rows(operating))
    assert [o for o in Outcome if not re.search(rf"\b{o.value}\b", listed)] == []


def test_the_index_of_standards_names_modules_that_exist() -> None:
    index = text("docs/rfc.md")
    named = set(re.findall(r"`([a-z0-9_/]+\.py)`", index))
    assert named
    assert sorted(m for m in named if not (ROOT / "appliance" / m).exists()) == []
    for cells in rows(index):
        if cells[0] not in ("RFC", "source"):
            assert cells[2] in ("yes", "partial", "no"), cells
            assert ("`" in cells[3]) == (cells[2] != "no"), cells


def test_every_standard_that_the_mail_code_cites_is_in_the_index() -> None:
    index = text("docs/rfc.md")
    cited = set()
    for folder in ("protocol", "mail"):
        for path in (ROOT / "appliance" / folder).rglob("*.py"):
            cited |= set(re.findall(r"RFC (\d{3,5})", path.read_text(encoding="utf-8")))
    history = {"2554"}  # obsolete ones, cited for the old servers that still speak them
    assert sorted(c for c in cited - history if not re.search(rf"\b{c}\b", index)) == []


@pytest.mark.parametrize("path", DOCS, ids=[str(p.relative_to(ROOT)) for p in DOCS])
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    found = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", found) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []
    named = re.findall(r"\b((?:scripts|tests|docs)/[A-Za-z0-9_./-]*[A-Za-z0-9_/])", found)
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_the_architecture_names_every_part() -> None:
    named = "".join(row[0] for row in rows(text("docs/architecture.md")))
    parts = {p.name for p in (ROOT / "appliance").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    parts |= {p.stem for p in (ROOT / "appliance").glob("*.py")} - {"__init__", "__main__"}
    assert sorted(p for p in parts if p not in named) == []


def test_the_example_of_a_configuration_is_right(tmp_path: Path) -> None:
    """The one in docs/operating.md, with a password and its secrets, passes the check."""
    from appliance.config.load import load

    example = re.search(r"```toml\n(.*?)```", text("docs/operating.md"), re.S)
    assert example
    hashed = "$7$C6..../....yOCHGXdqOV2N9hxQJDdRS.$DEaIJMDEM2OFuEr49MsY9TJtbBE1DWKYbvbsCODZWs/"
    (tmp_path / "posthouse.toml").write_text(example[1].replace("$7$…", hashed), encoding="utf-8")
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('isp = "w"\nsmarthost = "x"\nhanako-isp = "y"\n', encoding="utf-8")
    secrets.chmod(0o600)
    load(tmp_path / "posthouse.toml")
