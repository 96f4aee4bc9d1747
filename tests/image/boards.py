"""Boards with the image, as fixtures, and what holds of every one that has started.

image   the disk, made once a session
start   gives a board power
stick   a USB stick with a configuration
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.config.passwords import hash_password
from fakes.netns import Namespace

from .board import Board, build, flash, machine, unpack

READY_S = 600.0
"""From the shell on the console to READY: half a minute on an idle machine."""

CONFIG = """
[site]
name = "harbour"
domain = "harbour.example"
[[interface]]
name = "lan"
device = "eth0"
addresses = ["192.168.77.1/24"]
dhcp_pool = "192.168.77.100-192.168.77.199"
[[line]]
name = "pstn"
port = "/dev/ttyS1"
numbers = ["0570000111"]
ppp_login = "harbour"
ppp_secret = "isp"
[mail]
smtp = ["192.168.77.1:25", "127.0.0.1:587"]
pop3 = ["192.168.77.1:110"]
[[mail.smarthost]]
host = "smtp.isp.example"
secret = ""
[[user]]
name = "hanako"
password = "{password}"
addresses = ["hanako@harbour.example"]
"""
NIC = ("-netdev", "user,id=lan,restrict=on", "-device", "virtio-net-pci,netdev=lan")
TAP = ("-netdev", "tap,id=lan,ifname=eth0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=lan")


@pytest.fixture(scope="session")
def image(folder: Path) -> Path:
    """The disk; POSTHOUSE_IMAGE names a folder in which scripts/build-image or Buildroot has left one, else it is built."""
    if made := os.environ.get("POSTHOUSE_IMAGE"):
        return unpack(Path(made).resolve())
    return build(folder / "dist")


@pytest.fixture
def start(folder: Path, image: Path) -> Iterator[Callable[..., Board]]:
    with powered(folder, image) as run:
        yield run


@contextmanager
def powered(folder: Path, image: Path, arch: str = "x86_64") -> Iterator[Callable[..., Board]]:
    """start(stick=…, uefi=…) -> a board that has just got power; the same `name` again is the same board again. `modem`:
    the socket behind ttyS1. `lan`: a namespace with a tap device `eth0`, the other end of the board's eth0. `more`:
    arguments of QEMU's. `write_log`: takes what is written to the disk. `leaps`: its time goes by as fast as it has nothing
    to do."""
    boards: list[Board] = []

    def run(
        name: str = "board", *, uefi: bool = False, stick: Path | None = None, modem: Path | None = None,
        lan: Namespace | None = None, more: tuple[str, ...] = (), write_log: Path | None = None, leaps: bool = False,
    ) -> Board:  # fmt: skip
        disk = folder / f"{name}.qcow2"
        if not disk.exists():
            flash(image, disk)
        shutil.rmtree(folder / name, ignore_errors=True)
        one = machine(folder / name, disk, uefi=uefi, stick=stick, modem=modem, arch=arch)
        one.more, one.write_log, one.leaps = NIC + more, write_log, leaps
        if lan is not None:
            one.more, one.enter = TAP + more, lan.enter
        one.start()
        boards.append(Board(one))
        return boards[-1]

    try:
        yield run
    finally:
        for board in boards:
            board.close()
        for disk in folder.glob("*.qcow2"):
            disk.unlink()


@pytest.fixture
def stick(folder: Path) -> Iterator[Path]:
    """A USB stick with a configuration."""
    here = folder / "stick"
    (here / "posthouse").mkdir(parents=True)
    (here / "posthouse/posthouse.toml").write_text(CONFIG.format(password=hash_password("Blau-Kessel-42")))
    (here / "posthouse/secrets.toml").write_text('isp = "Sehr-geheim-7"\n')
    yield here
    shutil.rmtree(here)


def is_well(board: Board) -> None:
    """What holds of every start."""
    board.until('test "$(systemctl is-system-running)" = running', "everything has started", seconds=240)
    assert board.sh("systemctl list-units --failed --no-legend") == ""
    assert board.sh("findmnt -no OPTIONS /").startswith("ro")
    assert int(board.sh("df -m /data | tail -n 1").split()[1]) > 1000  # of 2 GiB: it has grown to the disk
    assert board.sh("findmnt -no SOURCE /var/log/journal").strip().endswith("[/journal]")
    # Found good, so that the boot loader begins to count anew.
    board.until("grub-editenv /efi/grub/grubenv list | grep -qx A_TRY=0", "the slot is found good", seconds=120)
    assert "machine_id=" in board.sh("grub-editenv /efi/grub/grubenv list")


def is_ready(board: Board) -> None:
    assert board.sh("systemctl show -P ActiveState posthouse").strip() == "active"
    status = board.sh("posthouse status")
    assert "harbour" in status
    board.until("ss -ltn | grep -q 192.168.77.1:25", "SMTP listens on the LAN")
    assert board.sh("stat -c '%U %a' /etc/posthouse/secrets.toml").strip() == "posthouse 600"
    assert board.sh("stat -c %U /proc/$(systemctl show -P MainPID posthouse)").strip() == "posthouse"
    assert board.sh("systemctl is-active posthouse-dnsmasq").strip() == "active"
    assert "What follows: Mail is accepted" in board.sh("journalctl --no-pager -u posthouse -x EVENT=started")


def waits(board: Board) -> None:
    assert board.sh("systemctl show -P ActiveState posthouse").strip() == "inactive"
    assert board.sh("systemctl show -P Result posthouse").strip() == "success"
