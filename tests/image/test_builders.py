"""A board goes from one builder's system to the other's and back by updates, with its mail: the Debian image and Buildroot's
have the same slots, data partition and users (docs/boards.md).

POSTHOUSE_IMAGE names the folder of the one, POSTHOUSE_OTHER_IMAGE that of the other; they trust the same key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .board import Board
from .boards import READY_S
from .test_update import INSTALL_S, environment, log_in, restart, slot, submit, wait_trial_over

pytestmark = [
    pytest.mark.long,
    pytest.mark.seconds(3000),
    pytest.mark.given("POSTHOUSE_IMAGE", "POSTHOUSE_OTHER_IMAGE"),
]

SUMS = (
    "cd /data && sha256sum configuration/*.toml state/spool/queue/[0-9a-f]*.eml state/mail/hanako/new/*"
    " && stat -c '%n %u:%g %a' configuration configuration/*.toml state state/spool/queue state/mail/hanako"
)
"""What has to be there as it was, and whose it is, by number."""


def bundle(variable: str) -> Path:
    (found,) = Path(os.environ[variable]).glob("posthouse-*-x86_64.raucb")
    return found


def system(board: Board) -> tuple[str, str]:
    """-> whose root it is, and which kernel runs."""
    return board.sh(". /etc/os-release; echo $ID").strip(), board.sh("uname -rv").strip()


def whole(board: Board) -> None:
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    board.until('test "$(systemctl is-system-running)" = running', "everything has started", seconds=240)
    assert board.sh("systemctl list-units --failed --no-legend") == ""


def change(board: Board, start: Callable[..., Board], stick: Path, update: str, to: str) -> Board:
    """By an update into slot `to`, which is then found good."""
    assert "installed" in board.sh(f"posthouse update /tmp/stick/{update}", seconds=INSTALL_S)
    assert environment(board)["trial"] == to
    board = restart(board, start, stick)
    log_in(board)
    assert slot(board) == to
    whole(board)
    wait_trial_over(board)
    assert environment(board)[f"{to}_OK"] == "1"
    return board


def test_from_one_builders_system_to_the_others_and_back_with_mail_in_the_spool(
    start: Callable[..., Board], stick: Path
) -> None:
    config = stick / "posthouse/posthouse.toml"
    config.write_text(config.read_text().replace("[mail]\n", '[mail]\ntrusted_networks = ["127.0.0.1"]\n'))
    for variable, name in (("POSTHOUSE_IMAGE", "own.raucb"), ("POSTHOUSE_OTHER_IMAGE", "other.raucb")):
        shutil.copy(bundle(variable), stick / name)
    board = start(stick=stick)
    log_in(board)
    whole(board)
    submit(board, "friend@isp.example")
    submit(board, "hanako@harbour.example")
    board.until("ls /data/state/mail/hanako/new/* >/dev/null", "the second is in her mailbox")
    first, before = system(board), board.sh(SUMS)

    board = change(board, start, stick, "other.raucb", "B")
    other = system(board)
    assert other[0] != first[0] and other[1] != first[1]
    assert board.sh(SUMS) == before
    assert "queue     1 message," in board.sh("posthouse status")

    board = change(board, start, stick, "own.raucb", "A")
    assert system(board) == first
    assert board.sh(SUMS) == before
    assert "queue     1 message," in board.sh("posthouse status")
