"""What lives as long as the process: the disk and its committer, the clock, the ledger, the spool, the mailboxes, and
the post office over them. Opened and recovered here; services borrow it. Must not know which services there are.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance import __version__, events
from appliance.app.backup import make_snapshot
from appliance.calls.ledger import Ledger
from appliance.clock import HostClock, Seen, SystemClock, unix
from appliance.config.passwords import verify_password
from appliance.mail.lan.logins import Logins
from appliance.mail.office import PostOffice
from appliance.mail.store.fetched import FetchedRecord, record_name
from appliance.mail.store.mailbox import Mailbox
from appliance.mail.store.spool import Spool
from appliance.mail.stubs import StubTerms
from appliance.mail.upstream.fetcher import FetchJob
from appliance.mail.upstream.sender import SendJob
from appliance.mail.upstream.sent_folder import SentFolder
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_folders
from appliance.storage.redo import RedoDisk
from appliance.storage.slots import SlotFile
from appliance.transport import self_signed
from appliance.transport.listen import parse_address
from appliance.transport.tls import server_context

if TYPE_CHECKING:
    import ssl

    from appliance.call import Job
    from appliance.config.model import Config

__all__ = ["Core"]

RECENT_CALLS: Final = 20
"""Whose best rate says how much a call can carry."""


class Core:
    """What lives as long as the process, opened and recovered. Raises OSError."""

    def __init__(self, config: Config) -> None:
        self.paths = StatePaths(config.site.state)
        if self.paths.restoring.exists():
            raise OSError("a restore was broken off, and what lies there is a mixture: `posthouse restore` it again")
        plain = Disk()
        plain.mkdir(self.paths.root)
        plain.mkdir(config.site.runtime, mode=0o750)
        self.locks = lock_folders(self.paths.root, config.site.runtime)
        self.disk = RedoDisk(plain, self.paths.root)
        redone = self.disk.open_log()
        if redone:
            events.emit(events.REDONE, operations=redone)
        self.paths.make(self.disk)
        self._note_version()
        # A user other than root that may set it was given that on purpose; who tries Posthouse as root keeps his clock.
        self.clock = SystemClock(host=HostClock(may_set=os.geteuid() != 0))
        self.committer = Committer(self.disk, self.paths.root)
        self.ledger = Ledger(self.committer, self.paths)
        self.ledger.open()
        self._seen = SlotFile(plain, self.paths.clock)
        self.clock.begin(self._last_seen())
        self.spool = Spool(self.paths, self.disk, self.committer, self.clock)
        self.spool.recover()
        self.mailboxes: dict[str, Mailbox] = {}
        self.records: dict[str, FetchedRecord] = {}
        """One an account for the life of the process: what a user asks for is written into it at any time."""
        self.office = PostOffice(self.spool, self.committer, self.clock)
        self.logins = Logins(config.user, verify=verify_password)
        self.configure(config)

    def _note_version(self) -> None:
        """Who wrote here last. Where that was a newer version it is told of, and nothing more: each reader of the state
        leaves alone what it does not know."""
        before = self.paths.version.read_text(errors="replace").strip() if self.paths.version.exists() else ""
        if before == __version__:
            return
        if _number(before) > _number(__version__):
            events.emit(events.STATE_NEWER, newer=before, version=__version__)
        self.disk.replace_file(self.paths.version, f"{__version__}\n".encode())

    def _last_seen(self) -> Seen:
        """By the record of it or, where there is none, by the last call."""
        try:
            # The first versions' is one line, and no slots.
            return Seen.parse(self._seen.read() or self.paths.clock.read_bytes())
        except (OSError, ValueError):
            calls = self.ledger.calls()[-1:]
            return Seen(max((unix(call["ended"] or call["started"]) for call in calls), default=0.0))

    def keep_seen(self, seen: Seen) -> None:
        """Puts the time on stable storage: the next start begins no earlier. Within a batch of the committer's, which
        has nothing to flush for it: this disk has no redo log (`storage.slots`). Blocks; raises OSError."""
        self._seen.write(seen.as_bytes())

    async def make_snapshot(self) -> None:
        """For a backup: the state as it is between two batches. Raises OSError."""
        await self.committer.commit(functools.partial(make_snapshot, self.paths, Disk()))

    def close(self) -> None:
        """After the committer."""
        self.ledger.close()
        self.disk.close_log()

    def configure(self, config: Config) -> None:
        """Takes over what a configuration says of users and routing."""
        for user in config.user:
            box = self.mailboxes.get(user.name)
            if box is None:
                free = self.office.free_bytes
                box = Mailbox(user.name, self.paths, self.committer, site=config.site.name, free_bytes=free)
                box.recover()
                self.mailboxes[user.name] = box
            box.quota_bytes = user.quota_bytes
        self.office.configure(config.site, config.mail, config.user, self.mailboxes)
        self.office.call_capacity = functools.partial(self._call_capacity, config.schedule.max_call_s)
        self.office.deferrals_s = config.schedule.retry_s or self.office.deferrals_s
        self.logins.replace(config.user)

    def _call_capacity(self, max_call_s: float) -> int:
        """Bytes that the longest call carries at the best recent rate, a start and a stop bit to each; 0: not known."""
        return int(self.ledger.best_rate(RECENT_CALLS) / 10 * max_call_s)

    def jobs(self, config: Config) -> list[Job]:
        """What a call has to do: one job for the spool, one for each account."""
        disk, paths = self.disk, self.paths
        terms = StubTerms(config.mail.fetch_limit_bytes, config.site.domain, self.office.hostname)
        accounts: list[tuple[str, FetchedRecord]] = []
        folders = {
            user.name: SentFolder(account, config.secrets.get(account.secret, ""))
            for user in config.user
            for account in reversed(user.account)  # the first one counts
            if account.sent_folder
        }
        jobs: list[Job] = [SendJob(self.office, config.secrets, self.office.hostname, sent_folders=folders)]
        for user in config.user:
            for account in user.account:
                name = record_name(user.name, account)
                record = self.records.get(name)
                if record is None:
                    record = FetchedRecord(disk, self.committer, paths.fetched, name, corrupt=paths.corrupt)
                    self.records[name] = record
                accounts.append((user.name, record))
                secret = config.secrets.get(account.secret, "")
                box = self.mailboxes[user.name]
                jobs.append(FetchJob(account, user.name, box, record, secret, self.clock, stubs=terms))
        self.office.stubs.replace(accounts)
        return jobs

    def tls(self, config: Config) -> ssl.SSLContext:
        """For the LAN's listeners: the configured certificate, or one of our own, made once."""
        mail = config.mail
        if mail.certificate:
            return server_context(Path(mail.certificate), Path(mail.key or mail.certificate))
        certificate, key = self.paths.keys / "mail.pem", self.paths.keys / "mail.key"
        if not (certificate.exists() and key.exists()):
            hosts = [parse_address(a).host for a in (*mail.smtp, *mail.pop3)]
            names = [self.office.hostname, config.site.name, "localhost", *(h for h in hosts if h)]
            self_signed.make_files(names, certificate, key, self.disk.replace_file)
        return server_context(certificate, key)


def _number(version: str) -> tuple[int, ...]:
    """Of "1.10.2" or "1.10.2.dev3": what sorts; () where it begins with no number."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
