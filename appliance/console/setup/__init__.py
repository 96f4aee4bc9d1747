"""The first start, `posthouse setup`: a conversation that makes a first configuration and ends with a trial call.

`wizard` asks `steps` over `talk` into a `draft`; here the result is written, by the store that every commit goes
through, and Posthouse is started (`service`) for the trial (`trial`, `advice`). Until the person has agreed nothing is
written. Modems are looked for by who calls: the console imports no room.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from appliance.config.command import this_editor
from appliance.config.faults import ConfigErrors
from appliance.config.load import load
from appliance.config.model import Site
from appliance.config.store import Store, StoreError
from appliance.config.whereabouts import whereabouts
from appliance.console.setup.machine import network_devices
from appliance.console.setup.service import service_for
from appliance.console.setup.talk import Back, Talk
from appliance.console.setup.trial import submit, trial_call
from appliance.console.setup.wizard import Found, Surroundings, Wizard
from appliance.control.client import SOCKET_NAME
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_folders, unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from appliance.console.setup.draft import Draft
    from appliance.console.setup.service import Service

__all__ = ["Found", "main"]

OK, FAILED, USAGE, LEFT = 0, 1, 2, 130
COMMENT: Final = "first start"
INTRODUCTION: Final = (
    "This Posthouse has no configuration yet. Some questions, and it makes its first call. Enter takes what stands in "
    "brackets, ? explains, < goes back, Ctrl-C leaves. Nothing is written before the end."
)


def main(
    file: Path,
    ports: Callable[[], Sequence[str]],
    search: Callable[[Sequence[str]], Sequence[Found]],
    folders: Mapping[str, Path | None],
) -> int:
    """-> the exit code. `file`: the configuration that is to be; `ports`, `search`: as `Surroundings` has them;
    `folders`: `state` and `runtime`, where they are not the default ones."""
    talk = Talk()
    given = {key: folder.absolute() for key, folder in folders.items() if folder is not None}
    if file.exists():
        talk.say(f"There is a configuration already: {file}. `posthouse config` and `posthouse console` edit it.")
        return FAILED
    state = given.get("state", Site(name="").state)
    for folder in (file.parent, state):
        if not _may_be_written(folder):
            talk.say(f"You may not write {folder}: be root, or choose other folders (--config, --state, --runtime).")
            return FAILED
    wizard = Wizard(file, talk, Surroundings(ports, search, network_devices, _terminal()), given)
    talk.say(INTRODUCTION)
    try:
        if not _ask(wizard, talk):
            return LEFT
        write(wizard.draft, state, first=True)
        wizard.first = False
    except EOFError:
        talk.show("")
        talk.say("The input has ended: nothing was written.")
        return FAILED
    except (ConfigErrors, StoreError, OSError) as error:
        talk.say(f"Nothing was written: {error}")
        return FAILED
    talk.say(f"Written: {file}.")
    service = service_for(file, whereabouts(file).runtime)
    try:
        return _try(wizard, talk, service)
    except (EOFError, KeyboardInterrupt):
        talk.show("")
        return OK
    finally:
        if not service.stays:
            service.stop()
            talk.say("Posthouse does not run now: `posthouse run` starts it.")


def _may_be_written(folder: Path) -> bool:
    """Also one that is not there yet. Asked before a person has answered thirty questions."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _terminal() -> str:
    try:
        return os.ttyname(0)
    except OSError:
        return ""


def _ask(wizard: Wizard, talk: Talk) -> bool:
    """Whether there is a result; False where the person has left. Raises EOFError."""
    while True:
        try:
            wizard.run()
            return True
        except KeyboardInterrupt:
            talk.show("")
        try:
            if talk.confirm(f"Nothing was {'written' if wizard.first else 'changed'}. Leave?", default=False):
                return False
        except KeyboardInterrupt:
            talk.show("")
            return False
        except Back:
            pass


def write(draft: Draft, state: Path, *, first: bool) -> None:
    """Makes the configuration, or changes it, while no Posthouse runs on the state. Raises ConfigErrors, StoreError,
    OSError."""
    disk = Disk()
    disk.mkdir(draft.file.parent)
    disk.mkdir(state)
    try:
        locks = lock_folders(state)
    except BlockingIOError:
        raise StoreError("a Posthouse runs on this state") from None
    try:
        store = Store(draft.file, StatePaths(state).config, disk)
        if first:
            store.first(draft.text(), draft.secrets(), this_editor(), COMMENT, time.time())
            return
        store.keep_secrets(draft.secrets())
        if draft.text() != store.text():
            store.load_text(draft.text(), this_editor(), time.time())
            store.commit(this_editor(), COMMENT, time.time())
    finally:
        unlock(locks)


def _try(wizard: Wizard, talk: Talk, service: Service) -> int:
    """Starts Posthouse and makes trial calls until the person has enough. Raises EOFError, KeyboardInterrupt."""
    file = wizard.draft.file
    while True:
        talk.say("Starting Posthouse ...")
        why = service.start()
        if why:
            talk.say(f"It does not start: {why}")
            good = False
        else:
            good = _call(wizard, talk, file)
        try:
            what = "leave" if good else talk.choose("And now", ("again", "change", "leave"), "change", help_text=(
                "again: the same once more; change: the questions, with your answers; leave: it stays as it is."
            ))  # fmt: skip
        except Back:
            what = "change"
        if what == "leave":
            talk.say(
                "`posthouse console` shows and changes all of it." if not why else "`posthouse check` may say more."
            )
            return OK if good else FAILED
        if what == "change":
            service.stop()
            if _ask(wizard, talk):
                try:
                    write(wizard.draft, whereabouts(file).state, first=False)
                except (ConfigErrors, StoreError, OSError) as error:
                    talk.say(f"It could not be written: {error}")


def _call(wizard: Wizard, talk: Talk, file: Path) -> bool:
    """The trial, with a message where the person wants one; whether all went well, or no trial was wanted."""
    config = load(file)
    try:
        if not talk.confirm("Make a trial call now? It costs what a call costs.", default=True):
            return True
        to = _recipient(talk) if config.mail.smarthost else ""
        if to and (why := submit(config, wizard.plain["user-password"], to)):
            talk.say(f"The message was not taken: {why}")
    except Back:
        return False
    return trial_call(talk, config.site.runtime / SOCKET_NAME)


def _recipient(talk: Talk) -> str:
    """Raises Back."""
    to = talk.ask(
        "Send a test message with it, to which address", "-", help_text="An address elsewhere; `-` sends none."
    )
    return "" if to == "-" else to
