"""The whole of it, as a site has it: the image on a board of 256 MB, a PC on its LAN, a modem, and an Internet provider in
a second machine. The PC is a network namespace of this host, its cable a tap device: real DHCP, names, SMTP, POP3 and
IMAP clients, and nothing of the product.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.passwords import hash_password
from fakes.netns import Namespace, namespace

from .board import Board
from .boards import READY_S, is_well
from .provider import (
    ADDRESS,
    LOGINS,
    POP3_HOST,
    PPP_LOGIN,
    PPP_SECRET,
    SERVER,
    SITE_ADDRESS,
    SMTP_HOST,
    WORLD,
    Provider,
)
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

pytestmark = [pytest.mark.long, pytest.mark.seconds(1800)]

PASSWORD = "Blau-Kessel-42"
CLIENT_S = 180.0
"""A mail program's whole visit: TLS and scrypt on an emulated board take seconds each."""
CALL_S = 300.0

CONFIG = """
[site]
name = "harbour"
domain = "harbour.example"
[[interface]]
name = "lan"
device = "eth0"
addresses = ["192.168.77.1/24"]
dhcp_pool = "192.168.77.100-192.168.77.199"
[[line]]
name = "pstn"
port = "/dev/ttyS1"
numbers = ["{number}"]
ppp_login = "{ppp_login}"
ppp_secret = "isp"
[schedule]
queued_messages = 1
linger = "1s"
[mail]
smtp = ["192.168.77.1:25", "192.168.77.1:587"]
pop3 = ["192.168.77.1:110"]
imap = true
[[mail.smarthost]]
host = "{smtp_host}"
port = 25
tls = "none"
[[user]]
name = "hanako"
password = "{password}"
addresses = ["hanako@harbour.example", "hanako@isp.example"]
[[user.account]]
protocol = "pop3"
host = "{pop3_host}"
port = 110
tls = "none"
login = "hanako"
secret = "mailbox"
backlog = "all"
"""

SHOW_LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
echo "ip=$ip router=$router dns=$dns domain=$domain"
"""
# What the PC's mail programs do; each prints JSON. The certificate is the board's own: nobody has told the PC of it.
_TLS = """
import imaplib, json, poplib, smtplib, ssl, sys
import dns.message, dns.query
server, user, password = sys.argv[1:4]
def address(name):
    answer = dns.query.udp(dns.message.make_query(name, "A"), server, timeout=30)
    return answer.answer[0][0].to_text()
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
"""
SUBMIT = (
    _TLS
    + """
with smtplib.SMTP(address("smtp.harbour.example"), 587, timeout=120) as s:
    s.starttls(context=tls)
    s.login(user, password)
    s.sendmail("hanako@harbour.example", [sys.argv[4]], sys.stdin.buffer.read())
print(json.dumps("sent"))
"""
)
READ_POP3 = (
    _TLS
    + """
p = poplib.POP3(address("pop3.harbour.example"), 110, timeout=120)
p.stls(tls)
p.user(user)
p.pass_(password)
found = [b"\\n".join(p.retr(n + 1)[1]).decode("latin-1") for n in range(p.stat()[0])]
for n in range(len(found) if sys.argv[4] == "delete" else 0):
    p.dele(n + 1)
p.quit()
print(json.dumps(found))
"""
)
READ_IMAP = (
    _TLS
    + """
host = address("imap.harbour.example")
if sys.argv[4] == "implicit":
    i = imaplib.IMAP4_SSL(host, 993, ssl_context=tls, timeout=120)
else:
    i = imaplib.IMAP4(host, 143, timeout=120)
    i.starttls(tls)
i.login(user, password)
count = int(i.select()[1][0])
found = [p[1].decode("latin-1") for p in i.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(p, tuple)] if count else []
if count and len(sys.argv) > 5:
    i.store("1", "+FLAGS", "\\\\Deleted")
    i.expunge()
i.logout()
print(json.dumps(found))
"""
)


class Pc:
    """On the LAN, once it has its lease."""

    def __init__(self, space: Namespace, folder: Path) -> None:
        self.space = space
        script = folder / "show-lease"
        script.write_text(SHOW_LEASE)
        script.chmod(0o755)
        said = self._run(
            "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", str(script), "-t", "60", "-T", "2", seconds=CLIENT_S
        )
        self.lease = dict(pair.partition("=")[::2] for pair in said.split())

    def program(self, text: str, *arguments: str, input: bytes = b"") -> list[str]:
        """-> what a mail program printed."""
        argv = (sys.executable, "-c", text, self.lease["dns"], "hanako", PASSWORD, *arguments)
        return json.loads(self._run(*argv, input=input, seconds=CLIENT_S))  # type: ignore[no-any-return]

    def _run(self, *argv: str, seconds: float, input: bytes = b"") -> str:
        done = subprocess.run(self.space.argv(*argv), input=input, capture_output=True, timeout=seconds)
        assert done.returncode == 0, f"{argv[0]}: {done.returncode} {done.stderr.decode(errors='replace')[-2000:]}"
        return done.stdout.decode()


@pytest.fixture
def lan() -> Iterator[Namespace]:
    """The PC's, its cable not yet in a board."""
    with namespace("pc") as space:
        space.ip("tuntap", "add", "dev", "eth0", "mode", "tap")
        space.ip("link", "set", "eth0", "up")
        yield space


def test_mail_both_ways_in_one_call_for_a_pc_on_the_lan(
    start: Callable[..., Board], provider: Provider, telephone: Telephone, lan: Namespace, tmp_path: Path
) -> None:  # fmt: skip
    stick = tmp_path / "stick"
    (stick / "posthouse").mkdir(parents=True)
    (stick / "posthouse/posthouse.toml").write_text(
        CONFIG.format(
            number=PROVIDER, ppp_login=PPP_LOGIN, smtp_host=SMTP_HOST, pop3_host=POP3_HOST,
            password=hash_password(PASSWORD),
        )
    )  # fmt: skip
    (stick / "posthouse/secrets.toml").write_text(f'isp = "{PPP_SECRET}"\nmailbox = "{LOGINS["hanako"]}"\n')
    provider.deliver("hanako", message("come-in-1", to="hanako@isp.example"))
    provider.deliver("hanako", message("come-in-2", to="hanako@isp.example"))
    provider.guest.daemon("tcpdump", "-l", "-n", "-i", "any", f"src host {SITE_ADDRESS}", log="/var/log/from-site.log")
    board = start(stick=stick, modem=telephone.folder / "site.modem", lan=lan)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    board.until("systemctl is-active --quiet posthouse-dovecot", "IMAP is ready", seconds=120)
    # The firewall is in force, and the time's keeper answers Posthouse's user.
    assert "policy drop" in board.sh("nft list table inet posthouse")
    asked = "setpriv --reuid posthouse --regid posthouse --init-groups chronyc -h /run/posthouse-chrony/chronyd.sock -n activity"
    assert "200 OK" in board.sh(asked)

    pc = Pc(lan, tmp_path)
    assert (pc.lease["dns"], pc.lease["domain"], pc.lease["router"]) == ("192.168.77.1", "harbour.example", "")
    assert pc.program(SUBMIT, "somebody@world.example", input=message("go-out-1")) == "sent"
    # Nobody says dial: `queued_messages` is the reason.
    over = 'posthouse calls --json | grep -q \'"ended": "\''
    board.until(over, "the call is over", seconds=CALL_S)
    (call,) = json.loads(board.sh("posthouse calls --json"))
    assert (call["outcome"], call["reason"], call["sent"], call["fetched"]) == ("complete", "queued-messages", 1, 2), (
        call
    )
    assert telephone.dials == [PROVIDER] == [r.number for r in telephone.records]
    assert subjects(provider.waiting(WORLD)) == ["go-out-1"]
    assert provider.waiting("hanako") == []
    assert json.loads(board.sh("posthouse queue --json")) == []

    # Nothing left through the line but what Posthouse and the time's keeper asked for.
    out = {line.split(" > ")[1].split(":")[0] for line in provider.guest.get("/var/log/from-site.log").decode().splitlines() if " IP " in line}  # fmt: skip
    wanted = {f"{SERVER}.25", f"{SERVER}.110", f"{ADDRESS}.53", f"{SERVER}.smtp", f"{SERVER}.pop3", f"{ADDRESS}.domain"}
    assert out - wanted <= {o for o in out if o.endswith(".123")}, out
    assert {o.rpartition(".")[0] for o in out} >= {SERVER, ADDRESS}

    # Both services of the LAN show the same mailbox, and each what the other did.
    both = ["come-in-1", "come-in-2"]
    assert subjects([m.encode("latin-1") for m in pc.program(READ_POP3, "keep")]) == both
    assert subjects([m.encode("latin-1") for m in pc.program(READ_IMAP, "starttls")]) == both
    assert subjects([m.encode("latin-1") for m in pc.program(READ_IMAP, "implicit", "delete the first")]) == both
    assert len(pc.program(READ_POP3, "delete")) == 1
    assert pc.program(READ_IMAP, "starttls") == []
    assert telephone.dials == [PROVIDER]
    is_well(board)
