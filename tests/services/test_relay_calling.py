"""Links that are up for as long as a call is: the job of a call, what it waits for, what its end leaves behind."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.call import OpenCall, Reason
from appliance.config.model import RelayPeer
from appliance.relay import calling, waiting
from appliance.relay.calling import LineCircuits, PeerCall
from appliance.relay.circuits import NO_PACE, SO_MAX_PACING_RATE, Circuit
from appliance.relay.connection import NOTSENT_LOWAT
from appliance.relay.pacing import MAIL_SHARE
from fakes.relay_client import join
from fakes.relay_house import KEYS, House, fingerprint, house


@dataclass
class Sites:
    """`site` calls `hub`."""

    site: House
    hub: House
    job: PeerCall

    circuits: LineCircuits
    moving: set[str] = field(default_factory=set)

    def work(self, nursery: trio.Nursery, call: OpenCall) -> trio.Event:
        """Does the jobs' work as a call does; -> set when neither has any."""
        done, busy = trio.Event(), {self.job.name, self.circuits.name}

        async def one(job: PeerCall | LineCircuits) -> None:
            while True:
                await job.run(call)
                busy.remove(job.name)
                if not busy:
                    done.set()
                await job.wait_work()
                busy.add(job.name)

        nursery.start_soon(one, self.job)
        nursery.start_soon(one, self.circuits)
        return done

    def call(self, id: int = 1) -> OpenCall:
        return OpenCall(
            id, "pstn", Reason.BY_HAND, 9600, trio.open_tcp_stream, counts_payload=True, moving=lambda: self.moving
        )


@contextlib.asynccontextmanager
async def sites(
    root: Path, *, back_in: float | None = 7200.0, line_budget: Callable[[], float | None] = lambda: None
) -> AsyncIterator[Sites]:
    for name in ("hub", "site"):
        (root / name).mkdir()
    peers = tuple(RelayPeer(name=name, secret="s", connect="never") for name in ("site", "cape"))
    async with house(root / "hub", name="hub", peers=peers) as hub:
        own = fingerprint(root / "hub", "hub")
        peer = RelayPeer(name="hub", address=f"127.0.0.1:{hub.port}", fingerprint=own, secret="s", connect="call")
        async with house(root / "site", name="site", peers=(peer,), line_budget=line_budget) as site:
            job = PeerCall("hub", lambda: site.server, lambda: back_in, 600.0)
            yield Sites(site, hub, job, LineCircuits(lambda: site.server))


async def test_a_call_brings_the_tables_together_and_its_end_suspends_the_other_side(tmp_path: Path) -> None:
    async with sites(tmp_path) as s:
        await s.site.login("pc11")
        await s.hub.login("pc12")
        call = s.call()
        async with trio.open_nursery() as nursery:
            report = await s.job.run(call)
            assert not report.left
            assert (s.site.presence("pc12"), s.hub.presence("pc11")) == ("online", "online")
            nursery.start_soon(s.job.wait_work)
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert s.site.presence("pc12") == "suspended"
        await s.hub.until("pc11", "suspended")
        row = s.hub.server.directory.row("pc11")
        assert row is not None and 7000 < row["back_in"] <= 7200
        # 999 in; it was some more when each frame was a record of its own.
        assert call.tally.bytes_in > 950 and call.tally.bytes_out > 500


def notsent_lowat(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


def paces(circuit: Circuit) -> list[int]:
    rates = []
    for leg in circuit.legs:
        with socket.socket(fileno=os.dup(leg.fd)) as sock:
            rates += struct.unpack("=I", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 4))
    return rates


async def test_a_request_waits_for_the_call_and_its_circuit_keeps_the_call_up(tmp_path: Path) -> None:
    async with sites(tmp_path, back_in=None) as s:
        caller, callee = await s.site.login("pc11"), await s.hub.login("pc12", services=("ssh",))
        assert not (await s.job.run(s.call(1))).left
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.job.wait_work)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert s.site.presence("pc12") == "lost"
        assert s.site.server.waiting.line_wanted() is None
        id = os.urandom(16)
        await caller.send("connect", id=id, to="pc12", service="ssh", wait=600)
        assert (await caller.expect("waiting"))["reason"] == "lost"
        assert s.site.server.waiting.line_wanted() == 0
        call = s.call(2)
        async with trio.open_nursery() as nursery:
            done = s.work(nursery, call)
            await callee.expect("invite")
            await callee.send("accept", id=id, certificate=KEYS["pc12"].der)
            near = await join(s.site.port, "pc11", (await caller.expect("ready"))["ticket"])
            far = await join(s.hub.port, "pc12", (await callee.expect("ready"))["ticket"])
            while not s.site.server.circuits:
                await trio.sleep(0.005)
            (circuit,) = s.site.server.circuits
            assert s.site.server.on_line == {circuit: (False, True)}
            assert [notsent_lowat(leg.fd) for leg in circuit.legs] == [0, NOTSENT_LOWAT]
            async with near, far:
                for _ in range(20):
                    await near.send_all(bytes(1000))
                    await far.receive_some()
                    await trio.sleep(0.05)
                assert not done.is_set()
                assert call.tally.circuits == 1 and not s.hub.server.on_line
                while call.tally.bytes_out <= 20_000:  # counted a few times a second
                    await trio.sleep(0.05)
                s.moving |= {"relay hub", "send"}
                while not all(pace <= 9600 / 10 * (1 - MAIL_SHARE) for pace in paces(circuit)):
                    await trio.sleep(0.05)
                s.moving.remove("send")
                while set(paces(circuit)) != {NO_PACE}:
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        while s.site.server.circuits:
            await trio.sleep(0.005)
        await s.hub.until("pc11", "lost")


async def test_circuits_of_who_has_come_in_over_the_line_are_paced_and_keep_the_call_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that knows the address of our line, and is logged in and called over it."""
    monkeypatch.setattr(calling, "STILL_S", 3600.0)
    line: set[str] = set()
    async with house(tmp_path, over_line=lambda address: address in line) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        id = os.urandom(16)
        await caller.send("connect", id=id, to="pc12", service="ssh")
        await callee.expect("invite")
        await callee.send("accept", id=id, certificate=KEYS["pc12"].der)
        near = await join(h.port, "pc11", (await caller.expect("ready"))["ticket"])
        line.add("127.0.0.1")
        far = await join(h.port, "pc12", (await callee.expect("ready"))["ticket"])
        job, moving = LineCircuits(lambda: h.server), {"send"}
        call = OpenCall(1, "pstn", Reason.BY_HAND, 9600, trio.open_tcp_stream, moving=lambda: moving)
        done = trio.Event()
        async with trio.open_nursery() as nursery, near, far:
            while not h.server.on_line:
                await trio.sleep(0.005)
            ((circuit, over_line),) = h.server.on_line.items()
            assert over_line == (False, True)

            async def work() -> None:
                await job.run(call)
                await job.wait_work()
                done.set()
                await job.run(call)

            nursery.start_soon(work)
            while paces(circuit) != [int(9600 / 10 * (1 - MAIL_SHARE))] * 2:
                await trio.sleep(0.01)
            moving.clear()
            while set(paces(circuit)) != {NO_PACE}:
                await trio.sleep(0.01)
            assert call.tally.circuits == 1
            for still_s in (3600.0, 0.0):  # there is work; there is none, until something moves again
                monkeypatch.setattr(calling, "STILL_S", still_s)
                before = job._moved_at
                await near.send_all(b"typed")
                while job._moved_at == before:
                    await trio.sleep(0.01)
            assert not done.is_set()
            monkeypatch.setattr(calling, "STILL_S", 3600.0)
            await done.wait()
            nursery.cancel_scope.cancel()  # the call is over
        while h.server.circuits:
            await trio.sleep(0.005)
        assert not h.server.on_line


async def test_a_call_stays_up_for_a_terminal_that_is_about_to_be_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines that are up by plan at the same moment: neither is up on the second."""
    async with sites(tmp_path, back_in=None) as s:
        cape = await s.hub.link("cape", keepalive=0)
        await cape.begin()
        await cape.update("cape", ["pc21", 1, 7, 0, 0, ["ssh"], KEYS["other"].fingerprint])
        await s.hub.until("pc21", "online")
        await cape.send("bye", reason="call-over", back_in=45)
        await s.hub.until("pc21", "suspended")
        caller = await s.site.login("pc11")
        assert not (await s.job.run(s.call(1))).left  # nobody waits: the tables alone
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.job.wait_work)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        await caller.send("connect", id=bytes(16), to="pc21", service="ssh", wait=600)
        await caller.expect("waiting")
        wanted = s.site.server.waiting.line_wanted()
        assert wanted is not None and 0 < wanted <= 45
        async with trio.open_nursery() as nursery:
            done = s.work(nursery, s.call(2))
            await s.site.until("pc21", "suspended")
            await trio.sleep(calling.SETTLED_S + 3 * calling.LOOK_S)
            assert not done.is_set()
            cape = await s.hub.link("cape", keepalive=0)
            await cape.begin()
            await cape.update("cape", ["pc21", 2, 7, 0, 0, ["ssh"], KEYS["other"].fingerprint])
            assert (await cape.until("invite"))["from"] == "pc11"
            await cape.send("reject", id=bytes(16), reason="rejected")
            assert (await caller.expect("unavailable"))["reason"] == "rejected"
            await done.wait()
            # one that is late by more than a line needs is not waited for
            await cape.send("bye", reason="call-over", back_in=0)
            await s.site.until("pc21", "suspended")
            await caller.send("connect", id=bytes(15) + b"2", to="pc21", service="ssh", wait=600)
            await caller.expect("waiting")
            (link,) = [peer.link for peer in s.site.server.peers.all.values()]
            assert link is not None and s.site.server.waiting.meets(link)
            monkeypatch.setattr(waiting, "MEET_S", 0.0)
            assert not s.site.server.waiting.meets(link)
            nursery.cancel_scope.cancel()


async def test_a_hub_that_cannot_be_reached_is_left_for_the_next_call(tmp_path: Path) -> None:
    async with sites(tmp_path) as s:

        async def refuse(host: str, port: int) -> Any:
            raise OSError("no way")

        call = OpenCall(1, "pstn", Reason.BY_HAND, 9600, refuse)
        report = await s.job.run(call)
        assert report.left and "no way" in report.detail


async def test_a_budget_that_is_used_up_is_the_reason_and_says_when_there_is_more(tmp_path: Path) -> None:
    budget: list[float | None] = [None]
    async with sites(tmp_path, back_in=None, line_budget=lambda: budget[0]) as s:
        caller, callee = await s.site.login("pc11"), await s.hub.login("pc12", services=("ssh",))
        assert not (await s.job.run(s.call(1))).left
        # while the link is up: what goes over the line is refused, in both directions; what is here is not
        budget[0] = 3600.0
        await caller.send("connect", id=bytes(15) + b"1", to="pc12", service="ssh")
        refused = await caller.expect("unavailable")
        assert (refused["reason"], refused["presence"], refused["back_in"]) == ("line-budget", "online", 3600.0)
        await callee.send("connect", id=bytes(15) + b"2", to="pc11", service="ssh")
        assert (await callee.expect("unavailable"))["reason"] == "line-budget"
        other = await s.site.login("other", services=("ssh",))
        await caller.send("connect", id=bytes(15) + b"3", to="other", service="ssh")
        assert (await other.expect("invite"))["from"] == "pc11"
        # after it: one that waits is told the reason, and is asked for again when there is money
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.job.wait_work)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        budget[0] = math.inf
        await caller.send("connect", id=bytes(15) + b"4", to="pc12", service="ssh")
        refused = await caller.expect("unavailable")
        assert (refused["reason"], refused["presence"], refused.get("back_in")) == ("line-budget", "lost", None)
        budget[0] = 3600.0
        await caller.send("connect", id=bytes(15) + b"5", to="pc12", service="ssh", wait=600)
        waiting = await caller.expect("waiting")
        assert (waiting["reason"], waiting["back_in"]) == ("line-budget", 3600.0)
        assert s.site.server.waiting.line_wanted() == 0
        budget[0] = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.job.run, s.call(2))
            assert (await callee.expect("invite"))["from"] == "pc11"
            nursery.cancel_scope.cancel()
