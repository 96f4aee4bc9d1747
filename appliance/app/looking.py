"""What a person looks at beside status, queue and calls, and what he says to a modem: the verbs `lines`, `interfaces`,
`users` and `modem` of the control socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from appliance import events
from appliance.calls.caller import CallRefused
from appliance.config.model import LineKind
from appliance.control.server import ControlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.app.house import House
    from appliance.config.model import User
    from appliance.control.server import Progress

__all__ = ["Looking"]


class Looking:
    """One per run. `table`: the verbs."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.table: dict[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]] = {
            "lines": self._lines,
            "interfaces": self._interfaces,
            "users": self._users,
            "modem": self._modem,
        }

    async def _lines(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """Every `[[line]]` in its order; of the one that is used, or was last, its state too."""
        shown, ways = self._house.caller.status(), self._house.caller.ways
        parts = ("state", "since", "reason")
        return [
            {
                "name": way.config.name,
                "kind": str(way.config.kind),
                "device": way.config.device if way.config.kind is LineKind.INTERFACE else way.config.port,
                "numbers": list(way.config.numbers),
                "unusable": way.unusable,
                **{part: shown[part] if shown["name"] == way.config.name else None for part in parts},
            }
            for way in ways
        ]

    async def _interfaces(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """Every `[[interface]]`: as the kernel has it."""
        configured, states = self._house.config.interface, self._house.interfaces.states
        if not configured:
            return []
        devices = await trio.to_thread.run_sync(_devices)
        rows = []
        for interface in configured:
            device = devices.get(interface.device)
            rows.append({
                "name": interface.name,
                "device": interface.device,
                "state": str(states.get(interface.name, "setting-up")),
                "addresses": [str(seen.address) for seen in device.addresses] if device else [],
                "mtu": device.mtu if device else None,
                "dhcp": interface.dhcp,
                "ports": list(interface.ports),
            })  # fmt: skip
        return rows

    async def _users(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        return [await trio.to_thread.run_sync(self._user, user) for user in self._house.config.user]

    def _user(self, user: User) -> dict[str, Any]:
        box = self._house.core.mailboxes[user.name]
        return {
            "name": user.name,
            "addresses": list(user.addresses),
            "may_log_in": bool(user.password),
            "messages": len(box.messages()),
            "bytes": box.usage,
            "quota": user.quota_bytes,
            "accounts": [
                {"protocol": str(account.protocol), "host": account.host, "login": account.login}
                for account in user.account
            ],
        }

    async def _modem(self, arguments: Mapping[str, Any], progress: Progress) -> list[str]:
        """One command line to a line's modem, the first one's where none is named; -> the lines of its answer."""
        command, name = str(arguments.get("command", "")), str(arguments.get("line") or "")
        try:
            answer = await self._house.caller.tell_modem(command, name)
        except CallRefused as refusal:
            raise ControlError(str(refusal)) from None
        return [events.clean(line) for line in answer]


def _devices() -> Any:
    """The kernel's devices by name."""
    from appliance.network.netlink import Netlink  # here and not above: pyroute2 costs 40 ms and 6 MB

    with Netlink() as kernel:
        return kernel.observe()
