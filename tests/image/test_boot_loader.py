"""The disk as genimage makes it, and what GRUB chooses on it: real GRUB, BIOS and disk, and a kernel that only says its
command line. By UEFI, and with a real system, `test_image` and `test_update` start it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .disk import BOARD, DOWN, Disk, slot

ROOT = BOARD.parent.parent.parent
OVERLAY = ROOT / "rootfs-overlay"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    folder = tmp_path_factory.mktemp("disk")
    slot(folder)
    return Disk(folder)


@pytest.fixture
def disk(made: Disk) -> Disk:
    """Both slots with a system, nothing tried yet."""
    made.write("root-b", made.folder / "slot.squashfs")
    made.environment(ORDER="A B", A_OK=1, A_TRY=0, B_OK=1, B_TRY=0, machine_id="")
    return made


def test_the_disk_is_what_the_files_on_it_go_by(made: Disk) -> None:
    partitions = made.partitions()
    assert list(partitions) == ["bios", "boot", "root-a", "root-b", "data"]
    assert partitions["root-a"][2] == partitions["root-b"][2] == 256 << 20
    mounted = re.findall(r"^PARTLABEL=(\S+)", (OVERLAY / "etc/fstab").read_text(), re.M)
    slots = re.findall(r"^device=/dev/disk/by-partlabel/(\S+)", (OVERLAY / "etc/rauc/system.conf").read_text(), re.M)
    assert set(mounted) == {"data", "boot"} and slots == ["root-a", "root-b"]
    grub = (BOARD / "grub.cfg").read_text()
    for letter, name in (("a", "root-a"), ("b", "root-b")):
        assert f"start {letter} gpt{partitions[name][0]} {letter.upper()}" in grub
    assert "::/grub/grub.cfg" in made.boot_files() and "::/grub/grubenv" in made.boot_files()
    with made.image.open("rb") as image:
        image.seek(partitions["data"][1] + 1024 + 56)
        assert image.read(2) == b"\x53\xef"  # ext4


def of(letter: str) -> str:
    return f"root=PARTLABEL=root-{letter.lower()} rauc.slot={letter} "


@pytest.mark.parametrize(
    ("environment", "slot", "tries"),
    [
        pytest.param({}, "A", {"A_TRY": "1", "B_TRY": "0"}, marks=pytest.mark.long),
        ({"ORDER": "B A"}, "B", {"A_TRY": "0", "B_TRY": "1"}),
        pytest.param({"A_OK": 0}, "B", {"A_TRY": "0", "B_TRY": "1"}, marks=pytest.mark.long),
        ({"A_TRY": 2}, "A", {"A_TRY": "3"}),
        ({"A_TRY": 3}, "B", {"A_TRY": "3", "B_TRY": "1"}),
        # All have failed: from the beginning, rather than not at all.
        ({"A_TRY": 3, "B_TRY": 3}, "A", {"A_TRY": "1", "B_TRY": "0", "A_OK": "1", "B_OK": "1"}),
        pytest.param({"A_OK": 0, "B_OK": 0}, "A", {"A_TRY": "1", "A_OK": "1", "B_OK": "1"}, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_grub_picks_the_slot_by_its_try_counters(
    disk: Disk, environment: dict[str, object], slot: str, tries: dict[str, str]
) -> None:
    disk.environment(**environment)
    assert of(slot) in disk.start()
    after = disk.environment()
    assert {name: after[name] for name in tries} == tries


@pytest.mark.long
def test_grub_passes_over_a_slot_without_a_kernel(disk: Disk, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(1 << 20))
    disk.write("root-b", empty)
    disk.environment(ORDER="B A", machine_id="0123456789abcdef0123456789abcdef")
    started = disk.start()
    assert of("A") in started and "systemd.machine_id=0123456789abcdef0123456789abcdef" in started


def test_a_kernel_that_cannot_be_read_is_a_start_in_vain(disk: Disk, tmp_path: Path) -> None:
    """Nobody stands before the menu to which GRUB would go back."""
    disk.write("root-b", slot(tmp_path, kernel=b"no kernel"))
    disk.environment(ORDER="B A")
    for tries in ("1", "2", "3"):
        assert "BOOT_IMAGE" not in disk.power()
        assert disk.environment()["B_TRY"] == tries
    assert of("A") in disk.start()


def test_a_slot_with_an_initramfs_starts_too(disk: Disk, tmp_path: Path) -> None:
    disk.write("root-b", slot(tmp_path, initrd=True))
    disk.environment(A_OK=0)
    assert of("B") in disk.start()


@pytest.mark.parametrize(("a_ok", "letter"), [pytest.param(1, "A", marks=pytest.mark.long), (0, "B")])
def test_failsafe_is_the_chosen_slot_without_services(disk: Disk, a_ok: int, letter: str) -> None:
    disk.environment(A_OK=a_ok)
    started = disk.start(keys=DOWN * (2 if letter == "A" else 1) + b"\r")
    assert of(letter) in started and "systemd.unit=posthouse-failsafe.target" in started


@pytest.mark.long
def test_a_slot_can_be_chosen_by_hand(disk: Disk) -> None:
    assert of("B") in disk.start(keys=DOWN + b"\r")
