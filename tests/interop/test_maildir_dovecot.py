"""One Maildir, two programs: Posthouse delivers and serves POP3, Dovecot serves IMAP from the same files, by the
configuration that Posthouse writes for it.

Twice: with the Dovecot of this machine's Debian, and with Debian 13's (2.4 takes another configuration file) in a root
folder that `scripts/trixie-root` makes. Both run rootless, as the user whose mail it is: as root, everything of a test
runs as `nobody`; as anyone else chroot(2) is had through a user namespace. What is missing fails the test and says so.
"""

from __future__ import annotations

import contextlib
import grp
import imaplib
import os
import poplib
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from appliance.config.model import User
from appliance.config.passwords import hash_password, verify_password
from appliance.mail.lan.dovecot import IMAP_PORT, IMAPS_PORT, ImapSettings, configuration, users
from appliance.mail.lan.logins import Logins
from appliance.mail.lan.pop3 import Pop3Service
from appliance.mail.store.mailbox import Mailbox
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.transport.listen import Address, ClientLimits, open_listeners, serve
from appliance.transport.self_signed import make_self_signed
from fakes.ports import free_port

WAIT = 30.0
"""Seconds that a test waits for anything."""
PASSWORD = "pass wörd"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "trixie-root"
AS = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def missing(what: str) -> None:
    pytest.fail(f"{what} (scripts/test installs what these tests need)", pytrace=False)


@dataclass
class Dovecot:
    """A running one. `state` is the site's state, as this process sees it; `password` what `passwd` would print."""

    version: str
    state: Path
    folder: Path
    port: int
    tls_port: int
    password: str
    _users: int = field(default=0)

    def new_user(self) -> str:
        self._users += 1
        return f"u{self._users}"

    def log(self) -> str:
        return (self.folder / "out").read_text(errors="replace")


def start(kind: str) -> tuple[Dovecot, subprocess.Popen[bytes]]:
    if kind == "this Debian's":
        if shutil.which("dovecot") is None:
            missing("Dovecot is not installed: apt-get install dovecot-imapd")
        root, command = Path("/"), ["dovecot"]
        drop = {"user": AS.pw_uid, "group": AS.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    else:
        made = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
        if made.returncode:
            missing(f"no root folder of Debian 13: {made.stderr.strip()}")
        root, drop = Path(made.stdout.strip()), {}
        if os.geteuid() == 0:
            command = ["chroot", f"--userspec={AS.pw_uid}:{AS.pw_gid}", str(root), "/usr/sbin/dovecot"]
        else:
            unshare = ["unshare", "--user", "--map-current-user", "--keep-caps"]
            command = [*unshare, f"--root={root}", "/usr/sbin/dovecot"]
    version_run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, **drop)
    if version_run.returncode:
        missing(f"{' '.join(command)} does not run here, as root or in a user namespace: {version_run.stderr.strip()}")
    version = version_run.stdout.split()[0]
    assert kind != "Debian 13's" or version.startswith("2.4."), version

    folder = Path(tempfile.mkdtemp(prefix="posthouse-", dir=root / "tmp"))
    inside = f"/{folder.relative_to(root)}"
    (folder / "state" / "mail").mkdir(parents=True)
    port, tls_port = free_port(), free_port()
    password = hash_password(PASSWORD)
    people = [User(name=f"u{i}", password=password, addresses=(f"U{i}@Harbour.example",)) for i in range(1, 40)]
    (folder / "users").write_text(users(people))
    certificate, key = make_self_signed(["localhost", "127.0.0.1"])
    (folder / "mail.pem").write_bytes(certificate)
    (folder / "mail.key").write_bytes(key)
    settings = ImapSettings(
        hosts=("127.0.0.1",), mail=f"{inside}/state/mail", certificate=f"{inside}/mail.pem", key=f"{inside}/mail.key",
        folder=f"{inside}/run", users_file=f"{inside}/users", user=AS.pw_name, group=grp.getgrgid(AS.pw_gid).gr_name,
        plaintext_login=False, client_limit=100, session_limit=100,
    )  # fmt: skip
    major, minor = (int(n) for n in version.split(".")[:2])
    text = configuration(settings, (major, minor))
    for ours, here in ((IMAP_PORT, port), (IMAPS_PORT, tls_port)):
        assert text.count(f"    port = {ours}\n") == 1
        text = text.replace(f"    port = {ours}\n", f"    port = {here}\n")
    (folder / "dovecot.conf").write_text(text)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, AS.pw_uid, AS.pw_gid)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, "-F", "-c", f"{inside}/dovecot.conf"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            **drop,
        )
    deadline = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = (folder / "out").read_text(errors="replace")[-2000:]
            pytest.fail(f"Dovecot {version} did not start: {said}", pytrace=False)
        time.sleep(0.05)
    return Dovecot(version, folder / "state", folder, port, tls_port, password), process


@pytest.fixture(scope="module", params=["this Debian's", "Debian 13's"])
def dovecot(request: pytest.FixtureRequest) -> Iterator[Dovecot]:
    running, process = start(request.param)
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT)
        finally:
            process.kill()
            shutil.rmtree(running.folder)


@pytest.fixture(autouse=True)
def as_the_mails_owner(dovecot: Dovecot) -> Iterator[None]:
    """Root's files are closed to the Dovecot of an ordinary user: so the test is one too."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(AS.pw_gid)
    os.seteuid(AS.pw_uid)
    try:
        list(dovecot.state.iterdir())
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@dataclass
class House:
    """One user's mailbox with our POP3 and Dovecot's IMAP on it."""

    dovecot: Dovecot
    user: str
    box: Mailbox
    pop3_port: int = 0

    def put(self, *mails: bytes) -> None:
        for data in mails:
            source = self.dovecot.state / "spool" / "incoming" / self.user
            source.write_bytes(data)
            self.box.move_in(source, len(data), zlib.crc32(data))

    def imap(self) -> imaplib.IMAP4:
        imap = imaplib.IMAP4("127.0.0.1", self.dovecot.port, timeout=WAIT)
        imap.authenticate("PLAIN", lambda _: f"\0{self.user}\0{PASSWORD}".encode())
        imap.select()
        return imap

    def pop3(self) -> poplib.POP3:
        pop = poplib.POP3("127.0.0.1", self.pop3_port, timeout=WAIT)
        pop._encoding = "utf-8"  # type: ignore[attr-defined]
        pop.user(self.user)
        pop.pass_(PASSWORD)
        return pop


@pytest.fixture
async def house(dovecot: Dovecot) -> AsyncIterator[House]:
    user = dovecot.new_user()
    disk, paths = Disk(), StatePaths(dovecot.state)
    paths.make(disk)
    committer = Committer(disk, dovecot.state)
    house = House(dovecot, user, Mailbox(user, paths, committer, site="harbour"))
    house.box.recover()
    logins = Logins([User(name=user, password=dovecot.password)], verify=verify_password)
    service = Pop3Service({user: house.box}, logins, tls=None, plaintext_login=False, idle_timeout_s=WAIT)
    log_began = len(dovecot.log())
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        (listener,) = listeners = await open_listeners([Address("127.0.0.1", 0)])
        house.pop3_port = listener.socket.getsockname()[1]
        await nursery.start(
            partial(serve, "pop3", listeners, service.handler, limits=ClientLimits(50, 50), refuse=service.refuse)
        )
        yield house
        nursery.cancel_scope.cancel()
    complaints = [line for line in dovecot.log()[log_began:].splitlines() if re.search(r"(Error|Panic|Fatal):", line)]
    assert not complaints, complaints


async def in_thread(work: Callable[[], object]) -> None:
    with trio.fail_after(3 * WAIT):
        await trio.to_thread.run_sync(work)


def fetched(answer: list[object]) -> list[tuple[int, bytes]]:
    """(RFC822.SIZE, bytes) of each message of a FETCH."""
    out = []
    for part in answer:
        if isinstance(part, tuple):
            size = re.search(rb"RFC822\.SIZE (\d+)", part[0])
            assert size
            out.append((int(size[1]), part[1]))
    return out


def crlf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


MAILS = {
    "plain": b"Subject: plain\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n",
    "eight bit": "Subject: grün\r\n\r\nÄÖÜ 日本\r\n".encode(),
    "latin-1": b"Subject: x\r\n\r\n\xe4\xf6\xfc\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n",
    "no final line end": b"Subject: x\r\n\r\nend",
    "very long line": b"Subject: long\r\n\r\n" + b"x" * 100_000 + b"\r\n",
    "header only": b"Subject: nothing else\r\n\r\n",
    "bare line feeds": b"Subject: bare\n\nbody\nmore\r\nend\n",
    "large": b"Subject: large\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 50_000,
}


async def test_what_we_deliver_imap_shows_with_its_size_and_bytes(house: House) -> None:
    house.put(*MAILS.values())

    def client() -> None:
        imap = house.imap()
        _, answer = imap.fetch("1:*", "(RFC822.SIZE BODY.PEEK[])")
        assert fetched(answer) == [(len(crlf(m)), crlf(m)) for m in MAILS.values()]
        imap.logout()
        pop = house.pop3()
        assert [int(line.split()[1]) for line in pop.list()[1]] == [len(crlf(m)) for m in MAILS.values()]
        pop.quit()

    await in_thread(client)


async def test_what_imap_stores_our_pop3_shows(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poplib, "_MAXLINE", 200_000)
    mails = [m for n, m in MAILS.items() if n != "no final line end"]

    def client() -> None:
        imap = house.imap()
        for mail in mails:
            imap.append("INBOX", r"(\Seen)", None, mail)
        _, answer = imap.fetch("1:*", "(RFC822.SIZE BODY.PEEK[])")
        stored = fetched(answer)
        imap.logout()
        assert len(stored) == len(mails)
        pop = house.pop3()
        assert [int(line.split()[1]) for line in pop.list()[1]] == [size for size, _ in stored]
        for i, (_, data) in enumerate(stored, 1):
            assert b"".join(line + b"\r\n" for line in pop.retr(i)[1]) == data
        pop.quit()

    await in_thread(client)


async def test_our_pop3_follows_flags_moves_and_expunges(house: House) -> None:
    mails = [b"Subject: %d\r\n\r\n%d\r\n" % (i, i) for i in range(6)]
    house.put(*mails)

    def client() -> None:
        pop = house.pop3()
        uidls = pop.uidl()[1]
        imap = house.imap()  # SELECT moves everything to cur/
        assert not list((house.box.root / "new").iterdir())
        assert b"\r\n".join(pop.retr(1)[1]) + b"\r\n" == mails[0]
        imap.store("1:3", "+FLAGS", r"(\Seen \Flagged)")
        assert b"\r\n".join(pop.retr(2)[1]) + b"\r\n" == mails[1]
        assert pop.uidl()[1] == uidls
        imap.create("Kept")
        imap.copy("4", "Kept")
        imap.store("4:5", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        with pytest.raises(poplib.error_proto, match="deleted by another program"):
            pop.retr(4)
        pop.dele(3)  # under another name than it was listed
        pop.dele(5)  # gone already
        assert pop.quit().startswith(b"+OK")
        imap.noop()
        _, answer = imap.fetch("1:*", "(RFC822.SIZE BODY.PEEK[])")
        assert [data for _, data in fetched(answer)] == [mails[0], mails[1], mails[5]]
        imap.logout()
        again = house.pop3()
        left = [line.split()[1] for line in again.uidl()[1]]
        assert left == [uidls[i].split()[1] for i in (0, 1, 5)]
        again.quit()

    await in_thread(client)
    assert house.box.usage == sum(len(mails[i]) for i in (0, 1, 5))


async def test_a_restart_leaves_alone_what_imap_moved(house: House) -> None:
    house.put(*MAILS.values())

    def client() -> None:
        imap = house.imap()
        imap.store("1:4", "+FLAGS", r"(\Seen)")
        imap.append("INBOX", "", None, MAILS["plain"])
        imap.logout()

    await in_thread(client)
    before = [m.uidl for m in house.box.messages()]
    house.box.recover()
    assert [m.uidl for m in house.box.messages()] == before
    assert len(before) == len(MAILS) + 1
    assert not list((house.dovecot.state / "spool" / "corrupt").iterdir())


async def test_both_at_once_lose_and_double_nothing(house: House) -> None:
    """We deliver, an IMAP client sees, flags and moves on, a POP3 client fetches and deletes, all at the same time."""
    count = 120
    mails = {b"Subject: %d\r\n\r\nbody %d\r\n" % (i, i) for i in range(count)}
    taken: list[bytes] = []
    delivered = trio.Event()

    async def deliver() -> None:
        for mail in sorted(mails):
            draft = house.box.draft()
            await draft.write(mail)
            await house.box.deliver(draft)
        delivered.set()

    def see() -> None:
        imap = house.imap()
        for i in range(200):
            imap.noop()
            _, found = imap.search(None, "ALL")
            if found[0]:
                imap.store(b",".join(found[0].split()[-5:]), "+FLAGS" if i % 2 else "-FLAGS", r"(\Flagged \Seen)")
            if delivered.is_set() and not found[0]:
                break
        imap.logout()

    def take() -> None:
        while True:
            last = delivered.is_set()
            pop = house.pop3()
            for i in range(1, pop.stat()[0] + 1):
                taken.append(b"".join(line + b"\r\n" for line in pop.retr(i)[1]))
                pop.dele(i)
            pop.quit()
            if last:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        nursery.start_soon(in_thread, see)
        nursery.start_soon(in_thread, take)
    assert sorted(taken) == sorted(mails)
    assert not house.box.messages()


@pytest.mark.parametrize("login", ["u{}", "U{}", "u{}@harbour.example", "U{}@HARBOUR.example"])
@pytest.mark.parametrize("way", ["starttls", "implicit"])
async def test_a_login_by_name_and_address_over_tls(house: House, login: str, way: str) -> None:
    house.put(MAILS["plain"])
    context = ssl.create_default_context(cadata=(house.dovecot.folder / "mail.pem").read_text())

    def client() -> None:
        if way == "implicit":
            imap: imaplib.IMAP4 = imaplib.IMAP4_SSL(
                "127.0.0.1", house.dovecot.tls_port, ssl_context=context, timeout=WAIT
            )
        else:
            imap = imaplib.IMAP4("127.0.0.1", house.dovecot.port, timeout=WAIT)
            imap.starttls(context)
        imap.authenticate("PLAIN", lambda _: f"\0{login.format(house.user[1:])}\0{PASSWORD}".encode())
        assert imap.select()[1] == [b"1"]
        imap.logout()

    await in_thread(client)


async def test_dovecot_checks_the_string_that_passwd_makes(house: House) -> None:
    assert verify_password(PASSWORD, house.dovecot.password)

    def client() -> None:
        house.imap().logout()
        imap = imaplib.IMAP4("127.0.0.1", house.dovecot.port, timeout=WAIT)
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            imap.authenticate("PLAIN", lambda _: f"\0{house.user}\0pass word".encode())
        imap.shutdown()

    await in_thread(client)
