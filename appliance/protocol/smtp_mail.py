"""One mail transaction as a client asks for it: MAIL and RCPT with the parameters that the server offers. SANS-IO.

Extensions are keyword in upper case -> parameters, as EHLO gave them. A parameter whose extension is not offered is
left out, but for SMTPUTF8: what needs that and can't have it must not be sent (RFC 6531 §3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.protocol.errors import LocalProtocolError
from appliance.protocol.smtp_reply import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Mail", "Rcpt", "size_limit"]


@dataclass(frozen=True, slots=True)
class Rcpt:
    """One recipient; `notify` and `orcpt` as RFC 3461 writes them, "" for none."""

    address: str
    notify: str = ""
    orcpt: str = ""

    def command(self, extensions: Mapping[str, str]) -> str:
        out = f"RCPT TO:<{self.address}>"
        if "DSN" in extensions:
            out += f" NOTIFY={_word(self.notify)}" if self.notify else ""
            out += f" ORCPT={_word(self.orcpt)}" if self.orcpt else ""
        return out


@dataclass(frozen=True, slots=True)
class Mail:
    """One transaction. `size` in bytes with CRLF line ends and without doubled dots (RFC 1870 §3); `eight_bit`: it
    was given as BODY=8BITMIME; `ret`, `envid`: RFC 3461; `mt_priority`: RFC 6710."""

    sender: str
    recipients: tuple[Rcpt, ...]
    size: int
    eight_bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    mt_priority: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.sender, *(r.address for r in self.recipients))

    @property
    def needs_smtputf8(self) -> bool:
        return self.smtputf8 or not all(p.isascii() for p in self.paths)

    def command(self, extensions: Mapping[str, str], *, sized: bool = True) -> str:
        """Not `sized`: BDAT behind it in the same flight says the size."""
        out = f"MAIL FROM:<{self.sender}>"
        if sized and "SIZE" in extensions:
            out += f" SIZE={self.size}"
        if self.eight_bit and "8BITMIME" in extensions:
            out += " BODY=8BITMIME"
        if self.needs_smtputf8:
            out += " SMTPUTF8"
        if "DSN" in extensions:
            out += f" RET={_word(self.ret)}" if self.ret else ""
            out += f" ENVID={_word(self.envid)}" if self.envid else ""
        if self.mt_priority is not None and "MT-PRIORITY" in extensions:
            out += f" MT-PRIORITY={self.mt_priority}"
        return out

    def obstacle(self, extensions: Mapping[str, str]) -> Reply | None:
        """The verdict on a message that a server with these extensions can't take; None when it may be sent."""
        limit = size_limit(extensions)
        if 0 < limit < self.size:
            return Reply(552, (f"5.3.4 The message has {self.size} bytes, the server takes {limit}",))
        if self.needs_smtputf8 and "SMTPUTF8" not in extensions:
            return Reply(553, ("5.6.7 The server does not take internationalized mail (SMTPUTF8)",))
        if not all(map(_fits_a_line, self.paths)):
            return Reply(553, ("5.1.3 An address holds a character that it can't",))
        return None


def size_limit(extensions: Mapping[str, str]) -> int:
    """The server's limit for a message in bytes; 0 when it names none (RFC 1870 §4)."""
    text = extensions.get("SIZE", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _fits_a_line(path: str) -> bool:
    """Whether the path can't end its brackets or its line. In a quoted local part brackets may stand."""
    bad = "" if path.startswith('"') else "<>"
    return not any(ord(c) < 0x20 or ord(c) == 0x7F or c in bad for c in path)


def _word(value: str) -> str:
    """A parameter's value, which must not end its word or line."""
    if any(c.isspace() or ord(c) < 0x21 for c in value):
        raise LocalProtocolError("a parameter holds a blank")
    return value
