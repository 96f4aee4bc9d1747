"""Keeps the firewall in force, and opens it for a call's device. It owns whether it is (`lacks`) and what is open; what
the rules are says `firewall`.

The kernel tells of every change of its tables (nfnetlink): whatever is ours and is not as it was loaded is loaded anew,
with the call's device open as before. What can't be loaded is told once for each reason and tried again; meanwhile
`lacks` says so, and no call is made: a line without its firewall would be open to everybody.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Firewall", "Guard", "open_watch"]

NETLINK_NETFILTER: Final = 12
NFNLGRP_NFTABLES: Final = 7
"""Both linux/netlink.h and linux/netfilter/nfnetlink.h."""
MESSAGE_BYTES: Final = 65536
DEBOUNCE_S: Final = 0.1
"""From the first message of a change to looking: its others have come by then."""
PAUSE_S: Final = 1.0
"""Between two looks: each runs a program, and something else may keep changing what we put right."""
FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 60.0
"""Before what could not be loaded is tried again."""


def open_watch() -> trio.socket.SocketType:
    """A socket that becomes readable when a table of nftables changes. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        sock.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        return trio.socket.from_stdlib_socket(sock)
    except BaseException:
        sock.close()
        raise


class Firewall(Protocol):
    """`firewall.Nft`. Every method raises OSError."""

    async def load(self, text: str) -> None: ...
    async def listed(self) -> str: ...
    async def set_open(self, device: str) -> None: ...


class Guard:
    """`text` is the ruleset. `lacks`: why it is not in force, "" where it is."""

    def __init__(self, text: str, firewall: Firewall, watch: Callable[[], trio.socket.SocketType]) -> None:
        self.lacks = "the firewall is not loaded yet"
        self._text = text
        self._firewall = firewall
        self._watch = watch
        self._as_loaded = ""
        self._device = ""
        self._told = ""
        self._one_at_a_time = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; the table stays as it is then."""
        pause = FIRST_PAUSE_S
        started = False
        while True:
            try:
                with self._watch() as changes:
                    loaded = await self._load()
                    if not started:
                        started = True
                        task_status.started()
                    if loaded:
                        pause = FIRST_PAUSE_S
                        await self._keep(changes)
            except OSError as error:
                self._failed(error)
            if not started:
                started = True
                task_status.started()
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    async def _keep(self, changes: trio.socket.SocketType) -> None:
        """Returns once what was in force is not, and can't be loaded again."""
        while True:
            await _changed(changes)
            await trio.sleep(DEBOUNCE_S)
            await _drain(changes)
            if not await self._look():
                return
            await trio.sleep(PAUSE_S)

    async def open(self, device: str) -> None:
        """The line is this device from now on. Raises OSError."""
        async with self._one_at_a_time:
            if self.lacks:
                raise OSError(self.lacks)
            self._device = device
            await self._firewall.set_open(device)

    async def close(self) -> None:
        """Nothing is the line. Raises OSError."""
        async with self._one_at_a_time:
            self._device = ""
            await self._firewall.set_open("")

    async def _load(self) -> bool:
        async with self._one_at_a_time:
            return await self._load_now()

    async def _load_now(self) -> bool:
        try:
            await self._firewall.load(self._text)
            if self._device:
                await self._firewall.set_open(self._device)
            self._as_loaded = await self._firewall.listed()
        except OSError as error:
            self._failed(error)
            return False
        self.lacks = self._told = ""
        events.emit(events.FIREWALL_LOADED)
        return True

    def _failed(self, error: OSError) -> None:
        self.lacks = f"the firewall can't be loaded: {error}"
        if self.lacks != self._told:
            self._told = self.lacks
            events.emit(events.FIREWALL_FAILED, why=error)

    async def _look(self) -> bool:
        """Puts right what something else has changed; whether the rules are in force."""
        async with self._one_at_a_time:
            if await self._firewall.listed() == self._as_loaded:
                return True
            events.emit(events.FIREWALL_CHANGED)
            return await self._load_now()


async def _changed(changes: trio.socket.SocketType) -> None:
    """A message has come; one that was lost (ENOBUFS) is one too."""
    try:
        await changes.recv(MESSAGE_BYTES)
    except OSError:
        await trio.lowlevel.checkpoint()


async def _drain(changes: trio.socket.SocketType) -> None:
    """What else has come."""
    with trio.move_on_after(0):
        while True:
            await _changed(changes)
