"""The disk of a board with dummy slots: made by the builders' own `make-disk`, started in QEMU as far as a kernel that only
says its command line (`stub_kernel`)."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import time
from pathlib import Path

from .stub_kernel import stub_kernel

BOARD = Path(__file__).resolve().parent.parent.parent / "buildroot-config/board/common"
GRUB = "/usr/lib/grub/i386-pc"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
SECTOR = 512
BOOT_S = 120.0
"""From power to the kernel's line; two seconds, and more on a busy host."""
DOWN = b"\x1b[B"
"""The cursor key in GRUB's menu."""


def run(*command: str | Path) -> str:
    env = {**os.environ, "PATH": PATH, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def slot(folder: Path, *, initrd: bool = False, kernel: bytes | None = None) -> Path:
    """A squashfs that is as much of a slot as the boot loader looks at. `kernel`: another than the stub."""
    boot = folder / "slot/boot"
    boot.mkdir(parents=True)
    (boot / "vmlinuz").write_bytes(stub_kernel() if kernel is None else kernel)
    if initrd:
        (boot / "initrd").write_bytes(b"initrd")
    run("gensquashfs", "--quiet", "--compressor", "gzip", "--pack-dir", folder / "slot", folder / "slot.squashfs")
    return folder / "slot.squashfs"


def partitions(disk: Path) -> dict[str, tuple[int, int, int]]:
    """name -> (number, first byte, bytes), by the GPT (UEFI specification 2.10, §5.3)."""
    out = {}
    with disk.open("rb") as image:
        image.seek(SECTOR)
        header = image.read(92)
        assert header[:8] == b"EFI PART"
        at, count, size = struct.unpack_from("<QII", header, 72)
        image.seek(at * SECTOR)
        for number in range(1, count + 1):
            entry = image.read(size)
            first, last = struct.unpack_from("<QQ", entry, 32)
            if first:
                name = entry[56:128].decode("utf-16-le").rstrip("\0")
                out[name] = (number, first * SECTOR, (last + 1 - first) * SECTOR)
    return out


class Disk:
    """`folder` holds slot.squashfs; disk.img is made there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "disk.img"
        run(BOARD / "make-disk", folder, f"i386-pc={GRUB}")

    def partitions(self) -> dict[str, tuple[int, int, int]]:
        return partitions(self.image)

    def write(self, partition: str, source: Path) -> None:
        with self.image.open("r+b") as image:
            image.seek(self.partitions()[partition][1])
            image.write(source.read_bytes())

    def _fat(self) -> str:
        return f"{self.image}@@{self.partitions()['boot'][1]}"

    def boot_files(self) -> list[str]:
        return sorted(run("mdir", "-/", "-b", "-i", self._fat(), "::").split())

    def environment(self, **change: object) -> dict[str, str]:
        """GRUB's, with these changed."""
        file = self.folder / "grubenv"
        file.unlink(missing_ok=True)
        run("mcopy", "-i", self._fat(), "::grub/grubenv", file)
        if change:
            run("grub-editenv", file, "set", *(f"{name}={value}" for name, value in change.items()))
            run("mcopy", "-o", "-i", self._fat(), file, "::grub/grubenv")
        return dict(line.split("=", 1) for line in run("grub-editenv", file, "list").splitlines())

    def start(self, keys: bytes = b"\r") -> str:
        """The command line of the kernel that is started, after which the machine ends. `keys` are pressed on the serial line
        when the menu shows its last entry."""
        said = self.power(keys)
        found = re.search(r"BOOT_IMAGE=([^\n]*)\n", said)
        assert found, f"no kernel was started: {said!r}"
        return found[1]

    def power(self, keys: bytes = b"\r") -> str:
        """What is said until the machine restarts, whoever orders that."""
        command = [
            "qemu-system-x86_64",
            "-m",
            "64",
            "-display",
            "none",
            "-vga",
            "none",
            "-nic",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]
        command += ["-drive", f"file={self.image},format=raw,if=virtio,cache=unsafe"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin and process.stdout
        said = b""
        pressed = False
        end = time.monotonic() + BOOT_S
        try:
            while True:
                assert select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0], (
                    f"it stays: {said!r}"
                )
                more = os.read(process.stdout.fileno(), 4096)
                if not more:
                    break
                said += more
                if not pressed and b"Failsafe:" in said:
                    pressed = True
                    process.stdin.write(keys)
                    process.stdin.flush()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        return said.decode("utf-8", "replace")
