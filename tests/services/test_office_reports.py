"""What a submitting user is told of mail that waits too long, and, where he asks, of mail that has gone well."""

from __future__ import annotations

import math
from email import message_from_bytes
from pathlib import Path

import pytest

from appliance.mail.envelope import Recipient, RecipientState, Verdict
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
