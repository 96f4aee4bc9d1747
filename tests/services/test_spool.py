"""The spool where the disk is full or fails: what memory says is what the disk has."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from appliance.clock import SystemClock
from appliance.mail.envelope import Envelope, Recipient, RecipientState, Verdict
from appliance.mail.store.spool import Spool
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths

OK = Verdict(RecipientState.DELIVERED, "250 kept")


class FullNow(Disk):
    """Takes half of the next write, then says that the disk is full; or fails the next flush."""

    full = flush_fails = False

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        if self.full:
            self.full = False
            Disk.write(self, fd, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "full")
        Disk.write(self, fd, data)

    def syncfs(self, path: Path) -> None:
        if self.flush_fails:
            self.flush_fails = False
            raise OSError(errno.EIO, "failed")
        Disk.syncfs(self, path)


def opened(root: Path, disk: Disk) -> tuple[StatePaths, Committer, Spool]:
    paths = StatePaths(root)
    paths.make(disk)
    committer = Committer(disk, root)
    return paths, committer, Spool(paths, disk, committer, SystemClock())


async def queued(spool: Spool, committer: Committer) -> Envelope:
    recipients = [Recipient("a@far.example"), Recipient("b@far.example")]
    envelope = Envelope(spool.new_id(), "hanako@harbour.example", recipients, received=1_800_000_000.0)
    draft = spool.draft(envelope.id)
    draft.write_nowait(b"Subject: x\r\n\r\n")
    envelope.size, envelope.crc32 = draft.size, draft.crc32

    def work() -> None:
        draft.finish()
        spool.place(envelope)

    await committer.commit(work)
    spool.admit(envelope)
    return envelope


async def test_half_a_line_hides_nothing(tmp_path: Path) -> None:
    disk = FullNow()
    paths, committer, spool = opened(tmp_path, disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        envelope = await queued(spool, committer)
        disk.full = True
        with pytest.raises(OSError, match="full"):
            await spool.mark(envelope, [0, 1], RecipientState.IN_DOUBT)
        assert [r.state for r in envelope.recipients] == [RecipientState.QUEUED] * 2
        await spool.mark(envelope, [1], RecipientState.IN_DOUBT)
        await spool.settle(envelope, {0: OK})
        nursery.cancel_scope.cancel()
    again = Spool(paths, disk, committer, SystemClock())
    again.recover()
    (found,) = again.messages.values()
    assert [r.state for r in found.recipients] == [RecipientState.DELIVERED, RecipientState.IN_DOUBT]
    assert not list(paths.corrupt.iterdir())


async def test_a_message_whose_removal_was_not_flushed_is_no_ghost(tmp_path: Path, expected_errors: list[str]) -> None:
    expected_errors.append("the disk failed")
    disk = FullNow()
    paths, committer, spool = opened(tmp_path, disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        envelope = await queued(spool, committer)
        disk.flush_fails = True
        with pytest.raises(OSError, match="failed"):
            await spool.settle(envelope, {0: OK, 1: OK})
        assert spool.messages == {}
        other = await queued(spool, committer)
        with trio.CancelScope() as scope:
            scope.cancel()
            await spool.remove(other)  # the operator's terminal goes away: done all the same, and known
        await committer.commit(lambda: None)
        assert spool.messages == {}
        assert not list(paths.queue.iterdir())
        nursery.cancel_scope.cancel()


async def test_a_torn_change_is_put_aside(tmp_path: Path) -> None:
    disk = Disk()
    paths, committer, spool = opened(tmp_path, disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        envelope = await queued(spool, committer)
        nursery.cancel_scope.cancel()
    env = paths.queue / f"{envelope.id}.env"
    whole = env.read_bytes()
    env.write_bytes(whole + b"0123abcd {")
    again = Spool(paths, disk, committer, SystemClock())
    again.recover()
    assert list(again.messages) == [envelope.id]
    assert env.read_bytes() == whole
    assert [p.read_bytes() for p in paths.corrupt.iterdir()] == [b"0123abcd {"]
