"""The post office: the one place that knows what happens to a message, from its first byte to its last recipient.

It joins the spool, the mailboxes, the routing and the bounces. SMTP sessions hand it submissions; senders see it as
their `Outbox`; operators hold, release and remove through it. It knows nothing of sockets or calls.

Accepting is one piece of the committer's work, whatever the recipients: the message is linked into each local
mailbox and placed in the spool for the others, and the client has his 250 when that is on stable storage.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Prospect
from appliance.clock import Mark
from appliance.mail.envelope import Delay, Envelope, MessageState, Priority, Recipient, RecipientState, Verdict
from appliance.mail.routing import Refusal, Router
from appliance.mail.stubs import Stubs
from appliance.storage.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from appliance.clock import Clock
    from appliance.config.model import Mail, Site, Smarthost, User
    from appliance.mail.store.fetched import Ask
    from appliance.mail.store.mailbox import Mailbox
    from appliance.mail.store.spool import Spool
    from appliance.storage.committer import Committer

__all__ = ["MessageBusy", "PostOffice", "Submission"]

DISK_RESERVE: Final = 16 * 1024 * 1024
"""Bytes of disk that new mail may not use: they are the ledger's and what is already accepted's. A small disk keeps
`DISK_RESERVE_SHARE` of itself instead."""
DISK_RESERVE_SHARE: Final = 20
AGE_SLACK_S: Final = 1.0
"""A call that is made for a message's age must find it old enough: the policy reckons its age by the wall clock."""
QUICK_BOXES: Final = 3
"""Mailboxes that a small message is put into without asking a thread."""
LOOK_AGAIN_S: Final = 0.25
"""How long a look at the free room holds; a LAN brings 25 MB in that time, and the reserve is there for it."""


class MessageBusy(Exception):
    """A message can't be changed by hand while it is being sent."""


@dataclass(slots=True)
class Submission:
    """One message being taken in. Owned by its session until `PostOffice.accept`."""

    envelope: Envelope
    users: dict[str, None] = field(default_factory=dict)
    remote: dict[str, Recipient] = field(default_factory=dict)
    count: int = 0
    delivered: list[Recipient] = field(default_factory=list)
    """Those at this site whose sender may want to know that they have it."""
    asks: dict[str, Ask] = field(default_factory=dict)
    """Token -> what is to be done with the message that stays upstream."""
    automatic: bool = False
    """Its header says that a program sent it by itself."""
    has_room: dict[str, bool] = field(default_factory=dict)
    """By user: what his mailbox said of the declared size. Asked once: it may have to look at thousands of files."""


class PostOffice:
    """`configure` may be called again with a new configuration between messages. The `Outbox` of the senders."""

    def __init__(self, spool: Spool, committer: Committer, clock: Clock) -> None:
        self.spool = spool
        self.mailboxes: Mapping[str, Mailbox] = {}
        self.server_limits: dict[str, int] = {}
        """The SIZE that a smarthost (host:port) last named, in bytes."""
        self.call_capacity: Callable[[], int] = lambda: 0
        """Bytes that `max_call` carries at the best recent rate, 0 while none is known; `app` knows."""
        self.deferrals_s: Sequence[float] = (900.0,)
        """How long a message waits before it counts for a call again, by the times that a server has deferred it; the
        last repeats. `app` puts `schedule.retry` here."""
        self.stubs = Stubs()
        self._committer = committer
        self._clock = clock
        self._free = 0
        self._looked_at = float("-inf")

    def configure(self, site: Site, mail: Mail, users: Sequence[User], mailboxes: Mapping[str, Mailbox]) -> None:
        self._site, self._mail = site, mail
        self.mailboxes = mailboxes
        self.router = Router(site, mail, users)
        self.hostname = _hostname(site)

    # ---- taking in
    def has_room(self, size: int) -> bool:
        """Whether the disk has room for `size` bytes beyond the reserve."""
        return size < self.free_bytes()

    def free_bytes(self) -> int:
        """What new mail may still use of the disk."""
        now = self._clock.now().boot
        if not 0 <= now - self._looked_at < LOOK_AGAIN_S:
            stat = os.statvfs(self.spool.paths.root)
            reserve = min(DISK_RESERVE, stat.f_blocks * stat.f_frsize // DISK_RESERVE_SHARE)
            self._free = max(0, stat.f_bavail * stat.f_frsize - reserve)
            self._looked_at = now
        return self._free

    def begin(self, envelope: Envelope) -> Submission:
        return Submission(envelope)

    def add(self, submission: Submission, recipient: Recipient) -> Refusal | None:
        """Adds one RCPT TO, or says why not."""
        if submission.count >= self._mail.recipient_limit:
            return Refusal(452, "4.5.3", f"a message has at most {self._mail.recipient_limit} recipients")
        asked = self.router.token(recipient.address)
        if asked is not None:
            return self._ask(submission, *asked)
        route = self.router.route(recipient.address)
        if isinstance(route, Refusal):
            return route
        envelope = submission.envelope
        if route.remote and not self.router.smarthosts(envelope.sender):
            return Refusal(550, "5.7.1", f"no smarthost carries mail of <{envelope.sender}>")
        for user in route.users:
            if user not in submission.has_room:
                submission.has_room[user] = self.mailboxes[user].has_room(envelope.size)
            if not submission.has_room[user]:
                return _full(user)
        if route.remote and (refusal := self.too_large(envelope.sender, envelope.size)):
            return refusal
        submission.count += 1
        submission.users.update(dict.fromkeys(route.users))
        if route.users and not route.remote and recipient.notify:
            submission.delivered.append(replace(recipient, state=RecipientState.DELIVERED))
        for address in route.remote:
            copy = Recipient(address, notify=recipient.notify, orcpt=recipient.orcpt)
            submission.remote.setdefault(address, copy)
        return None

    def _ask(self, submission: Submission, what: Ask, token: str) -> Refusal | None:
        """Mail to get-TOKEN@ or delete-TOKEN@: from its own user alone, and never sent on. To all others it is an
        address that nobody has, so that the answer tells them of no token."""
        owner = self.stubs.owner(token)
        if owner is None or owner != submission.envelope.user:
            return Refusal(550, "5.1.1", "no message of yours waits under that address")
        submission.count += 1
        submission.asks[token] = what
        return None

    async def over_quota(self, submission: Submission, size: int) -> Refusal | None:
        """Whether a message of that true size is too much for a mailbox that it goes to. Raises OSError."""
        for user in submission.users:
            box = self.mailboxes[user]
            if box.quota_bytes is not None and not await trio.to_thread.run_sync(box.has_room, size):
                return _full(user)
        return None

    def too_large(self, sender: str, size: int) -> Refusal | None:
        """Whether no smarthost of this sender takes that size, or no call is long enough for it (DESIGN §2)."""
        known = [self.server_limits.get(f"{h.host}:{h.port}", 0) for h in self.router.smarthosts(sender)]
        if known and all(known) and size > max(known):
            return Refusal(552, "5.3.4", f"the server takes messages up to {max(known)} bytes")
        capacity = self.call_capacity()
        if capacity and size > capacity:
            return Refusal(552, "5.3.4", f"the longest call carries {capacity} bytes at the best recent rate")
        return None

    async def accept(self, submission: Submission, draft: Draft) -> None:
        """Puts the message where it belongs, durably. Raises OSError; the draft is then the caller's to discard."""
        envelope = submission.envelope
        if submission.asks:
            await self._do_asked(submission)
            if not submission.users and not submission.remote:
                await draft.discard()
                return
        envelope.size, envelope.crc32 = draft.size, draft.crc32
        envelope.recipients = list(submission.remote.values())
        boxes = [self.mailboxes[user] for user in submission.users]

        placed: list[Path] = []

        def work() -> None:
            draft.finish()
            try:
                if envelope.recipients:
                    for box in boxes:
                        placed.append(box.copy_in(draft.path, prefix=_return_path(envelope.sender)))
                    placed.extend(self.spool.place(envelope))
                else:
                    for box in boxes[1:]:
                        placed.append(box.link_in(draft.path, draft.size, draft.crc32))
                    placed.append(boxes[0].move_in(draft.path, draft.size, draft.crc32))
            except OSError:
                take_back()
                raise

        def take_back() -> None:
            """The client is told no, and will come again: nobody has it until all have it."""
            while placed:
                with contextlib.suppress(OSError):
                    self._committer.disk.unlink(placed.pop())

        # Shielded, since a session that is cancelled here would take its draft away while it is being placed.
        with trio.CancelScope(shield=True):
            try:
                await self._committer.commit(work, quick=draft.small and len(boxes) <= QUICK_BOXES)
            except OSError:
                if placed:  # all was placed, but the flush failed
                    with contextlib.suppress(OSError):
                        await self._committer.commit(take_back)
                raise
            if submission.delivered:
                await self._tell_delivered(submission, placed)
        if envelope.recipients:
            self.spool.admit(envelope)
        recipients = ", ".join([*submission.users, *submission.remote])
        events.emit(
            events.ACCEPTED,
            mail_id=envelope.id,
            client=envelope.client,
            user=envelope.user or None,
            size=envelope.size,
            sender=envelope.sender,
            recipients=recipients,
        )

    async def _tell_delivered(self, submission: Submission, placed: Sequence[Path]) -> None:
        """A report that does not come is no reason to refuse a message that is in its mailboxes."""
        message = None if submission.remote else placed[-1]
        try:
            await self._report("DELIVERED", submission.envelope, submission.delivered, message=message)
        except OSError as error:
            events.emit(events.STORAGE_FAILED, error=error)

    async def _do_asked(self, submission: Submission) -> None:
        user = submission.envelope.user
        for token, what in submission.asks.items():
            if submission.automatic or not submission.envelope.sender:
                events.emit(events.STUB_ASK_IGNORED, user=user, what=what.value)
            else:
                await self.stubs.ask(token, what)

    def return_path(self, submission: Submission) -> bytes:
        """What goes in front of a message that is delivered here and nowhere else (RFC 5321 §4.4)."""
        return b"" if submission.remote else _return_path(submission.envelope.sender)

    # ---- the senders' Outbox
    def pending(self, *, without: Collection[str] = (), bulk: bool = True) -> list[Envelope]:
        """Urgent ones first, then small before large, bulk last: one large message keeps nobody else's waiting."""
        ready = [e for e in self.spool.messages.values() if not e.held and e.id not in without and e.open_recipients()]
        if not bulk:
            ready = [e for e in ready if not self.goes_in_paid_time(e)]
        return sorted(ready, key=lambda e: (e.priority is not Priority.URGENT, self.is_bulk(e), e.size, e.received))

    def smarthosts_for(self, envelope: Envelope) -> Sequence[Smarthost]:
        return self.router.smarthosts(envelope.sender)

    def path(self, envelope: Envelope) -> Path:
        return self.spool.path(envelope)

    def sending(self, envelope: Envelope, on: bool) -> None:
        if on:
            envelope.left = ""
        self.spool.set_sending(envelope, on)

    def left(self, envelope: Envelope, why: str) -> None:
        envelope.left = why

    async def in_doubt(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        await self.spool.mark(envelope, recipients, RecipientState.IN_DOUBT)

    async def not_sent(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        await self.spool.mark(envelope, recipients, RecipientState.QUEUED)

    async def settle(self, envelope: Envelope, verdicts: Mapping[int, Verdict], *, host: str) -> None:
        final = {i: self._final(envelope, envelope.recipients[i], v) for i, v in verdicts.items()}
        failed = [i for i, v in final.items() if v.state is RecipientState.FAILED]
        relayed = [i for i, v in final.items() if v.state is RecipientState.DELIVERED and not v.reports]
        # Before the queue forgets the message: its bytes are needed, and a report twice is better than none.
        await self._report("FAILED", envelope, [_told(envelope.recipients[i], final[i]) for i in failed])
        await self._report("RELAYED", envelope, [_told(envelope.recipients[i], final[i]) for i in relayed])
        await self.spool.settle(envelope, final)

    async def warn_late(self, line: Callable[[Envelope], Delay] = lambda envelope: Delay()) -> float:
        """Tells the senders of messages that have waited for `warn_after`, once each, and why: `line` says what of
        that is the line's; -> in how many seconds the next one will have. What an operator holds is no delay. Raises
        OSError."""
        soonest = math.inf
        for envelope in [e for e in self.spool.messages.values() if not (e.held or e.warned or e.alert)]:
            left_s = self._mail.warn_after_s - self._age_s(envelope)
            if left_s > 0:
                soonest = min(soonest, left_s)
                continue
            until = self._clock.now().wall + max(0.0, self._mail.give_up_after_s - self._age_s(envelope))
            late = [envelope.recipients[i] for i in envelope.open_recipients()]
            await self._report("DELAYED", envelope, late, until=until, delay=self._delay(envelope, line(envelope)))
            if self.spool.messages.get(envelope.id) is envelope:
                await self.spool.note_warned(envelope)
        return soonest

    def _delay(self, envelope: Envelope, line: Delay) -> Delay:
        sentences = list(line.sentences)
        if self.is_bulk(envelope):
            sentences.insert(0, "It is bulk mail, which goes when a call has time to spare.")
        return replace(line, sentences=tuple(sentences))

    def _final(self, envelope: Envelope, recipient: Recipient, verdict: Verdict) -> Verdict:
        """What becomes of a recipient: a temporary verdict is final for what is too old, and leaves an older doubt."""
        if verdict.state is not RecipientState.QUEUED:
            return verdict
        if self._age_s(envelope) > self._mail.give_up_after_s:
            given_up = f"{verdict.reply} (given up after {_days(self._mail.give_up_after_s)})"
            return Verdict(RecipientState.FAILED, given_up)
        if verdict.keeps_doubt and recipient.state is RecipientState.IN_DOUBT:
            return Verdict(RecipientState.IN_DOUBT, verdict.reply)
        return verdict

    def goes_in_paid_time(self, envelope: Envelope) -> bool:
        return self.is_bulk(envelope) and self._age_s(envelope) < self._mail.bulk_max_age_s - AGE_SLACK_S

    async def wait_pending(self, *, without: Collection[str], bulk: bool = True) -> None:
        while not self.pending(without=without, bulk=bulk):
            await self.spool.wait_changed()

    def note_server_limit(self, smarthost: Smarthost, size: int) -> None:
        """The SIZE that a smarthost named in its EHLO (RFC 1870); 0: none."""
        self.server_limits[f"{smarthost.host}:{smarthost.port}"] = size

    def _age_s(self, envelope: Envelope) -> float:
        """How long it has been here, by the boot clock where that is known: a board's wall clock may jump by years."""
        now = self._clock.now()
        if not envelope.boot_id:
            return min(now.boot, max(0.0, now.wall - envelope.received))  # received by a clock that nobody trusts
        return Mark(envelope.received, envelope.boot, envelope.boot_id).seconds_until(now)

    # ---- by hand
    async def hold(self, envelope: Envelope, on: bool) -> None:
        """Puts a message aside, or back into the queue. Raises MessageBusy and OSError."""
        self._not_busy(envelope)
        await self.spool.hold(envelope, on)
        events.emit(events.HELD if on else events.RELEASED, mail_id=envelope.id)

    async def remove(self, envelope: Envelope) -> None:
        """Takes a message away, unsent. Raises MessageBusy and OSError."""
        self._not_busy(envelope)
        await self.spool.remove(envelope)
        unsent = ", ".join(envelope.recipients[i].address for i in envelope.open_recipients())
        events.emit(events.REMOVED, mail_id=envelope.id, sender=envelope.sender, recipients=unsent)

    def _not_busy(self, envelope: Envelope) -> None:
        if envelope.sending:
            raise MessageBusy(f"{envelope.id} is being sent just now")

    # ---- reports
    async def _report(
        self,
        name: str,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        *,
        message: Path | None = None,
        until: float | None = None,
        delay: Delay | None = None,
    ) -> None:
        """Delivers a report to whom DESIGN §2 says: the submitting user, else the local user of the envelope sender,
        else the postmaster, who need not know of what went well. `name`: of `bounces`' kind; `message`, `until` and
        `delay` as there. Nothing where nobody wants one. Raises OSError."""
        if not recipients or (name in ("RELAYED", "DELIVERED") and not any(r.notify for r in recipients)):
            return
        from appliance.mail import bounces  # the email package costs 3 MB: only when needed

        kind: bounces.Kind = getattr(bounces, name)
        wanted = [r for r in recipients if bounces.wants_report(kind, r)]
        if kind is bounces.FAILED and (silent := [r for r in recipients if r not in wanted]):
            unasked = ", ".join(r.address for r in silent)
            why = "its sender asked for none"
            events.emit(events.BOUNCE_DROPPED, mail_id=envelope.id, recipients=unasked, reply=silent[0].reply, why=why)
        if not wanted:
            return
        addresses, reply = ", ".join(r.address for r in wanted), wanted[0].reply
        candidates = [envelope.user, self.router.user_of(envelope.sender)]
        candidates += [self.router.postmaster] if kind.unasked else []
        user = next((u for u in candidates if u in self.mailboxes), "")
        if not envelope.sender or not user:
            if kind is bounces.FAILED:
                why = "there is no user to tell" if envelope.sender else "the null sender gets no bounce"
                events.emit(events.BOUNCE_DROPPED, mail_id=envelope.id, recipients=addresses, reply=reply, why=why)
            return
        data = _return_path("") + bounces.make_report(
            kind,
            envelope,
            wanted,
            message or self.spool.path(envelope),
            hostname=self.hostname,
            to=envelope.sender,
            now=self._clock.now().wall,
            until=until,
            delay=delay,
        )
        box = self.mailboxes[user]
        draft = box.draft()
        draft.write_nowait(data)
        await box.deliver(draft, key="")
        if kind is bounces.FAILED:
            events.emit(events.BOUNCED, mail_id=envelope.id, recipients=addresses, reply=reply, to=envelope.sender)
        else:
            events.emit(
                events.REPORTED, mail_id=envelope.id, to=envelope.sender, action=kind.action, recipients=addresses
            )

    # ---- what others ask
    def is_bulk(self, envelope: Envelope) -> bool:
        """DESIGN §2 Bulk; what its sender called urgent is not."""
        if envelope.priority is Priority.URGENT:
            return False
        return envelope.size > self._mail.bulk_size_bytes or envelope.priority is Priority.NON_URGENT

    def state_of(self, envelope: Envelope) -> MessageState:
        if envelope.held:
            return MessageState.HELD
        if envelope.sending:
            return MessageState.SENDING
        if any(r.state is RecipientState.IN_DOUBT for r in envelope.recipients):
            return MessageState.IN_DOUBT
        return MessageState.BULK if self.is_bulk(envelope) else MessageState.QUEUED

    def prospect(self) -> Prospect:
        """What waits for a call. One pass: it runs whenever the queue has changed."""
        messages = size = urgent = bulk_messages = bulk_size = deferred = 0
        oldest = bulk_oldest = deferred_until = None
        now = self._clock.now().wall
        for e in self.spool.messages.values():  # oldest first
            if e.held or e.alert:
                continue
            if (until := self._deferred_until(e)) > now:
                deferred, deferred_until = deferred + 1, min(until, deferred_until or until)
            elif self.is_bulk(e):
                bulk_messages, bulk_size = bulk_messages + 1, bulk_size + e.size
                bulk_oldest = bulk_oldest or e.received
            else:
                messages, size = messages + 1, size + e.size
                oldest = oldest or e.received
                urgent += e.priority is Priority.URGENT and bool(e.user)
        return Prospect(messages, size, oldest, urgent, bulk_messages, bulk_size, bulk_oldest, deferred, deferred_until)

    def _deferred_until(self, envelope: Envelope) -> float:
        """Until when a message that a server has deferred makes no call by itself; 0: it was not."""
        if not envelope.attempts or envelope.tried_at is None:
            return 0.0
        return envelope.tried_at + self.deferrals_s[min(envelope.attempts, len(self.deferrals_s)) - 1]


def _hostname(site: Site) -> str:
    """What we are called in SMTP, which is ASCII (RFC 5890 §2.3.2.1 for a domain in another script)."""
    name = f"{site.name}.{site.domain}" if site.domain else site.name
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return site.name


def _full(user: str) -> Refusal:
    return Refusal(452, "4.2.2", f"the mailbox of {user} is full")


def _told(recipient: Recipient, verdict: Verdict) -> Recipient:
    return Recipient(recipient.address, verdict.state, verdict.reply, notify=recipient.notify, orcpt=recipient.orcpt)


def _return_path(sender: str) -> bytes:
    return f"Return-Path: <{sender}>\r\n".encode()


def _days(seconds: float) -> str:
    return f"{seconds / 86400:g} days"
