"""The journal's last lines, and the restart of the host: by systemd's own programs, for a person who waits."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from appliance.events.text import clean
from appliance.host.image import PROGRAMS, NoImage, order

__all__ = ["LINES", "NoJournal", "journal", "reboot"]

LINES: Final = 100
JOURNALCTL_S: Final = 60.0
"""A year's journal on a slow card takes seconds."""
LINE_LIMIT: Final = 4000


class NoJournal(Exception):
    """Why the journal can't be shown, as a sentence."""


def journal(lines: int = LINES, *, explain: bool = False) -> str:
    """The last entries of Posthouse's, oldest first, a line each, each fit for a terminal. `explain`: each with what
    the catalog says of it. Raises NoJournal."""
    command = [
        "journalctl",
        "--identifier=posthouse",
        f"--lines={lines}",
        "--output=short-iso",
        "--no-pager",
        "--quiet",
    ]
    try:
        done = subprocess.run(
            [*command, *(["--catalog"] if explain else [])],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=JOURNALCTL_S, check=False,
        )  # fmt: skip
    except OSError as error:
        raise NoJournal(f"no journalctl on this host: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NoJournal(f"journalctl gives no answer within {JOURNALCTL_S:g} s") from None
    if done.returncode != 0 and done.stderr:
        raise NoJournal(clean(done.stderr.strip()))
    if not done.stdout.strip():
        return "the journal has no entry of Posthouse's"
    found = done.stdout.decode("utf-8", "replace").removesuffix("\n").split("\n")
    return "\n".join(clean(line, LINE_LIMIT) for line in found)


def reboot() -> int:
    """Restarts the host, by systemd, which lets Posthouse end first. -> the exit code. Raises NoImage elsewhere than on
    the image: another host is not ours."""
    if not PROGRAMS.exists():
        raise NoImage("this host was not started from an image of Posthouse: restart it by its own means")
    if os.geteuid() != 0:
        return order("reboot")
    return subprocess.run(["systemctl", "reboot"], stdin=subprocess.DEVNULL, check=False).returncode
