"""What a submitting user is told of mail that waits too long, and, where he asks, of mail that has gone well."""

from __future__ import annotations

import math
from email import message_from_bytes
from pathlib import Path

import pytest

from appliance.mail.envelope import Delay, Envelope, Priority, Recipient, RecipientState, Verdict
from fakes.office import FAR, HANAKO, TARO, FakeOffice

DAY = 86400.0
DONE = RecipientState.DELIVERED


def actions(it: FakeOffice, user: str = "hanako") -> list[tuple[str, str]]:
    """(action, recipient) of each report in a mailbox."""
    out = []
    for data in it.mailbox(user):
        message = message_from_bytes(data)
        if message.get_content_type() == "multipart/report":
            groups = message.get_payload()[1].get_payload()  # type: ignore[union-attr, index]
            out += [(g["Action"], g["Final-Recipient"].partition("; ")[2]) for g in groups[1:]]  # type: ignore[index]
    return out


async def test_a_late_message_is_told_of_once(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, warn_after_s=DAY, give_up_after_s=5 * DAY).running() as it:
        assert await it.office.warn_late() == math.inf
        envelope = await it.submit(FAR)
        it.clock.advance(DAY - 100)
        assert await it.office.warn_late() == pytest.approx(100)
        assert actions(it) == []
        it.clock.advance(100)
        assert await it.office.warn_late() == math.inf
        assert actions(it) == [("delayed", FAR)]
        it.clock.advance(DAY)
        await it.office.warn_late()
        assert len(actions(it)) == 1
        assert it.spool.messages[envelope.id].open_recipients() == [0]  # it is still tried
    again = FakeOffice(tmp_path, clock=it.clock, warn_after_s=DAY)
    again.spool.recover()
    async with again.running():
        await again.office.warn_late()
        assert len(actions(again)) == 1, "told again after a restart"


LINE = Delay(("The last call failed: the number was busy.", "The next call is planned."), "4.4.1", failing=True)


async def test_a_delay_says_why_in_words_and_in_fields(tmp_path: Path) -> None:
    """RFC 3464 §2.3.4, §2.3.6: what a server said is SMTP's; all else is of a diagnostic-type of our own."""
    async with FakeOffice(tmp_path, warn_after_s=DAY).running() as it:
        asked: list[str] = []

        def line(envelope: Envelope) -> Delay:
            asked.append(envelope.id)
            return LINE

        plain, answered, doubtful = [await it.submit(FAR) for _ in range(3)]
        bulk, refused = await it.submit(FAR, priority=Priority.NON_URGENT), await it.submit(FAR)
        await it.office.settle(answered, {0: Verdict(RecipientState.QUEUED, "451 4.7.1 grey")}, host="mx")
        await it.office.in_doubt(doubtful, [0])
        it.office.left(refused, "smtp.isp.example:465: AUTH was answered 535 5.7.8 wrong")
        it.clock.advance(DAY)
        await it.office.warn_late(line)
        assert asked == [e.id for e in (plain, answered, doubtful, bulk, refused)]
        texts, fields = [], []
        for data in it.mailbox():
            text, groups, _ = message_from_bytes(data).get_payload()  # type: ignore[misc]
            texts.append(" ".join(text.get_payload(decode=True).decode().split()))  # type: ignore[union-attr]
            group = groups.get_payload()[1]  # type: ignore[union-attr, index]
            fields.append((group["Status"], " ".join(group["Diagnostic-Code"].split())))  # type: ignore[index]
        why = " ".join(LINE.sentences)
        assert all(f"Why it waits: {why}" in text for text in (texts[0], texts[1], texts[2]))
        assert "451 4.7.1 grey" in texts[1]
        assert "It may have arrived" in texts[2] and not any("may have arrived" in t for t in (texts[0], texts[1]))
        assert f"Why it waits: It is bulk mail, which goes when a call has time to spare. {why}" in texts[3]
        assert "smtp.isp.example:465: AUTH was answered 535 5.7.8 wrong" in texts[4]
        assert fields[0] == fields[2] == ("4.4.1", f"X-Posthouse; {why}")
        assert fields[1] == ("4.7.1", "smtp; 451 4.7.1 grey")
        assert fields[4][0] == "4.4.1" and "535 5.7.8 wrong" in fields[4][1], "the last call reached nobody"


async def test_a_login_that_is_refused_for_good_is_a_delay_for_the_message(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, warn_after_s=DAY).running() as it:
        refused, sent = await it.submit(FAR), await it.submit(FAR)
        for envelope in (refused, sent):
            it.office.left(envelope, "smtp.isp.example:465: AUTH was answered 535 5.7.8 wrong")
        it.office.sending(sent, True)  # a later call got further
        it.office.sending(sent, False)
        it.clock.advance(DAY)
        await it.office.warn_late()
        reports = [message_from_bytes(data).get_payload()[1].get_payload()[1] for data in it.mailbox()]  # type: ignore[union-attr, index]
        assert [group["Status"] for group in reports] == ["4.7.8", "4.4.0"]  # type: ignore[index]
        assert reports[1]["Diagnostic-Code"] is None  # type: ignore[index]
    again = FakeOffice(tmp_path, clock=it.clock)
    again.spool.recover()
    assert [e.left for e in again.spool.messages.values()] == ["", ""], "it is of this life of the process"


@pytest.mark.parametrize(
    ("notify", "sender", "user", "told"),
    [
        ("", HANAKO, "hanako", "hanako"),
        ("NEVER", HANAKO, "hanako", ""),
        ("FAILURE", HANAKO, "hanako", ""),
        ("DELAY", HANAKO, "hanako", "hanako"),
        ("", TARO, "", "taro"),  # a trusted network: the sender's
        ("", "", "hanako", ""),  # the null sender
        ("", "printer@lan.example", "", "hanako"),  # the postmaster
    ],
)
async def test_who_is_told_of_a_delay(tmp_path: Path, notify: str, sender: str, user: str, told: str) -> None:
    async with FakeOffice(tmp_path, postmaster="hanako").running() as it:
        await it.submit(Recipient(FAR, notify=notify), sender=sender, user=user)
        it.clock.advance(2 * DAY)
        assert await it.office.warn_late() == math.inf
        assert {u for u in ("hanako", "taro") if actions(it, u)} == ({told} if told else set())


async def test_what_an_operator_holds_is_no_delay(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR)
        await it.office.hold(envelope, True)
        it.clock.advance(2 * DAY)
        await it.office.warn_late()
        assert actions(it) == []
        await it.office.hold(envelope, False)
        await it.office.warn_late()
        assert actions(it) == [("delayed", FAR)]


@pytest.mark.parametrize(
    ("notify", "reports", "told"),
    [("SUCCESS", False, True), ("SUCCESS", True, False), ("FAILURE", False, False), ("", False, False)],
)
async def test_handed_to_a_server_that_will_not_say(tmp_path: Path, notify: str, reports: bool, told: bool) -> None:
    """RFC 3461 §5.2.2: 'relayed', where the server has no DSN; else the server tells."""
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(Recipient(FAR, notify=notify))
        await it.office.settle(envelope, {0: Verdict(DONE, "250 ok", reports=reports)}, host="mx")
        assert actions(it) == ([("relayed", FAR)] if told else [])
        assert not it.spool.messages


async def test_a_success_is_nobodys_business_but_the_senders(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, postmaster="hanako").running() as it:
        envelope = await it.submit(Recipient(FAR, notify="SUCCESS"), sender="printer@lan.example", user="")
        await it.office.settle(envelope, {0: Verdict(DONE, "250 ok")}, host="mx")
        assert actions(it) == []


async def test_delivered_here(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        await it.submit(Recipient(TARO, notify="SUCCESS,FAILURE"))
        assert actions(it) == [("delivered", TARO)]
        assert len(it.mailbox("taro")) == 1
        await it.submit(Recipient(TARO, notify="FAILURE"))
        await it.submit(TARO)
        await it.submit(Recipient(TARO, notify="SUCCESS"), FAR)  # to both sides: the message lies in the spool
        assert actions(it) == [("delivered", TARO)] * 2
