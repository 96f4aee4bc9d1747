"""The job of a call that fetches one account's mail into its user's mailbox, by POP3 or IMAP.

It owns how one run of it ends; what is fetched and how is `pop3_fetch`'s and `imap_fetch`'s.

Theory of operation. Log in, see what is there, then decide for each message:

| the message                                      | then                                                       |
|--------------------------------------------------|------------------------------------------------------------|
| was there at the first fetch, older than backlog | recorded as skipped: never delivered, never deleted        |
| is recorded as fetched                           | deleted, unless `keep`; never fetched again                |
| lies in the mailbox under its key                | recorded (a power cut had come between), then as above     |
| has no room in the mailbox or on the disk        | stays upstream, for a later call                           |
| is new                                           | asked for -> mailbox -> record -> deleted, unless `keep`   |
| is new, larger than `fetch_limit`                | a stub of it -> mailbox -> record; it stays upstream       |
| has a stub, and its user asked for it            | as new; the whole message takes the stub's place           |
| has a stub, and its user asked to delete it      | deleted                                                    |

Each arrow waits until what is before it is on stable storage, while the next messages already come in: so many are
asked for that the line never waits for us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance import events
from appliance.call import JobReport, Reason
from appliance.mail.store.fetched import Ask
from appliance.mail.upstream.fetch_session import LoginRefused, SessionFailed
from appliance.mail.upstream.imap_fetch import ImapFetch
from appliance.mail.upstream.imap_session import ImapSession
from appliance.mail.upstream.intake import Memory
from appliance.mail.upstream.pop3_fetch import Pop3Fetch
from appliance.mail.upstream.pop3_session import Pop3Session

if TYPE_CHECKING:
    from appliance.call import OpenCall
    from appliance.clock import Clock
    from appliance.config.model import Account
    from appliance.mail.delivery import Inbox
    from appliance.mail.store.fetched import FetchedRecord
    from appliance.mail.stubs import StubTerms

__all__ = ["FetchJob"]

EARLY_S: Final = 300.0
"""So much before `check_every` is over, at most an `EARLY_SHARE`th of it, an account is asked all the same: the call of
each day at 7:30 comes some seconds sooner than a day after the last."""
EARLY_SHARE: Final = 10


class FetchJob:
    """Implements `call.Job` for one account. One object for all calls."""

    def __init__(
        self,
        account: Account,
        user: str,
        inbox: Inbox,
        record: FetchedRecord,
        secret: str,
        clock: Clock,
        *,
        stubs: StubTerms | None = None,
    ) -> None:
        """`secret` is the password itself, not its name. Without `stubs` every message is fetched whole."""
        folder = "" if account.protocol == "pop3" or account.folder.upper() == "INBOX" else f" {account.folder}"
        self.name = f"fetch {account.login}@{account.host}:{account.port}{folder}"
        self._account = account
        self._user = user
        self._inbox = inbox
        self._record = record
        self._secret = secret
        self._clock = clock
        self._stubs = stubs
        self._memory = Memory()
        self._tried: frozenset[str] = frozenset()  # what had been asked for when this call's last run began

    @property
    def upstream_bytes(self) -> int:
        """What is known to wait there."""
        return self._memory.upstream_bytes

    async def run(self, call: OpenCall) -> JobReport:
        self._tried = frozenset(self._record.asks)
        if not self._due(call):
            return JobReport()
        began = self._clock.now()
        report = await self._ask(call)
        if not report.left and self._account.check_every_s is not None:
            try:
                await self._record.check(began)
            except OSError as error:  # it will be asked once more than it need be
                events.emit(events.STORAGE_FAILED, error=error)
        return report

    def _due(self, call: OpenCall) -> bool:
        """By `check_every`; somebody who calls by hand, or has asked for a large message, waits for it."""
        every_s, last = self._account.check_every_s, self._record.checked
        if every_s is None or last is None or call.reason is Reason.BY_HAND or self._record.asks:
            return True
        return last.seconds_until(self._clock.now()) >= every_s - min(EARLY_S, every_s / EARLY_SHARE)

    async def _ask(self, call: OpenCall) -> JobReport:
        try:
            fetch = await self._open(call)
        except LoginRefused as error:
            host, login = self._account.host, self._account.login
            events.emit(events.ACCOUNT_REFUSED, call_id=call.id, host=host, login=login, why=error)
            return self._failed(call, str(error), left=False)
        except SessionFailed as error:
            return self._failed(call, str(error), left=True)
        call.show(f"{self.name}: logged in")
        await fetch.run()
        if fetch.failure:
            return self._failed(call, fetch.failure, left=True)
        if fetch.not_given:
            return self._failed(call, "; ".join(fetch.not_given), left=False)
        return JobReport()

    async def _open(self, call: OpenCall) -> Pop3Fetch | ImapFetch:
        account = self._account
        what = (account, self._user, self._inbox, self._record, self._clock, self._stubs)
        if account.protocol == "pop3":
            pop3 = await Pop3Session.open(call, account, self._secret)
            return Pop3Fetch(*what, pop3, call, self.name, self._memory)
        read_only = account.keep and Ask.DELETE not in self._record.asks.values()
        imap = await ImapSession.open(call, account, self._secret, folder=account.folder, read_only=read_only)
        return ImapFetch(*what, imap, call, self.name, self._memory)

    def _failed(self, call: OpenCall, why: str, *, left: bool) -> JobReport:
        why = events.clean(why)
        call.count(failed=1)
        call.show(f"{self.name}: {why}")
        if not left:  # of what is left the call itself tells the journal
            events.emit(events.JOB_FAILED, call_id=call.id, job=self.name, why=why)
        return JobReport(left=left, detail=why)

    async def wait_work(self) -> None:
        """Returns when a user asks for a large message meanwhile; else a server is asked once a call."""
        while self._record.asks.keys() <= self._tried:
            await self._record.wait_asked()
