"""What mail costs on a slow line, against the line's own limit and against what else carries mail (`line_rivals`): 100
messages of 2 KB each way, with real servers (Postfix, Dovecot) behind a byte-exact line in user space.

The limit is what no program can beat: the bytes of the messages at the line's rate, and one round trip. To keep an hour
of measuring short the line runs faster: its rate is multiplied and its round trip divided by the same number, so that
bytes, round trips and ratios are those of the slow line, as long as this host's own time does not count. Times are shown
as the slow line would take them; of several rounds the median.

Two parts have Posthouse alone, all its ways side by side, each on a line of its own, which takes as long as the line does:
`true`, the same at the line's own speed (12 minutes); `trips`, 10, 100 and 1,000 messages at 115,200 bit/s and 1.8 s, whose
round trips must not grow with them.

`beyond`: bytes that the direction of the mail carried beyond the messages, a message (Postfix adds a Received field of
its own). `trips`: the time beyond those bytes and one round trip, in round trips; a host that is busy with other things
makes it longer.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import trio

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.lab.line import Line, Way
from appliance.mail.stubs import StubTerms
from appliance.mail.upstream.sender import SendJob
from appliance.protocol.imap_client import ImapClient
from fakes.fetching import house
from fakes.outbox import FakeOutbox
from tests.bench import line_rivals as rivals
from tests.interop.providers import HOST, Certificates, Dovecot, Postfix, private_folder

MESSAGES, SIZE = 100, 2048
ROUND_TRIP_S = 0.6
LOGIN, PASSWORD = "u0", "word-0"
BESIDE = ("u1", "u2", "u3", "u4")
"""Logins of those that fetch side by side."""
LINES = (("300", 2400, 16), ("9600", 9600, 4), ("115200", 115200, 1))
"""Name (bytes/s, bit/s, bit/s), bit/s, how many times faster it runs."""
TRUE, TRIPS = "true", "trips"
PARTS = (*(name for name, _, _ in LINES), TRUE, TRIPS)
COUNTS = (10, 100, 1000)
"""Messages of the part `trips`."""
LONG_TRIP_S = 1.8
"""Its round trip, a satellite's: a busy host's time is small against it."""

UIDL = "%08Xu%08Xv"
"""Dovecot's own: 16 characters."""
STUBS = StubTerms(limit=100 * 1024, domain="harbour.example", hostname="harbour.harbour.example")
GOALS = (
    "goals at 300 B/s: out and in 1.05, by IMAP with COMPRESS 0.25 or 1.12 times zlib -6; at most 8 round trips; "
    "beyond at most 120 out, 60 in"
)

Work = Callable[["Link"], Awaitable[None]]


@dataclass
class Link:
    """The line and what was measured on it. `gate`: the port of the server behind it. `began`, `ended`: monotonic
    seconds; work that has to prepare itself sets them."""

    line: Line
    gate: int
    rate: int
    folder: Path = field(default_factory=Path)
    began: float = 0.0
    ended: float = 0.0

    def call(self) -> OpenCall:
        return OpenCall(1, "pstn", Reason.BY_HAND, self.rate, trio.open_tcp_stream)


@dataclass(frozen=True)
class Result:
    seconds: float
    beyond: float
    trips: float


def mails(count: int = MESSAGES) -> list[bytes]:
    """What people write: words, names, numbers."""
    chance = random.Random(1)
    words = [
        "the",
        "harbour",
        "ferry",
        "crew",
        "tide",
        "weather",
        "engine",
        "spare",
        "part",
        "order",
        "invoice",
        "thanks",
        "regards",
        "tomorrow",
        "morning",
        "please",
        "send",
        "cargo",
        "list",
        "port",
        "agent",
        "customs",
        "arrived",
        "delayed",
        "because",
        "wind",
        "repaired",
        "pump",
        "oil",
        "filter",
        "next",
        "week",
        "meeting",
    ]
    out = []
    for n in range(count):
        head = (
            f"From: hanako@harbour.example\r\nTo: office{n % 7}@far.example\r\nSubject: {chance.choice(words)} {n}\r\n"
            f"Message-ID: <{chance.getrandbits(64):x}@harbour.example>\r\nDate: Mon, 05 Jan 2026 11:{n % 60:02d}:00 +0000\r\n\r\n"
        )
        body = ""
        while len(head) + len(body) < SIZE:
            body += " ".join(chance.choices(words, k=9)) + f" {chance.randrange(10**6)}\r\n"
        out.append((head + body).encode())
    return out


def bench(rounds: int, part: str | None) -> None:
    if lacking := rivals.lacking():
        raise SystemExit(f"scripts/bench line compares with programs that are not installed; as root: {lacking}")
    bodies = mails()
    total = sum(map(len, bodies))
    packed = len(zlib.compress(b"".join(bodies), 6))
    print(
        f"{MESSAGES} messages, {total} bytes ({packed / total:.3f} of that by zlib -6), round trip {ROUND_TRIP_S:g} s; "
        f"the median of {rounds}\nagainst {rivals.versions()}"
    )
    with private_folder("tls") as tls, private_folder("dovecot") as d, private_folder("postfix") as p:
        certificates = Certificates.make(tls)
        dovecot = Dovecot(d, dict.fromkeys((LOGIN, *BESIDE), PASSWORD), certificates, uidl=UIDL)
        try:
            dovecot.start()
            postfix = Postfix(p, dovecot, certificates)
            try:
                postfix.start()
                provider = Provider(dovecot, postfix, certificates, bodies)
                for name, rate, faster in LINES:
                    if part in (None, name):
                        _one_line(name, rate, faster, provider, rounds)
                if part in (None, TRUE):
                    _true_speed(provider)
                if part in (None, TRIPS):
                    _trips(provider)
            finally:
                postfix.stop()
        finally:
            dovecot.stop()
    print(GOALS)


@dataclass(frozen=True)
class Provider:
    dovecot: Dovecot
    postfix: Postfix
    certificates: Certificates
    bodies: list[bytes]


def _one_line(name: str, rate: int, faster: int, provider: Provider, rounds: int) -> None:
    bodies, dovecot, smtp = provider.bodies, provider.dovecot, provider.postfix.smtp
    total = sum(map(len, bodies))
    limit = total * 8 / rate + ROUND_TRIP_S
    _head(f"{name}, the limit is {limit:.1f} s (run {faster} times faster)")
    pop3, imap = dovecot.pop3, dovecot.imap
    cases: list[tuple[str, int, Work, Way]] = [
        ("out: Posthouse", smtp, _send(bodies), "out"),
        ("out: Postfix, 20 connections", smtp, _postfix(provider), "out"),
        ("out: msmtp, 20 at once", smtp, lambda link: rivals.msmtp(link.folder, link.gate, bodies), "out"),
        ("in, POP3: Posthouse", pop3, _fetch("pop3", MESSAGES), "in"),
        ("in, POP3: mpop, pipelined", pop3, lambda link: rivals.mpop(link.folder, link.gate, LOGIN, PASSWORD), "in"),
        ("in, POP3: fetchmail", pop3, _fetchmail("pop3"), "in"),
        ("in, IMAP: Posthouse, not compressed", imap, _fetch("imap", MESSAGES, compress=False), "in"),
        ("in, IMAP: Posthouse", imap, _fetch("imap", MESSAGES), "in"),
        ("in, IMAP: mbsync, keeps", imap, lambda link: rivals.mbsync(link.folder, link.gate, LOGIN, PASSWORD), "in"),
        ("in, IMAP: fetchmail", imap, _fetchmail("imap"), "in"),
    ]
    for what, port, work, way in cases:
        results = []
        for _ in range(rounds):
            dovecot.clear(LOGIN)
            for data in bodies if way == "in" else ():
                dovecot.deliver(LOGIN, data)
            results.append(trio.run(_measure, port, rate * faster, ROUND_TRIP_S / faster, work, way, bodies))
        result = sorted(results, key=lambda r: r.seconds)[len(results) // 2]
        _row(what, result, limit, faster)


def _head(what: str) -> None:
    print(f"\n{what}\n  {'':42}{'seconds':>9}{'x limit':>9}{'beyond':>9}{'trips':>7}", flush=True)


def _row(what: str, result: Result, limit: float, faster: int = 1) -> None:
    seconds = result.seconds * faster
    print(f"  {what:42}{seconds:9.1f}{seconds / limit:9.3f}{result.beyond:9.1f}{result.trips:7.1f}", flush=True)


def _true_speed(provider: Provider) -> None:
    bodies = provider.bodies
    for name, rate, _ in LINES:
        limit = sum(map(len, bodies)) * 8 / rate + ROUND_TRIP_S
        _head(f"{name} at its own speed, Posthouse alone; the limit is {limit:.1f} s")
        for what, result in _side_by_side(provider, rate, bodies).items():
            _row(what, result, limit)


def _trips(provider: Provider) -> None:
    name, rate, _ = LINES[-1]
    for count in COUNTS:
        bodies = mails(count)
        limit = sum(map(len, bodies)) * 8 / rate + LONG_TRIP_S
        _head(f"{count} messages at {name} bit/s and {LONG_TRIP_S} s, Posthouse alone; the limit is {limit:.1f} s")
        for what, result in _side_by_side(provider, rate, bodies, LONG_TRIP_S).items():
            _row(what, result, limit)


def _side_by_side(
    provider: Provider, rate: int, bodies: Sequence[bytes], round_trip_s: float = ROUND_TRIP_S
) -> dict[str, Result]:
    dovecot = provider.dovecot
    pop3, imap, n = dovecot.pop3, dovecot.imap, len(bodies)
    cases: list[tuple[str, int, Work, Way]] = [
        ("out", provider.postfix.smtp, _send(bodies), "out"),
        ("in, POP3", pop3, _fetch("pop3", n, login=BESIDE[0]), "in"),
        ("in, POP3, all less than fetch_limit", pop3, _fetch("pop3", n, login=BESIDE[1], stubs=None), "in"),
        ("in, IMAP, not compressed", imap, _fetch("imap", n, login=BESIDE[2], compress=False), "in"),
        ("in, IMAP", imap, _fetch("imap", n, login=BESIDE[3]), "in"),
    ]
    for login in BESIDE:
        dovecot.clear(login)
        for data in bodies:
            dovecot.deliver(login, data)
    results: dict[str, Result] = {}

    async def all_of_them() -> None:
        async def one(what: str, port: int, work: Work, way: Way) -> None:
            results[what] = await _measure(port, rate, round_trip_s, work, way, bodies)

        async with trio.open_nursery() as nursery:
            for case in cases:
                nursery.start_soon(one, *case)

    trio.run(all_of_them)
    return {what: results[what] for what, *_ in cases}


async def _measure(port: int, rate: int, round_trip_s: float, work: Work, way: Way, bodies: Sequence[bytes]) -> Result:
    line = Line(round_trip_s=round_trip_s)
    gate = line.add_gate("server", HOST, port)
    with TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            await nursery.start(line.run)
            link = Link(line, gate.port, rate, folder=Path(folder))
            line.up(rate, on_cut=lambda reason: None)
            link.began = time.monotonic()
            await work(link)
            seconds = (link.ended or time.monotonic()) - link.began
            carried = line.calls[-1].delivered[way]
            line.down()
            nursery.cancel_scope.cancel()
    total = sum(map(len, bodies))
    return Result(seconds, (carried - total) / len(bodies), (seconds - carried * 8 / rate) / round_trip_s - 1)


def _send(bodies: Sequence[bytes]) -> Work:
    async def work(link: Link) -> None:
        host = Smarthost(host=HOST, port=link.gate, tls=Tls.NONE)
        outbox = FakeOutbox(link.folder, [host])
        for n, body in enumerate(bodies):
            outbox.put(f"m{n}", body, f"office{n % 7}@far.example")
        report = await SendJob(outbox, {}, "harbour.harbour.example").run(link.call())
        assert (report, outbox.messages) == (JobReport(), {}), report

    return work


def _fetch(
    protocol: str, count: int, *, compress: bool = True, login: str = LOGIN, stubs: StubTerms | None = STUBS
) -> Work:
    async def work(link: Link) -> None:
        account = {"protocol": protocol, "host": HOST, "port": link.gate, "login": login, "backlog_s": None}
        async with house(link.folder / "site", **account) as home:
            home.secret, home.stubs = PASSWORD, stubs
            home.restart()
            with nullcontext() if compress else _uncompressed(login):
                report = await home.job.run(link.call())
            assert report == JobReport(), report
            assert len(home.inbox.messages) == count

    return work


@contextmanager
def _uncompressed(login: str) -> Iterator[None]:
    """This login's sessions alone, whatever goes on beside them."""
    can = ImapClient.can_compress.fget
    assert can is not None
    with mock.patch.object(ImapClient, "can_compress", property(lambda client: client._login != login and can(client))):
        yield


def _fetchmail(protocol: str) -> Work:
    return lambda link: rivals.fetchmail(link.folder, link.gate, protocol, LOGIN, PASSWORD)


def _postfix(provider: Provider) -> Work:
    async def work(link: Link) -> None:
        with private_folder("rival") as root:
            queue = rivals.PostfixQueue(root, provider.dovecot, provider.certificates, link.gate)
            with queue.full_of(provider.bodies):
                link.began = time.monotonic()
                await queue.flush()
                link.ended = time.monotonic()

    return work
