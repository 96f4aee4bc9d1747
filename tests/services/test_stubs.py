"""Messages that are too large to be fetched unasked: their stubs, who may ask for the whole, and what becomes of it; by
POP3 and by IMAP."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest
import trio

from appliance.call import JobReport, OpenCall
from appliance.mail.store.fetched import Ask
from appliance.mail.stubs import Stubs, StubTerms, token_of
from appliance.mail.upstream.stub import make_stub
from fakes.fetching import House, house, message
from fakes.imap import ALL, ImapProvider
from fakes.provider import Pop3Provider, Wire, run_job

TERMS = StubTerms(limit=20_000, domain="harbour.example", hostname="harbour.harbour.example")
Server = Pop3Provider | ImapProvider


def large(n: int = 7, size: int = 100_000) -> bytes:
    head = (
        b"Message-ID: <big%d@isp.example>\r\nFrom: =?utf-8?q?J=C3=BCrgen?= <j@far.example>\r\nTo: hanako@isp.example\r\n"
        b"Subject: the plans\r\nDate: Mon, 05 Jan 2026 11:00:00 +0000\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\nSGVyZSBhcmUgdGhlIHBsYW5zLCBKw7xyZ2Vu\r\n--b\r\n"
    )
    return head % n + b"x" * 70 * (size // 72) + b"\r\n--b--\r\n"


def read(data: bytes) -> EmailMessage:
    out = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(out, EmailMessage)
    return out


@pytest.fixture(params=["pop3", "imap", "imap-bare"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


def provider(kind: str, *mails: bytes) -> Server:
    if kind == "pop3":
        return Pop3Provider(mails={f"u{i}": data for i, data in enumerate(mails)})
    server = ImapProvider(capabilities=ALL if kind == "imap" else ("IMAP4rev1", "UIDPLUS"))
    for data in mails:
        server.add(data)
    return server


def retrieved(server: Server) -> int:
    return sum(c.startswith("RETR") or "BODY.PEEK[] " in c or "BODY.PEEK[])" in c for c in server.commands)


async def fetched(home: House, server: Server) -> OpenCall:
    server.commands.clear()
    call, report = await home.fetch(server)
    assert report == JobReport(), report
    return call


def site(tmp_path: Path, kind: str, **more: object):  # type: ignore[no-untyped-def]
    return house(tmp_path, protocol=kind.partition("-")[0], **more)


def use(home: House) -> Stubs:
    home.stubs = TERMS
    home.restart()
    stubs = Stubs()
    stubs.replace([("hanako", home.record)])
    return stubs


def the_stub(home: House) -> tuple[str, EmailMessage]:
    """Token and message of the only one."""
    ((key, data),) = [(k, d) for k, d in home.inbox.delivered if k.startswith("stub")]
    return key.removeprefix("stub"), read(data)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_large_message_stays_upstream_and_its_stub_comes(tmp_path: Path, kind: str, keep: bool) -> None:
    async with site(tmp_path, kind, keep=keep) as home:
        stubs = use(home)
        big, small = large(), message(1)
        server = provider(kind, big, small)
        for _ in range(3):  # a later call makes no second one
            await fetched(home, server)
            home.restart()
        assert len(home.inbox.delivered) == 2
        assert small in home.inbox.messages
        assert list(server.mails.values()) == ([big, small] if keep else [big])
        token, stub = the_stub(home)
        assert stub["Reply-To"] == f"get-{token}@harbour.example"
        assert stub["Subject"] == "[95 KB upstream] the plans"
        assert stub["From"] == "Jürgen <j@far.example>"
        assert stub["Message-ID"] != "<big7@isp.example>"
        body = stub.get_body(("plain",))
        assert body is not None
        text = body.get_content()
        assert "Here are the plans, Jürgen" in text
        assert f"posthouse queue fetch {token}" in text
        assert f"delete-{token}@harbour.example" in text
        assert f"{len(big)} bytes" in text
        (headers,) = stub.iter_attachments()
        assert headers.get_content_type() == "text/rfc822-headers"
        assert b"Message-ID: <big7@isp.example>\r\n" in headers.get_payload(decode=True)  # type: ignore[operator]
        stubs.replace([("hanako", home.record)])
        assert stubs.owner(token) == "hanako"


@pytest.mark.parametrize("keep", [False, True])
async def test_the_whole_takes_the_place_of_its_stub(tmp_path: Path, kind: str, keep: bool) -> None:
    async with site(tmp_path, kind, keep=keep) as home:
        stubs = use(home)
        big = large()
        server = provider(kind, big)
        await fetched(home, server)
        token, _ = the_stub(home)
        assert await stubs.ask(token, Ask.GET)
        home.restart()  # it is asked for durably
        call = await fetched(home, server)
        assert call.tally.fetched == 1
        assert home.inbox.messages == [big]
        assert list(server.mails.values()) == ([big] if keep else [])
        stubs.replace([("hanako", home.record)])
        assert stubs.owner(token) is None
        assert not await stubs.ask(token, Ask.GET)
        await fetched(home, server)
        assert home.inbox.messages == [big]
        assert retrieved(server) == 0


@pytest.mark.parametrize("keep", [False, True])
async def test_deleted_unread_when_asked(
    tmp_path: Path, kind: str, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="posthouse")
    async with site(tmp_path, kind, keep=keep) as home:
        stubs = use(home)
        server = provider(kind, large(), message(1))
        await fetched(home, server)
        token, _ = the_stub(home)
        await stubs.ask(token, Ask.DELETE)
        await fetched(home, server)
        assert list(server.mails.values()) == ([message(1)] if keep else [])
        assert "deleted unread, as hanako asked" in caplog.text
        await fetched(home, server)
        assert len(home.inbox.messages) == 2
        assert stubs.owner(token) is None


async def test_asked_for_while_the_call_is_up(tmp_path: Path, kind: str) -> None:
    async with site(tmp_path, kind) as home:
        stubs = use(home)
        await fetched(home, provider(kind, large()))
        token, _ = the_stub(home)
        with trio.move_on_after(0.05) as idle:
            await home.job.wait_work()
        assert idle.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubs.ask, token, Ask.GET)
            with trio.fail_after(5):
                await home.job.wait_work()


async def test_a_message_that_has_gone_is_asked_for_once(tmp_path: Path, kind: str) -> None:
    async with site(tmp_path, kind) as home:
        stubs = use(home)
        server = provider(kind, large(), message(1))
        server.answer = lambda verb, argument: None
        await fetched(home, server)
        token, _ = the_stub(home)
        await stubs.ask(token, Ask.GET)
        server.mails.clear()
        await fetched(home, server)
        assert home.record.asks == {}
        assert stubs.owner(token) is None


async def test_other_unique_ids_leave_a_stub_its_address(tmp_path: Path, kind: str) -> None:
    async with site(tmp_path, kind) as home:
        stubs = use(home)
        server = provider(kind, large(1), large(2))
        await fetched(home, server)
        tokens = [k.removeprefix("stub") for k, _ in home.inbox.delivered]
        if kind == "pop3":  # the newest comes first
            tokens.reverse()
        await stubs.ask(tokens[0], Ask.GET)
        if isinstance(server, Pop3Provider):
            server.mails = {f"other{uid}": data for uid, data in server.mails.items()}
        else:
            server.uidvalidity += 1
        await fetched(home, server)
        assert sorted(home.inbox.messages, key=len)[-1] == large(1)
        assert len(home.inbox.messages) == 2
        assert stubs.owner(tokens[1]) == "hanako"


async def test_a_crash_between_the_stub_and_its_record(tmp_path: Path, kind: str) -> None:
    async with site(tmp_path, kind) as home:
        use(home)
        server = provider(kind, large())
        await fetched(home, server)
        home.record.path.unlink()
        home.restart()
        await fetched(home, server)
        assert len(home.inbox.messages) == 1
        assert [k.state.value for k in home.record.known.values()] == ["stub"]


@pytest.mark.parametrize(
    ("protocol", "asked", "together"),
    [
        ("pop3", ("TOP", "1 20"), [b"RETR 4", b"RETR 2"]),
        ("imap-old", ("FETCH", "1,3 (UID BODY.PEEK[HEADER]"), [b"UID FETCH 2,4 (UID BODY.PEEK[])"]),
    ],
)
async def test_beginnings_and_whole_messages_are_asked_for_in_one_flight(
    tmp_path: Path, protocol: str, asked: tuple[str, str], together: list[bytes]
) -> None:
    async with site(tmp_path, protocol) as home:
        use(home)
        server = provider(protocol, large(1), message(1), large(2), message(2))
        behind: list[bytes] = []
        session = server.session

        async def watched(wire: Wire) -> None:
            def answer(verb: str, argument: str) -> None:
                if verb == asked[0] and argument.startswith(asked[1]):
                    behind.append(wire.buffer)

            server.answer = answer
            await session(wire)

        server.session = watched  # type: ignore[method-assign]
        await fetched(home, server)
        (flight,) = behind
        for line, wanted in zip(flight.split(b"\r\n"), together, strict=False):
            assert line.endswith(wanted), flight
        assert flight.count(b"\r\n") == len(together)
        assert [k.startswith("stub") for k, _ in home.inbox.delivered] == [True, True, False, False]
        assert list(server.mails.values()) == [large(1), large(2)]


async def test_a_server_without_top(tmp_path: Path) -> None:
    async with site(tmp_path, "pop3") as home:
        use(home)
        server = provider("pop3", large())
        server.answer = lambda verb, argument: "-ERR no TOP here" if verb == "TOP" else None
        await fetched(home, server)
        _, stub = the_stub(home)
        assert stub["From"].startswith("Mail Delivery System")
        assert "The server shows nothing of it" in stub.get_body(("plain",)).get_content()  # type: ignore[union-attr]


async def test_what_was_cut_twice_by_pop3_stays_upstream(tmp_path: Path) -> None:
    async with site(tmp_path, "pop3") as home:
        use(home)
        server = provider("pop3", message(3, 15_000))
        for _ in range(2):
            gone = trio.Event()
            server.cut_at, server.on_cut, server.points = 0, gone.set, []
            server.cut_at = 12 if not home.inbox.delivered else 0

            def point(name: str, gone: trio.Event = gone) -> None:
                if name == "half a message":
                    gone.set()

            server.point = point  # type: ignore[method-assign]
            await home.fetch(server, cancelled=gone)
        server.point = lambda name: None  # type: ignore[method-assign]
        await fetched(home, server)
        assert len(server.mails) == 1
        the_stub(home)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"\r\n", b"Subject: \x00\x1b[31m\xff\r\n folded\r\n\r\n\x07hi", b"no header at all", b"Content-Type: text/plain; charset=nonsense\r\n\r\nx",
        b"Content-Type: multipart/mixed\r\n\r\nx", b"From: a\r\nFrom: b\r\nSubject: " + b"x" * 5000 + b"\r\n\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\n!!!!=", b"Content-Type: text/html\r\n\r\n<style>a{}</style><p>Hello <b>there</b>",
    ],
)  # fmt: skip
def test_whatever_a_header_is_a_stub_is_made(head: bytes) -> None:
    data = make_stub(head, size=5_000_000, token="0123456789ab", terms=TERMS, now=0.0)
    stub = read(data)
    assert stub["Reply-To"] == "get-0123456789ab@harbour.example"
    assert stub["Subject"].startswith("[4.8 MB upstream]")
    assert "\x1b" not in stub["Subject"]
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert "queue fetch 0123456789ab" in stub.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    if b"html" in head:
        assert "Hello" in stub.get_body(("plain",)).get_content()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("local", "what"),
    [("get-0123456789ab", (Ask.GET, "0123456789ab")), ("Delete-0123456789AB", (Ask.DELETE, "0123456789ab")),
     ("get-0123456789a", None), ("get", None), ("get-0123456789abc", None), ("forget-0123456789ab", None)],
)  # fmt: skip
def test_token_addresses(local: str, what: object) -> None:
    assert token_of(local) == what


async def test_what_no_call_can_carry_stays_upstream_by_pop3(tmp_path: Path, kind: str) -> None:
    """By IMAP it comes over several calls."""
    async with site(tmp_path, kind) as home:
        use(home)
        home.stubs = replace(TERMS, limit=1 << 30)
        home.restart()
        server = provider(kind, large())

        async def short(call: OpenCall) -> JobReport:
            call.longest_s = 60.0  # 57,600 bytes
            return await home.job.run(call)

        _, report = await run_job(short, {"pop": server})
        assert report == JobReport()
        if kind != "pop3":
            assert home.inbox.messages == [large()]
            return
        token, _ = the_stub(home)
        assert retrieved(server) == 0
        await home.record.ask("u0", Ask.GET)
        _, report = await run_job(short, {"pop": server})
        assert isinstance(report, JobReport)
        assert "more than a call of this line carries" in report.detail
        assert retrieved(server) == 0
        assert home.record.known["u0"].token == token
        await home.fetch(server)  # a longer one
        assert home.inbox.messages == [large()]
