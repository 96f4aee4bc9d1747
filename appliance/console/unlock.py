"""`python3 -m appliance.console.unlock [--known] FILE PROGRAM…`: asks for the administrator's password of this
configuration, unless it is known that who sits there has just given it, then becomes the program. It stands in the
place of login(1) on the image's serial console. Ends with 1 where the password was not given.

Where there is a password, the program is told by TMOUT (bash(1)) to end when nobody has typed anything for
`console.idle`: what was forgotten asks for the password again.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.console.lock import Lock
from appliance.console.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """-> the exit code, where it comes back."""
    known = arguments[0] == "--known"
    file, *program = arguments[known:]
    lock = Lock(Path(file), Terminal())
    if not known:
        signal.signal(signal.SIGQUIT, signal.default_int_handler)
        try:
            lock.open()
        except (EOFError, KeyboardInterrupt):
            return 1
    if (idle_s := lock.idle_s) is not None:
        os.environ["TMOUT"] = str(max(1, round(idle_s)))
    return os.execvp(program[0], program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
