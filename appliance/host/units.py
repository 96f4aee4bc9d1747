"""Units of systemd's, by its D-Bus interface (org.freedesktop.systemd1(5)): whether there is one, start, stop, and
whether it still runs. The only module that imports jeepney for units, and only where systemd runs.

Each question opens a connection of its own: there are a few a day. Who waits for a unit's end keeps one, over which
systemd says when something has changed. On the image the user posthouse may ask for its neighbours' units alone, by a
rule of polkit's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jeepney import Message
    from jeepney.io.trio import DBusRouter

__all__ = ["Unit", "systemd_runs"]

ASK_S: Final = 15.0
"""For systemd's answer to one question: at the first one polkit is started, which takes a small board seconds."""
CHANGE_S: Final = 60.0
"""For a unit to be started or stopped: dnsmasq takes a second, Dovecot on a busy board ten."""
LOOK_S: Final = 0.1
"""Between two looks while it changes."""
WATCH_S: Final = 600.0
"""Between two looks at a unit that runs, should systemd not have said that it has changed."""
AGAIN_S: Final = 30.0
"""Until systemd is asked anew, where the way to it was lost; it starts a unit again that has failed."""

BUS: Final = "org.freedesktop.systemd1"
PATH: Final = "/org/freedesktop/systemd1"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"


class UnitError(Exception):
    """What systemd, or the way to it, said."""


class Refused(UnitError):
    """By systemd itself: no such object, or not allowed."""


def systemd_runs(folder: Path = Path("/run/systemd/system")) -> bool:
    """sd_booted(3)."""
    return folder.is_dir()


class Unit:
    """`name` such as "posthouse-dnsmasq.service". Nothing is raised for what systemd says."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def exists(self) -> bool:
        """Whether systemd knows it; False where it can't be asked."""
        try:
            return await _with_systemd(self._property("LoadState")) == "loaded"
        except UnitError:
            return False

    async def start(self) -> str:
        """Runs, anew; -> "", or why it does not."""
        return await self._change("RestartUnit", until="active")

    async def stop(self) -> str:
        """-> "", or why it still runs."""
        return await self._change("StopUnit", until="inactive", even_failed=True)

    async def run_once(self) -> str:
        """One that does its work and ends; -> "", or why it failed."""
        return await self._change("StartUnit", until="inactive", even_failed=False)

    async def wait_ended(self) -> str:
        """Until it runs no more, with the reason."""
        while True:
            try:
                state = await _with_systemd(self._wait_ended)
            except UnitError:
                await trio.sleep(AGAIN_S)  # systemd, or the bus, is being restarted, say
            else:
                return f"{self.name} is {state}"

    async def _wait_ended(self, router: DBusRouter) -> str:
        from jeepney import MatchRule, message_bus

        (path,) = await _ask(router, PATH, "Manager", "LoadUnit", "s", (self.name,))
        # Without a sender, which would have to be systemd's name of the moment: the worst that a lie does is a look.
        changed = MatchRule(type="signal", interface=PROPERTIES, member="PropertiesChanged", path=path)
        # Not `async with`, as jeepney has it: what is taken out while a lost connection's filters are closed is a
        # RuntimeError there. The router, which goes at once, closes it.
        signals = router.filter(changed).receive_channel
        await _reply(router, message_bus.AddMatch(changed))
        await _ask(router, PATH, "Manager", "Subscribe", None, ())
        while (state := await _get(router, path, "Unit", "ActiveState")) not in ("failed", "inactive"):
            with trio.move_on_after(WATCH_S):
                await signals.receive()
        return state

    async def _change(self, method: str, *, until: str, even_failed: bool = False) -> str:
        async def change(router: DBusRouter) -> str:
            (job,) = await _ask(router, PATH, "Manager", method, "ss", (self.name, "replace"))
            with trio.move_on_after(CHANGE_S):
                await _wait_done(router, job)
                state = await look(router)
                failed = f"{self.name} is {state}: see `journalctl -u {self.name}`"
                return "" if state == until or (state == "failed" and even_failed) else failed
            return f"{self.name} is not {until} after {CHANGE_S:g} s"

        look = self._property("ActiveState")
        try:
            return await _with_systemd(change)
        except UnitError as error:
            return f"{self.name}: {error}"

    def _property(self, name: str) -> Callable[[DBusRouter], Awaitable[str]]:
        async def ask(router: DBusRouter) -> str:
            (path,) = await _ask(router, PATH, "Manager", "LoadUnit", "s", (self.name,))
            return await _get(router, path, "Unit", name)

        return ask


async def _wait_done(router: DBusRouter, job: str) -> None:
    """Until systemd has no such job any more."""
    while True:
        try:
            await _get(router, job, "Job", "State")
        except Refused:
            return
        await trio.sleep(LOOK_S)


async def _with_systemd(work: Callable[[DBusRouter], Awaitable[str]]) -> str:
    """Over a connection to the system's bus. Raises UnitError, and that alone: jeepney's router is a nursery, which
    would wrap it."""
    from jeepney.io.trio import open_dbus_connection

    failed: Exception | None = None
    answer = ""
    try:
        with trio.fail_after(ASK_S):
            connection = await open_dbus_connection("SYSTEM")
        async with connection, connection.router() as router:
            try:
                answer = await work(router)
            except UnitError as error:
                failed = error
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError) as error:
        failed = UnitError(f"no system bus: {error}")
    except ExceptionGroup as group:
        lost, other = group.split((OSError, trio.BrokenResourceError, trio.EndOfChannel))
        if other is not None or lost is None:
            raise
        failed = UnitError("the system bus is gone")
    if failed is not None:
        raise failed
    return answer


async def _get(router: DBusRouter, path: str, interface: str, name: str) -> str:
    from jeepney import DBusAddress, Properties

    address = DBusAddress(path, bus_name=BUS, interface=f"{BUS}.{interface}")
    ((_, value),) = await _reply(router, Properties(address).get(name))
    return str(value)


async def _ask(router: DBusRouter, path: str, interface: str, method: str, signature: str | None, body: Any) -> Any:
    from jeepney import DBusAddress, new_method_call

    address = DBusAddress(path, bus_name=BUS, interface=f"{BUS}.{interface}")
    return await _reply(router, new_method_call(address, method, signature, body))


async def _reply(router: DBusRouter, message: Message) -> Any:
    """Raises UnitError."""
    from jeepney import MessageType
    from jeepney.io.common import RouterClosed

    try:
        with trio.fail_after(ASK_S):
            reply = await router.send_and_get_reply(message)
    except trio.TooSlowError:
        raise UnitError("systemd does not answer") from None
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, RouterClosed) as error:
        raise UnitError(f"the system bus is gone: {error}") from error
    if reply.header.message_type is MessageType.error:
        raise Refused(str(reply.body[0]) if reply.body else "refused")
    return reply.body
