"""The product with Exim as its smarthost, where the other tests have Postfix: by CHUNKING and by DATA, under TLS, a refusal
in the middle of a flight; and what Exim delivers to a login is fetched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import clients, corpus
from .conftest import LOGINS
from .exim import Exim
from .product import Site, quick_lab, running
from .providers import DOMAIN, HOST, Certificates, Dovecot, private_folder

KINDS = ("plain", "eight-bit", "dots", "empty-body", "blank-lines", "many-fields", "folded", "many-recipients")
FAR = "far@far.example"


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


def test_a_refusal_in_the_middle_of_a_flight(exim: Exim, site: Site, folder: Path) -> None:
    """Exim 4.96 keeps a transaction open of which it refused every recipient, BDAT and all, and refuses the next MAIL if
    that is out already: from then on bodies go by DATA, in the same call. What it took meanwhile is in doubt."""
    sent = [submit(site, folder, f"before-{n}") for n in range(3)]
    sent.append(submit(site, folder, "half", f"nobody@{DOMAIN}", FAR))
    submit(site, folder, "none", f"nobody@{DOMAIN}")
    sent += [submit(site, folder, f"behind-{n}") for n in range(3)]
    call = site.dial()
    assert call["outcome"] == "complete", call
    assert site.queue() == []
    arrived = Counter(corpus.ident(c.data) for c in exim.captured())
    assert set(arrived) == {m.ident for m in sent}
    doubtful = site.journal().count("sent but not acknowledged")
    assert sum(arrived.values()) - len(sent) <= doubtful
    bounces = site.read("hanako", delete=True)
    assert len(bounces) == 2
    assert all(b"there is nobody of that name here" in data for data in bounces)
