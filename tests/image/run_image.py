"""Boots the image in QEMU for a person: the console in the terminal, the laboratory's modem on ttyS1 (scripts/run-image)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .__main__ import attach
from .board import UEFI, flash, machine, unpack
from .inject import ROOT
from .machines import Snapshots, make_boot
from .qemu import Machine
from .telephone import PROVIDER, Telephone

LAN = "192.168.77.1"
FORWARDS = {2525: 25, 2587: 587, 2110: 110, 2995: 995, 2143: 143, 2993: 993, 27400: 7400}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/run-image",
        description="Boots the image that scripts/build-image made, on 256 MB: its console in this terminal, an emulated "
        "modem on ttyS1. Ctrl-] leaves and ends it.",
        epilog=f"What listens on {LAN} of the board's first interface (eth0) is reached here on 127.0.0.1: "
        + ", ".join(f"{here} for {there}" for here, there in FORWARDS.items()) + ".",
    )  # fmt: skip
    parser.add_argument("--arch", choices=["amd64", "arm64"], default="amd64",
                        help="whose image (default amd64); with arm64 the modem is on ttyS0, and it boots by UEFI")  # fmt: skip
    parser.add_argument(
        "--dist", type=Path, metavar="FOLDER", help="where the image is (default: dist/, and dist/arm64/ for arm64)"
    )
    parser.add_argument("--config", type=Path, metavar="FOLDER",
                        help="plugs in a USB stick with what FOLDER has: posthouse/posthouse.toml and posthouse/secrets.toml")  # fmt: skip
    parser.add_argument(
        "--disk", type=Path, metavar="FILE", help="keep what the board writes in FILE (default: nothing is kept)"
    )
    parser.add_argument("--size", default="2G", help="of the disk, when it is made (default 2G)")
    parser.add_argument("--uefi", action="store_true", help="boot by UEFI instead of BIOS")
    parser.add_argument("--provider", action="store_true",
                        help=f"also a provider, in a second machine, who answers {PROVIDER} (PPP, mail, names)")  # fmt: skip
    parser.add_argument("--rate", type=int, default=33600, help="of the line in bit/s (default 33600)")
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    arch, folder, packages = {
        "amd64": ("x86_64", "dist", "ovmf"),
        "arm64": ("aarch64", "dist/arm64", "qemu-system-arm qemu-efi-aarch64"),
    }[arguments.arch]
    dist = arguments.dist or ROOT / folder
    if not list(dist.glob(f"posthouse-*-{arch}.img.zst")):
        sys.exit(f"run-image: there is no image in {dist}; make one with scripts/build-image --arch {arguments.arch}")
    if ((arguments.uefi or arch == "aarch64") and not UEFI[arch].exists()) or not shutil.which(f"qemu-system-{arch}"):
        sys.exit(f"run-image: {UEFI[arch]} or qemu-system-{arch} is missing (apt-get install {packages})")
    if arguments.config and not (arguments.config / "posthouse/posthouse.toml").exists():
        sys.exit(f"run-image: {arguments.config} has no posthouse/posthouse.toml")
    if not os.isatty(0):
        sys.exit("run-image: standard input is no terminal, and the console belongs into one")
    with tempfile.TemporaryDirectory(prefix="ph-vm-") as name, Telephone(Path(name), rate=arguments.rate) as telephone:
        folder = Path(name)
        disk = arguments.disk or folder / "disk.qcow2"
        if not disk.exists():
            flash(unpack(dist.resolve()), disk, arguments.size)
        board = machine(folder / "board", disk, uefi=arguments.uefi, stick=arguments.config,
                        modem=folder / "site.modem", cpus=arguments.cpus, arch=arch)  # fmt: skip
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-{LAN}:{there}" for here, there in FORWARDS.items())
        board.more = ("-netdev", f"user,id=lan,restrict=on,net=192.168.77.0/24,host=192.168.77.2{forwards}",
                      "-device", "virtio-net-pci,netdev=lan")  # fmt: skip
        machines: list[Machine] = []
        try:
            if arguments.provider:
                machines.append(_provider(folder))
            board.start()
            machines.append(board)
            print("The board's console; Ctrl-] leaves and ends it.", flush=True)
            attach(board)
            if telephone.transcript:
                print(f"\nWhat the modem and the board said:\n{telephone.transcript}")
        finally:
            for one in machines:
                one.end()


def _provider(folder: Path) -> Machine:
    from . import provider
    from .guest import Guest

    print("starting the provider …", flush=True)
    snapshots = Snapshots(folder, make_boot(folder))
    saved = snapshots.of("provider", provider.prepare)
    machine = Machine("provider", folder / "provider.now", snapshots.boot, saved, folder / "provider.modem")
    machine.start()
    Guest(machine).set_clock()
    return machine


if __name__ == "__main__":
    main()
