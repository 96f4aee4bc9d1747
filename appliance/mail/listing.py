"""A message as `posthouse queue --json` prints it (DESIGN §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.clock import rfc3339

if TYPE_CHECKING:
    from appliance.mail.envelope import Envelope
    from appliance.mail.office import PostOffice

__all__ = ["list_message"]


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
