"""The job of a call that fetches one account's mail by POP3 into its user's mailbox.

It owns what happens to each message that the server lists; it knows nothing of the wire (`pop3_session`), nor of how
a mailbox (`delivery.Inbox`) or the record (`store.fetched`) keeps things.

Theory of operation. Log in, UIDL and LIST in one flight, then decide for each message:

| the message                                      | then                                                       |
|--------------------------------------------------|------------------------------------------------------------|
| was there at the first fetch, older than backlog | recorded as skipped: never delivered, never deleted        |
| is recorded as fetched                           | DELE, unless `keep`; never fetched again                   |
| lies in the mailbox under its key                | recorded (a power cut had come between), then as above     |
| has no room in the mailbox or on the disk        | stays upstream, for a later call                           |
| is new                                           | RETR -> draft -> mailbox -> record -> DELE, unless `keep`  |

Each arrow waits until what is before it is on stable storage, while the next messages already come in: so many are
asked for that the line never waits for us. DELE counts once QUIT was answered (RFC 1939 §6); a record stays until the
server no longer lists its message. A server that gives no unique-ids, or gave others to messages that may still be
there, is asked for the headers, and messages are told apart by Message-ID and size. Where it gives no headers either,
the first fetch takes what is there to look at it: else nothing would tell old mail from new in later calls.

LIST's sizes are the server's word only. When the room runs out within a message the connection is dropped: POP3 has no
other way to end an answer, and it may have no end. The message is not asked for again before its true size has room.

A message that had come whole when the line went is delivered and recorded all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import JobReport
from appliance.mail.store.fetched import Known, KnownState, by_message, delivery_key
from appliance.mail.upstream.identity import HEAD, date_of, message_digest, substitute_uid
from appliance.mail.upstream.pop3_session import ANSWER_S, LoginRefused, Pop3Session, SessionFailed
from appliance.protocol import pop3_client as pop3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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

HEADERS_ASKED: Final = 64
"""Headers asked for at once: with 1 KB or more to each, that is as much as `WINDOW`."""

LOOK: Final = 128 * 1024
"""Bytes of messages between two looks at the room; a draft writes to the disk in pieces of that size."""

MAX_DELIVERING: Final = 16
"""Messages on their way into the mailbox at once; each holds up to a draft's buffer of memory."""

QUIT_S: Final = 10.0
"""For the answer to QUIT: worth a wait, since without it what was deleted may still be there; three turn-arounds of
the slowest line."""

DISK_S: Final = 30.0
"""A message that came whole is kept even when the line has gone: so long at most."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a header."""

    digest: str
    date: float | None

    @classmethod
    def of(cls, head: bytes) -> _Seen:
        return cls(message_digest(head), date_of(head))


@dataclass(slots=True)
class _Memory:
    """What one call remembers for the next, in memory. `deleted`: unique-ids whose deletion QUIT confirmed; that they
    are not listed is no sign of changed unique-ids. `outgrown`: what came of messages for which there was no room.
    `upstream_bytes`: of the messages that the last call saw and did not fetch."""

    deleted: set[str] = field(default_factory=set)
    outgrown: dict[str, int] = field(default_factory=dict)
    upstream_bytes: int = 0


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
        self._memory = _Memory()

    @property
    def upstream_bytes(self) -> int:
        """What is known to wait there."""
        return self._memory.upstream_bytes

    async def run(self, call: OpenCall) -> JobReport:
        try:
            session = await Pop3Session.open(call, self._account, self._secret)
        except LoginRefused as error:
            return self._failed(call, str(error), left=False)
        except SessionFailed as error:
            return self._failed(call, str(error), left=True)
        fetch = _Fetch(
            self._account, self._user, self._inbox, self._record, self._clock, session, call, self.name, self._memory
        )
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
    far as it has come; `_coming`: bytes asked for and not yet in the mailbox, `_here`: those of them that have come;
    `_unlooked`: bytes since the last look at the room; `_delivering`: messages between."""

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
        memory: _Memory,
    ) -> None:
        self.failure = ""
        self.not_given: list[str] = []
        self._account, self._user, self._inbox, self._record, self._clock = account, user, inbox, record, clock
        self._session, self._call, self._name, self._memory = session, call, name, memory
        self._client = session.client
        self._asked: deque[Listed] = deque()
        self._draft: Draft | None = None
        self._head = bytearray()
        self._coming = self._here = self._unlooked = 0
        self._no_quota = self._no_disk = 0  # messages that stay upstream for the lack of it
        self._deleting: dict[int, str] = {}  # number -> unique-id
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
            self._tell_of_room()

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

    async def _look_at(self, messages: Iterable[Listed], ask: Callable[[int], None]) -> dict[int, _Seen]:
        """Number -> what its header says, of those that the server gives. `ask` is the client's `top` or `retrieve`."""
        waiting = deque(m.number for m in messages)
        asked = 0
        seen: dict[int, _Seen] = {}
        head = bytearray()
        while waiting or asked:
            while waiting and asked < HEADERS_ASKED:
                ask(waiting.popleft())
                asked += 1
            for event in await self._session.events():
                match event:
                    case pop3.Header(number, data):
                        asked -= 1
                        if data is not None:
                            seen[number] = _Seen.of(data[:HEAD])
                    case pop3.BodyData(_, data):
                        head += data[: HEAD - len(head)]
                    case pop3.BodyEnd(number):
                        asked -= 1
                        seen[number] = _Seen.of(bytes(head))
                        head.clear()
                    case pop3.NotRetrieved():
                        asked -= 1
                    case _:
                        pass
        return seen

    async def _headers(self, messages: Iterable[Listed]) -> dict[int, _Seen]:
        return await self._look_at(messages, self._client.top)

    # ---- what to do
    async def _decide(self, messages: tuple[Listed, ...]) -> list[Listed]:
        """Brings the record up to what the server lists, deletes what was fetched before, and returns what to fetch."""
        record = self._record
        headers = await self._headers(m for m in messages if m.uid is None)
        first = record.first_fetch is None
        if first and self._account.backlog_s is not None:
            nameless = [m for m in messages if m.uid is None and m.number not in headers]
            headers |= await self._look_at(nameless, self._client.retrieve)
        messages = tuple(
            replace(m, uid=substitute_uid(headers[m.number].digest, m.size))
            if m.uid is None and m.number in headers
            else m
            for m in messages
        )
        if first:
            await record.begin(self._clock.now().wall, await self._backlog(messages, headers))
        else:
            await self._match_changed(messages, headers)
        listed = {m.uid for m in messages}
        if None not in listed:  # else one of them may be any of those that seem to be gone
            await record.forget([uid for uid in record.known if uid not in listed])
        self._memory.deleted &= record.known.keys()
        self._memory.outgrown = {uid: size for uid, size in self._memory.outgrown.items() if uid in listed}
        await self._find_delivered(messages)
        wanted = []
        for m in messages:
            known = record.known.get(m.uid) if m.uid is not None else None
            if known is None:
                if not first or m.uid is not None or self._account.backlog_s is None:  # else it may be an old one
                    wanted.append(m)
            elif known.state is KnownState.FETCHED:
                self._delete(m, known.uid)
        size = self._memory.upstream_bytes = sum(m.size for m in wanted)
        if wanted:
            self._call.show(f"{self._name}: {len(wanted)} new, {size} bytes")
        return wanted

    async def _backlog(self, messages: tuple[Listed, ...], headers: dict[int, _Seen]) -> list[Known]:
        """What is older than `backlog` at the first fetch. What has no date that can be read counts as newer."""
        backlog_s = self._account.backlog_s
        if backlog_s is None:
            return []
        old = messages
        if backlog_s > 0:
            headers |= await self._headers(m for m in messages if m.number not in headers)
            before = self._clock.now().wall - backlog_s
            dates = {number: seen.date for number, seen in headers.items()}
            old = tuple(m for m in messages if (date := dates.get(m.number)) is not None and date < before)
        return [
            Known(m.uid, KnownState.SKIPPED, m.size, headers[m.number].digest if m.number in headers else "")
            for m in old
            if m.uid is not None
        ]

    async def _match_changed(self, messages: tuple[Listed, ...], headers: dict[int, _Seen]) -> None:
        """Where none of the messages that may still be there is listed, but others are, the server may have given
        them new unique-ids: those with a known Message-ID and size are recorded under the new one."""
        stay = self._record.known.keys() - self._memory.deleted
        if not stay or {m.uid for m in messages} & stay:
            return
        headers |= await self._headers(m for m in messages if m.number not in headers)
        find = self._finder()
        seen = [(m.uid, m.size, headers[m.number]) for m in messages if m.uid is not None and m.number in headers]
        matched = [replace(known, uid=uid) for uid, size, head in seen if (known := find(head, size)) is not None]
        if matched:
            await self._record.add(*matched)

    def _finder(self) -> Callable[[_Seen, int], Known | None]:
        """Finds what is known of a message by its header and size, whatever its unique-id."""
        known = [k for k in self._record.known.values() if k.uid not in self._memory.deleted]
        same = by_message(known)
        unseen = {k.size: k for k in known if k.state is KnownState.SKIPPED and not k.message_id}
        first = self._record.first_fetch or 0.0

        def find(seen: _Seen, size: int) -> Known | None:
            if one := same.get((seen.digest, size)):
                return one
            # Of what was skipped unseen only the size is known, and that it was older than the first fetch.
            if size in unseen and seen.date is not None and seen.date < first:
                return replace(unseen[size], message_id=seen.digest)
            return None

        return find

    async def _find_delivered(self, messages: tuple[Listed, ...]) -> None:
        """Records what lies in the mailbox already, though the record does not say so."""
        unknown = {m.uid: m for m in messages if m.uid is not None and m.uid not in self._record.known}
        if not unknown:
            return
        keys = await trio.to_thread.run_sync(self._inbox.delivered_keys)
        found = [m for uid, m in unknown.items() if delivery_key(self._user, self._account, uid) in keys]
        if found:
            await self._record.add(*(Known(str(m.uid), KnownState.FETCHED, m.size) for m in found))

    def _delete(self, message: Listed, uid: str) -> None:
        if not self._account.keep and not self._client.over:
            self._deleting[message.number] = uid
            self._client.delete(message.number)
            self._session.kick()

    # ---- fetching
    async def _fetch(self, wanted: list[Listed], nursery: trio.Nursery) -> None:
        waiting = deque(wanted)
        while not self.failure:
            while waiting and (not self._asked or sum(m.size for m in self._asked) < WINDOW + self._asked[0].size):
                message = waiting.popleft()
                if self._has_room(max(message.size, self._memory.outgrown.get(message.uid or "", 0))):
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

    def _has_room(self, size: int) -> bool:
        """Whether so much more may be asked for; counts the message for `_tell_of_room` where not."""
        if not self._inbox.has_room(self._coming + size):
            self._no_quota += 1
        elif not self._inbox.disk_has_room(self._coming + size - self._here):
            self._no_disk += 1
        else:
            return True
        return False

    def _tell_of_room(self) -> None:
        if self._no_quota:
            events.emit(events.QUOTA_FULL, account=self._name, user=self._user, messages=self._no_quota)
        if self._no_disk:
            events.emit(events.DISK_FULL, what=f"{self._no_disk} messages of {self._name}")

    async def _take(self, data: bytes) -> None:
        """A piece of the first message asked for. Raises SessionFailed when there is no room for more of it."""
        if self._draft is None:
            self._draft = self._inbox.draft()
        message, draft = self._asked[0], self._draft
        self._head += data[: HEAD - len(self._head)]
        await draft.write(data)
        self._here += len(data)
        self._coming += min(len(data), max(0, draft.size - message.size))  # what is more than LIST said
        self._unlooked += len(data)
        if self._unlooked >= LOOK:
            self._unlooked = 0
            if not self._has_room(0):
                if message.uid is not None:
                    self._memory.outgrown[message.uid] = draft.size
                raise SessionFailed(f"no room for more of message {message.number}, {draft.size} bytes of it came")

    async def _on_event(self, event: pop3.Event, nursery: trio.Nursery) -> None:
        match event:
            case pop3.BodyData(_, data):
                await self._take(data)
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
            case pop3.Deleted(number, done=False):
                self._deleting.pop(number, None)
            case _:
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
            self._coming -= max(message.size, draft.size)
            self._here -= draft.size
            self._delivering -= 1
            with trio.CancelScope(shield=True):
                async with self._delivered:
                    self._delivered.notify_all()

    async def _deliver(self, message: Listed, draft: Draft, head: bytes) -> None:
        seen = _Seen.of(head)
        uid = message.uid if message.uid is not None else substitute_uid(seen.digest, message.size)
        known = self._record.known.get(uid)
        if known is None and message.uid is None:  # only now can be seen what it is
            known = self._finder()(seen, message.size)
        if known is not None:
            await draft.discard()
            if known.uid != uid:
                await self._record.add(replace(known, uid=uid))
            if known.state is KnownState.SKIPPED:
                return  # neither fetched nor deleted
        else:
            await self._inbox.deliver(draft, key=delivery_key(self._user, self._account, uid))
            await self._record.add(Known(uid, KnownState.FETCHED, message.size, seen.digest))
            self._call.count(fetched=1, user=self._user, size=draft.size)
            self._memory.upstream_bytes = max(0, self._memory.upstream_bytes - message.size)
            events.emit(events.FETCHED, account=self._name, uid=uid, user=self._user, size=draft.size)
        self._delete(message, uid)

    # ---- the end
    async def _quit(self) -> None:
        self._client.quit()
        limit = QUIT_S if self._client.pipelining else ANSWER_S
        over = False
        while not over:
            for event in await self._session.events(limit):
                match event:
                    case pop3.Deleted(number, done=False):
                        self._deleting.pop(number, None)
                    case pop3.Closed():  # else it would have been SessionFailed
                        over = True
        self._memory.deleted.update(self._deleting.values())
