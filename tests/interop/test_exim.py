"""The product with Exim as its smarthost, where the other tests have Postfix: by CHUNKING and by DATA, under TLS, refusals
in the middle of a flight, a line that is cut all over the session; and what Exim delivers to a login is fetched."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Smarthost, Tls
from appliance.lab.line import Line, Way
from appliance.mail.upstream.sender import SendJob
from fakes.outbox import FakeOutbox

from . import clients, corpus
from .conftest import LOGINS
from .exim import Exim
from .product import Site, quick_lab, running
from .providers import DOMAIN, HOST, Certificates, Dovecot, private_folder

KINDS = ("plain", "eight-bit", "dots", "empty-body", "blank-lines", "many-fields", "folded", "many-recipients")
FAR = "far@far.example"
CUT_RATE, CUT_ROUND_TRIP_S = 1_000_000, 0.004
"""Of the line that is cut again and again."""
CUT_SIZES = (200, 2000, 5000, 300)


@pytest.fixture(scope="module", params=[True, False], ids=["chunking", "data"])
def exim(request: pytest.FixtureRequest, _dovecot: Dovecot, certificates: Certificates) -> Iterator[Exim]:
    if os.getuid() != 0:
        pytest.skip("Exim starts only as root")
    with private_folder("exim") as folder:
        it = Exim(folder, _dovecot, certificates, chunking=request.param)
        try:
            yield it.start()
        finally:
            it.stop()


@pytest.fixture
def site(exim: Exim, dovecot: Dovecot, certificates: Certificates, folder: Path) -> Iterator[Site]:
    exim.clear()
    with quick_lab() as lab:
        it = Site(
            folder, lab, users=("hanako",), smtp_target=(HOST, exim.smtp), pop3_target=(HOST, dovecot.pop3),
            logins={"u0": LOGINS["u0"]}, tls="starttls", certificates=certificates,
        )  # fmt: skip
        with running(it):
            yield it
            assert it.stop() == 0


def submit(site: Site, folder: Path, ident: str, *to: str, kind: str = "plain") -> corpus.Mail:
    mail = corpus.make(kind, ident, "hanako@harbour.example", to or (FAR,))
    clients.SENDERS["pipeline"].submit(site.smtp, mail, site.login("hanako"), folder)
    return mail


def test_all_that_is_sent_arrives(exim: Exim, site: Site, folder: Path) -> None:
    sent = [submit(site, folder, f"exim-{kind}", kind=kind) for kind in KINDS]
    own = submit(site, folder, "exim-own", f"u0@{DOMAIN}", kind="dots")
    call = site.dial()
    assert call["outcome"] == "complete", call
    assert site.queue() == []
    got = exim.captured()
    assert {corpus.ident(c.data): sorted(c.recipients) for c in got} == {m.ident: sorted(m.recipients) for m in sent}
    assert len(got) == len(sent)
    by_ident = {corpus.ident(c.data): c.data for c in got}
    assert {m.ident: d for m in sent if (d := corpus.difference(by_ident[m.ident], m.data))} == {}
    arrivals = exim.arrivals()
    assert len(arrivals) == len(sent) + 1
    assert all((" K " in line) is exim.chunking and " X=TLS" in line for line in arrivals), arrivals
    # What Exim gave to the login comes with the next call, unless this one has brought it already.
    if not site.read("hanako"):
        assert site.dial()["fetched"] == 1
    (back,) = site.read("hanako", delete=True)
    assert not corpus.difference(back, own.data)


def test_refusals_in_the_middle_of_a_flight(exim: Exim, site: Site, folder: Path) -> None:
    """Exim keeps a transaction open of which it refused every recipient, BDAT and all: without RSET it would refuse the
    MAIL behind it and take that message under the sender of the one before."""
    sent = [submit(site, folder, f"before-{n}") for n in range(3)]
    sent.append(submit(site, folder, "half", f"nobody@{DOMAIN}", FAR))
    submit(site, folder, "none", f"nobody@{DOMAIN}")
    sent += [submit(site, folder, f"between-{n}") for n in range(12)]  # more RSETs than Exim likes (10) of others
    submit(site, folder, "none-2", f"nobody@{DOMAIN}")
    sent += [submit(site, folder, f"behind-{n}") for n in range(3)]
    call = site.dial()
    assert call["outcome"] == "complete", call
    assert site.queue() == []
    assert Counter(corpus.ident(c.data) for c in exim.captured()) == dict.fromkeys((m.ident for m in sent), 1)
    assert site.lab.lab.line.calls[-1].connections["site-smtp"] == (1 if exim.chunking else 2)  # 21 messages
    assert "sent but not acknowledged" not in site.journal()
    assert all((" K " in line) is exim.chunking for line in exim.arrivals())
    bounces = site.read("hanako", delete=True)
    assert len(bounces) == 3
    assert all(b"there is nobody of that name here" in data for data in bounces)


@dataclass
class Cut:
    """A call that was cut and the next one: ident by the message's name, those that were in doubt between the two."""

    place: int | None
    idents: dict[str, str]
    doubtful: set[str] = field(default_factory=set)


@pytest.mark.long
@pytest.mark.parametrize("way", ["out", "in"])
async def test_a_cut_at_every_64th_byte(exim: Exim, tmp_path: Path, way: Way) -> None:
    """What was acknowledged never goes out again; all arrives whole, and twice only what was in doubt."""
    exim.clear()
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    line = Line(round_trip_s=CUT_ROUND_TRIP_S)
    gate = line.add_gate("smtp", HOST, exim.smtp)
    mails: dict[str, corpus.Mail] = {}
    cuts: list[Cut] = []
    beside = 0  # all that a session has but messages

    async def send(place: int | None) -> None:
        """A call that is cut there, and the next one."""
        number = len(cuts)
        cut = Cut(place, {f"m{n}": f"cut{number}-{n}" for n in range(len(CUT_SIZES))})
        box = FakeOutbox(tmp_path, [Smarthost(host=HOST, port=gate.port, tls=Tls.NONE)])
        for (name, ident), size in zip(cut.idents.items(), CUT_SIZES, strict=True):
            mails[ident] = corpus.make("plain", ident, "hanako@harbour.example", (FAR,), size=size)
            box.put(name, mails[ident].data, FAR)
        line.closes_on_drop = number % 2 == 0
        if place is not None:
            line.cut_after(way, place)
        report = await over(line, SendJob(box, {}, "harbour.example"))
        assert report in (None, JobReport())
        line.forget_cuts()
        cut.doubtful = {name for name in box.messages if "in-doubt" in box.states(name)}
        left = sum(len(mails[cut.idents[name]].data) for name in box.messages)
        assert await over(line, SendJob(box, {}, "harbour.example")) == JobReport()
        assert not box.messages
        again = line.calls[-1].delivered["out"]
        assert place is None or again <= left + beside, f"cut at {place}: {again} bytes went for {left} that were left"
        cuts.append(cut)

    async with trio.open_nursery() as nursery:
        await nursery.start(line.run)
        await send(None)
        total = line.calls[0].delivered[way]
        beside = line.calls[0].delivered["out"] - sum(len(m.data) for m in mails.values())
        for place in range(random.Random(seed).randrange(64), total, 64):
            await send(place)
        nursery.cancel_scope.cancel()
    captured = await trio.to_thread.run_sync(exim.captured)
    assert {i: d for c in captured if (d := corpus.difference(c.data, mails[i := corpus.ident(c.data)].data))} == {}
    arrived = Counter(corpus.ident(c.data) for c in captured)
    assert set(arrived) == set(mails), "lost"
    for cut in cuts:
        twice = {name for name, ident in cut.idents.items() if arrived[ident] > 1}
        assert twice <= cut.doubtful, f"cut at {cut.place}: {twice} arrived twice, {cut.doubtful} in doubt"
    assert max(arrived.values()) <= 2
    print(
        f"{len(cuts) - 1} cuts, {len(mails)} messages: {sum(len(c.doubtful) for c in cuts)} were in doubt, "
        f"{arrived.total() - len(mails)} of them arrived twice, none was lost"
    )


async def over(line: Line, job: SendJob) -> JobReport | None:
    """One call; None: it was cut."""
    report: JobReport | None = None
    with trio.CancelScope() as cut, trio.fail_after(60):
        line.up(CUT_RATE, on_cut=lambda reason: cut.cancel())
        report = await job.run(OpenCall(1, "pstn", Reason.BY_HAND, CUT_RATE, trio.open_tcp_stream))
    line.down()
    return report
