"""The POP3 client against tables of what servers say, whole and byte at a time, and against garbage."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.pop3_client import (
    MAX_HEADER,
    MAX_LINE,
    BodyData,
    BodyEnd,
    Closed,
    Deleted,
    Event,
    Header,
    Listed,
    Listing,
    NotRetrieved,
    Pop3Client,
    Ready,
    Refused,
    StartTls,
    Survey,
)

DOVECOT = (
    b"+OK Dovecot (Debian) ready.\r\n",
    b"+OK\r\nCAPA\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\nAUTH-RESP-CODE\r\nUSER\r\nSASL PLAIN LOGIN\r\n.\r\n",
)
COURIER = (
    b"+OK Hello there.\r\n",
    b"+OK Here's what I can do:\r\nTOP\r\nUSER\r\nLOGIN-DELAY 10\r\nPIPELINING\r\nUIDL\r\n.\r\n",
)
OLD = (b"+OK QPOP (version 2.53) at isp.example starting. <1.2@isp.example>\r\n", b'-ERR Unknown command: "capa".\r\n')
PLAIN = base64.b64encode(b"\0hanako\0geheim") + b"\r\n"

Feed = Callable[[Pop3Client, bytes], list[Event]]


def joined(events: list[Event]) -> list[Event]:
    """With neighbouring pieces of one body as one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, BodyData) and isinstance(last, BodyData) and last.number == event.number:
            out[-1] = BodyData(event.number, last.data + event.data)
        else:
            out.append(event)
    return out


def whole(client: Pop3Client, data: bytes) -> list[Event]:
    return joined(client.receive(data))


def bytewise(client: Pop3Client, data: bytes) -> list[Event]:
    return joined([e for i in range(len(data)) for e in client.receive(data[i : i + 1])])


@pytest.fixture(params=[whole, bytewise], ids=["whole", "bytewise"])
def feed(request: pytest.FixtureRequest) -> Feed:
    return request.param


def ready(server: tuple[bytes, bytes] = DOVECOT, feed: Feed = whole) -> Pop3Client:
    """A client behind its login."""
    client = Pop3Client("hanako", "geheim")
    assert feed(client, server[0]) == []
    assert client.data_to_send() == b"CAPA\r\n"
    assert feed(client, server[1]) == []
    if server is DOVECOT:
        assert client.data_to_send() == b"AUTH PLAIN " + PLAIN
    elif server is COURIER:
        assert client.data_to_send() == b"USER hanako\r\nPASS geheim\r\n"
        assert feed(client, b"+OK Password required.\r\n") == []
    else:
        assert client.data_to_send() == b"USER hanako\r\n"
        assert feed(client, b"+OK Password required for hanako.\r\n") == []
        assert client.data_to_send() == b"PASS geheim\r\n"
    assert feed(client, b"+OK Logged in.\r\n") == [Ready()]
    return client


@pytest.mark.parametrize("server", [DOVECOT, COURIER, OLD], ids=["dovecot", "courier", "old"])
def test_the_login(server: tuple[bytes, bytes], feed: Feed) -> None:
    assert ready(server, feed).pipelining == (server is not OLD)


def test_starttls_comes_before_all(feed: Feed) -> None:
    client = Pop3Client("hanako", "geheim", starttls=True)
    assert feed(client, DOVECOT[0]) == []
    assert client.data_to_send() == b"STLS\r\n"
    assert feed(client, b"+OK Begin TLS negotiation now.\r\n") == [StartTls()]
    client.tls_started()
    assert client.data_to_send() == b"CAPA\r\n"
    assert feed(client, DOVECOT[1]) == []
    assert client.data_to_send() == b"AUTH PLAIN " + PLAIN


def test_what_comes_unprotected_behind_stls_ends_it() -> None:
    client = Pop3Client("hanako", "geheim", starttls=True)
    client.receive(DOVECOT[0])
    with pytest.raises(RemoteProtocolError):
        client.receive(b"+OK go\r\n+OK evil\r\n")


@pytest.mark.parametrize(("password", "line"), [("p" * 300, b"AUTH PLAIN\r\n"), ("geheim", b"AUTH PLAIN " + PLAIN)])
def test_a_long_or_unread_initial_response_is_given_again(password: str, line: bytes, feed: Feed) -> None:
    client = Pop3Client("hanako", password)
    feed(client, DOVECOT[0])
    client.data_to_send()
    feed(client, DOVECOT[1])
    assert client.data_to_send() == line
    assert feed(client, b"+ \r\n") == []
    assert client.data_to_send() == base64.b64encode(b"\0hanako\0" + password.encode()) + b"\r\n"
    assert feed(client, b"+OK\r\n") == [Ready()]


@pytest.mark.parametrize(
    ("answers", "login", "temporary"),
    [
        ([b"-ERR [SYS/TEMP] too busy\r\n"], False, True),
        ([b"-ERR go away\r\n"], False, True),
        ([*DOVECOT, b"-ERR [AUTH] Authentication failed.\r\n"], True, False),
        ([*DOVECOT, b"-ERR [IN-USE] Mailbox is locked\r\n"], False, True),
        ([*DOVECOT, b"-ERR [login-delay] minimum 10 s\r\n"], False, True),
        ([*DOVECOT, b"-ERR [SYS/TEMP] later\r\n"], False, True),
        ([*DOVECOT, b"-ERR [SYS/PERM] never\r\n"], True, False),
        ([*DOVECOT, b"-ERR\r\n"], True, False),
        ([*COURIER, b"+OK\r\n-ERR Login failed.\r\n"], True, False),
        ([*COURIER, b"-ERR no such user\r\n-ERR what\r\n"], True, False),
        ([*OLD, b"-ERR no such user\r\n"], True, False),
    ],
)
def test_a_refused_login(answers: list[bytes], login: bool, temporary: bool, feed: Feed) -> None:
    client = Pop3Client("hanako", "geheim")
    events = [e for a in answers for e in feed(client, a)]
    assert len(events) == 1
    assert isinstance(events[0], Refused)
    assert (events[0].login, events[0].temporary) == (login, temporary)
    assert b"geheim".decode() not in events[0].text
    with pytest.raises(LocalProtocolError):
        client.list_messages()


def test_no_stls_no_login() -> None:
    client = Pop3Client("hanako", "geheim", starttls=True)
    client.receive(DOVECOT[0])
    client.data_to_send()
    assert [type(e) for e in client.receive(b"-ERR unknown\r\n")] == [Refused]
    assert client.data_to_send() == b""


def test_a_login_never_ends_its_line() -> None:
    client = Pop3Client("hanako\r\nDELE 1", "x")
    client.receive(OLD[0])
    client.data_to_send()
    assert [type(e) for e in client.receive(OLD[1])] == [Refused]
    assert client.data_to_send() == b""


# ---- listing
@pytest.mark.parametrize(
    ("uidl", "lists", "messages"),
    [
        (
            b"+OK\r\n1 000a4f\r\n2 \x7e\x21x\r\n.\r\n",
            b"+OK 2 messages (320 octets)\r\n1 120\r\n2 200\r\n.\r\n",
            (Listed(1, 120, "000a4f"), Listed(2, 200, "~!x")),
        ),
        (b"+OK\r\n.\r\n", b"+OK\r\n.\r\n", ()),
        (b"-ERR what\r\n", b"+OK\r\n3 12\r\n.\r\n", (Listed(3, 12, None),)),
        (b"+OK\r\n1 a\r\n.\r\n", b"+OK\r\n1 5 extra\r\n2 6\r\n.\r\n", (Listed(1, 5, "a"), Listed(2, 6, None))),
    ],
)
@pytest.mark.parametrize("server", [DOVECOT, OLD], ids=["pipelined", "one by one"])
def test_listing(
    server: tuple[bytes, bytes], uidl: bytes, lists: bytes, messages: tuple[Listed, ...], feed: Feed
) -> None:
    client = ready(server, feed)
    client.survey()
    uids = {m.number: m.uid for m in messages if m.uid} if uidl.startswith(b"+OK") else None
    survey = Survey(uids, 2, 320)
    if server is DOVECOT:
        assert client.data_to_send() == b"UIDL\r\nSTAT\r\n"
        assert feed(client, uidl + b"+OK 2 320\r\n") == [survey]
    else:
        assert client.data_to_send() == b"UIDL\r\n"
        assert feed(client, uidl) == []
        assert client.data_to_send() == b"STAT\r\n"
        assert feed(client, b"+OK 2 320 a remark\r\n") == [survey]
    client.list_messages()
    assert client.data_to_send() == b"LIST\r\n"
    assert feed(client, lists) == [Listing(messages)]


def test_one_message_s_size(feed: Feed) -> None:
    client = ready(DOVECOT, feed)
    client.survey()
    assert feed(client, b"+OK\r\n1 a\r\n2 b\r\n.\r\n-ERR no STAT here\r\n") == [Survey({1: "a", 2: "b"}, 2, None)]
    client.data_to_send()
    client.list_message(2)
    client.list_message(9)
    assert client.data_to_send() == b"LIST 2\r\nLIST 9\r\n"
    assert feed(client, b"+OK 2 77\r\n-ERR there is none\r\n") == [Listing((Listed(2, 77, "b"),)), Listing(())]


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\nx 1\r\n.\r\n",
        b"+OK\r\n1 12x\r\n.\r\n",
        b"+OK\r\n1\r\n.\r\n",
        b"OK\r\n",
        b"* OK\r\n",
        b"+OK" + b"x" * MAX_LINE,
    ],
)
def test_a_listing_that_is_none(answer: bytes) -> None:
    client = ready()
    client.list_messages()
    with pytest.raises(RemoteProtocolError):
        client.receive(answer)


def test_an_endless_listing_is_cut_short() -> None:
    client = ready()
    client.survey()
    client.receive(b"+OK\r\n")
    line = b"1 " + b"u" * 2000 + b"\r\n"
    with pytest.raises(RemoteProtocolError):
        for _ in range(20):
            client.receive(line * 1000)


# ---- messages
@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"Subject: a\r\n\r\nx\r\n.\r\n", b"Subject: a\r\n\r\nx\r\n"),
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...a\r\n..b\r\n.\r\n", b"..a\r\n.b\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"a\r.\r\nb\r\r\n.\r\n", b"a\r.\r\nb\r\r\n"),
        (b"nul \x00 and \xff\r\n.\r\n", b"nul \x00 and \xff\r\n"),
    ],
)
def test_a_message_comes_byte_for_byte(wire: bytes, message: bytes, feed: Feed) -> None:
    client = ready(feed=feed)
    client.retrieve(1)
    client.retrieve(2)
    client.delete(1)
    assert client.data_to_send() == b"RETR 1\r\nRETR 2\r\nDELE 1\r\n"
    body = [BodyData(1, message)] if message else []
    assert feed(client, b"+OK 5 octets\r\n" + wire) == [*body, BodyEnd(1)]
    assert feed(client, b"-ERR [SYS/TEMP] no\r\n+OK gone\r\n") == [NotRetrieved(2, "[SYS/TEMP] no"), Deleted(1, True)]
    client.quit()
    assert client.data_to_send() == b"QUIT\r\n"
    assert feed(client, b"+OK bye\r\n") == [Closed(True, "bye")]


def test_one_command_at_a_time(feed: Feed) -> None:
    client = ready(OLD, feed)
    client.retrieve(1)
    client.delete(1)
    client.top(2)
    client.quit()
    for want, answer, events in (
        (b"RETR 1\r\n", b"+OK\r\nx\r\n.\r\n", [BodyData(1, b"x\r\n"), BodyEnd(1)]),
        (b"DELE 1\r\n", b"-ERR no\r\n", [Deleted(1, False)]),
        (b"TOP 2 0\r\n", b"-ERR what\r\n", [Header(2, None)]),
        (b"QUIT\r\n", b"-ERR some not deleted\r\n", [Closed(False, "some not deleted")]),
    ):
        assert client.data_to_send() == want
        assert feed(client, answer) == events


def test_headers(feed: Feed) -> None:
    client = ready(feed=feed)
    client.top(1)
    client.top(2)
    answer = b"+OK\r\nSubject: a\r\n\r\n.\r\n+OK\r\nSubject: b\r\n..c: d\r\n\r\n.\r\n"
    assert feed(client, answer) == [Header(1, b"Subject: a\r\n\r\n"), Header(2, b"Subject: b\r\n.c: d\r\n\r\n")]


def test_an_endless_header_is_kept_in_part() -> None:
    client = ready()
    client.top(1)
    events = client.receive(b"+OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n.\r\n")
    assert [len(e.data or b"") for e in events if isinstance(e, Header)] == [MAX_HEADER]


@pytest.mark.parametrize("so_far", [b"", b"+OK\r\n", b"+OK\r\nSubject: half\r\n", b"+OK\r\nx\r\n."])
def test_the_end_of_the_stream_is_no_end_of_a_message(so_far: bytes) -> None:
    client = ready()
    client.retrieve(1)
    events = client.receive(so_far) if so_far else []
    events += client.receive(b"")
    assert not any(isinstance(e, BodyEnd) for e in events)
    assert isinstance(events[-1], Closed)
    assert not events[-1].committed


def test_an_answer_to_nothing() -> None:
    with pytest.raises(RemoteProtocolError):
        ready().receive(b"+OK and?\r\n")


def test_nothing_is_asked_after_quit() -> None:
    client = ready()
    client.quit()
    assert client.over
    with pytest.raises(LocalProtocolError):
        client.retrieve(1)


# ---- properties
@given(st.binary(max_size=60).map(lambda b: b.replace(b"z", b"\r\n.")), st.integers(1, 9))
def test_any_message_in_any_pieces(message: bytes, step: int) -> None:
    message += b"\r\n"
    wire = b"+OK\r\n" + (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n-ERR next\r\n"
    client = ready()
    client.retrieve(1)
    client.retrieve(2)
    events = [e for i in range(0, len(wire), step) for e in client.receive(wire[i : i + step])]
    assert joined(events) == [BodyData(1, message), BodyEnd(1), NotRetrieved(2, "next")]


LINE = st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b".\r\n", b"1 2\r\n", b"+ \r\n", b"..\r\n", b"SASL PLAIN\r\n"])


@given(st.lists(LINE | st.binary(max_size=10), max_size=20))
def test_garbage_is_read_or_refused(pieces: list[bytes]) -> None:
    """Whole and byte at a time come to the same, and only RemoteProtocolError is raised."""
    data = b"".join(pieces)

    def run(step: int) -> tuple[list[Event], bytes]:
        client = ready()
        client.survey()
        client.list_messages()
        client.list_message(2)
        client.top(1)
        client.retrieve(1)
        client.delete(1)
        events: list[Event] = []
        try:
            for i in range(0, len(data), step):
                events += client.receive(data[i : i + step])
        except RemoteProtocolError as error:
            events.append(Closed(False, str(error)))
        return joined(events), client.data_to_send()

    assert run(1) == run(1000)
