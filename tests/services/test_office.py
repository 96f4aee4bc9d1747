"""The post office: who gets a message, who gets a bounce, and that nobody has what was refused."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from appliance.call import Prospect
from appliance.config.model import Alias, Smarthost
from appliance.mail.envelope import Envelope, MessageState, Priority, Recipient, RecipientState, Verdict
from appliance.mail.office import MessageBusy
from appliance.storage.disk import Disk
from fakes.office import DATA, FAR, HANAKO, TARO, FakeOffice

REFUSED = Verdict(RecipientState.FAILED, "550 5.1.1 no such user")
LATER = Verdict(RecipientState.QUEUED, "451 4.7.1 greylisted")
GONE = Verdict(RecipientState.DELIVERED, "250 2.0.0 ok")
DAY = 86400.0


# ---- who gets it
async def test_local_mail_is_delivered_at_once_and_needs_no_call(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        await it.submit(HANAKO, TARO)
        expected = b"Return-Path: <hanako@harbour.example>\r\n" + DATA
        assert it.mailbox("hanako") == it.mailbox("taro") == [expected]
        assert it.office.pending() == []
        assert it.office.prospect() == Prospect()
        assert not list(it.paths.incoming.iterdir())


async def test_mail_for_both_goes_both_ways(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(TARO, FAR, "other@far.example")
        assert it.mailbox("taro") == [b"Return-Path: <hanako@harbour.example>\r\n" + DATA]
        assert it.office.path(envelope).read_bytes() == DATA
        assert [r.address for r in envelope.recipients] == [FAR, "other@far.example"]
        assert it.office.pending() == [envelope]


async def test_one_copy_for_one_user_whatever_the_number_of_his_addresses(tmp_path: Path) -> None:
    alias = Alias(address="office@harbour.example", to=("hanako", FAR))
    async with FakeOffice(tmp_path, alias=(alias,)).running() as it:
        envelope = await it.submit(HANAKO, "hanako@isp.example", "hanako+x@harbour.example", alias.address, FAR)
        assert len(it.mailbox()) == 1
        assert [r.address for r in envelope.recipients] == [FAR]


async def test_an_alias_keeps_what_its_recipient_asked_for(tmp_path: Path) -> None:
    alias = Alias(address="office@harbour.example", to=(FAR,))
    async with FakeOffice(tmp_path, alias=(alias,)).running() as it:
        envelope = await it.submit(Recipient(alias.address, notify="NEVER", orcpt="rfc822;office@harbour.example"))
        (one,) = envelope.recipients
        assert (one.notify, one.orcpt) == ("NEVER", "rfc822;office@harbour.example")


def refusal(it: FakeOffice, address: str, *, sender: str = HANAKO, size: int = 0) -> tuple[int, str] | None:
    submission = it.office.begin(Envelope("x", sender, [], 0.0, size=size))
    got = it.office.add(submission, Recipient(address))
    return None if got is None else (got.code, got.status)


def test_refusals(tmp_path: Path) -> None:
    it = FakeOffice(tmp_path, smarthost=(Smarthost(host="a", senders=("*@harbour.example",)),))
    assert refusal(it, FAR) is None
    assert refusal(it, "nobody@harbour.example") == (550, "5.1.1")
    assert refusal(it, FAR, sender="camera@far.example") == (550, "5.7.1")
    assert refusal(it, HANAKO, sender="camera@far.example") is None  # nothing has to be carried


def test_the_number_of_recipients(tmp_path: Path) -> None:
    it = FakeOffice(tmp_path, recipient_limit=3)
    submission = it.office.begin(Envelope("x", HANAKO, [], 0.0))
    answers = [it.office.add(submission, Recipient(f"u{i}@far.example")) for i in range(5)]
    assert [a and (a.code, a.status) for a in answers] == [None, None, None, (452, "4.5.3"), (452, "4.5.3")]


def test_larger_than_the_server_takes(tmp_path: Path) -> None:
    """DESIGN §2: 552 5.3.4 at submission."""
    a, b = Smarthost(host="a", port=25), Smarthost(host="b", port=25)
    it = FakeOffice(tmp_path, smarthost=(a, b))
    it.office.note_server_limit(a, 1000)
    assert refusal(it, FAR, size=5000) is None  # b's is not known
    it.office.note_server_limit(b, 2000)
    assert refusal(it, FAR, size=2000) is None
    assert refusal(it, FAR, size=2001) == (552, "5.3.4")
    assert refusal(it, HANAKO, size=2001) is None
    it.office.note_server_limit(b, 0)  # it no longer names one
    assert refusal(it, FAR, size=5000) is None


def test_larger_than_any_call_carries(tmp_path: Path) -> None:
    it = FakeOffice(tmp_path)
    it.office.call_capacity = lambda: 1000
    assert refusal(it, FAR, size=1000) is None
    assert refusal(it, FAR, size=1001) == (552, "5.3.4")
    assert refusal(it, HANAKO, size=1001) is None


async def test_a_full_mailbox(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        it.mailboxes["taro"].quota_bytes = 150
        await it.submit(TARO)
        assert refusal(it, TARO, size=100) == (452, "4.2.2")
        assert refusal(it, TARO, size=10) is None
        assert refusal(it, HANAKO, size=100) is None
        it.mailboxes["taro"].quota_bytes = 10
        assert refusal(it, TARO) == (452, "4.2.2")


@pytest.mark.parametrize(("quota", "answer"), [(1000, None), (99, (452, "4.2.2"))])
async def test_a_mailbox_is_looked_at_once_for_all_recipients(
    quota: int, answer: tuple[int, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have thousands of files, and the event loop waits."""
    it = FakeOffice(tmp_path)
    box = it.mailboxes["taro"]
    box.quota_bytes = quota
    asked = []
    has_room = box.has_room
    monkeypatch.setattr(box, "has_room", lambda size: asked.append(size) or has_room(size))
    submission = it.office.begin(Envelope("x", HANAKO, [], 0.0, size=100))
    for i in range(10):
        got = it.office.add(submission, Recipient(f"taro+{i}@harbour.example"))
        assert (got and (got.code, got.status)) == answer
    assert asked == [100]


async def test_the_true_size_counts_for_the_quota(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        it.mailboxes["taro"].quota_bytes = 1000
        submission = it.office.begin(Envelope("x", HANAKO, [], 0.0))
        for address in (HANAKO, TARO):
            assert it.office.add(submission, Recipient(address)) is None
        assert await it.office.over_quota(submission, 1000) is None
        got = await it.office.over_quota(submission, 1001)
        assert got is not None
        assert (got.code, got.status) == (452, "4.2.2")
        await it.submit(TARO)  # while this one comes
        assert await it.office.over_quota(submission, 1000) is not None


# ---- nobody has what was refused
class FailingDisk(Disk):
    """Fails operation number `at` (from 1) with ENOSPC, or every one from there on."""

    def __init__(self, at: int = 0, *, for_good: bool = False) -> None:
        super().__init__()
        self.at, self.for_good, self.count, self.failed = at, for_good, 0, ""


def _failing(name: str) -> Callable[..., Any]:
    real = getattr(Disk, name)

    def operation(self: FailingDisk, *arguments: Any, **more: Any) -> Any:
        self.count += 1
        if self.at and (self.count == self.at or (self.for_good and self.count > self.at)):
            self.failed = self.failed or name
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **more)

    return operation


for _name in ("create", "write", "pwrite", "fsync", "fdatasync", "fsync_folder", "syncfs", "rename", "link"):
    setattr(FailingDisk, _name, _failing(_name))

WHO = {"local": [HANAKO], "locals": [HANAKO, TARO], "remote": [FAR], "both": [HANAKO, TARO, FAR]}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("who", WHO)
async def test_a_disk_that_is_full_at_each_operation_in_turn(
    who: str, big: bool, tmp_path: Path, expected_errors: list[str]
) -> None:
    """Nobody has any of a message that was refused: not now, and not after the next start. What was there before is
    untouched, and the next message is taken."""
    expected_errors.append("No space left on device")
    data = DATA + b"x" * (300_000 if big else 0) + b"\r\n"
    seen = []
    for at in range(1, 100):
        disk = FailingDisk()
        root = tmp_path / f"{at}"
        root.mkdir()
        it = FakeOffice(root, disk)
        async with it.running():
            await it.submit(*WHO["both"])
            before = it.files()
            disk.count, disk.at = 0, at
            try:
                await it.submit(*WHO[who], data=data)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                assert it.files() == before, f"operation {at} ({disk.failed})"
                assert len(it.office.pending()) == 1
                assert len(it.mailbox()) == 1
                await it.submit(*WHO[who], data=data)
            else:
                assert not disk.failed
                break
            seen.append(disk.failed)
        again = FakeOffice(root)
        again.spool.recover()
        assert len(again.office.pending()) == (2 if who in ("remote", "both") else 1)
        assert not list(again.paths.corrupt.iterdir())
    assert {"create", "write", "syncfs"} <= set(seen)
    assert "rename" in seen


@pytest.mark.parametrize("who", WHO)
async def test_a_disk_that_stays_full(who: str, tmp_path: Path, expected_errors: list[str]) -> None:
    expected_errors.append("No space left on device")
    for at in range(1, 20):
        root = tmp_path / f"{at}"
        root.mkdir()
        disk = FailingDisk()
        it = FakeOffice(root, disk)
        async with it.running():
            before = it.files()
            disk.at, disk.for_good = at, True
            try:
                await it.submit(*WHO[who])
            except OSError:
                assert it.files() == before, f"operation {at} ({disk.failed})"
                assert it.office.pending() == []
            else:
                break


class SlowDisk(Disk):
    """Waits in each flush until it may go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def syncfs(self, path: Path) -> None:
        self.begun.set()
        assert self.go.wait(10)


@pytest.mark.parametrize("when", ["waiting", "flushing"])
@pytest.mark.parametrize("who", WHO)
async def test_a_session_that_is_cancelled_while_its_message_is_placed(who: str, when: str, tmp_path: Path) -> None:
    """Its client was told nothing: the message is there, whole and in the queue, or it is not there at all."""
    disk = SlowDisk()
    it = FakeOffice(tmp_path, disk)

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked()
        disk.go.set()

    async with it.running():
        async with trio.open_nursery() as others, trio.open_nursery() as session:
            if when == "waiting":
                others.start_soon(it.committer.commit, lambda: None)
            else:
                session.start_soon(lambda: it.submit(*WHO[who]))
            assert await trio.to_thread.run_sync(disk.begun.wait, 10)
            if when == "waiting":
                session.start_soon(lambda: it.submit(*WHO[who]))
                await trio.testing.wait_all_tasks_blocked()
            others.start_soon(release)
            session.cancel_scope.cancel()
        for user in ("hanako", "taro"):
            for message in it.mailboxes[user].messages():
                assert message.path.read_bytes().endswith(DATA)
                assert message.path.stat().st_size == message.size
        on_disk = {p.stem for p in it.paths.queue.iterdir()}
        assert on_disk == set(it.spool.messages)
        assert all(it.office.path(e).read_bytes() == DATA for e in it.office.pending())
        assert not list(it.paths.incoming.iterdir())


# ---- the senders' side
async def test_the_order_of_sending(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, bulk_size_bytes=1000).running() as it:
        normal = await it.submit(FAR)
        bulk = await it.submit(FAR, priority=Priority.NON_URGENT)
        big = await it.submit(FAR, data=DATA + b"x" * 2000)
        urgent = await it.submit(FAR, priority=Priority.URGENT, data=DATA + b"x" * 2000)
        it.clock.advance(1)
        later = await it.submit(FAR)
        held = await it.submit(FAR)
        await it.office.hold(held, True)
        assert it.office.pending() == [urgent, normal, later, bulk, big]
        assert it.office.pending(without=[urgent.id, bulk.id]) == [normal, later, big]
        states = [it.office.state_of(e).value for e in (normal, bulk, big, urgent, held)]
        assert states == ["queued", "bulk", "bulk", "queued", "held"]


async def test_what_a_call_has_before_it(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, bulk_size_bytes=1000).running() as it:
        start = it.clock.now().wall
        await it.submit(FAR, data=DATA + b"x" * 2000)
        it.clock.advance(10)
        await it.submit(FAR)
        it.clock.advance(10)
        await it.submit(FAR, priority=Priority.URGENT)
        await it.submit(FAR, priority=Priority.URGENT, user="")  # from a trusted network: never urgent
        await it.office.hold(await it.submit(FAR, priority=Priority.URGENT), True)
        size = len(DATA)
        assert it.office.prospect() == Prospect(
            messages=3, bytes=3 * size, oldest=start + 10, urgent=1,
            bulk_messages=1, bulk_bytes=size + 2000, bulk_oldest=start,
        )  # fmt: skip


async def test_in_doubt_and_back(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, "other@far.example")
        it.office.sending(envelope, True)
        assert it.office.state_of(envelope) is MessageState.SENDING
        await it.office.in_doubt(envelope, [0])
        it.office.sending(envelope, False)
        assert it.office.state_of(envelope) is MessageState.IN_DOUBT
        assert it.office.pending() == [envelope]
        again = FakeOffice(tmp_path)
        again.spool.recover()
        (found,) = again.office.pending()
        assert [r.state.value for r in found.recipients] == ["in-doubt", "queued"]
        await it.office.not_sent(envelope, [0])
        assert it.office.state_of(envelope) is MessageState.QUEUED


async def test_waiting_for_work(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        first = await it.submit(FAR)
        done: list[str] = []

        async def wait() -> None:
            await it.office.wait_pending(without=[first.id])
            done.append("woken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await it.submit(HANAKO)  # local
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            await it.submit(FAR)
        assert done == ["woken"]


# ---- by hand
async def test_hold_release_remove(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR)
        await it.office.hold(envelope, True)
        await it.office.hold(envelope, True)
        assert it.office.path(envelope) == it.paths.hold / f"{envelope.id}.eml"
        assert it.office.pending() == []
        await it.office.hold(envelope, False)
        assert it.office.path(envelope).read_bytes() == DATA
        it.office.sending(envelope, True)
        for change in (it.office.hold(envelope, True), it.office.remove(envelope)):
            with pytest.raises(MessageBusy):
                await change
        it.office.sending(envelope, False)
        await it.office.remove(envelope)
        assert not it.spool.messages
        assert not list(it.paths.queue.iterdir())


# ---- bounces
def bounces(it: FakeOffice, user: str = "hanako") -> list[Any]:
    return [message_from_bytes(m, policy=policy.SMTP) for m in it.mailbox(user)]


async def test_a_permanent_failure_bounces_to_who_submitted_it(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, "other@far.example", sender="hanako@isp.example")
        await it.office.settle(envelope, {0: REFUSED, 1: GONE}, host="smtp.isp.example")
        (bounce,) = bounces(it)
        assert bounce["Return-Path"] == "<>"
        assert bounce["To"] == "hanako@isp.example"
        assert FAR in bounce.as_string()
        assert "other@far.example" not in bounce.as_string()
        assert not it.spool.messages
        assert it.office.prospect() == Prospect()  # a bounce never uses the line


async def test_recipients_fail_one_by_one(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR, "other@far.example")
        await it.office.settle(envelope, {0: REFUSED, 1: LATER}, host="a")
        assert len(bounces(it)) == 1
        assert envelope.open_recipients() == [1]
        assert (envelope.attempts, envelope.tried_at) == (1, it.clock.now().wall)
        await it.office.settle(envelope, {1: REFUSED}, host="a")
        assert len(bounces(it)) == 2
        assert not it.spool.messages


@pytest.mark.parametrize(
    ("sender", "user", "gets"),
    [
        (HANAKO, "hanako", "hanako"),
        (TARO, "", "taro"),  # from a trusted network: the local user of the sender's address
        ("camera@far.example", "", "taro"),  # nobody's: the postmaster
        ("", "hanako", None),
        ("", "", None),
    ],
)
async def test_who_gets_the_bounce(sender: str, user: str, gets: str | None, tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, postmaster="taro").running() as it:
        envelope = await it.submit(FAR, sender=sender, user=user)
        await it.office.settle(envelope, {0: REFUSED}, host="a")
        assert {u for u in ("hanako", "taro") if it.mailbox(u)} == ({gets} if gets else set())
        assert not it.spool.messages


@pytest.mark.parametrize(("notify", "count"), [("NEVER", 0), ("SUCCESS", 0), ("FAILURE", 1), ("", 1)])
async def test_notify(notify: str, count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(Recipient(FAR, notify=notify))
        await it.office.settle(envelope, {0: REFUSED}, host="a")
        assert len(it.mailbox()) == count
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]  # none goes without a word
    why = "bounce to <hanako@harbour.example>" if count else "no bounce: its sender asked for none"
    assert said == [f"{envelope.id}: {FAR} failed ({REFUSED.reply}); {why}"]


async def test_given_up_only_with_an_attempt(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR)
        it.clock.advance(30 * DAY)  # the line was dead all the time: nothing is told to anybody
        assert it.office.pending() == [envelope]
        assert not it.mailbox()
        await it.office.settle(envelope, {0: LATER}, host="a")
        (bounce,) = bounces(it)
        assert "greylisted (given up after 5 days)" in bounce.as_string().replace("\n", " ")
        assert not it.spool.messages


async def test_not_given_up_before_its_time(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR)
        it.clock.advance(5 * DAY)
        await it.office.settle(envelope, {0: LATER}, host="a")
        assert it.office.pending() == [envelope]
        assert envelope.recipients[0].reply == LATER.reply
        assert not it.mailbox()


async def test_a_bounce_that_the_disk_does_not_take_is_not_forgotten(
    tmp_path: Path, expected_errors: list[str]
) -> None:
    """The message stays in the queue until its bounce is safe."""
    expected_errors.append("No space left on device")
    for at in range(1, 4):
        root = tmp_path / f"{at}"
        root.mkdir()
        disk = FailingDisk()
        async with FakeOffice(root, disk).running() as it:
            envelope = await it.submit(FAR)
            disk.count, disk.at = 0, at
            with pytest.raises(OSError, match="No space"):
                await it.office.settle(envelope, {0: REFUSED}, host="a")
            assert it.office.pending() == [envelope]
            await it.office.settle(envelope, {0: REFUSED}, host="a")
            assert not it.spool.messages
            assert it.mailbox()


# ---- configuration
async def test_a_changed_configuration_holds_for_what_waits(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        envelope = await it.submit(FAR)
        assert [h.host for h in it.office.smarthosts_for(envelope)] == ["smtp.isp.example"]
        it.configure(smarthost=(Smarthost(host="new.example"),), bulk_size_bytes=1)
        assert [h.host for h in it.office.smarthosts_for(envelope)] == ["new.example"]
        assert it.office.state_of(envelope) is MessageState.BULK


@pytest.mark.parametrize(
    ("blocks", "available", "room"),
    [
        (1 << 20, 1 << 19, (2 << 30) - (16 << 20)),
        (1 << 20, 4096, 0),  # the reserve alone: 16 MiB
        (1 << 20, 4097, 4096),
        (20 << 10, 2048, (8 << 20) - (4 << 20)),  # a small disk keeps a twentieth
    ],
)
def test_room(blocks: int, available: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = FakeOffice(tmp_path)
    stat = SimpleNamespace(f_blocks=blocks, f_bavail=available, f_frsize=4096)
    monkeypatch.setattr("appliance.mail.office.os.statvfs", lambda path: stat)
    assert it.office.free_bytes() == room
    assert not it.office.has_room(room)
    assert it.office.has_room(0) is (room > 0)
