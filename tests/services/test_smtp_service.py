"""SMTP submission over loopback: logins, refusals, whole sessions at once, deadlines, limits, stopping, memory."""

from __future__ import annotations

import base64
import os
import re
import smtplib
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.config.model import Smarthost
from appliance.mail.envelope import Priority
from appliance.mail.header import MAX_HEADER, MAX_RECEIVED
from appliance.mail.lan import smtp as module
from appliance.mail.lan.logins import Logins
from appliance.mail.lan.smtp import SmtpService
from appliance.mail.store.fetched import FetchedRecord, Known, KnownState
from appliance.storage.draft import BUFFER
from appliance.transport.listen import Address, ClientLimits, open_listeners, serve
from appliance.transport.self_signed import make_self_signed
from appliance.transport.tls import server_context
from fakes.office import FAR, HANAKO, MAIL, TARO, USERS, FakeOffice

WAIT = 20.0
"""Seconds that a test waits for anything on loopback."""
LOGIN = b"AUTH PLAIN " + base64.b64encode(b"\0hanako\0pw") + b"\r\n"
ENVELOPE = b"MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<boss@far.example>\r\n"


class Client:
    """A conversation by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def reply(self) -> str:
        """The next whole reply."""
        out = ""
        with trio.fail_after(WAIT):
            while True:
                line, end, rest = self.buffer.partition(b"\r\n")
                if end:
                    self.buffer = rest
                    out += line.decode() + "\n"
                    if line[3:4] == b" ":
                        return out[:-1]
                    continue
                data = await self.stream.receive_some()
                assert data, f"closed behind {out!r}{self.buffer!r}"
                self.buffer += data

    async def say(self, data: bytes, count: int = 1) -> list[str]:
        """Sends it in one piece; -> so many replies."""
        await self.stream.send_all(data)
        return [await self.reply() for _ in range(count)]

    async def codes(self, data: bytes, count: int = 1) -> list[str]:
        """The same; of each reply its code and enhanced status code."""
        return [" ".join(re.findall(r"^\d\d\d|(?<=^\d\d\d )[245]\.\d+\.\d+", r)) for r in await self.say(data, count)]

    async def ends(self) -> bytes:
        """What comes until the server closes."""
        with trio.fail_after(WAIT):
            while data := await self.stream.receive_some():
                self.buffer += data
        return self.buffer

    async def hello(self, login: bytes = LOGIN) -> None:
        assert (await self.reply()).startswith("220 ")
        await self.say(b"EHLO pc.example\r\n" + login, 1 + bool(login))


class House:
    """A service on loopback. `start` may be called again with other options; sessions of before stay."""

    def __init__(self, root: Path, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self.office = FakeOffice(root / "state")
        self.stack, self.nursery = stack, nursery
        certificate, key = make_self_signed(["127.0.0.1"])
        (root / "cert.pem").write_bytes(certificate)
        (root / "key.pem").write_bytes(key)
        self.tls = server_context(root / "cert.pem", root / "key.pem")
        self.client_tls = ssl.create_default_context(cafile=str(root / "cert.pem"))
        self.verify: Callable[[str, str], bool] = lambda password, stored: (password, stored) == ("pw", "s")
        self.service: SmtpService
        self.port = 0

    async def start(self, *, limits: ClientLimits | None = None, implicit: bool = False, **mail: Any) -> None:
        self.office.configure(MAIL, **mail)
        logins = Logins(USERS, verify=self.verify)
        self.service = SmtpService(self.office.office, logins, self.office.mail, self.office.clock, tls=self.tls)
        listeners = await open_listeners([Address("127.0.0.1", 0)])
        self.port = listeners[0].socket.getsockname()[1]
        handler = self.service.handle_tls if implicit else self.service.handle
        limits = limits or ClientLimits(100, 100)
        await self.nursery.start(partial(serve, "smtp", listeners, handler, limits=limits, refuse=self.service.refuse))

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.stack.push_async_callback(trio.aclose_forcefully, stream)
        return Client(stream)

    async def hello(self, login: bytes = LOGIN) -> Client:
        client = await self.connect()
        await client.hello(login)
        return client

    def sent(self) -> list[bytes]:
        """The messages that wait for a call, without the fields that were put in front."""
        office = self.office.office
        return [office.path(e).read_bytes() for e in office.pending()]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "DEADLINE_STEP_S", 0.0)  # the deadlines of these tests are shorter
    (tmp_path / "state").mkdir()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        it = House(tmp_path, stack, nursery)
        await nursery.start(it.office.committer.run)
        yield it
        nursery.cancel_scope.cancel()


def body(raw: bytes) -> bytes:
    """A message without the fields that submission puts in front of it."""
    return raw[re.search(rb"(?m)^(?!(?:Received|Return-Path|Message-ID|Date):|[ \t])", raw).start() :]  # type: ignore[union-attr]


# ---- mail programs
async def test_smtplib_with_starttls(house: House) -> None:
    await house.start()

    def submit() -> None:
        with smtplib.SMTP("127.0.0.1", house.port, timeout=WAIT) as client:
            client.starttls(context=house.client_tls)
            client.login("hanako@harbour.example", "pw")
            client.send_message(message(), HANAKO, [FAR, TARO])

    await trio.to_thread.run_sync(submit)
    (sent,) = house.sent()
    received = " ".join(sent.split(b"Message-ID")[0].decode().split())
    assert re.fullmatch(
        r"Received: from \S+ \(\[127\.0\.0\.1\]\) by harbour\.harbour\.example with ESMTPSA id \w+; .* \+0000", received
    )
    (copy,) = house.office.mailbox("taro")
    assert copy == b"Return-Path: <hanako@harbour.example>\r\n" + sent


async def test_smtplib_with_implicit_tls(house: House) -> None:
    await house.start(implicit=True)

    def submit() -> None:
        with smtplib.SMTP_SSL("127.0.0.1", house.port, timeout=WAIT, context=house.client_tls) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            client.login("hanako", "pw")
            client.send_message(message(), HANAKO, [FAR])

    await trio.to_thread.run_sync(submit)
    assert len(house.sent()) == 1


def message() -> Any:
    from email.message import EmailMessage

    out = EmailMessage()
    out["Subject"] = "hello"
    out.set_content(".dot\n..\n")
    return out


@pytest.mark.parametrize("noise", [b"hello\r\n", b"\x16\x03\x01\xff\xff", b""])
async def test_noise_on_an_implicit_tls_listener_is_no_harm(house: House, noise: bytes) -> None:
    await house.start(implicit=True)
    client = await house.connect()
    await client.stream.send_all(noise) if noise else await client.stream.aclose()
    if noise:
        await client.stream.send_eof()  # type: ignore[attr-defined]
        await client.ends()
    with trio.fail_after(WAIT):
        stream = await trio.open_tcp_stream("127.0.0.1", house.port)
        tls = trio.SSLStream(stream, house.client_tls, server_hostname="127.0.0.1")
        assert (await Client(tls).reply()).startswith("220 ")
        await trio.aclose_forcefully(tls)


# ---- who may send what
async def test_login_is_required(house: House) -> None:
    await house.start()
    client = await house.hello(b"")
    assert await client.codes(ENVELOPE, 2) == ["530 5.7.0", "503 5.5.1"]
    assert await client.codes(b"AUTH PLAIN " + base64.b64encode(b"\0hanako\0wrong") + b"\r\n") == ["535 5.7.8"]
    assert await client.codes(ENVELOPE, 2) == ["530 5.7.0", "503 5.5.1"]
    assert await client.codes(LOGIN + ENVELOPE, 3) == ["235 2.7.0", "250 2.1.0", "250 2.1.5"]


@pytest.mark.parametrize(
    "options",
    [{"require_login": False}, {"trusted_networks": ("127.0.0.0/8",)}, {"trusted_networks": ("::1", "127.0.0.1")}],
)
async def test_without_a_login(house: House, options: dict[str, Any]) -> None:
    await house.start(**options, smarthost=(Smarthost(host="a", senders=("*@far.example",)),))
    client = await house.hello(b"")
    said = b"MAIL FROM:<camera@far.example>\r\nRCPT TO:<boss@far.example>\r\nDATA\r\n"
    assert await client.codes(said, 3) == ["250 2.1.0", "250 2.1.5", "354"]
    assert await client.codes(b"Priority: urgent\r\n\r\n.\r\n") == ["250 2.0.0"]
    (envelope,) = house.office.office.pending()
    assert (envelope.user, envelope.client) == ("", "127.0.0.1")
    assert house.office.office.prospect().urgent == 0
    assert envelope.priority is Priority.NORMAL  # it jumps no queue
    # Another sender has no smarthost here, not even a user's address.
    for sender in (b"x@other.example", b"taro@harbour.example"):
        said = b"MAIL FROM:<" + sender + b">\r\nRCPT TO:<hanako@harbour.example>\r\n"
        assert await client.codes(said, 2) == ["550 5.7.1", "503 5.5.1"]
    assert await client.codes(b"MAIL FROM:<>\r\nRCPT TO:<hanako@harbour.example>\r\n", 2) == ["250 2.1.0", "250 2.1.5"]


async def test_a_site_without_smarthosts_takes_local_mail_without_a_login(house: House) -> None:
    await house.start(trusted_networks=("127.0.0.1",), smarthost=())
    client = await house.hello(b"")
    said = b"MAIL FROM:<camera@far.example>\r\nRCPT TO:<boss@far.example>\r\nRCPT TO:<taro@harbour.example>\r\n"
    assert await client.codes(said, 3) == ["250 2.1.0", "550 5.7.1", "250 2.1.5"]


@pytest.mark.parametrize(
    ("login", "parameter", "field", "priority"),
    [
        (b"", b"", b"Priority: urgent", Priority.NORMAL),
        (b"", b" MT-PRIORITY=9", b"Subject: x", Priority.NORMAL),
        (b"", b" MT-PRIORITY=-9", b"Priority: urgent", Priority.NON_URGENT),
        (b"", b"", b"Priority: non-urgent", Priority.NON_URGENT),
        (LOGIN, b"", b"Priority: urgent", Priority.URGENT),
        (LOGIN, b" MT-PRIORITY=9", b"Subject: x", Priority.URGENT),
    ],
)
async def test_who_may_be_urgent(
    house: House, login: bytes, parameter: bytes, field: bytes, priority: Priority
) -> None:
    await house.start(trusted_networks=("127.0.0.1",))
    client = await house.hello(login)
    await client.say(ENVELOPE.replace(b"example>", b"example>" + parameter, 1) + b"DATA\r\n", 3)
    assert await client.codes(field + b"\r\n\r\n.\r\n") == ["250 2.0.0"]
    (envelope,) = house.office.office.pending()
    assert envelope.priority is priority


async def test_another_network_is_not_trusted(house: House) -> None:
    await house.start(trusted_networks=("192.168.77.0/24", "fd00::/8"))
    client = await house.hello(b"")
    assert await client.codes(b"MAIL FROM:<>\r\n") == ["530 5.7.0"]


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        ("hanako@harbour.example", "250 2.1.0"),
        ("Hanako+x@ISP.example", "250 2.1.0"),
        ("", "250 2.1.0"),
        ("taro@harbour.example", "553 5.7.1"),
        ("hanako@far.example", "553 5.7.1"),
    ],
)
async def test_whose_sender(house: House, sender: str, code: str) -> None:
    await house.start()
    client = await house.hello()
    assert await client.codes(f"MAIL FROM:<{sender}>\r\n".encode()) == [code]


async def test_tls_forgets_the_login_of_before(house: House) -> None:
    await house.start()
    client = await house.hello()
    assert await client.codes(b"STARTTLS\r\nMAIL FROM:<hanako@harbour.example>\r\n") == ["220 2.0.0"]
    with trio.fail_after(WAIT):
        tls = trio.SSLStream(client.stream, house.client_tls, server_hostname="127.0.0.1")
        await tls.do_handshake()
    secure = Client(tls)
    assert await secure.codes(b"EHLO pc\r\nMAIL FROM:<hanako@harbour.example>\r\n", 2) == ["250", "530 5.7.0"]


@pytest.mark.parametrize(("plaintext", "offered"), [(False, False), (True, True)])
async def test_plaintext_login_from_elsewhere(house: House, plaintext: bool, offered: bool) -> None:
    """Loopback may always; another address under TLS only, or where the configuration allows it."""
    await house.start(plaintext_login=plaintext)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.service.handle, theirs, "192.168.77.20")
        client = Client(ours)
        await client.reply()
        (answer,) = await client.say(b"EHLO pc\r\n")
        assert ("AUTH" in answer) is offered
        assert "STARTTLS" in answer
        assert await client.codes(LOGIN) == ["235 2.7.0" if offered else "538 5.7.11"]
        await ours.aclose()


async def test_busy_logins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.mail.lan.logins.QUEUE_LIMIT", 0)
    await house.start()
    client = await house.hello(b"")
    assert await client.codes(LOGIN) == ["454 4.7.0"]


async def test_recipients(house: House) -> None:
    await house.start(recipient_limit=2)
    client = await house.hello()
    said = b"MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<nobody@harbour.example>\r\n" + b"".join(
        b"RCPT TO:<u%d@far.example>\r\n" % i for i in range(4)
    )
    assert await client.codes(said, 6) == ["250 2.1.0", "550 5.1.1", *["250 2.1.5"] * 2, *["452 4.5.3"] * 2]
    assert await client.codes(b"DATA\r\n") == ["354"]
    assert await client.codes(b"x: y\r\n\r\n.\r\n") == ["250 2.0.0"]
    (envelope,) = house.office.office.pending()
    assert len(envelope.recipients) == 2


async def test_a_mailbox_without_room(house: House) -> None:
    await house.start()
    house.office.mailboxes["taro"].quota_bytes = 100
    client = await house.hello()
    said = b"MAIL FROM:<hanako@harbour.example> SIZE=%d\r\nRCPT TO:<taro@harbour.example>\r\nRSET\r\n"
    assert await client.codes(said % 101, 3) == ["250 2.1.0", "452 4.2.2", "250 2.0.0"]
    assert await client.codes(said % 100, 3) == ["250 2.1.0", "250 2.1.5", "250 2.0.0"]


@pytest.mark.parametrize("declared", [b"", b" SIZE=10"])
async def test_a_message_larger_than_declared_and_than_the_quota(house: House, declared: bytes) -> None:
    await house.start()
    house.office.mailboxes["taro"].quota_bytes = 2000
    client = await house.hello()
    said = b"MAIL FROM:<hanako@harbour.example>" + declared + b"\r\nRCPT TO:<taro@harbour.example>\r\n"
    said += b"RCPT TO:<hanako@harbour.example>\r\nRCPT TO:<boss@far.example>\r\nDATA\r\n"
    for size, code in ((200_000, "452 4.2.2"), (3000, "452 4.2.2"), (100, "250 2.0.0")):
        assert await client.codes(said, 5) == ["250 2.1.0", *["250 2.1.5"] * 3, "354"]
        assert await client.codes(b"x: y\r\n\r\n" + b"z" * size + b"\r\n.\r\n") == [code]
        count = code.startswith("250")
        assert len(house.sent()) == len(house.office.mailbox("taro")) == len(house.office.mailbox("hanako")) == count
    assert not list(house.office.paths.incoming.iterdir())


async def test_sizes(house: House) -> None:
    await house.start(message_limit_bytes=10_000)
    house.office.office.call_capacity = lambda: 5000
    client = await house.hello()
    mail, rcpt = b"MAIL FROM:<hanako@harbour.example>", b"RCPT TO:<boss@far.example>\r\n"
    assert await client.codes(mail + b" SIZE=10001\r\n") == ["552 5.3.4"]
    codes = await client.codes(mail + b" SIZE=6000\r\n" + rcpt + b"RSET\r\n", 3)
    assert codes == ["250 2.1.0", "552 5.3.4", "250 2.0.0"]
    for size, code in ((6000, "552 5.3.4"), (10_001, "552 5.3.4"), (4000, "250 2.0.0")):  # not said beforehand
        await client.say(mail + b"\r\n" + rcpt + b"DATA\r\n", 3)
        assert await client.codes(b"x: y\r\n\r\n" + b"z" * (size - 10) + b"\r\n.\r\n") == [code]
    assert len(house.sent()) == 1
    assert not list(house.office.paths.incoming.iterdir())


async def test_a_full_disk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.start()
    client = await house.hello()
    with monkeypatch.context() as full:
        full.setattr(type(house.office.office), "free_bytes", lambda self: 0)
        assert await client.codes(ENVELOPE, 2) == ["452 4.3.1", "503 5.5.1"]
    await client.say(ENVELOPE + b"DATA\r\n", 3)
    with monkeypatch.context() as full:

        def create(*arguments: object, **more: object) -> int:
            raise OSError(28, "No space left on device")

        full.setattr(house.office.disk, "create", create)
        assert await client.codes(b"x: y\r\n\r\n" + b"z" * 300_000 + b"\r\n.\r\n") == ["452 4.3.1"]
    assert await client.codes(ENVELOPE + b"DATA\r\n", 3) == ["250 2.1.0", "250 2.1.5", "354"]
    assert await client.codes(b"x: y\r\n\r\n.\r\n") == ["250 2.0.0"]
    assert not list(house.office.paths.incoming.iterdir())


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_the_reserve_is_kept_while_a_message_comes(
    house: House, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little was declared: what is written exceeds what new mail may use by a draft's buffer at most."""
    await house.start()
    client = await house.hello()
    data = b"x: y\r\n\r\n" + b"z" * 3_000_000 + b"\r\n"
    room = 1_000_000
    written = 0
    write = house.office.disk.write

    def count(fd: int, piece: bytes | bytearray) -> None:
        nonlocal written
        written += len(piece)
        write(fd, piece)

    with monkeypatch.context() as filling:
        filling.setattr(house.office.disk, "write", count)
        filling.setattr(type(house.office.office), "free_bytes", lambda self: room - written)
        if verb == "DATA":
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            assert await client.codes(data + b".\r\n") == ["452 4.3.1"]
        else:
            assert await client.codes(ENVELOPE + b"BDAT %d LAST\r\n" % len(data) + data, 3) == [
                "250 2.1.0", "250 2.1.5", "452 4.3.1",
            ]  # fmt: skip
        assert 0 < written <= room + 2 * BUFFER
        assert not list(house.office.paths.incoming.iterdir())
    assert await client.codes(ENVELOPE + b"DATA\r\n", 3) == ["250 2.1.0", "250 2.1.5", "354"]
    assert await client.codes(b"x: y\r\n\r\n.\r\n") == ["250 2.0.0"]


async def test_a_disk_that_fails(house: House, monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]) -> None:
    expected_errors.append("the disk failed")
    await house.start()
    client = await house.hello()

    def rename(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(house.office.disk, "rename", rename)
    await client.say(ENVELOPE + b"DATA\r\n", 3)
    assert await client.codes(b"x: y\r\n\r\n.\r\nNOOP\r\n", 2) == ["451 4.3.0", "250 2.0.0"]
    assert house.sent() == []
    assert not [p for p in house.office.files() if p.startswith("spool/")]


# ---- what is kept
async def test_a_whole_session_in_one_packet(house: House) -> None:
    await house.start()
    client = await house.connect()
    text = b"Message-ID: <1@pc>\r\nDate: today\r\nSubject: 1\r\n\r\nhi\r\n"
    chunk = b"Subject: 2\r\n\r\n.\r\nhi"
    said = (
        b"EHLO pc.example\r\n" + LOGIN + ENVELOPE + b"DATA\r\n" + text + b"..\r\n.\r\n"
        + ENVELOPE + b"BDAT 5\r\n" + chunk[:5] + b"BDAT %d LAST\r\n" % (len(chunk) - 5) + chunk[5:]
        + ENVELOPE + b"RSET\r\nNOOP\r\nQUIT\r\nNOOP\r\n"
    )  # fmt: skip
    await client.stream.send_all(said)
    replies = (await client.ends()).decode().split("\r\n")
    codes = [r[:3] for r in replies if r[3:4] == " "]
    assert codes == [
        "220",
        "250",
        "235",
        "250",
        "250",
        "354",
        "250",
        "250",
        "250",
        "250",
        "250",
        "250",
        "250",
        "250",
        "250",
        "221",
    ]
    first, second = house.sent()
    assert first.endswith(b"\r\n" + text + b".\r\n")
    assert first.count(b"Message-ID:") == first.count(b"Date:") == 1
    assert body(second) == chunk
    assert second.count(b"Message-ID: <") == second.count(b"Date: ") == 1


async def test_what_the_envelope_keeps(house: House) -> None:
    await house.start()
    client = await house.hello()
    said = (
        b"MAIL FROM:<hanako@harbour.example> BODY=8BITMIME SIZE=100 RET=HDRS ENVID=QQ+2B1 MT-PRIORITY=3\r\n"
        b"RCPT TO:<boss@far.example> NOTIFY=NEVER ORCPT=rfc822;Boss@far.example\r\nDATA\r\n"
    )
    assert await client.codes(said, 3) == ["250 2.1.0", "250 2.1.5", "354"]
    await client.say("Priority: non-urgent\r\n\r\ngrüße\r\n.\r\n".encode())
    (e,) = house.office.office.pending()
    assert (e.body, e.ret, e.envid, e.mt_priority, e.smtputf8) == ("8BITMIME", "HDRS", "QQ+2B1", 3, False)
    assert e.priority is Priority.URGENT  # said in the envelope, that holds
    assert (e.recipients[0].notify, e.recipients[0].orcpt) == ("NEVER", "rfc822;Boss@far.example")
    assert e.user == "hanako"
    assert e.message_id == f"<{e.id}@harbour.harbour.example>"
    assert house.sent()[0].endswith("grüße\r\n".encode())
    assert b"for <boss@far.example>;" in house.sent()[0]


async def test_a_huge_message_id_stays_in_the_message_alone(house: House) -> None:
    await house.start()
    client = await house.hello()
    await client.say(ENVELOPE + b"DATA\r\n", 3)
    text = b"Message-ID: <" + b"x" * 200_000 + b"@pc>\r\n\r\nhi\r\n"
    assert await client.codes(text + b".\r\n") == ["250 2.0.0"]
    (envelope,) = house.office.office.pending()
    assert envelope.message_id == ""
    (sent,) = house.sent()
    assert sent.count(b"Message-ID:") == 1
    assert sent.endswith(text)


async def test_addresses_beyond_ascii(house: House) -> None:
    await house.start()
    client = await house.hello()
    said = (
        "MAIL FROM:<hanako@harbour.example> SMTPUTF8\r\nRCPT TO:<花子@far.example>\r\n"
        "RCPT TO:<Тaro@harbour.example>\r\nDATA\r\n"
    )
    assert await client.codes(said.encode(), 4) == ["250 2.1.0", "250 2.1.5", "250 2.1.5", "354"]
    assert await client.codes("Subject: 件名\r\n\r\n.\r\n".encode()) == ["250 2.0.0"]
    (e,) = house.office.office.pending()
    assert (e.smtputf8, e.recipients[0].address) == (True, "花子@far.example")
    assert b" with UTF8SMTPA id " in house.sent()[0]
    assert len(house.office.mailbox("taro")) == 1
    said = "MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<花子@far.example>\r\n"
    assert await client.codes(said.encode(), 2) == ["250 2.1.0", "553 5.6.7"]


@pytest.mark.parametrize("orcpt", [b"utf-8;\xff@far.example", b"rfc822;b\xc3\xa4@far.example"])
async def test_an_original_recipient_that_is_no_ascii(house: House, orcpt: bytes) -> None:
    await house.start()
    client = await house.hello()
    said = b"MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<boss@far.example> ORCPT=" + orcpt + b"\r\nRSET\r\n"
    assert await client.codes(said, 3) == ["250 2.1.0", "501 5.5.4", "250 2.0.0"]


@pytest.mark.parametrize("name", [b"\x8aP\x83\\PC", "花子のPC".encode(), b"my_pc", b"[127.0.0.1]"])
async def test_computers_have_all_kinds_of_names(house: House, name: bytes) -> None:
    """A mail program can't help what its computer is called; in Received it stands in ASCII."""
    await house.start()
    client = await house.connect()
    await client.reply()
    assert await client.codes(b"EHLO " + name + b"\r\n" + LOGIN + ENVELOPE + b"DATA\r\n", 5) == [
        "250", "235 2.7.0", "250 2.1.0", "250 2.1.5", "354",
    ]  # fmt: skip
    await client.say(b"x: y\r\n\r\n.\r\n")
    received = house.sent()[0].partition(b"\r\n")[0]
    assert received.isascii()
    assert re.fullmatch(rb"Received: from [^ ()]+ \(\[127\.0\.0\.1\]\)", received)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"Received: x\r\n" * MAX_RECEIVED + b"\r\n", "554 5.4.6"),
        (b"Received: x\r\n" * (MAX_RECEIVED - 1) + b"\r\n", "250 2.0.0"),
        (b"X: " + b"x" * MAX_HEADER + b"\r\n\r\n", "552 5.3.4"),
        (b"X: y\r\n\r\nbare\nline\r\n", "550 5.6.0"),
        (b"MT-Priority: \xc2\xb2\r\n\r\n", "250 2.0.0"),
        (b"", "250 2.0.0"),
        (b"this is no header\r\n", "250 2.0.0"),
        (b"only: a header\r\n", "250 2.0.0"),
        (b"\r\nonly a body\r\n", "250 2.0.0"),
    ],
)
@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_odd_messages(house: House, data: bytes, code: str, verb: str) -> None:
    await house.start()
    client = await house.hello()
    await client.say(ENVELOPE, 2)
    if verb == "DATA":
        await client.say(b"DATA\r\n")
        assert await client.codes(data + b".\r\n") == [code]
    else:
        assert await client.codes(b"BDAT %d LAST\r\n" % len(data) + data) == [code]
    assert [m.endswith(data) for m in house.sent()] == ([True] if code.startswith("250") else [])
    assert not list(house.office.paths.incoming.iterdir())
    assert await client.codes(b"NOOP\r\n") == ["250 2.0.0"]
    if house.sent():
        head = house.sent()[0].partition(b"\r\n\r\n")[0]
        assert b"Message-ID: <" in head
        assert b"no header" not in head
        assert b"only a body" not in head


async def test_a_message_that_is_broken_off_leaves_nothing(house: House) -> None:
    await house.start()
    for said in (b"DATA\r\nx: y\r\n\r\n" + b"z" * 300_000, b"BDAT 100\r\nabc", b"BDAT 3\r\nabc", b""):
        client = await house.hello()
        await client.stream.send_all(ENVELOPE + said)
        await client.stream.send_eof()  # type: ignore[attr-defined]
        await client.ends()
    assert house.sent() == []
    assert not list(house.office.paths.incoming.iterdir())


# ---- deadlines and limits
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "idle for too long"),
        (b"NOOP\r\n", "idle for too long"),
        (ENVELOPE, "idle for too long"),
        (ENVELOPE + b"BDAT 3\r\nabc", "the message comes too slowly"),
        (b"NOO", "the command was not completed"),
        (ENVELOPE + b"DATA\r\nx: y\r\n", "the message comes too slowly"),
        (ENVELOPE + b"BDAT 100\r\nx: y\r\n", "the message comes too slowly"),
        (b"AUTH LOGIN\r\n", "idle for too long"),
    ],
)
async def test_silence(house: House, said: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND_S", 0.2)
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.2)
    await house.start(idle_timeout_s=0.3)
    client = await house.hello(b"" if b"AUTH" in said else LOGIN)
    await client.stream.send_all(said)
    last = (await client.ends()).decode().split("\r\n")[-2]
    assert last.startswith("421 4.4.2 ")
    assert why in last
    assert not house.office.paths.incoming.exists() or not list(house.office.paths.incoming.iterdir())


@pytest.mark.parametrize(("pace", "why"), [(30, "the message comes too slowly"), (0, "the command was not completed")])
async def test_a_trickle(house: House, pace: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no progress, neither of a command nor of a message."""
    monkeypatch.setattr(module, "COMMAND_S", 0.3)
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.3)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    if pace:
        await client.say(ENVELOPE + b"DATA\r\n", 3)

    async def trickle() -> None:
        try:
            while True:
                await client.stream.send_all(b"x" * (pace or 1))
                await trio.sleep(0.02)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert why in await client.reply()
        nursery.cancel_scope.cancel()


async def test_a_trickle_of_chunks(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole in itself, and small: it is the message that has to make progress."""
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.3)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    await client.say(ENVELOPE, 2)
    with trio.fail_after(WAIT):
        while (answer := (await client.say(b"BDAT 1\r\nx"))[0]).startswith("250 "):
            await trio.sleep(0.02)
    assert "the message comes too slowly" in answer


async def test_a_command_behind_a_long_message_has_its_own_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND_S", 1.0)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    await client.say(ENVELOPE + b"DATA\r\n", 3)
    for _ in range(6):
        await trio.sleep(0.2)
        await client.stream.send_all(b"x: y\r\n")
    assert await client.codes(b".\r\nNO") == ["250 2.0.0"]
    assert await client.codes(b"OP\r\n") == ["250 2.0.0"]


async def test_a_slow_line_that_keeps_the_rate_is_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE_WINDOW_S", 1.0)
    monkeypatch.setattr(module, "RATE_BYTES", 10)
    await house.start(idle_timeout_s=0.1)  # silence between commands is something else
    client = await house.connect()
    await client.reply()
    await client.say(b"EHLO pc\r\n" + LOGIN + ENVELOPE + b"DATA\r\n", 5)
    await client.stream.send_all(b"x: y\r\n\r\n")
    for _ in range(10):
        await trio.sleep(0.15)
        await client.stream.send_all(b"z" * 20 + b"\r\n")
    assert await client.codes(b".\r\n") == ["250 2.0.0"]


@pytest.mark.parametrize("said", [b"", ENVELOPE + b"DATA\r\nx: y\r\n", ENVELOPE + b"BDAT 3\r\nabc", b"NOO"])
async def test_a_session_ends_at_last(house: House, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSION_S", 0.5)
    await house.start()
    client = await house.hello()
    await client.stream.send_all(said)
    last = (await client.ends()).decode().split("\r\n")[-2]
    assert last == "421 4.4.2 harbour.harbour.example closing: the session lasted too long"
    assert not list(house.office.paths.incoming.iterdir())


async def test_a_client_that_does_not_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.2)
    await house.start()
    client = await house.hello()
    with trio.fail_after(WAIT), pytest.raises(trio.BrokenResourceError):
        while True:
            await client.stream.send_all(b"HELP\r\n" * 10_000)


async def test_too_many_clients(house: House) -> None:
    await house.start(limits=ClientLimits(2, 100))
    first, _second, third = [await house.connect() for _ in range(3)]
    assert await third.ends() == (b"421 4.7.0 harbour.harbour.example too many connections from your address\r\n")
    await first.say(b"QUIT\r\n", 2)
    await first.ends()
    with trio.fail_after(WAIT):
        while not (await (await house.connect()).reply()).startswith("220 "):
            await trio.sleep(0.01)


# ---- stopping
async def test_drain_ends_sessions_between_messages_and_waits_for_the_others(house: House) -> None:
    await house.start()
    idle, busy = await house.hello(), await house.hello()
    await busy.say(ENVELOPE + b"DATA\r\n", 3)
    drained = trio.Event()

    async def drain() -> None:
        await house.service.drain()
        drained.set()

    house.nursery.start_soon(drain)
    assert (await idle.ends()).startswith(b"421 ")
    await busy.stream.send_all(b"x: y\r\n\r\nhi\r\n")
    assert not drained.is_set()
    assert await busy.codes(b".\r\n") == ["250 2.0.0"]
    assert b"421 " in await busy.ends()
    with trio.fail_after(WAIT):
        await drained.wait()
    assert len(house.sent()) == 1


async def test_drain_without_sessions_ends_at_once(house: House) -> None:
    await house.start()
    with trio.fail_after(WAIT):
        await house.service.drain()


# ---- memory
@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_memory_does_not_grow_with_the_message(house: House, verb: str) -> None:
    await house.start(message_limit_bytes=100 << 20, bulk_size_bytes=100 << 20)
    client = await house.hello()
    line = os.urandom(45).hex().encode() + b"\r\n"
    piece = line * 700
    count = (30 << 20) // len(piece)
    await client.say(ENVELOPE, 2)
    if verb == "DATA":
        await client.say(b"DATA\r\n")
    else:
        await client.stream.send_all(b"BDAT %d LAST\r\n" % (len(piece) * count + 8))
    await client.stream.send_all(b"x: y\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(count):
            await client.stream.send_all(piece)
        if verb == "DATA":
            await client.stream.send_all(b".\r\n")
        assert (await client.reply()).startswith("250 ")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (envelope,) = house.office.office.pending()
    assert envelope.size > 29 << 20
    assert peak < 2 << 20


# ---- get-TOKEN@ and delete-TOKEN@
TOKEN = "0123456789ab"


@pytest.mark.parametrize("automatic", [b"", b"Auto-Submitted: auto-replied\r\n", b"Precedence: bulk\r\n"])
@pytest.mark.parametrize("what", ["get", "delete"])
async def test_a_large_message_is_asked_for_by_its_own_user(house: House, what: str, automatic: bytes) -> None:
    record = await stub_record(house, "hanako")
    await house.start(trusted_networks=("127.0.0.0/8",))
    client = await house.hello()
    to = f"{what}-{TOKEN}@harbour.example".encode()
    said = [
        b"MAIL FROM:<hanako@harbour.example>\r\n",
        b"RCPT TO:<" + to + b">\r\n",
        b"DATA\r\n",
        automatic + b"Subject: x\r\n\r\ndelete it\r\n.\r\n",
    ]
    assert [(await client.codes(s))[0][:3] for s in said] == ["250", "250", "354", "250"]
    assert {uid: ask.value for uid, ask in record.asks.items()} == ({} if automatic else {"u1": what})
    assert house.sent() == []
    assert not list(house.office.paths.incoming.iterdir())


@pytest.mark.parametrize(
    ("login", "owner", "token", "code"),
    [
        (LOGIN, "taro", TOKEN, "550 5.7.1"),
        (b"", "hanako", TOKEN, "550 5.7.1"),
        (LOGIN, "hanako", "ffffffffffff", "550 5.1.1"),
    ],
    ids=["another's", "no login", "nobody's"],
)
async def test_nobody_else_asks_for_it_and_nothing_is_sent_on(
    house: House, login: bytes, owner: str, token: str, code: str
) -> None:
    record = await stub_record(house, owner)
    await house.start(unknown="upstream", trusted_networks=("127.0.0.0/8",))
    client = await house.hello(login)
    await client.codes(b"MAIL FROM:<hanako@harbour.example>\r\n")
    assert await client.codes(f"RCPT TO:<get-{token}@harbour.example>\r\n".encode()) == [code]
    assert record.asks == {}


async def test_an_ask_among_other_recipients(house: House) -> None:
    record = await stub_record(house, "hanako")
    await house.start()
    client = await house.hello()
    to = (FAR, f"get-{TOKEN}@harbour.example", TARO)
    said = [
        f"MAIL FROM:<{HANAKO}>\r\n",
        *(f"RCPT TO:<{r}>\r\n" for r in to),
        "DATA\r\n",
        "Subject: x\r\n\r\nhi\r\n.\r\n",
    ]
    codes = [(await client.codes(s.encode()))[0][:3] for s in said]
    assert codes == ["250", "250", "250", "250", "354", "250"]
    assert list(record.asks) == ["u1"]
    assert [[r.address for r in e.recipients] for e in house.office.office.pending()] == [[FAR]]
    assert len(house.office.mailbox("taro")) == 1


async def stub_record(house: House, user: str) -> FetchedRecord:
    """The record of an account of that user, with one message that stays upstream."""
    office = house.office
    office.paths.fetched.mkdir(exist_ok=True)
    record = FetchedRecord(
        office.committer.disk, office.committer, office.paths.fetched, "x", corrupt=office.paths.corrupt
    )
    await record.add(Known("u1", KnownState.STUB, 5_000_000, "", TOKEN))
    office.office.stubs.replace([(user, record)])
    return record
