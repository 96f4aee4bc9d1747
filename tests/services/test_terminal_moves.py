"""A laptop that moves between networks, in network namespaces: back within seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from fakes.netns import Namespace, namespace
from fakes.relay_server import FakeRelay
from fakes.terminal import PASSWORD, Terminal

RELAY = "10.78.0.1"


class Networks:
    """The relay server's host, the laptop, and two networks between them."""

    def __init__(self, relay: Namespace, laptop: Namespace) -> None:
        self.relay = relay
        self.laptop = laptop
        relay.ip("addr", "add", f"{RELAY}/32", "dev", "lo")
        for i in (1, 2):
            relay.cable(f"net{i}", laptop, f"net{i}")
            relay.ip("addr", "add", f"10.78.{i}.1/24", "dev", f"net{i}")
            relay.ip("link", "set", f"net{i}", "up")

    def join(self, i: int, *, metric: int = 0) -> None:
        self.laptop.ip("link", "set", f"net{i}", "up")
        self.laptop.ip("addr", "add", f"10.78.{i}.9/24", "dev", f"net{i}")
        self.laptop.ip("route", "add", f"{RELAY}/32", "via", f"10.78.{i}.1", "metric", str(metric))

    def leave(self, i: int) -> None:
        """As a cable that is pulled: the address goes with it."""
        self.laptop.ip("addr", "del", f"10.78.{i}.9/24", "dev", f"net{i}")
        self.laptop.ip("link", "set", f"net{i}", "down")


@asynccontextmanager
async def moving(folder: Path) -> AsyncIterator[tuple[Networks, FakeRelay, Terminal]]:
    with namespace("relay") as there, namespace("laptop") as here:
        networks = Networks(there, here)
        networks.join(1)
        relay = FakeRelay(folder, {"pc1": PASSWORD})
        relay.host = RELAY
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.serve, trio.socket.from_stdlib_socket(there.socket()))
            yield networks, relay, Terminal(folder, "pc1", relay, nursery, here)
            nursery.cancel_scope.cancel()


async def again(relay: FakeRelay, terminal: Terminal, within_s: float) -> float:
    """Seconds until the next login."""
    first, begun = relay.logins["pc1"], trio.current_time()
    with trio.move_on_after(within_s):
        while relay.logins.get("pc1") in (None, first):
            await trio.sleep(0.05)
    assert relay.logins.get("pc1") not in (None, first), terminal.said
    return trio.current_time() - begun


async def test_a_new_address_is_a_new_login_within_seconds(tmp_path: Path) -> None:
    async with moving(tmp_path) as (networks, relay, terminal):
        await terminal.login()
        networks.leave(1)
        networks.join(2)
        await again(relay, terminal, 6)
        assert "this computer has moved to another network" in terminal.said
        ours = relay.logins["pc1"].stream.transport_stream.socket.getpeername()
        assert ours[0] == "10.78.2.9"


async def test_a_time_without_any_network_ends_within_seconds_of_the_next(tmp_path: Path) -> None:
    async with moving(tmp_path) as (networks, relay, terminal):
        await terminal.login()
        networks.leave(1)
        await trio.sleep(7)  # longer than the pauses between the first tries
        networks.join(2)
        await again(relay, terminal, 6)


async def test_the_same_network_again_keeps_the_login(tmp_path: Path) -> None:
    async with moving(tmp_path) as (networks, relay, terminal):
        await terminal.login()
        first = relay.logins["pc1"]
        networks.laptop.ip("link", "set", "net1", "down")
        await trio.sleep(3)
        networks.laptop.ip("link", "set", "net1", "up")
        networks.laptop.ip("route", "add", f"{RELAY}/32", "via", "10.78.1.1")
        await trio.sleep(4)
        assert relay.logins["pc1"] is first, terminal.said
        done = await terminal.run("list")
        assert done.returncode == 0 and b"pc1" in done.stdout


@pytest.mark.long
async def test_another_way_while_the_old_one_is_dead_is_found_by_a_ping(tmp_path: Path) -> None:
    """The old address is still there; only nothing gets through any more."""
    async with moving(tmp_path) as (networks, relay, terminal):
        networks.leave(1)
        networks.join(1, metric=100)
        await terminal.login()
        networks.relay.ip("addr", "del", "10.78.1.1/24", "dev", "net1")
        networks.join(2)
        await again(relay, terminal, 20)
        assert "does not answer any more" in terminal.said
