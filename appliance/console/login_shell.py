"""The shell of the person's own account, for what no verb does: `start shell`."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import Final

from appliance.console.terminal import IGNORED

__all__ = ["login_shell"]

NO_ACCOUNT: Final = "/bin/sh"


def login_shell(idle_s: float | None) -> str:
    """Runs it on this process's terminal until it ends; -> "", or why it can't be run. `idle_s`: it ends when nobody
    has typed anything for so long, by TMOUT (bash(1), ash(1)): the console above it then locks."""
    try:
        program = pwd.getpwuid(os.getuid()).pw_shell or NO_ACCOUNT
    except KeyError:
        program = NO_ACCOUNT
    environ = dict(os.environ)
    if idle_s is not None:
        environ["TMOUT"] = str(max(1, round(idle_s)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the shell's own
    try:
        # A name with a dash makes a login shell of it (login(1)).
        subprocess.run([f"-{Path(program).name}"], executable=program, env=environ, preexec_fn=_heed, check=False)
    except OSError as error:
        return f"{program} can't be run: {error.strerror or error}"
    finally:
        signal.signal(signal.SIGINT, before)
    return ""


def _heed() -> None:
    """What the console ignores its shell must not, nor what that runs. (The console has one thread.)"""
    for signum in (signal.SIGINT, *IGNORED):
        signal.signal(signum, signal.SIG_DFL)
