"""The ways out of trouble that a board has for itself: back to the beginning, and the failsafe start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config.passwords import hash_password

from .board import Board
from .boards import READY_S, is_ready, is_well, waits

pytestmark = [pytest.mark.long, pytest.mark.seconds(2400)]


DOWN = "\x0e"
"""Ctrl-N: the boot loader's next entry."""


PASSWORD = "Blau-Kessel-42"


def ready(board: Board, password: str = "") -> None:
    board.log_in(password=password)
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)


def test_factory_reset_by_command_and_by_stick(start: Callable[..., Board], stick: Path) -> None:
    board = start(stick=stick)
    ready(board)
    board.sh("touch /var/lib/posthouse/mail/hanako/new/1.x; sync")
    assert board.run("posthouse factory-reset")[0] == 2  # it wants its --yes
    board.run_no_wait("posthouse factory-reset --yes")
    board.wait_end()
    board = start()
    board.log_in()
    is_well(board)
    waits(board)
    assert board.sh("ls -A /etc/posthouse /var/lib/posthouse | grep -v :").split() == []
    # Another life: nothing tells of the one before.
    assert len(board.sh("journalctl --list-boots --no-pager -q").splitlines()) == 1
    board.close()

    # The same ordered by a stick, which has a configuration too: once, though it stays in.
    (stick / "posthouse-factory-reset").touch()
    board = start(stick=stick)
    board.wait_end()
    board = start(stick=stick)
    ready(board)
    is_ready(board)


def test_failsafe_gives_the_console_and_starts_nothing(start: Callable[..., Board], stick: Path) -> None:
    """Also where nobody knows the password any more."""
    config = stick / "posthouse/posthouse.toml"
    config.write_text(config.read_text() + f'[console]\npassword = "{hash_password(PASSWORD)}"\n')
    board = start(stick=stick)
    ready(board, PASSWORD)
    board.sh("sync")
    board.close()
    board = start()
    board.wait("Posthouse, slot A", seconds=READY_S)
    board.type(DOWN + DOWN + "\r")
    board.log_in()
    assert "posthouse-failsafe.target" in board.sh("cat /proc/cmdline")
    for unit in ("posthouse", "chrony", "posthouse-dnsmasq", "posthouse-good", "posthouse-ppp.socket"):
        assert board.run(f"systemctl is-active {unit}")[1].strip() == "inactive", unit
    assert "UP" not in board.sh("ip -br link show eth0").split()[1]
    # What is to be mended is at hand.
    assert "harbour" in board.sh("cat /etc/posthouse/posthouse.toml")
    assert board.run("posthouse check")[0] == 0
    board.sh("sync")
    board.close()
    board = start()
    ready(board, PASSWORD)
    is_well(board)
