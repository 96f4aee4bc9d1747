"""The part that is the relay server: joins its room with the disk, the configuration and the calls.

Accounts, devices, permissions and limits are taken over while it runs, so that a new account ends nobody's connection;
another address or name needs the server anew.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.clock import rfc3339
from appliance.config.passwords import verify_password
from appliance.control.server import ControlError
from appliance.relay.directory import Directory
from appliance.relay.identity import device_identity, own_identity, server_context
from appliance.relay.records import Records
from appliance.relay.server import RelayServer
from appliance.transport.listen import Address, open_listeners, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.app.core import Core
    from appliance.app.house import House
    from appliance.config.model import Config
    from appliance.control.server import Progress
    from appliance.relay.identity import Identity

__all__ = ["RelayPart"]

KEY: Final = "relay"
"""keys/relay.pem and keys/relay.key."""


class RelayPart:
    name = "relay"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._server: RelayServer | None = None
        self._directory: Directory | None = None

    def slice(self, config: Config) -> tuple[object, ...] | None:
        relay = config.relay
        if not (relay.listen or relay.peer or relay.account or relay.device):
            return None
        return (config.site.name, relay.listen, relay.peer, relay.duplicate_login, relay.forget_after_s, relay.device)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        house = self._house
        core, config = house.core, house.config
        site = config.site.name
        listeners = await open_listeners([parse_address(a) for a in config.relay.listen])
        sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
        addresses = [str(Address(*s.getsockname()[:2])) for s in sockets]
        identity, records = await trio.to_thread.run_sync(_stored, core, site)
        directory = self._directory = Directory(site, records["table"], core.clock)
        server = self._server = RelayServer(
            site=site,
            config=config.relay,
            identity=identity,
            context=server_context(identity),
            table=directory,
            enrolments=records["enrolled"],
            waiting=records["waiting"],
            verify=verify_password,
            clock=core.clock,
            device_counter=lambda name: directory.known_counter(name) + 1,
        )
        for device in config.relay.device:
            own = await trio.to_thread.run_sync(device_identity, core.disk, core.paths.keys, device.name)
            server.devices.add(device, own.key, own.der, own.digest)
        directory.local = server.here
        directory.start = server.start
        directory.changed = server.table_changed
        self.configure(config)
        for sock, address in zip(sockets, addresses, strict=True):
            sock.setblocking(False)
            events.emit(events.LISTENING, service=self.name, address=address)
        house.listeners[self.name] = addresses
        try:
            await server.run(sockets, task_status=task_status)
        finally:
            self._server = self._directory = None
            house.listeners[self.name] = []

    def configure(self, config: Config) -> None:
        """Takes over what needs no restart."""
        if self._server is not None and self._directory is not None:
            self._directory.configure(config.relay)
            self._server.configure(config.relay)

    async def drain(self) -> None:
        if self._server is not None:
            await self._server.drain()

    # ---- what the control socket asks
    @property
    def fingerprint(self) -> str | None:
        return self._server.identity.fingerprint if self._server is not None else None

    def counts(self) -> dict[str, int]:
        """`terminals` of `status`: those that are online."""
        site = self._house.config.site.name
        rows = [row for row in self._rows() if row["presence"] == "online"]
        local = sum(row["relay"] == site for row in rows)
        return {"local": local, "remote": len(rows) - local}

    def _rows(self) -> list[dict[str, Any]]:
        return list(self._directory.rows()) if self._directory is not None else []

    async def terminals(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """`posthouse terminals` (DESIGN §6)."""
        now = self._house.core.clock.now().wall
        return [
            {
                "name": row["name"],
                "presence": row["presence"],
                "relay": row["relay"],
                "path": row["path"],
                "since": rfc3339(now - row["age"]),
                "services": row["services"],
                "back_at": None if row["back_in"] is None else rfc3339(now + row["back_in"]),
            }
            for row in sorted(self._rows(), key=lambda row: str(row["name"]))
        ]

    async def peers(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """`posthouse peers` (DESIGN §6)."""
        return []

    async def why(self, arguments: Mapping[str, Any], progress: Progress) -> str:
        """`posthouse why NAME`."""
        name = str(arguments.get("name"))
        row = self._directory.row(name) if self._directory is not None else None
        if row is None:
            return f"a call of {name} is refused (not-registered): no terminal of that name has logged in"
        if row["presence"] == "online":
            return f"a call of {name} rings there now: it is logged in at {row['relay']}"
        return f"a call of {name} is refused ({row['presence']}), or waits where it is made with --wait"

    async def enrol(self, arguments: Mapping[str, Any], progress: Progress) -> str:
        """`posthouse enrol NAME`: the enrolment string."""
        server, name = self._server, str(arguments.get("name"))
        if server is None or not self._house.listeners[self.name]:
            raise ControlError("this Posthouse is no relay server: `relay.listen` is empty")
        if name not in server.enrolment.passwords:
            raise ControlError(f"no [[relay.account]] is called {name}")
        password = await server.enrol(name)
        where = self._house.listeners[self.name][0]
        return f"posthouse1:{where},{name},{server.identity.fingerprint},{password}"


def _stored(core: Core, site: str) -> tuple[Identity, dict[str, Records]]:
    """Our certificate, and what the relay server keeps. Blocks; raises OSError."""
    identity = own_identity(core.disk, core.paths.keys, KEY, site)
    folder = core.paths.relay
    return identity, {n: Records(core.disk, core.committer, folder / n) for n in ("table", "enrolled", "waiting")}
