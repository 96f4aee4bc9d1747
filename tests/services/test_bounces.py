"""Bounces and other reports, read back by the standard library: RFC 3464 and 6522's form, RFC 3461's RET, NOTIFY and ORCPT."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from pathlib import Path

import pytest

from appliance.mail.bounces import DELAYED, DELIVERED, FAILED, MAX_RETURNED, RELAYED, Kind, make_report, wants_report
from appliance.mail.envelope import Envelope, Recipient, RecipientState

NOW = 1_767_614_400.0
ORIGINAL = b"From: hanako@harbour.example\r\nSubject: hello\r\nMessage-ID: <1@pc>\r\n\r\nbody\r\n--line\r\n.\r\n"


def failed(address: str = "boss@far.example", reply: str = "550 5.1.1 no such user", **more: str) -> Recipient:
    return Recipient(address, RecipientState.FAILED, reply, **more)


def bounce(
    tmp_path: Path,
    *recipients: Recipient,
    original: bytes = ORIGINAL,
    to: str = "hanako@harbour.example",
    kind: Kind = FAILED,
    until: float | None = None,
    **more: object,
) -> bytes:
    path = tmp_path / "x.eml"
    path.write_bytes(original)
    envelope = Envelope("abc", to, list(recipients), NOW - 3600, size=len(original), **more)
    return make_report(
        kind, envelope, recipients or [failed()], path, hostname="harbour.harbour.example", to=to, now=NOW, until=until
    )


def parse(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    for part in (message, *message.iter_parts()):  # not inside what goes back: that is as its sender made it
        assert part.defects == []
    return message


def status_of(raw: bytes) -> list[Message]:
    """The groups of fields of message/delivery-status: the message's, then one a recipient."""
    parts = list(parse(raw).iter_parts())
    assert [p.get_content_type() for p in parts][:2] == ["text/plain", "message/delivery-status"]
    groups = parts[1].get_payload()
    assert isinstance(groups, list)
    return groups


def returned(raw: bytes) -> bytes:
    """The last part's bytes, as they stand between the boundaries."""
    boundary = parse(raw).get_boundary()
    assert boundary
    part = raw.split(b"--" + boundary.encode())[-2]
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def test_the_report(tmp_path: Path) -> None:
    raw = bounce(tmp_path, failed(), message_id="<1@pc>")
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    message = parse(raw)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@harbour.harbour.example>"
    assert message["To"] == "hanako@harbour.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["References"] == "<1@pc>"
    assert message["Date"].datetime.timestamp() == NOW
    assert message["Message-ID"].endswith("@harbour.harbour.example>")
    assert message["MIME-Version"] == "1.0"
    text = next(message.iter_parts()).get_content()
    assert "<boss@far.example>" in text
    assert "550 5.1.1 no such user" in text


def test_an_explanation_in_ascii_is_plain_text(tmp_path: Path) -> None:
    assert b"\r\n    <boss@far.example>\r\n        550 5.1.1 no such user\r\n" in bounce(tmp_path)


def test_the_fields_of_the_status(tmp_path: Path) -> None:
    """RFC 3464 §2.2 and 2.3."""
    one = failed(orcpt="rfc822;Boss+2Bx@far.example", notify="FAILURE")
    two = failed("chef@far.example", "554 transaction failed")
    about, first, second = status_of(bounce(tmp_path, one, two, envid="QQ+2B314159"))
    assert about["Reporting-MTA"] == "dns; harbour.harbour.example"
    assert about["Original-Envelope-Id"] == "QQ+314159"  # xtext undone (RFC 3464 §2.2.1)
    assert "12:00:00" not in about["Arrival-Date"]
    assert "11:00:00" in about["Arrival-Date"]
    assert first["Original-Recipient"] == "rfc822;Boss+x@far.example"  # xtext undone (RFC 3461 §4.2)
    assert first["Final-Recipient"] == "rfc822; boss@far.example"
    assert first["Action"] == second["Action"] == "failed"
    assert first["Status"] == "5.1.1"
    assert first["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert "12:00:00" in first["Last-Attempt-Date"]
    assert second["Original-Recipient"] is None
    assert second["Final-Recipient"] == "rfc822; chef@far.example"
    assert second["Status"] == "5.0.0"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("550 5.7.1 [192.0.2.1] refused, see 5.5.5", "5.7.1"),
        ("554 mail from 5.10.20.30 refused", "5.0.0"),
        ("552 5.3.4", "5.3.4"),
        ("550-5.1.1 odd", "5.1.1"),
        ("421 4.4.2 timeout (given up after 5 days)", "4.4.2"),
        ("452 full (given up after 5 days)", "4.0.0"),
        ("", "5.0.0"),
    ],
)
def test_the_status_is_the_servers_own(reply: str, status: str, tmp_path: Path) -> None:
    assert status_of(bounce(tmp_path, failed(reply=reply)))[1]["Status"] == status


ORIGINALS = [
    ORIGINAL,
    b"Subject: x\r\n\r\nno final newline",
    b"Subject: x\r\n",
    "Subject: Grüße\r\n\r\n花子さん\r\n".encode(),
    b"Subject: latin\r\n\r\n\xe4\xf6\xfc\xff\x00\x01\r\n",
    b"Subject: x\r\n\r\n" + b"y" * 5000 + b"\r\n" + b"." * 10 + b"\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nnever closed\r\n",
    b"Content-Transfer-Encoding: base64\r\n\r\n!!!!\r\n",
    b"Subject: x\r\n\r\n" + b"\r\n" * 50,
    b"S: x\r\n\r\n" + b"z" * (MAX_RETURNED - 8),
]


@pytest.mark.parametrize("original", ORIGINALS)
@pytest.mark.parametrize("smtputf8", [False, True])
def test_the_message_goes_back_byte_for_byte(original: bytes, smtputf8: bool, tmp_path: Path) -> None:
    raw = bounce(tmp_path, original=original, smtputf8=smtputf8)
    part = list(parse(raw).iter_parts())[2]
    assert part.get_content_type() == "message/rfc822"
    assert part["Content-Transfer-Encoding"] == (None if original.isascii() else "8bit")
    assert returned(raw) == original


@pytest.mark.parametrize(
    ("ret", "size", "kind"),
    [
        ("", 100, "message/rfc822"),
        ("FULL", 100, "message/rfc822"),
        ("HDRS", 100, "text/rfc822-headers"),
        ("", MAX_RETURNED + 1, "text/rfc822-headers"),
        ("FULL", MAX_RETURNED + 1, "text/rfc822-headers"),
    ],
)
def test_how_much_goes_back(ret: str, size: int, kind: str, tmp_path: Path) -> None:
    head = "Subject: ä\r\nTo: x\r\n".encode()
    original = head + b"\r\n" + b"z" * (size - len(head) - 2)
    raw = bounce(tmp_path, original=original, ret=ret)
    assert list(parse(raw).iter_parts())[2].get_content_type() == kind
    assert returned(raw) == (original if kind == "message/rfc822" else head)


def test_addresses_beyond_ascii(tmp_path: Path) -> None:
    """RFC 6533 §3: in message/delivery-status they are written in ASCII."""
    one = failed("müller@far.example", orcpt="utf-8;m\\x{FC}ller@far.example")
    raw = bounce(tmp_path, one, to="花子@harbour.example", smtputf8=True)
    message = parse(raw)
    assert message["To"] == "花子@harbour.example"
    assert "müller@far.example" in next(message.iter_parts()).get_content()
    group = status_of(raw)[1]
    assert group["Final-Recipient"] == "utf-8; m\\x{FC}ller@far.example"
    assert group["Original-Recipient"] == "utf-8;m\\x{FC}ller@far.example"


def test_what_came_from_outside_adds_no_field(tmp_path: Path) -> None:
    reply = "550 5.1.1 no\r\nAction: delivered\r\n\r\nX: \u202e\x1b[2J" + "x" * 2000
    one = failed(reply=reply, orcpt="rfc822;a+0D+0AAction:+20relayed")
    raw = bounce(tmp_path, one, message_id="<a>\r\nBcc: evil@far.example", envid="x\r\nAction: relayed")
    message = parse(raw)
    assert message["Bcc"] is None
    about, group = status_of(raw)
    assert about.get_all("Action") is None
    assert group.get_all("Action") == ["failed"]
    assert b"\x1b" not in raw
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))


@pytest.mark.parametrize("reply", ["550 5.1.1 ユーザーがいません", "550 usu\ufffdrio", "550 " + "é" * 600])
def test_a_reply_beyond_ascii(reply: str, tmp_path: Path) -> None:
    """As servers write them, whatever RFC 5321 §4.2 says."""
    raw = bounce(tmp_path, failed(reply=reply))
    diagnostic = status_of(raw)[1]["Diagnostic-Code"]
    assert diagnostic.isascii()
    assert diagnostic.startswith("smtp; 550 ")
    assert reply[:40] in next(parse(raw).iter_parts()).get_content()
    assert parse(raw)["To"] == "hanako@harbour.example"


@pytest.mark.parametrize(
    ("notify", "failure", "delay", "success"),
    [
        ("", True, True, False),
        ("NEVER", False, False, False),
        ("FAILURE", True, False, False),
        ("SUCCESS,DELAY", False, True, True),
        ("SUCCESS,FAILURE", True, False, True),
        ("delay,failure", True, True, False),
    ],
)
def test_who_wants_one(notify: str, failure: bool, delay: bool, success: bool) -> None:
    """RFC 3461 §4.1."""
    one = failed(notify=notify)
    kinds = (FAILED, DELAYED, RELAYED, DELIVERED)
    assert [wants_report(kind, one) for kind in kinds] == [failure, delay, success, success]


@pytest.mark.parametrize(
    ("kind", "reply", "action", "status", "fields"),
    [
        (
            DELAYED,
            "",
            "delayed",
            "4.4.0",
            {"Diagnostic-Code": None, "Will-Retry-Until": "Mon, 05 Jan 2026 13:00:00 -0000"},
        ),
        (DELAYED, "451 later", "delayed", "4.0.0", {"Diagnostic-Code": "smtp; 451 later"}),
        (DELAYED, "451 4.7.1 grey", "delayed", "4.7.1", {"Last-Attempt-Date": "Mon, 05 Jan 2026 11:30:00 -0000"}),
        (RELAYED, "250 2.0.0 queued", "relayed", "2.0.0", {"Diagnostic-Code": "smtp; 250 2.0.0 queued"}),
        (RELAYED, "250 ok", "relayed", "2.0.0", {"Will-Retry-Until": None, "Last-Attempt-Date": None}),
        (DELIVERED, "", "delivered", "2.0.0", {"Diagnostic-Code": None}),
    ],
)
def test_other_reports(
    tmp_path: Path, kind: Kind, reply: str, action: str, status: str, fields: dict[str, str | None]
) -> None:
    """RFC 3464 §2.3; of a message that did not fail only the header goes back (RFC 3461 §4.3)."""
    one = Recipient("boss@far.example", reply=reply, notify="SUCCESS,DELAY")
    raw = bounce(tmp_path, one, kind=kind, until=NOW + 3600, ret="FULL", tried_at=NOW - 1800)
    message = parse(raw)
    assert message["Subject"] == kind.subject and message["Auto-Submitted"] == "auto-replied"
    assert "<boss@far.example>" in next(message.iter_parts()).get_content()
    group = status_of(raw)[1]
    assert (group["Action"], group["Status"]) == (action, status)
    assert {name: group[name] for name in fields} == fields
    assert list(message.iter_parts())[2].get_content_type() == "text/rfc822-headers"
    assert returned(raw) == ORIGINAL.partition(b"\r\n\r\n")[0] + b"\r\n"
