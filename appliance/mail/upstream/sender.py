"""The job `spool` of a call: everything that waits goes out, over one connection to each smarthost, side by side.

It owns who carries which message in this call, and turns replies into verdicts. It knows nothing of the wire
(`smtp_session`) nor of how the queue is kept (`delivery.Outbox`).

Theory of operation. Each pending message is claimed once a call and put into the queue of the first of its smarthosts
that has not failed in this call; a worker per smarthost takes from there. New messages join while the call is up.

| what happens                             | then                                                              |
|------------------------------------------|-------------------------------------------------------------------|
| connecting, TLS, greeting or login fails | the smarthost failed for this call: its messages go to their next |
| the connection ends, some were answered  | a new one for what had not begun (servers count per connection)   |
| it ends before any was answered          | the smarthost is left alone, its messages stay for the next call  |
| it ends within a message's body          | that message stays for the next call: it may be the reason; not   |
|                                          | where it is how the server does CHUNKING                          |
| a message got its verdicts               | `Outbox.settle`, beside the sending of the next                   |
| some recipients were too many at once    | the message again at once, for them                               |
| it offers CHUNKING and does it wrongly   | a new one, and DATA from then on                                  |
| a message is in doubt from before        | looked up in its user's sent folder, if there is one              |
| small mail comes while a large one goes  | a second connection beside, for which the line is shared          |
| it has no CHUNKING, and much waits       | some more connections: the line is not idle while one waits for   |
|                                          | the answer to DATA                                                |
| the disk failed                          | nothing more is sent                                              |

Only a reply that a server gave about a message is an attempt; all else leaves the message as it was. What is under
way when the line goes is left in a true state by the session; a verdict that has come is recorded even then.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import JobReport
from appliance.config.model import Tls
from appliance.mail.envelope import Priority, RecipientState, Verdict
from appliance.mail.upstream.smtp_session import DISK_S, Attempt, SmarthostFailed, SmtpSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.call import OpenCall
    from appliance.config.model import Smarthost
    from appliance.mail.delivery import Outbox
    from appliance.mail.envelope import Envelope
    from appliance.mail.upstream.sent_folder import SentFolder
    from appliance.protocol.smtp_reply import Reply

__all__ = ["LANES", "LANE_LEAST", "SendJob"]

OWN, BESIDE = 0, 1
"""A smarthost's connections: its own, the one beside a large message; above are those of a server without CHUNKING."""

MAX_REASONS: Final = 5
"""Reasons in a report's sentence; the journal has them all."""

LARGE: Final = 128 * 1024
"""Bytes: 7 minutes of a line of 300 bytes/s, which nobody's short mail should wait for."""

LANES: Final = 3
"""Connections to a server without CHUNKING at most: while one waits for a round trip the others fill the line. Each may
leave a message in doubt."""
LANE_LEAST: Final = 16
"""Messages for each more of them, at least."""
TRIP_S: Final = 0.6
"""A round trip of the lines that this is for, at least; a satellite's is three times that."""
LOGIN_BYTES: Final = 600
TLS_LOGIN_BYTES: Final = 4000
"""What one more connection costs, with a whole handshake of TLS and a chain of two certificates."""
A_MOMENT_S: Final = 0.001

LOGIN_S: Final = 5.0
"""Of the time that is paid already, for connecting, TLS and logging in, before a bulk message moves."""


class SendJob:
    """Implements `call.Job`. `secrets`: name -> value; `site_name` is what EHLO says. One object for all calls."""

    name = "spool"

    def __init__(
        self,
        outbox: Outbox,
        secrets: Mapping[str, str],
        site_name: str,
        *,
        sent_folders: Mapping[str, SentFolder] | None = None,
    ) -> None:
        """`sent_folders`: user -> where an in-doubt message of his is looked up."""
        self._sent_folders = sent_folders or {}
        self._outbox = outbox
        self._secrets = secrets
        self._site_name = site_name
        self._run: _CallRun | None = None
        self._no_chunking: set[Smarthost] = set()

    async def run(self, call: OpenCall) -> JobReport:
        if self._run is None or self._run.call is not call:
            self._run = _CallRun(
                call, self._outbox, self._secrets, self._site_name, self._no_chunking, self._sent_folders
            )
        return await self._run.send_all()

    async def wait_work(self) -> None:
        if self._run is None:
            raise RuntimeError("wait_work before run")
        await self._run.wait_work()


class _Queue:
    """What waits for one smarthost. Implements `smtp_session.Source`."""

    def __init__(self) -> None:
        self.waiting: deque[Envelope] = deque()
        self._taken: Envelope | None = None

    @property
    def is_at_a_large_one(self) -> bool:
        """Whether what was taken last keeps the connection for long."""
        return self._taken is not None and self._taken.size > LARGE

    def add(self, envelope: Envelope) -> None:
        """One that joins: urgent first, small before large, as `Outbox.pending` has them."""
        self.waiting.append(envelope)
        if len(self.waiting) > 1 and _order(self.waiting[-2]) > _order(envelope):
            self.waiting = deque(sorted(self.waiting, key=_order))

    def take(self) -> Envelope | None:
        self._taken = None
        while self.waiting:
            envelope = self.waiting.popleft()
            if envelope.open_recipients() and not envelope.held:  # both may have changed since it was claimed
                self._taken = envelope
                return envelope
        return None


def _order(envelope: Envelope) -> tuple[bool, bool, int]:
    return (envelope.priority is not Priority.URGENT, envelope.priority is Priority.NON_URGENT, envelope.size)


class _CallRun:
    """One call's state. `_claimed`: ids that this call has dealt with or is dealing with. `_queues`: the smarthosts
    that have a worker. `_failed`: those passed over, with the reason; `_broken`: those left alone. `_reasons`: why the
    messages stay that this run leaves. `_busy`: workers and verdicts being recorded. `_bulk_bytes`: of the bulk mail
    that this run carries; `_bulk_alone`: it carries nothing else."""

    def __init__(
        self,
        call: OpenCall,
        outbox: Outbox,
        secrets: Mapping[str, str],
        site_name: str,
        no_chunking: set[Smarthost],
        sent_folders: Mapping[str, SentFolder],
    ) -> None:
        """`no_chunking`: the smarthosts that do CHUNKING wrongly, as far as was seen in this life of the process."""
        self.call = call
        self._no_chunking = no_chunking
        self._sent_folders = sent_folders
        self._looked_up: set[str] = set()
        self._outbox = outbox
        self._secrets = secrets
        self._site_name = site_name
        self._claimed: set[str] = set()
        self._queues: dict[tuple[Smarthost, int], _Queue] = {}
        self._not_beside: set[Smarthost] = set()
        self._failed: dict[Smarthost, str] = {}
        self._broken: dict[Smarthost, str] = {}
        self._reasons: dict[str, None] = {}
        self._disk_failed = ""
        self._busy = 0
        self._bulk_bytes = 0
        self._bulk_alone = True
        self._done = trio.Event()

    async def send_all(self) -> JobReport:
        self._reasons.clear()
        self._bulk_bytes, self._bulk_alone = 0, True
        try:
            await self._send_all()
        finally:
            self.call.paid.carries_bulk(SendJob.name, alone=False)
        if not self._reasons:
            return JobReport()
        why = "; ".join(list(self._reasons)[:MAX_REASONS])
        self.call.count(failed=1)
        return JobReport(left=True, detail=why)

    async def _send_all(self) -> None:
        async with trio.open_nursery() as nursery:
            self._dispatch(nursery)
            nursery.start_soon(self._take_new, nursery)
            while self._busy:
                self._done = trio.Event()
                await self._done.wait()
            nursery.cancel_scope.cancel()

    async def wait_work(self) -> None:
        if self._disk_failed:
            await trio.sleep_forever()
        await self._wait_pending()

    async def _wait_pending(self) -> None:
        """Until there is a message that may go now: a bulk one only in time that is paid already."""
        claimed, paid = frozenset(self._claimed), self.call.paid
        async with trio.open_nursery() as nursery:

            async def bulk() -> None:
                await paid.wait_begun()
                await self._outbox.wait_pending(without=claimed)
                nursery.cancel_scope.cancel()

            nursery.start_soon(bulk)
            await self._outbox.wait_pending(without=claimed, bulk=False)
            nursery.cancel_scope.cancel()

    # ---- who carries what
    async def _take_new(self, nursery: trio.Nursery) -> None:
        while not self._disk_failed:
            await self._wait_pending()
            self._dispatch(nursery)

    def _dispatch(self, nursery: trio.Nursery) -> None:
        """Claims what is pending and gives it to workers, or leaves it with the reason."""
        if self._disk_failed:
            return
        paid_s = self.call.paid.left_s()
        doubtful: dict[str, list[Envelope]] = {}
        for envelope in self._outbox.pending(without=self._claimed, bulk=paid_s > 0):
            self._claimed.add(envelope.id)
            if self._is_to_be_looked_up(envelope):
                self._looked_up.add(envelope.id)
                doubtful.setdefault(envelope.user, []).append(envelope)
                continue
            if self._outbox.goes_in_paid_time(envelope):
                if not self._fits(envelope, paid_s):
                    continue
            elif not envelope.alert:  # which begins no unit either
                self._bulk_alone = False
            candidates = self._outbox.smarthosts_for(envelope)
            host = next((h for h in candidates if h not in self._failed), None)
            if host is None:
                whys = [_at(h, self._failed[h]) for h in candidates]
                self._leave(envelope, *whys or [f"no smarthost for <{envelope.sender}>"])
            elif host in self._broken:
                self._leave(envelope, _at(host, self._broken[host]))
            else:
                self._queue(envelope, host, nursery)
        for user, envelopes in doubtful.items():
            self._busy += 1
            nursery.start_soon(self._look_up, user, envelopes, nursery)
        self.call.paid.carries_bulk(SendJob.name, alone=self._bulk_alone and self._bulk_bytes > 0)

    def _queue(self, envelope: Envelope, host: Smarthost, nursery: trio.Nursery) -> None:
        """Gives it to a worker: the smarthost's own, or while that is at a large message a second one beside it."""
        own = self._queues.get((host, OWN))
        beside = own is not None and own.is_at_a_large_one and envelope.size <= LARGE and host not in self._not_beside
        lane = BESIDE if beside else OWN
        queue = self._queues.get((host, lane)) or self._open_lane(host, lane, nursery)
        queue.add(envelope)

    def _open_lane(self, host: Smarthost, lane: int, nursery: trio.Nursery) -> _Queue:
        queue = self._queues[host, lane] = _Queue()
        self._busy += 1
        nursery.start_soon(self._work, host, lane, nursery)
        return queue

    def _spread(self, host: Smarthost, queue: _Queue, idle_s: float, nursery: trio.Nursery) -> None:
        """Shares what waits for a server without CHUNKING among several connections, each in the same order: as many as
        fill the line while one idles for so long in each message, where their logins take less than they save."""
        count = len(queue.waiting)
        more = min(LANES - 1, count // LANE_LEAST)
        if more and (bytes_s := self.call.rate / 10):
            body_s = sum(e.size for e in queue.waiting) / count / bytes_s
            login_s = (LOGIN_BYTES if host.tls is Tls.NONE else TLS_LOGIN_BYTES) / bytes_s
            more = min(more, math.ceil(idle_s / max(body_s, A_MOMENT_S)), int(count * idle_s / login_s))
        if not more or host in self._not_beside or (host, BESIDE + 1) in self._queues:
            return
        all_of_it = list(queue.waiting)
        queue.waiting = deque(all_of_it[:: more + 1])
        for i in range(1, more + 1):
            self._open_lane(host, BESIDE + i, nursery).waiting.extend(all_of_it[i :: more + 1])

    # ---- what is in doubt
    def _is_to_be_looked_up(self, envelope: Envelope) -> bool:
        if envelope.id in self._looked_up or envelope.user not in self._sent_folders or not envelope.message_id:
            return False
        return any(r.state is RecipientState.IN_DOUBT for r in envelope.recipients)

    async def _look_up(self, user: str, envelopes: list[Envelope], nursery: trio.Nursery) -> None:
        """What the provider has taken is settled; the rest is sent again."""
        folder = self._sent_folders[user]
        held = await folder.holds(self.call, {e.message_id for e in envelopes})
        for envelope in envelopes:
            if envelope.message_id in held:
                verdict = Verdict(RecipientState.DELIVERED, f"250 it lies in {folder.account.sent_folder}")
                states = enumerate(envelope.recipients)
                verdicts = {i: verdict for i, r in states if r.state is RecipientState.IN_DOUBT}
                events.emit(events.FOUND_SENT, mail_id=envelope.id, host=folder.account.host)
                try:
                    with trio.fail_after(DISK_S, shield=True):
                        await self._outbox.settle(envelope, verdicts, host=folder.account.host)
                except (OSError, trio.TooSlowError) as error:
                    self._on_disk_failed(f"the disk failed: {error or 'too slow'}")
        self._claimed.difference_update(e.id for e in envelopes)
        self._dispatch(nursery)
        self._less_busy()

    def _fits(self, envelope: Envelope, paid_s: float) -> bool:
        """Whether a bulk message is through before the paid time is over, behind those that go already."""
        if self.call.rate and paid_s - LOGIN_S < (self._bulk_bytes + envelope.size) * 10 / self.call.rate:
            return False
        self._bulk_bytes += envelope.size
        return True

    def _leave(self, envelope: Envelope, *whys: str) -> None:
        self._outbox.left(envelope, "; ".join(whys))
        if not envelope.alert:  # for its sake no call is made again
            self._reasons.update(dict.fromkeys(whys))

    def _less_busy(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._done.set()

    # ---- one smarthost
    async def _work(self, host: Smarthost, lane: int, nursery: trio.Nursery) -> None:
        queue = self._queues[host, lane]
        try:
            while queue.waiting and not self._disk_failed:
                if not await self._one_connection(host, queue, nursery, beside=lane != OWN):
                    break
        finally:
            del self._queues[host, lane]
            # What is left goes to another smarthost, or is left with the reason.
            self._claimed.difference_update(e.id for e in queue.waiting)
        self._dispatch(nursery)
        self._less_busy()

    async def _one_connection(self, host: Smarthost, queue: _Queue, nursery: trio.Nursery, *, beside: bool) -> bool:
        """Whether another connection may be made to it. What goes wrong `beside` says nothing of the smarthost: some
        take one connection only."""
        password = self._secrets.get(host.secret, "")
        try:
            session = await SmtpSession.open(
                self.call,
                host,
                self._outbox,
                name=self._site_name,
                password=password,
                may_chunk=host not in self._no_chunking,
            )
        except SmarthostFailed as error:
            if beside:
                self._not_beside.add(host)
            else:
                self._host_failed(host, str(error))
            if error.login_refused:
                events.emit(
                    events.ACCOUNT_REFUSED, call_id=self.call.id, host=host.host, login=host.login, why=str(error)
                )
            return False
        if session.idle_trips and not beside:
            self._spread(host, queue, session.idle_trips * TRIP_S, nursery)
        self.call.show(f"{host.host}: sending")
        await session.carry(queue, lambda attempt: self._on_finished(attempt, host, nursery))
        if session.disk_failed:
            self._on_disk_failed(session.disk_failed)
        for attempt in reversed(session.unfinished):
            innocent = session.untouched or session.mishandled or not attempt.body_begun
            if attempt.unreadable or not innocent:
                self._leave(attempt.envelope, _at(host, session.failure or "a message could not be read"))
            else:
                queue.waiting.appendleft(attempt.envelope)
        if session.mishandled:
            self._no_chunking.add(host)
            events.emit(events.NO_CHUNKING, host=host.host, port=host.port, why=session.failure or "it refuses BDAT")
            return True
        if beside and session.failure:
            self._not_beside.add(host)
            return False
        if session.refused:
            self._host_failed(host, session.failure)
        elif session.failure and not session.answered:
            self._broken[host] = session.failure
        return not session.refused and (session.answered > 0 or not session.failure)

    def _host_failed(self, host: Smarthost, why: str) -> None:
        self._failed[host] = why
        self.call.show(f"{host.host}: {events.clean(why)}")
        events.emit(events.SMARTHOST_FAILED, call_id=self.call.id, host=host.host, port=host.port, why=why)

    def _on_disk_failed(self, why: str) -> None:
        self._disk_failed = why
        self._reasons[why] = None
        for queue in self._queues.values():
            queue.waiting.clear()

    # ---- verdicts
    def _on_finished(self, attempt: Attempt, host: Smarthost, nursery: trio.Nursery) -> None:
        self._busy += 1
        nursery.start_soon(self._settle, attempt, host, nursery)

    async def _settle(self, attempt: Attempt, host: Smarthost, nursery: trio.Nursery) -> None:
        envelope = attempt.envelope
        verdicts = {
            # A reply given before the end of data says nothing of a copy that an earlier attempt left in doubt.
            i: _verdict(
                reply,
                keeps_doubt=not (attempt.end_sent and i in attempt.accepted) and i not in attempt.doubt_noted,
                reports=attempt.reports,
            )
            for i, reply in zip(attempt.recipients, attempt.replies, strict=True)
            if not (attempt.more and reply.soft)  # too many at once: tried again in this call, and no verdict
        }
        states = {v.state for v in verdicts.values()}
        if RecipientState.DELIVERED in states and RecipientState.QUEUED not in states and not attempt.more:
            self.call.count(sent=1, user=envelope.user, size=envelope.size)
        if RecipientState.FAILED in states:
            self.call.count(failed=1)
        for state, event in ((RecipientState.DELIVERED, events.SENT), (RecipientState.QUEUED, events.DEFERRED)):
            who = [envelope.recipients[i].address for i, v in verdicts.items() if v.state is state]
            if who:
                reply = next(v.reply for v in verdicts.values() if v.state is state)
                events.emit(event, mail_id=envelope.id, recipients=", ".join(who), host=host.host, reply=reply)
                self.call.show(f"{envelope.id}: {state}, {len(who)} of {len(verdicts)} recipients, {host.host}")
        try:
            with trio.fail_after(DISK_S, shield=True):
                await self._outbox.settle(envelope, verdicts, host=host.host)
        except (OSError, trio.TooSlowError) as error:
            self._on_disk_failed(f"the disk failed: {error or 'too slow'}")
        self._outbox.sending(envelope, False)
        if attempt.more:
            self._claimed.discard(envelope.id)
            self._dispatch(nursery)
        self._less_busy()


def _at(host: Smarthost, why: str) -> str:
    return f"{host.host}:{host.port}: {why}"


def _verdict(reply: Reply, *, keeps_doubt: bool, reports: bool) -> Verdict:
    if reply.ok:
        state = RecipientState.DELIVERED
    elif reply.permanent:
        state = RecipientState.FAILED
    else:
        state = RecipientState.QUEUED
    return Verdict(state, events.clean(reply.text), keeps_doubt, reports)
