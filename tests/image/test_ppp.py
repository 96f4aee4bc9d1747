"""A site calls its provider by PPP, both virtual machines, their modems' line at 33,600 bit/s: Debian's pppd at both ends,
Postfix, Dovecot and a name server at the provider, and `posthouse` worked by its command line.
"""

from __future__ import annotations

import pytest

from .provider import ADDRESS, POP3_HOST, SITE_ADDRESS, SMTP_HOST, WORLD, Provider
from .site import Site
from .telephone import PROVIDER, Telephone

FRAME_SHARE = 1.25
"""Of the bytes on the wire to the interface's: PPP's framing and escaped bytes, and LCP, CHAP and IPCP before it is up."""
NEGOTIATION_BYTES = 1500


def message(subject: str, *, size: int = 2000, to: str = "somebody@world.example") -> bytes:
    line = b"The harbour is calm, the ferry leaves at ten as always.\r\n"
    head = f"From: hanako@harbour.example\r\nTo: {to}\r\nSubject: {subject}\r\nMessage-ID: <{subject}@harbour.example>\r\nDate: Tue, 1 Sep 2026 10:00:00 +0000\r\n\r\n"
    return head.encode() + line * (size // len(line) + 1)


def subjects(messages: list[bytes]) -> list[str]:
    return sorted(line[9:].decode() for m in messages for line in m.splitlines() if line.startswith(b"Subject: "))


def test_one_call_carries_mail_both_ways_and_leaves_nothing_behind(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    before = site.interfaces()
    provider.deliver("hanako", message("come-in-1", to="hanako@isp.example"))
    provider.deliver("hanako", message("come-in-2", to="hanako@isp.example", size=20_000))
    site.start()
    site.watch_line()
    site.send("somebody@world.example", message("go-out-1"))
    site.send("taro@isp.example", message("go-out-2", size=20_000))
    call = site.dial()

    assert (call["outcome"], call["sent"], call["fetched"], call["failed"], call["dials"]) == (
        "complete",
        2,
        2,
        0,
        1,
    ), call
    assert subjects(provider.waiting(WORLD)) == ["go-out-1"]
    assert subjects(provider.waiting("taro")) == ["go-out-2"]
    assert provider.waiting("hanako") == []
    assert subjects(site.read()) == ["come-in-1", "come-in-2"]
    assert site.ask("queue") == []
    # One dial, at the modem and at the exchange; the provider's number.
    assert telephone.dials == [PROVIDER] == [r.number for r in telephone.records]
    # The ledger's bytes are the interface's, and the wire carried those and PPP's own.
    came, went = site.counted()
    assert came <= call["bytes_in"] <= came + 400, (call, came)
    assert went <= call["bytes_out"] <= went + 400, (call, went)
    record = telephone.records[0]
    for wire, counted in ((record.bytes_in, call["bytes_in"]), (record.bytes_out, call["bytes_out"])):
        assert counted * 0.5 < wire < counted * FRAME_SHARE + NEGOTIATION_BYTES, (wire, counted)
    # Names were asked of the provider's server.
    asked = provider.guest.sh("cat /var/log/dnsmasq.log")
    for name in (SMTP_HOST, POP3_HOST):
        assert f"{name} from {SITE_ADDRESS}" in asked
    # Afterwards the host is as it was: no interface, no route, no name server.
    assert site.interfaces() == before
    assert site.guest.sh("ip route show table all default; ip -6 route show table all default") == ""
    assert ADDRESS not in site.guest.sh("cat /etc/resolv.conf /etc/ppp/resolv.conf 2>/dev/null || true")
    assert site.guest.sh("pgrep pppd || true") == ""
    assert not telephone.network.site.modem.off_hook


def test_a_busy_provider_is_busy_and_the_next_call_goes_through(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    site.start()
    site.send("somebody@world.example", message("later"))
    telephone.engage()
    call = site.dial()
    assert (call["outcome"], call["connected"], call["sent"]) == ("busy", None, 0)
    telephone.drop()
    provider.wait_free()
    call = site.dial()
    assert (call["outcome"], call["sent"]) == ("complete", 1)
    assert subjects(provider.waiting(WORLD)) == ["later"]


@pytest.mark.parametrize("how", ["the carrier is lost", "the far end dies with its carrier up"])
def test_a_line_that_is_lost_in_the_middle_of_mail_loses_none(
    how: str, site: Site, provider: Provider, telephone: Telephone
) -> None:
    """Neither is told by the port, which has no DCD: the first by NO CARRIER among PPP's frames, if anything, and both
    by LCP echo."""
    provider.deliver("hanako", message("come-in", size=20_000, to="hanako@isp.example"))
    site.start()
    for n in range(3):
        site.send("somebody@world.example", message(f"go-out-{n}", size=8_000))
    site.dial_nowait()
    telephone.wait_carried(4000)
    if how == "the carrier is lost":
        telephone.drop()
    else:
        telephone.deaden()
    call = site.wait_call_over()
    assert call["outcome"] == "carrier-lost", call
    assert not telephone.network.site.modem.off_hook
    telephone.drop()
    provider.wait_free()

    call = site.dial()
    assert call["outcome"] == "complete", call
    assert site.ask("queue") == []
    arrived = subjects(provider.waiting(WORLD))
    assert sorted(set(arrived)) == [f"go-out-{n}" for n in range(3)]
    # Twice only what was in doubt, which is one window at most.
    assert len(arrived) <= 4, arrived
    assert subjects(site.read()) == ["come-in"]
    assert provider.waiting("hanako") == []


def test_a_wrong_ppp_password_stops_automatic_calls(site: Site, provider: Provider, telephone: Telephone) -> None:
    provider.set_password("another one")
    site.config["schedule"]["queued_messages"] = 1
    site.config["schedule"]["retry"] = ["1s"]
    site.start()
    site.send("somebody@world.example", message("waits"))
    site.wait_calls(1)
    call = site.wait_call_over()
    assert (call["outcome"], call["reason"]) == ("login-refused", "queued-messages"), call
    # Long past the retry: no second call, and status says why.
    site.guest.sh("sleep 5")
    assert len(site.ask("calls")) == 1
    assert site.ask("status")["line"]["next_call"] is None
    assert len(telephone.dials) == 1
    # By hand it is tried again, and with the right password mail goes.
    provider.set_password(site.secrets["ppp"])
    provider.wait_free()
    assert site.dial()["sent"] == 1
