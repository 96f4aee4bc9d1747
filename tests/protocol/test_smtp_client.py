"""The SMTP client against tables of what servers say, whole and byte at a time, and against garbage."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.smtp_client import (
    Closed,
    Event,
    Finished,
    Mail,
    Rcpt,
    Ready,
    Refused,
    SendBody,
    SmtpClient,
    Stage,
    StartTls,
)
from appliance.protocol.smtp_reply import MAX_LINE, MAX_LINES, Reply, ReplyReader

POSTFIX = (
    b"220 mx.isp.example ESMTP Postfix (Debian)\r\n",
    b"250-mx.isp.example\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-AUTH PLAIN LOGIN\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n",
)
EXIM = (
    b"220 exim.isp.example ESMTP Exim 4.96 Sat, 21 Nov 2026 11:48:00 +0000\r\n",
    b"250-exim.isp.example Hello harbour [192.0.2.7]\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-PIPELINING\r\n"
    b"250-PIPECONNECT\r\n250-AUTH PLAIN\r\n250-CHUNKING\r\n250-PRDR\r\n250 HELP\r\n",
)
EXCHANGE = (
    b"220 EX01.corp.example Microsoft ESMTP MAIL Service ready at Sat, 21 Nov 2026 11:48:00 +0000\r\n",
    b"250-EX01.corp.example Hello [192.0.2.7]\r\n250-SIZE 37748736\r\n250-PIPELINING\r\n250-DSN\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-AUTH NTLM LOGIN\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n"
    b"250 SMTPUTF8\r\n",
)
GMAIL = (
    b"220 smtp.gmail.com ESMTP 5b1f17b1804b1-43xyz - gsmtp\r\n",
    b"250-smtp.gmail.com at your service, [192.0.2.7]\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n"
    b"250-AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH\r\n250-ENHANCEDSTATUSCODES\r\n"
    b"250-PIPELINING\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n",
)
OLD = (b"220-old.isp.example\r\n220 ready\r\n", b"250-old.isp.example\r\n250-SIZE\r\n250 AUTH=LOGIN\r\n")
SERVERS = {"postfix": POSTFIX, "exim": EXIM, "exchange": EXCHANGE, "gmail": GMAIL, "old": OLD}

Feed = Callable[[SmtpClient, bytes], list[Event]]


def whole(client: SmtpClient, data: bytes) -> list[Event]:
    return client.receive(data)


def bytewise(client: SmtpClient, data: bytes) -> list[Event]:
    return [e for i in range(len(data)) for e in client.receive(data[i : i + 1])]


@pytest.fixture(params=[whole, bytewise], ids=["whole", "bytewise"])
def feed(request: pytest.FixtureRequest) -> Feed:
    return request.param


def ready(*extensions: str, feed: Feed = whole) -> SmtpClient:
    """A client behind EHLO that was offered these."""
    client = SmtpClient("harbour")
    assert feed(client, b"220 hello\r\n") == []
    assert client.data_to_send() == b"EHLO harbour\r\n"
    lines = ["mx.example", *extensions]
    answer = "".join(f"250{'-' if i < len(lines) - 1 else ' '}{x}\r\n" for i, x in enumerate(lines))
    assert feed(client, answer.encode()) == [Ready()]
    return client


def mail(*to: str, size: int = 10, **more: object) -> Mail:
    return Mail("a@x.example", tuple(Rcpt(t) for t in to or ("b@y.example",)), size, **more)  # type: ignore[arg-type]


def reply(text: str) -> Reply:
    return Reply(int(text[:3]), (text[4:],))


# ---- replies
@pytest.mark.parametrize(
    ("lines", "code", "status", "text"),
    [
        (b"250 ok\r\n", 250, "", "250 ok"),
        (b"250\r\n", 250, "", "250"),
        (b"250 2.1.0 Ok\n", 250, "2.1.0", "250 2.1.0 Ok"),
        (
            b"550-5.1.1 The account that you tried to reach\r\n550-5.1.1 does not exist.\r\n550 5.1.1  gsmtp\r\n",
            550,
            "5.1.1",
            "550 5.1.1 The account that you tried to reach does not exist. gsmtp",
        ),
        (b"250-one\r\n451 two\r\n", 451, "", "451 one two"),
        (b"550 b\xc3\xbccher \xff\r\n", 550, "", "550 bücher �"),
        (b"221 9.9.9 Bye\r\n", 221, "", "221 9.9.9 Bye"),
    ],
)
def test_a_reply_is_read(lines: bytes, code: int, status: str, text: str) -> None:
    for step in (len(lines), 1):
        reader = ReplyReader()
        found = []
        for i in range(0, len(lines), step):
            reader.feed(lines[i : i + step])
            if (r := reader.next()) is not None:
                found.append(r)
        assert [(r.code, r.status, r.text) for r in found] == [(code, status, text)]
        assert reader.empty


@pytest.mark.parametrize(
    "bad",
    [b"\r\n", b"2500 x\r\n", b"25 x\r\n", b"100 x\r\n", b"650 x\r\n", b"hello\r\n", b"250_ok\r\n", b" 250 ok\r\n"],
)
def test_what_is_no_reply_is_an_error(bad: bytes) -> None:
    client = ready("PIPELINING")
    client.start(mail())
    with pytest.raises(RemoteProtocolError):
        client.receive(bad)
    assert client.receive(b"250 ok\r\n") == []


@pytest.mark.parametrize("flood", [b"2" * (MAX_LINE + 2), b"250-x\r\n" * (MAX_LINES + 1)])
def test_a_reply_without_end_is_cut_short(flood: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SmtpClient("harbour").receive(flood)


def test_a_long_text_is_shortened() -> None:
    assert len(Reply(250, ("x" * 3000,)).text) == 500


# ---- the opening
@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_the_opening_without_login(server: str, feed: Feed) -> None:
    greeting, ehlo = SERVERS[server]
    client = SmtpClient("harbour")
    assert feed(client, greeting) == []
    assert client.data_to_send() == b"EHLO harbour\r\n"
    assert feed(client, ehlo) == [Ready()]
    assert client.data_to_send() == b""
    assert client.pipelining == (server != "old")


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_the_opening_with_starttls_and_login(server: str, feed: Feed) -> None:
    greeting, ehlo = SERVERS[server]
    client = SmtpClient("harbour", starttls=True, login="hanako", password="geheim")
    feed(client, greeting)
    client.data_to_send()
    plain = ehlo.replace(b"250-8BITMIME", b"250-8BITMIME\r\n250-STARTTLS").replace(b"250-SIZE\r\n", b"250-STARTTLS\r\n")
    assert feed(client, plain) == []
    assert client.data_to_send() == b"STARTTLS\r\n"
    assert feed(client, b"220 2.0.0 Ready to start TLS\r\n") == [StartTls()]
    client.tls_started()
    assert client.extensions == {}
    assert client.data_to_send() == b"EHLO harbour\r\n"
    assert feed(client, ehlo) == []
    if server in ("exchange", "old"):
        assert client.data_to_send() == b"AUTH LOGIN\r\n"
        assert feed(client, b"334 VXNlcm5hbWU6\r\n") == []
        assert client.data_to_send() == base64.b64encode(b"hanako") + b"\r\n"
        assert feed(client, b"334 UGFzc3dvcmQ6\r\n") == []
        assert client.data_to_send() == base64.b64encode(b"geheim") + b"\r\n"
    else:
        assert client.data_to_send() == b"AUTH PLAIN " + base64.b64encode(b"\0hanako\0geheim") + b"\r\n"
    assert feed(client, b"235 2.7.0 Authentication successful\r\n") == [Ready()]


def test_a_long_or_unread_initial_response_is_given_again() -> None:
    client = SmtpClient("harbour", login="hanako", password="x" * 600)
    client.receive(b"220 a\r\n")
    client.receive(b"250-a\r\n250 AUTH PLAIN\r\n")
    assert client.data_to_send().endswith(b"AUTH PLAIN\r\n")
    client.receive(b"334 \r\n")
    assert client.data_to_send() == base64.b64encode(b"\0hanako\0" + b"x" * 600) + b"\r\n"
    assert client.receive(b"334 again\r\n")[0].stage is Stage.AUTH  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "answers", "stage", "part"),
    [
        ({}, [b"554 no SMTP here\r\n"], Stage.GREETING, "554 no SMTP here"),
        ({}, [b"421 busy\r\n"], Stage.GREETING, "421"),
        ({}, [b"220 a\r\n", b"421 4.3.2 later\r\n"], Stage.EHLO, "421"),
        ({}, [b"220 a\r\n", b"502 what\r\n", b"550 no\r\n"], Stage.HELO, "550"),
        ({"starttls": True}, [b"220 a\r\n", b"502 what\r\n"], Stage.EHLO, "502"),
        ({"login": "h"}, [b"220 a\r\n", b"502 what\r\n"], Stage.EHLO, "502"),
        ({"starttls": True}, [b"220 a\r\n", b"250 a\r\n"], Stage.STARTTLS, "does not offer STARTTLS"),
        ({"starttls": True}, [b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"454 no\r\n"], Stage.STARTTLS, "454"),
        ({"login": "h"}, [b"220 a\r\n", b"250 a\r\n"], Stage.AUTH, "no AUTH"),
        ({"login": "h"}, [b"220 a\r\n", b"250-a\r\n250 AUTH GSSAPI\r\n"], Stage.AUTH, "only AUTH GSSAPI"),
        ({"login": "h"}, [b"220 a\r\n", b"250-a\r\n250 AUTH PLAIN\r\n", b"535 5.7.8 no\r\n"], Stage.AUTH, "535 5.7.8"),
        (
            {"login": "h"},
            [b"220 a\r\n", b"250-a\r\n250 AUTH LOGIN\r\n", b"334 u\r\n", b"535 no\r\n"],
            Stage.AUTH,
            "535",
        ),
    ],
)
def test_a_refused_opening(
    options: dict[str, object], answers: list[bytes], stage: Stage, part: str, feed: Feed
) -> None:
    client = SmtpClient("harbour", **options)  # type: ignore[arg-type]
    events = [e for a in answers for e in feed(client, a)]
    assert len(events) == 1
    assert isinstance(events[0], Refused)
    assert events[0].stage is stage
    assert part in events[0].text
    assert feed(client, b"220 more\r\n") == []


def test_helo_where_ehlo_is_unknown(feed: Feed) -> None:
    client = SmtpClient("harbour")
    feed(client, b"220 a\r\n")
    feed(client, b"500 what\r\n")
    assert client.data_to_send() == b"EHLO harbour\r\nHELO harbour\r\n"
    assert feed(client, b"250 a\r\n") == [Ready()]
    client.start(mail(size=5, eight_bit=True))
    assert client.data_to_send() == b"MAIL FROM:<a@x.example>\r\n"


def test_what_comes_unprotected_behind_starttls_ends_it() -> None:
    client = SmtpClient("harbour", starttls=True)
    client.receive(b"220 a\r\n")
    client.receive(b"250-a\r\n250 STARTTLS\r\n")
    with pytest.raises(RemoteProtocolError):
        client.receive(b"220 go\r\n250-evil\r\n")


# ---- transactions with PIPELINING
def test_one_flight_a_message(feed: Feed) -> None:
    client = ready("PIPELINING", "SIZE 1000", feed=feed)
    client.start(mail("b@y", "c@z"))
    assert client.data_to_send() == (b"MAIL FROM:<a@x.example> SIZE=10\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@z>\r\nDATA\r\n")
    assert feed(client, b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n") == [SendBody((0,))]
    client.send_body(b"Subject: x\r\n\r\n.dot\r\nlast")
    client.end_body()
    assert client.end_awaited
    client.start(mail("d@w"))
    client_out = client.data_to_send()
    assert client_out == (
        b"Subject: x\r\n\r\n..dot\r\nlast\r\n.\r\nMAIL FROM:<a@x.example> SIZE=10\r\nRCPT TO:<d@w>\r\nDATA\r\n"
    )
    assert feed(client, b"250 2.0.0 queued\r\n") == [Finished((reply("250 2.0.0 queued"), reply("550 5.1.1 no")))]
    assert feed(client, b"250 ok\r\n250 ok\r\n354 go\r\n") == [SendBody((0,))]
    client.end_body()
    client.quit()
    assert client.data_to_send() == b".\r\nQUIT\r\n"
    assert feed(client, b"250 ok\r\n221 bye\r\n") == [
        Finished((reply("250 ok"),)),
        Closed(reply("221 bye"), after_quit=True),
    ]


def test_all_refused_and_yet_354_gets_an_empty_message(feed: Feed) -> None:
    client = ready("PIPELINING", feed=feed)
    client.start(mail("b@y", "c@z"))
    client.data_to_send()
    events = feed(client, b"250 ok\r\n550 b\r\n450 c\r\n354 go\r\n")
    assert events == [Finished((reply("550 b"), reply("450 c")))]
    client.start(mail("d@w"))
    assert client.data_to_send() == b".\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<d@w>\r\nDATA\r\n"
    assert feed(client, b"554 no valid recipients\r\n250 ok\r\n250 ok\r\n") == []
    assert feed(client, b"354 go\r\n") == [SendBody((0,))]


@pytest.mark.parametrize(
    ("replies", "verdicts", "reset"),
    [
        (b"250 ok\r\n550 b\r\n550 c\r\n554 no valid recipients\r\n", ["550 b", "550 c"], True),
        (b"250 ok\r\n250 b\r\n550 c\r\n451 no disk\r\n", ["451 no disk", "550 c"], True),
        (b"552 5.3.4 big\r\n503 mail\r\n503 mail\r\n503 rcpt\r\n", ["552 5.3.4 big"] * 2, False),
        (b"451 later\r\n250 odd\r\n250 odd\r\n503 rcpt\r\n", ["451 later"] * 2, False),
        (b"250 ok\r\n251 will forward\r\n252 maybe\r\n550 x\r\n", ["550 x"] * 2, True),
    ],
)
def test_refusals_before_the_body(replies: bytes, verdicts: list[str], reset: bool, feed: Feed) -> None:
    client = ready("PIPELINING", feed=feed)
    client.start(mail("b@y", "c@z"))
    client.data_to_send()
    assert feed(client, replies) == [Finished(tuple(map(reply, verdicts)))]
    client.start(mail("d@w"))
    assert client.data_to_send().startswith(b"RSET\r\nMAIL" if reset else b"MAIL")
    answers = (b"250 reset\r\n" if reset else b"") + b"250 ok\r\n250 ok\r\n354 go\r\n"
    assert feed(client, answers) == [SendBody((0,))]


def test_mail_refused_and_yet_354() -> None:
    client = ready("PIPELINING")
    client.start(mail())
    client.data_to_send()
    assert client.receive(b"550 no\r\n503 x\r\n354 go\r\n") == [Finished((reply("550 no"),))]
    assert client.data_to_send() == b".\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        b"530 5.7.0 Authentication required\r\n",
        b"535 5.7.8 bad\r\n",
        b"503 log in first\r\n",
        b"250 ok\r\n530 5.7.1 not authenticated\r\n",
        b"250 ok\r\n250 ok\r\n530 5.7.1 not authenticated\r\n",
    ],
)
def test_a_missing_login_is_the_sessions_matter(answers: bytes, feed: Feed) -> None:
    client = ready("PIPELINING", feed=feed)
    client.start(mail())
    events = feed(client, answers)
    assert [type(e) for e in events] == [Refused]


@pytest.mark.parametrize(
    ("second", "soft", "more"),
    [
        ("452 too many", True, True),
        ("452 4.5.3 too many", True, True),
        ("552 too many", True, True),
        ("552 5.2.2 mailbox full", False, False),
        ("452 4.2.2 mailbox full", False, False),
    ],
)
def test_too_many_recipients(second: str, soft: bool, more: bool) -> None:
    client = ready("PIPELINING")
    client.start(mail("b@y", "c@z"))
    client.receive(f"250 ok\r\n250 ok\r\n{second}\r\n354 go\r\n".encode())
    client.end_body()
    (event,) = client.receive(b"250 done\r\n")
    assert isinstance(event, Finished)
    assert event.more == more
    assert event.replies[1].permanent == (second.startswith("552") and not soft)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_421_ends_it_at_any_command(before: int, feed: Feed) -> None:
    client = ready("PIPELINING", feed=feed)
    client.start(mail())
    client.data_to_send()
    steps = [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    for step in steps[:before]:
        feed(client, step)
    if before == 3:
        client.end_body()
    events = feed(client, b"421 4.3.2 shutting down\r\n250 ignored\r\n")
    closed = Closed(reply("421 4.3.2 shutting down"))
    assert events == ([Finished((reply("421 4.3.2 shutting down"),)), closed] if before == 3 else [closed])


def test_421_of_its_own_accord_and_the_end_of_the_stream() -> None:
    assert ready("PIPELINING").receive(b"421 idle\r\n") == [Closed(reply("421 idle"))]
    client = ready("PIPELINING")
    client.start(mail())
    assert client.receive(b"") == [Closed(None)]
    assert client.receive(b"") == []


@pytest.mark.parametrize("answers", [b"250 x\r\n", b"250 ok\r\n250 ok\r\n250 data\r\n"])
def test_a_reply_too_many_is_an_error(answers: bytes) -> None:
    client = ready("PIPELINING")
    if answers != b"250 x\r\n":
        client.start(mail())
    with pytest.raises(RemoteProtocolError):
        client.receive(answers)


def test_what_came_before_an_error_holds() -> None:
    client = ready("PIPELINING")
    client.start(mail())
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    client.end_body()
    finished, closed = client.receive(b"250 queued\r\nHTTP/1.1 400 what\r\n")
    assert finished == Finished((reply("250 queued"),))
    assert isinstance(closed, Closed)
    assert "HTTP/1.1" in closed.text


def test_a_reply_within_the_body_is_an_error() -> None:
    client = ready("PIPELINING")
    client.start(mail())
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    client.send_body(b"some")
    with pytest.raises(RemoteProtocolError):
        client.receive(b"552 too much\r\n")


# ---- transactions without PIPELINING
def dialogue(client: SmtpClient, steps: list[tuple[bytes, bytes]], feed: Feed) -> list[Event]:
    events = []
    for want, answer in steps:
        assert client.data_to_send() == want
        events += feed(client, answer)
    return events


def test_one_command_at_a_time(feed: Feed) -> None:
    client = ready("SIZE 1000", feed=feed)
    client.start(mail("b@y", "c@z"))
    assert dialogue(
        client,
        [
            (b"MAIL FROM:<a@x.example> SIZE=10\r\n", b"250 ok\r\n"),
            (b"RCPT TO:<b@y>\r\n", b"250 ok\r\n"),
            (b"RCPT TO:<c@z>\r\n", b"550 no\r\n"),
            (b"DATA\r\n", b"354 go\r\n"),
        ],
        feed,
    ) == [SendBody((0,))]
    client.send_body(b"x\r\n")
    client.end_body()
    client.start(mail("d@w"))
    assert dialogue(
        client,
        [
            (b"x\r\n.\r\n", b"250 taken\r\n"),
            (b"MAIL FROM:<a@x.example> SIZE=10\r\n", b"250 ok\r\n"),
            (b"RCPT TO:<d@w>\r\n", b"450 later\r\n"),
        ],
        feed,
    ) == [Finished((reply("250 taken"), reply("550 no"))), Finished((reply("450 later"),))]
    client.start(mail("e@v"))
    assert dialogue(
        client,
        [
            (b"RSET\r\n", b"250 ok\r\n"),
            (b"MAIL FROM:<a@x.example> SIZE=10\r\n", b"550 you no more\r\n"),
        ],
        feed,
    ) == [Finished((reply("550 you no more"),))]
    client.quit()
    assert dialogue(client, [(b"QUIT\r\n", b"221 bye\r\n")], feed) == [Closed(reply("221 bye"), after_quit=True)]


# ---- parameters and obstacles
@pytest.mark.parametrize(
    ("extensions", "message", "first", "second"),
    [
        ((), {"eight_bit": True, "ret": "HDRS", "envid": "x", "mt_priority": 3}, "", ""),
        (("8BITMIME", "SIZE 0"), {"eight_bit": True}, " SIZE=10 BODY=8BITMIME", ""),
        (("8bitmime", "size"), {}, " SIZE=10", ""),
        (
            ("DSN",),
            {"ret": "HDRS", "envid": "QQ+2B1"},
            " RET=HDRS ENVID=QQ+2B1",
            " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y",
        ),
        (("DSN",), {}, "", " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y"),
        (("MT-PRIORITY MIXER",), {"mt_priority": -2}, " MT-PRIORITY=-2", ""),
        (("SMTPUTF8",), {"smtputf8": True}, " SMTPUTF8", ""),
        (("SMTPUTF8",), {}, "", ""),
    ],
)
def test_parameters_only_where_offered(
    extensions: tuple[str, ...], message: dict[str, object], first: str, second: str
) -> None:
    client = ready("PIPELINING", *extensions)
    to = Rcpt("b@y", notify="SUCCESS,DELAY", orcpt="rfc822;b@y")
    client.start(Mail("a@x", (to,), 10, **message))  # type: ignore[arg-type]
    assert client.data_to_send() == f"MAIL FROM:<a@x>{first}\r\nRCPT TO:<b@y>{second}\r\nDATA\r\n".encode()


def test_addresses_beyond_ascii_take_smtputf8_by_themselves() -> None:
    client = ready("PIPELINING", "SMTPUTF8")
    client.start(mail("büro@y"))
    assert client.data_to_send() == "MAIL FROM:<a@x.example> SMTPUTF8\r\nRCPT TO:<büro@y>\r\nDATA\r\n".encode()


@pytest.mark.parametrize(
    ("extensions", "message", "status"),
    [
        (("SIZE 999",), mail(size=1000), "5.3.4"),
        (("SIZE 1000",), mail(size=1000), None),
        (("SIZE",), mail(size=1 << 40), None),
        (("SIZE 0",), mail(size=1 << 40), None),
        ((), mail(smtputf8=True), "5.6.7"),
        ((), mail("büro@y"), "5.6.7"),
        (("SMTPUTF8",), mail("büro@y"), None),
        ((), mail("b@y>\r\nRCPT TO:<c@z"), "5.1.3"),
        ((), mail('"b\n"@y'), "5.1.3"),
        ((), mail('"b>"@y'), None),
    ],
)
def test_obstacles(extensions: tuple[str, ...], message: Mail, status: str | None) -> None:
    client = ready("PIPELINING", *extensions)
    verdict = client.obstacle(message)
    assert (verdict.status if verdict else None) == status
    if verdict:
        assert verdict.permanent
        with pytest.raises(LocalProtocolError):
            client.start(message)


def test_misuse_is_ours() -> None:
    client = SmtpClient("harbour")
    for misuse in (lambda: client.start(mail()), lambda: client.send_body(b"x"), client.end_body):
        with pytest.raises(LocalProtocolError):
            misuse()
    client = ready("PIPELINING")
    client.start(mail())
    for misuse in (lambda: client.start(mail()), client.end_body, client.quit):
        with pytest.raises(LocalProtocolError):
            misuse()


@pytest.mark.parametrize("extensions", [("DSN", "PIPELINING"), ("DSN",)])
@pytest.mark.parametrize(
    "bad",
    [
        mail(envid="a b"),
        mail(ret="HDRS\r\nQUIT"),
        Mail("a@x.example", (Rcpt("b@y"), Rcpt("c@z", orcpt="rfc822;a b")), 1),
        Mail("a@x.example", (Rcpt("b@y", notify="NEVER\0"),), 1),
    ],
)
def test_a_message_that_can_t_be_said_leaves_the_connection_to_the_next(extensions: tuple[str, ...], bad: Mail) -> None:
    client = ready(*extensions)
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="blank"):
            client.start(bad)
        assert client.data_to_send() == b""
    client.start(mail("b@y"))
    assert client.data_to_send().startswith(b"MAIL FROM:<a@x.example>\r\n")


def test_quit_after_a_message_that_can_t_be_said() -> None:
    client = ready("DSN")
    with pytest.raises(LocalProtocolError):
        client.start(mail(envid="a b"))
    client.quit()
    assert client.data_to_send() == b"QUIT\r\n"


# ---- properties
@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"z", b"\r\n.")), max_size=8))
def test_a_body_is_what_a_server_gets_back(pieces: list[bytes]) -> None:
    client = ready("PIPELINING")
    client.start(mail())
    client.data_to_send()
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    for piece in pieces:
        client.send_body(piece)
    client.end_body()
    wire = client.data_to_send()
    message = b"".join(pieces)
    assert wire.endswith(b".\r\n")
    assert wire.find(b"\r\n.\r\n") in (-1, len(wire) - 5)
    lines = (b"\r\n" + wire[:-3]).replace(b"\r\n.", b"\r\n")[2:]
    assert lines == (message if not message or message.endswith(b"\r\n") else message + b"\r\n")


LINE = st.sampled_from(
    [b"250 ok\r\n", b"250-a\r\n", b"354 go\r\n", b"550 no\r\n", b"421 x\r\n", b"334 x\r\n", b"235 ok\r\n"]
)


@given(st.lists(LINE | st.binary(max_size=12), max_size=20), st.booleans())
def test_garbage_in_the_opening_is_read_or_refused(pieces: list[bytes], login: bool) -> None:
    """Whole and byte at a time come to the same, and only RemoteProtocolError is raised."""

    def run(step: int) -> tuple[list[Event], bytes]:
        client = SmtpClient("harbour", login="h" if login else "", password="p")
        data = b"".join(pieces)
        events: list[Event] = []
        try:
            for i in range(0, len(data), step):
                events += client.receive(data[i : i + step])
        except RemoteProtocolError:
            events.append(Closed(None))
        return events, client.data_to_send()

    assert run(1) == run(1000)


@given(st.lists(LINE | st.binary(max_size=12), max_size=30))
def test_garbage_in_transactions_is_read_or_refused(pieces: list[bytes]) -> None:
    client = ready("PIPELINING")
    client.start(mail("b@y", "c@z"))
    unfinished = 1
    try:
        for piece in pieces:
            for event in client.receive(piece or b"\r"):
                match event:
                    case SendBody(accepted):
                        assert accepted
                        client.end_body()
                        client.start(mail("d@w", "e@v"))
                        unfinished += 1
                    case Finished(replies):
                        assert len(replies) == 2
                        unfinished -= 1
                        assert unfinished >= 0
                        if not unfinished:
                            client.start(mail("f@u", "g@t"))
                            unfinished = 1
                    case Closed() | Refused():
                        return
    except RemoteProtocolError:
        pass
    assert client.data_to_send()
