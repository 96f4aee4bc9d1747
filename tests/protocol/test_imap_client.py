"""The IMAP client and its lexer against tables of what servers say, whole, byte at a time and cut at every byte, and
against garbage."""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.imap_client import ImapClient
from appliance.protocol.imap_events import (
    BodyBegin,
    BodyData,
    BodyEnd,
    Closed,
    Compressed,
    Deleted,
    Event,
    Fetched,
    Found,
    Header,
    Listed,
    Listing,
    Ready,
    Refused,
    Selected,
    StartTls,
)
from appliance.protocol.imap_lexer import MAX_LINE, MAX_STRING, Data, ImapLexer, Status
from appliance.protocol.imap_syntax import folder_name, internal_date, read_set, uid_set

DOVECOT = (
    b"* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN] Dovecot (Debian) ready.\r\n",
    b"A1 OK [CAPABILITY IMAP4rev1 SASL-IR ID ENABLE IDLE SORT THREAD=REFERENCES UIDPLUS LIST-EXTENDED CONDSTORE QRESYNC "
    b"ESEARCH ESORT SEARCHRES WITHIN LITERAL+ COMPRESS=DEFLATE] Logged in\r\n",
)
COURIER = (
    b"* OK [CAPABILITY IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT SORT QUOTA IDLE] Courier-IMAP ready. "
    b"Copyright 1998-2011 Double Precision, Inc.\r\n",
    b"A1 OK LOGIN Ok.\r\n",
)
EXCHANGE = (
    b"* OK The Microsoft Exchange IMAP4 service is ready. [TABOAFIAMgBQAFIAMQA=]\r\n",
    b"* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+\r\n"
    b"A1 OK CAPABILITY completed.\r\n",
    b"A2 OK AUTHENTICATE completed.\r\n",
)
PLAIN = base64.b64encode(b"\0hanako\0geheim")
SELECTED = {
    "dovecot": (
        b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n"
        b"* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] Flags permitted.\r\n"
        b"* 3 EXISTS\r\n* 0 RECENT\r\n* OK [UNSEEN 1] First unseen.\r\n* OK [UIDVALIDITY 1700000000] UIDs valid\r\n"
        b"* OK [UIDNEXT 4] Predicted next UID\r\n* OK [HIGHESTMODSEQ 17] Highest\r\n",
        b" OK [READ-WRITE] Select completed (0.001 + 0.000 secs).\r\n",
        Selected(1700000000, 4, 3, 17),
    ),
    "courier": (
        b"* FLAGS (\\Draft \\Answered \\Flagged \\Deleted \\Seen \\Recent)\r\n* OK [PERMANENTFLAGS (\\* \\Draft)] Limited\r\n"
        b'* 3 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1700000000] Ok\r\n* OK [MYRIGHTS "acdilrsw"] ACL\r\n',
        b" OK [READ-WRITE] Ok\r\n",
        Selected(1700000000, 0, 3, 0),
    ),
}

Feed = Callable[[ImapClient, bytes], list[Event]]


def joined(events: list[Event]) -> list[Event]:
    """With neighbouring pieces of one body as one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, BodyData) and isinstance(last, BodyData):
            out[-1] = BodyData(event.uid, last.data + event.data)
        else:
            out.append(event)
    return out


def whole(client: ImapClient, data: bytes) -> list[Event]:
    return joined(client.receive(data))


def bytewise(client: ImapClient, data: bytes) -> list[Event]:
    return joined([e for i in range(len(data)) for e in client.receive(data[i : i + 1])])


@pytest.fixture(params=[whole, bytewise], ids=["whole", "bytewise"])
def feed(request: pytest.FixtureRequest) -> Feed:
    return request.param


def ready(feed: Feed = whole) -> ImapClient:
    client = ImapClient("hanako", "geheim")
    assert feed(client, DOVECOT[0]) == []
    assert client.data_to_send() == b"A1 AUTHENTICATE PLAIN " + PLAIN + b"\r\n"
    assert feed(client, DOVECOT[1]) == [Ready()]
    return client


def selected(feed: Feed = whole) -> ImapClient:
    client = ready(feed)
    client.select("INBOX", read_only=True)
    assert client.data_to_send() == b'A2 EXAMINE "INBOX" (CONDSTORE)\r\n'
    untagged, tagged, event = SELECTED["dovecot"]
    assert feed(client, untagged + b"A2" + tagged) == [event]
    return client


def test_what_is_expunged_vanishes_in_one_line(feed: Feed) -> None:
    client = ready(feed)
    client.select("INBOX")
    assert client.data_to_send() == b'A2 ENABLE QRESYNC\r\nA3 SELECT "INBOX"\r\n'
    untagged, tagged, event = SELECTED["dovecot"]
    assert feed(client, b"* ENABLED QRESYNC\r\nA2 OK Enabled\r\n" + untagged + b"A3" + tagged) == [event]
    there = client.exists
    client.delete([2, 3, 5])
    said = b"* 1 FETCH (UID 2 MODSEQ (9))\r\nA4 OK stored\r\n* VANISHED 2:3,5\r\nA5 OK gone\r\n"
    assert feed(client, said) == [Deleted((2, 3, 5), True, "gone")]
    assert client.exists == there - 3
    feed(client, b"* VANISHED (EARLIER) 1\r\n")
    assert client.exists == there - 3


# ---- the login
def test_courier_gets_a_login_in_quotes(feed: Feed) -> None:
    client = ImapClient("hanako", 'ge"h\\eim')
    assert feed(client, COURIER[0]) == []
    assert client.data_to_send() == b'A1 LOGIN "hanako" "ge\\"h\\\\eim"\r\n'
    assert feed(client, COURIER[1]) == [Ready()]
    client.select("INBOX")
    # What is offered behind the login is asked for in the same flight; SELECT does not wait for it.
    assert client.data_to_send() == b'A2 CAPABILITY\r\nA3 SELECT "INBOX"\r\n'
    untagged, tagged, event = SELECTED["courier"]
    assert feed(client, b"* CAPABILITY IMAP4rev1 UIDPLUS\r\nA2 OK done\r\n" + untagged + b"A3" + tagged) == [event]
    assert client.expunges


def test_exchange_is_asked_what_it_can(feed: Feed) -> None:
    client = ImapClient("hanako", "geheim")
    assert feed(client, EXCHANGE[0]) == []
    assert client.data_to_send() == b"A1 CAPABILITY\r\n"
    assert feed(client, EXCHANGE[1]) == []
    assert client.data_to_send() == b"A2 AUTHENTICATE PLAIN " + PLAIN + b"\r\n"
    assert feed(client, EXCHANGE[2]) == [Ready()]


def test_without_sasl_ir_the_response_waits_for_the_plus(feed: Feed) -> None:
    client = ImapClient("hanako", "geheim")
    assert feed(client, b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n") == []
    assert client.data_to_send() == b"A1 AUTHENTICATE PLAIN\r\n"
    assert feed(client, b"+ \r\n") == []
    assert client.data_to_send() == PLAIN + b"\r\n"
    assert feed(client, b"A1 OK in\r\n") == [Ready()]


@pytest.mark.parametrize(
    ("offered", "first", "second"),
    [
        (b"", b'A1 LOGIN "hanako" {7}\r\n', b"s\xc3\xa9cret\r\n"),
        (b" LITERAL-", b'A1 LOGIN "hanako" {7+}\r\ns\xc3\xa9cret\r\n', b""),
        (b" LITERAL+", b'A1 LOGIN "hanako" {7+}\r\ns\xc3\xa9cret\r\n', b""),
    ],
)
def test_a_password_that_can_not_be_quoted_is_a_literal(
    offered: bytes, first: bytes, second: bytes, feed: Feed
) -> None:
    client = ImapClient("hanako", "sécret")
    feed(client, b"* OK [CAPABILITY IMAP4rev1" + offered + b"] hi\r\n")
    assert client.data_to_send() == first
    if second:
        assert feed(client, b"+ go on\r\n") == []
        assert client.data_to_send() == second
    assert feed(client, b"A1 OK in\r\n") == [Ready()]


def test_starttls_comes_before_all(feed: Feed) -> None:
    client = ImapClient("hanako", "geheim", starttls=True)
    feed(client, b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi\r\n")
    assert client.data_to_send() == b"A1 STARTTLS\r\n"
    assert feed(client, b"A1 OK go\r\n") == [StartTls()]
    client.tls_started()
    assert client.data_to_send() == b"A2 CAPABILITY\r\n"
    feed(client, b"* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\nA2 OK\r\n")
    assert client.data_to_send().startswith(b"A3 AUTHENTICATE PLAIN ")


def test_what_comes_unprotected_behind_starttls_ends_it() -> None:
    client = ImapClient("hanako", "geheim", starttls=True)
    client.receive(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n")
    with pytest.raises(RemoteProtocolError):
        client.receive(b"A1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")


@pytest.mark.parametrize(
    ("answers", "permanent"),
    [
        ([b"* BYE Too many connections\r\n"], False),
        ([b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\r\n"], True),
        ([DOVECOT[0], b"A1 NO [AUTHENTICATIONFAILED] Authentication failed.\r\n"], True),
        ([DOVECOT[0], b"A1 NO [UNAVAILABLE] Temporary authentication failure. [host:2026-01-05]\r\n"], False),
        ([DOVECOT[0], b"A1 NO go away\r\n"], True),
        ([DOVECOT[0], b"A1 BAD what?\r\n"], False),
    ],
)
def test_a_refused_login(answers: list[bytes], permanent: bool, feed: Feed) -> None:
    client = ImapClient("hanako", "geheim")
    events = [e for a in answers for e in feed(client, a)]
    assert len(events) == 1
    event = events[0]
    assert isinstance(event, Refused | Closed)
    assert permanent == (isinstance(event, Refused) and event.permanent)
    assert "geheim" not in event.text


def test_preauth_needs_no_login_but_no_tls_is_had_any_more(feed: Feed) -> None:
    assert feed(ImapClient("h", "p"), b"* PREAUTH [CAPABILITY IMAP4rev1] hello\r\n") == [Ready()]
    assert isinstance(feed(ImapClient("h", "p", starttls=True), b"* PREAUTH hi\r\n")[0], Refused)


# ---- reading
BODY = b"Subject: x\r\n\r\n)\r\nA5 OK no\r\n{3}\r\n"


def test_sizes(feed: Feed) -> None:
    client = selected(feed)
    client.sizes((), from_uid=2, arrivals=True)
    assert client.data_to_send() == b"A3 UID FETCH 2:* (RFC822.SIZE INTERNALDATE)\r\n"
    said = (
        b'* 2 FETCH (UID 7 RFC822.SIZE 100 INTERNALDATE " 5-Jan-2026 12:00:00 +0100")\r\n'
        b'* 3 FETCH (INTERNALDATE "05-Jan-2026 11:00:00 +0000" RFC822.SIZE 200 UID 9)\r\n'
        b"* 4 EXISTS\r\n* 1 FETCH (FLAGS (\\Seen))\r\nA3 OK Fetch completed.\r\n"
    )
    when = 1767610800.0
    assert feed(client, said) == [Listing((Listed(7, 100, when), Listed(9, 200, when)))]
    assert client.exists == 4


@pytest.mark.parametrize(
    ("said", "uids"),
    [
        (b"* SEARCH 2 3 5\r\n", (2, 3, 5)),
        (b"* SEARCH\r\n", ()),
        (b"", ()),
        (b'* ESEARCH (TAG "A3") UID ALL 2:4,7\r\n', (2, 3, 4, 7)),
        (b'* ESEARCH (TAG "A3") UID\r\n', ()),
        (b'* ESEARCH (TAG "A3") UID ALL 5 MODSEQ 9\r\n', (5,)),
    ],
)
def test_searches(said: bytes, uids: tuple[int, ...], feed: Feed) -> None:
    client = selected(feed)
    client.search()
    assert client.data_to_send() == b"A3 UID SEARCH RETURN (ALL) ALL\r\n"
    assert feed(client, said + b"A3 OK done\r\n") == [Found(uids)]


def test_two_searches_at_once(feed: Feed) -> None:
    """Whichever is answered first; and a UID that comes behind its body is known from them."""
    client = selected(feed)
    client.search()
    client.search(larger_than=8192)
    assert client.data_to_send() == b"A3 UID SEARCH RETURN (ALL) ALL\r\nA4 UID SEARCH RETURN (ALL) LARGER 8192\r\n"
    said = b'* ESEARCH (TAG "A4") UID ALL 9\r\nA4 OK\r\n* ESEARCH (TAG "A3") UID ALL 7:9\r\nA3 OK\r\n'
    assert feed(client, said) == [Found((9,)), Found((7, 8, 9))]
    client.retrieve([7, 8])
    client.data_to_send()
    events = joined(feed(client, b"* 2 FETCH (BODY[] {2}\r\nxy UID 8)\r\n"))
    assert events == [BodyBegin(8, 0, 2), BodyData(8, b"xy"), BodyEnd(8)]


def test_bodies(feed: Feed) -> None:
    client = selected(feed)
    client.retrieve([7, 8, 9])
    client.retrieve_part(12, 4000, 600)
    assert (
        client.data_to_send()
        == b"A3 UID FETCH 7:9 (UID BODY.PEEK[])\r\nA4 UID FETCH 12 (UID BODY.PEEK[]<4000.600>)\r\n"
    )
    said = (
        b"* 1 FETCH (UID 7 BODY[] {%d}\r\n%b)\r\n" % (len(BODY), BODY)
        + b'* 2 FETCH (UID 8 FLAGS (\\Seen) BODY[] "")\r\n* 1 EXPUNGE\r\nA3 OK Fetch completed.\r\n'
        + b"* 3 FETCH (UID 12 BODY[]<4000> {2}\r\nxy)\r\nA4 OK done\r\n"
    )
    assert feed(client, said) == [
        BodyBegin(7, 0, len(BODY)), BodyData(7, BODY), BodyEnd(7),
        BodyBegin(8, 0, 0), BodyEnd(8),
        Fetched((7, 8, 9), True, "Fetch completed."),
        BodyBegin(12, 4000, 2), BodyData(12, b"xy"), BodyEnd(12),
        Fetched((12,), True, "done"),
    ]  # fmt: skip


def test_a_uid_behind_its_body_is_known_by_the_number(feed: Feed) -> None:
    client = selected(feed)
    client.sizes([7, 9])
    feed(client, b"* 2 FETCH (UID 7 RFC822.SIZE 2)\r\n* 3 FETCH (UID 9 RFC822.SIZE 2)\r\n* 1 EXPUNGE\r\nA3 OK\r\n")
    client.retrieve([7, 9])
    events = feed(client, b"* 2 FETCH (BODY[] {1}\r\nx UID 9)\r\n* 1 FETCH (BODY[] {1}\r\ny UID 7)\r\nA4 OK\r\n")
    assert [e.uid for e in events if isinstance(e, BodyBegin)] == [9, 7]


def test_a_body_that_nobody_asked_for_ends_it() -> None:
    client = selected()
    client.retrieve([7])
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        client.receive(b"* 3 FETCH (UID 8 BODY[] {3}\r\nabc)\r\n")


def test_headers(feed: Feed) -> None:
    client = selected(feed)
    client.header_fields([7, 8], ["MESSAGE-ID", "DATE"])
    client.headers([9])
    assert client.data_to_send() == (
        b"A3 UID FETCH 7:8 (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE)])\r\nA4 UID FETCH 9 (UID BODY.PEEK[HEADER]<0.131072>)\r\n"
    )
    said = (
        b"* 1 FETCH (UID 7 BODY[HEADER.FIELDS (MESSAGE-ID DATE)] {4}\r\nA:\r\n)\r\nA3 OK done\r\n"
        b"* 3 FETCH (UID 9 BODY[HEADER]<0> {2}\r\n\r\n)\r\nA4 OK\r\n"
    )
    assert feed(client, said) == [Header(7, b"A:\r\n"), Header(8, None), Header(9, b"\r\n")]


@pytest.mark.parametrize(
    ("said", "done"),
    [
        (b"A3 OK Store completed.\r\n* 2 EXPUNGE\r\n* 1 EXPUNGE\r\nA4 OK [HIGHESTMODSEQ 9] Expunged.\r\n", True),
        (b"A3 NO [NOPERM] no\r\nA4 OK nothing\r\n", False),
        (b"A3 OK\r\nA4 NO no\r\n", False),
    ],
)
def test_deleting(said: bytes, done: bool, feed: Feed) -> None:
    client = selected(feed)
    client.delete([2, 1])
    client.logout()
    assert client.data_to_send() == (
        b"A3 UID STORE 1:2 +FLAGS.SILENT (\\Deleted)\r\nA4 UID EXPUNGE 1:2\r\nA5 LOGOUT\r\n"
    )
    events = feed(client, said + b"* BYE Logging out\r\nA5 OK Logout completed.\r\n")
    assert [type(e) for e in events] == [Deleted, Closed]
    assert isinstance(events[0], Deleted)
    assert (events[0].uids, events[0].done) == ((2, 1), done)
    assert events[1] == Closed(True, "Logout completed.")
    assert client.exists == (1 if b"EXPUNGE" in said else 3)
    with pytest.raises(LocalProtocolError):
        client.search()


def test_nothing_is_expunged_without_uidplus() -> None:
    client = ImapClient("h", "p")
    client.receive(b"* OK [CAPABILITY IMAP4rev1] hi\r\n")
    client.receive(b"A1 OK [CAPABILITY IMAP4rev1] in\r\n")
    client.data_to_send()
    client.delete([5])
    assert client.data_to_send() == b"A2 UID STORE 5 +FLAGS.SILENT (\\Deleted)\r\n"
    assert client.receive(b"A2 OK\r\n") == [Deleted((5,), True, "STORE was answered OK")]


def test_a_bye_in_the_middle_is_the_end(feed: Feed) -> None:
    client = selected(feed)
    assert feed(client, b"* BYE Disconnected for inactivity.\r\n") == [Closed(False, "Disconnected for inactivity.")]


# ---- compression
def test_compression_begins_right_behind_its_answer(feed: Feed) -> None:
    client = selected(feed)
    client.compress()
    client.search()  # waits
    assert client.data_to_send() == b"A3 COMPRESS DEFLATE\r\n"
    out = zlib.compressobj(wbits=-15)
    behind = out.compress(b"* 9 EXISTS\r\n") + out.flush(zlib.Z_SYNC_FLUSH)
    assert feed(client, b"A3 OK DEFLATE active\r\n" + behind) == [Compressed(True)]
    assert client.exists == 9
    sent = client.data_to_send()
    assert zlib.decompressobj(wbits=-15).decompress(sent) == b"A4 UID SEARCH RETURN (ALL) ALL\r\n"
    answer = out.compress(b"* SEARCH 1\r\nA4 OK\r\n") + out.flush(zlib.Z_SYNC_FLUSH)
    assert feed(client, answer) == [Found((1,))]
    with pytest.raises(RemoteProtocolError):
        feed(client, b"* 1 EXISTS\r\n" * 10)


def test_compress_goes_out_behind_a_question_and_nothing_behind_it(feed: Feed) -> None:
    client = selected(feed)
    client.search()
    client.compress()
    client.retrieve([1])
    assert client.data_to_send() == b"A3 UID SEARCH RETURN (ALL) ALL\r\nA4 COMPRESS DEFLATE\r\n"
    assert client.compresses
    answers = b'* ESEARCH (TAG "A3") UID ALL 1\r\nA3 OK\r\nA4 OK active\r\n'
    assert feed(client, answers) == [Found((1,)), Compressed(True)]
    assert zlib.decompressobj(wbits=-15).decompress(client.data_to_send()) == b"A5 UID FETCH 1 (UID BODY.PEEK[])\r\n"


# ---- the lexer
@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b'* LIST () NIL "a\\"b\\\\"', ["LIST", [], None, b'a"b\\']),
        (b"* X {5}\r\na\r\nb( (y)", ["X", b"a\r\nb(", ["y"]]),
        (b"* X ~{2}\r\n\x00\xff (({0}\r\n))", ["X", b"\x00\xff", [[b""]]]),
        (b"* 1 FETCH (BODY[HEADER.FIELDS (A B)]<0> nil)", ["1", "FETCH", ["BODY[HEADER.FIELDS (A B)]<0>", None]]),
        (b"* FLAGS (\\Seen \\*)", ["FLAGS", ["\\Seen", "\\*"]]),
    ],
)
def test_data_cut_at_every_byte(line: bytes, values: list[object]) -> None:
    line += b"\r\n"
    for at in range(len(line) + 1):
        lexer = ImapLexer()
        items = []
        for piece in (line[:at], line[at:]):
            lexer.feed(piece)
            while (item := lexer.next()) is not None:
                items.append(item)
        assert items == [Data(values)]  # type: ignore[arg-type]
        assert lexer.between_responses


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"* OK it is {5}", Status("*", "OK", "", "", "it is {5}")),
        (b'a1 no ("', Status("a1", "NO", "", "", '("')),
        (b"* OK [UIDNEXT 5] x", Status("*", "OK", "UIDNEXT", "5", "x")),
        (b"* ok [Alert] [x", Status("*", "OK", "ALERT", "", "[x")),
        (b"* OK", Status("*", "OK", "", "", "")),
    ],
)
def test_free_text_is_not_looked_into(line: bytes, status: Status) -> None:
    lexer = ImapLexer()
    lexer.feed(line + b"\r\n")
    assert lexer.next() == status


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n", b"* X (\r\n", b"* X )\r\n", b'* X "a\r\n', b"* X " + b"(" * 40 + b"\r\n", b"x" * (MAX_LINE + 1),
        b"* X {%d}\r\n" % (MAX_STRING + 1), b"A9 OK to nothing\r\n", b"+ go\r\n", b"* 1 FETCH x\r\n", b"* ESEARCH ALL x\r\n",
    ],
)  # fmt: skip
def test_what_is_no_imap(data: bytes) -> None:
    client = selected()
    client.search()
    with pytest.raises(RemoteProtocolError):
        client.receive(data)
    assert client.receive(b"* 1 EXISTS\r\n") == []


TRANSCRIPT = (
    DOVECOT[0] + DOVECOT[1] + SELECTED["dovecot"][0] + b"A2" + SELECTED["dovecot"][1]
    + b"* 1 FETCH (UID 7 BODY[] {%d}\r\n%b)\r\nA3 OK done\r\n* BYE\r\nA4 OK bye\r\n" % (len(BODY), BODY)
)  # fmt: skip


def converse(pieces: list[bytes]) -> list[Event]:
    client = ImapClient("hanako", "geheim")
    events: list[Event] = []
    for piece in pieces:
        for event in client.receive(piece) if piece else []:
            events.append(event)
            if isinstance(event, Ready):
                client.select("INBOX", read_only=True)
            elif isinstance(event, Selected):
                client.retrieve([7])
                client.logout()
            client.data_to_send()
    return joined(events)


def test_a_whole_session_cut_at_every_byte() -> None:
    want = converse([b + b"\r\n" for b in TRANSCRIPT.split(b"\r\n")[:-1]])
    assert [type(e) for e in want][-3:] == [BodyEnd, Fetched, Closed]
    # No answer may come before its command: the cuts are those of a server that waits for each.
    ends = [TRANSCRIPT.index(mark) for mark in (b"A1 OK", b"* FLAGS", b"* 1 FETCH")]
    for at in range(1, len(TRANSCRIPT)):
        cuts = sorted({0, *ends, at, len(TRANSCRIPT)})
        assert converse([TRANSCRIPT[a:b] for a, b in itertools.pairwise(cuts)]) == want, at


@given(st.lists(st.binary(max_size=60)), st.integers(0, len(TRANSCRIPT)))
def test_garbage_parses_or_is_refused(pieces: list[bytes], at: int) -> None:
    client = ImapClient("hanako", "geheim")
    try:
        for piece in (TRANSCRIPT[:at], *pieces, b"\r\n", *(b"* 1 FETCH (" + p + b")\r\n" for p in pieces)):
            for event in client.receive(piece) if piece else []:
                if isinstance(event, Ready) and not client.over:
                    client.select("x")
                if isinstance(event, Selected) and not client.over:
                    client.retrieve([7])
    except RemoteProtocolError:
        assert client.receive(b"* OK\r\n") == []


# ---- syntax
@pytest.mark.parametrize(
    ("name", "coded"),
    [("INBOX", "INBOX"), ("Sent & more", "Sent &- more"), ("Gesendete Objekte", "Gesendete Objekte"),
     ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"), ("☺!", "&Jjo-!"), ("", "")],
)  # fmt: skip
def test_folder_names(name: str, coded: str) -> None:
    """RFC 3501 §5.1.3's own examples."""
    assert folder_name(name) == coded


@given(st.sets(st.integers(1, 60)))
def test_sets(uids: set[int]) -> None:
    assert read_set(uid_set(uids)) == sorted(uids)


@pytest.mark.parametrize("text", ["x", "1:", "1,,2", "*", "1:99999999", "-1"])
def test_what_is_no_set(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read_set(text)


@pytest.mark.parametrize(
    ("text", "when"),
    [(b" 1-Jan-1970 00:00:10 +0000", 10.0), (b"01-jan-1970 09:00:00 +0900", 0.0), (b"01-Jan-1970 00:00:00 -0130", 5400.0),
     (b"31-Feb-2026 00:00:00 +0000", None), (b"yesterday", None), (b"01-Foo-1970 00:00:00 +0000", None)],
)  # fmt: skip
def test_internal_dates(text: bytes, when: float | None) -> None:
    assert internal_date(text) == when
