"""What a scenario in a machine is owed: it ends within its time, and one that fails shows the machine's console."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .inject import ROOT

FAILS = """
import pytest

@pytest.mark.seconds({seconds})
def test_hangs(machine):
    guest = machine("{name}", lambda guest: None)
    guest.sh("echo words on the console >/dev/ttyS0")
    guest.sh("sleep 1000", seconds=1000)
"""
BUDGET_S = 20
NAME = "hanging"
WORDS = "words on the console"
PYTEST_S = 280


@pytest.mark.seconds(300)
def test_a_scenario_that_hangs_ends_in_time_and_shows_the_console(tmp_path: Path) -> None:
    """In a pytest of its own, with our fixtures and a machine of its own."""
    tmp_path.joinpath("test_fails.py").write_text(FAILS.format(seconds=BUDGET_S, name=NAME))
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "tests.image.conftest", "-p", "no:cacheprovider", "-c",
            ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=PYTEST_S, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "1 failed" in said, said
    assert f"the scenario did not end within its {BUDGET_S} s" in said, said
    console = said.partition(f"console of {NAME}")[2]
    assert WORDS in console, said
    assert subprocess.run(["pgrep", "-f", f"^qemu-system.* -name {NAME} "], timeout=60).returncode == 1, "it still runs"
