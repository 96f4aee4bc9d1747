"""The configuration as people edit it while Posthouse runs: the verbs `config …` of the control socket, and the commit
that goes back by itself unless somebody confirms it.

It joins the stored files (`config.store`), one after the other and in a thread, with the house that takes them over. A
commit that waits for its confirmation outlives no start: `take_back` is asked before the services begin.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.config.edit import EditError
from appliance.config.keypath import PathError
from appliance.config.load import ConfigErrors, load
from appliance.config.store import Editor, Store, StoreError
from appliance.control.server import ControlError
from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from appliance.app.core import Core
    from appliance.app.house import House
    from appliance.config.model import Config
    from appliance.control.server import Progress

__all__ = ["Configuration", "take_back"]

LONGEST_S: Final = 24 * 3600.0
"""A commit waits for its confirmation so long at most."""
AGAIN_S: Final = 60.0
"""Before a disk that did not take the old configuration back is asked again."""


def take_back(core: Core, config: Config, file: Path) -> Config:
    """At the start: mends a damaged file, and takes back a commit that nobody has confirmed; -> the configuration to
    run by. Where the disk does not take that, the site runs all the same, and `Configuration.begin` goes on trying.
    Raises ConfigErrors."""
    store = Store(file, core.paths.config, Disk())
    try:
        if store.mend():
            events.emit(events.CONFIG_MENDED, file=file)
        if not store.unconfirmed:
            return config
        revision = store.revert(core.clock.now().wall)
    except OSError as error:
        events.emit(events.CONFIG_NOT_REVERTED, error=error)
        return config
    events.emit(events.CONFIG_REVERTED, revision=revision, why="Posthouse or the power ended before it was confirmed")
    config = load(file)
    core.configure(config)
    return config


class Configuration:
    """One per run. `table`: the verbs."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._store = Store(house.config_file, house.core.paths.config, Disk())
        self._one_at_a_time = trio.Lock()
        self._confirmed = trio.Event()
        self._back_at = 0.0
        """When a commit that nobody confirms goes back, by Trio's clock."""
        self.table: dict[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]] = {
            "config-show": self._show,
            "config-set": self._set,
            "config-add": self._add,
            "config-secret": self._secret,
            "config-delete": self._delete,
            "config-load": self._load,
            "config-compare": self._compare,
            "config-commit": self._commit,
            "config-confirm": self._confirm,
            "config-rollback": self._rollback,
            "config-revisions": self._revisions,
            "config-status": self._status,
        }

    def begin(self) -> None:
        """Takes back what could not be taken back at the start, once the disk lets it."""
        if self._store.unconfirmed:
            self._house.start_soon(self._go_back_unless_confirmed, AGAIN_S, self._confirmed)

    async def _go_back_unless_confirmed(self, seconds: float, confirmed: trio.Event) -> None:
        with trio.move_on_after(seconds):
            await confirmed.wait()
        while True:
            async with self._one_at_a_time:
                if confirmed.is_set():
                    return
                try:
                    revision = await trio.to_thread.run_sync(self._store.revert, self._now())
                    break
                except OSError as error:
                    events.emit(events.CONFIG_NOT_REVERTED, error=error)
            with trio.move_on_after(AGAIN_S):  # not in the lock: somebody may still confirm it
                await confirmed.wait()
        events.emit(events.CONFIG_REVERTED, revision=revision, why="nobody confirmed it in time")
        await self._house.reload()

    def _now(self) -> float:
        return self._house.core.clock.now().wall

    # ---- verbs
    async def _show(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        text, data = await self._do(self._store.show, str(arguments.get("path", "")))
        return {"text": text, "value": data}

    async def _set(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        path, value = str(arguments.get("path")), str(arguments.get("value"))
        return await self._do(self._store.set, path, value, _editor(arguments), self._now())

    async def _add(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        path, name, values = str(arguments.get("path")), str(arguments.get("name")), arguments.get("values") or {}
        if not (isinstance(values, dict) and all(isinstance(value, str) for value in values.values())):
            raise ControlError("the values of a new element are texts by their keys", 2)
        return await self._do(self._store.add, path, name, values, _editor(arguments), self._now())

    async def _secret(self, arguments: Mapping[str, Any], progress: Progress) -> str:
        """-> "", or why the new value is not in force."""
        name, value = str(arguments.get("name")), arguments.get("value")
        await self._do(self._store.set_secret, name, None if value is None else str(value))
        events.emit(events.SECRET_CHANGED, secret=name, who=_editor(arguments))
        return await self._house.reload()

    async def _delete(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        return await self._do(self._store.delete, str(arguments.get("path")), _editor(arguments), self._now())

    async def _load(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        return await self._do(self._store.load_text, str(arguments.get("text")), _editor(arguments), self._now())

    async def _compare(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        """A diff; with `places` what `Store.changes` says."""
        compare = self._store.changes if arguments.get("places") else self._store.compare
        return await self._do(compare, _number(arguments))

    async def _rollback(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        return await self._do(self._store.rollback, _number(arguments), _editor(arguments), self._now())

    async def _revisions(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        return await self._do(self._store.revisions)

    async def _status(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        left_s = max(0.0, self._back_at - trio.current_time()) if self._store.unconfirmed else None
        return {"editing": await self._do(lambda: self._store.editing), "confirm_left_s": left_s}

    async def _commit(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        editor, comment = _editor(arguments), str(arguments.get("comment", ""))
        confirm_s = arguments.get("confirm_s")
        if confirm_s is not None and not (isinstance(confirm_s, int | float) and 1 <= confirm_s <= LONGEST_S):
            raise ControlError(f"a commit waits 1 s to {LONGEST_S / 3600:g} h for its confirmation", 2)
        commit = functools.partial(self._store.commit, unconfirmed=confirm_s is not None)
        done = await self._do(commit, editor, comment, self._now())
        if confirm_s is not None:
            self._confirmed = trio.Event()
            self._back_at = trio.current_time() + confirm_s
            self._house.start_soon(self._go_back_unless_confirmed, confirm_s, self._confirmed)
        events.emit(events.CONFIG_COMMITTED, revision=done.revision, who=editor, comment=comment or "no comment")
        return {"revision": done.revision, "refused": await self._house.reload(), "confirm_s": confirm_s}

    async def _confirm(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        await self._do(self._store.confirm)
        self._confirmed.set()
        events.emit(events.CONFIG_CONFIRMED, who=_editor(arguments))

    async def _do(self, act: Callable[..., Any], *arguments: Any) -> Any:
        async with self._one_at_a_time:
            try:
                return await trio.to_thread.run_sync(act, *arguments)
            except (StoreError, EditError, PathError) as error:
                raise ControlError(str(error)) from None
            except ConfigErrors as errors:
                raise ControlError(str(errors), 2) from None


def _editor(arguments: Mapping[str, Any]) -> Editor:
    return Editor(events.clean(arguments.get("who") or "somebody"), events.clean(arguments.get("where") or ""))


def _number(arguments: Mapping[str, Any]) -> int:
    number = arguments.get("number", 0)
    if not isinstance(number, int) or number < 0:
        raise ControlError("a revision is a number: 0 is what is stored, 1 what was before it", 2)
    return number
