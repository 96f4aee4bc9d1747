"""Mail that Posthouse writes by itself: status and alarms (DESIGN §5 `[alerts]`).

Such a message goes through the post office like any other, into a mailbox or into the spool, and with the next call to
its smarthost. But it never causes a call, nor makes one count as failed (`Envelope.alert`): who is told that the money
is gone does not want it spent on telling him.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.mail.envelope import Envelope, Recipient

if TYPE_CHECKING:
    from appliance.clock import Clock
    from appliance.mail.office import PostOffice

__all__ = ["post"]

CLIENT = "posthouse"
"""Where `accepted` has an address otherwise."""


async def post(
    office: PostOffice, clock: Clock, *, kind: str, sender: str, to: str, site: str, subject: str, text: str
) -> str:
    """Puts one message where it belongs, durably; -> "", or why it can't. One of the same `kind` that still waits to be
    sent gives way to it. Raises OSError."""
    now = clock.now()
    envelope = Envelope(
        id=office.spool.new_id(),
        sender=sender,
        recipients=[],
        received=now.wall,
        boot=now.boot,
        boot_id=now.boot_id if clock.trusted else "",
        client=CLIENT,
        alert=kind,
    )
    submission = office.begin(envelope)
    if refusal := office.add(submission, Recipient(to)):
        return refusal.text
    data = office.return_path(submission) + _message(
        envelope, sender=sender, to=to, site=site, subject=subject, text=text, hostname=office.hostname
    )
    if not office.has_room(len(data)):
        return "the disk is full"
    before = [e for e in office.spool.messages.values() if e.alert == kind and not e.sending and not e.held]
    draft = office.spool.draft(envelope.id)
    draft.write_nowait(data)
    try:
        await office.accept(submission, draft)
    except OSError:
        await draft.discard()
        raise
    for old in before:
        if not old.sending:
            await office.spool.remove(old)
    return ""


def _message(envelope: Envelope, *, sender: str, to: str, site: str, subject: str, text: str, hostname: str) -> bytes:
    """CRLF line ends, quoted-printable or ASCII: it goes through any server."""
    from email.message import EmailMessage  # costs 3 MB: only when needed
    from email.policy import SMTP, SMTPUTF8
    from email.utils import formatdate

    message = EmailMessage(policy=SMTP if (sender + to).isascii() else SMTPUTF8)
    envelope.message_id = f"<{envelope.id}@{hostname}>"
    envelope.smtputf8 = not (sender + to).isascii()
    message["From"] = f"Posthouse at {site} <{sender}>"
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = formatdate(envelope.received, localtime=False)
    message["Message-ID"] = envelope.message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5
    message["Precedence"] = "bulk"
    message.set_content(text, cte="quoted-printable" if not text.isascii() else "7bit")
    return message.as_bytes()
