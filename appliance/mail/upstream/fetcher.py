"""The job of a call that fetches one account's mail by POP3 into its user's mailbox.

It owns what happens to each message that the server lists; it knows nothing of the wire (`pop3_session`), nor of how
a mailbox (`delivery.Inbox`) or the record (`store.fetched`) keeps things.

Theory of operation. Log in, UIDL and LIST in one flight, then decide for each message:

| the message                                      | then                                                       |
|--------------------------------------------------|------------------------------------------------------------|
| was there at the first fetch, older than backlog | recorded as skipped: never fetched, never deleted          |
| is recorded as fetched                           | DELE, unless `keep`; never fetched again                   |
| lies in the mailbox under its key                | recorded (a power cut had come between), then as above     |
| has no room in the mailbox                       | stays upstream, for a later call                           |
| is new                                           | RETR -> draft -> mailbox -> record -> DELE, unless `keep`  |

Each arrow waits until what is before it is on stable storage, while the next messages already come in: so many are
asked for that the line never waits for us. DELE counts once QUIT was answered (RFC 1939 §6); a record stays until the
server no longer lists its message. A server that gives no unique-ids, or gave others to messages that should still
be there, is asked for the headers, and messages are told apart by Message-ID and size.

A message that had come whole when the line went is delivered and recorded all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import JobReport
from appliance.mail.store.fetched import Known, KnownState, by_message, delivery_key
from appliance.mail.upstream.identity import HEAD, date_of, message_digest, substitute_uid
from appliance.mail.upstream.pop3_session import ANSWER_S, LoginRefused, Pop3Session, SessionFailed
from appliance.protocol import pop3_client as pop3

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.call import OpenCall
    from appliance.clock import Clock
    from appliance.config.model import Account
    from appliance.mail.delivery import Inbox
    from appliance.mail.store.fetched import FetchedRecord
    from appliance.protocol.pop3_client import Listed
    from appliance.storage.draft import Draft

__all__ = ["FetchJob"]

WINDOW: Final = 64 * 1024
"""Bytes of messages asked for beyond the one that is coming: more than any line that this serves holds in flight
(115,200 bit/s times 3 s is 43 KB), so the server always has the next request."""

MAX_DELIVERING: Final = 16
"""Messages on their way into the mailbox at once; each holds up to a draft's buffer of memory."""

QUIT_S: Final = 10.0
"""For the answer to QUIT: worth a wait, since without it what was deleted may still be there; three turn-arounds of
the slowest line."""

DISK_S: Final = 30.0
"""A message that came whole is kept even when the line has gone: so long at most."""


class FetchJob:
    """Implements `call.Job` for one account. One object for all calls."""

    def __init__(
        self, account: Account, user: str, inbox: Inbox, record: FetchedRecord, secret: str, clock: Clock
    ) -> None:
        """`secret` is the password itself, not its name."""
        self.name = f"fetch {account.login}@{account.host}:{account.port}"
        self._account = account
        self._user = user
        self._inbox = inbox
        self._record = record
        self._secret = secret
        self._clock = clock

    async def run(self, call: OpenCall) -> JobReport:
        try:
            session = await Pop3Session.open(call, self._account, self._secret)
        except LoginRefused as error:
            return self._failed(call, str(error), left=False)
        except SessionFailed as error:
            return self._failed(call, str(error), left=True)
        fetch = _Fetch(self._account, self._user, self._inbox, self._record, self._clock, session, call, self.name)
        await fetch.run()
        if fetch.failure:
            return self._failed(call, fetch.failure, left=True)
        if fetch.not_given:
            return self._failed(call, "; ".join(fetch.not_given), left=False)
        return JobReport()

    def _failed(self, call: OpenCall, why: str, *, left: bool) -> JobReport:
        why = events.clean(why)
        call.count(failed=1)
        call.show(f"{self.name}: {why}")
        if not left:  # of what is left the call itself tells the journal
            events.emit(events.JOB_FAILED, id=call.id, job=self.name, why=why)
        return JobReport(left=left, detail=why)

    async def wait_work(self) -> None:
        """Never: a POP3 server does not say that mail has come."""
        await trio.sleep_forever()


class _Fetch:
    """One session's work. `_asked`: the messages whose RETR is out, in order; `_draft`, `_head`: the first of them as
    far as it has come; `_coming`: bytes asked for and not yet in the mailbox; `_delivering`: messages between."""

    def __init__(
        self,
        account: Account,
        user: str,
        inbox: Inbox,
        record: FetchedRecord,
        clock: Clock,
        session: Pop3Session,
        call: OpenCall,
        name: str,
    ) -> None:
        self.failure = ""
        self.not_given: list[str] = []
        self._account, self._user, self._inbox, self._record, self._clock = account, user, inbox, record, clock
        self._session, self._call, self._name = session, call, name
        self._client = session.client
        self._asked: deque[Listed] = deque()
        self._draft: Draft | None = None
        self._head = bytearray()
        self._coming = 0
        self._delivering = 0
        self._delivered = trio.Condition()

    async def run(self) -> None:
        """Sets `failure` where the session broke or the disk failed, `not_given` where messages were refused."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._session.send_due)
                await self._converse(nursery)
                nursery.cancel_scope.cancel()
        finally:
            await self._session.close()
            if self._draft is not None:
                await self._draft.discard()

    async def _converse(self, nursery: trio.Nursery) -> None:
        try:
            wanted = await self._decide(await self._list())
            await self._fetch(wanted, nursery)
            if not self.failure:
                await self._quit()
        except SessionFailed as error:
            self.failure = self.failure or str(error)
        except OSError as error:
            self.failure = f"the disk failed: {error}"

    # ---- what is there
    async def _list(self) -> tuple[Listed, ...]:
        self._client.list_messages()
        while True:
            for event in await self._session.events():
                if isinstance(event, pop3.Listing):
                    return event.messages

    async def _headers(self, messages: Iterable[Listed]) -> dict[int, bytes]:
        """Number -> header, of those that the server gives."""
        waiting = {m.number for m in messages}
        headers: dict[int, bytes] = {}
        for number in waiting:
            self._client.top(number)
        while waiting:
            for event in await self._session.events():
                if isinstance(event, pop3.Header):
                    waiting.discard(event.number)
                    if event.data is not None:
                        headers[event.number] = event.data[:HEAD]
        return headers

    # ---- what to do
    async def _decide(self, messages: tuple[Listed, ...]) -> list[Listed]:
        """Brings the record up to what the server lists, deletes what was fetched before, and returns what to fetch."""
        record = self._record
        nameless = [m for m in messages if m.uid is None]
        headers = await self._headers(nameless)
        messages = tuple(
            replace(m, uid=substitute_uid(headers[m.number], m.size)) if m.uid is None and m.number in headers else m
            for m in messages
        )
        if record.first_fetch is None:
            await record.begin(self._clock.now().wall, await self._backlog(messages, headers))
        else:
            await self._match_changed(messages, headers)
        listed = {m.uid for m in messages}
        if None not in listed:  # else one of them may be any of those that seem to be gone
            await record.forget([uid for uid in record.known if uid not in listed])
        await self._find_delivered(messages)
        wanted = []
        for m in messages:
            known = record.known.get(m.uid) if m.uid is not None else None
            if known is None:
                wanted.append(m)
            elif known.state is KnownState.FETCHED:
                self._delete(m)
        if wanted:
            size = sum(m.size for m in wanted)
            self._call.show(f"{self._name}: {len(wanted)} new, {size} bytes")
        return wanted

    async def _backlog(self, messages: tuple[Listed, ...], headers: dict[int, bytes]) -> list[Known]:
        """What is older than `backlog` at the first fetch. What has no date that can be read counts as newer."""
        backlog_s = self._account.backlog_s
        if backlog_s is None:
            return []
        old = messages
        if backlog_s > 0:
            headers |= await self._headers(m for m in messages if m.number not in headers)
            before = self._clock.now().wall - backlog_s
            dates = {number: date_of(head) for number, head in headers.items()}
            old = tuple(m for m in messages if (date := dates.get(m.number)) is not None and date < before)
        return [
            Known(m.uid, KnownState.SKIPPED, m.size, message_digest(headers[m.number]) if m.number in headers else "")
            for m in old
            if m.uid is not None
        ]

    async def _match_changed(self, messages: tuple[Listed, ...], headers: dict[int, bytes]) -> None:
        """Where none of the messages that should still be there is listed, but others are, the server may have given
        them new unique-ids: those with a known Message-ID and size are recorded under the new one."""
        record = self._record
        stay = [k for k in record.known.values() if k.state is KnownState.SKIPPED or self._account.keep]
        if not stay or {m.uid for m in messages} & {k.uid for k in stay}:
            return
        headers |= await self._headers(m for m in messages if m.number not in headers)
        same = by_message(k for k in stay)
        skipped_sizes = {k.size for k in stay if k.state is KnownState.SKIPPED and not k.message_id}
        matched = []
        for m in messages:
            head = headers.get(m.number)
            if head is None or m.uid is None:
                continue
            digest = message_digest(head)
            known = same.get((digest, m.size))
            if known is not None:
                matched.append(replace(known, uid=m.uid))
            elif m.size in skipped_sizes:
                # Of what was skipped unseen only the size is known, and that it was older than the first fetch.
                date = date_of(head)
                if date is not None and date < (record.first_fetch or 0.0):
                    matched.append(Known(m.uid, KnownState.SKIPPED, m.size, digest))
        if matched:
            await record.add(*matched)

    async def _find_delivered(self, messages: tuple[Listed, ...]) -> None:
        """Records what lies in the mailbox already, though the record does not say so."""
        unknown = {m.uid: m for m in messages if m.uid is not None and m.uid not in self._record.known}
        if not unknown:
            return
        keys = await trio.to_thread.run_sync(self._inbox.delivered_keys)
        found = [m for uid, m in unknown.items() if delivery_key(self._user, self._account, uid) in keys]
        if found:
            await self._record.add(*(Known(str(m.uid), KnownState.FETCHED, m.size) for m in found))

    def _delete(self, message: Listed) -> None:
        if not self._account.keep and not self._client.over:
            self._client.delete(message.number)
            self._session.kick()

    # ---- fetching
    async def _fetch(self, wanted: list[Listed], nursery: trio.Nursery) -> None:
        waiting = deque(wanted)
        no_room = 0
        while not self.failure:
            while waiting and (not self._asked or sum(m.size for m in self._asked) < WINDOW + self._asked[0].size):
                message = waiting.popleft()
                if not self._inbox.has_room(self._coming + message.size):
                    no_room += 1
                    continue
                self._client.retrieve(message.number)
                self._asked.append(message)
                self._coming += message.size
            if not self._asked:
                break
            for event in await self._session.events():
                await self._on_event(event, nursery)
        async with self._delivered:
            while self._delivering:
                await self._delivered.wait()
        if no_room:
            events.emit(events.QUOTA_FULL, account=self._name, user=self._user, messages=no_room)

    async def _on_event(self, event: pop3.Event, nursery: trio.Nursery) -> None:
        match event:
            case pop3.BodyData(_, data):
                if self._draft is None:
                    self._draft = self._inbox.draft()
                self._head += data[: HEAD - len(self._head)]
                await self._draft.write(data)
            case pop3.BodyEnd():
                message = self._asked.popleft()
                draft, self._draft = self._draft or self._inbox.draft(), None
                head = bytes(self._head)
                self._head.clear()
                self._delivering += 1
                nursery.start_soon(self._keep, message, draft, head)
                async with self._delivered:
                    while self._delivering >= MAX_DELIVERING:
                        await self._delivered.wait()
            case pop3.NotRetrieved(number, text):
                message = self._asked.popleft()
                self._coming -= message.size
                self.not_given.append(f"message {number} ({message.uid}) was not given: {text}")
            case _:  # Deleted
                pass

    async def _keep(self, message: Listed, draft: Draft, head: bytes) -> None:
        """Mailbox, record, DELE; each once the one before is durable. Not ended by the end of the line."""
        try:
            with trio.fail_after(DISK_S, shield=True):
                await self._deliver(message, draft, head)
        except OSError as error:
            await draft.discard()
            self.failure = self.failure or f"the disk failed: {error}"
        except trio.TooSlowError:  # the draft is still in the committer's hands
            self.failure = self.failure or f"the disk took more than {DISK_S:g} s"
        finally:
            self._coming -= message.size
            self._delivering -= 1
            with trio.CancelScope(shield=True):
                async with self._delivered:
                    self._delivered.notify_all()

    async def _deliver(self, message: Listed, draft: Draft, head: bytes) -> None:
        uid = message.uid if message.uid is not None else substitute_uid(head, message.size)
        known = self._record.known.get(uid)  # where the server gives no unique-ids, only now can be seen what it is
        if known is not None:
            await draft.discard()
            if known.state is KnownState.SKIPPED:
                return  # neither fetched nor deleted
        else:
            await self._inbox.deliver(draft, key=delivery_key(self._user, self._account, uid))
            await self._record.add(Known(uid, KnownState.FETCHED, message.size, message_digest(head)))
            self._call.count(fetched=1)
            events.emit(events.FETCHED, account=self._name, uid=uid, user=self._user, size=draft.size)
        self._delete(message)

    # ---- the end
    async def _quit(self) -> None:
        self._client.quit()
        limit = QUIT_S if self._client.pipelining else ANSWER_S
        while not any(isinstance(e, pop3.Closed) for e in await self._session.events(limit)):
            pass
