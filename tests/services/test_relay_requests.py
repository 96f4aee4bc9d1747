"""Connection requests: who may call whom, what a caller who changes his mind or is lost leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.config.model import RelayAccount, RelayPeer
from appliance.relay import waiting
from fakes.relay_client import join
from fakes.relay_house import KEYS, PASSWORD, chain, house

PEER = (RelayPeer(name="peer1", secret="s", connect="never"),)
ID = bytes([5] * 16)


def entry(name: str, seq: int, presence: int = 0) -> list[Any]:
    return [name, seq, 1, presence, 0, ["ssh"], KEYS["other"].fingerprint]


async def test_who_may_call_and_see_whom(tmp_path: Path) -> None:
    accounts = (
        RelayAccount(name="pc11", password=PASSWORD, may_call=("pc*",), callers=("far1",)),
        RelayAccount(name="pc12", password=PASSWORD, may_call=("*",)),
        RelayAccount(name="other", password=PASSWORD, may_call=("*",), callers=("pc12",)),
    )
    async with house(tmp_path, peers=PEER) as h:
        h.server.configure(replace(h.server._config, account=accounts))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1), entry("far2", 2))
        await h.until("far2", "online")
        clients = {name: await h.login(name, services=("ssh",)) for name in ("pc11", "pc12", "other")}
        await clients["pc11"].send("list")
        assert sorted(e["name"] for e in (await clients["pc11"].expect("table"))["entries"]) == ["pc11", "pc12"]
        await clients["pc12"].send("list")
        assert len((await clients["pc12"].expect("table"))["entries"]) == 5
        n = 0
        for caller, callee, rings in [
            ("pc11", "pc12", True), ("pc11", "other", False), ("pc11", "far1", False), ("pc12", "other", True),
            ("pc12", "pc11", False), ("pc12", "far1", True),
        ]:  # fmt: skip
            n += 1
            await clients[caller].send("connect", id=bytes([n] * 16), to=callee, service="ssh")
            if not rings:
                assert (await clients[caller].expect("unavailable"))["reason"] == "forbidden", (caller, callee)
            elif callee == "far1":
                assert (await peer.until("invite"))["from"] == caller
            else:
                assert (await clients[callee].expect("invite"))["from"] == caller
        for far, callee, rings in [
            ("far1", "pc11", True), ("far2", "pc11", False), ("far1", "pc12", False), ("far1", "other", False),
        ]:  # fmt: skip
            n += 1
            await peer.send("invite", **{"from": far}, id=bytes([n] * 16), to=callee, service="ssh", path=["peer1"],
                            wait=0, certificate=KEYS["other"].der)  # fmt: skip
            if rings:
                assert (await clients[callee].expect("invite"))["from"] == far
            else:
                assert (await peer.until("reject"))["reason"] == "forbidden", (far, callee)


async def test_a_cancel_revokes_the_tickets(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        await caller.send("connect", id=ID, to="pc12", service="ssh")
        await callee.expect("invite")
        await callee.send("accept", id=ID, certificate=b"")
        tickets = {c.name: (await c.expect("ready"))["ticket"] for c in (caller, callee)}
        await caller.send("cancel", id=ID)
        assert await callee.expect("cancel") == {"id": ID}
        assert len(h.server.tickets) == len(h.server.requests) == 0
        for name, ticket in tickets.items():
            with pytest.raises(AssertionError, match="join answered"):
                await join(h.port, name, ticket)


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_link_that_is_lost_before_ready_is_told_up_and_down(tmp_path: Path, accepted: bool) -> None:
    async with house(tmp_path, peers=PEER) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        await caller.send("connect", id=ID, to="far1", service="ssh")
        await peer.until("invite")
        await peer.send("invite", **{"from": "far1"}, id=bytes(16), to="pc12", service="ssh", path=["peer1"], wait=0,
                        certificate=KEYS["other"].der)  # fmt: skip
        await callee.expect("invite")
        if accepted:  # its tickets have passed: it goes on
            await peer.send("accept", id=ID, certificate=KEYS["other"].der)
            await caller.expect("ready")
        await peer.close()
        assert await callee.expect("cancel") == {"id": bytes(16)}
        if accepted:
            assert len(h.server.requests) == 1
            await caller.send("ping")
            assert await caller.expect("pong") == {}
        else:
            assert (await caller.expect("unavailable"))["reason"] == "lost"
            assert len(h.server.requests) == 0


async def test_a_request_whose_caller_stays_away_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waiting.COME_BACK_S == 60
    monkeypatch.setattr(waiting, "COME_BACK_S", 0.3)
    async with house(tmp_path) as h:
        callee = await h.login("pc12", services=("ssh",))
        await callee.send("bye", reason="logout")
        await h.until("pc12", "offline")
        caller = await h.login("pc11")
        await caller.send("connect", id=ID, to="pc12", service="ssh", wait=600)
        await caller.expect("waiting")
        await caller.close()
        while len(h.server.waiting):
            await trio.sleep(0.01)
        while h.server.waiting._records.items():  # and it is not on the disk any more
            await trio.sleep(0.01)
        callee = await h.login("pc12", services=("ssh",))
        caller = await h.login("pc11")
        await callee.send("ping")
        assert await callee.expect("pong") == {}  # nothing has rung


@pytest.mark.parametrize("callees", [("pc12", "pc12"), ("pc12", "far1"), ("far1", "far1")])
async def test_an_id_of_another_terminal_is_a_duplicate(tmp_path: Path, callees: tuple[str, str]) -> None:
    async with house(tmp_path, peers=PEER) as h:
        one, two = await h.login("pc11"), await h.login("other")
        callee = await h.login("pc12", services=("ssh",))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        await one.send("connect", id=ID, to=callees[0], service="ssh")
        assert (await (peer.until if callees[0] == "far1" else callee.expect)("invite"))["from"] == "pc11"
        await two.send("connect", id=ID, to=callees[1], service="ssh")
        assert await two.expect("unavailable") == {"id": ID, "reason": "duplicate-id"}
        if callees[0] == "far1":
            await peer.send("accept", id=ID, certificate=KEYS["other"].der)
        else:
            await callee.send("accept", id=ID, certificate=b"")
        assert (await one.expect("ready"))["id"] == ID
        await one.close()  # its tickets are out: they are still nobody else's
        await h.until("pc11", "lost")
        await two.send("connect", id=ID, to=callees[1], service="ssh")
        assert await two.expect("unavailable") == {"id": ID, "reason": "duplicate-id"}


ASK: dict[str, Any] = {"id": ID, "service": "ssh", "wait": 600}


@pytest.mark.parametrize("answer", ["accept", "reject"])
@pytest.mark.parametrize("when", ["meanwhile", "after"])
@pytest.mark.parametrize("home", ["here", "there"])
async def test_a_caller_who_comes_back_is_not_rung_for_twice(tmp_path: Path, home: str, when: str, answer: str) -> None:
    ask = {**ASK, "to": "pc12"}
    async with chain(tmp_path, "here", "there") as houses:
        here, there = houses["here"], houses["there"]
        callee = await houses[home].login("pc12", services=("ssh",))
        await here.until("pc12", "online")
        caller = await here.login("pc11")
        await there.until("pc11", "online")
        await caller.send("connect", **ask)
        await callee.expect("invite")
        await caller.close()
        await there.until("pc11", "lost")
        body = {"id": ID, "certificate": b"", "reason": "rejected"}
        if when == "meanwhile":
            await callee.send(answer, **body)
            await callee.send("ping")
            await callee.until("pong")
        caller = await here.login("pc11")
        await there.until("pc11", "online")
        await caller.send("connect", **ask)
        told = await caller.expect("waiting")
        assert told["reason"] == "lost" and 590 < told["wait"] <= 600
        if when == "after":
            await callee.send(answer, **body)
        if answer == "accept":
            assert (await caller.expect("ready"))["certificate"] == KEYS["pc12"].der
            assert (await callee.expect("ready"))["certificate"] == KEYS["pc11"].der  # and no second `invite`
        else:
            assert (await caller.expect("unavailable"))["reason"] == "rejected"
            await callee.send("ping")
            await callee.expect("pong")


@pytest.mark.parametrize("accepted", [False, True])
async def test_what_rings_for_a_caller_who_stays_away_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    monkeypatch.setattr(waiting, "COME_BACK_S", 0.3)
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        await caller.send("connect", **ASK, to="pc12")
        await callee.expect("invite")
        await caller.close()
        await h.until("pc11", "lost")
        if accepted:
            await callee.send("accept", id=ID, certificate=b"")
        assert await callee.expect("cancel") == {"id": ID}
        assert len(h.server.requests) == 0 and not h.server.requests._asked
