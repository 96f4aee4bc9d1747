"""The lines that were typed, kept over the console's end in the site's state; none with a secret in it.

Written a line at a time without a flush: what a power cut takes of it is no loss.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.console.parse import Parsed

__all__ = ["FILE", "HISTORY_KEPT", "History", "may_be_kept"]

FILE: Final = "console-history"
"""Under `site.state`."""
HISTORY_KEPT: Final = 200
"""Lines; some 8 KB, weeks of a person's work at a board."""
LINE_LIMIT: Final = 500
_SECRET_KEY: Final = re.compile(r"(password|secret|pin)(\[\d+\])?$")


def may_be_kept(parsed: Parsed) -> bool:
    """Whether no secret can be in the line: none was typed for a place that holds one or names one (people mistake the
    two), and no AT command sets anything, since a PIN may be among it."""
    if _SECRET_KEY.search(parsed.given.get("PATH", "")):
        return False
    return not set('="') & set(parsed.given.get("AT", ""))


class History:
    """`lines`: oldest first. Where the state can't be written to, they are this console's alone."""

    def __init__(self, state: Path | None) -> None:
        self._file = state / FILE if state is not None else None
        self._disk = Disk()
        self.lines: list[str] = []
        try:
            if self._file is not None and self._file.exists():
                found = self._file.read_text("utf-8", "replace").splitlines()
                self.lines = [line for line in found if line.isprintable()][-HISTORY_KEPT:]
                if len(found) > HISTORY_KEPT:
                    self._disk.replace_file(self._file, "".join(f"{line}\n" for line in self.lines).encode())
        except OSError:
            self._file = None

    def add(self, line: str) -> None:
        """A line that `may_be_kept`."""
        if len(line) > LINE_LIMIT or not line.isprintable() or self.lines[-1:] == [line]:
            return
        self.lines.append(line)
        if self._file is None:
            return
        try:
            fd = self._disk.open_append(self._file) if self._file.exists() else self._disk.create(self._file)
            try:
                self._disk.write(fd, f"{line}\n".encode())
            finally:
                self._disk.close(fd)
        except OSError:
            self._file = None
