"""Limits of the relay protocol, each at its last good value and the first that is too much: certificates, counters,
tickets, requests, circuits; and what is known of an owner to whom no way leads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.config.model import RelayPeer
from appliance.relay import peers as peers_module
from appliance.relay import proof, request, requests, server, tickets
from appliance.relay.tickets import LINE_TICKET_S, TICKET_S, Tickets
from fakes.relay_client import Client, Key, join
from fakes.relay_house import KEYS, PASSWORD, House, house

PEER = (RelayPeer(name="peer1", secret="s", connect="never"), RelayPeer(name="peer2", secret="s", connect="never"))


def entry(name: str, seq: int, presence: int = 0) -> list[Any]:
    return [name, seq, 1, presence, 0, ["ssh"], KEYS["other"].fingerprint]


def key_of(size: int) -> Key:
    """With a certificate of about so many bytes, at least."""
    names = ["pc11"]
    while len((key := Key(*names)).der) < size:
        names.append(f"another-name-{len(names)}")
    return key


# ---- §1, §2
async def test_names_of_services_are_what_others_take_too(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        for services in (["a\nb"], ["\u202e"], ["a" * 64], [""], ["s"] * 65, [1]):
            client = await h.dial("pc11")
            await client.send_login(KEYS["pc11"], 1, services=services)
            frame = await client.receive()
            assert frame is not None and (frame[0], frame[1]["code"]) == ("error", "bad-body"), services


async def test_services_in_wide_characters_still_fit_in_frames(tmp_path: Path) -> None:
    """Of as many bytes as they can have: 4 to a character."""
    wide = ["\U0001f4ee" * 63] * 64
    async with house(tmp_path, peers=PEER) as h:
        terminal = await h.login("pc11")
        one, two = await h.link("peer1"), await h.link("peer2")
        await one.begin()
        await two.begin()
        for n in range(20):
            row = [f"far{n:02}-" + "x" * 57, n + 1, 1, 0, 0, wide, KEYS["other"].fingerprint]
            await one.update("peer1", row, base=n, last=n == 19)
        await h.until(row[0], "online")
        names: list[str] = []
        while len(names) < 20:
            update = await two.until("update")
            names += [e[0] for e in update["entries"] if update["owner"] == "peer1"]
        await terminal.send("list")
        rows, last = [], False
        while not last:
            table = await terminal.until("table")
            rows += table["entries"]
            last = table["last"]
        assert len([r for r in rows if r["services"] == wide]) == 20


async def test_a_certificate_of_more_than_1_kib_is_refused(tmp_path: Path) -> None:
    assert proof.CERTIFICATE_LIMIT == request.CERTIFICATE_LIMIT == 1024
    good, large = key_of(990), key_of(1025)
    assert 990 <= len(good.der) <= 1024 < len(large.der)
    async with house(tmp_path, peers=PEER) as h:
        client = await h.dial("pc11")
        frame = await client.log_in(large, 1, password=PASSWORD)
        assert frame is not None and frame[1]["code"] == "bad-login"
        client = await h.dial("pc11")
        frame = await client.log_in(good, 1, password=PASSWORD)
        assert frame is not None and frame[0] == "welcome"


@pytest.mark.parametrize("kind", ["accept", "invite"])
async def test_a_peer_that_brings_a_certificate_of_more_than_1_kib_is_closed(tmp_path: Path, kind: str) -> None:
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1")
        await peer.begin()
        body = {"id": bytes(16), "from": "far1", "to": "pc12", "service": "ssh", "path": ["peer1"], "wait": 0}
        await peer.send(kind, certificate=bytes(1025), **(body if kind == "invite" else {"id": bytes(16)}))
        assert (await peer.until("error"))["code"] == "bad-body"


async def test_a_login_counter_more_than_a_day_ahead_of_a_trusted_clock_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        h.counter = 10
        await h.login("pc11")
        clock: Any = h.server.directory._clock
        last = int((clock.now().wall + 86400) * 1000)
        client = await h.dial("pc11")
        frame = await client.log_in(KEYS["pc11"], last + 1)
        assert frame == ("error", {"code": "counter", "text": "the counter must grow", "counter": 11})
        frame = await client.log_in(KEYS["pc11"], last)
        assert frame is not None and frame[0] == "welcome"
        clock.trusted = False  # nobody knows what is too far
        client = await h.dial("pc11")
        frame = await client.log_in(KEYS["pc11"], last + 10**9)
        assert frame is not None and frame[0] == "welcome"


# ---- §3
async def test_what_is_gathered_goes_out_before_an_invitation_that_depends_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1")
        await peer.begin({"here": [0, 0]})
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        while h.server.peers.all["peer1"].dirty:
            await trio.sleep(0.005)
        monkeypatch.setattr(peers_module, "GATHER_S", 1000.0)
        caller = await h.login("pc11")
        await caller.send("connect", id=bytes(16), to="far1", service="ssh")
        told: set[str] = set()
        while (frame := await peer.receive()) is not None and frame[0] != "invite":
            if frame[0] == "update" and frame[1]["owner"] == "here":
                told |= {item[0] for item in frame[1]["entries"]}
        assert frame is not None and frame[1]["from"] == "pc11"
        assert "pc11" in told


# ---- §4
async def test_terminals_of_an_owner_without_a_route_are_expired_for_an_hour_and_then_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1")
        await peer.begin()
        await peer.route("behind", ["behind", "peer1"])
        await peer.update("behind", entry("far1", 1))
        await h.until("far1", "online")
        await peer.route("behind", [], "none")
        await h.until("far1", "expired")
        caller = await h.login("pc11")
        await caller.send("connect", id=bytes(16), to="far1", service="ssh")
        refused = await caller.expect("unavailable")
        assert (refused["reason"], refused["presence"]) == ("expired", "expired")
        await caller.send("connect", id=bytes([1] * 16), to="far1", service="ssh", wait=60)
        assert (await caller.expect("waiting"))["reason"] == "expired"
        began = h.server.peers.now()
        for after, presence in ((0, "expired"), (3599, "expired"), (3601, None)):
            monkeypatch.setattr(h.server.peers, "now", lambda after=after: began + after)
            h.server.peers.tidy(7 * 86400.0)
            assert h.presence("far1") == presence
        await caller.send("connect", id=bytes([2] * 16), to="far1", service="ssh", wait=60)
        assert (await caller.expect("unavailable"))["reason"] == "not-registered"


async def test_what_lies_behind_a_link_that_is_down_for_longer_than_forget_after_is_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, peers=PEER, forget_after_s=500.0) as h:
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        await peer.close()
        await h.until("far1", "lost")
        since = h.server.peers.routes.neighbours["peer1"].since
        for after, presence in ((499, "lost"), (500, "expired")):
            monkeypatch.setattr(h.server.peers, "now", lambda after=after: since + after)
            assert h.presence("far1") == presence


# ---- §5
async def test_a_ticket_lives_as_long_as_it_was_issued_for(mock_clock: MockClock) -> None:
    assert (TICKET_S, LINE_TICKET_S) == (30, 180)
    assert len(Tickets().issue("pc11", TICKET_S, lambda fd, over_line: None)) == tickets.TICKET_BYTES == 16
    for seconds in (TICKET_S, LINE_TICKET_S):
        out = Tickets()
        first, second = (out.issue("pc11", seconds, lambda fd, over_line: None) for _ in range(2))
        mock_clock.jump(seconds - 0.1)
        assert out.redeem(first, "pc12") is None and out.redeem(first, "pc11") is not None
        mock_clock.jump(0.2)
        assert out.redeem(second, "pc11") is None


@pytest.mark.parametrize(("keepalive", "seconds"), [(30, 30), (0, 180)])
async def test_a_leg_that_does_not_come_ends_the_request_on_a_line_later(
    tmp_path: Path, keepalive: int, seconds: int
) -> None:
    async with house(tmp_path, peers=PEER) as h:
        callee = await h.login("pc12", services=("ssh",))
        peer = await h.link("peer1", keepalive=keepalive)
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        await peer.send("invite", **{"from": "far1"}, id=bytes(16), to="pc12", service="ssh", path=["peer1"], wait=0,
                        certificate=KEYS["other"].der)  # fmt: skip
        await callee.expect("invite")
        await callee.send("accept", id=bytes(16), certificate=KEYS["pc12"].der)
        ticket = (await peer.until("ready"))["ticket"]
        (asked,) = h.server.requests._by[request.CALLER].values()
        assert asked.timer is not None and seconds - 20 < asked.timer.seconds_left <= seconds
        for issued in h.server.tickets._issued.values():
            assert seconds - 20 < issued.until - trio.current_time() <= seconds
        leg = await join(h.port, "pc12", (await callee.expect("ready"))["ticket"])
        over = asked.timer.call
        assert over is not None
        over()  # the other one has not come
        assert (await peer.until("reject"))["reason"] == "no-circuit"
        assert await callee.expect("cancel") == {"id": bytes(16)}
        assert await leg.receive_some() == b""
        await leg.aclose()
        with pytest.raises(AssertionError, match="join answered"):
            await join(h.port, "peer1", ticket)
        assert len(h.server.tickets) == len(h.server.requests) == 0


async def test_a_terminal_has_sixteen_requests_as_caller_and_as_callee(tmp_path: Path) -> None:
    assert requests.TERMINAL_PENDING == 16
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        other = await h.login("other", services=("ssh",))
        for n in range(16):
            await caller.send("connect", id=bytes([n] * 16), to="pc12", service="ssh")
            await callee.expect("invite")

        async def one_more(by: Client, to: str) -> str:
            await by.send("connect", id=os.urandom(16), to=to, service="ssh")
            return str((await by.expect("unavailable"))["reason"])

        assert await one_more(caller, "other") == "too-many"
        assert await one_more(other, "pc12") == "too-many"
        await callee.send("reject", id=bytes(16), reason="rejected")
        await caller.expect("unavailable")
        await caller.send("connect", id=os.urandom(16), to="other", service="ssh")
        await other.expect("invite")


async def test_a_terminal_has_sixty_four_circuits_as_caller_and_as_callee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.TERMINAL_CIRCUITS == 64
    monkeypatch.setattr(server, "TERMINAL_CIRCUITS", 3)
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11", services=("ssh",)), await h.login("pc12", services=("ssh",))
        other = await h.login("other", services=("ssh",))
        legs = []
        for _ in range(3):
            legs += await circuit(h, caller, callee)

        async def one_more(by: Client, to: str) -> str:
            await by.send("connect", id=os.urandom(16), to=to, service="ssh")
            return str((await by.expect("unavailable"))["reason"])

        assert await one_more(caller, "other") == "too-many"
        assert await one_more(callee, "other") == "too-many"
        assert await one_more(other, "pc12") == "too-many"
        assert await one_more(other, "pc11") == "too-many"
        for leg in legs[:2]:
            await leg.aclose()
        while len(h.server.circuits) > 2:
            await trio.sleep(0.005)
        legs += await circuit(h, other, callee)
        for leg in legs[2:]:
            await leg.aclose()


async def circuit(h: House, caller: Client, callee: Client) -> list[trio.SocketStream]:
    """Both ends of one that is up."""
    id, before = os.urandom(16), len(h.server.circuits)
    await caller.send("connect", id=id, to=callee.name, service="ssh")
    await callee.expect("invite")
    await callee.send("accept", id=id, certificate=b"")
    legs = [await join(h.port, c.name, (await c.expect("ready"))["ticket"]) for c in (caller, callee)]
    while len(h.server.circuits) == before:
        await trio.sleep(0.005)
    return legs
