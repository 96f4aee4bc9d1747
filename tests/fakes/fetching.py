"""A site for fetchers: a mailbox, the account's record, the job; and messages for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from appliance.call import JobReport, OpenCall
from appliance.config.model import Account, Tls
from appliance.mail.store.fetched import FetchedRecord, record_name
from appliance.mail.stubs import StubTerms
from appliance.mail.upstream.fetcher import FetchJob
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from fakes.clock import FakeClock
from fakes.inbox import FakeInbox
from fakes.provider import Provider, run_job

ACCOUNT = Account(protocol="pop3", host="pop", port=110, tls=Tls.NONE, login="hanako", secret="isp", backlog_s=None)


def message(n: int, size: int = 60, *, date: str = "Mon, 05 Jan 2026 11:00:00 +0000") -> bytes:
    body = (b"." * 30 + b"\r\n") * (size // 32)
    return b"Message-ID: <m%d@isp.example>\r\nDate: %b\r\n\r\n%b.\r\n" % (n, date.encode(), body)


class House:
    """One site: the mailbox, the record and the job; `restart` reads the record from the disk again."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.account, self.secret = folder, account, "geheim"
        self.stubs: StubTerms | None = None
        self.disk = Disk()
        self.committer = Committer(self.disk, folder)
        self.inbox = FakeInbox(folder / "mail")
        self.clock = FakeClock()
        (folder / "fetched").mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> None:
        self.record = FetchedRecord(
            self.disk,
            self.committer,
            self.folder / "fetched",
            record_name("hanako", self.account),
            corrupt=self.folder / "corrupt",
        )
        self.job = FetchJob(self.account, "hanako", self.inbox, self.record, self.secret, self.clock, stubs=self.stubs)

    async def fetch(self, server: Provider | OSError, **more: object) -> tuple[OpenCall, JobReport]:
        return await run_job(self.job.run, {"pop": server}, **more)  # type: ignore[arg-type, return-value]

    def states(self) -> dict[str, str]:
        return {uid: known.state.value for uid, known in self.record.known.items()}


@asynccontextmanager
async def house(folder: Path, **account: object) -> AsyncIterator[House]:
    folder.mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        it = House(folder, replace(ACCOUNT, **account))  # type: ignore[arg-type]
        await nursery.start(it.committer.run)
        yield it
        nursery.cancel_scope.cancel()


def mails(n: int, size: int = 60) -> dict[str, bytes]:
    return {f"uid{i}": message(i, size) for i in range(n)}
