"""What mail costs on a slow line, against the line's own limit and against fetchmail: 100 messages of 2 KB each way, with
real servers (Postfix, Dovecot) behind a byte-exact line in user space.

The limit is what no program can beat: the bytes of the messages at the line's rate, and one round trip. To keep an hour
of measuring short the line runs faster: its rate is multiplied and its round trip divided by the same number, so that
bytes, round trips and ratios are those of the slow line, as long as this host's own time does not count. Times are shown
as the slow line would take them.

`beyond`: bytes that the direction of the mail carried beyond the messages, a message. `waits`: the time in which that
direction carried nothing, in round trips; a host that is busy with other things makes it longer.
"""

from __future__ import annotations

import random
import subprocess
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import trio

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.lab.line import Line, Way
from appliance.mail.upstream.sender import SendJob
from appliance.protocol.imap_client import ImapClient
from fakes.fetching import house
from fakes.outbox import FakeOutbox
from tests.interop.providers import HOST, Certificates, Dovecot, Postfix, private_folder

MESSAGES, SIZE = 100, 2048
ROUND_TRIP_S = 0.6
LOGIN, PASSWORD = "u0", "word-0"
LINES = (("300 B/s", 2400, 16), ("9,600 bit/s", 9600, 4), ("115,200 bit/s", 115200, 1))
"""Name, bit/s, how many times faster it runs."""

Work = Callable[["Link"], Awaitable[None]]


@dataclass
class Link:
    """The line and what was measured on it. `gate`: the port of the server behind it."""

    line: Line
    gate: int
    rate: int
    folder: Path = field(default_factory=Path)

    def call(self) -> OpenCall:
        return OpenCall(1, "pstn", Reason.BY_HAND, self.rate, trio.open_tcp_stream)


@dataclass(frozen=True)
class Result:
    seconds: float
    beyond: float
    waits: float


def mails(*, crlf: bool = True) -> list[bytes]:
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
    for n in range(MESSAGES):
        head = (
            f"From: hanako@harbour.example\r\nTo: office{n % 7}@far.example\r\nSubject: {chance.choice(words)} {n}\r\n"
            f"Message-ID: <{chance.getrandbits(64):x}@harbour.example>\r\nDate: Mon, 05 Jan 2026 11:{n % 60:02d}:00 +0000\r\n\r\n"
        )
        body = ""
        while len(head) + len(body) < SIZE:
            body += " ".join(chance.choices(words, k=9)) + f" {chance.randrange(10**6)}\r\n"
        out.append((head + body).encode() if crlf else (head + body).replace("\r\n", "\n").encode())
    return out


def bench(rounds: int) -> None:
    bodies = mails()
    total = sum(map(len, bodies))
    packed = len(zlib.compress(b"".join(bodies), 6))
    print(
        f"{MESSAGES} messages, {total} bytes ({packed / total:.2f} of that by zlib -6), round trip {ROUND_TRIP_S:g} s"
    )
    with private_folder("tls") as tls, private_folder("dovecot") as d, private_folder("postfix") as p:
        certificates = Certificates.make(tls)
        dovecot = Dovecot(d, {LOGIN: PASSWORD}, certificates)
        try:
            dovecot.start()
            postfix = Postfix(p, dovecot, certificates)
            try:
                postfix.start()
                for name, rate, faster in LINES:
                    _one_line(name, rate, faster, dovecot, postfix, bodies)
            finally:
                postfix.stop()
        finally:
            dovecot.stop()


def _one_line(name: str, rate: int, faster: int, dovecot: Dovecot, postfix: Postfix, bodies: list[bytes]) -> None:
    total = sum(map(len, bodies))
    limit = total * 8 / rate + ROUND_TRIP_S
    print(f"\n{name}, the limit is {limit:.1f} s (run {faster} times faster)")
    print(f"  {'':34}{'seconds':>9}{'x limit':>9}{'beyond':>9}{'waits':>7}")

    def show(what: str, port: int, work: Work, way: Way) -> None:
        dovecot.clear(LOGIN)
        for data in bodies if way == "in" else ():
            dovecot.deliver(LOGIN, data)
        result = trio.run(_measure, port, rate * faster, ROUND_TRIP_S / faster, work, way, total)
        seconds = result.seconds * faster
        print(
            f"  {what:34}{seconds:9.1f}{seconds / limit:9.3f}{result.beyond:9.1f}{result.waits:7.1f}",
            flush=True,
        )

    show("out: Posthouse", postfix.smtp, _send(bodies), "out")
    show("in, POP3: Posthouse", dovecot.pop3, _fetch("pop3"), "in")
    show("in, POP3: fetchmail", dovecot.pop3, _fetchmail("pop3"), "in")
    show("in, IMAP: Posthouse, not compressed", dovecot.imap, _fetch("imap", compress=False), "in")
    show("in, IMAP: Posthouse", dovecot.imap, _fetch("imap"), "in")
    show("in, IMAP: fetchmail", dovecot.imap, _fetchmail("imap"), "in")


async def _measure(port: int, rate: int, round_trip_s: float, work: Work, way: Way, total: int) -> Result:
    line = Line(round_trip_s=round_trip_s)
    gate = line.add_gate("server", HOST, port)
    with TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            await nursery.start(line.run)
            link = Link(line, gate.port, rate, folder=Path(folder))
            line.up(rate, on_cut=lambda reason: None)
            began = time.monotonic()
            await work(link)
            seconds = time.monotonic() - began
            carried = line.calls[-1].delivered[way]
            line.down()
            nursery.cancel_scope.cancel()
    return Result(seconds, (carried - total) / MESSAGES, (seconds - carried * 8 / rate) / round_trip_s)


def _send(bodies: list[bytes]) -> Work:
    async def work(link: Link) -> None:
        host = Smarthost(host=HOST, port=link.gate, tls=Tls.NONE)
        outbox = FakeOutbox(link.folder, [host])
        for n, body in enumerate(bodies):
            outbox.put(f"m{n}", body, f"office{n % 7}@far.example")
        report = await SendJob(outbox, {}, "harbour.harbour.example").run(link.call())
        assert (report, outbox.messages) == (JobReport(), {}), report

    return work


def _fetch(protocol: str, *, compress: bool = True) -> Work:
    async def work(link: Link) -> None:
        account = {"protocol": protocol, "host": HOST, "port": link.gate, "login": LOGIN, "backlog_s": None}
        never = mock.patch.object(ImapClient, "can_compress", False) if not compress else mock.MagicMock()
        async with house(link.folder / "site", **account) as home:
            home.secret = PASSWORD
            home.restart()
            with never:
                report = await home.job.run(link.call())
            assert report == JobReport(), report
            assert len(home.inbox.messages) == MESSAGES

    return work


def _fetchmail(protocol: str) -> Work:
    async def work(link: Link) -> None:
        rc = link.folder / "rc"
        rc.write_text(
            f'poll {HOST} service {link.gate} protocol {protocol.upper()} username {LOGIN} password "{PASSWORD}" '
            f'sslproto "" fetchall expunge 0 mda "cat > /dev/null"\n'
        )
        rc.chmod(0o600)
        command = [
            "fetchmail",
            "-f",
            str(rc),
            "-i",
            str(link.folder / "ids"),
            "--pidfile",
            str(link.folder / "pid"),
            "-s",
        ]
        done = await trio.run_process(command, check=False, stdin=subprocess.DEVNULL, capture_stderr=True)
        assert done.returncode == 0, (done.returncode, done.stderr)

    return work
