"""The line drops at every command, every reply and inside every body that passes between Posthouse and a provider, and
each time: nothing is lost, and nothing arrives twice that was not shown as in doubt.

A first call without a fault is recorded; every line of it, in both directions, gives places to cut: before and behind
it, in its middle, between its CR and LF. Each place is tried with each way in which a drop can show:

    told    the modem says NO CARRIER at once
    silent  nothing is heard for a while, connections hang, then NO CARRIER
    closed  connections end first, then NO CARRIER

After the drop the process is gone too (its state folder is read anew, as after a crash), and a second call settles.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from appliance.config.model import Config
from appliance.lab.line import Line, Way
from appliance.lab.provider import Provider
from fakes.site import GateLine, Site, configuration, open_site, without_flushes
from interop.providers import AioSmtp

HOW = {"told": (0.0, False), "silent": (0.05, False), "closed": (0.05, True)}
LOGIN, PASSWORD = "u0", "word-0"
OUT = [
    (
        b"Subject: one\r\nMessage-ID: <one@x>\r\nDate: x\r\n\r\n.\r\n..two dots\r\n\xe6\xb8\xaf\r\nlast\r\n",
        ("a@far.example",),
    ),
    (b"Subject: two\r\nMessage-ID: <two@x>\r\nDate: x\r\n\r\n", ("b@far.example", "c@far.example", "d@far.example")),
    (b"Subject: three\r\nMessage-ID: <three@x>\r\nDate: x\r\n\r\n" + b"x" * 70 + b"\r\nno end", ("e@far.example",)),
]
IN = [
    b"Subject: in-1\r\nMessage-ID: <in-1@x>\r\n\r\n.\r\n..\r\ntext\r\n",
    b"Subject: in-2\r\nMessage-ID: <in-2@x>\r\n\r\n",
    b"Subject: in-3\r\nMessage-ID: <in-3@x>\r\n\r\n" + b"y" * 70 + b"\r\n.\r\n",
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_flushes(monkeypatch)


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


def subject(data: bytes) -> str:
    return data.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()


def ended(data: bytes) -> bytes:
    return data if data.endswith(b"\r\n") else data + b"\r\n"


@dataclass
class World:
    """A provider, the line to it, and folders for the sites that use it. `plain`: what takes the mail in its place."""

    provider: Provider
    line: Line
    root: Path
    plain: AioSmtp | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def config(self, *, smtp: bool, pop3: bool) -> Config:
        gates = self.line.gates
        return configuration(
            self.root / str(next(self._numbers)),
            smarthosts=[gates["smtp"].port] if smtp else [],
            pop3=gates["pop3"].port,
            logins=[LOGIN] if pop3 else [],
            secrets={LOGIN: PASSWORD},
        )


@asynccontextmanager
async def world(root: Path, plain: AioSmtp | None = None) -> AsyncIterator[World]:
    provider = Provider(require_login=False)
    line = Line(paced=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(provider.run)
        line.add_gate("smtp", "127.0.0.1", plain.port if plain else provider.smtp_port)
        line.add_gate("pop3", "127.0.0.1", provider.pop3_port)
        await nursery.start(line.run)
        yield World(provider, line, root, plain)
        nursery.cancel_scope.cancel()


def places(stream: bytes, how: str, *, thorough: bool) -> list[int]:
    """Where to cut: between all lines, in each and between its CR and LF, bodies included. For the ways that differ
    from `told` only in how soon it is known, a third of that unless `thorough`."""
    out = {0}
    at = 0
    for line in stream.splitlines(keepends=True):
        end = at + len(line)
        out |= {(at + end) // 2, end - 1, end}
        at = end
    every = 1 if thorough or how == "told" else 3
    return sorted({0, *sorted(out)[list(HOW).index(how) :: every]})


async def record(w: World, one_call: Callable[[], Awaitable[None]]) -> dict[Way, bytes]:
    """What a call carries each way when nothing fails."""
    seen: dict[Way, bytearray] = {"out": bytearray(), "in": bytearray()}

    def watch(gate: str, way: Way, data: bytes) -> None:
        seen[way].extend(data)

    w.line.on_bytes = watch
    await one_call()
    w.line.on_bytes = None
    return {way: bytes(data) for way, data in seen.items()}


def bites(how: str, outcomes: list[str]) -> None:
    """The cuts must have hurt: only those behind the last thing that matters may leave the call complete."""
    seen = Counter(outcomes)
    assert set(seen) <= {"partial", "carrier-lost", "complete"}, seen
    hurt = seen["carrier-lost"] + (seen["partial"] if how == "closed" else 0)  # whichever end of it is noticed first
    assert hurt > len(outcomes) * 0.8, seen


# ---- sending
async def submit_all(site: Site) -> dict[str, str]:
    """id -> subject."""
    return {await site.submit(data, *recipients): subject(data) for data, recipients in OUT}


def received(w: World) -> Counter[tuple[str, str]]:
    """(subject, recipient) -> how often it arrived; what arrived must be whole."""
    by_subject = {subject(data): data for data, _ in OUT}
    count: Counter[tuple[str, str]] = Counter()
    if w.plain is not None:
        arrived = [(got.data, got.recipients) for got in w.plain.captured()]
    else:
        arrived = [(got.data, got.addresses) for got in w.provider.received]
    for data, addresses in arrived:
        name = subject(data)
        assert ended(data).endswith(ended(by_subject[name])), f"{name} arrived changed"
        count.update((name, address) for address in addresses)
    return count


ALL_OUT = {(subject(data), r) for data, recipients in OUT for r in recipients}


async def one_sending(w: World, how: str, way: Way, at: int) -> tuple[str, int]:
    """One cell; -> the outcome of the call that was cut, and how many messages were in doubt."""
    notice_s, w.line.closes_on_drop = HOW[how]
    line = GateLine(w.line, notice_s)
    config = w.config(smtp=True, pop3=False)
    w.provider.received.clear()
    if w.plain is not None:
        w.plain.clear()
    async with open_site(config, line) as site:
        names = await submit_all(site)
        w.line.cut_after(way, at)
        cut = await site.call()
        w.line.forget_cuts()
    after = received(w)
    async with open_site(config, line) as site:  # a new process on the same disk
        queue = site.queue()
        doubtful = {names[id] for id, state in queue.items() if state == "in-doubt"}
        waiting = {names[id] for id in queue}
        for name, address in ALL_OUT:
            if name not in waiting:
                assert after[name, address] == 1, f"{name} left the queue but did not arrive at {address}"
            elif name not in doubtful:
                assert after[name, address] == 0, f"{name} arrived at {address} but is not in doubt"
        settled = await site.call()
        assert settled["outcome"] == "complete", settled
        assert site.queue() == {}
        assert site.mailbox() == [], "a dropped line bounced something"
    total = received(w)
    assert set(total) == ALL_OUT, f"lost: {ALL_OUT - set(total)}"
    twice = {name for (name, _), n in total.items() if n > 1}
    assert max(total.values()) <= 2
    assert twice <= doubtful, f"{twice - doubtful} arrived twice but were not in doubt"
    return str(cut["outcome"]), len(doubtful)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", ["out", "in"])
async def test_every_place_of_sending(tmp_path: Path, how: str, way: Way, thorough: bool) -> None:
    """To a server with PIPELINING and CHUNKING."""
    async with world(tmp_path) as w:
        await every_place_of_sending(w, how, way, thorough=thorough)


@pytest.mark.parametrize("way", ["out", "in"])
async def test_every_place_of_sending_step_by_step(tmp_path: Path, way: Way, thorough: bool) -> None:
    """To a server with neither: each command waits for its reply, bodies go by DATA."""
    server = AioSmtp().start()
    try:
        async with world(tmp_path, server) as w:
            await every_place_of_sending(w, "told", way, thorough=thorough)
    finally:
        server.stop()


async def every_place_of_sending(w: World, how: str, way: Way, *, thorough: bool) -> None:
    async def whole() -> None:
        async with open_site(w.config(smtp=True, pop3=False), GateLine(w.line)) as site:
            await submit_all(site)
            assert (await site.call())["outcome"] == "complete"

    stream = (await record(w, whole))[way]
    assert set(received(w)) == ALL_OUT
    cells = {at: await one_sending(w, how, way, at) for at in places(stream, how, thorough=thorough)}
    bites(how, [outcome for outcome, _ in cells.values()])
    assert any(doubtful for _, doubtful in cells.values())
    assert cells[0][1] == 0


# ---- fetching
async def one_fetching(w: World, how: str, way: Way, at: int) -> str:
    """One cell; -> the outcome of the call that was cut."""
    notice_s, w.line.closes_on_drop = HOW[how]
    line = GateLine(w.line, notice_s)
    config = w.config(smtp=False, pop3=True)
    drop = w.provider.add_login(LOGIN, PASSWORD)
    uids = {w.provider.deliver(LOGIN, data): data for data in IN}
    asked: list[str] = []

    def watch(step: str, detail: str) -> None:
        if step == "retr":
            asked.append(detail)

    async with open_site(config, line) as site:
        w.line.cut_after(way, at)
        cut = await site.call()
        w.line.forget_cuts()
    w.provider.pop3_fault = watch
    async with open_site(config, line) as site:
        have = fetched(site)
        for uid, data in uids.items():
            assert uid in drop.messages or have[subject(data)] == 1, f"{subject(data)} is nowhere"
        with trio.fail_after(10):
            while drop.locked:  # the provider has not noticed yet that its client is gone
                await trio.sleep(0.005)
        settled = await site.call()
        assert settled["outcome"] == "complete", settled
        assert fetched(site) == Counter(subject(d) for d in IN)
        assert settled["fetched"] == len(IN) - have.total()
        assert drop.messages == {}
    again = {uid for uid in asked if have[subject(uids[uid])]}
    assert not again, f"{again} were in the mailbox and were fetched again"
    return str(cut["outcome"])


def fetched(site: Site) -> Counter[str]:
    """subject -> how often it is in the mailbox, each whole."""
    by_subject = {subject(data): data for data in IN}
    count: Counter[str] = Counter()
    for data in site.mailbox():
        assert data.endswith(by_subject[subject(data)]), f"{subject(data)} came changed"
        count[subject(data)] += 1
    assert max(count.values(), default=1) == 1, f"twice in the mailbox: {count}"
    return count


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", ["out", "in"])
async def test_every_place_of_fetching(tmp_path: Path, how: str, way: Way, thorough: bool) -> None:
    async with world(tmp_path) as w:

        async def whole() -> None:
            w.provider.add_login(LOGIN, PASSWORD)
            for data in IN:
                w.provider.deliver(LOGIN, data)
            async with open_site(w.config(smtp=False, pop3=True), GateLine(w.line)) as site:
                assert (await site.call())["fetched"] == len(IN)

        stream = (await record(w, whole))[way]
        bites(how, [await one_fetching(w, how, way, at) for at in places(stream, how, thorough=thorough)])
