"""A post office on a folder, with the users hanako and taro; no committer runs until `running`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from appliance.config.model import Mail, Site, Smarthost, Tls, User
from appliance.mail.envelope import Envelope, Recipient
from appliance.mail.office import PostOffice
from appliance.mail.store.mailbox import Mailbox
from appliance.mail.store.spool import Spool
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import FakeClock

SITE = Site(name="harbour", domain="harbour.example")
USERS = (
    User(name="hanako", password="s", addresses=("hanako@harbour.example", "hanako@isp.example")),
    User(name="taro", password="s", addresses=("taro@harbour.example", "тaro@harbour.example")),
)
HANAKO, TARO, FAR = "hanako@harbour.example", "taro@harbour.example", "boss@far.example"
MAIL = Mail(smarthost=(Smarthost(host="smtp.isp.example", tls=Tls.NONE),))
DATA = b"Subject: x\r\n\r\nhello\r\n"


class FakeOffice:
    """`office` over `disk`, with a clock moved by hand."""

    def __init__(
        self, root: Path, disk: Disk | None = None, *, mail: Mail = MAIL, clock: FakeClock | None = None, **more: Any
    ) -> None:
        self.root = root
        self.disk = disk or Disk()
        self.paths = StatePaths(root)
        self.paths.make(Disk())
        self.clock = clock or FakeClock()
        self.committer = Committer(self.disk, root)
        self.spool = Spool(self.paths, self.disk, self.committer, self.clock)
        self.mailboxes = {u.name: Mailbox(u.name, self.paths, self.committer, site="harbour") for u in USERS}
        for box in self.mailboxes.values():
            box.recover()
        self.office = PostOffice(self.spool, self.committer, self.clock)
        self.configure(mail, **more)

    def configure(self, mail: Mail = MAIL, **more: Any) -> None:
        self.mail = replace(mail, **more)
        self.office.configure(SITE, self.mail, USERS, self.mailboxes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeOffice]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.committer.run)
            with trio.fail_after(30):
                yield self
            nursery.cancel_scope.cancel()

    async def submit(self, *to: str | Recipient, data: bytes = DATA, sender: str = HANAKO, **more: Any) -> Envelope:
        """As an SMTP session hands a message in."""
        office = self.office
        envelope = Envelope(
            office.spool.new_id(), sender, [], self.clock.now().wall, **{"user": "hanako", "size": len(data), **more}
        )
        submission = office.begin(envelope)
        for one in to:
            refusal = office.add(submission, Recipient(one) if isinstance(one, str) else one)
            assert refusal is None, refusal
        draft = office.spool.draft(envelope.id)
        try:
            draft.write_nowait(office.return_path(submission))
            await draft.write(data)
            await office.accept(submission, draft)
        except BaseException:
            await draft.discard()
            raise
        return envelope

    def mailbox(self, user: str = "hanako") -> list[bytes]:
        """The messages in a user's mailbox."""
        return [m.path.read_bytes() for m in self.mailboxes[user].messages()]

    def files(self) -> set[str]:
        """Every file below the state's folder."""
        out = set()
        for folder, _, names in os.walk(self.root):
            out |= {os.path.relpath(os.path.join(folder, name), self.root) for name in names}
        return out
