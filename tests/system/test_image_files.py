"""What the image is made of, as files: units, presets, scripts, the table of mounts. Whether they work shows tests/image."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OVERLAY = ROOT / "rootfs-overlay"
SERVICES = sorted((ROOT / "systemd").glob("*.service"))
EXPOSURE = 3.0
"""Of 10; what systemd calls 'OK' ends at 3.9."""


def exposure(unit: Path) -> float:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", said.stdout)
    assert found, said.stdout + said.stderr
    return float(found[1])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda p: p.name)
def test_a_unit_is_exposed_little(unit: Path) -> None:
    assert exposure(unit) <= EXPOSURE


def test_an_exposed_unit_is_found(tmp_path: Path) -> None:
    unit = tmp_path / "open.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(unit) > 9


def test_presets_name_units_of_ours_or_systemds() -> None:
    named = re.findall(r"^enable (\S+)$", (ROOT / "systemd/00-posthouse.preset").read_text(), re.M)
    ours = [n for n in named if n.startswith("posthouse")]
    assert len(ours) >= 3
    assert [n for n in ours if not (ROOT / "systemd" / n).exists()] == []
    assert [n for n in ours if "[Install]" not in (ROOT / "systemd" / n).read_text()] == []


def test_what_the_units_run_exists() -> None:
    """Programs of the image's own; the others come from packages."""
    for unit in SERVICES:
        for program in re.findall(r"^Exec\w+=(/usr/lib/posthouse/\S+)", unit.read_text(), re.M):
            file = OVERLAY / program.lstrip("/")
            assert file.exists() and file.stat().st_mode & 0o111, f"{unit.name}: {program}"


SCRIPTS = [p for p in sorted((OVERLAY / "usr/lib/posthouse").iterdir()) if p.read_bytes().startswith(b"#!")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_scripts_are_sh(script: Path) -> None:
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", script], capture_output=True).stderr == b""


def test_what_is_bound_from_the_data_partition_is_made_there() -> None:
    """Also after a factory reset: posthouse-data.service runs tmpfiles before etc/fstab's binds."""
    binds = re.findall(r"^(/data/\S+)\s+\S+\s+none\s+bind,(\S+)", (OVERLAY / "etc/fstab").read_text(), re.M)
    made = re.findall(r"^d (/data/\S+)", (OVERLAY / "usr/lib/tmpfiles.d/posthouse.conf").read_text(), re.M)
    assert len(binds) >= 3
    assert [source for source, _ in binds if source not in made] == []
    assert [source for source, options in binds if "x-systemd.requires=posthouse-data.service" not in options] == []
