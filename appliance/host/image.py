"""The programs of the image (rootfs-overlay/usr/lib/posthouse): updates and the factory reset, which are root's and
must work when no Posthouse runs. They say themselves what they do; elsewhere than on the image they are not there.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from appliance.events import clean

__all__ = ["NoImage", "order", "run", "update_said"]

PROGRAMS: Final = Path("/usr/lib/posthouse")
SAID: Final = Path("/run/posthouse-slot/update")
"""What `good` has to say of an update, in a line: that it is on trial, or was taken back."""
SAID_LIMIT: Final = 200
UNITS: Final = {"reboot": "posthouse-reboot.service", "factory-reset": "posthouse-factory-reset.service"}
"""What Posthouse's own user may have systemd do for it (posthouse-units.rules): the console over ssh is that user's."""


class NoImage(Exception):
    """Why a program of the image can't be run, as a sentence."""


def run(name: str, *arguments: str, programs: Path = PROGRAMS) -> int:
    """Runs it in the foreground, with this process's standard streams, for as long as it takes: a slow card takes
    minutes for an update. -> its exit code. Raises NoImage."""
    program = programs / name
    if not program.exists():
        raise NoImage(
            "this host was not started from an image of Posthouse, which alone has slots and a data partition"
        )
    if os.geteuid() == 0:
        return subprocess.run([program, *arguments], check=False).returncode
    if name in UNITS:
        return order(name)
    raise NoImage("only root may do that: at the serial console")


def order(name: str) -> int:
    """Has systemd do it; -> the exit code."""
    command = ["systemctl", "--no-block", "--no-ask-password", "start", UNITS[name]]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def update_said(file: Path = SAID) -> str:
    """What there is to say of an update, "" where nothing is, or this is no image."""
    try:
        return clean(file.read_text(errors="replace")[:SAID_LIMIT].strip())
    except OSError:
        return ""
