"""One IMAP session's work: what is new in a folder is found, fetched and deleted, in round trips that do not grow with
the number of messages.

It owns which messages are asked for and how; it knows nothing of the wire (`imap_session`), nor of how a message comes
into the mailbox (`intake`).

Theory of operation. A message's name in the record is `UIDVALIDITY.UID` (RFC 3501 §2.3.1.1). The record also holds what
the folder looked like when nothing was left to do there:

| the folder                            | then                                                                     |
|---------------------------------------|--------------------------------------------------------------------------|
| looks as it was left                  | nothing is asked: login and SELECT were the only round trips             |
| has the same UIDVALIDITY              | the UIDs of what came since; every one if some have gone                 |
| has another UIDVALIDITY, is not known | every UID; where there were others before, sizes and the fields that     |
|                                       | tell messages apart, so that none is fetched twice                       |

A size costs a line of 37 bytes, and of a letter nobody needs it: one search says which messages are larger than
`LETTER`, and of those alone sizes are asked for; of all where there are few, where room is scarce, and where the
account keeps its mail, for by its size a message is known should UIDVALIDITY change.

COMPRESS, if it is offered, goes out behind the first question. Small messages come before large ones, many to a FETCH,
and so many are asked for that the line never waits. A message that a cut left behind is asked for from its next byte
on. What is kept is deleted with one STORE and one UID EXPUNGE at the end, in the flight of LOGOUT; a line that drops
before costs nothing but that they are deleted in the next call. Without UIDPLUS nothing is expunged: they are marked as
deleted and known by their UIDs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.mail.store.fetched import Ask, Folder, Known, KnownState, stub_key
from appliance.mail.upstream.fetch_session import SessionFailed
from appliance.mail.upstream.identity import HEAD
from appliance.mail.upstream.intake import STUB_OCTETS, Intake, Memory, Seen, finder
from appliance.mail.upstream.pop3_fetch import QUIT_S, WINDOW
from appliance.protocol import imap_events as imap

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from appliance.call import OpenCall
    from appliance.clock import Clock
    from appliance.config.model import Account
    from appliance.mail.delivery import Inbox
    from appliance.mail.store.fetched import FetchedRecord
    from appliance.mail.stubs import StubTerms
    from appliance.mail.upstream.imap_session import ImapSession

__all__ = ["ImapFetch"]

PACKED: Final = 4
"""Windows that are asked for at once where the answers come compressed: text takes a quarter of its length."""

TOGETHER: Final = 2
"""FETCHes of letters in a window: the answer's last line costs 40 bytes, and where it is compressed the server
begins a new block behind each, some 100 bytes."""

LETTER: Final = 8 * 1024
"""Bytes: a message that is no larger is fetched without its size being known before."""
LETTER_TAKEN_FOR: Final = 2 * 1024
"""Bytes that one is reckoned with until it has come."""
FEW: Final = 4
"""New messages whose sizes cost no more than a search."""

LISTED_TOGETHER: Final = 500
"""Messages whose sizes and fields are asked for in one FETCH: a command line of at most some 5 KB."""

STUBS_TOGETHER: Final = 50
"""Messages whose beginnings are asked for in one FETCH: each answer is a whole header."""

FIELDS: Final = ("MESSAGE-ID", "DATE")

DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A message to be fetched. `have`: bytes of it that an earlier call brought, of `total`."""

    number: int
    uid: str
    size: int
    have: int = 0
    total: int = 0
    exact: bool = True


@dataclass(slots=True, eq=False)
class _Asked:
    """One FETCH. `uids`: what was asked for; `left`: what of it has not come, by UID."""

    left: dict[int, _Wanted]
    uids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.uids = tuple(self.left)

    @property
    def size(self) -> int:
        """Bytes that are to come."""
        return sum(m.size - m.have for m in self.left.values())


class ImapFetch:
    """`_asked`: the FETCHes that are out; `_waiting`: what is not asked for yet; `_window`: bytes of messages that are
    asked for at once; `_looked_at`: those whose beginnings are asked for; `_alone`: names of messages that are not
    asked for with others; `_next`: above every UID that was looked at."""

    def __init__(
        self,
        account: Account,
        user: str,
        inbox: Inbox,
        record: FetchedRecord,
        clock: Clock,
        stubs: StubTerms | None,
        session: ImapSession,
        call: OpenCall,
        name: str,
        memory: Memory,
    ) -> None:
        self.failure = ""
        self.not_given: list[str] = []
        self._account, self._user, self._inbox, self._record, self._clock = account, user, inbox, record, clock
        self._session, self._call, self._name, self._memory = session, call, name, memory
        self._client, self._selected = session.client, session.selected
        self._intake = Intake(
            account, user, inbox, record, call, name, memory, clock, stubs, lambda message, uid: None, resumes=True
        )
        self._asked: deque[_Asked] = deque()
        self._looked_at: dict[int, _Wanted] = {}
        self._gone: list[str] = []  # another client deleted them
        self._next = 0
        self._window = WINDOW
        self._waiting: deque[_Wanted] = deque()
        self._alone: set[str] = set()
        self._letter = min(LETTER, stubs.limit) if stubs is not None else LETTER

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
            if self._unchanged():
                self._memory.upstream_bytes = 0
                self._client.logout()
                await self._session.send_last()
                return
            wanted = await self._decide()
            self._compress()
            await self._fetch(wanted, nursery)
            if not self._intake.failure:
                await self._finish()
        except SessionFailed as error:
            self.failure = self.failure or str(error)
        except OSError as error:
            self.failure = f"the disk failed: {error}"

    def _compress(self) -> None:
        """In the flight of the first question, which so costs no round trip of its own."""
        if self._client.can_compress and self._selected.exists and not self._client.compresses:
            self._client.compress()

    # ---- what is there
    def _unchanged(self) -> bool:
        left, now = self._record.folder, self._selected
        if left is None or left.uidvalidity != now.uidvalidity or self._record.asks:
            return False
        if self._client.expunges and self._to_delete():
            return False
        same = now.uidnext > 0 and (left.uidnext, left.exists) == (now.uidnext, now.exists)
        return same or (now.modseq > 0 and left.modseq == now.modseq)  # RFC 7162 §3.1.2.1

    def _to_delete(self) -> dict[int, str]:
        """What is recorded as fetched and is not to stay, or is to go unread: UID -> name."""
        names = [k.uid for k in self._record.known.values() if k.state is KnownState.FETCHED and not self._account.keep]
        names += [name for name, what in self._record.asks.items() if what is Ask.DELETE]
        return {uid: name for name in names if (uid := self._uid_of(name))}

    def _name_of(self, uid: int) -> str:
        return f"{self._selected.uidvalidity}.{uid}"

    def _uid_of(self, name: str) -> int:
        """0 for the name of a message under another UIDVALIDITY."""
        validity, _, uid = name.partition(".")
        return int(uid) if validity == str(self._selected.uidvalidity) and uid.isdigit() else 0

    async def _decide(self) -> list[_Wanted]:
        """Brings the record up to what is there, and returns what to fetch."""
        record, left = self._record, self._record.folder
        before = [k for k in record.known if not self._uid_of(k)]
        if record.first_fetch is None:
            messages = await self._first()
        elif left is not None and left.uidvalidity == self._selected.uidvalidity:
            messages = await self._since(left)
        else:
            there, larger = await self._there()
            unknown = [uid for uid in there if self._name_of(uid) not in record.known]
            messages = await self._measured(unknown, None if before else larger)
            if before:
                await self._match_changed(messages)
            await self._forget_but(there)
        self._next = max(self._next, *(m.uid + 1 for m in messages), self._selected.uidnext, 1)
        await self._find_delivered(messages)
        return self._wanted(messages)

    def _wanted(self, messages: Sequence[imap.Listed]) -> list[_Wanted]:
        known, asks = self._record.known, self._record.asks
        sizes = {name: (m.size, m.exact) for m in messages if (name := self._name_of(m.uid)) not in known}
        sizes |= {
            name: (known[name].size, True) for name, what in asks.items() if what is Ask.GET and self._uid_of(name)
        }
        out = []
        for name, (size, exact) in sizes.items():
            part = self._record.parts.get(name)
            if part is not None:
                out.append(_Wanted(self._uid_of(name), name, part.total, part.have, part.total, exact=exact))
            else:
                out.append(_Wanted(self._uid_of(name), name, size, exact=exact))
        size = self._memory.upstream_bytes = sum(m.size - m.have for m in out if not self._intake.leaves(m))
        if out:
            self._call.show(f"{self._name}: {len(out)} new, {size} bytes")
        return sorted(out, key=lambda m: m.size - m.have)

    async def _there(self) -> tuple[list[int], set[int] | None]:
        """Every UID, and those of more than a letter; None: that was not asked, sizes are needed."""
        exists = self._selected.exists
        if not exists:
            return [], set()
        self._client.search()
        apart = exists > FEW and not self._account.keep and self._client.searches_at_once
        if apart:
            self._client.search(larger_than=self._letter)
        self._compress()
        found = await self._session.some(imap.Found, 1 + apart)
        return list(found[0].uids), set(found[1].uids) if apart and self._intake.room_for(
            exists * self._letter
        ) else None

    async def _measured(self, uids: Sequence[int], larger: Collection[int] | None) -> list[imap.Listed]:
        """`larger`: those of more than a letter; None: not known. The sizes of the others are not asked for then."""
        if larger is None:
            return await self._sizes(uids)
        letters = [
            imap.Listed(uid, min(self._letter, LETTER_TAKEN_FOR), exact=False) for uid in uids if uid not in larger
        ]
        return letters + await self._sizes([uid for uid in uids if uid in larger])

    async def _sizes(self, uids: Sequence[int], *, arrivals: bool = False) -> list[imap.Listed]:
        out: list[imap.Listed] = []
        groups = [uids[i : i + LISTED_TOGETHER] for i in range(0, len(uids), LISTED_TOGETHER)]
        for group in groups:
            self._client.sizes(group, arrivals=arrivals)
        for listing in await self._session.some(imap.Listing, len(groups)):
            out += listing.messages
        return out

    async def _since(self, left: Folder) -> Sequence[imap.Listed]:
        """What came since the folder was left; forgets what has gone from it."""
        messages: Sequence[imap.Listed] = ()
        more = self._selected.uidnext - left.uidnext
        if more > FEW:
            there, larger = await self._there()
            await self._forget_but(there)
            return await self._measured([uid for uid in there if uid >= left.uidnext], larger)
        if more:
            self._client.sizes((), from_uid=left.uidnext)
            self._compress()
            listing = await self._session.one(imap.Listing)
            messages = [m for m in listing.messages if m.uid >= left.uidnext]  # `9:*` names the last one too
        if self._selected.exists != left.exists + len(messages):
            await self._forget_but((await self._there())[0])
        return messages

    async def _first(self) -> Sequence[imap.Listed]:
        """The first fetch: what is older than `backlog` is recorded as skipped."""
        backlog_s = self._account.backlog_s
        there, larger = await self._there()
        recent: list[imap.Listed] = []
        if backlog_s is None:
            recent = await self._measured(there, larger)
        elif backlog_s > 0 and there:
            before = self._clock.now().wall - backlog_s
            # SINCE looks at the date alone, in whatever zone the server lives: two days more, then each one's time.
            self._client.search_since((datetime.fromtimestamp(before, UTC) - 2 * DAY).date())
            candidates = await self._sizes((await self._session.one(imap.Found)).uids, arrivals=True)
            recent = [m for m in candidates if m.arrived is None or m.arrived >= before]
        new = {m.uid for m in recent}
        skipped = [Known(self._name_of(uid), KnownState.SKIPPED, 0) for uid in there if uid not in new]
        await self._record.begin(self._clock.now().wall, skipped)
        self._next = max(there, default=0) + 1
        return recent

    async def _forget_but(self, there: Collection[int]) -> None:
        names = {self._name_of(uid) for uid in there}
        self._next = max(there, default=0) + 1
        await self._record.forget([k for k in (*self._record.known, *self._record.parts) if k not in names])

    async def _match_changed(self, messages: Sequence[imap.Listed]) -> None:
        """The folder was made anew: those with a known Message-ID and size are recorded under their new UID."""
        heads = await self._heads([m.uid for m in messages])
        # Without a Message-ID it is the whole header that names a message.
        heads |= await self._heads(
            [uid for uid, head in heads.items() if b"message-id" not in head.lower()], whole=True
        )
        find = finder(self._record, set())
        seen = [(m, Seen.of(heads[m.uid][:HEAD])) for m in messages if m.uid in heads]
        matched = [
            replace(known, uid=self._name_of(m.uid)) for m, what in seen if (known := find(what, m.size)) is not None
        ]
        if matched:
            await self._record.add(*matched)

    async def _heads(self, uids: list[int], *, whole: bool = False) -> dict[int, bytes]:
        out: dict[int, bytes] = {}
        for i in range(0, len(uids), LISTED_TOGETHER):
            group = uids[i : i + LISTED_TOGETHER]
            if whole:
                self._client.headers(group)
            else:
                self._client.header_fields(group, FIELDS)
        waiting = set(uids)
        while waiting:
            for event in await self._session.events():
                if isinstance(event, imap.Header):
                    waiting.discard(event.uid)
                    if event.data is not None:
                        out[event.uid] = event.data
        return out

    async def _find_delivered(self, messages: Sequence[imap.Listed]) -> None:
        """Records what lies in the mailbox already, though the record does not say so."""
        unknown = [m for m in messages if self._name_of(m.uid) not in self._record.known]
        if not unknown:
            return
        keys = await trio.to_thread.run_sync(self._inbox.delivered_keys)
        found = [m for m in unknown if self._intake.key(self._name_of(m.uid)) in keys]
        if found:
            await self._record.add(*(Known(self._name_of(m.uid), KnownState.FETCHED, m.size) for m in found))
        for m in unknown:
            name = self._name_of(m.uid)
            if stub_key(self._intake.token(name)) in keys and m not in found:
                await self._intake.stub_is_there(_Wanted(m.uid, name, m.size))

    # ---- fetching
    async def _fetch(self, wanted: list[_Wanted], nursery: trio.Nursery) -> None:
        """The beginnings of what stays upstream, and behind them in the same flight what comes whole."""
        stubs = [m for m in wanted if self._intake.leaves(m)]
        self._waiting.extend(m for m in wanted if not self._intake.leaves(m))
        self._window = WINDOW * PACKED if self._client.compresses else WINDOW
        while not self._intake.failure:
            if stubs and not self._looked_at:
                self._looked_at = {m.number: m for m in stubs[:STUBS_TOGETHER]}
                del stubs[:STUBS_TOGETHER]
                self._client.beginnings(list(self._looked_at), STUB_OCTETS)
            # By what has not come, not by FETCHes that were answered: Dovecot answers all that it was asked at once,
            # and only when the last of them is done.
            while not stubs and self._waiting and sum(asked.size for asked in self._asked) < self._window:
                self._ask()
            if not self._asked and not self._looked_at:
                break
            for event in await self._session.events():
                await self._on_event(event, nursery)
        await self._intake.drained()
        await self._record.forget(self._gone)

    def _ask(self) -> None:
        """One FETCH: what is left of one message, or as many whole ones as go together."""
        together: list[_Wanted] = []
        left = self._window // TOGETHER
        while self._waiting and (not together or self._waiting[0].size <= left):
            if together and (self._is_alone(together[0]) or self._is_alone(self._waiting[0])):
                break
            message = self._waiting.popleft()
            if self._intake.expect(message):
                together.append(message)
                left -= message.size
        if not together:
            return
        first = together[0]
        if first.have:
            self._client.retrieve_part(first.number, first.have, first.total - first.have)
        else:
            self._client.retrieve([m.number for m in together])
        self._asked.append(_Asked({m.number: m for m in together}))

    def _is_alone(self, message: _Wanted) -> bool:
        """Larger than a letter too: what goes together comes in the order of the UIDs, not of the sizes."""
        return message.size > LETTER or message.have > 0 or message.uid in self._alone

    async def _on_event(self, event: imap.Event, nursery: trio.Nursery) -> None:
        match event:
            case imap.Header(uid, head):
                await self._intake.stub(self._looked_at.pop(uid), head or b"")
            case imap.BodyBegin(uid, origin, size):
                await self._begin(next(a.left[uid] for a in self._asked if uid in a.left), origin, size)
            case imap.BodyData(_, data):
                await self._intake.take(data)
            case imap.BodyEnd(uid):
                next(a for a in self._asked if uid in a.left).left.pop(uid)
                await self._intake.finish(nursery)
            case imap.Fetched(uids, done, text):
                asked = next(asked for asked in self._asked if asked.uids == uids)
                self._asked.remove(asked)
                for message in asked.left.values():
                    self._intake.no_longer(message)
                    if done:
                        self._gone.append(message.uid)
                    elif len(uids) > 1:  # it may be another one's fault
                        self._alone.add(message.uid)
                        self._waiting.append(message)
                    else:
                        self.not_given.append(f"message {message.number} was not given: {text}")
            case _:
                pass

    async def _begin(self, message: _Wanted, origin: int, size: int) -> None:
        """Raises SessionFailed where what comes is not what was asked for."""
        if not message.have:
            if origin:
                raise SessionFailed(f"message {message.number} came from its byte {origin} on, which was not asked for")
            self._intake.begin(message, total=size)
            return
        resumed = None
        if (origin, origin + size) == (message.have, message.total):
            resumed = await self._record.partial.resume(message.uid, HEAD)
        if resumed is None:
            await self._record.forget([message.uid])
            raise SessionFailed(
                f"message {message.number} can't be gone on with: it will be fetched from its beginning"
            )
        self._intake.begin(message, *resumed, total=message.total)

    # ---- the end
    async def _finish(self) -> None:
        """Deletes what is kept, logs out, and records how the folder was left."""
        deleting = self._to_delete()
        before, expunges = self._client.exists, self._client.expunges
        if deleting:
            self._client.delete(list(deleting))
        self._client.logout()
        done = not deleting
        over = False
        while not over:
            for event in await self._session.events(QUIT_S):
                match event:
                    case imap.Deleted(_, True, _):
                        # A server may say OK and leave them: what it still lists must stay known.
                        done = not expunges or before - self._client.exists >= len(deleting)
                    case imap.Deleted(_, False, text):
                        self.not_given.append(f"what was fetched could not be deleted: {text}")
                    case imap.Closed():  # else it would have been SessionFailed
                        over = True
        if done:
            for name in deleting.values():
                if self._record.asks.get(name) is Ask.DELETE:
                    events.emit(events.DELETED_UPSTREAM, account=self._name, uid=name, user=self._user)
        if done and expunges:
            await self._record.forget(list(deleting.values()))
        if done and not self._intake.left and not self.not_given:
            # What we changed ourselves has a number that nobody told us.
            modseq = 0 if deleting or self._client.exists != self._selected.exists else self._selected.modseq
            await self._record.leave(Folder(self._selected.uidvalidity, self._next, self._client.exists, modseq))
