"""The LAN's SMTP port against clients that misbehave: smuggling, injection, limits; a full disk."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ports import free_port

from . import clients, corpus
from .clients import Conversation
from .product import PASSWORD, Product, hashed, running
from .providers import wait_until

SENDER = "hanako@harbour.example"
SMUGGLED = (
    b"MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<evil@far.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled"
)


def alone(root: Path, **mail: object) -> Product:
    """A product without a line: nothing is ever sent from it."""
    return Product(
        root,
        {
            "site": {
                "name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run",
            },
            "mail": {
                "smtp": [f"127.0.0.1:{free_port()}"], "pop3": [f"127.0.0.1:{free_port()}"],
                "trusted_networks": ["127.0.0.0/8"], **mail,
                "smarthost": [{"host": "127.0.0.1", "port": 9, "tls": "none"}],
            },
            "user": [{"name": "hanako", "password": hashed(PASSWORD), "addresses": [SENDER]}],
        },
        {},
    )  # fmt: skip


def port(site: Product) -> int:
    return int(site.config["mail"]["smtp"][0].rpartition(":")[2])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One product for the tests that leave nothing behind in its queue."""
    with running(alone(tmp_path_factory.mktemp("lan"), message_limit="1MiB", client_limit=20)) as site:
        yield site
        assert site.stop() == 0


def open_session(site: Product) -> Conversation:
    c = Conversation(port(site))
    c.ehlo()
    return c


def empty(site: Product) -> bool:
    return site.queue() == []


# ---- smuggling (CVE-2023-51764 to 51766)
ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r.\n", b"\r\n.\r\r\n",
    b"\n\n.\r\n", b"\n\r\n.\n",
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=[repr(e)[2:-1] for e in ENDS])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_no_other_end_of_data_ends_it(site: Product, end: bytes, bytewise: bool) -> None:
    """Whatever looks like an end of data but is not CRLF.CRLF neither ends the message nor gets through in it."""
    with open_session(site) as c:
        c.begin(SENDER, "a@far.example")
        wire = b"Subject: outer\r\n\r\nouter" + end + SMUGGLED + b"\r\n.\r\n"
        for piece in [wire[i : i + 1] for i in range(len(wire))] if bytewise else [wire]:
            c.send(piece)
        said = c.reply()
        assert said.startswith(b"5"), said
        # No second reply is there: the next one answers NOOP.
        assert c.command(b"NOOP").startswith(b"250")
    assert empty(site)


def test_the_right_end_still_ends_it(site: Product) -> None:
    """The same conversation with CRLF.CRLF is two messages: the tests above can tell the difference."""
    with open_session(site) as c:
        c.begin(SENDER, "a@far.example")
        c.send(b"Subject: outer\r\n\r\nouter\r\n.\r\n" + SMUGGLED + b"\r\n.\r\n")
        assert [c.reply()[:3] for _ in range(5)] == [b"250", b"250", b"250", b"354", b"250"]
    queue = site.queue()
    assert len(queue) == 2
    for message in queue:
        assert site.cli("queue", "remove", message["id"]).returncode == 0


@pytest.mark.parametrize(
    "commands", [b"MAIL FROM:<hanako@harbour.example>\r\n", b"EHLO injected\r\nRSET\r\n", b"AUTH PLAIN x\r\n", b"NO"]
)
def test_what_comes_before_tls_is_forgotten(site: Product, commands: bytes) -> None:
    """CVE-2011-0411: commands behind STARTTLS in one packet are never carried over into the encrypted session."""
    with open_session(site) as c:
        c.send(b"STARTTLS\r\n" + commands)
        assert c.reply().startswith(b"220")
        c.go_secure()
        assert c.command(b"RCPT TO:<a@far.example>").startswith(b"503")  # no MAIL was heard, and no half line is there
        assert c.command(b"MAIL FROM:<hanako@harbour.example>").startswith((b"250", b"503"))
        assert b"STARTTLS" not in c.ehlo()
        assert c.command(b"NOOP").startswith(b"250")


# ---- limits
def test_too_large_by_size_and_by_count(site: Product) -> None:
    with open_session(site) as c:
        assert c.command(b"MAIL FROM:<hanako@harbour.example> SIZE=1048577").startswith(b"552")
        c.begin(SENDER, "a@far.example")
        assert c.data(b"Subject: x\r\n\r\n" + b"y" * 78 + (b"\r\n" + b"y" * 78) * 14000 + b"\r\n").startswith(b"552")
        c.begin(SENDER, "a@far.example")
        assert c.command(b".").startswith(b"250")
    (message,) = site.queue()
    assert site.cli("queue", "remove", message["id"]).returncode == 0


def test_too_large_by_chunks(site: Product) -> None:
    with open_session(site) as c:
        c.command(b"MAIL FROM:<hanako@harbour.example>")
        c.command(b"RCPT TO:<a@far.example>")
        c.send(b"BDAT 700000\r\n" + b"x" * 700000)
        assert c.reply().startswith(b"250")
        c.send(b"BDAT 700000 LAST\r\n" + b"x" * 700000)
        assert c.reply().startswith(b"552")
        assert c.command(b"NOOP").startswith(b"250")
    assert empty(site)


def test_long_lines_and_rubbish(site: Product) -> None:
    with open_session(site) as c:
        assert c.command(b"NOOP " + b"x" * 100_000).startswith(b"500")
        assert c.command(b"\xff\xfe\x00").startswith(b"500")
        assert c.command(b"MAIL FROM:<" + b"a" * 1000 + b"@far.example>").startswith(b"5")
        assert c.command(b"NOOP").startswith(b"250")
    assert empty(site)


def test_recipients_over_the_limit(site: Product) -> None:
    with open_session(site) as c:
        c.command(b"MAIL FROM:<hanako@harbour.example>")
        c.send(b"".join(b"RCPT TO:<r%d@far.example>\r\n" % i for i in range(1001)))
        said = [c.reply() for _ in range(1001)]
        assert [s[:3] for s in said] == [b"250"] * 1000 + [b"452"]
        assert c.command(b"RSET").startswith(b"250")
    assert empty(site)


def test_a_loop_is_stopped(site: Product) -> None:
    with open_session(site) as c:
        c.begin(SENDER, "a@far.example")
        assert c.data(b"Received: from a by b; x\r\n" * 120 + b"Subject: x\r\n\r\nx\r\n").startswith(b"554")
    assert empty(site)


def test_connections_per_address(site: Product) -> None:
    """The limit is the address's own: another one still gets in."""
    held = [Conversation(port(site)) for _ in range(20)]
    try:
        assert all(c.greeting.startswith(b"220") for c in held)
        with Conversation(port(site)) as one_more:
            assert one_more.greeting.startswith(b"421")
            assert one_more.closed()
        with Conversation(port(site), source="127.0.0.2") as neighbour:
            assert neighbour.greeting.startswith(b"220")
    finally:
        for c in held:
            c.close()
    wait_until(lambda: _greeted(site), "there is room again")


def _greeted(site: Product) -> bool:
    with Conversation(port(site)) as c:
        return c.greeting.startswith(b"220")


def test_silence_ends_a_session(tmp_path: Path) -> None:
    with running(alone(tmp_path, idle_timeout="1s")) as site, Conversation(port(site)) as c:
        assert c.reply().startswith(b"421")
        assert c.closed()


@pytest.mark.long
def test_a_slow_sender_is_ended(tmp_path: Path) -> None:
    """A command that is not complete within a minute, a message that brings less than 1 KiB in one."""
    with running(alone(tmp_path)) as site, Conversation(port(site), timeout=150) as slow, open_session(site) as data:
        slow.send(b"EHL")
        data.begin(SENDER, "a@far.example")
        data.send(b"Subject: x\r\n\r\nslow")
        data._socket.settimeout(150)
        assert slow.reply().startswith(b"421")
        assert data.reply().startswith(b"421")
        assert empty(site)


# ---- who may
def test_logins_and_senders(tmp_path: Path) -> None:
    with running(alone(tmp_path, trusted_networks=[])) as site:
        login = clients.Login("hanako", PASSWORD)
        with open_session(site) as c:
            assert c.command(b"MAIL FROM:<hanako@harbour.example>").startswith(b"530")
        with Conversation(port(site)) as c, pytest.raises(clients.Refused, match="535"):
            c.login(clients.Login("hanako", "wrong"))
        with Conversation(port(site)) as c:
            c.login(login)
            assert c.command(b"MAIL FROM:<taro@harbour.example>").startswith(b"553")
            assert c.command(b"MAIL FROM:<>").startswith(b"250")
            assert c.command(b"RCPT TO:<nobody@harbour.example>").startswith(b"550")
            assert c.command(b"RCPT TO:<hanako+tag@harbour.example>").startswith(b"250")
            assert c.command(b"RSET").startswith(b"250")
        assert PASSWORD not in site.journal()


# ---- the disk is full
def fill_up(site: Product) -> tuple[int, bytes]:
    """Submits until one is refused; -> how many were taken, and the refusal."""
    taken = 0
    with open_session(site) as c:
        while taken < 200:
            mail = corpus.make("plain", f"full-{taken}", SENDER, ["a@far.example"], size=500_000)
            for line in (b"MAIL FROM:<hanako@harbour.example>", b"RCPT TO:<a@far.example>", b"DATA"):
                said = c.command(line)
                if said.startswith(b"4"):
                    return taken, said
            said = c.data(mail.wire)
            if not said.startswith(b"250"):
                return taken, said
            taken += 1
    raise AssertionError("the disk never got full")


def test_a_full_disk_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """A file system of 6 MB, filled by mail: 452, nothing that was taken is lost, and with room again it goes on."""
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6M", "tmpfs", str(state)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system of its own can't be mounted here: {mounted.stderr.strip()}")
    try:
        with running(alone(tmp_path)) as site:
            taken, said = fill_up(site)
            assert said.startswith(b"452"), said
            assert taken > 10
            queue = site.queue()
            assert len(queue) == taken
            assert site.stop() == 0
            site.start()  # with the disk still full
            assert site.queue() == queue
            for message in queue[:5]:
                assert site.cli("queue", "remove", message["id"]).returncode == 0
            with open_session(site) as c:
                c.begin(SENDER, "a@far.example")
                assert c.data(b"Subject: room again\r\n\r\n").startswith(b"250")
            assert not list((state / "spool" / "incoming").iterdir())
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_file_that_cannot_grow_is_refused_for_now(tmp_path: Path) -> None:
    """EFBIG stands for a full disk where no file system can be mounted: 452 for the large message, others go on."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    limit = 300_000
    site = alone(tmp_path, message_limit="40MiB")
    try:
        site.start(preexec_fn=small_files)
        with open_session(site) as c:
            c.begin(SENDER, "a@far.example")
            assert c.data(b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 21_000).startswith(b"452")
            c.begin(SENDER, "a@far.example")
            assert c.data(b"Subject: small\r\n\r\nx\r\n").startswith(b"250")
        assert len(site.queue()) == 1
    finally:
        site.kill()


def test_memory_does_not_grow_with_the_message(tmp_path: Path) -> None:
    """30 MB in one message; the process's peak stays within 8 MB of what it was."""
    with running(alone(tmp_path, message_limit="40MiB")) as site:
        assert site.process is not None

        def peak_kb() -> int:
            status = Path(f"/proc/{site.process.pid}/status").read_text()  # type: ignore[union-attr]
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]

        with open_session(site) as c:
            c.begin(SENDER, "a@far.example")
            assert c.data(b"Subject: small\r\n\r\nx\r\n").startswith(b"250")
            before = peak_kb()
            c.begin(SENDER, "a@far.example")
            assert c.data(b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 30_000).startswith(b"250")
            assert peak_kb() - before < 8 * 1024
        assert max(m["size"] for m in site.queue()) > 30_000_000
        assert (
            os.path.getsize(next(p for p in (tmp_path / "state/spool/queue").glob("*.eml") if p.stat().st_size > 1e7))
            > 30e6
        )
