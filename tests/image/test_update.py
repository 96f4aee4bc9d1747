"""Updates of the image: installed into the other slot, tried, found good, or fallen back from; and what is refused.

The board is a real disk that starts from its own boot loader again and again; a USB stick brings its configuration and the
updates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .board import BOOT_S, Board
from .boards import READY_S
from .bundles import Tools, tamper

pytestmark = [pytest.mark.long, pytest.mark.seconds(3000)]

INSTALL_S = 600.0


@pytest.fixture
def bundle(folder: Path, image: Path) -> Path:
    """The update that was made with the image."""
    made = Path(os.environ.get("POSTHOUSE_IMAGE", image.parent))
    (found,) = made.glob("*.raucb")
    return found


def log_in(board: Board) -> None:
    board.log_in()
    board.sh("mkdir -p /tmp/stick")
    board.sh("mount -o ro /dev/sda1 /tmp/stick", seconds=120)


def slot(board: Board) -> str:
    return board.sh("sed -n 's/.*rauc.slot=\\(.\\).*/\\1/p' /proc/cmdline").strip()


def environment(board: Board) -> dict[str, str]:
    lines = board.sh("grub-editenv /efi/grub/grubenv list").splitlines()
    return dict(line.split("=", 1) for line in lines)


def wait_trial_over(board: Board) -> None:
    """However it ended."""
    board.until("! grub-editenv /efi/grub/grubenv list | grep -q trial", "the trial is over", seconds=400)


def restart(board: Board, start: Callable[..., Board], stick: Path) -> Board:
    """`reboot`, until it has gone down; -> the same board, up again."""
    board.run_no_wait("systemctl reboot")
    board.wait_end()
    return start(stick=stick)


def test_an_update_is_installed_tried_and_found_good(
    start: Callable[..., Board], stick: Path, bundle: Path
) -> None:  # fmt: skip
    os.link(bundle, stick / "update.raucb")
    board = start(stick=stick)
    log_in(board)
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    assert slot(board) == "A"
    said = board.sh("posthouse update /tmp/stick/update.raucb", seconds=INSTALL_S)
    assert "100%" in said and "installed" in said
    assert environment(board)["trial"] == "B"
    assert "into slot B" in board.sh("journalctl -b --no-pager EVENT=update-installed")
    board = restart(board, start, stick)
    log_in(board)
    assert slot(board) == "B"
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    # Nothing is behind ttyS1: a dead line is no fault of the update's.
    code, outcome = board.run("posthouse dial --force", seconds=300)
    assert code == 1 and "modem-silent" in outcome, outcome
    wait_trial_over(board)
    now = environment(board)
    assert (now["B_OK"], now["B_TRY"], now["ORDER"].split()[0]) == ("1", "0", "B")
    assert "unproven" in board.sh("journalctl -b -u posthouse-good --no-pager EVENT=update-good")
    # And back, by hand, from standard input; the configuration is there as before.
    assert "installed" in board.sh("posthouse update - </tmp/stick/update.raucb", seconds=INSTALL_S)
    assert environment(board)["trial"] == "A"
    assert "harbour" in board.sh("posthouse status")


def test_what_is_refused(start: Callable[..., Board], stick: Path, bundle: Path) -> None:
    with Tools.open() as tools:
        small = tools.folder / "small"
        small.write_bytes(os.urandom(65536))
        key, certificate = tools.foreign_key()
        tools.bundle(stick / "foreign.raucb", small, key=key, certificate=certificate)
        tools.bundle(stick / "older.raucb", small, version="0.0.1")
        tools.bundle(stick / "other.raucb", small, compatible="toaster-mips")
    tamper(bundle, stick / "tampered.raucb")
    (stick / "nonsense.raucb").write_bytes(os.urandom(65536))
    board = start(stick=stick)
    log_in(board)
    before = environment(board)
    for name, why in (
        ("foreign", "not signed by the key"),
        ("older", "older"),
        ("other", "toaster-mips"),
        ("nonsense", "refused|no update"),
        ("missing", "cannot read"),
    ):
        code, said = board.run(f"posthouse update /tmp/stick/{name}.raucb", seconds=120)
        assert code == 1 and any(w in said for w in why.split("|")), f"{name}: {code} {said}"
    code, said = board.run("posthouse update /tmp/stick/tampered.raucb", seconds=INSTALL_S)
    assert code == 1 and "not installed" in said, said
    after = environment(board)
    assert "trial" not in after
    assert (after["ORDER"].split()[0], after["A_OK"]) == (before["ORDER"].split()[0], "1")


def submit(board: Board, to: str = "friend@isp.example") -> None:
    """A message; to anybody else than the site's own it waits for a call."""
    mail = "Subject: it waits\\r\\n\\r\\nUntil there is a call.\\r\\n"
    send = f'smtplib.SMTP("127.0.0.1", 587).sendmail("hanako@harbour.example", ["{to}"], "{mail}")'
    board.sh(f"python3 -c 'import smtplib; {send}'", seconds=120)


def test_an_update_that_never_gets_healthy_falls_back_by_itself(
    start: Callable[..., Board], stick: Path, bundle: Path
) -> None:
    """What waits in the queue is there as it was, and what the other version left behind it is left to that one."""
    config = stick / "posthouse/posthouse.toml"
    config.write_text(config.read_text().replace("[mail]\n", '[mail]\ntrusted_networks = ["127.0.0.1"]\n'))
    with Tools.open() as tools:
        tools.bundle(stick / "broken.raucb", tools.broken_root(bundle))
    board = start(stick=stick)
    log_in(board)
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    submit(board)
    sums = "sha256sum /etc/posthouse/*.toml /var/lib/posthouse/spool/queue/[0-9a-f]*.eml"
    before = board.sh(sums)
    assert len(before.splitlines()) == 3
    board.sh("posthouse update /tmp/stick/broken.raucb", seconds=INSTALL_S)
    board = restart(board, start, stick)
    for _ in range(3):  # nothing of its Posthouse works, its console neither
        board.wait("Booting `Posthouse, slot B'", seconds=BOOT_S)
        board.wait("Failed to start .*posthouse.service", seconds=READY_S)
        board.wait_end(seconds=600)
        board = start(stick=stick)
    log_in(board)
    assert slot(board) == "A"
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    wait_trial_over(board)
    assert environment(board)["B_OK"] == "0"
    assert "slot A is back" in board.sh("journalctl -b -u posthouse-good --no-pager EVENT=update-fallen-back")
    assert board.sh("journalctl --no-pager -o cat EVENT=start-in-vain").count("slot B as one in vain") == 3
    assert "this version is broken" in board.sh("journalctl --no-pager -b -1 -u posthouse")
    said = board.sh("posthouse status")
    assert "in slot B, did not get healthy: slot A is back" in said and "queue     1 message," in said
    assert board.sh(sums) == before
    assert "newer than this" in board.sh("journalctl -b --no-pager EVENT=state-newer")
    left = board.sh("journalctl -b --no-pager EVENT=not-understood")
    assert "queue/newer.env" in left and "posthouse/ledger" in left
    board.sh("grep -q weather /var/lib/posthouse/ledger")
    board.sh("test -s /var/lib/posthouse/spool/queue/newer.env && test -s /var/lib/posthouse/spool/queue/newer.eml")
    # The next one is told what became of the one before; the same again is as new as it was.
    assert "did not get healthy" in board.sh("posthouse update /tmp/stick/broken.raucb", seconds=INSTALL_S)
