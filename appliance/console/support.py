"""`posthouse support`: one text by which somebody else can see what is wrong with a site, without a secret in it.

It has what the running Posthouse says of itself, the configuration, the journal's last lines and the host's figures.
Secrets stay out in two ways: the configuration is shown key by key, a value that is one or may be one left out; and in
the whole text every value of `secrets.toml` and every password's string is struck out, wherever it has got to. Where
the secrets can't be read, so that nobody could strike them out, there is no bundle.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.config import copies
from appliance.config.document import Document
from appliance.config.edit import EditError, written
from appliance.config.faults import ConfigErrors, show
from appliance.config.keypath import PathError, entry_at
from appliance.config.load import load
from appliance.config.secrets import SECRETS_FILE, Secrets, credentials_folder
from appliance.config.units import Kind
from appliance.config.whereabouts import whereabouts
from appliance.events.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from appliance.config.faults import KeyPath

__all__ = ["NoBundle", "bundle", "struck_out"]

CALLS: Final = 30
"""The last ones."""
WHOLE_WORD: Final = 8
"""A shorter secret, a PIN, is struck out only where it stands alone: its figures are in every number."""
LEFT_OUT: Final = "(left out)"
HOST_FILES: Final = ("/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/mounts")
HOST_LINES: Final = 60
VERBS: Final = ("status", "lines", "interfaces", "users", "terminals", "peers", "calls", "config-revisions")
"""What the running Posthouse is asked. Not `queue`: who writes to whom is nobody else's business."""
_HASH: Final = re.compile(r"\$7\$[./0-9A-Za-z$]+")


class NoBundle(Exception):
    """Why there can be none, as a sentence."""


def bundle(file: Path, ask: Callable[[str], Any], journal: Callable[[], str]) -> str:
    """Of the site that `file` configures. `ask(verb)`: the running Posthouse, None where none runs; `journal()`: the
    last lines, or why there are none. Raises NoBundle."""
    secrets = Secrets(file.parent / SECRETS_FILE, credentials_folder())
    if not secrets.whole:
        raise NoBundle(f"the secrets can't be struck out: {'; '.join(secrets.errors)}")
    known = secrets.all()
    parts = [
        ("posthouse", "\n".join(_answers(ask))),
        ("check", _check(file)),
        ("configuration", _configuration(file, {name for name, _ in known})),
        ("host", "\n".join(_host(file))),
        ("journal", journal()),
    ]
    text = "".join(f"==== {title}\n{body}\n" for title, body in parts)
    return struck_out(text, [value for _, value in known])


def struck_out(text: str, secrets: Iterable[str]) -> str:
    """`text` without these, also as JSON, TOML and the journal write them, and without any password's string."""
    forms = {form for secret in secrets for form in _forms(secret) if form.strip()}
    for form in sorted(forms, key=len, reverse=True):
        pattern = re.escape(form) if len(form) >= WHOLE_WORD else rf"(?<!\w){re.escape(form)}(?!\w)"
        text = re.sub(pattern, LEFT_OUT, text)
    return _HASH.sub(LEFT_OUT, text)


def _forms(secret: str) -> set[str]:
    lines = secret.splitlines() or [secret]
    quoted = (json.dumps(one, ensure_ascii=ascii)[1:-1] for one in (secret, *lines) for ascii in (True, False))
    return {secret, clean(secret), *lines, *quoted}


def _answers(ask: Callable[[str], Any]) -> Iterator[str]:
    for verb in VERBS:
        answer = ask(verb)
        if answer is None:
            yield f"{verb}: no answer"
            continue
        if verb == "calls":
            answer = answer[-CALLS:]
        yield f"{verb}: {json.dumps(answer, indent=1, ensure_ascii=False)}"


def _check(file: Path) -> str:
    try:
        load(file)
    except ConfigErrors as errors:
        return str(errors)
    return "no error"


def _configuration(file: Path, names: Collection[str]) -> str:
    """Key by key; comments, which may say anything, are not among them."""
    try:
        data = Document(file, copies.read(file)).data
    except (OSError, ConfigErrors) as error:
        return f"can't be read: {error}"
    return "\n".join(_lines((), data, names))


def _lines(path: KeyPath, value: Any, names: Collection[str]) -> Iterator[str]:
    if isinstance(value, dict) and (not path or not _is_value(path)):
        for key, below in value.items():
            yield from _lines((*path, key), below, names)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, below in enumerate(value):
            yield from _lines((*path, number), below, names)
    else:
        yield f"{clean(show(path))} = {_shown(value) if _may_be_shown(path, value, names) else LEFT_OUT}"


def _shown(value: object) -> str:
    try:
        return clean(written(value))
    except EditError:  # a date, a float: no key takes one
        return clean(value)


def _is_value(path: KeyPath) -> bool:
    try:
        return isinstance(entry_at(path), Kind)
    except PathError:
        return False


def _may_be_shown(path: KeyPath, value: object, names: Collection[str]) -> bool:
    """Not a password, not a secret that somebody wrote where its name should stand, nothing under a misspelt key."""
    try:
        kind = entry_at(path)
    except PathError:
        return False
    names_a_secret = isinstance(kind, Kind) and bool(kind.secret)
    return path[-1] != "password" and not (names_a_secret and value not in ("", *names))


def _host(file: Path) -> Iterator[str]:
    yield " ".join(os.uname())
    for name in HOST_FILES:
        try:
            lines = Path(name).read_text("utf-8", "replace").splitlines()[:HOST_LINES]
            yield "\n".join([f"{name}:", *(f"  {clean(line)}" for line in lines)])
        except OSError as error:
            yield f"{name}: {error.strerror}"
    try:
        state = whereabouts(file).state
        disk = os.statvfs(state)
        yield f"{state}: {disk.f_bavail * disk.f_frsize} of {disk.f_blocks * disk.f_frsize} bytes free"
    except (ConfigErrors, OSError) as error:
        yield f"state: {error}"
