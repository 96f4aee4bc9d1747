"""What tells the boot loader that a start was good (rootfs-overlay/usr/lib/posthouse/good, environment): the programs
themselves, over GRUB's grub-editenv, with a systemd that says what the test says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .product import ROOT

FOLDER = ROOT / "rootfs-overlay/usr/lib/posthouse"
BLOCK = 1024
"""Bytes of GRUB's environment."""


class Board:
    """Its environment, the slot that runs, and what systemd says of Posthouse."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.grubenv = root / "grubenv"
        self.said, self.done = root / "said", root / "done"
        self.done.touch()
        (root / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        subprocess.run(["grub-editenv", self.grubenv, "create"], check=True, timeout=60)
        self.set(ORDER="A B", A_OK="1", A_TRY="0", B_OK="1", B_TRY="0", machine_id="1")

    def set(self, **variables: str) -> None:
        words = [f"{name}={value}" for name, value in variables.items()]
        subprocess.run(["grub-editenv", self.grubenv, "set", *words], check=True, timeout=60)

    def listed(self) -> dict[str, str]:
        done = subprocess.run(
            ["grub-editenv", self.grubenv, "list"], check=True, capture_output=True, text=True, timeout=60
        )
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def _program(self, name: str, slot: str, state: str) -> Path:
        """As it is but for its paths, its patience, and whom it asks."""
        text = (FOLDER / name).read_text()
        (self.root / "cmdline").write_text(f"quiet rauc.slot={slot} ro\n")
        for old, new in (
            ("/usr/lib/posthouse/tell", f"echo tell >>{self.done}"), ("/usr/lib/posthouse/", f"{self.root}/"),
            ("/efi/grub/grubenv", str(self.grubenv)), ("/proc/cmdline", f"{self.root}/cmdline"),
            ("/run/posthouse-slot/update", str(self.said)), ("/etc/machine-id", f"{self.root}/machine-id"), ("settle_s=30", "settle_s=1"), ("failed_s=60", "failed_s=1"),
            ("sleep 2", "sleep 0.1"), ("systemctl show -P ActiveState posthouse.service", f"echo {state}"),
            ("systemctl --no-block reboot", f"echo reboot >>{self.done}"),
        ):  # fmt: skip
            text = text.replace(old, new)
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o755)
        return self.root / name

    def environment(self, *arguments: str, slot: str = "A") -> str:
        program = self._program("environment", slot, "active")
        return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout

    def good(self, slot: str, state: str = "active") -> int:
        self._program("environment", slot, state)
        return subprocess.run([self._program("good", slot, state)], timeout=60).returncode


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_good_start_is_counted_no_more(board: Board) -> None:
    board.set(A_TRY="2")
    assert board.good("A") == 0
    assert board.listed()["A_TRY"] == "0" and not board.said.exists()


def test_an_update_on_trial_that_fails_is_started_again_and_then_taken_back(board: Board) -> None:
    board.set(ORDER="B A", trial="B", B_TRY="1")
    assert board.good("B", "failed") == 1
    assert "reboot" in board.done.read_text() and board.listed()["B_TRY"] == "1"
    board.set(B_TRY="3")
    assert board.good("A") == 0
    found = board.listed()
    assert (found["ORDER"], found["B_OK"], found["A_OK"]) == ("A B", "0", "1") and "trial" not in found


def test_a_slot_that_was_good_gets_its_tries_back(board: Board) -> None:
    """The power was cut three times before it was found good, so that the older one runs."""
    board.set(A_TRY="3", B_TRY="1")
    assert board.good("B") == 0
    found = board.listed()
    assert (found["ORDER"], found["A_OK"], found["A_TRY"], found["B_TRY"]) == ("A B", "1", "0", "0")
    assert "slot A was started three times in vain: slot B runs" in board.said.read_text()
    assert "reboot" not in board.done.read_text()


def test_one_that_does_not_come_up_in_its_place_gives_way(board: Board) -> None:
    board.set(A_TRY="3", B_TRY="1")
    assert board.good("B", "failed") == 1
    assert board.listed()["A_TRY"] == "0" and "reboot" in board.done.read_text()


def test_a_posthouse_that_a_person_has_to_mend_restarts_nothing(board: Board) -> None:
    board.set(A_TRY="1", machine_id="")
    assert board.good("A", "failed") == 1
    assert board.listed()["A_TRY"] == "1" and board.listed()["machine_id"] and "reboot" not in board.done.read_text()


@pytest.mark.parametrize("left", [b"", b"\0" * BLOCK, b"# GRUB Environ"])
def test_an_environment_that_is_none_any_more_is_made_anew(board: Board, left: bytes) -> None:
    board.grubenv.write_bytes(left)
    assert board.good("B") == 0
    found = board.listed()
    assert (found["ORDER"], found["B_OK"], found["B_TRY"]) == ("B A", "1", "0") and found["machine_id"]
    assert board.grubenv.stat().st_size == BLOCK


def test_one_that_cannot_be_read_now_is_not_taken_for_none(board: Board) -> None:
    """What stands in it, a trial say, is not written over with nothing."""
    board.grubenv.unlink()
    board.grubenv.mkdir()  # root reads everything else
    with pytest.raises(subprocess.CalledProcessError):
        board.environment("set", "trial=B")
    with pytest.raises(subprocess.CalledProcessError):
        board.environment("list")


def test_it_is_written_over_and_never_empty(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before the one write: what was there is there."""
    before = board.grubenv.read_bytes()
    (board.root / "dd").write_text("#!/bin/sh\nexit 1\n")
    (board.root / "dd").chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{board.root}:{path}")
    with pytest.raises(subprocess.CalledProcessError):
        board.environment("set", "trial=B")
    assert board.grubenv.read_bytes() == before
    monkeypatch.setenv("PATH", path)
    inode = board.grubenv.stat().st_ino
    board.environment("set", "trial=B")
    assert "trial=B\n" in board.environment("list") and board.grubenv.stat().st_ino == inode
    board.environment("unset", "trial")
    assert "trial" not in board.listed()
