"""A data partition that is damaged, on a board that nobody visits: what fsck can mend is mended without a question, and
where nothing helps the board does not wait for ever."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .board import BOOT_S, Board
from .boards import READY_S, is_ready, is_well
from .disk import partitions, run

EMERGENCY_S = 1800.0
"""Of the host's, for half an hour of the board's."""


def power_off(board: Board) -> None:
    board.sh("sync")
    board.type("systemctl poweroff\n")
    board.wait("Power down|Powering off", seconds=BOOT_S)
    board.close()


def damage(disk: Path, act: Callable[[Path, int], None]) -> None:
    """`act(disk, first byte of the data partition)`, on the board's disk as raw bytes."""
    raw = disk.with_suffix(".raw")
    run("qemu-img", "convert", "-O", "raw", disk, raw)
    act(raw, partitions(raw)["data"][1])
    run("qemu-img", "convert", "-O", "qcow2", raw, disk)
    raw.unlink()


def lose_a_folder(raw: Path, at: int) -> None:
    """The inode of one that is not empty, and the mark that there is something to look for (errors=remount-ro sets it)."""
    for command in ("clri journal", "ssv state 2"):
        run("debugfs", "-w", "-R", command, f"{raw}?offset={at}")
    data = raw.with_suffix(".data")
    with raw.open("rb") as image:
        image.seek(at)
        data.write_bytes(image.read())
    # What fsck does at a start unless it is told to repair: it gives up.
    asked = subprocess.run(["/sbin/e2fsck", "-p", data], capture_output=True, text=True, timeout=120)
    data.unlink()
    assert asked.returncode & 4 and "RUN fsck MANUALLY" in asked.stdout + asked.stderr


def lose_all(raw: Path, at: int) -> None:
    with raw.open("r+b") as image:
        image.seek(at)
        image.write(bytes(8 << 20))


@pytest.mark.long
@pytest.mark.seconds(1500)
def test_what_fsck_would_ask_about_is_mended(start: Callable[..., Board], stick: Path, folder: Path) -> None:
    board = start(stick=stick)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    power_off(board)
    damage(folder / "board.qcow2", lose_a_folder)
    board = start()
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_ready(board)
    is_well(board)
    assert board.sh("ls -A /data/lost+found")


@pytest.mark.long
@pytest.mark.seconds(2400)
def test_an_emergency_that_nobody_comes_to_ends_in_a_restart(start: Callable[..., Board], folder: Path) -> None:
    board = start()
    board.log_in()
    power_off(board)
    damage(folder / "board.qcow2", lose_all)
    board = start(leaps=True)
    board.wait("emergency mode", seconds=EMERGENCY_S)
    board.wait("reboot: Restarting system", seconds=EMERGENCY_S)
