"""The queue as `posthouse queue --json` and `posthouse status --json` print it (DESIGN §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.clock import rfc3339

if TYPE_CHECKING:
    from appliance.mail.envelope import Envelope
    from appliance.mail.office import PostOffice

__all__ = ["list_message", "queue_figures"]


def list_message(office: PostOffice, envelope: Envelope) -> dict[str, Any]:
    """`id`, `sender`, `recipients`, `size`, `received`, `priority`, `state`, `attempts`."""
    return {
        "id": envelope.id,
        "sender": envelope.sender,
        "recipients": [{"address": r.address, "state": r.state.value, "reply": r.reply} for r in envelope.recipients],
        "size": envelope.size,
        "received": rfc3339(envelope.received),
        "priority": envelope.priority.value,
        "state": office.state_of(envelope).value,
        "attempts": envelope.attempts,
    }


def queue_figures(office: PostOffice, now: float) -> dict[str, Any]:
    """`messages`, `bytes`, `oldest_s` (null where nothing waits), `in_doubt`, `held`, `bulk`; `now` in Unix seconds."""
    waiting = list(office.spool.messages.values())
    states = [office.state_of(e).value for e in waiting]
    oldest = min((e.received for e in waiting if not e.held), default=None)
    return {
        "messages": len(waiting),
        "bytes": sum(e.size for e in waiting),
        "oldest_s": None if oldest is None else max(0, round(now - oldest)),
        "in_doubt": states.count("in-doubt"),
        "held": states.count("held"),
        "bulk": sum(office.is_bulk(e) and not e.held for e in waiting),
    }
