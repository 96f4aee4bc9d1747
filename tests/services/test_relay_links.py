"""Links between relay servers: who is believed, which one stands where both have opened one, what is said over one
and what is not."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.config.model import RelayPeer
from appliance.protocol import relay
from appliance.relay import dialling, links
from appliance.relay.connection import Connection
from appliance.relay.epoll import EpollSet
from appliance.relay.timers import Timers
from fakes.relay_client import Key
from fakes.relay_house import KEYS, house
from fakes.relay_server import frames
from fakes.relay_sites import World

PEER = (RelayPeer(name="peer1", secret="s", connect="never"), RelayPeer(name="peer2", secret="s", connect="never"))


def entry(name: str, seq: int, presence: int = 0) -> list[Any]:
    return [name, seq, 1, presence, 0, ["ssh"], KEYS["other"].fingerprint]


# ---- §2
def acceptor(key: Key, answer: Callable[[bytes], dict[str, Any]]) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A relay server `hub` that answers `peer` with `answer(nonce)` and then listens."""

    async def serve(stream: trio.SocketStream) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(key.file())
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            async for kind, body in frames(tls):
                if kind == "peer":
                    await tls.send_all(relay.encode("welcome", {"stays": 0, **answer(body["nonce"])}))
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
        await trio.aclose_forcefully(stream)

    return serve


@pytest.mark.parametrize("wrong", ["", "secret", "label", "name"])
async def test_who_opens_a_link_believes_the_right_welcome_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    key = Key("hub")

    def answer(nonce: bytes) -> dict[str, Any]:
        label = "posthouse peer 1" if wrong == "label" else "posthouse welcome 1"
        secret = bytes([1] * 32) if wrong == "secret" else bytes(32)
        proof = relay.peer_proof(secret, label, "here", "hub", key.der, nonce)
        return {"relay": "other" if wrong == "name" else "hub", "proof": proof}

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, host="127.0.0.1"), acceptor(key, answer), 0)
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        pinned = f"sha256:{key.fingerprint.hex()}"
        peer = RelayPeer(name="hub", address=address, fingerprint=pinned, secret="s", connect="always")
        async with house(tmp_path, peers=(peer,)) as h:
            if wrong:
                while "no link to the relay server hub" not in caplog.text:
                    await trio.sleep(0.01)
                assert h.server.peers.all["hub"].link is None and not h.server.peers.all["hub"].ever
            else:
                while h.server.peers.all["hub"].link is None:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_no_update_is_sent_before_the_others_have(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        await h.login("pc11")
        peer = await h.link("peer1")
        await peer.send("ping")
        while (frame := await peer.receive()) != ("pong", {}):
            assert frame is not None and frame[0] == "route"
        await peer.begin()
        update = await peer.until("update")
        assert (update["owner"], update["base"]) == ("here", 0)


# ---- §3
async def test_what_came_by_one_peer_goes_to_the_others_but_not_towards_those_on_its_way(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        one, two = await h.link("peer1"), await h.link("peer2")
        await one.begin()
        await two.begin()
        await one.route("behind", ["behind", "peer2", "peer1"])
        await one.update("behind", entry("far1", 1))
        await h.until("far1", "online")
        await one.update("peer1", entry("far2", 1))
        told = []
        while not told or told[-1] != "peer1":
            told.append((await two.until("update"))["owner"])
        assert "behind" not in told
        await one.route("behind", ["behind", "peer1"])
        while (await two.until("update"))["owner"] != "behind":
            pass


async def test_what_bounds_the_opening_of_a_link_does_not_end_it_later(autojump_clock: MockClock) -> None:
    """Whoever opens one bounds TCP and TLS, then the proofs; it used to end 90 s after it was dialled."""
    timers, epoll, context = Timers(), EpollSet(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    ends = [
        Connection(epoll, timers, sock, context, "", frame_limit=100, opened_here=True) for sock in socket.socketpair()
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for end in ends:
            end.not_longer_than(dialling.LINK_S, "the link")
            end.not_longer_than(links.UNANSWERED_S, "its proof")
        ends[0].authenticated(relay.FRAME_LIMIT)
        await trio.sleep(links.UNANSWERED_S - 1)
        assert [end.over for end in ends] == [False, False]
        await trio.sleep(dialling.LINK_S)
        assert [end.over for end in ends] == [False, True]
        nursery.cancel_scope.cancel()
    ends[0].close("")
    epoll.close()


# ---- §4
def test_of_two_links_that_of_the_name_that_sorts_first_stays_where_it_is_heard() -> None:
    world = World([("a", "b")], ("pc1",))

    def settle() -> None:
        for _ in range(20):
            for wire in world.live():
                wire.deliver()

    def openers() -> set[str]:
        """Of the links that the two take for theirs."""
        assert world.linked("a", "b")
        return {
            end.site.name for wire in world.live() for end in wire.ends if end.state == "up" and not end.opened_there
        }

    for first, second in (("a", "b"), ("b", "a")):
        world.connect(first, second, slow=False)
        settle()
        assert openers() == {first}
        world.connect(second, first, slow=False)
        settle()
        assert openers() == {"a"}
        world.live()[0].cut()
    world.connect("a", "b", slow=False)
    settle()
    world.advance(61.0)  # nothing has been heard of it
    world.connect("b", "a", slow=False)
    settle()
    assert openers() == {"b"}


async def test_a_link_over_a_line_that_ends_without_a_word_is_closed_when_its_time_is_over(tmp_path: Path) -> None:
    async with house(tmp_path, peers=PEER) as h:
        peer = await h.link("peer1", keepalive=0, stays=1.5, back_in=7200)
        await peer.begin()
        await peer.update("peer1", entry("far1", 1))
        await h.until("far1", "suspended")  # though it has said nothing, and been asked nothing
        while (frame := await peer.receive()) is not None:
            assert frame[0] in ("route", "update")
        row = h.server.directory.row("far1")
        assert row is not None and 7000 < row["back_in"] <= 7200
