"""The line cut after every byte of a whole session, in each direction, against servers in memory: nothing is lost, what
arrives twice was in doubt, and what goes over the line again is what the cut took with it.

The default run takes one byte of each `STRIDE`, from an offset that it prints; `--long` takes them all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.mail.upstream import intake, sender
from appliance.mail.upstream.sender import SendJob
from fakes.fetching import house, message
from fakes.imap import ImapProvider
from fakes.outbox import FakeOutbox
from fakes.provider import Pop3Provider, Provider, SmtpProvider
from fakes.site import without_flushes

STRIDE = 29
PATIENCE_S = 60.0
HOST = Smarthost(host="mx", port=25, tls=Tls.NONE)
PART = 64
"""Stands for `MIN_PART`, so that messages of 200 octets are gone on with."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_flushes(monkeypatch)


@dataclass
class Wire:
    """The line of one call: cut once `cut_at[way]` octets have passed that way; `passed` counts, `carried` has them."""

    cut_at: dict[str, int] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    carried: dict[str, bytes] = field(default_factory=lambda: {"out": b"", "in": b""})
    gone: trio.Event = field(default_factory=trio.Event)

    async def carry(self, way: str, data: bytes) -> bytes:
        """What of it passes; the line is gone behind it if there was more."""
        left = self.cut_at.get(way, 1 << 40) - self.passed[way]
        self.passed[way] += min(left, len(data))
        self.carried[way] += data[:left]
        return data[:left]

    async def cut_if_due(self, way: str) -> None:
        if self.passed[way] >= self.cut_at.get(way, 1 << 40):
            await trio.testing.wait_all_tasks_blocked()  # the server has done all that it does with what it has
            self.gone.set()
            await trio.sleep_forever()


class Over(trio.abc.HalfCloseableStream):
    """A stream over the wire."""

    def __init__(self, wire: Wire, stream: trio.abc.HalfCloseableStream) -> None:
        self._wire, self._stream = wire, stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(await self._wire.carry("out", bytes(data)))
        await self._wire.cut_if_due("out")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._wire.cut_if_due("in")
        data = bytes(await self._stream.receive_some(max_bytes))
        return await self._wire.carry("in", data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def call_over(wire: Wire, server: Provider, run: Callable[[OpenCall], Awaitable[JobReport]]) -> JobReport | None:
    """One call; -> None where the line went before its end."""
    report: JobReport | None = None
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as servers:
            async with trio.open_nursery() as line:

                async def open_stream(host: str, port: int) -> trio.abc.HalfCloseableStream:
                    await trio.lowlevel.checkpoint()
                    ours, theirs = trio.testing.memory_stream_pair()
                    servers.start_soon(server.serve, theirs)
                    return Over(wire, ours)

                async def watch() -> None:
                    await wire.gone.wait()
                    line.cancel_scope.cancel()

                line.start_soon(watch)
                report = await run(OpenCall(7, "pstn", Reason.BY_HAND, 9600, open_stream))
                line.cancel_scope.cancel()
            servers.cancel_scope.cancel()
    return report


def cuts(passed: Counter[str], request: pytest.FixtureRequest) -> list[tuple[str, int]]:
    """(way, after how many octets)."""
    if request.config.getoption("--long"):
        offset, stride = 0, 1
    else:
        seed = random.randrange(1 << 32)
        offset, stride = random.Random(seed).randrange(STRIDE), STRIDE
        print(f"seed {seed}: every {STRIDE}th byte from {offset} on")
    return [(way, at) for way in ("out", "in") for at in range(offset, passed[way] + 1, stride)]


# ---- out
BODIES = {f"m{n}": b"X-Id: m%d\r\n\r\n.%b\r\n" % (n, b"text " * 4 * n) for n in range(3)}


@pytest.mark.parametrize(
    ("extensions", "connections"),
    [(("PIPELINING", "CHUNKING"), 1), (("PIPELINING",), 1), ((), 1), (("PIPELINING",), 3), ((), 3)],
    ids=["bdat", "data", "bare", "data by three", "bare by three"],
)
async def test_sending(
    tmp_path: Path,
    extensions: tuple[str, ...],
    connections: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`connections`: as many as a server without CHUNKING has where much waits."""
    if connections > 1:
        monkeypatch.setattr(sender, "LANE_LEAST", 1)

    def outbox() -> FakeOutbox:
        it = FakeOutbox(tmp_path, [HOST])
        for name, body in BODIES.items():
            it.put(name, body)
        return it

    def arrived(server: SmtpProvider) -> Counter[str]:
        return Counter(name for _, _, data in server.stored for name, body in BODIES.items() if data == body)

    whole = Wire()
    first = SmtpProvider(extensions=extensions)
    assert await call_over(whole, first, SendJob(outbox(), {}, "h").run) == JobReport()
    assert first.connections == connections
    doubts = twice = 0
    places = cuts(whole.passed, request)
    for way, at in places:
        box, server = outbox(), SmtpProvider(extensions=extensions)
        await call_over(Wire({way: at}), server, SendJob(box, {}, "h").run)
        before = arrived(server)
        doubtful = {name for name in box.messages if box.states(name) == ["in-doubt"]}
        for name in BODIES:
            if name in box.gone:
                assert before[name] == 1, f"{way} {at}: {name} is gone and did not arrive"
            else:
                assert not before[name] or name in doubtful, f"{way} {at}: {name} arrived and is not in doubt"
        doubts += len(doubtful)
        gone = set(box.gone)
        assert await call_over(Wire(), server, SendJob(box, {}, "h").run) == JobReport()
        after = arrived(server)
        assert set(after) == set(BODIES) == set(box.gone)
        assert {name for name, n in after.items() if n > 1} <= doubtful
        assert all(after[name] == 1 for name in gone), f"{way} {at}: what was acknowledged went out again"
        twice += after.total() - len(after)
    print(f"{len(places)} cuts: {doubts} messages in doubt, {twice} of them arrived twice, none lost")
    assert doubts or not request.config.getoption("--long")  # a few bytes' worth


# ---- in
MAILS = [message(n, 200) for n in range(4)]


@pytest.mark.parametrize("kind", ["pop3", "pop3-bare", "imap"])
async def test_fetching(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By POP3 the message that was cut comes again; by IMAP no more of it than `MIN_PART`. Bounds are on what passes."""
    monkeypatch.setattr(intake, "MIN_PART", PART)
    account = {"protocol": kind.partition("-")[0]}

    def provider() -> Pop3Provider | ImapProvider:
        if kind == "imap":
            server = ImapProvider(capabilities=("IMAP4rev1", "SASL-IR", "AUTH=PLAIN", "UIDPLUS", "ESEARCH"))
            for data in MAILS:
                server.add(data)
            return server
        more = {"capabilities": ("UIDL",)} if kind == "pop3-bare" else {}
        return Pop3Provider(mails={f"u{n}": data for n, data in enumerate(MAILS)}, **more)  # type: ignore[arg-type]

    whole = Wire()
    async with house(tmp_path / "whole", **account) as home:
        assert await call_over(whole, provider(), home.job.run) == JobReport()
    beside = whole.passed["in"] - sum(map(len, MAILS))  # all that a session has but messages
    places, hurt = cuts(whole.passed, request), 0
    for way, at in places:
        async with house(tmp_path / f"{way}{at}", **account) as home:
            server, cut = provider(), Wire({way: at})
            hurt += await call_over(cut, server, home.job.run) is None
            here = Counter(home.inbox.messages)
            left = Counter(server.mails.values())
            assert all(here[data] == 1 or left[data] for data in MAILS), f"{way} {at}: a message is nowhere"
            assert not here - Counter(MAILS)
            home.restart()
            rest = Wire()
            assert await call_over(rest, server, home.job.run) == JobReport()
            assert Counter(home.inbox.messages) == Counter(MAILS), f"{way} {at}"
            missing = [data for data in MAILS if not here[data]]
            if kind == "imap":  # of the message that was cut
                had = max(
                    (n for data in missing for n in range(len(data)) if cut.carried["in"].endswith(data[:n])), default=0
                )
                most = sum(map(len, missing)) - max(0, had - PART)
            else:
                most = sum(map(len, missing))
            assert rest.passed["in"] <= most + beside, f"{way} {at}: more came again than the cut took"
            home.restart()
            assert await call_over(Wire(), server, home.job.run) == JobReport()
            assert len(server.mails) == 0
    assert hurt > 0.9 * len(places)  # but the last ones
