"""Machines ready to use: what they boot, made once, and snapshots of them, prepared for a role and loaded in half a second.

It joins `scripts/guest-root`, the checkout (`inject`) and `qemu`; pytest's fixtures and a person's own hand (`__main__`)
both go through it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .guest import Guest
from .inject import ROOT, archive, checkout
from .qemu import Boot, Machine

ROOT_S = 3600.0
"""scripts/guest-root: 35 s on an idle machine with a near mirror; seven minutes for arm64, whose programs are emulated."""


def make_boot(folder: Path, arch: str = "x86_64") -> Boot:
    """What scripts/guest-root made, with this checkout in the initramfs, which is written into `folder`."""
    debian = {"x86_64": "amd64", "aarch64": "arm64"}[arch]
    made = subprocess.run([ROOT / "scripts" / "guest-root", debian], stdout=subprocess.PIPE, text=True, timeout=ROOT_S)
    assert made.returncode == 0, f"scripts/guest-root {debian} failed; it has said why"
    root = Path(made.stdout.strip())
    initrd = folder / f"initrd-{arch}"
    initrd.write_bytes((root / "initrd").read_bytes() + archive(checkout()))
    return Boot(root / "vmlinuz", initrd, "init=/usr/lib/guest/init", root / "root.sqfs", arch=arch)


class Snapshots:
    """Machines prepared and saved, each once: `booted`, and on top of that what a role's `prepare` makes of it."""

    def __init__(self, folder: Path, boot: Boot) -> None:
        self.folder, self.boot = folder, boot
        self._made: dict[str, Path] = {}

    def of(self, name: str, prepare: Callable[[Guest], None] | None) -> tuple[Path, str]:
        if name not in self._made:
            before = self.of("booted", None) if prepare is not None else None
            machine = Machine(name, self.folder / name, self.boot, before)
            try:
                machine.start()
                guest = Guest(machine)
                if prepare is None:
                    guest.wait_boot()
                else:
                    guest.set_clock()
                    prepare(guest)
                self._made[name] = machine.save("ready")
            except BaseException:
                print(f"console of {name}:\n{machine.console()}", file=sys.stderr)
                raise
            finally:
                machine.end()
        return self._made[name], "ready"
