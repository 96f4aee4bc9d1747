"""What a submitting user is told of his message (RFC 3464, 3461, 6522): that a recipient failed for good (a bounce),
that it still waits, or, where he asked for it, that it was delivered or handed to a server that will not say.

Made with the standard library's email package, since these are messages of our own. The null sender never gets one
(RFC 5321 §4.5.5), nor one whose NOTIFY does not name its kind (RFC 3461 §4.1); RET decides how much of a failed message
goes back, of all others it is the header (RFC 3461 §4.3). A report never uses the line.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from appliance import events
from appliance.mail.envelope import Recipient, RecipientState
from appliance.protocol.smtp_syntax import SyntaxProblem, decode_xtext

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.mail.envelope import Delay, Envelope

__all__ = ["DELAYED", "DELIVERED", "FAILED", "MAX_RETURNED", "RELAYED", "Kind", "make_report", "wants_report"]

MAX_RETURNED: Final = 64 * 1024
"""A message up to this size goes back whole; of a larger one only the header (RFC 3461 §4.3 leaves it to us)."""

DIAGNOSTIC_TYPE: Final = "X-Posthouse"

_STATUS: Final = re.compile(r"[245][0-9][0-9][ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s|$)")
_SAID: Final = re.compile(r"\b[245][0-9][0-9][ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Kind:
    """`action` as RFC 3464 §2.3.3 has it; the `word` of NOTIFY that asks for it (RFC 3461 §4.1), and whether it is sent
    `unasked`, where there is no NOTIFY; `status`: of a reply that names none. `said` and `ends` are for a person."""

    action: str
    word: str
    unasked: bool
    status: str
    subject: str
    said: str
    ends: str


FAILED: Final = Kind(
    "failed", "FAILURE", True, "5.0.0", "Undelivered mail returned to sender",
    "Your message could not be delivered to the following recipients,\nand it will not be tried again:",
    "The message itself, or its header, is attached.",
)  # fmt: skip
DELAYED: Final = Kind(
    "delayed", "DELAY", True, "4.4.0", "Delayed mail (it is still being tried)",
    "Your message still waits to be sent to the following recipients.\nYou need not send it again:",
    "Its header is attached.",
)  # fmt: skip
DELIVERED: Final = Kind(
    "delivered", "SUCCESS", False, "2.0.0", "Delivered mail",
    "Your message has been put into the mailboxes of the following recipients:",
    "Its header is attached.",
)  # fmt: skip
RELAYED: Final = Kind(
    "relayed", "SUCCESS", False, "2.0.0", "Mail handed on",
    "Your message has been handed to a server that does not report what becomes\n"
    "of it, for the following recipients:",
    "Its header is attached.",
)  # fmt: skip


def wants_report(kind: Kind, recipient: Recipient) -> bool:
    """Whether this is to be reported of this recipient (RFC 3461 §4.1)."""
    words = recipient.notify.upper().split(",") if recipient.notify else []
    return kind.word in words if words else kind.unasked


def make_report(
    kind: Kind,
    envelope: Envelope,
    recipients: Sequence[Recipient],
    message: Path,
    *,
    hostname: str,
    to: str,
    now: float,
    until: float | None = None,
    delay: Delay | None = None,
) -> bytes:
    """The report as bytes, CRLF line ends. `message`: where the message's bytes lie. Of one that is delayed: `until`
    when it is tried (Unix seconds), and what is known of its `delay`. Raises OSError."""
    returned, whole = _returned(envelope, message, whole=kind is FAILED)
    bounce = MIMEMultipart("report", report_type="delivery-status")
    bounce["From"] = f"Mail Delivery System <MAILER-DAEMON@{hostname}>"
    bounce["To"] = to
    bounce["Subject"] = kind.subject
    bounce["Date"] = formatdate(now, localtime=False)
    bounce["Message-ID"] = make_msgid(domain=hostname)
    bounce["Auto-Submitted"] = "auto-replied"  # RFC 3834 §5
    if envelope.message_id.isascii() and envelope.message_id.isprintable():
        bounce["References"] = envelope.message_id
    bounce.attach(MIMEText(_explanation(kind, envelope, recipients, delay)))
    bounce.attach(_status_part(kind, envelope, recipients, hostname, now, until, delay))
    # What goes back is not ours to parse and put together again: its bytes are laid in behind a mark.
    mark = token_hex(16)
    part = Message()
    part["Content-Type"] = "message/rfc822" if whole else "text/rfc822-headers"
    if not returned.isascii():
        part["Content-Transfer-Encoding"] = "8bit"
    part.set_payload(mark)
    bounce.attach(part)
    policy = SMTP if to.isascii() else SMTPUTF8
    return bounce.as_bytes(policy=policy).replace(mark.encode(), returned, 1)


def _explanation(kind: Kind, envelope: Envelope, recipients: Sequence[Recipient], delay: Delay | None) -> str:
    lines = [kind.said, ""]
    for recipient in recipients:
        lines.append(f"    <{events.clean(recipient.address)}>")
        if recipient.reply:
            lines.append(f"        {events.clean(recipient.reply)}")
        if recipient.state is RecipientState.IN_DOUBT:
            lines.append("        It may have arrived: the line dropped before the server's answer came.")
        lines.append("")
    if delay is not None and (why := _why(envelope, delay)):
        lines += ["Why it waits:", *(textwrap.fill(events.clean(s), 72, break_long_words=False) for s in why), ""]
    return "\n".join([*lines, kind.ends, ""])


def _why(envelope: Envelope, delay: Delay) -> list[str]:
    """What keeps a message here, as sentences, beside what servers have said of its recipients."""
    return [*([f"When it was to be sent: {envelope.left}."] if envelope.left else []), *delay.sentences]


def _status_part(
    kind: Kind,
    envelope: Envelope,
    recipients: Sequence[Recipient],
    hostname: str,
    now: float,
    until: float | None,
    delay: Delay | None,
) -> Message:
    """message/delivery-status (RFC 3464 §2.1): fields of the message, then a group for each recipient."""
    part = Message()
    part["Content-Type"] = "message/delivery-status"
    groups = Message()
    groups["Reporting-MTA"] = f"dns; {_ascii(hostname)}"
    if envelope.envid:
        groups["Original-Envelope-Id"] = _ascii(_decoded(envelope.envid))
    groups["Arrival-Date"] = formatdate(envelope.received, localtime=False)
    parts: list[Message | str] = [groups]
    for recipient in recipients:
        group = Message()
        if recipient.orcpt:
            group["Original-Recipient"] = _original(recipient.orcpt)
        form = "rfc822" if recipient.address.isascii() else "utf-8"
        group["Final-Recipient"] = f"{form}; {_ascii(recipient.address)}"
        group["Action"] = kind.action
        group["Status"], diagnostic = _diagnosis(kind, envelope, recipient, delay)
        if diagnostic:
            group["Diagnostic-Code"] = diagnostic
        if kind is FAILED:
            group["Last-Attempt-Date"] = formatdate(now, localtime=False)
        elif kind is DELAYED and envelope.tried_at is not None:
            group["Last-Attempt-Date"] = formatdate(envelope.tried_at, localtime=False)
        if kind is DELAYED and until is not None:
            group["Will-Retry-Until"] = formatdate(until, localtime=False)
        parts.append(group)
    part.set_payload(parts)
    return part


def _diagnosis(kind: Kind, envelope: Envelope, recipient: Recipient, delay: Delay | None) -> tuple[str, str]:
    """Status and Diagnostic-Code of a recipient (RFC 3464 §2.3.4, §2.3.6). What no server has said of a message that
    waits is of a diagnostic-type of our own."""
    if recipient.reply or kind is FAILED:
        return _status(kind, recipient.reply), f"smtp; {_ascii(recipient.reply)}"
    if kind is not DELAYED or delay is None:
        return kind.status, ""
    sentences = _why(envelope, delay)
    status = delay.status
    if envelope.left and not delay.failing and (found := _SAID.search(envelope.left)):
        status = f"4{found[1][1:]}"  # a login that is refused for good: for the message it is a delay
    return status, f"{DIAGNOSTIC_TYPE}; {_ascii(' '.join(sentences))}" if sentences else ""


def _status(kind: Kind, reply: str) -> str:
    """The server's own enhanced status code, else what its reply code's first digit says (RFC 3463 §3.1)."""
    found = _STATUS.match(reply)
    if found:
        return found[1]
    return "4.0.0" if reply.startswith("4") else kind.status


def _original(orcpt: str) -> str:
    """ORCPT as it came, its xtext undone (RFC 3461 §4.2)."""
    kind, _, value = orcpt.partition(";")
    try:
        value = decode_xtext(value)
    except SyntaxProblem:
        pass  # UTF-8 as it stands (RFC 6533 §3)
    return f"{_ascii(kind)};{_ascii(value)}"


def _ascii(text: str) -> str:
    """One line of a field of message/delivery-status, which is ASCII: what is beyond as RFC 6533 §3 writes it."""
    return "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in events.clean(text))


def _returned(envelope: Envelope, message: Path, *, whole: bool) -> tuple[bytes, bool]:
    """The message's bytes and True, where `whole` allows; or its header's and False."""
    whole = whole and envelope.size <= MAX_RETURNED and envelope.ret != "HDRS"
    with message.open("rb") as file:
        data = file.read(MAX_RETURNED)
    return (data, True) if whole else (data.partition(b"\r\n\r\n")[0] + b"\r\n", False)


def _decoded(xtext: str) -> str:
    try:
        return decode_xtext(xtext)
    except ValueError:
        return xtext
