"""SMTP submission over loopback: mail programs, who may send what, what is kept of it."""

from __future__ import annotations

import base64
import re
import smtplib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.config.model import Smarthost
from appliance.mail.envelope import Priority
from appliance.mail.header import MAX_HEADER, MAX_RECEIVED
from appliance.storage.draft import BUFFER
from fakes.office import FAR, HANAKO, TARO
from fakes.smtp_house import ENVELOPE, LOGIN, WAIT, Client, House, smtp_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with smtp_house(tmp_path) as it:
        yield it


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
