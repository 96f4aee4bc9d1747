"""What is in doubt is looked up in its user's sent folder before it is sent again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from appliance.call import JobReport
from appliance.config.model import Account, Smarthost, Tls
from appliance.mail.envelope import Envelope, RecipientState
from appliance.mail.upstream.sender import SendJob
from appliance.mail.upstream.sent_folder import SentFolder
from fakes.imap import ImapProvider
from fakes.outbox import FakeOutbox
from fakes.provider import SmtpProvider, run_job

HOST = Smarthost(host="mx", port=25, tls=Tls.NONE)
ACCOUNT = Account(host="imap", port=143, tls=Tls.NONE, login="hanako", secret="isp", sent_folder="Sent")


def put(outbox: FakeOutbox, n: int, *to: str, doubt: tuple[int, ...] = (), user: str = "hanako") -> Envelope:
    data = b"Message-ID: <m%d@x>\r\n\r\nx\r\n" % n
    envelope = outbox.put(f"m{n}", data, *to, user=user, message_id=f"<m{n}@x>")
    for i in doubt:
        envelope.recipients[i].state = RecipientState.IN_DOUBT
    return envelope


async def send(outbox: FakeOutbox, imap: ImapProvider) -> tuple[SmtpProvider, JobReport]:
    smtp = SmtpProvider()
    job = SendJob(outbox, {}, "harbour", sent_folders={"hanako": SentFolder(ACCOUNT, "geheim")})
    _, report = await run_job(job.run, {"mx": smtp, "imap": imap})
    assert isinstance(report, JobReport)
    return smtp, report


def arrived(smtp: SmtpProvider) -> list[tuple[bytes, list[str]]]:
    return sorted((data[12:18], to) for _, to, data in smtp.stored)


@pytest.fixture
def outbox(tmp_path: Path) -> FakeOutbox:
    return FakeOutbox(tmp_path, [HOST])


async def test_what_lies_there_is_not_sent_again(outbox: FakeOutbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    put(outbox, 0, doubt=(0,))
    put(outbox, 1, doubt=(0,))
    put(outbox, 2)
    put(outbox, 3, "a@far.example", "b@far.example", doubt=(1,))
    put(outbox, 4, doubt=(0,), user="taro")
    imap = ImapProvider(folders={"Sent": {7: b"Message-ID: <m0@x>\r\n\r\n", 9: b"Message-ID: <m3@x>\r\n\r\n"}})
    smtp, report = await send(outbox, imap)
    assert report == JobReport()
    assert not outbox.messages
    assert arrived(smtp) == [
        (b"<m1@x>", ["m1@far.example"]), (b"<m2@x>", ["m2@far.example"]), (b"<m3@x>", ["a@far.example"]),
        (b"<m4@x>", ["m4@far.example"]),
    ]  # fmt: skip
    assert outbox.states("m0") == ["delivered"]
    assert outbox.states("m3") == ["delivered", "delivered"]
    assert "m0: was in doubt, and lies in the sent folder at imap" in caplog.text
    assert imap.connections == 1
    assert any(c.startswith("EXAMINE") for c in imap.commands)


async def test_nobody_is_asked_where_nothing_is_in_doubt(outbox: FakeOutbox) -> None:
    put(outbox, 0)
    imap = ImapProvider()
    smtp, report = await send(outbox, imap)
    assert (report, imap.connections, len(smtp.stored)) == (JobReport(), 0, 1)


@pytest.mark.parametrize("verb", ["CONNECT", "AUTHENTICATE", "EXAMINE", "SEARCH"])
@pytest.mark.parametrize("answer", ["NO [NONEXISTENT] not here", "drop"])
async def test_where_it_can_not_be_looked_at_it_is_sent_again(
    outbox: FakeOutbox, verb: str, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(outbox, 0, doubt=(0,))
    answer = "* BYE busy" if verb == "CONNECT" else answer
    imap = ImapProvider(
        folders={"Sent": {7: b"Message-ID: <m0@x>\r\n\r\n"}}, answer=lambda v, a: answer if v == verb else None
    )
    smtp, report = await send(outbox, imap)
    assert report == JobReport()
    assert len(smtp.stored) == 1
    assert "Sent of hanako at imap can't be looked at" in caplog.text
