"""An Outbox in memory that keeps to the contract's obligations and checks the sender's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import trio

from appliance.config.model import Smarthost
from appliance.mail.envelope import Envelope, Priority, Recipient, RecipientState, Verdict


class FakeOutbox:
    """`log` has every durable operation as (name, id, detail). `fail` names operations that raise OSError; `gate`
    is awaited by `in_doubt` before it is durable."""

    def __init__(self, folder: Path, smarthosts: Sequence[Smarthost]) -> None:
        self.folder = folder
        self.smarthosts = list(smarthosts)
        self.messages: dict[str, Envelope] = {}
        self.gone: dict[str, Envelope] = {}
        self.log: list[tuple[str, str, object]] = []
        self.fail: set[str] = set()
        self.limits: dict[str, int] = {}
        self.gate: Callable[[], object] | None = None
        self._changed = trio.Event()

    def put(self, id: str, data: bytes, *to: str, sender: str = "hanako@harbour.example", **more: object) -> Envelope:
        (self.folder / f"{id}.eml").write_bytes(data)
        recipients = [Recipient(t) for t in to or (f"{id}@far.example",)]
        envelope = Envelope(id, sender, recipients, 0.0, size=len(data), **more)  # type: ignore[arg-type]
        self.messages[id] = envelope
        self._changed.set()
        self._changed = trio.Event()
        return envelope

    def states(self, id: str) -> list[str]:
        return [r.state.value for r in (self.messages.get(id) or self.gone[id]).recipients]

    # ---- the contract
    def pending(self, *, without: Collection[str] = (), bulk: bool = True) -> list[Envelope]:
        ready = [m for m in self.messages.values() if m.id not in without and m.open_recipients() and not m.held]
        return [m for m in ready if bulk or not self.goes_in_paid_time(m)]

    def goes_in_paid_time(self, envelope: Envelope) -> bool:
        return envelope.priority is Priority.NON_URGENT

    def smarthosts_for(self, envelope: Envelope) -> Sequence[Smarthost]:
        return [s for s in self.smarthosts if "*" in s.senders or envelope.sender in s.senders]

    def path(self, envelope: Envelope) -> Path:
        return self.folder / f"{envelope.id}.eml"

    def sending(self, envelope: Envelope, on: bool) -> None:
        envelope.sending = on

    def left(self, envelope: Envelope, why: str) -> None:
        envelope.left = why

    async def in_doubt(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        await self._durable("in_doubt")
        if self.gate is not None:
            await self.gate()  # type: ignore[misc]
        assert recipients
        for i in recipients:
            assert envelope.recipients[i].open
            envelope.recipients[i].state = RecipientState.IN_DOUBT
        self.log.append(("in_doubt", envelope.id, tuple(recipients)))

    async def not_sent(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        await self._durable("not_sent")
        for i in recipients:
            if envelope.recipients[i].state is RecipientState.IN_DOUBT:  # `in_doubt` may have failed
                envelope.recipients[i].state = RecipientState.QUEUED
        self.log.append(("not_sent", envelope.id, None))

    async def settle(self, envelope: Envelope, verdicts: Mapping[int, Verdict], *, host: str) -> None:
        await self._durable("settle")
        for i, verdict in verdicts.items():
            recipient = envelope.recipients[i]
            assert recipient.open
            doubt = verdict.keeps_doubt and recipient.state is RecipientState.IN_DOUBT
            still = doubt and verdict.state is RecipientState.QUEUED
            recipient.state, recipient.reply = RecipientState.IN_DOUBT if still else verdict.state, verdict.reply
        envelope.attempts += 1
        self.log.append(("settle", envelope.id, {i: v.state.value for i, v in verdicts.items()}))
        if not envelope.open_recipients():
            self.gone[envelope.id] = self.messages.pop(envelope.id)

    async def wait_pending(self, *, without: Collection[str], bulk: bool = True) -> None:
        while not self.pending(without=without, bulk=bulk):
            await self._changed.wait()

    def note_server_limit(self, smarthost: Smarthost, size: int) -> None:
        self.limits[smarthost.host] = size

    async def _durable(self, name: str) -> None:
        for _ in range(20):  # a disk is slow, as tasks go
            await trio.lowlevel.checkpoint()
        if name in self.fail:
            raise OSError(5, f"{name}: the disk is gone")
