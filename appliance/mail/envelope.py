"""A message's envelope and what has become of each recipient. Plain data; `store/spool.py` keeps it durably.

States (DESIGN §6): a message is queued, bulk, held, sending or in-doubt; a recipient queued, in-doubt,
delivered or failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Delay", "Envelope", "MessageState", "Priority", "Recipient", "RecipientState", "Verdict"]


class Priority(StrEnum):
    URGENT = "urgent"
    NORMAL = "normal"
    NON_URGENT = "non-urgent"


class MessageState(StrEnum):
    QUEUED = "queued"
    BULK = "bulk"
    HELD = "held"
    SENDING = "sending"
    IN_DOUBT = "in-doubt"


class RecipientState(StrEnum):
    QUEUED = "queued"
    IN_DOUBT = "in-doubt"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(slots=True)
class Recipient:
    """One RCPT TO. `reply`: the last one that a server gave for it ("" before any). `notify`, `orcpt`: RFC 3461's
    parameters as they came, to be passed on."""

    address: str
    state: RecipientState = RecipientState.QUEUED
    reply: str = ""
    notify: str = ""
    orcpt: str = ""

    @property
    def open(self) -> bool:
        """Whether it still has to be sent."""
        return self.state in (RecipientState.QUEUED, RecipientState.IN_DOUBT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a server said of a recipient: `state` DELIVERED, FAILED (permanent) or QUEUED (try again in the next
    call), and its reply as one line, enhanced status code included. `keeps_doubt`: it was given before the end of data,
    and so says nothing of a copy that an earlier attempt left in doubt. `reports`: the server knows DSN, and so tells
    the sender by itself what he asked to be told (RFC 3461 §5.2)."""

    state: RecipientState
    reply: str
    keeps_doubt: bool = False
    reports: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Why mail still waits, as far as the line goes: sentences for a person, and the status code (RFC 3463). `failing`:
    the last call carried nothing, so that what an earlier one met is not what keeps the mail here."""

    sentences: tuple[str, ...] = ()
    status: str = "4.4.0"
    failing: bool = False


@dataclass(slots=True)
class Envelope:
    """One accepted message. Owned by the spool, which alone changes it; others read.

    `received`: wall clock, Unix seconds; `boot`, `boot_id`: the same moment on the boot clock (`clock.Mark`), "" where
    the wall clock was not trusted then. `user`: who submitted it by login, "" from a trusted network.
    `body`: "", "7BIT" or "8BITMIME"; `smtputf8`, `ret`, `envid`: as given at MAIL FROM (RFC 6152, 6531, 3461);
    `mt_priority`: RFC 6710's number. `attempts` counts completed tries at a server; `tried_at` is the wall clock
    of the last one; `warned`: its sender knows that it is late. `size` and `crc32` are of the bytes in `ID.eml`, which
    are those that go out. `alert`: which of Posthouse's own alerts it is ("" for mail): it causes no call. `left`: why
    the last call that could have carried it did not ("" where a server's reply says so, and after a restart).
    """

    id: str
    sender: str
    recipients: list[Recipient]
    received: float
    user: str = ""
    priority: Priority = Priority.NORMAL
    size: int = 0
    crc32: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    mt_priority: int | None = None
    message_id: str = ""
    client: str = ""
    boot: float = 0.0
    boot_id: str = ""
    held: bool = False
    attempts: int = 0
    tried_at: float | None = None
    warned: bool = False
    alert: str = ""
    sending: bool = field(default=False, compare=False)
    left: str = field(default="", compare=False)

    def open_recipients(self) -> list[int]:
        """The indexes of those that still have to be sent."""
        return [i for i, r in enumerate(self.recipients) if r.open]
