"""A command of IMAP on its way: what it asks, how it is written, and what of its answer has come. Pure."""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from appliance.protocol.imap_syntax import quotable, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from appliance.protocol.imap_events import Listed

__all__ = ["ALONE", "BEHIND", "Ask", "Command", "compose", "plain_login"]

LITERAL_MINUS: Final = 4096
"""The longest literal that goes out without being asked for under LITERAL- (RFC 7888 §5)."""


class Ask(StrEnum):
    CAPABILITY = "CAPABILITY"
    STARTTLS = "STARTTLS"
    LOGIN = "the login"
    ENABLE = "ENABLE"
    SELECT = "SELECT"
    COMPRESS = "COMPRESS"
    SEARCH = "SEARCH"
    SIZES = "FETCH of sizes"
    HEADERS = "FETCH of headers"
    BODIES = "FETCH"
    STORE = "STORE"
    EXPUNGE = "EXPUNGE"
    LOGOUT = "LOGOUT"


ALONE: Final = frozenset({Ask.STARTTLS, Ask.LOGIN, Ask.SELECT, Ask.COMPRESS})
"""Those behind which nothing goes out before they are answered."""
BEHIND: Final = {
    Ask.SELECT: frozenset({Ask.CAPABILITY, Ask.ENABLE}),
    Ask.COMPRESS: frozenset({Ask.SEARCH, Ask.SIZES}),
}
"""What may be unanswered when one of these goes out; nothing with the others."""


@dataclass(slots=True, eq=False)
class Command:
    """`pieces` go out one by one, each but the first when the server says +. `uids`: those asked for and not come;
    `whole_folder`: what is found is every message, in the order of their sequence numbers."""

    ask: Ask
    pieces: deque[bytes]
    tag: str = ""
    uids: dict[int, None] = field(default_factory=dict)
    all_uids: tuple[int, ...] = ()
    listed: dict[int, Listed] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)
    whole_folder: bool = False
    failed: str = ""


def compose(parts: Sequence[str], capabilities: Collection[str]) -> deque[bytes]:
    """`parts`: text as it stands and strings to be quoted, in turn; -> what goes out at once, and what goes out each
    time that the server says + (RFC 3501 §4.3)."""
    pieces = deque([b""])
    for n, part in enumerate(parts):
        if n % 2 == 0:
            pieces[-1] += part.encode()
        elif quotable(part):
            pieces[-1] += quoted(part).encode()
        else:
            data = part.encode()
            at_once = "LITERAL+" in capabilities or ("LITERAL-" in capabilities and len(data) <= LITERAL_MINUS)
            pieces[-1] += b"{%d%b}\r\n" % (len(data), b"+" if at_once else b"")
            if at_once:
                pieces[-1] += data
            else:
                pieces.append(data)
    pieces[-1] += b"\r\n"
    return pieces


def plain_login(login: str, password: str, capabilities: Collection[str]) -> deque[bytes]:
    """AUTHENTICATE PLAIN (RFC 4616), in one piece where the server takes that (RFC 4959)."""
    response = base64.b64encode(f"\0{login}\0{password}".encode()) + b"\r\n"
    if "SASL-IR" in capabilities:
        return deque([b"AUTHENTICATE PLAIN " + response])
    return deque([b"AUTHENTICATE PLAIN\r\n", response])
