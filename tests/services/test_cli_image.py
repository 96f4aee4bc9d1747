"""The verbs of the image, where there is no image, and which program of the image they run. What the programs do is shown
by tests/image.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance import cli
from appliance.host import image, reading


def test_what_is_said_of_an_update(tmp_path: Path) -> None:
    assert image.update_said() == ""  # no image, nothing to say
    (tmp_path / "update").write_text("slot B has an update on trial\n")
    assert image.update_said(tmp_path / "update") == "slot B has an update on trial"


def test_factory_reset_wants_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["factory-reset"]) == cli.USAGE
    assert "--yes" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["factory-reset", "--yes"], ["update", "x.raucb"], ["update", "--allow-older", "-"]])
def test_elsewhere_than_on_the_image_they_say_so(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert not image.PROGRAMS.exists(), "this test is not for the image itself"
    assert cli.main(argv) == cli.FAILED
    assert "image" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "ran"), [
    (["factory-reset", "--yes"], "factory-reset"),
    (["update", "x.raucb"], "update x.raucb"),
    (["update", "--allow-older", "-"], "update --allow-older -"),
])  # fmt: skip
def test_which_program_they_run(
    argv: list[str], ran: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("factory-reset", "update"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}${{*:+ $*}}"\nexit 7\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(image.run, "__kwdefaults__", {"programs": tmp_path})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cli.main(argv) == 7
    assert capfd.readouterr().out.strip() == ran


@pytest.fixture
def ordinary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, on the image; systemctl says what it is asked for."""
    for name, text in (("factory-reset", "exit 9"), ("update", "exit 9"), ("systemctl", 'echo "systemctl $*"; exit 4')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(image.run, "__kwdefaults__", {"programs": tmp_path})
    monkeypatch.setattr(reading, "PROGRAMS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize(
    ("argv", "unit"), [(["factory-reset", "--yes"], "posthouse-factory-reset"), (["reboot"], "posthouse-reboot")]
)
def test_what_posthouses_own_user_has_systemd_do(argv: list[str], unit: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The console over ssh is that user's; polkit (systemd/posthouse-units.rules) lets it."""
    assert cli.main(argv) == 4
    assert capfd.readouterr().out == f"systemctl --no-block --no-ask-password start {unit}.service\n"
    root = Path(__file__).resolve().parents[2]
    assert f'"{unit}.service"' in (root / "systemd/posthouse-units.rules").read_text()
    assert (root / f"systemd/{unit}.service").exists()


@pytest.mark.usefixtures("ordinary")
def test_what_only_root_may_do(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["update", "x.raucb"]) == cli.FAILED
    assert capfd.readouterr().err == "posthouse: only root may do that: at the serial console\n"
