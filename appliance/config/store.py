"""The stored configuration, the candidate that people edit, and what was in force before (DESIGN §5, §7).

It owns the folder `config/` of the state and, at a commit, the configuration file; it must not know who runs by it.
Synchronous; one user at a time (who runs Posthouse has it, or who holds the state's lock).

| in `config/`      | what                                                                        |
|-------------------|-----------------------------------------------------------------------------|
| candidate.toml    | the text that is being edited                                               |
| candidate         | who began it and when, and the sum of the stored text that it was begun from |
| revision-N.toml   | each text that was committed, and what was found in the file in between      |
| revisions         | a journal: number, sum, who, from where, when, comment                      |
| unconfirmed       | a commit that goes back by itself: to which revision                         |

Theory of operation. A commit checks the candidate whole, keeps the stored text if it is not the last revision's (a
person edited the file), keeps the candidate as a revision, notes that it is unconfirmed if it is to be confirmed, and
then replaces the file. A power cut leaves the old configuration in force or the new one; of an unconfirmed one the note
is there before the file is: what starts next takes it back.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.config import copies, edit
from appliance.config.changes import changes, plain
from appliance.config.faults import show
from appliance.config.keypath import entry_at, read_value, resolve
from appliance.config.load import faults_of, load
from appliance.config.schema import Table, Tables
from appliance.config.secrets import SECRETS_FILE, Secrets
from appliance.events import clean
from appliance.storage import journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from appliance.config.model import Config
    from appliance.storage.disk import Disk

__all__ = ["Committed", "Editor", "Store", "StoreError"]

REVISIONS_KEPT: Final = 50
COMMENT_LIMIT: Final = 200
WHO_LIMIT: Final = 64
GROUP_MODE: Final = 0o640
"""Of the configuration: members of its group may use `posthouse status`, which must find the socket."""
BY_HAND: Final = "(edited by hand)"
BY_ITSELF: Final = "(not confirmed)"


class StoreError(Exception):
    """It can't be done; one sentence says why."""


class Editor(NamedTuple):
    """Who edits: a user's name, and from where (`ttyS0`, `192.168.77.20`)."""

    who: str
    where: str

    def __str__(self) -> str:
        return f"{self.who} on {self.where}" if self.where else self.who


class Committed(NamedTuple):
    """`revision`: its number; `config`: what is in force from now on, once it is taken over."""

    revision: int
    config: Config


class Store:
    """`file`: the configuration file; `folder`: `config/` of the state. Methods raise StoreError, OSError, and what
    their docstring names."""

    def __init__(self, file: Path, folder: Path, disk: Disk) -> None:
        self.file = file
        self._folder = folder
        self._disk = disk
        self._text = folder / "candidate.toml"
        self._begun = folder / "candidate"
        self._log = folder / "revisions"
        self._unconfirmed = folder / "unconfirmed"

    # ---- looking
    def text(self) -> str:
        """The candidate, or the stored text where nothing is being edited."""
        if self._text.exists():
            return self._text.read_text("utf-8")
        return self._stored()

    def show(self, path: str = "") -> tuple[str, object]:
        """(as TOML, as data) of the candidate, or of one place in it. Raises PathError."""
        text = self.text()
        data = _parsed(text)
        if not path:
            return text, plain(data)
        place = resolve(path, data)
        entry_at(place)
        at: Any = data
        try:
            for part in place:
                at = at[part]
        except (KeyError, IndexError, TypeError):
            raise StoreError(f"{show(place)} is not set") from None
        return (_as_toml(place, at), plain(at))

    def compare(self, number: int = 0) -> str:
        """A unified diff from a revision to the candidate: 0 is what is stored, 1 what was before it; "" where they are
        the same."""
        old = self._revision(number)
        names = f"{self.file.name} (stored)" if number == 0 else f"revision {number} back", "candidate"
        lines = difflib.unified_diff(old.splitlines(), self.text().splitlines(), *names, lineterm="")
        return "\n".join(lines)

    def changes(self, number: int = 0) -> list[dict[str, Any]]:
        """The same place by place (`changes.changes`)."""
        return changes(_parsed(self._revision(number), "what is stored"), _parsed(self.text()))

    def revisions(self) -> list[dict[str, Any]]:
        """The newest first: {`back`, `number`, `when` (Unix seconds), `who`, `where`, `comment`}; the first is what is
        stored, with the number 0 where a person edited the file since the last commit."""
        kept = [r for r in reversed(self._records()) if self._file_of(r["number"]).exists()]
        if not kept or kept[0]["sum"] != _sum(self._stored()):
            found = {"number": 0, "when": self.file.stat().st_mtime, "who": BY_HAND, "where": "", "comment": ""}
            kept.insert(0, found)
        return [{"back": back, **{k: r[k] for k in ("number", "when", "who", "where", "comment")}}
                for back, r in enumerate(kept)]  # fmt: skip

    @property
    def unconfirmed(self) -> bool:
        """Whether a commit waits for its confirmation."""
        return self._unconfirmed.exists()

    @property
    def editing(self) -> dict[str, Any] | None:
        """Who began the candidate: {`who`, `where`, `since` (Unix seconds)}; None where nothing is being edited."""
        note = self._note()
        return {key: note[key] for key in ("who", "where", "since")} if note else None

    # ---- editing
    def set(self, path: str, value: str, editor: Editor, now: float) -> list[str]:
        """Sets one place of the candidate; -> what the editor should know. Raises PathError, EditError."""
        text = self.text()
        place = resolve(path, _parsed(text))
        return self._keep(edit.with_value(text, place, read_value(value, place)), editor, now)

    def add(self, path: str, name: str, values: Mapping[str, str], editor: Editor, now: float) -> list[str]:
        """Adds an element with this `name` to an array of tables of the candidate, such as `user`, with further values
        as they are typed; -> what the editor should know. Raises PathError, EditError."""
        text = self.text()
        array = resolve(path, _parsed(text))
        entry = entry_at(array)
        if not (isinstance(entry, Tables) and "name" in entry.each.entries):
            raise StoreError(f"{show(array)} has no elements with names")
        at: Any = _parsed(text)
        for part in array:
            at = at[part] if isinstance(part, int) else at.get(part, {} if part != array[-1] else [])
        if name in [element.get("name") for element in at]:
            raise StoreError(f"{show(array)} has {name} already")
        for key, value in {"name": name, **values}.items():
            place = (*array, len(at), key)
            text = edit.with_value(text, place, read_value(value, place))
        return self._keep(text, editor, now)

    def delete(self, path: str, editor: Editor, now: float) -> list[str]:
        """Removes one place of the candidate; -> what the editor should know. Raises PathError, EditError."""
        text = self.text()
        place = resolve(path, _parsed(text))
        entry_at(place)
        return self._keep(edit.deleted(text, place), editor, now)

    def load_text(self, text: str, editor: Editor, now: float) -> list[str]:
        """The candidate is this text, whatever it was; -> what the editor should know."""
        _parsed(text)
        return self._keep(text, editor, now)

    def rollback(self, number: int, editor: Editor, now: float) -> list[str]:
        """0: drops the candidate. Else the candidate is what was in force so many commits ago."""
        if number:
            return self._keep(self._revision(number), editor, now)
        self._drop_candidate()
        return []

    # ---- committing
    def commit(self, editor: Editor, comment: str, now: float, *, unconfirmed: bool = False) -> Committed:
        """The candidate is what is stored, if it is faultless. `unconfirmed`: until `confirm` it may be taken back by
        `revert`. Raises ConfigErrors with all that is wrong."""
        stored, text = self._stored(), self.text()
        if self.unconfirmed:
            raise StoreError("the last commit waits for `config confirm`; until then no other one is made")
        if text == stored:
            self._drop_candidate()
            raise StoreError("there is nothing to commit")
        if self._note().get("base") not in (_sum(stored), None):
            raise StoreError(
                f"{self.file} was changed since this candidate was begun: see `config compare`; "
                "`config rollback` drops the candidate"
            )
        config = load(self._text, beside=self.file)
        before = self._keep_found(stored, now)
        number = self._keep_revision(text, editor, comment, now)
        if unconfirmed:
            self._disk.replace_file(self._unconfirmed, journal.encode([{"back_to": before, "who": str(editor)}]))
        copies.write(self._disk, self.file, text.encode())
        self._drop_candidate()
        return Committed(number, config)

    def first(self, text: str, secrets: Mapping[str, str], editor: Editor, comment: str, now: float) -> Committed:
        """The first configuration, where there is none, with the secrets that it names: these go first, so that a power
        cut leaves no configuration or a whole one. Secrets of other names stay. Raises ConfigErrors."""
        if self.file.exists():
            raise StoreError(f"there is a configuration already, in {self.file}")
        self.keep_secrets(secrets)
        self._disk.mkdir(self._folder)
        self._disk.replace_file(self._text, text.encode())
        config = load(self._text, beside=self.file)
        number = self._keep_revision(text, editor, comment, now)
        self._disk.replace_file(self.file, text.encode(), mode=GROUP_MODE)
        copies.write(self._disk, self.file, text.encode())
        self._drop_candidate()
        return Committed(number, config)

    def set_secret(self, name: str, value: str | None) -> None:
        """Gives a secret this value, or takes it away (None), unless that would make a fault of the stored
        configuration: what starts next must be able to run by it."""
        known = Secrets(self.file.with_name(SECRETS_FILE), None)
        if not known.whole:
            raise StoreError("; ".join(known.errors))
        before = dict(known.all())
        after = {**before, name: value} if value is not None else {n: v for n, v in before.items() if n != name}
        if after == before:
            raise StoreError(f"no secret {name} is kept" if value is None else f"the secret {name} has that value")
        stored = self._stored()
        faults = [f for f in faults_of(stored, self.file, after) if f not in faults_of(stored, self.file, before)]
        if faults:
            raise StoreError("; ".join(f"{show(f.path)}: {f.what}; expected {f.expected}" for f in faults))
        if value is None:
            file = self.file.with_name(SECRETS_FILE)
            self._disk.replace_file(file, edit.deleted(file.read_text("utf-8-sig"), (name,)).encode())
        else:
            self.keep_secrets({name: value})

    def keep_secrets(self, secrets: Mapping[str, str]) -> None:
        """Puts these into `secrets.toml`, beside those that have other names."""
        file = self.file.with_name(SECRETS_FILE)
        text = file.read_text("utf-8-sig") if file.exists() else ""
        _parsed(text, file.name)
        for name, value in secrets.items():
            text = edit.with_value(text, (name,), value)
        self._disk.replace_file(file, text.encode())

    def confirm(self) -> None:
        """The last commit stands."""
        if not self.unconfirmed:
            raise StoreError("no commit waits for a confirmation")
        self._disk.unlink(self._unconfirmed)
        self._disk.fsync_folder(self._folder)

    def revert(self, now: float) -> int:
        """Takes back the commit that was not confirmed; -> the number of the revision that is in force again."""
        (note,) = journal.replay(self._unconfirmed).records or [{}]
        back_to = note.get("back_to")
        if isinstance(back_to, int):
            text = self._file_of(back_to).read_text("utf-8")
            if text != self._stored():
                self._keep_revision(text, Editor(BY_ITSELF, ""), f"back to revision {back_to}", now)
                copies.write(self._disk, self.file, text.encode())
        self.confirm()
        return back_to if isinstance(back_to, int) else 0

    def mend(self) -> bool:
        """Writes the file anew from its copy where it is damaged and the copy is not; whether it was."""
        if not copies.damaged(self.file.read_bytes()) or copies.damaged(data := copies.read(self.file)):
            return False
        copies.write(self._disk, self.file, data)
        return True

    # ---- the folder
    def _stored(self) -> str:
        return copies.read(self.file).decode("utf-8-sig")

    def _keep(self, text: str, editor: Editor, now: float) -> list[str]:
        """`text` is the candidate from now on."""
        note = self._note()
        self._disk.mkdir(self._folder)
        told = []
        if not note:
            note = {"who": editor.who[:WHO_LIMIT], "where": editor.where[:WHO_LIMIT], "since": now,
                    "base": _sum(self._stored())}  # fmt: skip
            self._disk.replace_file(self._begun, journal.encode([note]))
        elif (note["who"], note["where"]) != (editor.who, editor.where):
            other = Editor(note["who"], note["where"])
            told.append(f"{other} is editing too: a commit takes over the changes of both")
        self._disk.replace_file(self._text, text.encode())
        return told

    def _note(self) -> Mapping[str, Any]:
        """Who began the candidate; empty where nothing is being edited."""
        if not self._text.exists():
            return {}
        try:
            return next(iter(journal.replay(self._begun).records), {})
        except OSError:
            return {}

    def _drop_candidate(self) -> None:
        """Durably: after a power cut what was committed, and perhaps taken back since, must not be a candidate again,
        which somebody's next commit would put in force."""
        dropped = [path for path in (self._text, self._begun) if path.exists()]
        for path in dropped:
            self._disk.unlink(path)
        if dropped:
            self._disk.fsync_folder(self._folder)

    def _records(self) -> list[dict[str, Any]]:
        try:
            return journal.replay(self._log).records
        except FileNotFoundError:
            return []

    def _file_of(self, number: int) -> Path:
        return self._folder / f"revision-{number}.toml"

    def _revision(self, back: int) -> str:
        kept = self.revisions()
        if not 0 <= back < len(kept):
            raise StoreError(f"there is no revision {back}: `config revisions` lists the {len(kept)} that there are")
        number = kept[back]["number"]
        return self._file_of(number).read_text("utf-8") if number else self._stored()

    def _keep_found(self, stored: str, now: float) -> int:
        """The stored text is a revision; -> its number."""
        last = next(reversed(self._records()), None)
        if last is not None and last["sum"] == _sum(stored):
            number: int = last["number"]
            return number
        return self._keep_revision(stored, Editor(BY_HAND, ""), "", now)

    def _keep_revision(self, text: str, editor: Editor, comment: str, now: float) -> int:
        records = self._records()
        number = 1 + max((r["number"] for r in records), default=0)
        self._disk.mkdir(self._folder)
        self._disk.replace_file(self._file_of(number), text.encode())
        records.append({
            "number": number, "sum": _sum(text), "who": clean(editor.who, WHO_LIMIT),
            "where": clean(editor.where, WHO_LIMIT), "when": now, "comment": clean(comment, COMMENT_LIMIT),
        })  # fmt: skip
        self._disk.replace_file(self._log, journal.encode(records[-REVISIONS_KEPT:]))
        for old in records[:-REVISIONS_KEPT]:
            if (path := self._file_of(old["number"])).exists():
                self._disk.unlink(path)
        return number


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(text: str, what: str = "the text") -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise StoreError(f"{what} is no TOML ({error}); `config rollback` drops a candidate") from None


def _as_toml(place: tuple[str | int, ...], value: Any) -> str:
    """A value on one line; a table with its keys, one a line, by their whole paths."""
    entry = entry_at(place)
    if isinstance(entry, Table) and isinstance(value, dict):
        return "\n".join(_as_toml((*place, key), below) for key, below in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(_as_toml((*place, i), below) for i, below in enumerate(value))
    return f"{show(place)} = {edit.written(value)}"
