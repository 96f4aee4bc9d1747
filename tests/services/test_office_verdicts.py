"""What verdicts do to a message's place in the plan: deferral, older doubts, jumping clocks, who is told."""

from __future__ import annotations

from pathlib import Path

from appliance.mail.envelope import RecipientState, Verdict
from fakes.office import FAR, FakeOffice

LATER = Verdict(RecipientState.QUEUED, "451 4.7.1 greylisted")
AT_RCPT = Verdict(RecipientState.QUEUED, "450 4.2.0 busy", keeps_doubt=True)
NEVER = Verdict(RecipientState.FAILED, "550 5.1.1 nobody")
DAY = 86400.0


async def test_a_deferred_message_makes_no_call_for_a_while(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        it.office.deferrals_s = (60.0, 300.0)
        envelope = await it.submit(FAR)
        assert it.office.prospect().messages == 1
        for wait in (60.0, 300.0, 300.0):
            await it.office.settle(envelope, {0: LATER}, host="smtp")
            start = it.clock.now().wall
            prospect = it.office.prospect()
            assert (prospect.messages, prospect.bytes, prospect.oldest) == (0, 0, None)
            assert (prospect.deferred, prospect.deferred_until) == (1, start + wait)
            assert it.office.pending() == [envelope]  # it goes in any call that is made
            it.clock.advance(wait + 1)
            assert it.office.prospect().messages == 1


async def test_an_older_doubt_outlives_a_verdict_that_says_nothing_of_it(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, "other@far.example")
        await it.office.in_doubt(envelope, [0])
        await it.office.settle(envelope, {0: AT_RCPT, 1: AT_RCPT}, host="smtp")
        assert [r.state.value for r in envelope.recipients] == ["in-doubt", "queued"]
        await it.office.settle(envelope, {0: LATER}, host="smtp")  # its own end of data was answered: no doubt is left
        assert [r.state.value for r in envelope.recipients] == ["queued", "queued"]


async def test_only_this_attempts_doubt_is_taken_back(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, "other@far.example")
        await it.office.in_doubt(envelope, [0])
        await it.office.in_doubt(envelope, [1])
        await it.office.not_sent(envelope, [1])
        assert [r.state.value for r in envelope.recipients] == ["in-doubt", "queued"]


async def test_a_clock_that_jumps_gives_nothing_up(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        now = it.clock.now()
        envelope = await it.submit(FAR, boot=now.boot, boot_id=now.boot_id)
        it.clock.set_wall(now.wall + 10 * DAY)  # the board had no battery, and now has the time
        await it.office.settle(envelope, {0: LATER}, host="smtp")
        assert it.spool.messages
        it.clock.advance(6 * DAY)
        await it.office.settle(envelope, {0: LATER}, host="smtp")
        assert not it.spool.messages
        (bounce,) = it.mailbox()
        assert b"given up after 5 days" in bounce


async def test_the_next_in_line_is_told_when_the_submitter_is_gone(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, user="gone", sender="gone@harbour.example")
        await it.office.settle(envelope, {0: NEVER}, host="smtp")
        assert len(it.mailbox("hanako")) == 1  # the postmaster, who is the first user
