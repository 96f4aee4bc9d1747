"""The secrets that the configuration names: `secrets.toml` beside it, and systemd's credentials, which win.

It knows no keys of the configuration, only names and values. A value is never shown, in no error line.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from appliance.config.document import Document
from appliance.config.faults import ConfigErrors, ErrorLine, Fault, nearest
from appliance.config.units import WORDS_OF_TOML
from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["SECRETS_FILE", "Secrets", "credentials_folder"]

SECRETS_FILE: Final = "secrets.toml"


def credentials_folder() -> Path | None:
    """Where systemd has put this service's credentials (systemd.exec(5), LoadCredential=)."""
    from pathlib import Path

    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


class Secrets:
    """What there is under which name. `errors`: error lines about the file itself; no file at all is none.
    `whole`: nothing that stands in the file was left out for a fault of it. With `values` the file is not read, they
    stand for it."""

    def __init__(self, file: Path, credentials: Path | None, *, values: Mapping[str, str] | None = None) -> None:
        self.errors: list[ErrorLine] = []
        self.whole = True
        self._file = file
        self._credentials = credentials
        self._values = self._read() if values is None else dict(values)

    def nearest(self, name: str) -> str:
        """The name in the file that this one was most likely meant to be, or ""."""
        return nearest(name, list(self._values))

    def get(self, name: str) -> str | None:
        """The secret of this name, None where there is none."""
        credential = self._credential(name)
        return self._values.get(name) if credential is None else credential

    def all(self) -> list[tuple[str, str]]:
        """(name, value) of all that there are, of the file's also those that a credential wins over."""
        found = list(self._values.items())
        if self._credentials is not None and self._credentials.is_dir():
            names = (path.name for path in self._credentials.iterdir())
            found += [(name, value) for name in names if (value := self._credential(name)) is not None]
        return found

    def _credential(self, name: str) -> str | None:
        if self._credentials is None or "/" in name or name.startswith("."):
            return None
        try:
            # A file made with an editor or echo ends with a newline that is no part of the secret.
            return (self._credentials / name).read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError):
            return None

    def _read(self) -> dict[str, str]:
        try:
            with self._file.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                document = Document(self._file, file.read())
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._fault(f"can't be read: {error.strerror}", "a file that Posthouse's user may read")
            self.whole = False
            return {}
        except ConfigErrors as errors:
            self.errors += errors.lines
            self.whole = False
            return {}
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            self._fault(
                f"others than its owner have permissions on it (mode {mode:04o})",
                f"none: chmod 600 {clean(self._file)}",
            )
        values = {}
        for name, value in document.data.items():
            if isinstance(value, str) and value:
                values[name] = value
            else:
                what = f"is {WORDS_OF_TOML.get(type(value), 'a date or time')}" if value != "" else "is empty"
                self.whole = False
                self.errors.append(document.error(Fault((name,), what, "the secret as text in quotes")))
        return values

    def _fault(self, what: str, expected: str) -> None:
        self.errors.append(ErrorLine(self._file, 1, Fault((), what, expected)))
