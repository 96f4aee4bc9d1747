"""What the command line must know of the configuration to speak with a Posthouse that runs, or to mend the file where
none does: the folder of the control socket, that of the state, and the site's time zone.

Nothing else of the file is looked at, no secret is read: a mistake in it is no reason that the running Posthouse,
which keeps the configuration that it has, can't be asked or told to hang up, and who may use the control socket need
not be allowed to read the secrets.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from appliance.config import copies
from appliance.config.document import Document
from appliance.config.faults import ConfigErrors, ErrorLine, Fault, Unfit
from appliance.config.model import Site
from appliance.config.units import FOLDER, TIMEZONE, WORDS_OF_TOML

__all__ = ["ConfigErrors", "Whereabouts", "whereabouts"]


class Whereabouts(NamedTuple):
    runtime: Path
    state: Path
    timezone: str


def whereabouts(path: Path, data: bytes | None = None) -> Whereabouts:
    """Of the site that this file configures, or would with `data` in it. Raises ConfigErrors where the file can't be
    read, is no TOML, or has a wrong `site.runtime` or `site.state`. A wrong time zone is the default one: it only says
    how times are shown."""
    try:
        document = Document(path, copies.read(path) if data is None else data)
    except OSError as error:
        fault = Fault((), f"can't be read: {error.strerror}", "a configuration file")
        raise ConfigErrors([ErrorLine(path, 1, fault)]) from None
    site = document.data.get("site")
    default = Site(name="")
    if not isinstance(site, dict):
        return Whereabouts(default.runtime, default.state, default.timezone)
    runtime, state = (_folder(document, site, key) for key in ("runtime", "state"))
    try:
        timezone = str(TIMEZONE.read(site.get("timezone", default.timezone)))
    except (Unfit, TypeError, AttributeError):
        timezone = default.timezone
    return Whereabouts(runtime, state, timezone)


def _folder(document: Document, site: dict[str, object], key: str) -> Path:
    folder = site.get(key, str(getattr(Site(name=""), key)))
    if not isinstance(folder, str) or not folder:
        what = "is empty" if folder == "" else f"is {WORDS_OF_TOML.get(type(folder), 'a date or time')}"
        raise ConfigErrors([document.error(Fault(("site", key), what, FOLDER.expected))])
    return document.path.absolute().parent / folder
