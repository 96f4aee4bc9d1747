"""Relay servers with links between them, over real sockets: the table at the other side, requests and circuits across
them, links that end and come again."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.config.model import RelayPeer
from appliance.relay import dialling, listener
from fakes.relay_client import Client, join
from fakes.relay_house import KEYS, House, chain, house


async def login(h: House, name: str, *services: str) -> Client:
    return await h.login(name, services=services)


async def test_a_login_is_in_the_table_of_the_others_and_a_circuit_goes_through_them_all(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b", "c", "d") as houses:
        callee = await login(houses["a"], "pc11", "ssh")
        caller = await login(houses["d"], "pc12")
        for h in houses.values():
            await h.until("pc11", "online")
            await h.until("pc12", "online")
        row = houses["d"].server.directory.row("pc11")
        assert row is not None and (row["relay"], row["path"]) == ("a", ["a", "b", "c", "d"])
        id = os.urandom(16)
        await caller.send("connect", id=id, to="pc11", service="ssh")
        invite = await callee.expect("invite")
        assert invite["path"] == ["d", "c", "b", "a"]
        assert invite["certificate"] == KEYS["pc12"].der
        await callee.send("accept", id=id, certificate=KEYS["pc11"].der)
        near = await join(houses["d"].port, "pc12", (await caller.expect("ready"))["ticket"], b"through")
        far = await join(houses["a"].port, "pc11", (await callee.expect("ready"))["ticket"])
        async with near, far:
            assert await far.receive_some() == b"through"
            await far.send_eof()
            assert await near.receive_some() == b""
            await near.send_eof()
        for h in houses.values():
            while h.server.circuits:
                await trio.sleep(0.005)
            assert len(h.server.requests) == 0
        await callee.send("bye", reason="logout")
        await houses["d"].until("pc11", "offline")


async def test_a_request_goes_over_four_relay_servers_at_most(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b", "c", "d", "e") as houses:
        await login(houses["a"], "pc11", "ssh")
        caller = await login(houses["e"], "pc12")
        await houses["e"].until("pc11", "online")
        await caller.send("connect", id=bytes(16), to="pc11", service="ssh")
        assert (await caller.expect("unavailable"))["reason"] == "loop"


async def test_a_link_that_ends_without_a_word_makes_its_terminals_lost_and_comes_again(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        await login(houses["a"], "pc11")
        await houses["b"].until("pc11", "online")
        link = houses["b"].server.peers.all["a"].link
        assert link is not None
        link.connection.close("cut")
        assert houses["b"].presence("pc11") == "lost"
        await houses["b"].until("pc11", "online")
        assert [houses["b"].server.peers.state(p) for p in houses["b"].server.peers.all.values()] == ["up"]


async def test_after_a_restart_what_the_others_told_is_known_and_only_changes_are_asked_for(tmp_path: Path) -> None:
    def entry(name: str, seq: int, presence: int = 0) -> list[Any]:
        return [name, seq, 7, presence, 0, ["ssh"], KEYS["other"].fingerprint]

    peers = (RelayPeer(name="peer1", secret="s", connect="never"),)
    async with house(tmp_path, peers=peers) as h:
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1), entry("far2", 2))
        await h.until("far2", "online")
        await h.server.drain()
    async with house(tmp_path, peers=peers) as h:
        assert (h.presence("far1"), h.presence("far2")) == ("lost", "lost")
        assert h.server.directory.known_counter("far1") == 7
        assert [h.server.peers.state(p) for p in h.server.peers.all.values()] == ["lost"]
        caller = await h.login("pc11")
        await caller.send("connect", id=bytes(16), to="far1", service="ssh")
        assert (await caller.expect("unavailable"))["reason"] == "lost"
        peer = await h.link("peer1")
        assert peer.had["peer1"] == [1, 2]
        await peer.begin()
        await peer.update("peer1", entry("far2", 3, 3), base=2)
        await h.until("far2", None)
        await h.until("far1", "online")


async def test_a_refusal_comes_back_unchanged(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b", "c") as houses:
        callee, caller = await login(houses["a"], "pc11", "ssh"), await login(houses["c"], "pc12")
        await houses["c"].until("pc11", "online")
        await caller.send("connect", id=bytes(16), to="pc11", service="none")
        assert (await caller.expect("unavailable"))["reason"] == "no-service"
        await caller.send("connect", id=bytes([1] * 16), to="pc11", service="ssh")
        await callee.expect("invite")
        await callee.send("reject", id=bytes([1] * 16), reason="rejected", text="not \x1b[31mnow")
        refused = await caller.expect("unavailable")
        assert (refused["reason"], refused["text"]) == ("rejected", "not �[31mnow")


async def test_a_request_waits_until_its_callee_is_back_and_rings_then(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        callee, caller = await login(houses["a"], "pc11", "ssh"), await login(houses["b"], "pc12")
        await houses["b"].until("pc11", "online")
        await callee.send("bye", reason="logout")
        await houses["b"].until("pc11", "offline")
        await caller.send("connect", id=bytes(16), to="pc11", service="ssh", wait=60)
        waiting = await caller.expect("waiting")
        assert waiting["reason"] == "offline"
        callee = await login(houses["a"], "pc11", "ssh")
        await callee.expect("invite")
        await callee.send("accept", id=bytes(16), certificate=KEYS["pc11"].der)
        await caller.expect("ready")
        await callee.expect("ready")
        assert len(houses["b"].server.waiting) == 0


async def test_a_name_that_logs_in_elsewhere_is_replaced_here(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        old = await login(houses["a"], "pc11")
        await houses["b"].until("pc11", "online")
        houses["b"].counter = 5000
        await login(houses["b"], "pc11")
        assert await old.receive() == ("bye", {"reason": "replaced"})
        while (row := houses["a"].server.directory.row("pc11")) is None or row["relay"] != "b":
            await trio.sleep(0.005)


@pytest.mark.parametrize("what", ["secret", "fingerprint"])
async def test_who_does_not_know_the_secret_is_no_peer(tmp_path: Path, what: str) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        b = houses["b"].server
        peer = b.peers.all["a"]
        while peer.link is None:
            await trio.sleep(0.005)
        if what == "secret":
            peer.key = bytes([1] * 32)
        else:
            b._config = type(b._config)(peer=(RelayPeer(name="a", fingerprint="sha256:" + "0" * 64),))
        peer.link.connection.close("cut")
        await trio.sleep(0.8)
        assert peer.link is None
        assert b.peers.state(peer) == "lost"


async def test_a_change_is_seen_at_a_peer_within_milliseconds(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        times = []
        for _ in range(9):
            await login(houses["a"], "pc11")
            began = trio.current_time()
            counter = houses["a"].counter
            while houses["b"].server.directory.known_counter("pc11") < counter:
                await trio.sleep(0.0005)
            times.append(trio.current_time() - began)
        assert sorted(times)[4] < 0.1


async def test_a_leg_that_is_closed_without_a_byte_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELAY §1: the peer has as many strangers as it takes. Its closing is a reset, for it has not read what was sent."""
    tries: list[bool] = []
    real = dialling._join

    async def noted(sock: socket.socket, me: str, ticket: bytes) -> bool:
        tries.append(await real(sock, me, ticket))
        return tries[-1]

    monkeypatch.setattr(dialling, "_join", noted)
    monkeypatch.setattr(dialling, "RETRY_S", (0.01, 0.02))
    monkeypatch.setattr(dialling, "JOIN_TRIES", 1000)
    async with chain(tmp_path, "a", "b") as houses:
        callee, caller = await login(houses["a"], "pc11", "ssh"), await login(houses["b"], "pc12")
        await houses["b"].until("pc11", "online")
        strangers = [await trio.open_tcp_stream("127.0.0.1", houses["a"].port) for _ in range(listener.PER_ADDRESS)]
        while houses["a"].server.listener.strangers < listener.PER_ADDRESS:
            await trio.sleep(0.005)
        id = os.urandom(16)
        await caller.send("connect", id=id, to="pc11", service="ssh")
        await callee.expect("invite")
        await callee.send("accept", id=id, certificate=KEYS["pc11"].der)
        while not tries:
            await trio.sleep(0.005)
        assert tries[0] is False
        for stranger in strangers:
            await stranger.aclose()
        while not tries[-1]:
            await trio.sleep(0.005)
        near = await join(houses["b"].port, "pc12", (await caller.expect("ready"))["ticket"], b"through")
        far = await join(houses["a"].port, "pc11", (await callee.expect("ready"))["ticket"])
        async with near, far:
            assert await far.receive_some() == b"through"
