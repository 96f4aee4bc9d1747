"""The POP3 service over loopback: mail programs, raw sockets, TLS, the lock, deletions, deadlines, memory."""

from __future__ import annotations

import errno
import os
import poplib
import shutil
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
import trio
import trio.testing

from appliance.config.model import User
from appliance.mail.lan import pop3 as module
from appliance.mail.lan.logins import Logins
from appliance.mail.lan.pop3 import Pop3Service
from appliance.mail.store.mailbox import Mailbox
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.transport.listen import Address, ClientLimits, open_listeners, serve
from appliance.transport.prompt import PromptStream
from appliance.transport.self_signed import make_self_signed
from appliance.transport.tls import server_context

WAIT = 20.0
"""Seconds that a test waits for anything on loopback."""
MAILS = [b"Subject: one\r\n\r\n.first\r\n..\r\n", b"Subject: two\r\n\r\nno end", b"", b"Subject: nul\r\n\r\n\0\xff\r\n"]


class House:
    """A service on loopback with the users hanako and taro (password `pw`)."""

    def __init__(self, root: Path) -> None:
        disk = Disk()
        paths = StatePaths(root)
        paths.make(disk)
        self.root = root
        self.committer = Committer(disk, root)
        users = [User(name=n, password="s", addresses=(f"{n}@harbour.example",)) for n in ("hanako", "taro")]
        self.mailboxes = {u.name: Mailbox(u.name, paths, self.committer, site="harbour") for u in users}
        for box in self.mailboxes.values():
            box.recover()
        certificate, key = make_self_signed(["127.0.0.1"])
        (root / "cert.pem").write_bytes(certificate)
        (root / "key.pem").write_bytes(key)
        self.service = Pop3Service(
            self.mailboxes,
            Logins(users, verify=lambda password, stored: (password, stored) == ("pw", "s")),
            tls=server_context(root / "cert.pem", root / "key.pem"),
            plaintext_login=False,
            idle_timeout_s=1.0,
        )
        self.client_tls = ssl.create_default_context(cafile=str(root / "cert.pem"))
        self.port = self.tls_port = 0
        self.streams: list[trio.SocketStream] = []
        """Of the clients; closed at the end of the test."""

    def put(self, *mails: bytes, user: str = "hanako") -> None:
        box = self.mailboxes[user]
        for data in mails:
            source = self.root / "spool" / "incoming" / "x"
            source.write_bytes(data)
            box.move_in(source, len(data), zlib.crc32(data))

    def left(self, user: str = "hanako") -> list[bytes]:
        return [m.path.read_bytes() for m in self.mailboxes[user].messages()]

    async def connect(self, port: int = 0) -> Raw:
        stream = await trio.open_tcp_stream("127.0.0.1", port or self.port)
        self.streams.append(stream)
        return Raw(stream)

    def poplib(self) -> poplib.POP3:
        return poplib.POP3("127.0.0.1", self.port, timeout=WAIT)


class Raw:
    """A conversation by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        with trio.fail_after(WAIT):
            while end not in self.buffer:
                data = await self.stream.receive_some()
                assert data, f"closed behind {self.buffer[-200:]!r}"
                self.buffer += data
        out, _, self.buffer = self.buffer.partition(end)
        return out + end

    async def line(self) -> bytes:
        return await self.until(b"\r\n")

    async def rest(self) -> bytes:
        with trio.fail_after(WAIT):
            while data := await self.stream.receive_some():
                self.buffer += data
        return self.buffer

    async def login(self, name: str = "hanako") -> None:
        assert (await self.line()).startswith(b"+OK POP3")
        await self.say(b"USER %b\r\nPASS pw\r\n" % name.encode())
        assert await self.line() == b"+OK\r\n"
        assert (await self.line()).startswith(b"+OK ")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(house.committer.run)
        for attribute, handler in (
            ("port", house.service.handler),
            ("tls_port", partial(house.service.handler, implicit_tls=True)),
        ):
            (listener,) = listeners = await open_listeners([Address("127.0.0.1", 0)])
            setattr(house, attribute, listener.socket.getsockname()[1])
            await nursery.start(
                partial(serve, "pop3", listeners, handler, limits=ClientLimits(5, 8), refuse=Pop3Service.refuse)
            )
        yield house
        for stream in house.streams:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def in_thread(work: Callable[[], None]) -> None:
    with trio.fail_after(2 * WAIT):
        await trio.to_thread.run_sync(work)


# ---- mail programs
@pytest.mark.parametrize("how", ["plain", "stls", "implicit"])
async def test_poplib_reads_and_deletes(house: House, how: str) -> None:
    house.put(*MAILS)

    def client() -> None:
        if how == "implicit":
            pop: poplib.POP3 = poplib.POP3_SSL("127.0.0.1", house.tls_port, context=house.client_tls, timeout=WAIT)
        else:
            pop = house.poplib()
        assert ("STLS" in pop.capa()) == (how != "implicit")
        if how == "stls":
            pop.stls(house.client_tls)
            assert "STLS" not in pop.capa()
        pop.user("hanako@harbour.example")
        pop.pass_("pw")
        assert pop.stat() == (4, sum(map(len, MAILS)))
        assert [int(line.split()[1]) for line in pop.list()[1]] == [len(m) for m in MAILS]
        uidls = [line.split()[1] for line in pop.uidl()[1]]
        assert len(set(uidls)) == 4
        for i, mail in enumerate(MAILS, 1):
            got = b"".join(line + b"\r\n" for line in pop.retr(i)[1])
            assert got == (mail if mail.endswith(b"\r\n") or not mail else mail + b"\r\n")
        assert pop.top(1, 1)[1] == [b"Subject: one", b"", b".first"]
        pop.dele(1)
        pop.dele(3)
        assert pop.quit().startswith(b"+OK")
        again = house.poplib()
        again.user("hanako")
        again.pass_("pw")
        assert [line.split()[1] for line in again.uidl()[1]] == [uidls[1], uidls[3]]
        again.quit()

    await in_thread(client)
    assert house.left() == [MAILS[1], MAILS[3]]


@pytest.mark.parametrize("keep", [True, False])
async def test_fetchmail_takes_the_mail(house: House, tmp_path: Path, keep: bool) -> None:
    assert shutil.which("fetchmail"), "fetchmail is not installed (scripts/test installs it)"
    house.put(*MAILS[:2])
    box, rc = tmp_path / "taken", tmp_path / "fetchmailrc"
    rc.write_text(
        f"poll 127.0.0.1 service {house.port} protocol pop3 no dns\n"
        f'  user "hanako" password "pw" {"keep" if keep else "nokeep"} fetchall no rewrite sslproto ""'
        f' mda "cat >> {box}"\n'
    )
    rc.chmod(0o600)
    environment = {**os.environ, "FETCHMAILHOME": str(tmp_path), "HOME": str(tmp_path)}
    command = ["fetchmail", "-f", str(rc), "-N", "--nosyslog", "--invisible", "--pidfile", str(tmp_path / "pid")]
    with trio.fail_after(2 * WAIT):
        run = await trio.run_process(command, env=environment, capture_stdout=True, capture_stderr=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    text = box.read_bytes()
    assert b"Subject: one\n\n.first\n..\n" in text
    assert b"Subject: two\n\nno end" in text
    assert house.left() == (MAILS[:2] if keep else [])


async def test_curl_reads_one(house: House) -> None:
    assert shutil.which("curl"), "curl is not installed (scripts/test installs it)"
    house.put(MAILS[0])
    url = f"pop3://127.0.0.1:{house.port}/1"
    command = ["curl", "-sS", "--max-time", "15", "--user", "hanako:pw", "--login-options", "AUTH=PLAIN", url]
    run = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert (run.stdout, run.stderr) == (MAILS[0], b"")


# ---- raw sockets
async def test_byte_at_a_time(house: House) -> None:
    house.put(MAILS[0])
    raw = await house.connect()
    for byte in b"USER hanako\r\nPASS pw\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n":
        await raw.say(bytes([byte]))
    stuffed = MAILS[0].replace(b"\r\n.", b"\r\n..")
    expected = b"+OK %d octets\r\n%b.\r\n+OK\r\n+OK bye\r\n" % (len(MAILS[0]), stuffed)
    assert (await raw.rest()).endswith(expected)
    assert house.left() == []


async def test_a_flight_of_a_thousand_commands_goes_out_in_few_writes(house: House, monkeypatch) -> None:
    house.put(*MAILS)
    writes = []
    send = PromptStream.send_all

    async def counting(self: PromptStream, data: bytes) -> None:
        if self.socket.getsockname()[1] == house.port:
            writes.append(len(data))
        await send(self, data)

    monkeypatch.setattr(PromptStream, "send_all", counting)
    raw = await house.connect()
    await raw.login()
    writes.clear()
    commands = b"".join(b"RETR %d\r\nTOP 1 0\r\nUIDL 2\r\nNOOP\r\n" % (i % 4 + 1) for i in range(250))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.say, commands + b"QUIT\r\n")
        got = await raw.rest()
    assert got.count(b"octets\r\n") == 250
    assert got.endswith(b"+OK\r\n+OK bye\r\n")
    assert len(writes) <= 1 + sum(writes) // module.CHUNK + len(commands) // 1000
    assert max(writes) <= module.CHUNK


async def test_what_was_injected_before_tls_is_not_obeyed(house: House) -> None:
    house.put(*MAILS)
    raw = await house.connect()
    await raw.line()
    await raw.say(b"STLS\r\nUSER hanako\r\nPASS pw\r\nDELE 1\r\nQUIT\r\n")
    assert await raw.line() == b"+OK begin TLS\r\n"
    tls = trio.SSLStream(raw.stream, house.client_tls, server_hostname="127.0.0.1")
    await tls.do_handshake()
    raw = Raw(tls)
    await raw.say(b"STAT\r\n")
    assert await raw.line() == b"-ERR not now\r\n"
    await raw.say(b"USER hanako\r\nPASS pw\r\nSTAT\r\nQUIT\r\n")
    assert (await raw.rest()).startswith(b"+OK\r\n+OK 4 messages\r\n+OK 4 ")
    assert house.left() == MAILS


async def test_a_login_from_elsewhere_needs_tls(house: House) -> None:
    ours, theirs = await trio_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.service.handler, ours, "192.168.77.20")
        raw = Raw(theirs)
        await raw.line()
        await raw.say(b"USER hanako\r\nAUTH PLAIN\r\nQUIT\r\n")
        assert await raw.rest() == b"-ERR TLS is needed first: STLS\r\n" * 2 + b"+OK bye\r\n"
        await theirs.aclose()
    await ours.aclose()


async def trio_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    one, two = trio.socket.socketpair()
    return trio.SocketStream(one), trio.SocketStream(two)


@pytest.mark.parametrize("garbage", [b"\0" * 500, b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n" * 99, b""])
async def test_garbage_ends_its_own_connection_only(house: House, garbage: bytes) -> None:
    for port in (house.port, house.tls_port):
        raw = await house.connect(port)
        await raw.say(garbage)
        await house.streams[-1].send_eof()
        try:
            await raw.rest()
        except trio.BrokenResourceError:
            pass
    raw = await house.connect()
    await raw.login()


async def test_wrong_passwords_are_refused_and_the_connection_closed(house: House) -> None:
    raw = await house.connect()
    await raw.say(b"USER hanako\r\nPASS no\r\nAUTH PLAIN AGFhAGJi\r\nQUIT\r\n")
    wrong = b"-ERR [AUTH] wrong name or password\r\n"
    assert (await raw.rest()).endswith(b"+OK\r\n" + wrong + wrong + b"+OK bye\r\n")


async def test_over_the_limits(house: House) -> None:
    held = [await house.connect() for _ in range(5)]
    for raw in held:
        await raw.line()
    assert await (await house.connect()).rest() == b"-ERR [SYS/TEMP] too many connections from your address\r\n"


# ---- the maildrop
async def test_the_lock(house: House) -> None:
    house.put(MAILS[0])
    first, second, other = [await house.connect() for _ in range(3)]
    await first.login()
    await other.login("taro")
    await second.line()
    await second.say(b"USER hanako\r\nPASS pw\r\n")
    assert await second.line() == b"+OK\r\n"
    assert await second.line() == b"-ERR [IN-USE] another session has the maildrop\r\n"
    await first.say(b"DELE 1\r\nQUIT\r\n")
    await first.until(b"+OK bye\r\n")
    await second.say(b"USER hanako\r\nPASS pw\r\n")  # at once: the lock went before the goodbye
    assert await second.line() == b"+OK\r\n"
    assert await second.line() == b"+OK 0 messages\r\n"
    await second.stream.aclose()  # without QUIT
    with trio.fail_after(WAIT):
        while "hanako" in house.service.locked:
            await trio.sleep(0.01)


@pytest.mark.parametrize("deletes", [b"", b"DELE 1\r\n"])
async def test_the_lock_goes_before_the_goodbye(house: House, monkeypatch: pytest.MonkeyPatch, deletes: bytes) -> None:
    house.put(MAILS[0])
    send = PromptStream.send_all
    locked_at_goodbye = []

    async def looking(self: PromptStream, data: bytes) -> None:
        if bytes(data).endswith(b"bye\r\n"):
            locked_at_goodbye.append(set(house.service.locked))
        await send(self, data)

    monkeypatch.setattr(PromptStream, "send_all", looking)
    raw = await house.connect()
    await raw.login()
    assert house.service.locked == {"hanako"}
    await raw.say(deletes + b"QUIT\r\n")
    await raw.until(b"bye\r\n")
    assert locked_at_goodbye == [set()]


async def test_nothing_is_deleted_without_quit(house: House) -> None:
    house.put(*MAILS)
    raw = await house.connect()
    await raw.login()
    await raw.say(b"DELE 1\r\nDELE 2\r\nQUI")
    await raw.until(b"+OK\r\n+OK\r\n")
    await raw.stream.aclose()
    with trio.fail_after(WAIT):
        while house.service.locked:
            await trio.sleep(0.01)
    assert house.left() == MAILS


async def test_ok_to_quit_comes_after_the_flush(house: House) -> None:
    house.put(*MAILS)
    raw = await house.connect()
    await raw.login()
    flushes = house.committer.disk.flushes
    await raw.say(b"".join(b"DELE %d\r\n" % i for i in range(1, 5)) + b"QUIT\r\n")
    await raw.until(b"+OK bye\r\n")
    assert house.committer.disk.flushes == flushes + 1
    assert house.left() == []


async def test_a_deletion_that_fails_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]
) -> None:
    expected_errors.append("the disk failed")
    house.put(*MAILS)

    def broken(path: Path, *, moved: bool) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(house.committer.disk, "unlink", broken)
    raw = await house.connect()
    await raw.login()
    await raw.say(b"DELE 1\r\nQUIT\r\n")
    assert (await raw.rest()).endswith(b"+OK\r\n-ERR [SYS/TEMP] some messages could not be deleted\r\n")
    assert house.left() == MAILS


async def test_what_another_program_moves_or_deletes_meanwhile(house: House) -> None:
    house.put(*MAILS)
    raw = await house.connect()
    await raw.login()
    one, two, *_ = house.mailboxes["hanako"].messages()
    one.path.rename(one.path.parent.parent / "cur" / f"{one.path.name}:2,S")
    two.path.unlink()
    await raw.say(b"RETR 2\r\nRETR 1\r\nDELE 1\r\nDELE 2\r\nQUIT\r\n")
    got = await raw.rest()
    assert got.startswith(b"-ERR the message has been deleted by another program\r\n+OK 28 octets\r\nSubject: one")
    assert got.endswith(b".\r\n+OK\r\n+OK\r\n+OK bye\r\n")
    assert house.left() == MAILS[2:]


async def test_memory_does_not_grow_with_the_message(house: House) -> None:
    block = (b"x" * 70 + b"\r\n.dots\n") * 1000
    size = 400 * len(block)
    source = house.root / "spool" / "incoming" / "big"
    crc = 0
    with source.open("wb") as file:
        for _ in range(400):
            file.write(block)
            crc = zlib.crc32(block, crc)
    house.mailboxes["hanako"].move_in(source, size, crc)
    raw = await house.connect()
    await raw.login()
    await raw.say(b"TOP 1 2\r\nRETR 1\r\n")
    assert (await raw.line()).startswith(b"+OK")
    received, tail = 0, b""
    tracemalloc.start()
    try:
        with trio.fail_after(3 * WAIT):
            while not tail.endswith(b"\r\n.\r\n") or received < size:
                data = await raw.stream.receive_some(65536)
                received += len(data)
                tail = (tail + data)[-8:]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received > size > 30_000_000
    assert peak < 2_000_000


async def test_top_reads_no_more_than_it_needs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.put(b"Subject: x\r\n\r\n" + b"line\r\n" * 500_000)
    box = house.mailboxes["hanako"]
    open_message = box.open
    reads: list[int] = []

    class Counting:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file
            self.close = file.close

        def read(self, size: int) -> bytes:
            reads.append(size)
            return self.file.read(size)

    monkeypatch.setattr(box, "open", lambda message: Counting(open_message(message)))
    raw = await house.connect()
    await raw.login()
    await raw.say(b"TOP 1 1\r\n")
    assert await raw.until(b"\r\n.\r\n") == b"+OK\r\nSubject: x\r\n\r\nline\r\n.\r\n"
    assert reads == [module.CHUNK]


# ---- deadlines
async def session_at(house: House, nursery: trio.Nursery) -> Raw:
    ours, theirs = await trio_pair()

    async def run() -> None:
        await house.service.handler(ours, "127.0.0.1")
        await ours.aclose()

    nursery.start_soon(run)
    return Raw(theirs)


async def settle(clock: trio.testing.MockClock, seconds: float) -> None:
    """Lets what real sockets brought be read, then moves the clock."""
    for _ in range(50):
        await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)


async def ended(raw: Raw) -> None:
    while await raw.stream.receive_some():
        pass
    await raw.stream.aclose()


async def test_idle_for_ten_minutes_is_allowed_and_not_more(
    house: House, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert house.service.idle_timeout_s == module.IDLE_AT_LEAST_S
    async with trio.open_nursery() as nursery:
        raw = await session_at(house, nursery)
        assert await raw.line()
        await settle(mock_clock, 599)
        await raw.say(b"CAPA\r\n")
        await raw.until(b".\r\n")
        await settle(mock_clock, 599)
        await raw.say(b"CAPA\r\n")
        await raw.until(b".\r\n")
        with caplog.at_level("INFO"):
            await settle(mock_clock, 601)
            await ended(raw)
    assert "idle for too long" in caplog.text


async def test_a_command_is_complete_within_a_minute(
    house: House, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        raw = await session_at(house, nursery)
        assert await raw.line()
        await raw.say(b"CA")
        await settle(mock_clock, 59)
        await raw.say(b"PA\r\nNO")  # the first is complete: the second has its own minute
        await raw.until(b".\r\n")
        await settle(mock_clock, 59)
        await raw.say(b"OP\r\n")
        assert await raw.line() == b"-ERR not now\r\n"
        with caplog.at_level("INFO"):
            await raw.say(b"NO")
            await settle(mock_clock, 40)
            await raw.say(b"O")  # a byte now and then wins no time
            await settle(mock_clock, 21)
            await ended(raw)
    assert "a command was not completed in time" in caplog.text


async def test_a_client_that_takes_nothing_is_closed(
    house: House, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    house.put(b"x\r\n" * 1_000_000)
    async with trio.open_nursery() as nursery:
        raw = await session_at(house, nursery)
        await raw.login()
        await raw.say(b"RETR 1\r\n")
        with caplog.at_level("INFO"), trio.move_on_after(10_000):
            while house.service.locked:  # given back once the session has ended, just behind its line in the journal
                await settle(mock_clock, module.SEND_S + 1)
        await raw.stream.aclose()
    assert "the client takes nothing" in caplog.text
