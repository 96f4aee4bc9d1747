"""A circuit between terminals of two machines over PPP: the site's relay server links with the hub's for as long as a call is
up, a request for a terminal behind the hub causes that call, and OpenSSH logs in through it."""

from __future__ import annotations

import hashlib
import random

import pytest

from appliance.config.passwords import hash_password
from appliance.lab.house import toml

from .guest import Guest
from .provider import SERVER, Provider
from .site import FILE, JOURNAL, PASSWORD, START_S, Site, wait_ready
from .telephone import Telephone

PORT = 7400
HUB = f"{SERVER}:{PORT}"
PEER_SECRET = "5a" * 32
UP_BYTES, DOWN_BYTES = 12_000, 20_000
SSH_S = 240.0
"""A request that waits, a call, a login by ssh and its bytes: 40 s on an idle machine."""


class Terminal:
    """A terminal in a machine: `posthouse terminal`, its state in a folder of its own."""

    def __init__(self, guest: Guest, name: str) -> None:
        self.guest, self.name = guest, name
        self.state = f"/root/{name}"
        self.log = f"/var/log/{name}.log"

    def login(self, relay: str, fingerprint: str, *offers: str) -> None:
        """Until it is logged in."""
        self.guest.put(f"{self.state}.password", PASSWORD, mode=0o600)
        self.guest.daemon(
            "posthouse", "terminal", "login", "--state", self.state, "--relay", relay, "--name", self.name,
            "--fingerprint", fingerprint, "--password-file", f"{self.state}.password",
            *(word for offer in offers for word in ("--offer", offer)), log=self.log,
        )  # fmt: skip
        self.guest.wait(f"grep -q 'is logged in' {self.log}", f"{self.name} is logged in", seconds=START_S)


def account(name: str) -> dict[str, object]:
    return {"name": name, "password": hash_password(PASSWORD), "may_call": ["*"], "callers": ["*"]}


def start_hub(guest: Guest) -> str:
    """A relay server behind the provider, which opens no link itself; -> its fingerprint."""
    config = {
        "site": {"name": "hub", "domain": "hub.example"},
        "relay": {
            "listen": [f"0.0.0.0:{PORT}"], "account": [account("pc21")],
            "peer": [{"name": "harbour", "secret": "peer", "connect": "never"}],
        },
    }  # fmt: skip
    guest.put(FILE, toml(config))
    guest.put("/etc/posthouse/secrets.toml", toml({"peer": PEER_SECRET}), mode=0o600)
    guest.sh("groupadd -f posthouse")
    guest.daemon("posthouse", "run", log=JOURNAL)
    wait_ready(guest)
    return fingerprint(guest)


def fingerprint(guest: Guest) -> str:
    script = "posthouse status --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"fingerprint\"])'"
    return guest.sh(script).strip()


def serve_ssh(guest: Guest, key: bytes) -> None:
    """OpenSSH on the loopback alone, for root by that key."""
    guest.put("/root/.ssh/authorized_keys", key, mode=0o600)
    guest.put(
        "/etc/ssh/terminal",
        "ListenAddress 127.0.0.1\nHostKey /etc/ssh/key\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n",
    )
    guest.sh("mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/key; /usr/sbin/sshd -f /etc/ssh/terminal")


def ssh(guest: Guest, to: str, proxy: str, command: str, data: bytes) -> bytes:
    """What the command at the other terminal writes."""
    guest.put("/root/given", data)
    guest.sh(
        f"ssh -F none -i /root/.ssh/id -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ProxyCommand={proxy!r} "
        f"root@{to} {command!r} </root/given >/root/got", seconds=SSH_S,
    )  # fmt: skip
    return guest.get("/root/got")


@pytest.mark.seconds(540)
def test_ssh_between_terminals_of_two_machines_causes_the_call_that_it_needs(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    far, near = provider.guest, site.guest
    near.sh("mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id")
    serve_ssh(far, near.get("/root/.ssh/id.pub"))
    mark = start_hub(far)
    pc21 = Terminal(far, "pc21")
    pc21.login(f"127.0.0.1:{PORT}", mark, "ssh=127.0.0.1:22")

    site.config["relay"] = {
        "listen": [f"127.0.0.1:{PORT}"], "account": [account("pc11")],
        "peer": [{"name": "hub", "address": HUB, "fingerprint": mark, "secret": "peer", "connect": "call"}],
    }  # fmt: skip
    site.secrets["peer"] = PEER_SECRET
    site.config["schedule"] |= {"connection_request": True, "every": "6h"}
    site.start()
    pc11 = Terminal(near, "pc11")
    pc11.login(f"127.0.0.1:{PORT}", fingerprint(near))

    # The first call brings the hub's login table; with its end the terminals behind the hub are suspended until the next.
    call = site.dial()
    assert call["outcome"] == "complete", call
    rows = {row["name"]: row["presence"] for row in site.ask("terminals")}
    assert rows == {"pc11": "online", "pc21": "suspended"}
    refused = near.run("posthouse", "terminal", "connect", "--state", pc11.state, "pc21", "ssh", check=False)
    assert refused.code == 3 and refused.err, refused

    # A request that waits makes the call.
    random.seed(11)
    up, down = random.randbytes(UP_BYTES), random.randbytes(DOWN_BYTES)
    far.put("/root/down", down)
    proxy = f"posthouse terminal connect --state {pc11.state} --wait 5m %h ssh"
    got = ssh(near, "pc21", proxy, "hostname; cat >/root/up; cat /root/down", up)
    assert got == b"mail.isp.example\n" + down
    assert hashlib.sha256(far.get("/root/up")).digest() == hashlib.sha256(up).digest()
    call = site.wait_call_over()
    assert (call["reason"], call["outcome"]) == ("connection-request", "complete"), call
    assert call["bytes_out"] > UP_BYTES and call["bytes_in"] > DOWN_BYTES
    assert len(telephone.dials) == 2
    assert near.sh("ip route show table all default") == ""
