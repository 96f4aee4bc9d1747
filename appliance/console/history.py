"""The lines that were typed, kept over the console's end in the site's state; none with a secret in it.

Written a line at a time without a flush: what a power cut takes of it is no loss. The state is Posthouse's, and the
console may be root's: it writes through no link that somebody has put there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.console.parse import Parsed

__all__ = ["FILE", "HISTORY_KEPT", "History", "may_be_kept"]

FILE: Final = "console-history"
"""Under `site.state`."""
HISTORY_KEPT: Final = 200
"""Lines; some 8 KB, weeks of a person's work at a board."""
LINE_LIMIT: Final = 500


def may_be_kept(parsed: Parsed, takes_open_value: Callable[[str], bool]) -> bool:
    """Whether no secret can be in the line. A value was typed for a place of which `takes_open_value(path)` knows that
    it holds no secret and names none (people mistake the two): a misspelt key may have been meant for one. And no AT
    command sets anything, since a PIN may be among it."""
    if "VALUE" in parsed.given and not takes_open_value(parsed.given["PATH"]):
        return False
    return not set('="') & set(parsed.given.get("AT", ""))


class History:
    """`lines`: oldest first. Where the state can't be written to, they are this console's alone."""

    def __init__(self, state: Path | None) -> None:
        self._file = state / FILE if state is not None else None
        self._disk = Disk()
        self.lines: list[str] = []
        try:
            if self._file is not None and os.path.lexists(self._file):
                with os.fdopen(self._disk.open_plain(self._file), encoding="utf-8", errors="replace") as file:
                    found = file.read().splitlines()
                self.lines = [line for line in found if line.isprintable()][-HISTORY_KEPT:]
                if len(found) > HISTORY_KEPT:
                    self._disk.replace_file(self._file, "".join(f"{line}\n" for line in self.lines).encode())
        except OSError:
            self._file = None

    def add(self, line: str) -> None:
        """One that `may_be_kept` has found to be so."""
        if len(line) > LINE_LIMIT or not line.isprintable() or self.lines[-1:] == [line]:
            return
        self.lines.append(line)
        if self._file is None:
            return
        try:
            there = os.path.lexists(self._file)
            fd = self._disk.open_plain(self._file, append=True) if there else self._disk.create(self._file)
            try:
                self._disk.write(fd, f"{line}\n".encode())
            finally:
                self._disk.close(fd)
        except OSError:
            self._file = None
