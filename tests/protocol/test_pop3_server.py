"""POP3's server side: each conversation whole and byte at a time, and garbage."""

from __future__ import annotations

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol import pop3_server
from appliance.protocol.errors import LocalProtocolError
from appliance.protocol.pop3_body import Pop3Body
from appliance.protocol.pop3_server import (
    Close,
    Flush,
    Listed,
    LoginWanted,
    Pop3Server,
    RetrieveWanted,
    StartTls,
    State,
    UpdateWanted,
)

DROP = [b"Subject: one\r\n\r\nfirst\r\n.dot\r\n", b"Subject: two\r\n\r\nno end", b""]
UIDS = ["uid-one", "uid-two", "uid-three"]
PLAIN = base64.b64encode(b"\0hanako\0pass word")


class Driver:
    """Answers events as the service does, from memory; keeps what was sent."""

    def __init__(self, server: Pop3Server, drop: list[bytes] = DROP) -> None:
        self.server = server
        self.drop = drop
        self.sent = bytearray()
        self.events: list[object] = []
        self.biggest = 0

    def take(self) -> None:
        data = self.server.data_to_send()
        self.biggest = max(self.biggest, len(data))
        self.sent += data

    def feed(self, data: bytes) -> None:
        self.server.feed(data)
        while (event := self.server.next_event()) is not None:
            if not isinstance(event, RetrieveWanted):  # as the service does: messages gather up to OUT_LIMIT
                self.take()
            if not isinstance(event, Flush):
                self.events.append(event)
            match event:
                case LoginWanted(name, password):
                    if (name, password) == ("hanako", "pass word"):
                        self.server.login_accepted([Listed(len(d), u) for d, u in zip(self.drop, UIDS, strict=False)])
                    elif name == "busy":
                        self.server.login_refused("IN-USE", "busy")
                    else:
                        self.server.login_refused("AUTH", "wrong")
                case RetrieveWanted(index):
                    file = io.BytesIO(self.drop[index])
                    while (piece := file.read(3)) and not self.server.body_enough:
                        self.server.body(piece)
                    self.server.body_end()
                case UpdateWanted():
                    self.server.updated(complete=True)
                case StartTls():
                    self.server.tls_started()
                case Close():
                    break
        self.take()


def talk(script: bytes, *, step: int = 0, **options: bool) -> Driver:
    """A whole conversation; `step` octets at a time, 0: at once."""
    driver = Driver(Pop3Server(**{"tls_offered": True, "plain_login": True} | options))
    pieces = [script] if not step else [script[i : i + step] for i in range(0, len(script), step)]
    driver.take()
    for piece in pieces:
        driver.feed(piece)
    return driver


HELLO = b"+OK POP3 ready\r\n"
LOGIN, WELCOME = b"USER hanako\r\nPASS pass word\r\n", b"+OK\r\n+OK 3 messages\r\n"
CAPA = (
    b"+OK\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\n"
    b"%bIMPLEMENTATION Posthouse\r\n.\r\n"
)

CONVERSATIONS = {
    "quit": (b"QUIT\r\n", b"+OK bye\r\n"),
    "capa": (b"CAPA\r\n", CAPA % b"USER\r\nSASL PLAIN\r\nSTLS\r\n"),
    "lower case, bare LF": (b"user hanako\nPaSs pass word\nstat\n", WELCOME + b"+OK 3 51\r\n"),
    "unknown user": (b"USER x\r\nPASS y\r\n", b"+OK\r\n-ERR [AUTH] wrong\r\n"),
    "in use": (b"USER busy\r\nPASS y\r\n", b"+OK\r\n-ERR [IN-USE] busy\r\n"),
    "pass without user": (b"PASS y\r\n", b"-ERR USER first\r\n"),
    "a password holds once": (
        b"USER hanako\r\nPASS no\r\nPASS pass word\r\n",
        b"+OK\r\n-ERR [AUTH] wrong\r\n-ERR USER first\r\n",
    ),
    "spaces in a password count": (b"USER hanako\r\nPASS pass word \r\n", b"+OK\r\n-ERR [AUTH] wrong\r\n"),
    "auth with response": (b"AUTH PLAIN " + PLAIN + b"\r\nNOOP\r\n", b"+OK 3 messages\r\n+OK\r\n"),
    "auth in two steps": (b"auth plain\r\n" + PLAIN + b"\r\nNOOP\r\n", b"+ \r\n+OK 3 messages\r\n+OK\r\n"),
    "auth cancelled": (b"AUTH PLAIN\r\n*\r\nNOOP\r\n", b"+ \r\n-ERR cancelled\r\n-ERR not now\r\n"),
    "auth empty response": (
        b"AUTH PLAIN =\r\n",
        b"-ERR PLAIN takes a name and a password, and nobody logs in for another\r\n",
    ),
    "auth garbage": (b"AUTH PLAIN !!\r\n", b"-ERR that can't be decoded\r\n"),
    "auth other": (b"AUTH CRAM-MD5\r\nAUTH\r\n", b"-ERR AUTH PLAIN is to be had\r\n" * 2),
    "not before login": (b"STAT\r\nRETR 1\r\n", b"-ERR not now\r\n" * 2),
    "not after login": (
        LOGIN + b"USER hanako\r\nSTLS\r\nAUTH PLAIN\r\n",
        WELCOME + b"-ERR not now\r\n" * 3,
    ),
    "unknown": (b"HELO x\r\n\r\n", b"-ERR unknown command\r\n" * 2),
    "list": (LOGIN + b"LIST\r\nLIST 2\r\n", WELCOME + b"+OK 3 messages\r\n1 29\r\n2 22\r\n3 0\r\n.\r\n+OK 2 22\r\n"),
    "uidl": (
        LOGIN + b"UIDL\r\nUIDL 3\r\n",
        WELCOME + b"+OK 3 messages\r\n1 uid-one\r\n2 uid-two\r\n3 uid-three\r\n.\r\n+OK 3 uid-three\r\n",
    ),
    "retr": (
        LOGIN + b"RETR 1\r\nRETR 2\r\nRETR 3\r\n",
        WELCOME
        + b"+OK 29 octets\r\nSubject: one\r\n\r\nfirst\r\n..dot\r\n.\r\n"
        + b"+OK 22 octets\r\nSubject: two\r\n\r\nno end\r\n.\r\n+OK 0 octets\r\n.\r\n",
    ),
    "no such message": (
        LOGIN + b"RETR 0\r\nRETR 4\r\nLIST 4\r\nUIDL 99\r\nDELE 4\r\nTOP 4 1\r\n",
        WELCOME + b"-ERR no such message\r\n" * 6,
    ),
    "no number": (
        LOGIN + b"RETR\r\nRETR x\r\nRETR -1\r\nRETR 1234567890\r\nTOP 1\r\nLIST x\r\nDELE\r\n",
        WELCOME + b"-ERR a number is missing\r\n" * 7,
    ),
    "dele and rset": (
        LOGIN + b"DELE 1\r\nDELE 1\r\nRETR 1\r\nSTAT\r\nLIST\r\nRSET\r\nSTAT\r\n",
        WELCOME
        + b"+OK\r\n-ERR no such message\r\n-ERR no such message\r\n+OK 2 22\r\n"
        + b"+OK 2 messages\r\n2 22\r\n3 0\r\n.\r\n+OK\r\n+OK 3 51\r\n",
    ),
    "top": (
        LOGIN + b"TOP 1 0\r\nTOP 1 1\r\nTOP 1 9\r\nTOP 3 5\r\n",
        WELCOME
        + b"+OK\r\nSubject: one\r\n\r\n.\r\n"
        + b"+OK\r\nSubject: one\r\n\r\nfirst\r\n.\r\n"
        + b"+OK\r\nSubject: one\r\n\r\nfirst\r\n..dot\r\n.\r\n"
        + b"+OK\r\n.\r\n",
    ),
    "a line of 255 octets": (b"USER " + b"x" * 248 + b"\r\n", b"+OK\r\n"),
    "a longer line": (
        b"USER " + b"x" * 249 + b"\r\nCAPAX\r\n",
        b"-ERR the line is too long\r\n-ERR unknown command\r\n",
    ),
    "a very long line": (b"U" * 70_000 + b"\r\nQUIT\r\n", b"-ERR the line is too long\r\n+OK bye\r\n"),
    "a too long response": (
        b"AUTH PLAIN\r\n" + b"A" * 13_000 + b"\r\nQUIT\r\n",
        b"+ \r\n-ERR the line is too long\r\n+OK bye\r\n",
    ),
}


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(name: str, step: int) -> None:
    said, expected = CONVERSATIONS[name]
    assert bytes(talk(said, step=step).sent) == HELLO + expected


def test_no_login_without_tls() -> None:
    asked = b"CAPA\r\nUSER hanako\r\nPASS pass word\r\nAUTH PLAIN " + PLAIN + b"\r\n"
    refused = b"-ERR TLS is needed first: STLS\r\n" * 3
    driver = talk(asked, plain_login=False)
    assert driver.sent == HELLO + CAPA % b"STLS\r\n" + refused
    assert not driver.events
    driver = talk(asked, plain_login=False, tls_offered=False)
    assert driver.sent == HELLO + CAPA % b"" + b"-ERR no login without TLS\r\n" * 3
    driver = talk(b"CAPA\r\nSTLS\r\n" + LOGIN, plain_login=False, tls_active=True)
    assert driver.sent == HELLO + CAPA % b"USER\r\nSASL PLAIN\r\n" + b"-ERR TLS is active\r\n" + WELCOME


@pytest.mark.parametrize("injected", [b"USER mallory\r\n", LOGIN + b"DELE 1\r\nQUIT\r\n", b"US", b"x" * 300])
def test_what_came_before_tls_is_forgotten(injected: bytes) -> None:
    driver = talk(b"USER early\r\nSTLS\r\n" + injected)
    assert driver.sent == HELLO + b"+OK\r\n+OK begin TLS\r\n"
    assert driver.events == [StartTls()]
    driver.feed(b"PASS pass word\r\nCAPA\r\n")
    assert driver.sent.endswith(b"+OK begin TLS\r\n-ERR USER first\r\n" + CAPA % b"USER\r\nSASL PLAIN\r\n")


def test_marks_are_handed_over_at_quit_and_never_otherwise() -> None:
    driver = talk(LOGIN + b"DELE 3\r\nDELE 1\r\n")
    assert [type(e) for e in driver.events] == [LoginWanted]
    driver.feed(b"QUIT\r\nSTAT\r\n")
    assert driver.events[1:] == [UpdateWanted((0, 2)), Close()]
    assert driver.sent.endswith(b"+OK\r\n+OK\r\n+OK bye\r\n")
    assert driver.server.state is State.CLOSED


def test_a_failed_update_is_said() -> None:
    server = Pop3Server(tls_offered=False, plain_login=True)
    server.feed(LOGIN + b"DELE 1\r\nQUIT\r\n")
    assert server.next_event() == LoginWanted("hanako", "pass word")
    server.login_accepted([Listed(1, "a")])
    assert server.next_event() == UpdateWanted((0,))
    server.updated(complete=False)
    assert server.next_event() == Close()
    assert server.data_to_send().endswith(b"-ERR [SYS/TEMP] some messages could not be deleted\r\n")


def test_wrong_commands_and_refused_logins_are_counted() -> None:
    driver = talk(b"GET / HTTP/1.1\r\n" * 1000)
    assert driver.events == [Close("too many wrong commands")]
    assert driver.sent.count(b"-ERR") == pop3_server.WRONG_LIMIT
    driver = talk(b"USER x\r\nPASS y\r\n" * 1000)
    assert driver.events[-1] == Close("too many refused logins")
    assert len(driver.events) == pop3_server.LOGIN_LIMIT + 1


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(LoginWanted("hanako", "secret"))


def test_a_thousand_commands_in_one_flight_are_answered_in_order_and_in_few_writes() -> None:
    driver = talk(LOGIN + b"".join(b"UIDL %d\r\nNOOP\r\n" % (i % 3 + 1) for i in range(500)))
    lines = driver.sent[len(HELLO + WELCOME) :].split(b"\r\n")[:-1]
    assert lines[::2] == [f"+OK {i % 3 + 1} {UIDS[i % 3]}".encode() for i in range(500)]
    assert lines[1::2] == [b"+OK"] * 500


def test_short_commands_with_long_answers_do_not_fill_the_memory() -> None:
    drop = [b"x" * 5000] * 3
    driver = Driver(Pop3Server(tls_offered=False, plain_login=True), drop)
    driver.feed(LOGIN + b"RETR 1\r\n" * 1000)
    assert driver.sent.count(b"+OK 5000 octets") == 1000
    assert driver.biggest < pop3_server.OUT_LIMIT + 6000


@pytest.mark.parametrize(
    "misuse",
    [
        lambda s: s.login_accepted([]),
        lambda s: s.login_refused("AUTH", "x"),
        lambda s: s.tls_started(),
        lambda s: s.body(b"x"),
        lambda s: s.body_end(),
        lambda s: s.retrieve_refused("x"),
        lambda s: s.updated(complete=True),
    ],
)
def test_a_method_out_of_turn_is_our_own_defect(misuse) -> None:
    server = Pop3Server(tls_offered=True)
    with pytest.raises(LocalProtocolError):
        misuse(server)


def test_an_unanswered_event_is_our_own_defect() -> None:
    server = Pop3Server(tls_offered=True)
    server.feed(b"STLS\r\n")
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.next_event()


def through(data: bytes, cuts: list[int], lines: int | None = None) -> bytes:
    body, out, at = Pop3Body(lines), b"", 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        out += body.feed(data[at:cut])
        at = cut
    return out + body.finish()


MAIL = st.lists(st.sampled_from([b".", b"\r", b"\n", b"\r\n", b"a", b"\0", b"\xff", b"\r\n.\r\n", b"\n.\n"])).map(
    b"".join
)


@given(MAIL, st.lists(st.integers(0, 100), max_size=5))
def test_a_body_comes_out_whole_wherever_it_is_cut(data: bytes, cuts: list[int]) -> None:
    out = through(data, cuts)
    assert out == through(data, [])
    assert out.endswith(b".\r\n")
    lines = out.replace(b"\r\n", b"\n").split(b"\n")
    assert lines[-2:] == [b".", b""]
    assert b"." not in lines[:-2]  # nowhere before, by CRLF or by LF, does the answer seem to end
    assert out.count(b"\n") == out.count(b"\r\n")
    back = b"\r\n".join(line.removeprefix(b".") for line in lines[:-2])
    sent = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert back in (sent, sent.removesuffix(b"\r\n"))


@given(MAIL, st.lists(st.integers(0, 100), max_size=5), st.integers(0, 4))
def test_top_is_the_header_and_so_many_lines(data: bytes, cuts: list[int], lines: int) -> None:
    whole = through(data, []).replace(b"\r\n", b"\n").split(b"\n")[:-2]
    header = whole.index(b"") + 1 if b"" in whole else len(whole)
    expected = b"".join(line + b"\r\n" for line in whole[: header + lines]) + b".\r\n"
    assert through(data, cuts, lines) == expected


WORDS = st.sampled_from(
    [b"USER", b"PASS", b"AUTH", b"PLAIN", PLAIN, b"hanako", b"pass word", b"STLS", b"CAPA", b"STAT", b"LIST", b"UIDL",
     b"RETR", b"TOP", b"DELE", b"RSET", b"NOOP", b"QUIT", b"1", b"3", b"99", b" ", b"\r\n", b"\r\n", b"\n", b"\r", b"="]
)  # fmt: skip


@given(st.lists(WORDS | st.binary(max_size=300), max_size=60), st.booleans(), st.booleans())
def test_garbage_is_answered_whole_and_byte_at_a_time_alike(words: list[bytes], tls: bool, plain: bool) -> None:
    script = b"".join(words)
    whole = talk(script, tls_offered=tls, plain_login=plain)
    for line in bytes(whole.sent).split(b"\r\n")[:1]:
        assert line.startswith(b"+OK")
    if StartTls() not in whole.events:  # what follows STLS in the same flight is forgotten
        assert talk(script, step=1, tls_offered=tls, plain_login=plain).sent == whole.sent
