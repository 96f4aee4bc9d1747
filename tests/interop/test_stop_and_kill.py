"""The process ends at the worst of moments, killed or asked to; after a restart nothing is lost, and only what was
shown as in doubt may arrive twice."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.lab.laboratory import LabThread
from appliance.lab.line import Way

from . import clients, corpus
from .product import Site, quick_lab, running
from .providers import HOST, wait_until

LOGINS = {"u0": "word-0"}
OUT = [
    corpus.make(kind, f"out-{kind}", "hanako@harbour.example", ["a@far.example"]) for kind in ("plain", "dots", "nul")
]
IN = [
    corpus.make(kind, f"in-{kind}", "far@far.example", ["hanako@isp.example"]) for kind in ("plain", "dots", "controls")
]

# Just before the provider's side, or ours, sees this for the nth time.
MOMENTS: list[tuple[str, Way, bytes, int]] = [
    ("greeting", "in", b"220 ", 1),
    ("EHLO", "out", b"EHLO ", 1),
    ("MAIL", "out", b"MAIL FROM", 1),
    ("second MAIL", "out", b"MAIL FROM", 2),
    ("body", "out", b"X-Corpus-Id: out-dots", 1),
    ("first answer to a body", "in", b"taken as 1", 1),
    ("last answer to a body", "in", b"taken as 3", 1),
    ("UIDL", "out", b"UIDL", 1),
    ("RETR", "out", b"RETR", 2),
    ("fetched body", "in", b"X-Corpus-Id: in-dots", 1),
    ("DELE", "out", b"DELE", 1),
    ("QUIT", "out", b"QUIT", 1),
]


def at_moment(lab: LabThread, way: Way, pattern: bytes, nth: int, act: Callable[[], None]) -> None:
    """Calls `act` in the laboratory's thread, once, before the bytes with the nth `pattern` are delivered."""
    seen = {"text": b"", "done": False}

    def watch(gate: str, went: Way, data: bytes) -> None:
        if went == way and not seen["done"]:
            seen["text"] = bytes(seen["text"]) + data  # type: ignore[arg-type]
            if bytes(seen["text"]).count(pattern) >= nth:  # type: ignore[arg-type]
                seen["done"] = True
                act()

    lab.do(setattr, lab.lab.line, "on_bytes", watch)


def make_site(tmp_path: Path, lab: LabThread) -> Site:
    provider = lab.lab.provider
    provider.require_login = False
    provider.add_login("u0", LOGINS["u0"])
    return Site(
        tmp_path, lab, users=("hanako",), logins=LOGINS, smtp_target=(HOST, provider.smtp_port),
        pop3_target=(HOST, provider.pop3_port),
    )  # fmt: skip


def fill(site: Site, lab: LabThread, folder: Path) -> None:
    for mail in OUT:
        clients.SENDERS["pipeline"].submit(site.smtp, mail, site.login("hanako"), folder)
    for mail in IN:
        lab.do(lab.lab.provider.deliver, "u0", mail.data)


def arrived(lab: LabThread) -> Counter[str]:
    """ident -> how often it came to the provider, each whole."""
    by_ident = {m.ident: m for m in OUT}
    count: Counter[str] = Counter()
    for got in lab.lab.provider.received:
        mail = by_ident[corpus.ident(got.data)]
        assert not (said := corpus.difference(got.data, mail.data)), said
        count[mail.ident] += 1
    return count


def settle(site: Site, lab: LabThread, doubtful: int) -> None:
    """One more call; everything is where it belongs then."""
    lab.do(setattr, lab.lab.line, "on_bytes", None)
    wait_until(lambda: not lab.lab.provider.maildrops["u0"].locked, "the provider sees that its client is gone")
    call = site.dial()
    assert call["outcome"] == "complete", call
    assert site.queue() == []
    count = arrived(lab)
    assert set(count) == {m.ident for m in OUT}
    assert sum(count.values()) - len(OUT) <= doubtful
    got = site.read("hanako")
    assert sorted(map(corpus.ident, got)) == sorted(m.ident for m in IN)
    found = {corpus.ident(m): m for m in got}
    assert not [d for m in IN if (d := corpus.difference(found[m.ident], m.data))]
    assert lab.lab.provider.waiting == 0


@pytest.mark.parametrize(("way", "pattern", "nth"), [m[1:] for m in MOMENTS], ids=[m[0] for m in MOMENTS])
def test_killed_within_a_call(tmp_path: Path, way: Way, pattern: bytes, nth: int) -> None:
    with quick_lab() as lab:
        site = make_site(tmp_path, lab)
        with running(site):
            fill(site, lab, tmp_path)
            assert site.process is not None
            pid = site.process.pid
            at_moment(lab, way, pattern, nth, lambda: os.kill(pid, signal.SIGKILL))
            site.dial_nowait()
            assert site.process.wait(30) == -signal.SIGKILL

            site.start()
            doubtful = [m for m in site.queue() if m["state"] == "in-doubt"]
            assert site.status()["queue"]["in_doubt"] == len(doubtful)
            gone = len(OUT) - len(site.queue())
            assert gone <= arrived(lab).total() <= gone + len(doubtful)
            (interrupted,) = site.calls()
            assert interrupted["outcome"] == "interrupted"
            settle(site, lab, len(doubtful))
            assert [c["outcome"] for c in site.calls()] == ["interrupted", "complete"]


@pytest.mark.parametrize(("way", "pattern", "nth"), [m[1:] for m in MOMENTS[4::3]], ids=[m[0] for m in MOMENTS[4::3]])
def test_stopped_within_a_call(tmp_path: Path, way: Way, pattern: bytes, nth: int) -> None:
    """SIGTERM: the line is hung up, the ledger closed, the exit code 0."""
    with quick_lab() as lab:
        site = make_site(tmp_path, lab)
        with running(site):
            fill(site, lab, tmp_path)
            assert site.process is not None
            pid = site.process.pid

            def stop() -> None:
                lab.lab.line.stall()  # so that the call cannot end by itself before the signal is seen
                os.kill(pid, signal.SIGTERM)

            at_moment(lab, way, pattern, nth, stop)
            site.dial_nowait()
            assert site.process.wait(30) == 0
            lab.wait_on_hook()
            lab.do(lab.lab.line.resume)
            site.start()
            doubtful = [m for m in site.queue() if m["state"] == "in-doubt"]
            assert [c["outcome"] for c in site.calls()] == ["hung-up"]
            settle(site, lab, len(doubtful))


def test_killed_while_clients_submit(tmp_path: Path) -> None:
    """Eight clients at once, the process killed three times among them: what was answered 250 is there once and whole,
    what was not is absent or whole."""
    with quick_lab() as lab:
        site = make_site(tmp_path, lab)
        with running(site):
            answered: list[str] = []
            tried: dict[str, corpus.Mail] = {}
            for round_ in range(3):
                enough = threading.Event()

                def client(who: int, round_: int = round_, enough: threading.Event = enough) -> None:
                    for i in range(100):
                        kind = ("plain", "dots", "long-line", "many-fields")[i % 4]
                        mail = corpus.make(kind, f"r{round_}-c{who}-{i}", "hanako@harbour.example", ["a@far.example"])
                        tried[mail.ident] = mail
                        try:
                            clients.SENDERS["pipeline"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
                        except (OSError, EOFError):
                            return
                        answered.append(mail.ident)
                        if len(answered) >= 20 * (round_ + 1):
                            enough.set()

                threads = [threading.Thread(target=client, args=(who,)) for who in range(8)]
                for t in threads:
                    t.start()
                assert enough.wait(60)
                site.kill()
                for t in threads:
                    t.join(60)
                site.start()
            assert len(answered) >= 60
            assert len(site.queue()) >= len(answered)
            assert site.dial()["outcome"] == "complete"
            count = Counter(corpus.ident(got.data) for got in lab.lab.provider.received)
            assert set(answered) <= set(count), f"lost: {set(answered) - set(count)}"
            assert set(count) <= set(tried)
            assert max(count.values()) == 1
            assert not [
                d for got in lab.lab.provider.received
                if (d := corpus.difference(got.data, tried[corpus.ident(got.data)].data))
            ]  # fmt: skip


def test_stopped_while_a_client_sends(tmp_path: Path) -> None:
    """SIGTERM within DATA: the message may still be finished, and is then kept."""
    with quick_lab() as lab:
        site = make_site(tmp_path, lab)
        with running(site), clients.Conversation(site.smtp) as c:
            c.login(site.login("hanako"))
            c.begin("hanako@harbour.example", "a@far.example")
            c.send(OUT[0].wire[:500])
            assert site.process is not None
            site.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in site.journal(), "it says that it stops")
            assert c.data(OUT[0].wire[500:]).startswith(b"250")
            assert site.process.wait(30) == 0
            site.start()
            assert [m["state"] for m in site.queue()] == ["queued"]
            site.dial()
            assert arrived(lab) == Counter({OUT[0].ident: 1})
