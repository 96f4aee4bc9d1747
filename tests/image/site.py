"""The site in a virtual machine: `posthouse run` from this checkout, as root, dialling by PPP over ttyS1.

`prepare` makes what every scenario begins with; `Site` writes a configuration, runs Posthouse and works it by its own
command line, as its users do. Programs of the LAN run in the machine too.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from appliance.lab.house import toml

from . import provider, telephone
from .guest import Guest

PASSWORD = "Blau-Kessel-42"
START_S = 240.0
"""Posthouse is ready: 3 s on an idle machine."""
CALL_S = 240.0
"""A call from `dial` to its end."""
SMTP, POP3 = 2525, 2110
FILE = "/etc/posthouse/posthouse.toml"
JOURNAL = "/var/log/posthouse.log"
HELPER_SOCKET = "/run/posthouse-ppp.socket"
HELPER = ("/usr/bin/python3", "-I", "/opt/posthouse/appliance/modem/ppp_helper.py")
PLAIN_USER = "hanako"

Table = dict[str, Any]

_SEND = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1", {port}, timeout=60) as s:
    s.login("{user}", "{password}")
    s.sendmail("{sender}", {to!r}, sys.stdin.buffer.read())
"""
_READ = """
import json, poplib
p = poplib.POP3("127.0.0.1", {port}, timeout=60)
p.user("{user}")
p.pass_("{password}")
print(json.dumps([b"\\r\\n".join(p.retr(n + 1)[1]).decode("latin-1") for n in range(p.stat()[0])]))
p.quit()
"""
_WATCH = """
while :; do
    for d in /sys/class/net/posthouse*/statistics; do
        counted=$(cat $d/rx_bytes $d/tx_bytes) 2>/dev/null || continue
        echo $counted >/run/counted.new && mv /run/counted.new /run/counted
    done
    ip route show table all default >>/run/routes
    sleep 0.1
done
"""


def config() -> Table:
    """One user, one modem, PPP; every schedule off, so that calls are made by hand alone."""
    return {
        "site": {"name": "harbour", "domain": "harbour.example"},
        "line": [{
            "name": "pstn", "port": "/dev/ttyS1", "numbers": [telephone.PROVIDER], "bearer": "ppp",
            "ppp_login": provider.PPP_LOGIN, "ppp_secret": "ppp", "attempts": 1,
        }],
        "schedule": {"urgent": False, "min_gap": "0s", "linger": "1s", "retry": ["1h"]},
        "mail": {
            "smtp": [f"127.0.0.1:{SMTP}"], "pop3": [f"127.0.0.1:{POP3}"], "bulk_size": "50MiB", "fetch_limit": "50MiB",
            "smarthost": [{"host": provider.SMTP_HOST, "port": 25, "tls": "none"}],
        },
        "user": [{
            "name": PLAIN_USER, "addresses": [f"{PLAIN_USER}@harbour.example", f"{PLAIN_USER}@isp.example"],
            "account": [{
                "protocol": "pop3", "host": provider.POP3_HOST, "port": 110, "tls": "none", "login": PLAIN_USER,
                "secret": "mailbox", "backlog": "all",
            }],
        }],
    }  # fmt: skip


def prepare(guest: Guest) -> None:
    """What a site's machine has before Posthouse starts: the kernel's PPP, a password's string, code that was read."""
    guest.sh(
        "hostname harbour; modprobe -a ppp_async ppp_deflate bsd_comp; groupadd -f posthouse; mkdir -p /etc/posthouse"
    )
    guest.sh(f"echo {PASSWORD} | posthouse passwd >/etc/posthouse/password")
    guest.sh("python3 -c 'import appliance.app, pyroute2'")


ORDINARY = "posthouse"
"""The user that runs Posthouse on the image."""
_AS_ORDINARY = (
    "setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--init-groups", "--no-new-privs",
    *(f"--{kind}=+net_admin,+net_bind_service,+net_raw" for kind in ("inh-caps", "ambient-caps")),
)  # fmt: skip
"""With the privileges of systemd/posthouse.service, and no others."""


def wait_ready(guest: Guest) -> None:
    """Until a `posthouse run` whose journal was begun now is ready. Nothing else runs meanwhile: `status`, asked again and
    again, would cost an emulated machine more than Posthouse's own start."""
    guest.wait(f"grep -q ' is ready after ' {JOURNAL}", "`posthouse run` is ready", seconds=START_S)


class Site:
    """`config` and `secrets` may be changed before `start`. It runs as root, or as the image has it, once
    `become_ordinary` was called."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._launch: tuple[str, ...] = ()
        self.config = copy.deepcopy(config())
        self.config["user"][0]["password"] = guest.get("/etc/posthouse/password").decode().strip()
        self.secrets = {"ppp": provider.PPP_SECRET, "mailbox": provider.LOGINS[PLAIN_USER]}

    @property
    def line(self) -> Table:
        return self.config["line"][0]  # type: ignore[no-any-return]

    # ---- the process
    def write(self) -> None:
        self.guest.put(FILE, toml(self.config))
        self.guest.put("/etc/posthouse/secrets.toml", toml(self.secrets), mode=0o600)

    def become_ordinary(self) -> None:
        """From now on Posthouse runs as its own user, and pppd's helper is started for each connection to its socket. As
        systemd does it by our units, but that systemd is not the machine's first process."""
        port = self.line["port"]
        self.guest.sh(
            f"useradd -r -g posthouse -G dialout {ORDINARY}; chown root:dialout {port}; chmod 660 {port};"
            f"mkdir -p /var/lib/posthouse /run/posthouse /etc/posthouse; chown {ORDINARY}: /var/lib/posthouse /run/posthouse"
        )
        self.guest.daemon(
            "systemd-socket-activate", "--listen", HELPER_SOCKET, "--seqpacket", "--accept", "--inetd", *HELPER,
            log="/var/log/helper.log",
        )  # fmt: skip
        self.guest.wait(f"test -S {HELPER_SOCKET}", "the helper's socket is there")
        self.guest.sh(f"chown {ORDINARY}: {HELPER_SOCKET}; chmod 600 {HELPER_SOCKET}")
        self._launch = _AS_ORDINARY

    def start(self) -> None:
        """Until it is ready."""
        self.write()
        self.guest.sh(f": >{JOURNAL}")
        if self._launch:
            self.guest.sh(f"chown -R {ORDINARY}: /etc/posthouse")
        self.guest.daemon(*self._launch, "posthouse", "run", log=JOURNAL)
        wait_ready(self.guest)

    def stop(self) -> None:
        """By SIGTERM, as systemd would; AssertionError when it does not end."""
        self.guest.sh(
            'process=\'^python3 -m appliance run\'; pkill -TERM -f "$process"; while pgrep -f "$process"; do sleep 0.1; done'
        )

    def journal(self) -> str:
        return self.guest.tail(JOURNAL, 120)

    # ---- the command line
    def ask(self, *verb: str) -> Any:
        """A verb's JSON."""
        return json.loads(self.guest.run("posthouse", *verb, "--json").out)

    def dial(self) -> Table:
        """A call by hand, until its end; -> its entry in the ledger, whatever its outcome."""
        ended = self.guest.run("posthouse", "dial", "--json", seconds=CALL_S, check=False)
        assert ended.out.startswith("{"), str(ended)
        return json.loads(ended.out)  # type: ignore[no-any-return]

    def dial_nowait(self) -> None:
        self.guest.run("posthouse", "dial", "--no-wait")

    def wait_line(self, *states: str, seconds: float = CALL_S) -> None:
        """Until the line's state is one of these."""
        wanted = "|".join(states)
        self.guest.sh(
            "posthouse status --watch --json >/run/states & watching=$!;"
            f"until tail -n 1 /run/states | grep -Eq '\"state\": *\"({wanted})\"'; do kill -0 $watching; sleep 0.1; done;"
            "kill $watching", seconds=seconds,
        )  # fmt: skip

    def wait_call_over(self, *, seconds: float = CALL_S) -> Table:
        """Until the line is on-hook; -> the last call."""
        self.wait_line("idle", "failed", seconds=seconds)
        return self.ask("calls")[-1]  # type: ignore[no-any-return]

    def wait_calls(self, count: int, *, seconds: float = CALL_S) -> None:
        """Until so many calls have begun."""
        self.guest.wait(
            f"test $(grep -Ec ' call [0-9]+ on ' {JOURNAL}) -ge {count}", f"{count} calls have begun", seconds=seconds
        )

    # ---- its users
    def send(self, to: str, data: bytes, *, user: str = PLAIN_USER) -> None:
        script = _SEND.format(port=SMTP, user=user, password=PASSWORD, sender=f"{user}@harbour.example", to=[to])
        self.guest.run("python3", "-c", script, input=data)

    def read(self, *, user: str = PLAIN_USER) -> list[bytes]:
        """A user's maildrop, by POP3."""
        script = _READ.format(port=POP3, user=user, password=PASSWORD)
        return [text.encode("latin-1") for text in json.loads(self.guest.run("python3", "-c", script).out)]

    # ---- what the kernel has
    def watch_line(self) -> None:
        """From now on notes the PPP interface's counters and every default route, ten times a second."""
        self.guest.put("/usr/local/sbin/watch-line", "#!/bin/sh\n" + _WATCH, mode=0o755)
        self.guest.daemon("watch-line", log="/dev/null")

    def counted(self) -> tuple[int, int]:
        """(in, out) of the last PPP interface as `watch_line` last saw it."""
        came, went = self.guest.get("/run/counted").split()
        return int(came), int(went)

    def interfaces(self) -> list[str]:
        return self.guest.sh("ls /sys/class/net").split()
