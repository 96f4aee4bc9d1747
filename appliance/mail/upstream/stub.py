"""What a user gets in place of a message that is too large to be fetched unasked: its header and first lines, its size,
and how to get the rest (DESIGN §2 Stub). Pure: bytes in, a message out.

It is a message of our own, so the stdlib's `email` makes it, and reads what came leniently. Its Message-ID is not the
large message's, or a mail program would hide one of the two when both are there.
"""

from __future__ import annotations

import email
import email.policy
import re
from email.errors import MessageError
from email.message import EmailMessage, Message
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from appliance import events

if TYPE_CHECKING:
    from appliance.mail.stubs import StubTerms

__all__ = ["make_stub"]

SHOWN_LINES: Final = 20
SHOWN: Final = 1200
"""Lines and characters of the body that are shown at most."""

MAX_FIELD: Final = 900
"""Characters of a field that is copied: a line has 998 at most (RFC 5322 §2.1.1)."""

_COPIED: Final = ("From", "Sender", "To", "Cc", "Date")


def make_stub(head: bytes, *, size: int, token: str, terms: StubTerms, now: float) -> bytes:
    """`head`: the message's header and the beginning of its body, or b"" where the server shows neither; `size` in
    octets as the server counts; -> the stub with CRLF line ends."""
    original = email.message_from_bytes(head, policy=email.policy.compat32)
    stub = EmailMessage(policy=email.policy.SMTP)
    for name in _COPIED:
        value = _unfolded(original, name)
        if value:
            # As it stood, encoded words and all: an address is not ours to parse and write again.
            stub._headers.append((name, value))  # type: ignore[attr-defined]
    if "From" not in stub:
        stub["From"] = f"Mail Delivery System <MAILER-DAEMON@{terms.hostname}>"
    if "Date" not in stub:
        stub["Date"] = formatdate(now)
    subject = _unfolded(original, "Subject")
    stub._headers.append(("Subject", f"[{_size(size)} upstream] {subject}".rstrip()))  # type: ignore[attr-defined]
    stub["Reply-To"] = f"get-{token}@{terms.domain}"
    stub["Message-ID"] = f"<{token}.stub@{terms.hostname}>"
    stub["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: so that nobody's absence notice asks for it
    stub["X-Posthouse-Stub"] = f"{token}; size={size}"
    stub.set_content(_text(original, head, size, token, terms), cte="quoted-printable")
    header = head.partition(b"\r\n\r\n")[0]
    if header:
        stub.add_attachment(header + b"\r\n", "text", "rfc822-headers", disposition="inline", cte="quoted-printable")
    return stub.as_bytes(policy=email.policy.SMTP)


def _unfolded(message: Message, name: str) -> str:
    """One field's value on one line, ASCII: bytes beyond are shown as `?`."""
    value = message.get(name)
    text = re.sub(r"\s*[\r\n]+\s*", " ", str(value)) if value is not None else ""
    return events.clean(text).encode("ascii", "replace").decode().strip()[:MAX_FIELD]


def _text(original: Message, head: bytes, size: int, token: str, terms: StubTerms) -> str:
    shown = _beginning(original)
    return "\n".join(
        [
            f"This message has {_size(size)} ({size} bytes), more than is fetched without being asked for.",
            "Only its header and its first lines are here; the message itself waits at the provider.",
            "",
            "To get it with the next call: reply to this message (to " + f"get-{token}@{terms.domain}" + "),",
            f"or `posthouse queue fetch {token}`. The whole message then takes the place of this one.",
            f"To have it deleted there, unread: write to delete-{token}@{terms.domain}",
            "What such a mail says does not matter, and nothing of it is sent on.",
            "",
            *(["It begins:", "", shown] if shown else ["The server shows nothing of it." if not head else ""]),
            "",
        ]
    )


def _beginning(original: Message) -> str:
    """The first lines of text that can be made out; "" where there are none."""
    try:
        part = next((p for p in original.walk() if p.get_content_maintype() == "text"), None)
        payload = part.get_payload(decode=True) if part is not None else None
        if part is None or not isinstance(payload, bytes):
            return ""
        text = payload.decode(part.get_content_charset() or "utf-8", "replace")
        if part.get_content_subtype() == "html":
            text = re.sub(r"(?is)<(style|script)\b.*?(</\1>|\Z)|<[^>]*(>|\Z)", " ", text)
    except (LookupError, MessageError, ValueError):
        return ""
    lines = [events.clean(line).rstrip() for line in text.splitlines()]
    return "\n".join(lines[:SHOWN_LINES]).strip()[:SHOWN]


def _size(size: int) -> str:
    return f"{size / 1048576:.1f} MB" if size >= 1048576 else f"{max(1, round(size / 1024))} KB"
