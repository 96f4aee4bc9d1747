"""The part that is the relay server: joins its room with the disk, the configuration and the calls.

Accounts, devices, permissions and limits are taken over while it runs, so that a new account ends nobody's connection;
another address or name needs the server anew.

The room itself is imported only where there is a relay server to run: it is a tenth of what all imports take a board at
its start.
"""

from __future__ import annotations

import resource
import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio

from appliance import events
from appliance.app.network import own_addresses
from appliance.clock import rfc3339
from appliance.config.passwords import verify_password
from appliance.control.server import ControlError
from appliance.modem.device import addresses
from appliance.protocol.names import is_name, no_name
from appliance.transport.listen import Address, open_listeners, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.app.core import Core
    from appliance.app.house import House
    from appliance.call import Job
    from appliance.config.model import Config
    from appliance.control.server import Progress
    from appliance.relay.identity import Identity
    from appliance.relay.records import Records
    from appliance.relay.server import RelayServer
    from appliance.relay.slice_files import SliceFiles

__all__ = ["RelayPart"]

KEY: Final = "relay"
"""keys/relay.pem and keys/relay.key."""
SECRET_BYTES: Final = 32
PLAN_S: Final = 5.0
DAY_S: Final = 86400.0
USAGE: Final = 2
"""The command line's exit code for it."""
FILES: Final = 65_536
"""Open files: two for each of 10,000 circuits, one for each login, and as much again. systemd's own limit is 1,024, for
the sake of programs that use select(2)."""


class RelayPart:
    name = "relay"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._server: RelayServer | None = None

    def slice(self, config: Config) -> tuple[object, ...] | None:
        relay = config.relay
        if not (relay.listen or relay.peer or relay.account or relay.device):
            return None
        secrets = tuple(config.secrets.get(peer.secret) for peer in relay.peer)
        kept = (relay.duplicate_login, relay.forget_after_s, relay.device)
        return (config.site.name, relay.listen, relay.peer, secrets, *kept)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        from appliance.relay.identity import server_context
        from appliance.relay.server import RelayServer

        house = self._house
        core, config = house.core, house.config
        site = config.site.name
        _raise_file_limit()
        wanted = [parse_address(a) for a in config.relay.listen]
        listeners = await open_listeners(wanted, to_come=own_addresses(config))
        sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
        addresses = [str(Address(*s.getsockname()[:2])) for s in sockets]
        identity, records, slices, devices = await trio.to_thread.run_sync(_stored, core, config)
        server = self._server = RelayServer(
            site=site,
            config=config.relay,
            keys={peer.name: _key(config, peer.secret) for peer in config.relay.peer},
            identity=identity,
            context=server_context(identity),
            records=records,
            slices=slices,
            verify=verify_password,
            clock=core.clock,
            devices=devices,
            over_line=self._over_line,
            line_wanted=self.line_wanted,
            line_budget=self._line_budget,
        )
        for sock, address in zip(sockets, addresses, strict=True):
            sock.setblocking(False)
            events.emit(events.LISTENING, service=self.name, address=address)
        house.listeners[self.name] = addresses
        try:
            await server.run(sockets, task_status=task_status)
        finally:
            self._server = None
            house.listeners[self.name] = []

    def configure(self, config: Config) -> None:
        """Takes over what needs no restart."""
        if self._server is not None:
            self._server.configure(config.relay)

    # ---- calls
    def jobs(self, config: Config) -> list[Job]:
        """Of a call: a link to each peer that is linked by calls, and what circuits come of them, or come in."""
        if self.slice(config) is None:
            return []
        from appliance.relay.calling import LineCircuits, PeerCall

        names = [peer.name for peer in config.relay.peer if peer.connect == "call" and peer.address]
        back_in, max_call_s = self._house.caller.back_in, config.schedule.max_call_s
        peers = [PeerCall(name, lambda: self._server, back_in, max_call_s) for name in names]
        return [*peers, LineCircuits(lambda: self._server)]

    def _over_line(self, sock: socket.socket) -> bool:
        """Whether a connection has come in over the line of the call that is up."""
        from appliance.relay.listener import bare

        caller = self._house.caller_or_none
        device = caller.device if caller is not None else ""
        return bool(device) and bare(sock.getsockname()[0]) in addresses(device)

    def line_wanted(self) -> None:
        """Tells the caller whether a request waits for a call, and until when."""
        seconds = self._server.waiting.line_wanted() if self._server is not None else None
        # Rounded, so that a plan is not a new one whenever it is looked at; down, so that we are there first and wait.
        now = self._house.core.clock.now().wall
        at = None if seconds is None else (now + seconds) // PLAN_S * PLAN_S
        if (caller := self._house.caller_or_none) is not None:
            caller.request_connection(at)

    def _line_budget(self) -> float | None:
        caller = self._house.caller_or_none
        return None if caller is None else caller.line_budget()

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
        return list(self._server.directory.rows()) if self._server is not None else []

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
        server, now = self._server, trio.current_time()
        if server is None:
            return []
        wall = self._house.core.clock.now().wall
        out = []
        for peer in server.peers.all.values():
            moved = server.peers.moved(peer)
            s = server.peers.registry.slices.get(peer.name)
            out.append(
                {
                    "name": peer.name,
                    "address": peer.address,
                    "state": server.peers.state(peer),
                    "since": rfc3339(wall - (now - peer.since)) if peer.ever else None,
                    "back_at": None if peer.back is None else rfc3339(wall + peer.back - now),
                    "entries": len(s.entries) if s is not None else 0,
                    "bytes_in": moved[0],
                    "bytes_out": moved[1],
                }
            )
        return out

    def peer_counts(self) -> dict[str, int]:
        """`peers` of `status`."""
        counts = {"up": 0, "suspended": 0, "lost": 0, "never": 0}
        for peer in self._server.peers.all.values() if self._server is not None else ():
            counts[self._server.peers.state(peer)] += 1  # type: ignore[union-attr]
        return counts

    async def why(self, arguments: Mapping[str, Any], progress: Progress) -> str:
        """`posthouse why NAME`."""
        from appliance.relay.why import why

        name, server, config = _name(arguments), self._server, self._house.config
        if server is None:
            return f"a call of {name} is refused (not-registered): this Posthouse is no relay server"
        return why(
            server.directory,
            server.peers,
            name,
            site=config.site.name,
            is_account=name in server.enrolment.passwords,
            causes_calls=config.schedule.connection_request,
            moment=self._moment,
            line_budget=self._line_budget,
            call_for=self._call_for,
        )

    def _call_for(self, seconds: float) -> tuple[float | None, str]:
        """As `relay.why` asks: what holds the call is behind its cause."""
        now, caller = self._house.core.clock.now().wall, self._house.caller_or_none
        if caller is None:
            return seconds, ""
        call = caller.call_for_connection(now + seconds)
        _, _, held = call.reason.partition("; ")
        return None if call.at is None else max(0.0, call.at - now), held or call.reason

    def _moment(self, seconds: float) -> str:
        """That far from now, as a person reads it at the site."""
        at = datetime.fromtimestamp(
            self._house.core.clock.now().wall + seconds, ZoneInfo(self._house.config.site.timezone)
        )
        return at.strftime("%H:%M" if abs(seconds) < DAY_S / 2 else "%Y-%m-%d %H:%M")

    async def enrol(self, arguments: Mapping[str, Any], progress: Progress) -> str:
        """`posthouse enrol NAME`: the enrolment string."""
        server, name = self._server, _name(arguments)
        if server is None or not self._house.listeners[self.name]:
            raise ControlError("this Posthouse is no relay server: `relay.listen` is empty")
        if name not in server.enrolment.passwords:
            raise ControlError(f"no [[relay.account]] is called {name}")
        password = await server.enrol(name)
        where = self._house.listeners[self.name][0]
        return f"posthouse1:{where},{name},{server.identity.fingerprint},{password}"


def _name(arguments: Mapping[str, Any]) -> str:
    """The terminal that a verb is about. Raises ControlError: wrong usage."""
    name = arguments.get("name")
    if not is_name(name):
        raise ControlError(no_name(name), USAGE)
    return name


def _key(config: Config, secret: str) -> bytes:
    """The 32 bytes of a peer's secret. Raises OSError, in words for a person."""
    try:
        key = bytes.fromhex(config.secrets.get(secret, ""))
    except ValueError:
        key = b""
    if len(key) != SECRET_BYTES:
        raise OSError(
            f"the secret {secret} of a relay.peer is not {SECRET_BYTES} bytes in hex (`openssl rand -hex 32`)"
        )
    return key


def _raise_file_limit() -> None:
    """As far as the host lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _stored(core: Core, config: Config) -> tuple[Identity, dict[str, Records], SliceFiles, dict[str, Identity]]:
    """Our certificate, what the relay server keeps of itself and of the others, the devices' certificates. Blocks;
    raises OSError."""
    from appliance.relay.identity import device_identity, own_identity
    from appliance.relay.records import Records
    from appliance.relay.server import RECORDS
    from appliance.relay.slice_files import SliceFiles

    keys, folder = core.paths.keys, core.paths.relay
    identity = own_identity(core.disk, keys, KEY, config.site.name)
    records = {n: Records(core.disk, core.committer, folder / n) for n in RECORDS}
    slices = SliceFiles(core.disk, core.committer, folder / "others")
    return identity, records, slices, {d.name: device_identity(core.disk, keys, d.name) for d in config.relay.device}
