"""Nothing but typed values reaches the real pppd, whatever the host's own PPP configuration, the configured login and
the far end have to say (tests/services/test_ppp_helper.py has the tables); and Posthouse as an ordinary user."""

from __future__ import annotations

import pytest

from appliance.modem.ppp_helper import quote

from .provider import PPP_LOGIN, Provider
from .site import HELPER_SOCKET, ORDINARY, Site
from .telephone import Telephone
from .test_ppp import message

LOGIN = 'har"bour\\ #x \\157 $(touch /run/smuggled) é'
LOGIN_PRINTED = 'har\\"bour\\\\ #x \\\\157 $(touch /run/smuggled) \\303\\251'
"""As the provider's pppd shows what came over the line."""
SECRET = 'it\'s "quoted", plugin /run/evil.so `id` \\'
EVIL = "#!/bin/sh\ntouch /run/smuggled\n"
NAME = "isp$(touch /run/smuggled);plugin x"

ASK = """
import json, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("{path}")
print(s.recv(4096).decode())
"""


def test_neither_values_nor_files_nor_the_far_end_smuggle_anything_in(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    """One call with a login and a secret full of quotes, on a host whose /etc/ppp would spoil it, to a provider whose name
    is a command: each of the host's files and scripts would leave a trace."""
    for path in ("options", "options.ttyS1"):
        site.guest.put(
            f"/etc/ppp/{path}", "plugin /run/evil.so\nconnect 'touch /run/smuggled'\ndefaultroute\npersist\n"
        )
    for script in ("ip-up", "ip-pre-up", "ip-down", "auth-up", "auth-down"):
        site.guest.put(f"/etc/ppp/{script}", EVIL, mode=0o755)
        site.guest.put(f"/etc/ppp/{script}.d/0evil", EVIL, mode=0o755)
    site.guest.put("/root/.ppprc", "init 'touch /run/smuggled'\nmtu 296\n")
    site.guest.put("/etc/ppp/resolv.conf", "nameserver 192.0.2.1\n")
    site.line["ppp_login"], site.secrets["ppp"] = LOGIN, SECRET
    # For every name, since the provider's pppd looks up what it prints of a name, not its bytes.
    secrets = f"* * {quote(SECRET.encode())} *\n"
    provider.guest.put("/etc/ppp/chap-secrets", secrets, mode=0o600)
    provider.restart(f"sed -i 's|^name isp$|name \"{NAME}\"|' /etc/ppp/peers/access")
    site.start()
    site.send("somebody@world.example", message("passes"))
    call = site.dial()
    assert (call["outcome"], call["sent"]) == ("complete", 1), call
    assert f'name = "{LOGIN_PRINTED}"]' in provider.guest.tail("/var/log/pppd.log", 100)
    assert site.guest.sh("ls /run/smuggled 2>/dev/null || true") == ""
    assert site.guest.get("/etc/ppp/resolv.conf") == b"nameserver 192.0.2.1\n"


@pytest.mark.long
def test_a_provider_that_insists_on_eap_is_left(site: Site, provider: Provider, telephone: Telephone) -> None:
    """CVE-2020-8597 and later ones were in pppd's EAP: it is never spoken."""
    provider.restart("sed -i -e 's/^refuse-eap$/require-eap/' -e '/^require-chap$/d' /etc/ppp/peers/access")
    site.start()
    site.send("somebody@world.example", message("waits"))
    call = site.dial()
    assert call["sent"] == 0 and call["outcome"] != "complete", call
    assert "peer refused to authenticate" in site.journal()
    log = provider.guest.tail("/var/log/pppd.log")
    assert "auth eap" in log, "the provider has asked for it"
    assert "rcvd [EAP" not in log, "and the site has not answered"
    assert not telephone.network.site.modem.off_hook


def test_posthouse_calls_as_an_ordinary_user(site: Site, provider: Provider, telephone: Telephone) -> None:
    """As on the image: only pppd and its helper are root's; who else comes to the helper's socket is sent away."""
    site.become_ordinary()
    provider.deliver("hanako", message("come-in", to="hanako@isp.example"))
    site.start()
    site.send("somebody@world.example", message("go-out"))
    assert site.guest.sh("ps -o user= -p $(pgrep -d, -f '^python3 -m appliance run')").split() == [ORDINARY]
    call = site.dial()
    assert (call["outcome"], call["sent"], call["fetched"]) == ("complete", 1, 1), call
    site.guest.wait(
        "! pgrep pppd && ! pgrep -f '^/usr/bin/python3 .*ppp_helper'", "neither pppd nor its helper is left"
    )

    def come(user: str) -> str:
        ask = ("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c")
        ended = site.guest.run(*ask, ASK.format(path=HELPER_SOCKET), check=False)
        return ended.out + ended.err

    assert "PermissionError" in come("nobody")
    site.guest.sh(f"chmod 666 {HELPER_SOCKET}")
    assert "may not run pppd" in come("nobody")
    assert '"ready"' in come(ORDINARY)
    assert PPP_LOGIN not in site.guest.sh("cat /var/log/helper.log")
