"""The contracts between the mail that is kept (`store/`, `office.py`) and those who move it (`upstream/`), with
the obligations of each side written down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from appliance.config.model import Smarthost
    from appliance.mail.envelope import Envelope, Verdict
    from appliance.storage.draft import Draft

__all__ = ["Inbox", "Outbox"]


class Outbox(Protocol):
    """The queue, as a sender sees it. Every `async` method is durable when it returns and raises OSError when the
    disk failed; the sender then stops sending, for it no longer knows what would be remembered."""

    def pending(self, *, without: Collection[str] = (), bulk: bool = True) -> list[Envelope]:
        """The messages that may go now, in the order in which they should: not held, with open recipients, their
        id not in `without`. In-doubt ones are among them and are sent again. Without `bulk`, none that
        `goes_in_paid_time`."""
        ...

    def goes_in_paid_time(self, envelope: Envelope) -> bool:
        """Whether it is bulk mail, and not so old that it goes whatever that costs (DESIGN §2 Bulk)."""
        ...

    def smarthosts_for(self, envelope: Envelope) -> Sequence[Smarthost]:
        """Who may carry it, in the order to try them while connecting or login fails."""
        ...

    def path(self, envelope: Envelope) -> Path:
        """Where its bytes lie, CRLF line ends, no dots doubled, as they go out (the last line may lack its end)."""
        ...

    def sending(self, envelope: Envelope, on: bool) -> None:
        """Shows it as being sent, or no longer. In memory only."""
        ...

    def left(self, envelope: Envelope, why: str) -> None:
        """Notes why this call leaves a message here, of which no server has said anything. In memory only."""
        ...

    async def in_doubt(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        """Records that these recipients' copy may arrive from now on. The sender calls it, and waits for it, before
        the last byte of the message (its end of data) goes out."""
        ...

    async def not_sent(self, envelope: Envelope, recipients: Sequence[int]) -> None:
        """Takes back what this attempt's `in_doubt` said of these recipients: the last byte never left this machine.
        Not for what merely got no answer, nor for a doubt that an earlier attempt left."""
        ...

    async def settle(self, envelope: Envelope, verdicts: Mapping[int, Verdict], *, host: str) -> None:
        """Records a completed attempt's verdicts by recipient index; a failed one bounces; a message without open
        recipients leaves the queue. A recipient without a verdict stays as it is."""
        ...

    async def wait_pending(self, *, without: Collection[str], bulk: bool = True) -> None:
        """Returns once `pending(without=…, bulk=…)` is not empty."""
        ...

    def note_server_limit(self, smarthost: Smarthost, size: int) -> None:
        """The SIZE in bytes that a smarthost named in its EHLO (RFC 1870); 0: none. In memory only."""
        ...


class Inbox(Protocol):
    """One user's mailbox, as a fetcher sees it."""

    user: str

    def has_room(self, size: int) -> bool:
        """Whether a message of that size fits the quota."""
        ...

    def disk_has_room(self, size: int) -> bool:
        """Whether the disk takes that many bytes more beyond its reserve (DESIGN §7). What a draft has is on it."""
        ...

    def draft(self) -> Draft:
        """A file to stream a message into. The fetcher delivers or discards it."""
        ...

    async def deliver(self, draft: Draft, *, key: str, replaces: str = "") -> None:
        """Puts the message into the mailbox, durably, and takes away what lies there under the key `replaces`. `key`
        (at most 32 characters of a-z 0-9) names where it came from; it stays with the message, so that a power cut
        between this and the fetcher's own record leaves no second copy: see `delivered_keys`."""
        ...

    def delivered_keys(self) -> set[str]:
        """The keys of the messages that lie in the mailbox now."""
        ...
