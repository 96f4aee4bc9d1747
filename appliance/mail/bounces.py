"""Bounces: what a submitting user is told when a recipient failed for good (RFC 3464, 3461, 6522).

Made with the standard library's email package, since these are messages of our own. The null sender never gets one
(RFC 5321 §4.5.5), nor one who said NOTIFY=NEVER or left FAILURE out (RFC 3461 §4.1); RET decides how much of the
message goes back (RFC 3461 §4.3). A bounce never uses the line.
"""

from __future__ import annotations

import re
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from appliance import events
from appliance.protocol.smtp_syntax import SyntaxProblem, decode_xtext

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.mail.envelope import Envelope, Recipient

__all__ = ["MAX_RETURNED", "make_bounce", "wants_bounce"]

MAX_RETURNED: Final = 64 * 1024
"""A message up to this size goes back whole; of a larger one only the header (RFC 3461 §4.3 leaves it to us)."""

_STATUS: Final = re.compile(r"[245][0-9][0-9][ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s|$)")


def wants_bounce(recipient: Recipient) -> bool:
    """Whether a failure of this recipient is to be reported (RFC 3461 §4.1; without NOTIFY it is)."""
    return not recipient.notify or "FAILURE" in recipient.notify.upper().split(",")


def make_bounce(
    envelope: Envelope, failed: Sequence[Recipient], message: Path, *, hostname: str, to: str, now: float
) -> bytes:
    """The report as bytes, CRLF line ends. `message`: where the failed message's bytes lie. Raises OSError."""
    returned, whole = _returned(envelope, message)
    bounce = MIMEMultipart("report", report_type="delivery-status")
    bounce["From"] = f"Mail Delivery System <MAILER-DAEMON@{hostname}>"
    bounce["To"] = to
    bounce["Subject"] = "Undelivered mail returned to sender"
    bounce["Date"] = formatdate(now, localtime=False)
    bounce["Message-ID"] = make_msgid(domain=hostname)
    bounce["Auto-Submitted"] = "auto-replied"  # RFC 3834 §5
    if envelope.message_id.isascii() and envelope.message_id.isprintable():
        bounce["References"] = envelope.message_id
    bounce.attach(MIMEText(_explanation(failed)))
    bounce.attach(_status_part(envelope, failed, hostname, now))
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


def _explanation(failed: Sequence[Recipient]) -> str:
    lines = [
        "Your message could not be delivered to the following recipients,",
        "and it will not be tried again:",
        "",
    ]
    for recipient in failed:
        lines += [f"    <{events.clean(recipient.address)}>", f"        {events.clean(recipient.reply)}", ""]
    lines += ["The message itself, or its header, is attached.", ""]
    return "\n".join(lines)


def _status_part(envelope: Envelope, failed: Sequence[Recipient], hostname: str, now: float) -> Message:
    """message/delivery-status (RFC 3464 §2.1): fields of the message, then a group for each recipient."""
    part = Message()
    part["Content-Type"] = "message/delivery-status"
    groups = Message()
    groups["Reporting-MTA"] = f"dns; {_ascii(hostname)}"
    if envelope.envid:
        groups["Original-Envelope-Id"] = _ascii(_decoded(envelope.envid))
    groups["Arrival-Date"] = formatdate(envelope.received, localtime=False)
    parts: list[Message | str] = [groups]
    for recipient in failed:
        group = Message()
        if recipient.orcpt:
            group["Original-Recipient"] = _original(recipient.orcpt)
        kind = "rfc822" if recipient.address.isascii() else "utf-8"
        group["Final-Recipient"] = f"{kind}; {_ascii(recipient.address)}"
        group["Action"] = "failed"
        group["Status"] = _status(recipient.reply)
        group["Diagnostic-Code"] = f"smtp; {_ascii(recipient.reply)}"
        group["Last-Attempt-Date"] = formatdate(now, localtime=False)
        parts.append(group)
    part.set_payload(parts)
    return part


def _status(reply: str) -> str:
    """The server's own enhanced status code, else what its reply code's first digit says (RFC 3463 §3.1)."""
    found = _STATUS.match(reply)
    return found[1] if found else f"{'4' if reply.startswith('4') else '5'}.0.0"


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


def _returned(envelope: Envelope, message: Path) -> tuple[bytes, bool]:
    """The message's bytes and True, or its header's and False."""
    whole = envelope.size <= MAX_RETURNED and envelope.ret != "HDRS"
    with message.open("rb") as file:
        data = file.read(MAX_RETURNED)
    return (data, True) if whole else (data.partition(b"\r\n\r\n")[0] + b"\r\n", False)


def _decoded(xtext: str) -> str:
    try:
        return decode_xtext(xtext)
    except ValueError:
        return xtext
