"""Fetching by IMAP from a real Dovecot behind a slow line made in user space: byte for byte, in few round trips, with
compression, and with the line cut at places all over the session."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Tls
from appliance.lab.line import Line, Way
from appliance.mail.store.parts import MIN_PART
from appliance.mail.upstream.intake import Intake
from appliance.protocol.imap_client import ImapClient
from fakes.fetching import House, house

from . import corpus
from .conftest import LOGINS
from .providers import HOST, Certificates, Dovecot

RATE, ROUND_TRIP_S = 115_200, 0.05
CUT_RATE, CUT_ROUND_TRIP_S = 1_000_000, 0.004
"""Of the line that is cut again and again: a piece of a turn is 2.5 KB there."""
CELLS = 24
"""Places of a session at which it is cut by default, each way; `--long` takes every 64th byte."""


@dataclass
class World:
    """One site, its line, and Dovecot behind it. `flights`: (way, bytes) of the last call, each change of way one."""

    home: House
    line: Line
    dovecot: Dovecot
    rate: int = RATE
    flights: list[tuple[Way, bytes]] = field(default_factory=list)

    def watch(self, gate: str, way: Way, data: bytes) -> None:
        if self.flights and self.flights[-1][0] == way:
            self.flights[-1] = (way, self.flights[-1][1] + data)
        else:
            self.flights.append((way, data))

    async def call(self) -> tuple[OpenCall, JobReport | None]:
        """One call; None: the line was cut."""
        self.flights.clear()
        self.line.on_bytes = self.watch
        cut = trio.CancelScope()
        report: JobReport | None = None
        call = OpenCall(1, "pstn", Reason.BY_HAND, self.rate, trio.open_tcp_stream)
        self.line.up(self.rate, on_cut=lambda reason: cut.cancel())
        with trio.fail_after(60):
            with cut:
                report = await self.home.job.run(call)
        self.line.down()
        return call, report

    @property
    def round_trips(self) -> int:
        """How often the site spoke and waited for an answer."""
        return sum(1 for a, b in zip(self.flights, self.flights[1:], strict=False) if (a[0], b[0]) == ("out", "in"))


@asynccontextmanager
async def world(
    tmp_path: Path,
    dovecot: Dovecot,
    *,
    port: int = 0,
    paced: bool = True,
    rate: int = RATE,
    round_trip_s: float = ROUND_TRIP_S,
    **account: object,
) -> AsyncIterator[World]:
    line = Line(paced=paced, round_trip_s=round_trip_s if paced else 0.0)
    gate = line.add_gate("imap", HOST, port or dovecot.imap)
    account = {
        "protocol": "imap", "host": HOST, "port": gate.port, "login": "u0", "backlog_s": None, **account,
    }  # fmt: skip
    async with trio.open_nursery() as nursery, house(tmp_path, **account) as home:
        home.secret = LOGINS["u0"]
        home.restart()
        await nursery.start(line.run)
        yield World(home, line, dovecot, rate)
        nursery.cancel_scope.cancel()


def mail(n: int, size: int = 0) -> bytes:
    """What a person writes, with CRLF as Dovecot counts it."""
    random.seed(n)
    words = ("harbour", "ferry", "crew", "tide", "weather", "engine", "spare", "part", "order", "invoice", "thanks")
    lines = [
        b"%b %d\r\n" % (" ".join(random.choices(words, k=9)).encode(), random.randrange(10**6))
        for _ in range(size // 60 + 3)
    ]
    return b"Message-ID: <m%d@isp.example>\r\nSubject: %d\r\n\r\n" % (n, n) + b"".join(lines)


@pytest.mark.parametrize("tls", [Tls.NONE, Tls.STARTTLS, Tls.IMPLICIT])
async def test_the_corpus_comes_byte_for_byte(
    tmp_path: Path, dovecot: Dovecot, certificates: Certificates, tls: Tls
) -> None:
    # A NUL can't be in a literal (RFC 3501 §9 CHAR8): Dovecot makes 0x80 of it.
    kinds = [kind for kind in corpus.KINDS if kind not in ("big", "nul")]
    waiting = [corpus.make(kind, f"imap-{kind}", "far@far.example", ["u0@isp.example"]).data for kind in kinds]
    for data in waiting:
        dovecot.deliver("u0", data)
    port = dovecot.imaps if tls is Tls.IMPLICIT else dovecot.imap
    async with world(tmp_path, dovecot, port=port, paced=False, tls=tls, ca=str(certificates.ca)) as w:
        call, report = await w.call()
        assert report == JobReport()
        assert call.tally.fetched == len(waiting)
        got = {corpus.ident(m): m for m in w.home.inbox.messages}
        assert {corpus.ident(d): s for d in waiting if (s := corpus.difference(got[corpus.ident(d)], d))} == {}
        assert dovecot.waiting("u0") == []


async def test_round_trips_and_bytes(tmp_path: Path, dovecot: Dovecot) -> None:
    """100 messages cost as many round trips as ten do; an unchanged folder costs two."""
    async with world(tmp_path, dovecot) as w:
        trips = []
        for count in (10, 100):
            mails = [mail(count * 1000 + n, 600) for n in range(count)]
            for data in mails:
                dovecot.deliver("u0", data)
            call, report = await w.call()
            assert (report, call.tally.fetched) == (JobReport(), count)
            trips.append(w.round_trips)
            bodies = sum(map(len, mails))
            carried = w.line.calls[-1].delivered["in"]
            assert carried < bodies * 0.6, f"{carried} bytes for {bodies}"
        assert trips[1] <= 8, trips
        call, report = await w.call()
        assert report == JobReport()
        assert [way for way, _ in w.flights[:5]] == ["in", "out", "in", "out", "in"]
        assert w.round_trips == 2


async def test_keep_and_another_uidvalidity(tmp_path: Path, dovecot: Dovecot) -> None:
    async with world(tmp_path, dovecot, paced=False, keep=True) as w:
        for n in range(5):
            dovecot.deliver("u0", mail(n))
        assert (await w.call())[0].tally.fetched == 5
        (dovecot.maildir("u0") / "dovecot-uidlist").unlink()
        for path in dovecot.maildir("u0").glob("dovecot.index*"):
            path.unlink()
        dovecot.deliver("u0", mail(9))
        w.home.restart()
        call, report = await w.call()
        assert (report, call.tally.fetched) == (JobReport(), 1)
        assert len(dovecot.waiting("u0")) == 6
        assert (await w.call())[0].tally.fetched == 0
        assert w.round_trips == 2


async def test_a_message_over_several_calls(tmp_path: Path, dovecot: Dovecot) -> None:
    """Without compression, so that the bytes can be counted: what has come is not carried again."""
    random.seed(1)
    big = b"Message-ID: <big@isp.example>\r\n\r\n" + b"".join(
        b"%064x\r\n" % random.getrandbits(256) for _ in range(3000)
    )
    dovecot.deliver("u0", big)
    async with world(tmp_path, dovecot, paced=False) as w:
        carried = calls = 0
        while calls < 12:
            calls += 1
            w.line.cut_after("in", 40_000)
            _, report = await w.call()
            w.line.forget_cuts()
            w.home.restart()
            carried += w.line.calls[-1].delivered["in"]
            if report == JobReport():
                break
        assert w.home.inbox.messages == [big]
        assert calls >= 3
        assert carried < len(big) + calls * 6000


@pytest.mark.parametrize("way", ["out", "in"])
@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
async def test_a_cut_anywhere_loses_and_doubles_nothing(
    tmp_path: Path,
    dovecot: Dovecot,
    way: Way,
    compress: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And of what the site has read of a message no more than `MIN_PART` is fetched twice."""
    mails = [mail(n, size) for n, size in ((1, 0), (2, 700), (3, 9000), (4, 30_000))]
    taken = 0
    take = Intake.take

    async def counted(self: Intake, data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        await take(self, data)

    monkeypatch.setattr(Intake, "take", counted)
    if not compress:
        monkeypatch.setattr(ImapClient, "can_compress", False)

    def fill() -> None:
        dovecot.clear("u0")
        for data in mails:
            dovecot.deliver("u0", data)

    def cell(name: str) -> AbstractAsyncContextManager[World]:
        return world(tmp_path / name, dovecot, rate=CUT_RATE, round_trip_s=CUT_ROUND_TRIP_S)

    fill()
    async with cell("whole") as w:
        assert (await w.call())[1] == JobReport()
        total = w.line.calls[-1].delivered[way]
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    places = list(range(choice.randrange(64), total, 64))
    if not request.config.getoption("--long"):
        places = sorted(choice.sample(places, min(len(places), CELLS)))
    again: list[int] = []
    hurt = 0
    for n, at in enumerate(places):
        fill()
        taken = 0
        async with cell(str(at)) as w:
            w.line.closes_on_drop = n % 2 == 0
            w.line.cut_after(way, at)
            hurt += (await w.call())[1] is None
            w.line.forget_cuts()
            arrived = w.home.inbox.messages
            assert all(m in mails for m in arrived), f"cut at {at}"
            upstream = dovecot.waiting("u0")
            assert all(m in arrived or m in upstream for m in mails), f"lost, cut at {at}"
            w.home.restart()
            _, report = await w.call()
            assert report == JobReport(), f"cut at {at}: {report}"
            assert sorted(w.home.inbox.messages) == sorted(mails), f"cut at {at}"
            assert dovecot.waiting("u0") == []
            again.append(taken - sum(map(len, mails)))
            assert 0 <= again[-1] < MIN_PART, f"{again[-1]} bytes of messages came twice, cut at {at}"
    assert hurt
    print(
        f"{len(places)} cuts, {hurt} within the work; bytes that came twice: {sum(again)}, at most {max(again)} at once"
    )
