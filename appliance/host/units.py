"""Units of systemd's, by its D-Bus interface (org.freedesktop.systemd1(5)): whether there is one, start, stop, and
whether it still runs. The only module that imports jeepney for units, and only where systemd runs.

Each question opens a connection of its own: there are a few a day. On the image the user posthouse may ask for its
neighbours' units alone, by a rule of polkit's.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jeepney import Message
    from jeepney.io.trio import DBusRouter

__all__ = ["Unit", "systemd_runs"]

ASK_S: Final = 5.0
"""For systemd's answer to one question."""
CHANGE_S: Final = 20.0
"""For a unit to be started or stopped: dnsmasq takes a second."""
LOOK_S: Final = 0.1
"""Between two looks while it changes."""
WATCH_S: Final = 30.0
"""Between two looks at a unit that runs; systemd itself starts one again that has failed."""

BUS: Final = "org.freedesktop.systemd1"
PATH: Final = "/org/freedesktop/systemd1"


class UnitError(Exception):
    """What systemd, or the way to it, said."""


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
            async with _systemd() as router:
                return await self._property(router, "LoadState") == "loaded"
        except UnitError:
            return False

    async def start(self) -> str:
        """Runs, anew; -> "", or why it does not."""
        return await self._change("RestartUnit", until="active")

    async def stop(self) -> str:
        """-> "", or why it still runs."""
        return await self._change("StopUnit", until="inactive")

    async def wait_ended(self) -> str:
        """Until it runs no more, with the reason."""
        while True:
            await trio.sleep(WATCH_S)
            try:
                async with _systemd() as router:
                    state = await self._property(router, "ActiveState")
            except UnitError:
                continue  # systemd is being restarted, say
            if state in ("failed", "inactive"):
                return f"{self.name} is {state}"

    async def _change(self, method: str, *, until: str) -> str:
        state = "unknown"
        try:
            with trio.fail_after(CHANGE_S):
                async with _systemd() as router:
                    await _ask(router, PATH, "Manager", method, "ss", (self.name, "replace"))
                    while (state := await self._property(router, "ActiveState")) != until:
                        if state == "failed" and until == "active":
                            return f"{self.name} failed: see `journalctl -u {self.name}`"
                        if state == "failed":
                            return ""
                        await trio.sleep(LOOK_S)
        except UnitError as error:
            return f"{self.name}: {error}"
        except trio.TooSlowError:
            return f"{self.name} is {state} after {CHANGE_S:g} s"
        return ""

    async def _property(self, router: DBusRouter, name: str) -> str:
        (path,) = await _ask(router, PATH, "Manager", "LoadUnit", "s", (self.name,))
        from jeepney import DBusAddress, Properties

        address = DBusAddress(path, bus_name=BUS, interface=f"{BUS}.Unit")
        ((_, value),) = await _reply(router, Properties(address).get(name))
        return str(value)


@asynccontextmanager
async def _systemd() -> AsyncIterator[DBusRouter]:
    """A connection to the system's bus. Raises UnitError where there is none."""
    from jeepney.io.trio import open_dbus_connection

    try:
        with trio.fail_after(ASK_S):
            connection = await open_dbus_connection("SYSTEM")
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
        raise UnitError(f"no system bus: {error}") from error
    async with connection, connection.router() as router:
        yield router


async def _ask(router: DBusRouter, path: str, interface: str, method: str, signature: str, body: Any) -> Any:
    from jeepney import DBusAddress, new_method_call

    address = DBusAddress(path, bus_name=BUS, interface=f"{BUS}.{interface}")
    return await _reply(router, new_method_call(address, method, signature, body))


async def _reply(router: DBusRouter, message: Message) -> Any:
    """Raises UnitError."""
    from jeepney import MessageType

    try:
        with trio.fail_after(ASK_S):
            reply = await router.send_and_get_reply(message)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        raise UnitError(f"systemd does not answer: {error}") from error
    if reply.header.message_type is MessageType.error:
        raise UnitError(str(reply.body[0]) if reply.body else "refused")
    return reply.body
