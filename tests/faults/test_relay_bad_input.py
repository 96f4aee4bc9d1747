"""Whatever arrives at the relay server's port (RELAY §1): a named error, the offender closed, everybody else unaffected,
and no more memory than the limits say. Frames of every type in every state, bodies of anything, connections that are
slow, half-open or silent, tickets that are not good, and peers that lie."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.config.model import RelayPeer
from appliance.protocol import relay
from appliance.relay import listener, registry, requests, terminals
from appliance.storage import journal
from fakes.relay_client import Client, PeerClient, join
from fakes.relay_house import KEYS, House, house

SEED = int(os.environ.get("POSTHOUSE_SEED") or random.SystemRandom().randrange(1 << 32))
PEERS = (RelayPeer(name="peer1", secret="s", connect="never"), RelayPeer(name="peer2", secret="s", connect="never"))
CODES = {"bad-frame", "too-large", "bad-body", "unknown-type", "out-of-order", "version", "bad-login", "enrol", "counter",
         "slow-down", "duplicate", "bad-ticket", "limit", "name-taken", "internal"}  # fmt: skip
KINDS = sorted(terminals.KINDS | {"ping", "pong", "bye", "cancel", "nonsense", ""})
STATES = ("stranger", "greeted", "in", "proving", "linked")


class Bystander:
    """A terminal that must notice nothing."""

    def __init__(self, h: House, client: Client) -> None:
        self._h, self._client = h, client

    async def lives(self) -> None:
        await self._client.send("list")
        assert any(e["name"] == "pc12" for e in (await self._client.until("table"))["entries"])
        assert self._h.presence("pc12") == "online"


@contextlib.asynccontextmanager
async def attacked(tmp_path: Path, **more: Any) -> AsyncIterator[tuple[House, Bystander]]:
    async with house(tmp_path, peers=PEERS, **more) as h:
        yield h, Bystander(h, await h.login("pc12", services=("ssh",)))


async def reach(h: House, state: str) -> Client:
    """A connection in that state."""
    match state:
        case "stranger":
            return await Client.dial(h.port, "pc11", role=None)
        case "greeted":
            return await Client.dial(h.port, "pc11")
        case "in":
            return await h.login("pc11", services=("ssh",))
        case "proving":
            return await Client.dial(h.port, "peer1", role="relay")
    peer = await h.link("peer1")
    await peer.begin()
    await peer.update("peer1", ["far1", 1, 1, 0, 0, ["ssh"], KEYS["other"].fingerprint])
    return peer


async def ending(client: Client) -> str | None:
    """The code of the error that ends it; None where it ends without one, and "open" where it goes on."""
    code = None
    with trio.move_on_after(2):
        while (frame := await client.receive()) is not None:
            if frame[0] == "error":
                code = frame[1]["code"]
                assert code in CODES
            elif frame[0] == "pong":
                return "open"
        return code
    return "open"


# ---- frames that are none
@pytest.mark.parametrize("state", STATES)
async def test_what_is_no_frame_gets_its_name_and_the_end(tmp_path: Path, state: str) -> None:
    async with attacked(tmp_path) as (h, bystander):
        for data, code in [
            (b"\xff\xff\xff\xff", "too-large"), (struct.pack(">I", 65537), "too-large"), (b"\0\0\0\x03abc", "bad-frame"),
            (b"\0\0\0\0", "bad-frame"), (b"\0\0\0\x01\xc1", "bad-frame"), (relay.encode("nonsense"), None),
        ]:  # fmt: skip
            client = await reach(h, state)
            await client.stream.send_all(data)
            got = await ending(client)
            assert got == code or (code is None and got in ("unknown-type", "out-of-order")), (data, got)
            await client.close()
        if state in ("stranger", "greeted", "proving"):
            client = await reach(h, state)
            await client.stream.send_all(struct.pack(">I", 4097))
            assert await ending(client) == "too-large"
            await client.close()
        await bystander.lives()


# ---- types in the wrong state, with nothing in them
@pytest.mark.parametrize("state", STATES)
async def test_every_type_in_every_state_is_taken_or_refused_by_name(tmp_path: Path, state: str) -> None:
    async with attacked(tmp_path) as (h, bystander):
        for kind in KINDS:
            client = await reach(h, state)
            await client.send(kind)
            await client.send("ping")
            code = await ending(client)
            assert code == "open" or kind in ("bye", "error") or code in CODES - {"internal"}, (kind, code)
            allowed = {"greeted": "login", "in": "list", "linked": "ping"}.get(state)
            if code == "open":
                assert kind in (allowed, "ping", "pong", "accept", "reject", "cancel"), (state, kind)
            await client.close()
        await bystander.lives()


# ---- bodies of anything
def anything(chance: random.Random, depth: int = 0) -> Any:
    names = (
        "pc11",
        "pc12",
        "here",
        "peer1",
        "peer2",
        "far1",
        "\x1b[31m",
        "A",
        "",
        "x" * 64,
        "ssh",
        "up",
        "none",
        "online",
    )
    match chance.randrange(9 if depth < 2 else 7):
        case 0:
            return chance.choice((None, True, False))
        case 1:
            return chance.choice((0, 1, -1, 2**31, 2**40, 2**62, 2**63 - 1, 2**64 - 1, -(2**63)))
        case 2:
            return chance.choice((0.0, 1.5, -1.0, float("nan"), float("inf"), -float("inf"), 1e308))
        case 3 | 4:
            return chance.choice(names)
        case 5:
            return chance.choice(
                (bytes(16), bytes(32), b"", os.urandom(16), KEYS["pc12"].der, KEYS["other"].fingerprint)
            )
        case 6:
            return chance.randrange(10)
        case 7:
            return [anything(chance, depth + 1) for _ in range(chance.randrange(8))]
    return {chance.choice(names): anything(chance, depth + 1) for _ in range(chance.randrange(3))}


KEYS_OF_BODIES = (
    "id", "to", "from", "service", "services", "wait", "path", "certificate", "counter", "proof", "password", "name",
    "version", "role", "watch", "reason", "presence", "back_in", "text", "owner", "epoch", "base", "seq", "last", "entries",
    "have", "state", "age", "ticket", "nonce", "keepalive", "stays", "relay", "code",
)  # fmt: skip
ENTRY = ["far1", 2, 1, 0, 0, ["ssh"], bytes(32)]
GOOD: dict[str, dict[str, Any]] = {
    "update": {"owner": "peer1", "epoch": 1, "base": 1, "seq": 2, "last": True, "entries": [ENTRY]},
    "route": {"owner": "peer1", "path": ["peer1"], "state": "up", "age": 0}, "have": {"have": {"here": [1, 1]}},
    "ack": {"owner": "here", "epoch": 1, "seq": 1}, "connect": {"id": bytes(16), "to": "pc12", "service": "ssh", "wait": 5},
    "invite": {"id": bytes(16), "from": "far1", "to": "pc12", "service": "ssh", "certificate": KEYS["other"].der,
               "path": ["peer1"], "wait": 0},
    "accept": {"id": bytes(16), "certificate": b"x"}, "reject": {"id": bytes(16), "reason": "rejected"},
    "ready": {"id": bytes(16), "ticket": bytes(16)}, "bye": {"reason": "call-over", "back_in": 5},
    "peer": {"nonce": bytes(16), "proof": bytes(32), "keepalive": 30, "stays": 0},
}  # fmt: skip


def rough_body(chance: random.Random, kind: str) -> dict[str, Any]:
    """A good one with something wrong, or nothing good at all."""
    body = dict(GOOD.get(kind, {})) if chance.random() < 0.7 else {}
    for _ in range(chance.randrange(1, 3)):
        body[chance.choice(list(body) if body and chance.random() < 0.7 else KEYS_OF_BODIES)] = anything(chance)
    if isinstance(body.get("entries"), list) and chance.random() < 0.5:
        entry: list[Any] = list(ENTRY)
        entry[chance.randrange(7)] = anything(chance)
        body["entries"] = [entry]
    return body


async def rough(tmp_path: Path, state: str, frames: int) -> None:
    chance = random.Random(f"{SEED} {state}")
    print(f"POSTHOUSE_SEED={SEED}")
    async with attacked(tmp_path) as (h, bystander):
        client: Client | None = None
        for number in range(frames):
            if not number % 100:  # as often as a terminal that is there says something
                await bystander.lives()
            if client is None:
                client = await reach(h, state)
            kind = chance.choice(KINDS if chance.random() < 0.3 else list(GOOD))
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send(kind, **rough_body(chance, kind))
                await client.send("ping")
            if (code := await ending(client)) != "open":
                assert code is None or code in CODES - {"internal"}
                await client.close()
                client = None
        if client is not None:
            await client.close()
        list(h.server.directory.rows())
        for row in h.server.directory.rows():
            assert row["name"].isprintable() and 0 <= row["age"] < 2**41 and (row["back_in"] or 0) < 2**41
        await bystander.lives()


@pytest.mark.parametrize("state", STATES)
async def test_bodies_of_anything(tmp_path: Path, state: str) -> None:
    await rough(tmp_path, state, 100)


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
async def test_many_more_bodies_of_anything(tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio, "fail_after", lambda seconds: contextlib.nullcontext())
    await rough(tmp_path, state, 5000)


# ---- data connections
async def raw(h: House, data: bytes, host: str = "127.0.0.1") -> tuple[trio.SocketStream, bytes]:
    """What it answers until its end, or within a moment."""
    stream = await trio.open_tcp_stream("127.0.0.1", h.port, local_address=host)
    await stream.send_all(data)
    got = b""
    with trio.move_on_after(0.5), contextlib.suppress(trio.BrokenResourceError):
        while part := await stream.receive_some():
            got += part
    return stream, got


HELLO = relay.encode("hello", {"version": 1, "role": "data", "name": "pc11"})


NO_DATA_CONNECTIONS = [
    (b"GET / HTTP/1.1\r\n\r\n", None), (b"\x01", None), (b"\0\0\0\x03abc", "bad-frame"), (b"\0\xff\xff\xff", "too-large"),
    (relay.encode("join", {"ticket": bytes(16)}) * 2, "out-of-order"), (HELLO * 2, "out-of-order"),
    (HELLO + relay.encode("join", {}), "bad-body"), (HELLO + relay.encode("join", {"ticket": "x"}), "bad-body"),
    (HELLO + relay.encode("join", {"ticket": bytes(16)}), "bad-ticket"),
    (relay.encode("hello", {"version": 2, "role": "data", "name": "pc11"}) + relay.encode("join"), "version"),
    (relay.encode("hello", {"version": 1, "role": "terminal", "name": "pc11"}) + relay.encode("join"), "out-of-order"),
    (relay.encode("hello", {"version": 1, "role": "data", "name": "\x1b[1m"}) + relay.encode("join"), "bad-body"),
]  # fmt: skip


async def test_a_data_connection_that_is_none_is_told_and_closed(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (h, bystander):
        for data, code in NO_DATA_CONNECTIONS:
            stream, got = await raw(h, data)
            decoder = relay.Decoder()
            decoder.feed(got)
            frame = decoder.next()
            assert (frame and (frame[0], frame[1]["code"])) == (code and ("error", code)), data
            await stream.aclose()
        await bystander.lives()
        while h.server.listener.strangers:
            await trio.sleep(0.01)


async def test_tickets_twice_anothers_and_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "TICKET_S", 0.5)
    async with attacked(tmp_path) as (h, bystander):
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        for n in range(3):
            id = bytes([n] * 16)
            await caller.send("connect", id=id, to="pc12", service="ssh")
            await callee.expect("invite")
            await callee.send("accept", id=id)
            mine, theirs = (await caller.expect("ready"))["ticket"], (await callee.expect("ready"))["ticket"]
            with pytest.raises(AssertionError, match="error"):
                await join(h.port, "pc12", mine)  # another's, and it stays good for him
            if n == 2:
                assert (await caller.expect("unavailable"))["reason"] == "no-circuit"
                await callee.expect("cancel")
                with pytest.raises(AssertionError, match="error"):
                    await join(h.port, "pc12", theirs)
                continue
            async with await join(h.port, "pc11", mine):
                with pytest.raises(AssertionError, match="error"):
                    await join(h.port, "pc11", mine)
                if n == 1:
                    assert (await caller.expect("unavailable"))["reason"] == "no-circuit"
                    await callee.expect("cancel")
                    continue
                async with await join(h.port, "pc12", theirs):
                    pass
        while len(h.server.tickets) or h.server.circuits or len(h.server.requests):
            await trio.sleep(0.01)
        del bystander


async def test_late_messages_about_requests_that_are_over_are_no_errors(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (h, bystander):
        client = await h.login("pc11")
        await client.send("accept", id=bytes(16))
        assert await client.expect("cancel") == {"id": bytes(16)}
        await client.send("reject", id=bytes(16), reason="rejected")
        await client.send("cancel", id=bytes(16))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.send("accept", id=bytes(16), certificate=b"x")
        assert await peer.until("cancel") == {"id": bytes(16)}
        for kind in ("reject", "cancel", "ready"):
            await peer.send(kind, id=bytes(16), reason="rejected", ticket=bytes(16))
        for one in (client, peer):
            await one.send("ping")
            while (frame := await one.receive()) != ("pong", {}):
                assert frame is not None and frame[0] != "error"
        await peer.close()
        await bystander.lives()


# ---- slow, half-open, silent
async def test_who_says_who_he_is_too_slowly_or_halfway_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "AUTHENTICATION_S", 0.6)
    async with attacked(tmp_path) as (h, bystander):
        streams = [await trio.open_tcp_stream("127.0.0.1", h.port) for _ in range(4)]
        await streams[1].send_all(b"\x16")
        await streams[2].send_all(HELLO[:9])
        await streams[3].send_all(HELLO)
        half = await trio.open_tcp_stream("127.0.0.1", h.port)
        await half.send_all(HELLO)
        await half.send_eof()
        greeted = await Client.dial(h.port, "pc11")
        while h.server.listener.strangers:
            await bystander.lives()
            await trio.sleep(0.05)
        for stream in [*streams, half]:
            with contextlib.suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
            await stream.aclose()
        assert await ending(greeted) is None
        await greeted.close()


async def silent(tmp_path: Path, count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * count)), hard))
    async with attacked(tmp_path) as (h, bystander):
        socks = []
        try:
            for n in range(count):
                sock = socket.socket()
                socks.append(sock)
                sock.bind((f"127.1.{n // 8000}.{1 + n // 40 % 200}", 0))
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(("127.0.0.1", h.port))
                if n % 50 == 0:
                    await trio.sleep(0.001)
                    assert h.server.listener.strangers <= listener.IN_ALL
            await trio.sleep(0.3)
            assert h.server.listener.strangers == min(
                listener.IN_ALL, sum(min(32, count - at) for at in range(0, count, 40))
            )
            await bystander.lives()
            # What a stranger costs: no TLS state, no task.
            assert len(h.server.epoll) <= listener.IN_ALL + 10
        finally:
            for sock in socks:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while h.server.listener.strangers:
            await trio.sleep(0.01)
        await h.login("pc11")


async def test_connections_that_say_nothing_are_bounded_by_address_and_in_all(tmp_path: Path) -> None:
    await silent(tmp_path, 320)


@pytest.mark.long
async def test_ten_thousand_connections_that_say_nothing(tmp_path: Path) -> None:
    await silent(tmp_path, 10_000)


async def test_who_asks_and_does_not_read_is_closed(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (h, bystander):
        client = await h.login("pc11")
        sock = client.stream.transport_stream.socket  # type: ignore[attr-defined]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = await h.link("peer1")
        await peer.begin()
        entries = [[f"n{i:05}", i, 1, 0, 0, ["s" * 60] * 10, bytes(32)] for i in range(1, 501)]
        await peer.update("peer1", *entries[:60])
        ask = relay.encode("list", {})
        with trio.move_on_after(20), contextlib.suppress(trio.BrokenResourceError):
            while h.presence("pc11") == "online":
                await client.stream.send_all(ask * 500)
                await trio.sleep(0)
        await h.until("pc11", "lost")
        await peer.close()
        await bystander.lives()


# ---- peers that lie
async def refused(peer: PeerClient) -> str:
    while (frame := await peer.receive()) is not None:
        if frame[0] == "error":
            return str(frame[1]["code"])
    return "closed"


FP = KEYS["other"].fingerprint
FAR = ["far1", 1, 1, 0, 0, ["ssh"], FP]


BREAKS_THE_FORM: list[tuple[str, dict[str, Any], str]] = [
    ("route", {"owner": "peer1", "path": ["peer2"], "state": "up"}, "bad-body"),
    ("route", {"owner": "x", "path": ["x"], "state": "up"}, "bad-body"),
    ("route", {"owner": "x", "path": ["x", "x", "peer1"], "state": "up"}, "bad-body"),
    ("route", {"owner": "x", "path": ["x", "a", "b", "c", "peer1"], "state": "up"}, "bad-body"),
    ("route", {"owner": "X", "path": ["X", "peer1"], "state": "up"}, "bad-body"),
    ("route", {"owner": "x", "path": ["x", "peer1"], "state": "asleep"}, "bad-body"),
    ("route", {"owner": "x", "path": ["x", "peer1"], "state": "up", "age": -1}, "bad-body"),
    ("route", {"owner": "x", "path": ["x", "peer1"], "state": "lost", "back_in": float("inf")}, "bad-body"),
    ("have", {"have": {}}, "out-of-order"),
    ("update", {"owner": "peer1", "epoch": -1, "base": 0, "seq": 1, "entries": []}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 2**62, "base": 0, "seq": 1, "entries": []}, "bad-body"),
    ("update", {"owner": "here", "epoch": 2**62, "base": 0, "seq": 1, "entries": []}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 1, "entries": [["\x1b[31m", *FAR[1:]]]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 1, "entries": [[*FAR[:5], ["a\x07"], FP]]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 1, "entries": [FAR[:5]]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 1, "entries": [FAR, FAR]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 0, "entries": [FAR]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 1, "entries": [[*FAR[:4], float("nan"), [], FP]]}, "bad-body"),
    ("update", {"owner": "peer1", "epoch": 1, "base": 0, "seq": 501,
                "entries": [[f"n{i}", i, 1, 0, 0, [], FP] for i in range(1, 502)]}, "bad-body"),
    ("invite", {"id": b"x"}, "bad-body"),
    ("invite", {"id": bytes(16), "from": "far1", "to": "pc12", "service": "ssh", "certificate": b"x", "path": []}, "bad-body"),
    ("ack", {"owner": "here", "epoch": True, "seq": 0}, "bad-body"),
]  # fmt: skip


async def test_a_peer_that_breaks_the_form_is_closed_by_name(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (h, bystander):
        for kind, body, code in BREAKS_THE_FORM:
            peer = await h.link("peer1")
            await peer.begin()
            await peer.send(kind, **body)
            assert await refused(peer) == code, (kind, body)
            await peer.close()
        await bystander.lives()


async def test_a_peer_is_believed_about_what_it_may_say_alone(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (h, bystander):
        one, two = await h.link("peer1"), await h.link("peer2")
        await one.begin()
        await two.begin()
        await two.update("peer2", ["far2", 1, 1, 0, 0, [], FP])
        await h.until("far2", "online")
        # about another of our own peers, while that one's link is up
        await one.route("peer2", ["peer2", "peer1"])
        await one.update("peer2", ["far9", 9, 9, 0, 0, [], FP], epoch=9)
        # about an owner that it has no route to
        await one.update("nobody", ["far8", 1, 1, 0, 0, [], FP])
        # a counter a year ahead, which would lock the name out
        far = int((h.server.directory._clock.now().wall + 400 * 86400) * 1000)
        await one.update("peer1", ["pc11", 1, far, 0, 0, [], FP], ["far1", 2, 1, 0, 0, ["ssh"], FP])
        await h.until("far1", "online")
        assert [h.presence(n) for n in ("far9", "far8", "pc11")] == [None, None, None]
        await h.login("pc11")
        # requests in others' names
        for n, wrong in enumerate([
            {"from": "pc12"}, {"from": "far2"}, {"path": ["peer2", "peer1"]}, {"certificate": KEYS["pc11"].der},
        ]):  # fmt: skip
            ask = {**GOOD["invite"], "id": bytes([n] * 16), **wrong}
            await one.send("invite", **ask)
            reject = await one.until("reject")
            assert (reject["id"], reject["reason"]) == (ask["id"], "forbidden")
        await one.send("invite", **{**GOOD["invite"], "path": ["here", "peer1"]})
        assert (await one.until("reject"))["reason"] == "loop"
        await one.close()
        await two.close()
        await bystander.lives()


async def test_names_that_a_peer_may_not_bring_and_accounts_that_do_not_roam(tmp_path: Path) -> None:
    from appliance.config.model import RelayAccount

    peers = (RelayPeer(name="peer1", secret="s", connect="never", terminals=("far*", "pc11")),)
    async with house(tmp_path, peers=peers) as h:
        config = h.server._config
        h.server.directory.configure(type(config)(account=(RelayAccount(name="pc11", roams=False),), peer=peers))
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update(
            "peer1", ["far1", 1, 1, 0, 0, [], FP], ["other", 2, 1, 0, 0, [], FP], ["pc11", 3, 1, 0, 0, [], FP]
        )
        await h.until("far1", "online")
        assert (h.presence("other"), h.presence("pc11")) == (None, None)
        for name, reason in (("other", "forbidden"), ("far1", "not-registered")):  # nor call in their names
            await peer.send("invite", **{**GOOD["invite"], "from": name, "to": "nobody", "id": os.urandom(16)})
            assert (await peer.until("reject"))["reason"] == reason
        await peer.close()


async def test_limits_of_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ENTRY_LIMIT", 700)
    monkeypatch.setattr(requests, "PEER_PENDING", 3)
    async with attacked(tmp_path) as (h, bystander):
        peer = await h.link("peer1")
        await peer.begin()
        many = [[f"n{i}", i, 1, 0, 0, [], FP] for i in range(1, 1001)]
        await peer.update("peer1", *many[:500], last=False)
        await peer.update("peer1", *many[500:], base=500)
        assert await refused(peer) == "limit"
        assert len(h.server.peers.registry.slices["peer1"].entries) <= 700
        await peer.close()
        peer = await h.link("peer1")
        await peer.begin()
        for n in range(256):
            await peer.route(f"o{n}", [f"o{n}", "peer1"])
        assert await refused(peer) == "limit"
        await peer.close()
        peer = await h.link("peer1")
        await peer.send("have", have={f"o{n}": [1, 1] for n in range(300)})
        assert await refused(peer) == "limit"
        await peer.close()
        peer = await h.link("peer1")
        await peer.begin()
        await peer.update("peer1", FAR, epoch=2)
        for n in range(4):
            await peer.send("invite", **{**GOOD["invite"], "id": bytes([n] * 16)})
        assert await refused(peer) == "limit"
        await peer.close()
        await bystander.lives()


async def test_a_relay_server_of_our_name_is_found_out(tmp_path: Path, expected_errors: list[str]) -> None:
    expected_errors.append("another relay server called here")
    async with attacked(tmp_path) as (h, bystander):
        own = h.server.peers.registry.own
        for n in range(2):
            peer = await h.link("peer1")
            epoch = own.epoch + 5
            await peer.begin({"here": [epoch, 1]})
            if n == 0:
                update = await peer.until("update")
                while update["owner"] != "here" or update["epoch"] <= epoch:
                    update = await peer.until("update")
                assert (update["base"], own.epoch) == (0, epoch + 1)
                written = journal.replay(h.server.memory._records.path).records
                epochs = [record["value"] for record in written if record["key"] == "epoch"]
                assert epochs[-1] == {"epoch": epoch + 1}  # durable before it is told
            else:
                assert await refused(peer) == "name-taken"
            await peer.close()
        await bystander.lives()
