"""The image for arm64, by UEFI, as scripts/build-image --arch arm64 left it in the folder that POSTHOUSE_IMAGE_ARM64 names: to
build it, what runs in it being emulated, takes too long for a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .board import Board, unpack
from .boards import READY_S, is_ready, is_well, powered, waits

GIVEN = "POSTHOUSE_IMAGE_ARM64"
pytestmark = [pytest.mark.long, pytest.mark.seconds(1800), pytest.mark.given(GIVEN)]

DEVICE_TREE = ("-machine", "acpi=off")
"""In QEMU the chip with the pins is in the device tree alone."""


@pytest.fixture
def start_arm64(folder: Path) -> Iterator[Callable[..., Board]]:
    with powered(folder, unpack(Path(os.environ[GIVEN])), "aarch64") as start:
        yield start


@pytest.fixture
def stick(stick: Path) -> Path:
    """With the modem where such a machine has it, and its power on a pin."""
    file = stick / "posthouse/posthouse.toml"
    file.write_text(file.read_text().replace("/dev/ttyS1", '/dev/ttyS0"\npower_gpio = "gpiochip0:5'))
    return stick


def test_with_a_configuration_on_a_stick_it_comes_up_by_itself(start_arm64: Callable[..., Board], stick: Path) -> None:
    board = start_arm64(stick=stick)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    is_ready(board)
    print(board.sh("uname -a; free -m; systemd-analyze"))


def test_without_a_configuration_it_waits_and_gives_a_root_shell(start_arm64: Callable[..., Board]) -> None:
    board = start_arm64()
    board.log_in()
    is_well(board)
    waits(board)


def test_the_service_may_switch_a_pin(start_arm64: Callable[..., Board], stick: Path) -> None:
    """By a device tree. At the port there is nobody, so a call climbs the whole ladder."""
    board = start_arm64(stick=stick, more=DEVICE_TREE)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    board.run("posthouse dial", seconds=300)
    said = board.sh("journalctl -b --no-pager -o cat -u posthouse | grep 'the modem'")
    assert "now power off for 5 s (gpiochip0:5)" in said, said
    assert "can't be switched" not in board.sh("journalctl -b --no-pager -o cat -u posthouse")
    assert "posthouse" in board.sh(
        "cat /sys/kernel/debug/gpio 2>/dev/null || { mount -t debugfs d /sys/kernel/debug && cat /sys/kernel/debug/gpio; }"
    )
