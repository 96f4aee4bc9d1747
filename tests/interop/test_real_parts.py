"""The instruments themselves: each client's bytes reach each provider as the corpus has them, so that a difference seen
through Posthouse is Posthouse's."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

import pytest

from . import clients, corpus
from .clients import Conversation, Login
from .conftest import LOGINS
from .providers import DOMAIN, HOST, AioSmtp, Certificates, Dovecot, Postfix

U0 = Login("u0", LOGINS["u0"])


def made(kind: str, recipients: tuple[str, ...] = ("far@far.example",)) -> corpus.Mail:
    return corpus.make(kind, f"part-{kind}", f"u0@{DOMAIN}", recipients)


@pytest.mark.parametrize("name", clients.SENDERS)
def test_every_sender_carries_the_corpus_to_postfix(name: str, postfix: Postfix, folder: Path) -> None:
    sender = clients.SENDERS[name]
    sent = [made(kind) for kind in corpus.KINDS if kind not in sender.spoils]
    for mail in sent:
        sender.submit(postfix.smtp, mail, None if sender.plain_login else U0, folder)
    got = {corpus.ident(c.data): c for c in postfix.captured()}
    assert {m.ident for m in sent} == set(got)
    assert {m.kind: d for m in sent if (d := corpus.difference(got[m.ident].data, m.data))} == {}
    assert all(sorted(got[m.ident].recipients) == sorted(m.recipients) for m in sent)


@pytest.mark.parametrize("name", [n for n, s in clients.SENDERS.items() if not s.chunks and n != "pipeline"])
def test_every_sender_carries_the_corpus_to_aiosmtpd(name: str, second_provider: AioSmtp, folder: Path) -> None:
    sender = clients.SENDERS[name]
    sent = [made(kind) for kind in corpus.KINDS if kind not in sender.spoils]
    for mail in sent:
        sender.submit(second_provider.port, mail, None, folder)
    got = {corpus.ident(c.data): c for c in second_provider.captured()}
    assert {m.kind: d for m in sent if (d := corpus.difference(got[m.ident].data, m.data))} == {}


def test_ten_megabytes(postfix: Postfix, folder: Path) -> None:
    mail = made("big")
    clients.SENDERS["smtplib"].submit(postfix.smtp, mail, None, folder)
    (got,) = postfix.captured()
    assert len(mail.data) > 10_000_000
    assert not corpus.difference(got.data, mail.data)


def test_submission_demands_tls_and_login(postfix: Postfix, certificates: Certificates) -> None:
    with Conversation(postfix.submission) as c:
        assert b"STARTTLS" in c.ehlo()
        assert c.command(b"MAIL FROM:<u0@isp.example>").startswith(b"530")
        c.starttls()
        c.ehlo()
        c.command(b"MAIL FROM:<u0@isp.example>")
        assert c.command(b"RCPT TO:<a@far.example>").startswith(b"554")
    with Conversation(postfix.submission) as c, pytest.raises(clients.Refused, match="535"):
        c.login(Login("u0", "wrong"))
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with smtplib.SMTP_SSL(HOST, postfix.smtps, context=context) as s:
        s.login(*LOGINS.copy().popitem())
        s.sendmail("u0@isp.example", ["a@far.example"], made("plain").data)
    assert len(postfix.captured()) == 1


def test_mail_for_a_login_lands_in_its_maildrop(postfix: Postfix, dovecot: Dovecot, folder: Path) -> None:
    mail = made("dots", (f"u1@{DOMAIN}",))
    clients.SENDERS["bdat"].submit(postfix.smtp, mail, None, folder)
    postfix.settle()
    (got,) = clients.read_by_poplib(dovecot.pop3, Login("u1", LOGINS["u1"]))
    assert not corpus.difference(got, mail.data)


def test_every_reader_reads_the_corpus_from_dovecot(dovecot: Dovecot, folder: Path) -> None:
    waiting = [made(kind) for kind in corpus.KINDS]
    for mail in waiting:
        dovecot.deliver("u0", mail.data)
    by_poplib = clients.read_by_poplib(dovecot.pop3, U0)
    by_curl = clients.read_by_curl(dovecot.pop3, U0)
    by_fetchmail = clients.read_by_fetchmail(dovecot.pop3, U0, folder)
    for got in (by_poplib, by_curl):
        found = {corpus.ident(m): m for m in got}
        assert {m.kind: d for m in waiting if (d := corpus.difference(found[m.ident], m.data))} == {}
    assert sorted(map(corpus.ident, by_fetchmail)) == sorted(m.ident for m in waiting)
    assert len(dovecot.waiting("u0")) == len(waiting)
    clients.read_by_poplib(dovecot.pop3, U0, delete=True)
    assert dovecot.waiting("u0") == []


@pytest.mark.parametrize(("got", "said"), [
    (b"A: 1\r\n\r\nbody\r\n", ""),
    (b"Received: x\r\n\tmore\r\nA: 1\r\n\r\nbody\r\n", ""),
    (b"not a field\r\nA: 1\r\n\r\nbody\r\n", "no header field"),
    (b"\tfolded first\r\nA: 1\r\n\r\nbody\r\n", "no header field"),
    (b"A: 2\r\n\r\nbody\r\n", "header fields were changed"),
    (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", "header fields were changed"),
    (b"A: 1\r\n\r\nbody\r\n\r\n", "bodies differ at byte 6"),
    (b"A: 1\r\n\r\nbo", "bodies differ at byte 2"),
    (b"A: 1\r\n\r\n.body\r\n", "bodies differ at byte 0"),
    (b"", "bodies differ at byte 0"),
])  # fmt: skip
def test_a_difference_is_seen(got: bytes, said: str) -> None:
    found = corpus.difference(got, b"A: 1\r\n\r\nbody\r\n")
    assert said in found
    assert bool(said) == bool(found)
