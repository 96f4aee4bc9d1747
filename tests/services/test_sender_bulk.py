"""Bulk mail goes in time that is paid already, what fits into it, and at any price once it is too old."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.call import JobReport, OpenCall, Prospect
from appliance.config.model import Smarthost, Tls
from appliance.mail.envelope import Envelope, Priority
from appliance.mail.upstream.sender import LOGIN_S, SendJob
from fakes.office import FAR, FakeOffice
from fakes.outbox import FakeOutbox
from fakes.provider import SmtpProvider, run_job

HOST = Smarthost(host="mx", port=25, tls=Tls.NONE)
BODY = b"Subject: x\r\n\r\n" + b"x" * 900 + b"\r\n"


class Paid:
    """A call's paid time, given by hand."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.begun = trio.Event()
        self.alone: list[bool] = []

    def left_s(self) -> float:
        return self.seconds

    async def wait_begun(self) -> None:
        await self.begun.wait()

    def carries_bulk(self, job: str, *, alone: bool) -> None:
        assert job == "spool"
        self.alone.append(alone)

    def begin(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun.set()


@pytest.fixture
def outbox(tmp_path: Path) -> FakeOutbox:
    outbox = FakeOutbox(tmp_path, [HOST])
    outbox.put("plain", BODY)
    outbox.put("bulk", BODY, priority=Priority.NON_URGENT)
    return outbox


async def test_only_in_paid_time(outbox: FakeOutbox) -> None:
    paid, job = Paid(), SendJob(outbox, {}, "harbour")

    async def work(call: OpenCall) -> None:
        call.paid = paid
        assert await job.run(call) == JobReport()
        assert set(outbox.messages) == {"bulk"} and not any(paid.alone)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.wait_work)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks, "there is no work yet"
            paid.begin(60.0)
        assert await job.run(call) == JobReport()
        assert not outbox.messages and True in paid.alone and not paid.alone[-1]
        assert call.tally.sent == 2

    await run_job(work, {"mx": SmtpProvider()})


async def test_on_a_line_that_is_free_all_goes_at_once(outbox: FakeOutbox) -> None:
    call, _ = await run_job(SendJob(outbox, {}, "harbour").run, {"mx": SmtpProvider()})
    assert call.paid.left_s() == math.inf
    assert not outbox.messages


async def test_what_does_not_fit_stays_and_is_not_waited_for(outbox: FakeOutbox) -> None:
    outbox.put("bulk2", BODY, priority=Priority.NON_URGENT)
    paid, job = Paid(LOGIN_S + 1.5 * len(BODY) / 960), SendJob(outbox, {}, "harbour")  # at 9,600 bit/s: one of the two

    async def work(call: OpenCall) -> None:
        call.paid = paid
        await job.run(call)
        assert set(outbox.messages) == {"bulk2"}
        with trio.move_on_after(0.2) as scope:
            await job.wait_work()
        assert scope.cancelled_caught, "what does not fit is no work"

    await run_job(work, {"mx": SmtpProvider()})


async def test_mail_that_comes_meanwhile_makes_it_more_than_bulk(outbox: FakeOutbox) -> None:
    del outbox.messages["plain"]
    paid, job, came = Paid(60.0), SendJob(outbox, {}, "harbour"), []

    def answer(got: str, argument: str) -> str | None:
        if got == "MAIL" and not came:
            came.append(outbox.put("late", BODY))
        return None

    async def work(call: OpenCall) -> None:
        call.paid = paid
        await job.run(call)

    await run_job(work, {"mx": SmtpProvider(answer=answer)})
    assert not outbox.messages
    assert paid.alone[0] is True and False in paid.alone[1:]


async def test_the_office_knows_bulk_and_its_age(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, bulk_size_bytes=1000, bulk_max_age_s=3600.0).running() as it:
        await it.submit(FAR)
        large = await it.submit(FAR, data=b"x" * 2000)
        await it.submit(FAR, priority=Priority.URGENT, data=b"x" * 2000)
        low: Envelope = await it.submit(FAR, priority=Priority.NON_URGENT)
        bulk = [e for e in it.office.pending() if it.office.goes_in_paid_time(e)]
        assert sorted(bulk, key=lambda e: e.id) == sorted([large, low], key=lambda e: e.id)
        assert len(it.office.pending(bulk=False)) == 2
        assert it.office.prospect() == Prospect(
            2, sum(e.size for e in it.office.pending(bulk=False)), it.clock.now().wall, 1, 2, large.size + low.size,
            it.clock.now().wall,
        )  # fmt: skip
        it.clock.advance(3600)
        assert len(it.office.pending(bulk=False)) == 4
