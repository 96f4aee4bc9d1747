"""The line drops under the whole product and real servers: at commands towards Postfix and Dovecot, and at every state
of the cycle. (Every place of the conversations: tests/faults/test_line_drops.py.) Both ways in which a far end is gone
are taken in turn: connections that stay silent, and connections that end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.lab.laboratory import LabThread
from appliance.lab.line import Way
from appliance.lab.modem import ModemState

from . import clients, corpus
from .conftest import LOGINS
from .corpus import Mail
from .product import Site, quick_lab, running
from .providers import HOST, AioSmtp, Dovecot, Postfix, wait_until

KINDS_OUT, KINDS_IN = ("plain", "dots", "long-line"), ("plain", "eight-bit", "dots")
KINDS_SHORT = ("plain", "dots", "eight-bit")
"""Instead of `KINDS_OUT` for every 64th byte: a long line is 1,200 places of one kind, and two hours."""

# (name, way, cut right behind the nth time that this passes)
CUTS: list[tuple[str, Way, bytes, int]] = [
    ("connected", "out", b"", 0),
    ("EHLO", "out", b"EHLO ", 1),
    ("greeting", "in", b"220 ", 1),
    ("MAIL", "out", b"MAIL FROM:<", 1),
    ("MAIL answered", "in", b"250 2.1.0 Ok\r\n", 1),
    ("RCPT", "out", b"RCPT TO:<", 2),
    ("RCPT answered", "in", b"250 2.1.5 Ok\r\n", 1),
    ("within a body", "out", b"X-Corpus-Id: ", 2),
    ("body answered", "in", b"queued as", 1),
    ("last body answered", "in", b"queued as", 3),
    ("SMTP QUIT", "out", b"QUIT\r\n", 1),
    ("STAT or UIDL", "out", b"UIDL\r\n", 1),
    ("RETR", "out", b"RETR 2", 1),
    ("within a fetched body", "in", b"X-Corpus-Id: in", 2),
    ("end of a fetched body", "in", b"\r\n.\r\n", 3),
    ("DELE", "out", b"DELE 1", 1),
    ("DELE answered", "in", b"Marked to be deleted.\r\n", 2),
]


@dataclass
class Running:
    """The product with everything around it, used by many cuts one after the other."""

    lab: LabThread
    site: Site
    postfix: Postfix
    dovecot: Dovecot
    folder: Path
    round: int = 0

    def fill(self, kinds: tuple[str, ...] = KINDS_OUT) -> tuple[list[Mail], list[Mail]]:
        """New mail on both sides; `kinds`: of what goes out."""
        self.round += 1
        n = self.round
        out = [
            corpus.make(k, f"out{n}-{k}", "hanako@harbour.example", [f"a{n}@far.example", "b@far.example"])
            for k in kinds
        ]
        back = [corpus.make(k, f"in{n}-{k}", "far@far.example", ["hanako@isp.example"]) for k in KINDS_IN]
        for mail in out:
            clients.SENDERS["pipeline"].submit(self.site.smtp, mail, self.site.login("hanako"), self.folder)
        for mail in back:
            self.dovecot.deliver("u0", mail.data)
        return out, back

    def arrived(self, out: list[Mail]) -> Counter[tuple[str, str]]:
        """(ident, recipient) -> how often, each whole."""
        by_ident = {m.ident: m for m in out}
        count: Counter[tuple[str, str]] = Counter()
        for got in self.postfix.captured():
            mail = by_ident[corpus.ident(got.data)]
            assert not (said := corpus.difference(got.data, mail.data)), f"{mail.ident}: {said}"
            count.update((mail.ident, r) for r in got.recipients)
        return count

    def settle(self, out: list[Mail], back: list[Mail]) -> tuple[int, int]:
        """Judges what the dropped call left, makes one more, and judges again; -> messages that were in doubt, and those
        of them that arrived twice."""
        site = self.site
        wanted = {(m.ident, r) for m in out for r in m.recipients}
        queue = site.queue()
        doubtful = [m for m in queue if m["state"] == "in-doubt"]
        assert site.status()["queue"]["in_doubt"] == len(doubtful)
        after = self.arrived(out)
        reached = {ident for ident, _ in after}
        gone = len(out) - len(queue)
        assert gone <= len(reached) <= gone + len(doubtful), "something left the queue unsent, or arrived unflagged"
        # What is gone upstream is here.
        here = {corpus.ident(m) for m in site.read("hanako")}
        left = {corpus.ident(m) for m in self.dovecot.waiting("u0")}
        assert {m.ident for m in back} <= here | left
        call = site.dial()
        assert call["outcome"] == "complete", call
        assert site.queue() == []
        total = self.arrived(out)
        assert set(total) == wanted, f"lost: {wanted - set(total)}"
        twice = {ident for (ident, _), n in total.items() if n > 1}
        assert max(total.values()) <= 2
        assert len(twice) <= len(doubtful), f"{twice} arrived twice, {len(doubtful)} were in doubt"
        got = site.read("hanako", delete=True)
        assert sorted(map(corpus.ident, got)) == sorted(m.ident for m in back)
        found = {corpus.ident(m): m for m in got}
        assert not [d for m in back if (d := corpus.difference(found[m.ident], m.data))]
        assert self.dovecot.waiting("u0") == []
        return len(doubtful), len(twice)


@pytest.fixture(scope="module")
def _running(_postfix: Postfix, _dovecot: Dovecot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("drops")
    with quick_lab() as lab:
        site = Site(
            folder, lab, users=("hanako",), smtp_target=(HOST, _postfix.smtp), pop3_target=(HOST, _dovecot.pop3),
            logins={"u0": LOGINS["u0"]},
        )  # fmt: skip
        with running(site):
            yield Running(lab, site, _postfix, _dovecot, folder)
            assert site.stop() == 0


@pytest.fixture
def world(_running: Running, postfix: Postfix, dovecot: Dovecot) -> Running:
    for message in _running.site.queue():  # what a test that failed has left
        _running.site.cli("queue", "remove", message["id"])
    _running.site.read("hanako", delete=True)
    return _running


@pytest.mark.parametrize(("way", "pattern", "nth"), [c[1:] for c in CUTS], ids=[c[0] for c in CUTS])
def test_a_cut_at_a_command(world: Running, way: Way, pattern: bytes, nth: int) -> None:
    out, back = world.fill()
    line = world.lab.lab.line
    closes = world.round % 2 == 0
    world.lab.do(setattr, line, "closes_on_drop", closes)
    if pattern:
        world.lab.do(line.cut_at, way, pattern, nth)
    else:
        world.lab.do(line.cut_after, way, 0)
    call = world.site.dial()
    cut = line._needle is None and not line._cut_at
    world.lab.do(line.forget_cuts)
    assert cut, "the place was never reached"
    assert call["outcome"] in ("carrier-lost", "partial"), call
    assert call["ended"]
    world.settle(out, back)


@pytest.mark.long
@pytest.mark.parametrize("way", ["out", "in"])
def test_a_cut_at_every_64th_byte(world: Running, way: Way) -> None:
    """Of a whole call: sending to Postfix and fetching from Dovecot share the line. The place within each 64 bytes is by
    chance, and so printed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    line = world.lab.lab.line
    out, back = world.fill(KINDS_SHORT)
    assert world.site.dial()["outcome"] == "complete"
    total = line.calls[-1].delivered[way]
    world.settle(out, back)
    cuts = doubts = doubled = 0
    for at in range(0, total, 64):
        world.postfix.clear()
        out, back = world.fill(KINDS_SHORT)
        world.lab.do(setattr, line, "closes_on_drop", world.round % 2 == 0)
        world.lab.do(line.cut_after, way, at + chance.randrange(64))
        call = world.site.dial()
        hurt = not line._cut_at
        world.lab.do(line.forget_cuts)
        assert call["outcome"] in (("carrier-lost", "partial") if hurt else ("complete",)), (at, call)
        in_doubt, twice = world.settle(out, back)
        cuts, doubts, doubled = cuts + hurt, doubts + in_doubt, doubled + twice
    print(f"{cuts} cuts: {doubts} messages were in doubt, {doubled} of them arrived twice, none was lost")


# ---- the states of the cycle
def dial_and_drop(site: Site, lab: LabThread, reached: Callable[[], bool], what: str) -> None:
    site.dial_nowait()
    wait_until(reached, what)
    lab.do(lab.lab.modem.drop_carrier)


@pytest.mark.parametrize("result", ["BUSY", "NO ANSWER", "NO CARRIER", "NO DIALTONE", "ERROR"])
def test_dialling_fails(world: Running, result: str) -> None:
    out, back = world.fill()
    world.lab.do(world.lab.lab.modem.next_results.append, result)
    call = world.site.dial()
    assert (call["connected"], call["sent"], call["fetched"]) == (None, 0, 0)
    assert call["outcome"] == {"ERROR": "modem-error"}.get(result, result.lower().replace(" ", "-"))
    assert [m["state"] for m in world.site.queue()] == ["queued"] * len(out)
    world.settle(out, back)


def test_the_carrier_drops_while_exchanging(world: Running) -> None:
    out, back = world.fill()
    world.lab.do(world.lab.lab.line.stall)
    dial_and_drop(world.site, world.lab, lambda: world.site.status()["line"]["state"] == "exchanging", "it exchanges")
    calls = world.site.wait_calls(1)
    world.lab.do(world.lab.lab.line.resume)
    assert calls[-1]["outcome"] == "carrier-lost"
    world.settle(out, back)


@pytest.mark.parametrize("state", ["lingering", "hanging-up"])
def test_the_carrier_drops_when_the_work_is_done(tmp_path: Path, second_provider: AioSmtp, state: str) -> None:
    """A call whose work was done is complete, whatever becomes of the line."""
    with LabThread(paced=False) as lab:  # with full guard times, so that hanging up takes a while
        site = Site(
            tmp_path,
            lab,
            users=("hanako",),
            smtp_target=(HOST, second_provider.port),
            schedule={"linger": "5s"} if state == "lingering" else {},
        )
        with running(site):
            mail = corpus.make("plain", "done", "hanako@harbour.example", ["a@far.example"])
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            dial_and_drop(site, lab, lambda: site.status()["line"]["state"] == state, f"it is {state}")
            (call,) = site.wait_calls(1)
            assert (call["outcome"], call["sent"]) == ("complete", 1)
            assert site.queue() == []
            assert len(second_provider.captured()) == 1
            assert lab.lab.modem.state is ModemState.COMMAND
            assert site.dial()["outcome"] == "complete"  # and the modem can be dialled again
