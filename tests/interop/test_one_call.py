"""The whole product on real parts: mail programs submit, nothing is dialled; one call carries everything; users read.

The provider is Postfix and Dovecot, or aiosmtpd; both are behind the laboratory's exchange, out of reach but for a
call.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.lab.laboratory import NUMBER

from . import clients, corpus
from .conftest import LOGINS
from .corpus import Mail
from .product import Site, quick_lab, running
from .providers import HOST, AioSmtp, Captured, Certificates, Dovecot, Postfix, wait_until

USERS = ("hanako", "taro", "yuki", "ken", "mari")


def arrived_right(sent: list[Mail], captured: list[Captured]) -> None:
    """Each once for each of its recipients, byte for byte."""
    by_ident: dict[str, list[Captured]] = {}
    for got in captured:
        by_ident.setdefault(corpus.ident(got.data), []).append(got)
    assert set(by_ident) == {m.ident for m in sent}
    for mail in sent:
        for got in by_ident[mail.ident]:
            assert not (said := unlike(got.data, mail)), f"{mail.ident}: {said}"
            assert got.sender == mail.sender
        reached = Counter(r for got in by_ident[mail.ident] for r in got.recipients)
        assert reached == Counter(mail.recipients), mail.ident


def unlike(got: bytes, mail: Mail) -> str:
    """`corpus.difference`, with what a submission server adds to a header that lacks it taken out first."""
    if mail.kind in corpus.ADDED_TO:
        head, gap, body = got.partition(b"\r\n\r\n")
        assert re.search(rb"(?mi)^Message-ID: <[^>]+>\r?$", head), f"{mail.ident} got no Message-ID"
        assert re.search(rb"(?mi)^Date: .+\r?$", head), f"{mail.ident} got no Date"
        got = re.sub(rb"(?mi)^(Message-ID|Date): .*\r\n", b"", head + b"\r\n") + gap[2:] + body
    return corpus.difference(got, mail.data)


def read_right(site: Site, user: str, waiting: list[Mail], got: list[bytes]) -> None:
    """The maildrop holds these, each once and byte for byte, but for fields on top."""
    found = {corpus.ident(m): m for m in got}
    assert sorted(map(corpus.ident, got)) == sorted(m.ident for m in waiting), user
    assert {m.ident: d for m in waiting if (d := corpus.difference(found[m.ident], m.data))} == {}


def submissions() -> list[tuple[str, str, Mail]]:
    """(sender program, user, mail): every program with every kind that it can carry, users in turn."""
    out = []
    for name, sender in clients.SENDERS.items():
        for i, kind in enumerate(k for k in corpus.KINDS if k not in sender.spoils):
            user = USERS[i % len(USERS)]
            ident = f"{name}-{kind}"
            mail = corpus.make(kind, ident, f"{user}@harbour.example", [f"{ident}@far.example", "both@far.example"])
            out.append((name, user, mail))
    return out


def test_one_call_for_everybody(tmp_path: Path, postfix: Postfix, dovecot: Dovecot, certificates: Certificates) -> None:
    """Six mail programs x the corpus out, the corpus in for five users, over TLS, with one dial."""
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=USERS, smtp_target=(HOST, postfix.submission), pop3_target=(HOST, dovecot.pop3),
            logins=LOGINS, tls="starttls", certificates=certificates, smarthost={"login": "u0", "secret": "u0"},
        )  # fmt: skip
        waiting = {}
        for user in USERS:
            waiting[user] = [
                corpus.make(k, f"in-{user}-{k}", "far@far.example", [f"{user}@isp.example"]) for k in corpus.KINDS
            ]
            for mail in waiting[user]:
                dovecot.deliver(site.login_of[user], mail.data)
        with running(site):
            todo = submissions()

            def submit(one: tuple[str, str, Mail]) -> None:
                name, user, mail = one
                clients.SENDERS[name].submit(site.smtp, mail, site.login(user), tmp_path)

            with ThreadPoolExecutor(6) as pool:
                list(pool.map(submit, todo))
            status = site.status()
            assert status["queue"]["messages"] == len(todo)
            assert status["queue"]["in_doubt"] == 0
            assert lab.lab.modem.dials == []
            assert postfix.captured() == []

            call = site.dial()
            assert lab.lab.modem.dials == [NUMBER]
            lab.wait_on_hook()
            arrived_right([mail for _, _, mail in todo], postfix.captured())
            fetched = sum(map(len, waiting.values()))
            assert (call["outcome"], call["reason"], call["number"]) == ("complete", "by-hand", NUMBER)
            assert (call["sent"], call["fetched"], call["failed"]) == (len(todo), fetched, 0)
            carried = lab.lab.line.calls[0].delivered
            assert call["bytes_out"] == carried["out"]
            # What a server says behind our QUIT is carried, but nobody waits for it.
            assert 0 <= carried["in"] - call["bytes_in"] <= 40 * (1 + len(USERS))
            assert site.queue() == []
            assert site.calls() == [call]
            assert lab.lab.line.calls[0].connections == {"site-smtp": 1, "site-pop3": len(USERS)}
            assert [dovecot.waiting(site.login_of[u]) for u in USERS] == [[]] * len(USERS)
            for user in USERS:
                read_right(site, user, waiting[user], site.read(user))
            read_right(site, "taro", waiting["taro"], clients.read_by_curl(site.pop3, site.login("taro")))
            by_fetchmail = clients.read_by_fetchmail(site.pop3, site.login("ken"), tmp_path, keep=False)
            assert sorted(map(corpus.ident, by_fetchmail)) == sorted(m.ident for m in waiting["ken"])
            assert site.read("ken") == []
            assert site.stop() == 0


def test_a_second_provider_and_ten_megabytes(tmp_path: Path, second_provider: AioSmtp) -> None:
    """aiosmtpd has neither PIPELINING nor CHUNKING; a 10 MB attachment goes through it whole."""
    with quick_lab() as lab:
        site = Site(tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port))
        with running(site):
            sent = [
                corpus.make(k, f"second-{k}", "hanako@isp.example", [f"{k}@far.example"])
                for k in [*corpus.KINDS, "big"]
            ]
            for mail in sent:
                clients.SENDERS["bdat"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            call = site.dial()
            assert (call["outcome"], call["sent"], call["failed"]) == ("complete", len(sent), 0)
            arrived_right(sent, second_provider.captured())
            assert site.queue() == []


def test_mail_between_users_needs_no_call(tmp_path: Path, second_provider: AioSmtp) -> None:
    with quick_lab() as lab:
        site = Site(tmp_path, lab, users=("hanako", "taro"), smtp_target=(HOST, second_provider.port))
        with running(site):
            mails = [corpus.make(k, f"local-{k}", "hanako@harbour.example", ["taro+lists@harbour.example"])
                     for k in ("plain", "dots", "nul", "long-line", "eight-bit")]  # fmt: skip
            for mail in mails:
                clients.SENDERS["pipeline"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            read_right(site, "taro", mails, site.read("taro"))
            assert site.queue() == []
            assert lab.lab.modem.dials == []


def test_what_the_provider_refuses_for_good_comes_back_as_a_bounce(tmp_path: Path, second_provider: AioSmtp) -> None:
    second_provider.refuse = lambda verb, argument: (
        "550 5.1.1 nobody of that name" if argument.startswith("nobody") else None
    )
    with quick_lab() as lab:
        site = Site(tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port))
        with running(site):
            mail = corpus.make("plain", "half", "hanako@harbour.example", ["nobody@far.example", "some@far.example"])
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            call = site.dial()
            assert call["failed"] == 1
            (got,) = second_provider.captured()
            assert got.recipients == ("some@far.example",)
            (bounce,) = site.read("hanako")
            assert b"Final-Recipient: rfc822; nobody@far.example" in bounce
            assert b"nobody of that name" in bounce
            assert b"some@far.example" not in bounce.partition(b"message/delivery-status")[2].partition(b"--")[0]
            assert site.queue() == []


def test_what_the_provider_defers_stays_for_the_next_call(tmp_path: Path, second_provider: AioSmtp) -> None:
    second_provider.refuse = lambda verb, argument: "451 4.7.1 greylisted" if verb == "RCPT" else None
    with quick_lab() as lab:
        site = Site(tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port))
        with running(site):
            mail = corpus.make("plain", "later", "hanako@harbour.example", ["a@far.example"])
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            assert site.dial()["sent"] == 0
            (waiting,) = site.queue()
            assert (waiting["state"], waiting["attempts"]) == ("queued", 1)
            assert "greylisted" in waiting["recipients"][0]["reply"]
            second_provider.refuse = lambda verb, argument: None
            assert site.dial()["sent"] == 1
            arrived_right([mail], second_provider.captured())
            assert site.read("hanako") == []


def test_a_condition_makes_the_call(tmp_path: Path, second_provider: AioSmtp) -> None:
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port), schedule={"queued_messages": 3}
        )
        with running(site):
            sent = [corpus.make("plain", f"cond-{i}", "hanako@harbour.example", ["a@far.example"]) for i in range(3)]
            for mail in sent[:2]:
                clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            wait_until(lambda: site.status()["line"]["state"] == "idle", "two messages leave the line idle")
            assert lab.lab.modem.dials == []
            clients.SENDERS["smtplib"].submit(site.smtp, sent[2], site.login("hanako"), tmp_path)
            (call,) = site.wait_calls(1)
            assert (call["reason"], call["outcome"], call["sent"]) == ("queued-messages", "complete", 3)
            arrived_right(sent, second_provider.captured())


@pytest.mark.parametrize(("header", "urgent"), [
    (b"Priority: urgent", True), (b"X-Priority: 1", True), (b"Importance: high", True),
    (b"Priority: normal", False), (b"X-Priority: 3", False),
])  # fmt: skip
def test_urgent_mail_calls_at_once(tmp_path: Path, second_provider: AioSmtp, header: bytes, urgent: bool) -> None:
    with quick_lab() as lab:
        site = Site(tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port))
        with running(site):
            mail = corpus.make("plain", "quick", "hanako@harbour.example", ["a@far.example"], extra=header + b"\r\n")
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            if urgent:
                (call,) = site.wait_calls(1)
                assert (call["reason"], call["sent"]) == ("urgent", 1)
            else:
                assert (site.status()["line"]["next_call"], lab.lab.modem.dials) == (None, [])
