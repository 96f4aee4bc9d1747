"""The server's side of SMTP without a socket: tables of conversations, each whole and byte at a time."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LocalProtocolError
from appliance.protocol.smtp_events import (
    BodyEnd,
    BodyPiece,
    BodyStart,
    Closed,
    LoginWanted,
    MailFrom,
    RcptTo,
    Reset,
    StartTls,
)
from appliance.protocol.smtp_server import MAX_COMMAND, MAX_ERRORS, NEED_DATA, SmtpServer

LIMIT = 1000


class Driver:
    """Answers as a server that takes everything; keeps what happened."""

    def __init__(self, **options: bool) -> None:
        self.server = SmtpServer("mx.example", message_limit=LIMIT, **options)
        self.server.greet()
        self.events: list[object] = []
        self.messages: list[bytes] = []
        self.wire = self.server.data_to_send()
        self._body = b""

    def say(self, data: bytes, every: int = 0) -> bytes:
        """Feeds `data` in pieces; -> the replies."""
        out = b""
        for at in range(0, len(data), every or len(data) or 1):
            self.server.receive_data(data[at : at + every] if every else data)
            self._drain()
            out += self.server.data_to_send()
        return out

    def _drain(self) -> None:
        server = self.server
        while (event := server.next_event()) is not NEED_DATA:
            if not isinstance(event, BodyPiece):
                self.events.append(event)
            match event:
                case MailFrom():
                    server.accept_mail()
                case RcptTo():
                    server.accept_rcpt()
                case BodyStart():
                    self._body = b""
                    if not event.chunking:
                        server.accept_data()
                case BodyPiece():
                    self._body += event.data
                case BodyEnd():
                    if event.problem is None:
                        self.messages.append(self._body)
                    server.message_done(*(event.problem or (250, "2.0.0", "kept")))
                case LoginWanted():
                    if event.password == "right":
                        server.accept_login(event.name)
                    else:
                        server.refuse_login()
                case StartTls():
                    return
                case Closed():
                    return


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.split(b"\r\n") if line and line[3:4] == b" "]


HELLO = b"EHLO pc.example\r\n"
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"

CONVERSATIONS = [
    (HELLO + ENVELOPE + b"DATA\r\nhi\r\n.\r\nQUIT\r\n", [250, 250, 250, 354, 250, 221], [b"hi\r\n"]),
    (HELLO + ENVELOPE + b"DATA\r\n.\r\n", [250, 250, 250, 354, 250], [b""]),
    (HELLO + ENVELOPE + b"DATA\r\n..\r\n...x\r\n.\r\n", [250, 250, 250, 354, 250], [b".\r\n..x\r\n"]),
    (HELLO + ENVELOPE + b"BDAT 4 LAST\r\nhi\r\n", [250, 250, 250, 250], [b"hi\r\n"]),
    (HELLO + ENVELOPE + b"BDAT 3\r\nhi\rBDAT 1\r\n\nBDAT 0 LAST\r\n", [250, 250, 250, 250, 250, 250], [b"hi\r\n"]),
    (HELLO + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", [250, 503, 250], []),
    (HELLO + ENVELOPE + b"BDAT 2\r\na\nBDAT 0 LAST\r\n", [250, 250, 250, 250, 550], []),
    (HELLO + ENVELOPE + b"BDAT 1\r\na" + b"DATA\r\nRSET\r\n", [250, 250, 250, 250, 503, 250], []),
    (HELLO + ENVELOPE + b"BDAT x\r\nNOOP\r\n", [250, 250, 250, 501], []),
    (b"MAIL FROM:<a@b.example>\r\n", [503], []),
    (b"HELO pc\r\nMAIL FROM:<a@b.example> SIZE=3\r\nMAIL FROM:<a@b.example>\r\n", [250, 555, 250], []),
    (HELLO + b"RCPT TO:<c@d.example>\r\nDATA\r\n", [250, 503, 503], []),
    (HELLO + b"MAIL FROM:<a@b.example>\r\nDATA\r\n", [250, 250, 503], []),
    (HELLO + b"MAIL FROM:<a@b.example>\r\nMAIL FROM:<a@b.example>\r\n", [250, 250, 503], []),
    (HELLO + ENVELOPE + b"RSET\r\nDATA\r\n", [250, 250, 250, 250, 503], []),
    (HELLO + b"NOOP x\r\nVRFY y\r\nEXPN z\r\nHELP\r\nWHAT\r\n\r\n", [250, 250, 252, 252, 214, 500, 500], []),
    (HELLO + b"MAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n", [250, 250, 250], []),
    (HELLO + b"MAIL FROM: <a@b.example>\r\nRCPT TO:<@x,@y:c@d.example>\r\n", [250, 250, 250], []),
    (HELLO + b'MAIL FROM:<"a b>c"@b.example> BODY=8BITMIME\r\n', [250, 250], []),
    (HELLO + f"MAIL FROM:<a@b.example> SIZE={LIMIT}\r\n".encode(), [250, 250], []),
    (HELLO + f"MAIL FROM:<a@b.example> SIZE={LIMIT + 1}\r\n".encode(), [250, 552], []),
    (HELLO + ENVELOPE + b"DATA\r\n" + b"x" * (LIMIT + 1) + b"\r\n.\r\nNOOP\r\n", [250, 250, 250, 354, 552, 250], []),
    (
        HELLO + ENVELOPE + b"DATA\r\n" + b"x" * (LIMIT - 2) + b"\r\n.\r\n",
        [250, 250, 250, 354, 250],
        [b"x" * (LIMIT - 2) + b"\r\n"],
    ),
    (b"EHLO a b\r\nEHLO\r\n" + HELLO, [501, 501, 250], []),
    (HELLO + b"X" * (MAX_COMMAND + 1) + b"\r\nNOOP\r\n", [250, 500, 250], []),
    (HELLO + b"X" * 50_000 + b"\r\nNOOP\r\n", [250, 500, 250], []),
    (HELLO + b"AUTH PLAIN\r\n", [250, 538], []),
    (HELLO + b"STARTTLS x\r\n", [250, 501], []),
]


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize(("said", "replies", "messages"), CONVERSATIONS)
def test_conversation(said: bytes, replies: list[int], messages: list[bytes], every: int) -> None:
    driver = Driver(tls_available=True)
    assert codes(driver.say(said, every)) == replies
    assert driver.messages == messages


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        (b"<a@b.example> SIZE=abc", 501),
        (b"<a@b.example> SIZE=1 SIZE=2", 501),
        (b"<a@b.example> FOO=1", 555),
        (b"<a@b.example> BODY=BINARYMIME", 501),
        (b"<a@b.example> SMTPUTF8=1", 501),
        (b"<a@b.example> RET=SOME", 501),
        (b"<a@b.example> ENVID=+zz", 501),
        (b"<a@b.example> MT-PRIORITY=10", 501),
        (b"<a@b.example> MT-PRIORITY=-9 ENVID=a+3Db RET=HDRS AUTH=<>", 250),
        (b"<a@b.example>x", 501),
        (b"<a@b.example", 501),
        (b"<ab>", 501),
        (b"<a@>", 501),
        (b"<a@b c>", 501),
        (b"<a\x01@b.example>", 501),
        ("<ü@b.example>".encode(), 553),
        ("<ü@b.example> SMTPUTF8".encode(), 250),
        (b"<\xff@b.example> SMTPUTF8", 501),
        (b"<" + b"a" * 250 + b"@b.example>", 501),
        (b"", 501),
    ],
)
def test_mail_parameters(argument: bytes, code: int) -> None:
    assert codes(Driver().say(HELLO + b"MAIL FROM:" + argument + b"\r\n")) == [250, code]


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        (b"<c@d.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@d.example", 250),
        (b"<c@d.example> NOTIFY=NEVER,FAILURE", 501),
        (b"<c@d.example> ORCPT=c@d.example", 501),
        (b"<c@d.example> ORCPT=rfc822;+zz", 501),
        (b"<>", 501),
        (b"<c>", 501),
    ],
)
def test_rcpt_parameters(argument: bytes, code: int) -> None:
    said = HELLO + b"MAIL FROM:<a@b.example>\r\nRCPT TO:" + argument + b"\r\n"
    assert codes(Driver().say(said)) == [250, 250, code]


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\n.\r", b"\r\n.\r\r\n"])
@pytest.mark.parametrize("every", [0, 1])
def test_smuggling_is_one_refused_message(end: bytes, every: int) -> None:
    driver = Driver()
    smuggled = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nevil\r\n"
    said = HELLO + ENVELOPE + b"DATA\r\nhi" + end + smuggled + b".\r\nNOOP\r\n"
    assert codes(driver.say(said, every)) == [250, 250, 250, 354, 550, 250]
    assert driver.messages == []
    assert sum(isinstance(e, MailFrom) for e in driver.events) == 1


def test_what_came_before_tls_is_forgotten() -> None:
    driver = Driver(tls_available=True)
    replies = driver.say(HELLO + b"STARTTLS\r\n" + ENVELOPE + b"NOOP\r\n")
    assert codes(replies) == [250, 220]
    driver.server.tls_started()
    assert driver.say(b"") == b""
    assert codes(driver.say(b"MAIL FROM:<a@b.example>\r\n")) == [503]
    assert b"STARTTLS" not in driver.say(HELLO)
    assert codes(driver.say(b"STARTTLS\r\n")) == [502]


@pytest.mark.parametrize(
    ("said", "replies", "login"),
    [
        (b"AUTH PLAIN " + base64.b64encode(b"\0me\0right") + b"\r\n", [235], "me"),
        (b"AUTH PLAIN " + base64.b64encode(b"me\0me\0right") + b"\r\n", [235], "me"),
        (b"AUTH PLAIN\r\n" + base64.b64encode(b"\0me\0right") + b"\r\n", [334, 235], "me"),
        (
            b"AUTH LOGIN\r\n" + base64.b64encode(b"me") + b"\r\n" + base64.b64encode(b"right") + b"\r\n",
            [334, 334, 235],
            "me",
        ),
        (b"auth login " + base64.b64encode(b"me") + b"\r\n" + base64.b64encode(b"right") + b"\r\n", [334, 235], "me"),
        (b"AUTH PLAIN " + base64.b64encode(b"\0me\0wrong") + b"\r\n", [535], ""),
        (b"AUTH PLAIN " + base64.b64encode(b"you\0me\0right") + b"\r\n", [501], ""),
        (b"AUTH PLAIN !!!\r\n", [501], ""),
        (b"AUTH LOGIN\r\n*\r\nNOOP\r\n", [334, 501, 250], ""),
        (b"AUTH CRAM-MD5\r\n", [504], ""),
        (ENVELOPE + b"AUTH PLAIN " + base64.b64encode(b"\0me\0right") + b"\r\n", [250, 250, 503], ""),
    ],
)
@pytest.mark.parametrize("every", [0, 1])
def test_login(said: bytes, replies: list[int], login: str, every: int) -> None:
    driver = Driver(secure=True)
    driver.say(HELLO)
    assert codes(driver.say(said, every)) == replies
    assert driver.server.login == login


def test_password_is_not_shown() -> None:
    driver = Driver(secure=True)
    driver.say(HELLO + b"AUTH PLAIN " + base64.b64encode(b"\0me\0secret") + b"\r\n")
    assert "secret" not in repr(driver.events)


def test_extensions_offered() -> None:
    offered = Driver(tls_available=True).say(HELLO).decode().split("\r\n")
    words = {line[4:].split()[0] for line in offered if line}
    expected = "PIPELINING SIZE 8BITMIME SMTPUTF8 CHUNKING DSN ENHANCEDSTATUSCODES MT-PRIORITY STARTTLS"
    assert words == {"mx.example", *expected.split()}
    assert "AUTH PLAIN LOGIN" in Driver(plaintext_login=True).say(HELLO).decode()


def test_too_many_errors_close() -> None:
    driver = Driver()
    replies = codes(driver.say(b"WHAT\r\n" * (MAX_ERRORS + 5)))
    assert replies == [500] * (MAX_ERRORS + 1) + [421]
    assert isinstance(driver.events[-1], Closed)


def test_an_unanswered_event_is_our_defect() -> None:
    server = SmtpServer("mx.example", message_limit=LIMIT)
    server.receive_data(HELLO + b"MAIL FROM:<a@b.example>\r\nNOOP\r\n")
    assert isinstance(server.next_event(), MailFrom)
    with pytest.raises(LocalProtocolError):
        server.next_event()


def test_a_message_is_under_way_between_its_chunks() -> None:
    """The driver's minimum rate holds for the whole message."""
    driver = Driver()
    under_way = []
    for said in (
        b"EHLO pc\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n", b"BDAT 3\r\n", b"a", b"bc", b"BDAT 0\r\n",
        b"BDAT 1 LA", b"ST\r\n", b"d",
    ):  # fmt: skip
        driver.say(said)
        under_way.append(driver.server.in_body)
    assert under_way == [False, True, True, True, True, True, True, False]
    assert driver.messages == [b"abcd"]
    driver.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3\r\nabcRSET\r\n")
    assert not driver.server.in_body


def test_reset_in_the_middle_is_told() -> None:
    driver = Driver()
    driver.say(HELLO + ENVELOPE + HELLO)
    assert isinstance(driver.events[-1], Reset)


WORDS = st.sampled_from(
    [
        HELLO,
        ENVELOPE,
        b"DATA\r\n",
        b".\r\n",
        b"BDAT 5\r\n",
        b"BDAT 0 LAST\r\n",
        b"RSET\r\n",
        b"AUTH LOGIN\r\n",
        b"\n",
        b"\r",
        b"x",
    ]
    + [b"STARTTLS\r\n", b"QUIT\r\n", b"\xff\0", b"MAIL FROM:<", b">\r\n", b"RCPT TO:", b" SIZE=", b"=\r\n"]
)


@given(st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=40), st.integers(1, 9))
def test_garbage_is_answered_and_cuts_do_not_matter(pieces: list[bytes], every: int) -> None:
    said = b"".join(pieces)
    whole, cut = Driver(plaintext_login=True), Driver(plaintext_login=True)
    a = whole.say(said)
    b = b"".join(cut.say(said[i : i + every]) for i in range(0, len(said), every))
    assert a == b
    assert whole.messages == cut.messages
