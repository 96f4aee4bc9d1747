"""The site and its provider by hand: `scripts/guests` starts both, connected by their modems, and gives you the site's
console. Ctrl-] leaves and ends them; what is changed in them is gone then (docs/vm-tests.md).
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import tempfile
import termios
import tty
from pathlib import Path

from . import provider, site
from .guest import Guest
from .machines import Snapshots, make_boot
from .qemu import Machine
from .telephone import PROVIDER, Telephone

LEAVE = b"\x1d"


def attach(machine: Machine) -> None:
    """The terminal is the machine's console, until Ctrl-] or the machine's end."""
    screen = sys.stdin.fileno()
    before = termios.tcgetattr(screen)
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(machine.folder / "console.sock"))
        console.sendall(b"\n")
        tty.setraw(screen)
        try:
            while True:
                ready, _, _ = select.select([screen, console], [], [])
                if screen in ready:
                    typed = os.read(screen, 1024)
                    if not typed or LEAVE in typed:
                        return
                    console.sendall(typed)
                if console in ready:
                    said = console.recv(65536)
                    if not said:
                        return
                    os.write(sys.stdout.fileno(), said)
        finally:
            termios.tcsetattr(screen, termios.TCSADRAIN, before)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/guests", description=__doc__)
    parser.add_argument(
        "console", nargs="?", choices=["site", "provider"], default="site", help="whose (default: site)"
    )
    parser.add_argument("--rate", type=int, default=33600, help="of the line in bit/s (default 33600)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ph-vm-") as name, Telephone(Path(name), rate=arguments.rate) as telephone:
        folder = Path(name)
        snapshots = Snapshots(folder, make_boot(folder))
        machines: dict[str, Machine] = {}
        saved = {role.__name__.rpartition(".")[2]: role.prepare for role in (site, provider)}
        try:
            for role, prepare in saved.items():
                snapshot = snapshots.of(role, prepare)
                machine = Machine(role, folder / f"{role}.now", snapshots.boot, snapshot, folder / f"{role}.modem")
                machines[role] = machine
                machine.start()
                guest = Guest(machine)
                guest.set_clock()
                if role == "site":
                    site.Site(guest).write()
            other = next(m for r, m in machines.items() if r != arguments.console)
            print(
                f"The {arguments.console}'s console; Ctrl-] leaves. `posthouse run &`, `posthouse dial`: number {PROVIDER}.\n"
                f"The other's: socat -,raw,echo=0,escape=0x1d UNIX:{other.folder}/console.sock",
                flush=True,
            )
            attach(machines[arguments.console])
            print(f"\n{telephone.transcript}")
        finally:
            for machine in machines.values():
                machine.end()


if __name__ == "__main__":
    main()
