"""Rules of the relay protocol that the other tests don't reach, each by its section (docs/relay-protocol.md has the
list): over real sockets, with a peer that says exactly what it is told to, or on the pure parts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.config.model import RelayAccount, RelayPeer
from appliance.protocol.relay import FrameError, encode
from appliance.relay import links, requests
from appliance.relay.registry import LOST, OFFLINE, ONLINE, REMOVED, Registry, Sent
from appliance.relay.routes import Routes
from appliance.relay.why import why
from fakes.relay_house import KEYS, House, chain, house

CallFor = Callable[[float], tuple[float | None, str]]

FP = KEYS["other"].fingerprint
PEER = (RelayPeer(name="peer1", secret="s", connect="never"),)


def update(owner: str, entries: list[list[Any]], **more: Any) -> dict[str, Any]:
    seq = entries[-1][1] if entries else 0
    return {"owner": owner, "epoch": 1, "base": 0, "seq": seq, "last": True, "entries": entries, **more}


def entry(name: str, seq: int, presence: int = ONLINE) -> list[Any]:
    return [name, seq, 1, presence, 0, ["ssh"], FP]


# ---- §3, the registry
def test_what_has_been_heard_is_passed_over_and_resurrects_nobody() -> None:
    r = Registry("me", 1)
    r.apply(update("o", [entry("a", 1), entry("b", 2)]), 0)
    r.apply(update("o", [entry("a", 3, REMOVED)], base=2), 0)
    r.forget(100.0, 50.0)
    assert list(r.slices["o"].entries) == ["b"]
    late = r.apply(update("o", [entry("a", 1), entry("b", 2)], epoch=0), 0)
    assert late.ack == {"owner": "o", "epoch": 1, "seq": 3}
    assert r.apply(update("o", [entry("a", 2)], base=1), 0).changed == []
    assert list(r.slices["o"].entries) == ["b"]


def test_a_run_that_is_cut_goes_on_and_what_is_not_heard_in_it_is_gone_at_its_end() -> None:
    r = Registry("me", 1)
    r.apply(update("o", [entry("old", 1)]), 0)
    assert r.apply(update("o", [entry("a", 1)], epoch=2, last=False), 0).changed == ["a"]
    assert r.have()["o"] == [2, 1] and set(r.slices["o"].entries) == {"old", "a"}
    assert r.apply(update("o", [entry("c", 3)], epoch=2, base=2), 0).ack == {"owner": "o", "epoch": 2, "seq": 1}
    assert r.apply(update("o", [entry("b", 2)], epoch=2, base=1), 0).changed == ["b", "old"]
    assert set(r.slices["o"].entries) == {"a", "b"}


def test_fields_are_left_out_only_of_what_the_receiver_knew_before_the_first_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.relay.registry.FRAME_ENTRIES", 1)
    mine, theirs = Registry("o", 1), Registry("me", 1)
    for name in ("a", "b"):
        mine.publish(name, ONLINE, 0, 1, ["ssh"], FP)
    sent = Sent(0, 0)
    for body in mine.frames("o", sent, 0):
        theirs.apply(body, 0)
    mine.set_presence("a", LOST, 0)
    mine.publish("c", ONLINE, 0, 1, ["ssh"], FP)
    mine.set_presence("b", OFFLINE, 0)
    mine.set_presence("c", OFFLINE, 0)
    bodies = list(mine.frames("o", sent, 0))
    assert [len(body["entries"][0]) for body in bodies] == [5, 5, 7]
    for body in bodies:
        assert theirs.apply(body, 0).ack is None
    assert {e.name: e.presence for e in theirs.slices["o"].entries.values()} == {"a": LOST, "b": OFFLINE, "c": OFFLINE}


def test_fields_that_are_missing_after_a_run_was_cut_are_asked_for_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.relay.registry.FRAME_ENTRIES", 1)
    mine, theirs = Registry("o", 1), Registry("me", 1)
    for name in ("a", "b", "c"):
        mine.publish(name, ONLINE, 0, 1, ["ssh"], FP)
    mine.set_presence("a", OFFLINE, 0)  # now behind the others, though nothing else of it has changed
    theirs.apply(next(mine.frames("o", Sent(0, 0), 0)), 0)
    assert theirs.have()["o"] == [1, 2] and set(theirs.slices["o"].entries) == {"b"}
    acks = [theirs.apply(body, 0).ack for body in mine.frames("o", Sent(1, 2), 0)]
    assert acks == [None, {"owner": "o", "epoch": 1, "seq": 0}]
    assert list(theirs.frames("o", Sent(0, 0), 0)) == []  # nobody is told what may lack a part
    assert [theirs.apply(body, 0).ack for body in mine.frames("o", Sent(1, 0), 0)] == [None] * 3
    assert theirs.have() == {"me": [1, 0], "o": [1, 4]} and set(theirs.slices["o"].entries) == {"a", "b", "c"}


def test_an_entry_that_comes_back_after_it_was_removed_leaves_no_field_out() -> None:
    mine, theirs = Registry("o", 1), Registry("me", 1)
    mine.publish("a", OFFLINE, 0, 1, ["ssh"], FP)
    assert mine.forget(10.0, 5.0) == ["a"]
    for body in mine.frames("o", Sent(0, 0), 10):
        theirs.apply(body, 10)
    theirs.forget(20.0, 5.0)
    assert theirs.slices["o"].entries == {}  # dropped there, and not here yet
    mine.publish("a", ONLINE, 20, 2, ["ssh"], FP)
    (body,) = mine.frames("o", Sent(1, 2), 20)
    assert theirs.apply(body, 20).changed == ["a"]


def test_below_the_newest_removed_entry_that_was_dropped_there_is_a_full_run() -> None:
    r = Registry("o", 1)
    for name in ("a", "b"):
        r.publish(name, OFFLINE, 0, 1, [], FP)
    assert r.forget(10.0, 5.0) == ["a", "b"]  # now removed, seq 3 and 4
    r.publish("c", ONLINE, 10, 1, [], FP)
    assert next(r.frames("o", Sent(1, 2), 10))["base"] == 2
    assert r.forget(20.0, 5.0) == []  # now dropped
    assert next(r.frames("o", Sent(1, 2), 20))["base"] == 0
    assert next(r.frames("o", Sent(1, 4), 20))["base"] == 4


def test_a_run_that_nobody_goes_on_with_is_asked_for_again() -> None:
    r = Registry("me", 1)
    r.apply(update("o", [entry("a", 1)], last=False), 0)
    assert list(r.stalled(599)) == []
    assert list(r.stalled(601)) == [{"owner": "o", "epoch": 1, "seq": 1}]
    assert list(r.stalled(602)) == []


# ---- §4, routes
def test_the_best_route_is_by_state_then_path_then_name() -> None:
    r = Routes("me", 100.0)
    for name in ("n1", "n2", "n3"):
        r.link_up(name, 0)
    r.heard("n1", {"owner": "o", "path": ["o", "n1"], "state": "lost"}, 0)
    r.heard("n2", {"owner": "o", "path": ["o", "x", "n2"], "state": "up"}, 0)
    assert r.best("o", 0)[0] == "n2"  # type: ignore[index]
    r.heard("n3", {"owner": "o", "path": ["o", "y", "n3"], "state": "up"}, 0)
    assert r.best("o", 0)[0] == "n2"  # type: ignore[index]
    r.link_down("n2", 10, 60.0)
    assert r.best("o", 10)[0] == "n3"  # type: ignore[index]
    r.heard("n3", {"owner": "o", "path": [], "state": "none"}, 10)
    way = r.best("o", 10)
    assert way is not None and (way[0], way[1].state, way[1].back) == ("n2", "suspended", 60.0)
    assert r.to_say("o", 20) == {
        "owner": "o",
        "path": ["o", "x", "n2", "me"],
        "state": "suspended",
        "age": 10,
        "back_in": 40,
    }


@pytest.mark.parametrize("body", [
    {"owner": "o", "path": ["o", "me", "n1"], "state": "up"}, {"owner": "o", "path": ["o", "n1"], "state": "lost", "age": 100},
])  # fmt: skip
def test_a_path_through_us_or_an_age_of_forget_after_counts_as_none(body: dict[str, Any]) -> None:
    r = Routes("me", 100.0)
    r.link_up("n1", 0)
    r.heard("n1", body, 0)
    assert r.best("o", 0) is None and not r.says("n1", "o")


def test_a_route_that_is_none_needs_no_path() -> None:
    r = Routes("me", 100.0)
    r.link_up("n1", 0)
    for path in ({}, {"path": []}, {"path": ["o", "n1"]}):
        r.heard("n1", {"owner": "o", "path": ["o", "n1"], "state": "up"}, 0)
        r.heard("n1", {"owner": "o", "state": "none", **path}, 0)
        assert not r.says("n1", "o")
    with pytest.raises(FrameError):
        r.heard("n1", {"owner": "o", "state": "up"}, 0)


def test_a_link_that_has_been_up_for_longer_than_forget_after_is_told_as_up_now() -> None:
    r, other = Routes("me", 100.0), Routes("x", 100.0)
    r.link_up("o", 0)
    r.heard("o", {"owner": "o", "path": ["o"], "state": "up", "age": 0}, 0)
    other.link_up("me", 500)
    other.heard("me", r.to_say("o", 500), 500)
    assert other.best("o", 500) is not None


def test_what_was_said_over_an_older_link_grows_old() -> None:
    r = Routes("me", 100.0)
    r.link_up("n1", 0)
    r.heard("n1", {"owner": "o", "path": ["o", "n1"], "state": "up"}, 0)
    for at in (20, 40, 60, 80):  # again and again, and never a word of it
        r.link_down("n1", at, None)
        r.link_up("n1", at + 10)
    way = r.best("o", 119)
    assert way is not None and (way[1].state, way[1].since) == ("lost", 20)
    assert r.best("o", 120) is None


async def test_silence_is_asked_after_and_ends_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "KEEPALIVE_S", 0.4)
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1")
        await peer.begin()
        began = trio.current_time()
        await peer.until("ping")
        while h.server.peers.all["peer1"].link is not None:
            await trio.sleep(0.01)
        assert trio.current_time() - began < 5
        assert h.server.peers.state(h.server.peers.all["peer1"]) == "lost"


@pytest.mark.parametrize(("told", "bye", "state"), [
    ({"stays": 600, "back_in": 7200}, None, "lost"), ({"stays": 0.001, "back_in": 7200}, None, "suspended"),
    ({}, {"reason": "call-over", "back_in": 7200}, "suspended"), ({}, {"reason": "call-over"}, "lost"),
    ({"stays": 600, "back_in": 7200}, {"reason": "stopping"}, "lost"),
])  # fmt: skip
async def test_the_end_of_a_link_by_plan_suspends_and_any_other_loses(
    tmp_path: Path, told: dict[str, Any], bye: dict[str, Any] | None, state: str
) -> None:
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1", **told)
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        if bye is not None:
            await peer.send("bye", **bye)
        await trio.sleep(0.01)
        await peer.close()
        await h.until("far1", state)
        row = h.server.directory.row("far1")
        assert row is not None and (row["back_in"] is not None) == (state == "suspended")
        # and out of the owner's mouth: lost and offline
        assert h.server.peers.state(h.server.peers.all["peer1"]) == state


async def test_from_one_opener_the_newest_link_stays_and_its_routes_go_on(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        old = await h.link("peer1")
        await old.begin()
        await old.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        new = await h.link("peer1")
        assert (await old.until("bye"))["reason"] == "replaced"
        await new.begin({"here": [0, 0]})
        await h.until("far1", "online")
        await old.close()
        await new.close()


# ---- §3: a redial is cheap
async def test_a_redial_with_one_percent_of_ten_thousand_entries_changed_is_below_8_kb_of_frames(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path, "a", "b") as houses:
        a, b = houses["a"].server, houses["b"].server
        registry = a.peers.registry
        for n in range(10_000):
            registry.publish(
                f"terminal-{n:05}", ONLINE, trio.current_time(), 1_767_614_400_000 + n, ("ssh", "http"), os.urandom(32)
            )
        a.peers.dirty("a")
        while b.peers.registry.slices.get("a") is None or b.peers.registry.have()["a"] != a.peers.registry.have()["a"]:
            await trio.sleep(0.02)
        assert len(b.peers.registry.slices["a"].entries) == 10_000
        link = b.peers.all["a"].link
        assert link is not None
        link.connection.close("cut")
        for n in range(0, 10_000, 200):
            registry.set_presence(f"terminal-{n:05}", OFFLINE, trio.current_time())
            old = registry.own.entries[f"terminal-{n + 1:05}"]
            registry.publish(old.name, ONLINE, trio.current_time(), old.counter + 5000, old.services, old.fingerprint)
        while b.peers.registry.have()["a"] != a.peers.registry.have()["a"]:
            await trio.sleep(0.02)
        link = b.peers.all["a"].link
        assert link is not None
        moved = link.connection.bytes_in + link.connection.bytes_out
        print(f"a redial: {moved} bytes of frames")
        assert 1000 < moved < 8 * 1024


# ---- §5: requests
async def test_a_rung_id_is_never_rung_twice_and_its_answer_is_repeated(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        callee = await h.login("pc12", services=("ssh",))
        invite = {"id": bytes(16), "from": "far1", "to": "pc12", "service": "ssh", "certificate": KEYS["other"].der,
                  "path": ["peer1"], "wait": 60}  # fmt: skip
        tickets = []
        for n in range(2):
            peer = await h.link("peer1")
            await peer.begin()
            await peer.update("peer1", entry("far1", 1 + n), epoch=1 + n)
            await peer.send("invite", **invite)
            if n == 0:
                await callee.expect("invite")
                await callee.send("accept", id=bytes(16), certificate=b"")
            assert (await peer.until("accept"))["certificate"] == KEYS["pc12"].der
            tickets.append((await peer.until("ready"))["ticket"])
            tickets.append((await callee.expect("ready"))["ticket"])  # no second invite before it
            if n == 0:
                await peer.close()
        assert len(set(tickets)) == 4
        assert len(h.server.tickets) == 2  # the old ones are void
        await peer.close()


async def test_an_invitation_that_is_not_answered_ends_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "ANSWER_S", 0.2)
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "online")
        caller = await h.login("pc11")
        await caller.send("connect", id=bytes(16), to="far1", service="ssh")
        await peer.until("invite")
        assert (await caller.expect("unavailable"))["reason"] == "lost"
        assert h.presence("far1") == "lost"


async def test_nobody_answers_a_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "RING_S", 0.2)
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        await caller.send("connect", id=bytes(16), to="pc12", service="ssh")
        await callee.expect("invite")
        assert (await caller.expect("unavailable"))["reason"] == "timeout"
        assert await callee.expect("cancel") == {"id": bytes(16)}


async def test_a_waiting_request_outlives_a_restart_and_is_taken_up_by_the_same_connect(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"id": bytes([7] * 16), "to": "pc12", "service": "ssh", "wait": 600}
    async with house(tmp_path) as h:
        callee = await h.login("pc12", services=("ssh",))
        await callee.send("bye", reason="logout")
        await h.until("pc12", "offline")
        caller = await h.login("pc11")
        await caller.send("connect", **ask)
        waiting = await caller.expect("waiting")
        assert waiting["reason"] == "offline" and 590 < waiting["wait"] <= 600
        await caller.send("connect", **{**ask, "to": "other"})
        assert (await caller.expect("unavailable"))["reason"] == "duplicate-id"
    async with house(tmp_path) as h:
        h.counter = 2000
        assert len(h.server.waiting) == 1
        callee = await h.login("pc12", services=("ssh",))
        with trio.move_on_after(0.2) as nobody:
            await callee.receive()
        assert nobody.cancelled_caught  # nobody hears the caller: nobody is rung
        caller = await h.login("pc11")
        await caller.send("connect", **ask)
        assert (await caller.expect("waiting"))["id"] == ask["id"]
        assert (await callee.expect("invite"))["id"] == ask["id"]
        await callee.send("accept", id=ask["id"], certificate=b"")
        await caller.expect("ready")
    async with house(tmp_path) as h:
        assert len(h.server.waiting) == 0


async def test_a_request_that_waits_wants_the_line_when_the_other_side_is_back(tmp_path: Path) -> None:
    peers = (RelayPeer(name="peer1", address="127.0.0.1:9", fingerprint="sha256:0", secret="s", connect="call"),)
    async with house(tmp_path, peers=peers) as h:
        peer = await h.link("peer1", keepalive=0)
        await peer.begin()
        await peer.route("behind", ["behind", "peer1"], "suspended", back_in=3600)
        await peer.update("behind", entry("far1", 1))
        await peer.update("peer1", entry("far2", 1))
        await h.until("far1", "suspended")
        await h.until("far2", "online")
        await peer.send("bye", reason="call-over")
        await h.until("far2", "lost")
        caller = await h.login("pc11")
        await caller.send("connect", id=bytes(16), to="far1", service="ssh", wait=7200)
        await caller.expect("waiting")
        wanted = h.server.waiting.line_wanted()
        assert wanted is not None and 3500 < wanted <= 3600
        await caller.send("connect", id=bytes([1] * 16), to="far2", service="ssh", wait=7200)
        await caller.expect("waiting")
        assert h.server.waiting.line_wanted() == 0
        text = explain(h, "far2", causes_calls=True)
        assert text.startswith("a call of far2 is refused (lost): the link to peer1 is lost since")
        assert text.endswith("made with --wait it causes a call now")
        a_moment: CallFor = lambda seconds: (seconds + 0.01, "connection_request")  # noqa: E731
        assert explain(h, "far2", causes_calls=True, call_for=a_moment).endswith(
            "made with --wait it causes a call now"
        )
        held: CallFor = lambda seconds: (max(seconds, 90.0), "redial rules")  # noqa: E731
        assert explain(h, "far2", causes_calls=True, call_for=held).endswith("causes a call at T+90 (redial rules)")
        assert explain(h, "far2", causes_calls=True, budget=90.0, call_for=held).endswith("causes a call at T+90")
        never: CallFor = lambda seconds: (None, "the provider refused the login")  # noqa: E731
        assert explain(h, "far2", causes_calls=True, call_for=never).endswith(
            "it rings in a later call, and none is planned (the provider refused the login)"
        )
        assert explain(h, "far2", budget=3600.0) == (
            "a call of far2 is refused (line-budget): the line's budget does not last for a circuit before T+3600; made with --wait it rings in a "
            "later call (schedule.connection_request is off)"
        )
        assert explain(h, "far2", causes_calls=True, budget=60.0).endswith("made with --wait it causes a call at T+60")
        assert explain(h, "far2", budget=math.inf) == (
            "a call of far2 is refused (line-budget): the line's budget does not allow it"
        )
        assert explain(h, "pc11", budget=3600.0) == "a call of pc11 rings now: it is logged in here"
        assert explain(h, "far1").endswith(
            "made with --wait it rings in a later call (schedule.connection_request is off)"
        )


def explain(
    h: House,
    name: str,
    *,
    causes_calls: bool = False,
    budget: float | None = None,
    call_for: CallFor = lambda seconds: (seconds, ""),
) -> str:
    server = h.server
    return why(
        server.directory, server.peers, name, site=server.site, is_account=name in server.enrolment.passwords,
        causes_calls=causes_calls, moment=lambda seconds: f"T{seconds:+.0f}",
        line_budget=lambda: budget, call_for=call_for,
    )  # fmt: skip


async def test_why_says_what_would_happen_now(tmp_path: Path) -> None:
    async with chain(tmp_path, "a", "b", "c", "d", "e") as houses:
        a, e = houses["a"], houses["e"]
        assert (
            explain(e, "nobody")
            == "a call of nobody is refused (not-registered): no terminal of that name has logged in"
        )
        assert explain(e, "pc11").endswith("it has an account here and has never logged in")
        client = await a.login("pc11", services=("ssh",))
        await e.until("pc11", "online")
        assert explain(a, "pc11") == "a call of pc11 rings now: it is logged in here"
        assert explain(houses["d"], "pc11") == "a call of pc11 rings now: it is logged in at a by way of c, b"
        assert explain(e, "pc11") == "a call of pc11 is refused (loop): it passes 5 relay servers, and 4 are the most"
        await client.send("bye", reason="logout")
        await houses["d"].until("pc11", "offline")
        assert explain(houses["d"], "pc11") == (
            "a call of pc11 is refused (offline): it has not been logged in at a since T-0; made with --wait it rings when that is over"
        )


async def test_an_account_that_does_not_roam_is_a_conflict_elsewhere(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        config = h.server._config
        h.server.configure(type(config)(account=(RelayAccount(name="pc11", password="x"),), peer=PEER))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", entry("pc11", 1), entry("far1", 2))
        await h.until("far1", "online")
        assert h.presence("pc11") is None
        assert explain(h, "pc11").endswith("; peer1 has a terminal of this name too, which is not believed")
        await peer.close()


# ---- §1
def test_a_frame_that_is_too_large_or_a_name_that_is_none() -> None:
    with pytest.raises(FrameError, match="no update"):
        Registry("me", 1).apply(update("Not.a.name!", []), 0)
    assert len(encode("update", update("o", [entry(f"n{i}", i + 1) for i in range(500)]))) < 65536


def test_every_test_that_the_documentation_names_is_there() -> None:
    root = Path(__file__).parent.parent
    text = (root.parent / "docs" / "relay-protocol.md").read_text()
    there = {
        name
        for folder in ("services", "faults", "protocol", "interop")
        for path in (root / folder).glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 40 and named - there == set()
