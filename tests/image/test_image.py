"""The image, from its own boot loader: by BIOS and by UEFI, on the memory of the smallest board, with a configuration from a
USB stick to a running Posthouse, and without one to a root shell. What the issue of an image is about: nobody is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .board import Board
from .boards import READY_S, is_ready, is_well, waits
from .inject import ROOT

pytestmark = [pytest.mark.long, pytest.mark.seconds(1800)]

EXPOSURE = 3.0
"""Of systemd-analyze security, for each unit of ours."""


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_with_a_configuration_on_a_stick_it_comes_up_by_itself(
    start: Callable[..., Board], stick: Path, uefi: bool
) -> None:
    board = start(uefi=uefi, stick=stick)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    is_ready(board)
    first = board.sh("cat /etc/machine-id")
    # Without the stick, after the power went.
    board.sh("sync")
    board.close()
    board = start(uefi=uefi)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    is_ready(board)
    assert board.sh("cat /etc/machine-id") == first
    assert len(board.sh("journalctl --list-boots --no-pager").splitlines()) >= 2


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_without_a_configuration_it_waits_and_gives_a_root_shell(start: Callable[..., Board], uefi: bool) -> None:
    board = start(uefi=uefi)
    board.log_in()
    is_well(board)
    waits(board)
    units = [p.name.replace("@", "@x") for p in (ROOT / "systemd").glob("*.service")]
    for unit in units:
        exposure = float(board.sh(f"systemd-analyze security --no-pager {unit} | tail -n 1").split(":")[1].split()[0])
        assert exposure <= EXPOSURE, unit


def test_a_configuration_with_errors_is_not_taken_over_and_says_why(start: Callable[..., Board], stick: Path) -> None:
    file = stick / "posthouse/posthouse.toml"
    file.write_text(file.read_text().replace("numbers", "nubmers"))
    board = start(stick=stick)
    board.log_in()
    board.until("journalctl -b --no-pager | grep -q 'is not taken over'", "the stick was looked at", seconds=240)
    # A person with a stick looks at the console.
    assert re.search(r"posthouse.toml:\d+: line\[0\].nubmers: .*numbers", board.said)
    waits(board)
    assert board.sh("ls -A /etc/posthouse") == ""
