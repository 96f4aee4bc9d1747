"""Two sites and a hub: the image on two boards, each with a modem and a LAN of its own, and a relay server behind the provider
that both call, in a third machine. OpenSSH at a PC of the one LAN logs in to a PC of the other, by PPP on both lines.

The PCs are network namespaces of this host, each plugged into its board's eth0 by a tap device; `posthouse terminal` runs in
them as on any PC.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config.passwords import hash_password
from appliance.lab.house import toml
from fakes.netns import Namespace, namespace
from interop.product import PASSWORD
from interop.relay_world import Pc, Relay, Sshd

from . import hub
from .board import Board
from .boards import READY_S, is_well
from .guest import Guest
from .hub import SITES, Hub, Subscriber
from .qemu import more_at_once
from .telephone import OTHER, PROVIDER, SITE, Telephone

pytestmark = [pytest.mark.long, pytest.mark.seconds(2400)]

NUMBERS = {"harbour": SITE, "lagoon": OTHER}
LAN = {"harbour": "192.168.77", "lagoon": "192.168.78"}
TERMINAL = {"harbour": "pc11", "lagoon": "pc21"}
PORT = 7400
UP_BYTES, DOWN_BYTES = 12_000, 20_000
PATIENCE_S = 240.0
"""A login by scrypt and TLS on an emulated board beside two others: 10 s."""
CALL_S = 300.0
SSH_S = 420.0
"""A request that waits, a call, a login by ssh and its bytes: a minute on an idle machine."""


@pytest.fixture
def telephone(folder: Path) -> Iterator[Telephone]:
    with Telephone(folder, parties={**NUMBERS, **hub.MODEMS}, answer=hub.MODEMS) as network:
        yield network


@pytest.fixture
def lans() -> Iterator[dict[str, Namespace]]:
    """The PCs, their cables not yet in a board."""
    with contextlib.ExitStack() as stack:
        spaces = {}
        for name, network in LAN.items():
            spaces[name] = stack.enter_context(namespace(name))
            spaces[name].ip("tuntap", "add", "dev", "eth0", "mode", "tap")
            spaces[name].ip("link", "set", "eth0", "up")
            spaces[name].ip("addr", "add", f"{network}.20/24", "dev", "eth0")
        yield spaces


def stick(site: Subscriber, mark: str, folder: Path) -> Path:
    """A USB stick with a site's configuration. The lagoon's calls last until somebody hangs up."""
    account = {"name": TERMINAL[site.name], "password": hash_password(PASSWORD), "may_call": ["*"], "callers": ["*"]}
    config: dict[str, Any] = {
        "site": {"name": site.name, "domain": f"{site.name}.example"},
        "interface": [{"name": "lan", "device": "eth0", "addresses": [f"{LAN[site.name]}.1/24"]}],
        "line": [{
            "name": "pstn", "port": "/dev/ttyS1", "numbers": [site.dials], "ppp_login": site.name, "ppp_secret": "ppp",
        }],
        "schedule": {
            "urgent": False, "connection_request": True, "every": "6h", "min_gap": "0s",
            "linger": "30m" if site.name == "lagoon" else "1s",
        },
        "relay": {
            "listen": [f"{LAN[site.name]}.1:{PORT}"], "account": [account],
            "peer": [{"name": "hub", "address": hub.ADDRESS, "fingerprint": mark, "secret": "peer", "connect": "call"}],
        },
    }  # fmt: skip
    (folder / "posthouse").mkdir(parents=True)
    (folder / "posthouse/posthouse.toml").write_text(toml(config))
    (folder / "posthouse/secrets.toml").write_text(toml({"ppp": site.ppp_secret, "peer": site.peer_secret}))
    return folder


def test_ssh_from_a_pc_behind_one_board_to_a_pc_behind_another(
    start: Callable[..., Board], machine: Callable[..., Guest], telephone: Telephone, lans: dict[str, Namespace],
    witness: Callable[[str, Callable[[], str]], None], tmp_path: Path,
) -> None:  # fmt: skip
    for name in NUMBERS:
        witness(f"the modem of {name}", lambda name=name: telephone.transcript_of(name))
    with more_at_once(3), contextlib.ExitStack() as ends:
        guest = machine("hub", hub.prepare, modem=telephone.folder / "hub.modem")
        the_hub = Hub(guest, telephone)
        witness("the hub's logs", the_hub.logs)
        boards = {
            site.name: start(
                site.name, stick=stick(site, the_hub.fingerprint, tmp_path / site.name),
                modem=telephone.folder / f"{site.name}.modem", lan=lans[site.name],
            )
            for site in SITES
        }  # fmt: skip
        pcs = {}
        for name, board in boards.items():
            board.log_in()
            board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
            mark = json.loads(board.sh("posthouse status --json"))["fingerprint"]
            relay = Relay(f"{LAN[name]}.1:{PORT}", mark)
            pcs[name] = Pc(tmp_path, TERMINAL[name], relay, lans[name], patience=PATIENCE_S)
            ends.callback(pcs[name].stop)
        sshd = Sshd(tmp_path / "ssh")
        pcs["lagoon"].login(ssh=ends.enter_context(sshd.serve(lans["lagoon"])))
        pcs["harbour"].login()

        # The lagoon's line is up, and its login table at the hub.
        boards["lagoon"].sh("posthouse dial --no-wait")
        shown = "posthouse terminals --json | grep -q '\"online\"'"
        guest.wait(shown, "pc21 is online in the hub's table", seconds=CALL_S)
        # The harbour's first call brings it home; with its end whoever is behind the hub is suspended until the next.
        call = json.loads(boards["harbour"].sh("posthouse dial --json", seconds=CALL_S))
        assert call["outcome"] == "complete", call
        rows = json.loads(boards["harbour"].sh("posthouse terminals --json"))
        assert {row["name"]: row["presence"] for row in rows} == {"pc11": "online", "pc21": "suspended"}

        # A request that waits makes the next.
        random.seed(3)
        up, down = random.randbytes(UP_BYTES), random.randbytes(DOWN_BYTES)
        (tmp_path / "down").write_bytes(down)
        proxy = " ".join(pcs["harbour"].argv("connect", "--wait", "10m", "%h", "ssh"))
        argv = sshd.client("ssh", proxy, sshd.at("pc21"), f"cat >{tmp_path}/up; cat {tmp_path}/down; exit 7")
        done = pcs["harbour"].run(argv, input=up, patience=SSH_S)
        assert done.returncode == 7, done.stderr
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(down).digest()
        assert hashlib.sha256((tmp_path / "up").read_bytes()).digest() == hashlib.sha256(up).digest()

        over = 'test $(posthouse calls --json | grep -o \'"outcome": "complete"\' | wc -l) = 2'
        boards["harbour"].until(over, "the call that the request made is over", seconds=CALL_S)
        calls = json.loads(boards["harbour"].sh("posthouse calls --json"))
        assert calls[-1]["reason"] == "connection-request", calls
        assert calls[-1]["bytes_out"] > UP_BYTES and calls[-1]["bytes_in"] > DOWN_BYTES
        boards["lagoon"].sh("posthouse hangup", seconds=CALL_S)
        assert sorted(r.number for r in telephone.records) == [PROVIDER, PROVIDER, hub.USB_NUMBER]
        for board in boards.values():
            is_well(board)
