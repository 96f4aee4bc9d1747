"""One POP3 session's work: what the server lists is looked at, fetched and deleted.

It owns what happens to each message that the server lists; it knows nothing of the wire (`pop3_session`), nor of how a
message comes into the mailbox (`intake`).

DELE counts once QUIT was answered (RFC 1939 §6); a record stays until the server no longer lists its message. A server
that gives no unique-ids, or gave others to messages that may still be there, is asked for the headers, and messages are
told apart by Message-ID and size. Where it gives no headers either, the first fetch takes what is there to look at it:
else nothing would tell old mail from new in later calls.

What is there UIDL and STAT say. LIST is asked for only where something depends on each message's size: an account that
keeps its mail, a first fetch with a backlog, unique-ids that are missing or changed, a total that a limit may be in the
way of. The newest come first.

Sizes are the server's word only. When the room runs out within a message the connection is dropped: POP3 has no
other way to end an answer, and it may have no end. The message is not asked for again before its true size has room.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.mail.store.fetched import Ask, Known, KnownState, stub_key
from appliance.mail.upstream.fetch_session import ANSWER_S, SessionFailed
from appliance.mail.upstream.identity import HEAD, substitute_uid
from appliance.mail.upstream.intake import STUB_LINES, Intake, Memory, Seen, finder
from appliance.protocol import pop3_client as pop3
from appliance.protocol.pop3_client import Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from appliance.call import OpenCall
    from appliance.clock import Clock
    from appliance.config.model import Account
    from appliance.mail.delivery import Inbox
    from appliance.mail.store.fetched import FetchedRecord
    from appliance.mail.stubs import StubTerms
    from appliance.mail.upstream.intake import Message
    from appliance.mail.upstream.pop3_session import Pop3Session

__all__ = ["HEADERS_ASKED", "QUIT_S", "WINDOW", "Pop3Fetch"]

WINDOW: Final = 64 * 1024
"""Bytes of messages asked for beyond the one that is coming: more than any line that this serves holds in flight
(115,200 bit/s times 3 s is 43 KB), so the server always has the next request."""

HEADERS_ASKED: Final = 64
"""Headers asked for at once: with 1 KB or more to each, that is as much as `WINDOW`."""

QUIT_S: Final = 10.0
"""For the answer to QUIT: worth a wait, since without it what was deleted may still be there; three turn-arounds of
the slowest line."""


class Pop3Fetch:
    """`_asked`: the messages whose RETR is out, in order; `_looked_at`: those whose TOP is; `_most`: bytes above which
    a message stays upstream."""

    def __init__(
        self,
        account: Account,
        user: str,
        inbox: Inbox,
        record: FetchedRecord,
        clock: Clock,
        stubs: StubTerms | None,
        session: Pop3Session,
        call: OpenCall,
        name: str,
        memory: Memory,
    ) -> None:
        self.failure = ""
        self.not_given: list[str] = []
        self._account, self._user, self._inbox, self._record, self._clock = account, user, inbox, record, clock
        self._session, self._call, self._name, self._memory = session, call, name, memory
        self._client = session.client
        self._most = stubs.limit if stubs is not None else math.inf
        self._intake = Intake(
            account, user, inbox, record, call, name, memory, clock, stubs, self._on_kept, resumes=False
        )
        self._asked: deque[Listed] = deque()
        self._looked_at: dict[int, Listed] = {}
        self._deleting: dict[int, str] = {}  # number -> unique-id

    async def run(self) -> None:
        """Sets `failure` where the session broke or the disk failed, `not_given` where messages were refused."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._session.send_due)
                await self._converse(nursery)
                nursery.cancel_scope.cancel()
        finally:
            await self._session.close()
            await self._intake.abandon()
            self._intake.tell_of_room()
            self.failure = self._intake.failure or self.failure

    async def _converse(self, nursery: trio.Nursery) -> None:
        try:
            await self._fetch(self._possible(await self._decide(await self._list())), nursery)
            if not self._intake.failure:
                await self._quit()
        except SessionFailed as error:
            self.failure = self.failure or str(error)
        except OSError as error:
            self.failure = f"the disk failed: {error}"

    # ---- what is there
    async def _list(self) -> tuple[Listed, ...]:
        self._client.survey()
        survey = await self._session.one(pop3.Survey)
        uids, known = survey.uids, self._record.known
        if uids is None or len(uids) != survey.count or self._all_changed(uids.values()):
            return await self._list_all()
        there = {n: Listed(n, known[uid].size, uid) for n, uid in uids.items() if uid in known}
        new = [n for n in uids if n not in there]
        if new and self._needs_sizes(survey, there.values()):
            if 2 * len(new) > len(uids):
                return await self._list_all()
            for n in new:
                self._client.list_message(n)
            for listing in await self._session.some(pop3.Listing, len(new)):
                there |= {m.number: m for m in listing.messages}
        else:
            share = math.ceil(_new_octets(survey, there.values()) / max(1, len(new)))
            there |= {n: Listed(n, share, uids[n], exact=False) for n in new}
        return tuple(there[n] for n in sorted(there))

    async def _list_all(self) -> tuple[Listed, ...]:
        self._client.list_messages()
        return (await self._session.one(pop3.Listing)).messages

    def _needs_sizes(self, survey: pop3.Survey, known: Iterable[Listed]) -> bool:
        """Whether it matters how large each new message is."""
        if survey.octets is None or self._account.keep or self._memory.outgrown:
            return True
        if self._record.first_fetch is None and self._account.backlog_s is not None:
            return True
        total = _new_octets(survey, known)
        return total > min(self._most, self._call.capacity) or not self._intake.room_for(total)

    def _all_changed(self, uids: Iterable[str | None]) -> bool:
        """Whether none of the messages that may still be there is listed, but others are: the server may have given
        them new unique-ids."""
        stay = self._record.known.keys() - self._memory.deleted
        listed = set(uids)
        return bool(stay and listed) and not listed & stay

    async def _look_at(self, messages: Iterable[Listed], ask: Callable[[int], None]) -> dict[int, Seen]:
        """Number -> what its header says, of those that the server gives. `ask` is the client's `top` or `retrieve`."""
        waiting = deque(m.number for m in messages)
        asked = 0
        seen: dict[int, Seen] = {}
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
                            seen[number] = Seen.of(data[:HEAD])
                    case pop3.BodyData(_, data):
                        head += data[: HEAD - len(head)]
                    case pop3.BodyEnd(number):
                        asked -= 1
                        seen[number] = Seen.of(bytes(head))
                        head.clear()
                    case pop3.NotRetrieved():
                        asked -= 1
                    case _:
                        pass
        return seen

    async def _headers(self, messages: Iterable[Listed]) -> dict[int, Seen]:
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
            elif (asked := record.asks.get(known.uid)) is Ask.GET:
                wanted.append(m)
            elif asked is Ask.DELETE:
                self._delete(m, known.uid, asked=True)
        self._memory.cuts = {uid: n for uid, n in self._memory.cuts.items() if uid in listed}
        size = self._memory.upstream_bytes = sum(m.size for m in wanted if not self._intake.leaves(m))
        if wanted:
            self._call.show(f"{self._name}: {len(wanted)} new, {size} bytes")
        return sorted(wanted, key=lambda m: -m.number)

    def _possible(self, wanted: list[Listed]) -> list[Listed]:
        """Without those that were asked for and can't come whole."""
        out = []
        for m in wanted:
            if m.uid in self._record.asks and (why := self._intake.obstacle(m)):
                self.not_given.append(f"message {m.number} ({m.uid}) stays upstream: {why}")
            else:
                out.append(m)
        return out

    async def _backlog(self, messages: tuple[Listed, ...], headers: dict[int, Seen]) -> list[Known]:
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

    async def _match_changed(self, messages: tuple[Listed, ...], headers: dict[int, Seen]) -> None:
        """Where the server may have given messages new unique-ids, those with a known Message-ID and size are recorded
        under the new one."""
        if not self._all_changed(m.uid for m in messages):
            return
        headers |= await self._headers(m for m in messages if m.number not in headers)
        find = finder(self._record, self._memory.deleted)
        seen = [(m.uid, m.size, headers[m.number]) for m in messages if m.uid is not None and m.number in headers]
        matched = [replace(known, uid=uid) for uid, size, head in seen if (known := find(head, size)) is not None]
        if matched:
            await self._record.add(*matched)

    async def _find_delivered(self, messages: tuple[Listed, ...]) -> None:
        """Records what lies in the mailbox already, though the record does not say so."""
        unknown = {m.uid: m for m in messages if m.uid is not None and m.uid not in self._record.known}
        if not unknown:
            return
        keys = await trio.to_thread.run_sync(self._inbox.delivered_keys)
        found = [m for uid, m in unknown.items() if self._intake.key(uid) in keys]
        if found:
            await self._record.add(*(Known(str(m.uid), KnownState.FETCHED, m.size) for m in found))
        for uid, m in unknown.items():
            if stub_key(self._intake.token(uid)) in keys and m not in found:
                await self._intake.stub_is_there(m)

    def _delete(self, message: Listed, uid: str, *, asked: bool = False) -> None:
        if (asked or not self._account.keep) and not self._client.over:
            self._deleting[message.number] = uid
            self._client.delete(message.number)
            self._session.kick()

    def _on_kept(self, message: Message, uid: str) -> None:
        assert isinstance(message, pop3.Listed)
        self._delete(message, uid)

    # ---- fetching
    async def _fetch(self, wanted: list[Listed], nursery: trio.Nursery) -> None:
        """The first lines of what stays upstream, and behind them in the same flight what comes whole."""
        stubs = deque(m for m in wanted if self._intake.leaves(m))
        waiting = deque(m for m in wanted if not self._intake.leaves(m))
        while not self._intake.failure:
            while stubs and len(self._looked_at) < HEADERS_ASKED:
                message = stubs.popleft()
                self._client.top(message.number, STUB_LINES)
                self._looked_at[message.number] = message
            while (
                not stubs
                and waiting
                and (not self._asked or sum(m.size for m in self._asked) < WINDOW + self._asked[0].size)
            ):
                message = waiting.popleft()
                if self._intake.expect(message):
                    self._client.retrieve(message.number)
                    self._asked.append(message)
            if not self._asked and not self._looked_at:
                break
            for event in await self._session.events():
                await self._on_event(event, nursery)
        await self._intake.drained()

    async def _on_event(self, event: pop3.Event, nursery: trio.Nursery) -> None:
        match event:
            case pop3.Header(number, head):
                await self._intake.stub(self._looked_at.pop(number), head or b"")
            case pop3.BodyData(_, data):
                if not self._intake.within:
                    self._intake.begin(self._asked[0])
                await self._intake.take(data)
            case pop3.BodyEnd():
                if not self._intake.within:  # it is empty
                    self._intake.begin(self._asked[0])
                self._asked.popleft()
                await self._intake.finish(nursery)
            case pop3.NotRetrieved(number, text):
                message = self._asked.popleft()
                self._intake.no_longer(message)
                self.not_given.append(f"message {number} ({message.uid}) was not given: {text}")
            case pop3.Deleted(number, done=False):
                self._deleting.pop(number, None)
            case _:
                pass

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
        for uid in self._deleting.values():
            if self._record.asks.get(uid) is Ask.DELETE:
                events.emit(events.DELETED_UPSTREAM, account=self._name, uid=uid, user=self._user)


def _new_octets(survey: pop3.Survey, known: Iterable[Listed]) -> int:
    """Of what is there and not known, all together."""
    return max(0, (survey.octets or 0) - sum(m.size for m in known))
