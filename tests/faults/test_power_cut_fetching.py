"""The power goes behind every operation of a fetch: what the provider no longer has lies in the mailbox, and the next
fetch brings the rest; nothing is lost and nothing is there twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.call import JobReport
from appliance.config.model import Account, Tls
from appliance.mail.store.fetched import FetchedRecord, record_name
from appliance.mail.store.mailbox import Mailbox
from appliance.mail.upstream.fetcher import FetchJob
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from fakes.clock import FakeClock
from fakes.provider import Pop3Provider, run_job

ACCOUNT = Account(protocol="pop3", host="pop", port=110, tls=Tls.NONE, login="hanako", backlog_s=None)
MAILS = {f"uid{i}": b"Message-ID: <%d@x>\r\n\r\nbody %d\r\n" % (i, i) * (1 + 3000 * (i == 2)) for i in range(4)}
OLD = {"old": b"Subject: before the first fetch\r\n\r\n"}


async def fetch(root: Path, disk: Disk, provider: Pop3Provider, account: Account) -> Mailbox:
    """Starts as after a power cut, fetches once, and stops."""
    paths = StatePaths(root)
    paths.make(disk)
    committer = Committer(disk, root)
    mailbox = Mailbox("hanako", paths, committer, site="harbour")
    mailbox.recover()
    record = FetchedRecord(disk, committer, paths.fetched, record_name("hanako", account), corrupt=paths.corrupt)
    job = FetchJob(account, "hanako", mailbox, record, "", FakeClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        _, report = await run_job(job.run, {"pop": provider})
        assert report == JobReport()
        nursery.cancel_scope.cancel()
    return mailbox


@pytest.mark.parametrize("fate", list(Fate))
async def test_every_prefix_of_a_fetch(fate: Fate, tmp_path: Path) -> None:
    account = replace(ACCOUNT, backlog_s=0.0)
    disk = RecordingDisk(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    await fetch(tmp_path / "whole", disk, Pop3Provider(mails=dict(OLD)), account)
    first = len(disk.operations)

    provider = Pop3Provider(mails={**OLD, **MAILS})
    plain = provider.point

    def point(name: str) -> None:
        if name == "deleted":
            disk.mark("deleted")
        plain(name)

    provider.point = point  # type: ignore[method-assign]
    await fetch(tmp_path / "whole", disk, provider, account)
    assert provider.mails == OLD
    ((deleted_at, _),) = disk.marks
    assert first + 20 < deleted_at

    for n in range(first, len(disk.operations) + 1):
        root = tmp_path / f"{n}"
        power_cut(disk, n, fate, root, seed=n)
        upstream = {**OLD, **MAILS} if n < deleted_at else dict(OLD)
        again = Pop3Provider(mails=upstream)
        mailbox = await fetch(root, Disk(), again, account)
        have = sorted(m.path.read_bytes() for m in mailbox.messages())
        assert have == sorted(MAILS.values()), f"cut behind operation {n}: {disk.operations[n - 1]}"
        assert again.mails == OLD
