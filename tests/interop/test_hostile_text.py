"""What a modem, an SMTP client, a smarthost, a terminal and a peer say, against the terminal of the person who looks: escape
sequences of 7 and of 8 bits, one that fills the clipboard (OSC 52), and characters that turn the writing round. A running
Posthouse hears them all; then every verb is looked at, on the command line and in the console, and what it logs.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.lab.laboratory import LabThread
from appliance.lab.modem import Modem
from fakes.hostile import SAYS, SEEN, steering
from fakes.ports import free_port
from fakes.relay_client import Client, PeerClient

from . import clients, corpus
from .console import console
from .product import ROOT, Site, quick_lab, running
from .providers import wait_until

SECRET = "00" * 32
VERBS = (
    "status", "queue", "calls", "lines", "interfaces", "users", "terminals", "peers", "report", "report --csv", "why pc11",
    "modem ATI", "config show", "config compare", "config revisions", "support", "status --json", "queue --json",
)  # fmt: skip


class Smarthost:
    """Takes everybody, and refuses every recipient for now, in its own words."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, client.makefile("rwb") as stream, contextlib.suppress(OSError):
                    self._talk(stream)

    def _talk(self, stream: Any) -> None:
        said = SAYS.replace("\x85", "").encode()
        stream.write(b"220 mx " + said + b"\r\n")
        stream.flush()
        for line in stream:
            verb = line[:4].upper()
            answer = {b"RCPT": b"450 4.7.1 ", b"DATA": b"503 5.5.1 ", b"QUIT": b"221 "}.get(verb, b"250 ")
            stream.write(answer + said + b"\r\n")
            stream.flush()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[LabThread]:
    """Its modem says more than it should behind each CONNECT, what it is, and who calls."""
    with pytest.MonkeyPatch.context() as patch:
        say = Modem._say_bytes

        def hostile(self: Modem, data: bytes, text: str) -> None:
            if text.startswith(("CONNECT", "Laboratory", "NMBR")):
                data = data[:-2] + b" " + SAYS.encode() + b"\x9b2J\xff" + data[-2:]
            say(self, data, text)

        patch.setattr(Modem, "_say_bytes", hostile)
        with quick_lab() as lab:
            yield lab


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lab: LabThread) -> Iterator[Site]:
    """One that has heard it all."""
    smarthost, port = Smarthost(), free_port()
    peers = [{"name": "peer1", "secret": "peer1", "connect": "never"}]
    accounts = [{"name": "pc11"}]
    site = Site(
        tmp_path_factory.mktemp("site"), lab, users=("hanako",), smtp_target=smarthost.address, line={"wake_numbers": ["0459999999"]},
        more={"relay": {"listen": [f"127.0.0.1:{port}"], "peer": peers, "account": accounts}},
    )  # fmt: skip
    site.secrets["peer1"] = SECRET
    site.command = ("sh", "-c", 'exec "$@" --debug', "sh")  # with it the modem's and the servers' words are logged too
    with running(site):
        smtp_client(site)
        wait_until(lambda: rung(site, lab), "the caller is in the journal")
        trio.run(relay_clients, port)
        assert site.dial()["connected"]
        site.cli("modem", "ATI")
        site.cli("config", "set", "alerts.to", "boss@harbour.example")
        site.cli("config", "commit", "--comment", SAYS)
        site.cli("config", "set", "alerts.to", SAYS)
        yield site
    smarthost.close()


def rung(site: Site, lab: LabThread) -> bool:
    """Somebody has called, and Posthouse, once it listens to the modem, has seen who."""
    lab.ring("0451111111", seconds=0.5)
    return "0451111111" in site.journal()


def smtp_client(site: Site) -> None:
    """Refused, as far as the protocol refuses it; then a message with all of it in places where it may stand."""
    with socket.create_connection(("127.0.0.1", site.smtp), timeout=60) as client, client.makefile("rwb") as stream:
        stream.readline()
        for line in (
            f"EHLO {SAYS}", f"HELO {SAYS}", f"{SAYS} x", "EHLO pc", f"MAIL FROM:<{SAYS}@x.example>",
            f'MAIL FROM:<"{SAYS}"@x.example> SMTPUTF8', f"AUTH PLAIN {SAYS}",
        ):  # fmt: skip
            stream.write(line.encode() + b"\r\n")
            stream.flush()
            while stream.readline()[3:4] == b"-":
                pass
    headers = b"Subject: " + SAYS.encode() + b"\r\n"
    mail = corpus.make("plain", "one", "hanako@harbour.example", ["some@far.example"], extra=headers)
    clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), site.root)


async def relay_clients(port: int) -> None:
    """A terminal and a peer, refused or not."""
    for name in (SAYS, "pc11"):
        client = await Client.dial(port, name)
        await client.send("login", certificate=b"x", counter=1, services=[SAYS], proof=SAYS, text=SAYS)
        await client.receive()
        await client.close()
    for kind, body in (("bye", {"reason": SAYS}), ("error", {"code": SAYS, "text": SAYS}), (SAYS, {})):
        peer = await PeerClient.link(port, "peer1", "harbour")
        await peer.begin()
        await peer.route(SAYS, [SAYS, "peer1"])
        await peer.send(kind, **body)
        while await peer.receive() is not None:
            pass
        await peer.close()


def raw(site: Site, *words: str) -> str:
    """What that verb writes, to both of its outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *words, "--config", str(site.file)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.decode()


def test_no_verb_lets_it_through(site: Site) -> None:
    said = {verb: raw(site, *verb.split()) for verb in VERBS}
    assert {verb: found for verb, text in said.items() if (found := steering(text))} == {}
    for verb in ("modem ATI", "config revisions"):
        assert SEEN.search(said[verb])


def test_nor_does_a_message_looked_at_or_a_call_watched(site: Site) -> None:
    (message,) = site.queue()
    said = raw(site, "queue", "show", message["id"])
    assert SEEN.search(said) and steering(said) == []
    said = raw(site, "dial", "--watch")
    assert "CONNECT" in said and steering(said) == []


def test_nor_what_is_logged(site: Site) -> None:
    said = site.journal()
    assert re.search("450 4.7.1 owned.+here", said)
    assert re.search("configuration: revision 2 by .*owned.+here", said)
    assert re.search("Laboratory modem owned.+here", said)
    assert steering(said) == []


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_nor_the_console(site: Site, term: str, tmp_path: Path) -> None:
    with console(site.file, term=term, size=(500, 200)) as person:
        shown = person.prompt()
        for verb in (
            "show status", "show queue", "show calls", "show line", "show terminals", "show peers", "why pc11", "modem ATI",
            "show config", "compare", "report", "dial",
        ):  # fmt: skip
            shown += person.type(verb)
    assert SEEN.search(shown)
    assert steering(shown) == []
