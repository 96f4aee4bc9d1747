"""`posthouse config …`: edits, compares and commits the stored configuration (DESIGN §6). It asks the running
Posthouse; where none runs it works on the stored files itself.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from appliance.clock import rfc3339
from appliance.config import edit
from appliance.config.edit import EditError
from appliance.config.faults import ConfigErrors, Unfit, quoted
from appliance.config.keypath import PathError, read_value
from appliance.config.passwords import hash_password
from appliance.config.store import Editor, Store, StoreError
from appliance.config.units import duration
from appliance.config.whereabouts import whereabouts
from appliance.events import clean
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_folders, unlock

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[[str, dict[str, Any]], tuple[Any, int]]

__all__ = ["main", "this_editor", "user"]

OK, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


def main(arguments: argparse.Namespace, file: Path, ask: Ask, password: Callable[[], str]) -> int:
    """-> the exit code. `ask(verb, arguments)` of the running Posthouse: its result and code; NOT_RUNNING, without a
    word, where none runs. `password()` asks the person for a secret; raises ValueError in words for him."""
    try:
        given = _given(arguments)
        if arguments.action == "secret" and not arguments.delete:
            given["value"] = password()
    except ValueError as error:
        return _say(str(error), FAILED)
    except Unfit as unfit:
        return _say(f"{unfit.what}; expected {unfit.expected or duration(1).expected}", USAGE)
    result, code = _do(arguments.action, given, file, ask)
    if code == OK:
        _print(arguments, result, file)
        if arguments.action == "commit" and result["refused"]:
            return _say(f"revision {result['revision']} is stored but not in force: {result['refused']}", FAILED)
        if arguments.action == "secret" and result:
            return _say(f"it is kept but not in force: {result}", FAILED)
    return code


def user(arguments: argparse.Namespace, file: Path, ask: Ask, password: Callable[[], str]) -> int:
    """`posthouse user …`, as `main`."""
    name, place = arguments.name, f"user[{arguments.name}]"
    # Before a person types a password twice for nothing.
    if arguments.action == "add" and (code := _new(arguments, file, ask)) != OK:
        return code
    if arguments.action == "passwd" and (code := _do("show", {"path": f"{place}.name"}, file, ask)[1]) != OK:
        return code
    try:
        match arguments.action:
            case "add":
                values = {"addresses": edit.written(arguments.addresses), "password": hash_password(password())}
                action, given = "add", {"path": "user", "name": name, "values": values}
            case "passwd":
                action, given = "set", {"path": f"{place}.password", "value": hash_password(password())}
            case _:
                action, given = "delete", {"path": place}
    except ValueError as error:
        return _say(str(error), FAILED)
    told, code = _do(action, {**given, **this_editor()._asdict()}, file, ask)
    for note in told or ():
        _say(note, OK)
    return code


def _new(arguments: argparse.Namespace, file: Path, ask: Ask) -> int:
    """Whether these can be a new user's name and addresses; else the exit code after the sentence was printed."""
    try:
        read_value(arguments.name, ("user", 0, "name"))
        read_value(edit.written(arguments.addresses), ("user", 0, "addresses"))
    except PathError as error:
        return _say(str(error).replace("user[0].", "user."), FAILED)
    shown, code = _do("show", {"path": ""}, file, ask)
    users = shown["value"].get("user") if code == OK else []
    names = [user.get("name") for user in users if isinstance(user, dict)] if isinstance(users, list) else []
    return _say(f"user has {arguments.name} already", FAILED) if arguments.name in names else code


def _do(action: str, given: dict[str, Any], file: Path, ask: Ask) -> tuple[Any, int]:
    """A verb `config-…`: its result and OK, or None and the exit code after the sentence was printed."""
    result, code = ask(f"config-{action}", given)
    return _by_ourselves(action, given, file) if code == NOT_RUNNING else (result, code)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What goes to the verb. Raises Unfit."""
    given: dict[str, Any] = {
        k: v for k in ("path", "name", "value", "number", "comment") if (v := getattr(arguments, k, None)) is not None
    }
    if arguments.action == "compare" and arguments.json:
        given["places"] = True
    if arguments.action == "load":
        given["text"] = sys.stdin.read()
    if arguments.action == "add":
        pairs = [pair.partition("=") for pair in arguments.values]
        if wrong := [key for key, equals, _ in pairs if not equals]:
            raise Unfit(f"{quoted(wrong[0])} has no value", "KEY=VALUE")
        given["values"] = {key: value for key, _, value in pairs}
    if getattr(arguments, "confirm", None) is not None:
        given["confirm_s"] = duration(1).read(arguments.confirm)
    return {**given, **this_editor()._asdict()}


def this_editor() -> Editor:
    """Who sits here, and where."""
    try:
        who = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        who = str(os.getuid())
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    try:
        where = client or os.ttyname(0).removeprefix("/dev/")
    except OSError:
        where = ""
    return Editor(clean(who), clean(where))


# ---- without a running Posthouse
def _by_ourselves(action: str, given: dict[str, Any], file: Path) -> tuple[Any, int]:
    try:
        state = whereabouts(file).state
        disk = Disk()
        disk.mkdir(state)
        locks = lock_folders(state)
    except ConfigErrors as errors:  # nobody knows then where the state is
        print(errors, file=sys.stderr)
        return None, USAGE
    except BlockingIOError:
        return None, _say(
            "a Posthouse runs on this state and does not answer at its control socket: it is starting, or it hangs",
            FAILED,
        )
    except OSError as error:
        return None, _say(f"{error.filename or file}: {error.strerror}", FAILED)
    try:
        return _act(Store(file, StatePaths(state).config, disk), action, given), OK
    except (StoreError, EditError, PathError) as error:
        return None, _say(str(error), FAILED)
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return None, USAGE
    except OSError as error:
        return None, _say(f"{error.filename or file}: {error.strerror}", FAILED)
    finally:
        unlock(locks)


def _act(store: Store, action: str, given: dict[str, Any]) -> Any:
    editor, now = Editor(given.get("who", ""), given.get("where", "")), time.time()
    match action:
        case "show":
            text, value = store.show(given["path"])
            return {"text": text, "value": value}
        case "set":
            return store.set(given["path"], given["value"], editor, now)
        case "add":
            return store.add(given["path"], given["name"], given["values"], editor, now)
        case "secret":
            store.set_secret(given["name"], given.get("value"))
            return ""
        case "delete":
            return store.delete(given["path"], editor, now)
        case "load":
            return store.load_text(given["text"], editor, now)
        case "compare":
            return (store.changes if given.get("places") else store.compare)(given["number"])
        case "commit":
            if "confirm_s" in given:
                raise StoreError("no Posthouse runs that could take it back: commit without --confirm")
            done = store.commit(editor, given["comment"], now)
            return {"revision": done.revision, "refused": "", "confirm_s": None}
        case "confirm":
            return store.confirm()
        case "rollback":
            return store.rollback(given["number"], editor, now)
        case "status":
            return {"editing": store.editing, "confirm_left_s": 0.0 if store.unconfirmed else None}
        case _:
            return store.revisions()


# ---- printing
def _print(arguments: argparse.Namespace, result: Any, file: Path) -> None:
    match arguments.action:
        case "show":
            print(json.dumps(result["value"], indent=2) if arguments.json else result["text"].rstrip("\n"))
        case "compare" if arguments.json:
            print(json.dumps(result, indent=2))
        case "compare" if result:
            print(result)
        case "revisions":
            shown = [{**r, "when": rfc3339(r["when"])} for r in result]
            print(json.dumps(shown, indent=2) if arguments.json else _table(result, file))
        case "status":
            editing = result["editing"]
            as_json = {**result, "editing": editing and {**editing, "since": rfc3339(editing["since"])}}
            print(json.dumps(as_json, indent=2) if arguments.json else _status(result, file))
        case "commit" if result["confirm_s"] is not None:
            _say(
                f"revision {result['revision']} goes back by itself in {result['confirm_s']:g} s: `config confirm`", OK
            )
        case "set" | "add" | "delete" | "load" | "rollback":
            for note in result:
                _say(note, OK)


def _status(status: dict[str, Any], file: Path) -> str:
    editing, left_s = status["editing"], status["confirm_left_s"]
    lines = ["nobody is editing"]
    if editing:
        since = datetime.fromtimestamp(editing["since"], _zone(file)).strftime("%Y-%m-%d %H:%M")
        lines = [f"{Editor(editing['who'], editing['where'])} is editing since {since}"]
    if left_s is not None:
        when = f"in {left_s:.0f} s" if left_s else "as soon as Posthouse can, or at its next start"
        lines.append(f"the last commit goes back by itself {when}, unless it is confirmed")
    return "\n".join(lines)


def _zone(file: Path) -> ZoneInfo:
    try:
        return ZoneInfo(whereabouts(file).timezone)
    except ConfigErrors:
        return ZoneInfo("UTC")


def _table(revisions: list[dict[str, Any]], file: Path) -> str:
    zone = _zone(file)
    rows = [("", "when", "who", "comment")]
    for r in revisions:
        when = datetime.fromtimestamp(r["when"], zone).strftime("%Y-%m-%d %H:%M")
        rows.append((str(r["back"]), when, str(Editor(r["who"], r["where"])), r["comment"]))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )


def _say(text: str, code: int) -> int:
    print(f"posthouse: {text}", file=sys.stderr)
    return code
