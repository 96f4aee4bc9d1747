"""A relay server on a free port of loopback, with people on the LAN who log in to it; several in a row, linked."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.config.model import Relay, RelayAccount, RelayPeer
from appliance.relay.identity import device_identity, own_identity, server_context
from appliance.relay.records import Records
from appliance.relay.server import RECORDS, RelayServer
from appliance.relay.slice_files import SliceFiles
from appliance.storage.disk import Disk
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.relay_client import Client, Key, PeerClient

KEYS = {name: Key(name) for name in ("pc11", "pc12", "other")}
PASSWORD = "correct horse"


@dataclass
class House:
    server: RelayServer
    port: int
    root: Path
    clients: list[Client] = field(default_factory=list)
    counter: int = 1000

    def presence(self, name: str) -> str | None:
        row = self.server.directory.row(name)
        return row["presence"] if row else None

    async def until(self, name: str, presence: str | None) -> None:
        while self.presence(name) != presence:
            await trio.sleep(0.005)

    async def dial(self, name: str, **options: Any) -> Client:
        client = await Client.dial(self.port, name, **options)
        self.clients.append(client)
        return client

    async def link(self, name: str, **told: Any) -> PeerClient:
        """From a relay server of that name, which says what a test tells it to."""
        peer = await PeerClient.link(self.port, name, self.server.site, **told)
        self.clients.append(peer)
        return peer

    async def login(self, name: str, *, services: tuple[str, ...] = (), key: Key | None = None) -> Client:
        """Enrolled by the account's password where it must."""
        client = await self.dial(name)
        self.counter += 1
        key = key or KEYS[name]
        frame = await client.log_in(key, self.counter, services=list(services))
        if frame is not None and frame[1].get("code") == "enrol":
            frame = await client.log_in(key, self.counter, services=list(services), password=PASSWORD)
        assert frame == ("welcome", {"relay": self.server.site, "keepalive": 30}), frame
        return client


@contextlib.asynccontextmanager
async def house(
    root: Path,
    *,
    name: str = "here",
    peers: tuple[RelayPeer, ...] = (),
    line_budget: Callable[[], float | None] = lambda: None,
    over_line: Callable[[str], bool] = lambda address: False,
    **relay: Any,
) -> AsyncIterator[House]:
    disk = Disk()
    keys = root / "keys"
    disk.mkdir(keys)
    identity = own_identity(disk, keys, "relay", name)
    committer: Any = InlineCommitter(disk, root)
    accounts = tuple(RelayAccount(name=n, password=PASSWORD, roams=True, callers=("*",)) for n in KEYS)
    config = Relay(account=accounts, peer=peers, **relay)
    server = RelayServer(
        site=name,
        config=config,
        keys={peer.name: bytes(32) for peer in peers},
        identity=identity,
        context=server_context(identity),
        records={n: Records(disk, committer, root / n) for n in RECORDS},
        slices=SliceFiles(disk, committer, root / "others"),
        verify=lambda password, stored: password == stored,
        clock=FakeClock(),
        devices={device.name: device_identity(disk, keys, device.name) for device in config.device},
        line_budget=line_budget,
        over_line=lambda sock: over_line(sock.getsockname()[0]),
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(256)
    listening.setblocking(False)
    made = House(server, listening.getsockname()[1], root)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listening])
            yield made
            for client in made.clients:
                await client.close()
            nursery.cancel_scope.cancel()


def fingerprint(root: Path, name: str) -> str:
    """Of the certificate that the relay server in this folder has, made now where it must."""
    disk = Disk()
    disk.mkdir(root / "keys")
    return own_identity(disk, root / "keys", "relay", name).fingerprint


@contextlib.asynccontextmanager
async def chain(root: Path, *names: str) -> AsyncIterator[dict[str, House]]:
    """Relay servers in a row, each linked with the next, which it opens the link to."""
    async with contextlib.AsyncExitStack() as stack:
        made: dict[str, House] = {}
        before: str | None = None
        for i, name in enumerate(names):
            peers = []
            if before is not None:
                address = f"127.0.0.1:{made[before].port}"
                own = fingerprint(root / before, before)
                peers.append(RelayPeer(name=before, address=address, fingerprint=own, secret="s", connect="always"))
            if i + 1 < len(names):
                peers.append(RelayPeer(name=names[i + 1], secret="s", connect="never"))
            (root / name).mkdir(exist_ok=True)
            made[name] = await stack.enter_async_context(house(root / name, name=name, peers=tuple(peers)))
            before = name
        yield made
