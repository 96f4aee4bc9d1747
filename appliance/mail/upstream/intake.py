"""Messages on their way from a provider into a user's mailbox, whichever protocol brings them.

It owns a message from its first byte until it is recorded as fetched: the draft, the room for it, the part of it that a
cut leaves. It knows neither protocol; who drives it says which message is coming and what is done once it is kept.

    begin -> take … -> finish -> mailbox, durable -> record, durable -> `on_kept`
                    \\-> abandon: what has come is kept for the next call, or goes

Each arrow waits until what is before it is on stable storage, while the next messages already come in. A message that
had come whole when the line went is delivered and recorded all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance import events
from appliance.mail.store.fetched import Known, KnownState, by_message, delivery_key, stub_key
from appliance.mail.store.parts import MIN_PART
from appliance.mail.upstream.fetch_session import SessionFailed
from appliance.mail.upstream.identity import HEAD, date_of, message_digest, substitute_uid

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.call import OpenCall
    from appliance.clock import Clock
    from appliance.config.model import Account
    from appliance.mail.delivery import Inbox
    from appliance.mail.store.fetched import FetchedRecord
    from appliance.mail.stubs import StubTerms
    from appliance.storage.draft import Draft

__all__ = ["DISK_S", "STUB_LINES", "STUB_OCTETS", "Intake", "Memory", "Message", "Seen", "finder"]

LOOK: Final = 128 * 1024
"""Bytes of messages between two looks at the room; a draft writes to the disk in pieces of that size."""

CHECKPOINT: Final = 256 * 1024
"""Bytes of a large message after which what has come is made durable: so much of it a killed process or a power cut
costs at most. A line that drops costs nothing of what has come."""

MAX_CUTS: Final = 2
"""Times that the line may drop within a message by POP3 before it stays upstream: each began at its first byte."""

STUB_LINES: Final = 20
"""Lines of the body for a stub by TOP."""
STUB_OCTETS: Final = 1536
"""Octets of the body for a stub by IMAP: 5 s of a line of 300 bytes/s."""

TOKEN: Final = 12
"""Characters of a stub's token, 0-9 a-f. It needs no more than to be one message's: only its own user's mail counts."""

MAX_DELIVERING: Final = 16
"""Messages on their way into the mailbox at once; each holds up to a draft's buffer of memory."""

DISK_S: Final = 30.0
"""A message that came whole is kept even when the line has gone: so long at most."""


class Message(Protocol):
    """One that was asked for. `uid` is its name in the record, None where the server gave none; `size` in octets as
    the server counts, or where it is not `exact` (only of what has a `uid`) about so many."""

    @property
    def uid(self) -> str | None: ...

    @property
    def size(self) -> int: ...

    @property
    def exact(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a header."""

    digest: str
    date: float | None

    @classmethod
    def of(cls, head: bytes) -> Seen:
        return cls(message_digest(head), date_of(head))


@dataclass(slots=True)
class Memory:
    """What one call remembers for the next, in memory. `deleted`: unique-ids whose deletion was confirmed; that they
    are not listed is no sign of changed unique-ids. `outgrown`: what came of messages for which there was no room.
    `upstream_bytes`: of the messages that the last call saw and did not fetch. `cuts`: how often the line dropped
    within a message that can't be gone on with."""

    deleted: set[str] = field(default_factory=set)
    outgrown: dict[str, int] = field(default_factory=dict)
    upstream_bytes: int = 0
    cuts: dict[str, int] = field(default_factory=dict)


def finder(record: FetchedRecord, deleted: set[str]) -> Callable[[Seen, int], Known | None]:
    """Finds what is known of a message by its header and size, whatever its unique-id."""
    known = [k for k in record.known.values() if k.uid not in deleted]
    same = by_message(known)
    unseen = {k.size: k for k in known if k.state is KnownState.SKIPPED and not k.message_id}
    first = record.first_fetch or 0.0

    def find(seen: Seen, size: int) -> Known | None:
        if one := same.get((seen.digest, size)):
            return one
        # Of what was skipped unseen only the size is known, or not even that (0), and that it was older than the
        # first fetch.
        skipped = unseen.get(size) or unseen.get(0)
        if skipped is not None and seen.date is not None and seen.date < first:
            return replace(skipped, message_id=seen.digest, size=size)
        return None

    return find


class Intake:
    """One session's. `failure`: why nothing more can be taken, "" while it can; `_coming`: bytes asked for and not yet
    in the mailbox, `_here`: those of them that have come; `_unlooked`: bytes since the last look at the room;
    `_delivering`: messages between the wire and the record."""

    def __init__(
        self,
        account: Account,
        user: str,
        inbox: Inbox,
        record: FetchedRecord,
        call: OpenCall,
        name: str,
        memory: Memory,
        clock: Clock,
        stubs: StubTerms | None,
        on_kept: Callable[[Message, str], None],
        *,
        resumes: bool,
    ) -> None:
        """`on_kept(message, uid)`: it is recorded as fetched, under `uid`. `resumes`: what a cut leaves of a large
        message is gone on with."""
        self.failure = ""
        self._clock, self._stubs = clock, stubs
        self._account, self._user, self._inbox, self._record = account, user, inbox, record
        self._call, self._name, self._memory, self._on_kept, self._resumes = call, name, memory, on_kept, resumes
        self._message: Message | None = None
        self._draft: Draft | None = None
        self._head = bytearray()
        self._total = 0  # of a message that is kept when the line is cut within it; 0: this one is not
        self._checkpoint = 0
        self._coming = self._here = self._unlooked = 0
        self._no_quota = self._no_disk = 0  # messages that stay upstream for the lack of it
        self._delivering = 0
        self._delivered = trio.Condition()

    def key(self, uid: str) -> str:
        return delivery_key(self._user, self._account, uid)

    @property
    def within(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._message is not None

    # ---- room
    @property
    def left(self) -> int:
        """How many messages stay upstream for want of room."""
        return self._no_quota + self._no_disk

    def expect(self, message: Message) -> bool:
        """It is asked for, if there is room for it."""
        outgrown = self._memory.outgrown.get(message.uid or "", 0)
        if not self._has_room(max(message.size, outgrown)):
            return False
        self._coming += message.size
        return True

    def room_for(self, size: int) -> bool:
        """Whether so many bytes more would fit."""
        return self._inbox.has_room(self._coming + size) and self._inbox.disk_has_room(self._coming + size - self._here)

    def no_longer(self, message: Message) -> None:
        """It will not come after all."""
        self._coming -= message.size

    def _has_room(self, size: int) -> bool:
        """Whether so much more may be asked for; counts the message for `tell_of_room` where not."""
        if not self._inbox.has_room(self._coming + size):
            self._no_quota += 1
        elif not self._inbox.disk_has_room(self._coming + size - self._here):
            self._no_disk += 1
        else:
            return True
        return False

    def tell_of_room(self) -> None:
        if self._no_quota:
            events.emit(events.QUOTA_FULL, account=self._name, user=self._user, messages=self._no_quota)
        if self._no_disk:
            events.emit(events.DISK_FULL, what=f"{self._no_disk} messages of {self._name}")

    # ---- a message that stays upstream
    def leaves(self, message: Message) -> bool:
        """Whether only a stub of it is wanted."""
        if self._stubs is None or message.uid is None or message.uid in self._record.asks:
            return False
        return message.size > self._stubs.limit or bool(self.obstacle(message))

    def obstacle(self, message: Message) -> str:
        """Why it can't be expected to come whole, or ""."""
        if self._memory.cuts.get(message.uid or "", 0) >= MAX_CUTS:
            return f"the line dropped within it {MAX_CUTS} times"
        if not self._resumes and message.size > self._call.capacity:
            return f"its {message.size} bytes are more than a call of this line carries"
        return ""

    def token(self, uid: str) -> str:
        return self.key(uid)[:TOKEN]

    async def stub(self, message: Message, head: bytes) -> None:
        """Delivers the stub of it: `head` is the message's beginning as far as the server gave it. Raises OSError."""
        assert self._stubs is not None and message.uid is not None
        from appliance.mail.upstream.stub import make_stub  # the email package costs 3 MB: only when needed

        token = self.token(message.uid)
        data = make_stub(head, size=message.size, token=token, terms=self._stubs, now=self._clock.now().wall)
        if not self._has_room(len(data)):
            return
        draft = self._inbox.draft()
        draft.write_nowait(data)
        try:
            with trio.fail_after(DISK_S, shield=True):
                await self._inbox.deliver(draft, key=stub_key(token))
                await self.stub_is_there(message, message_digest(head))
        except trio.TooSlowError:
            raise OSError(f"it took more than {DISK_S:g} s") from None
        events.emit(
            events.STUBBED, account=self._name, uid=message.uid, size=message.size, user=self._user, token=token
        )

    async def stub_is_there(self, message: Message, digest: str = "") -> None:
        """Records that its stub lies in the mailbox."""
        assert message.uid is not None
        await self._record.add(Known(message.uid, KnownState.STUB, message.size, digest, self.token(message.uid)))

    # ---- a message that is coming
    def begin(self, message: Message, draft: Draft | None = None, head: bytes = b"", *, total: int = 0) -> None:
        """This one comes now. `draft`, `head`: what has come of it before; `total`: its true size, where the server can
        go on in the middle of it. Raises OSError."""
        self._message = message
        if draft is None and total >= MIN_PART and message.uid is not None:
            draft = self._record.partial.draft(message.uid)
        self._draft = draft or self._inbox.draft()
        self._head = bytearray(head)
        self._total = total if total >= MIN_PART else 0
        self._checkpoint = self._draft.size
        self._here += self._draft.size

    async def take(self, data: bytes) -> None:
        """A piece of it. Raises OSError, and SessionFailed when there is no room for more of it."""
        message, draft = self._message, self._draft
        assert message is not None and draft is not None
        self._head += data[: HEAD - len(self._head)]
        await draft.write(data)
        self._here += len(data)
        self._coming += min(len(data), max(0, draft.size - message.size))  # what is more than the server said
        self._unlooked += len(data)
        if self._unlooked >= LOOK:
            self._unlooked = 0
            if not self._has_room(0):
                if message.uid is not None:
                    self._memory.outgrown[message.uid] = draft.size
                which = message.uid or "without a unique-id"
                raise SessionFailed(f"no room for more of message {which}, {draft.size} bytes of it came")
        if self._total and draft.size - self._checkpoint >= CHECKPOINT:
            self._checkpoint = draft.size
            await self._keep_part()

    async def finish(self, nursery: trio.Nursery) -> None:
        """It has come whole."""
        message, draft = self._message, self._draft
        assert message is not None and draft is not None
        self._message = self._draft = None
        self._delivering += 1
        nursery.start_soon(self._keep, message, draft, bytes(self._head))
        async with self._delivered:
            while self._delivering >= MAX_DELIVERING:
                await self._delivered.wait()

    async def abandon(self) -> None:
        """The session is over, within a message or not. Not ended by the end of the line."""
        draft, message = self._draft, self._message
        if draft is None or message is None:
            return
        if not self._total and message.uid is not None:
            self._memory.cuts[message.uid] = self._memory.cuts.get(message.uid, 0) + 1
        kept = False
        if self._total and draft.size >= MIN_PART:
            try:
                await self._keep_part()
                kept = True
            except OSError as error:
                self.failure = self.failure or f"the disk failed: {error}"
        if kept:
            draft.close()
        else:
            await draft.discard()

    async def _keep_part(self) -> None:
        assert self._message is not None and self._message.uid is not None and self._draft is not None
        try:
            with trio.fail_after(DISK_S, shield=True):
                await self._record.partial.keep(self._message.uid, self._draft, self._total)
        except trio.TooSlowError:
            raise OSError(f"it took more than {DISK_S:g} s") from None

    # ---- a message that has come
    async def drained(self) -> None:
        """Returns when all that has come is kept."""
        async with self._delivered:
            while self._delivering:
                await self._delivered.wait()

    async def _keep(self, message: Message, draft: Draft, head: bytes) -> None:
        """Mailbox, record, `on_kept`; each once the one before is durable. Not ended by the end of the line."""
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

    async def _deliver(self, message: Message, draft: Draft, head: bytes) -> None:
        seen = Seen.of(head)
        uid = message.uid if message.uid is not None else substitute_uid(seen.digest, message.size)
        known = self._record.known.get(uid)
        if known is None and message.uid is None:  # only now can be seen what it is
            known = finder(self._record, self._memory.deleted)(seen, message.size)
        stub = known if known is not None and known.state is KnownState.STUB and uid in self._record.asks else None
        if known is not None and stub is None:
            await draft.discard()
            if known.uid != uid:
                await self._record.add(replace(known, uid=uid))
            if known.state is not KnownState.FETCHED:
                return  # neither fetched nor deleted
        else:
            replaces = stub_key(stub.token) if stub is not None else ""
            await self._inbox.deliver(draft, key=self.key(uid), replaces=replaces)
            size = message.size if message.exact else draft.size
            await self._record.add(Known(uid, KnownState.FETCHED, size, seen.digest))
            self._call.count(fetched=1, user=self._user, size=draft.size)
            self._memory.upstream_bytes = max(0, self._memory.upstream_bytes - message.size)
            events.emit(events.FETCHED, account=self._name, uid=uid, user=self._user, size=draft.size)
        self._on_kept(message, uid)
