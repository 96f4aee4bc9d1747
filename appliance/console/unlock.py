"""`python3 -m appliance.console.unlock FILE`: asks for the administrator's password of this configuration, in the place
of login(1) on the image's serial console. Ends with 0 once it was given, at once where there is none; else with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.console.lock import Lock
from appliance.console.terminal import Terminal

__all__ = ["main"]


def main(file: Path) -> int:
    """-> the exit code."""
    try:
        Lock(file, Terminal()).open()
    except (EOFError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
