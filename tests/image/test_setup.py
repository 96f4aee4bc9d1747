"""The first start on a machine, with a telephone line, PPP, and a provider's Postfix and Dovecot: from no configuration to the
first mail moved. The answers come by a pipe; how a person types them is shown by tests/interop/test_setup.py.
"""

from __future__ import annotations

import pytest

from .provider import LOGINS, POP3_HOST, PPP_LOGIN, PPP_SECRET, SMTP_HOST, WORLD, Provider
from .site import PASSWORD, PLAIN_USER, POP3, SMTP, Site
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

ANSWERS = (
    PASSWORD, PASSWORD, "harbour", "harbour.example", "UTC", "-", f"127.0.0.1:{SMTP}", f"127.0.0.1:{POP3}",
    "1", "", PROVIDER, "ppp", PPP_LOGIN, PPP_SECRET, "-",
    SMTP_HOST, "25", "none", "-",
    PLAIN_USER, PASSWORD, PASSWORD, f"{PLAIN_USER}@harbour.example {PLAIN_USER}@isp.example",
    "pop3", POP3_HOST, "110", "none", PLAIN_USER, LOGINS[PLAIN_USER], "all",
    "yes", "yes", "somebody@world.example",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.seconds(1200)
def test_from_nothing_to_the_first_mail(site: Site, provider: Provider, telephone: Telephone) -> None:
    provider.deliver(PLAIN_USER, message("come-in", to=f"{PLAIN_USER}@isp.example"))
    typed = "".join(f"{answer}\n" for answer in ANSWERS).encode()
    ended = site.guest.run("posthouse", "setup", input=typed, seconds=900, check=False)
    said = ended.out
    assert "1  /dev/ttyS1: Laboratory modem" in said
    steps = (
        f"dialling {PROVIDER}",
        "CONNECT",
        "the network is up on ",
        "logged in",
        "on-hook",
        "It works",
        "1 sent, 1 fetched",
    )
    places = [said.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), said
    assert ended.code == 0
    assert telephone.dials == [PROVIDER]
    assert subjects(provider.waiting(WORLD)) == ["Test from Posthouse"]
    site.guest.sh(f"grep -rq 'Subject: come-in' /var/lib/posthouse/mail/{PLAIN_USER}/new")
    assert site.guest.sh("stat -c %a /etc/posthouse/posthouse.toml /etc/posthouse/secrets.toml").split() == [
        "640",
        "600",
    ]
