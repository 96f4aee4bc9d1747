"""What happens in an SMTP session on the server's side: the events of `smtp_server`, plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "BodyEnd",
    "BodyPiece",
    "BodyStart",
    "Closed",
    "Event",
    "LoginWanted",
    "MailFrom",
    "RcptTo",
    "Reset",
    "StartTls",
]


@dataclass(frozen=True, slots=True)
class MailFrom:
    """MAIL FROM; answer with `accept_mail` or `refuse`. `size` as declared (RFC 1870), 0 when not; `body` "", "7BIT"
    or "8BITMIME"; `ret`, `envid` (xtext, as it came) of RFC 3461; `mt_priority` of RFC 6710, None when not given."""

    sender: str
    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    mt_priority: int | None = None


@dataclass(frozen=True, slots=True)
class RcptTo:
    """RCPT TO; answer with `accept_rcpt` or `refuse`. `notify`, `orcpt` of RFC 3461 as they came."""

    address: str
    notify: str = ""
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class BodyStart:
    """DATA, or the first BDAT. For DATA answer with `accept_data` or `refuse`; `chunking` needs no answer."""

    chunking: bool


@dataclass(frozen=True, slots=True)
class BodyPiece:
    """Bytes of the message, dots undone."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The message is whole; answer with `message_done`. `problem` is the reply (code, status, text) that the protocol
    itself owes it: too large, bare line ends."""

    problem: tuple[int, str, str] | None


@dataclass(frozen=True, slots=True)
class LoginWanted:
    """A name and password; answer with `accept_login` or `refuse_login`."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS was granted: send what is there, shake hands, then call `tls_started`."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The transaction is over without a message: drop what was gathered."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over: send what is there and close. `why` for the journal."""

    why: str


Event = MailFrom | RcptTo | BodyStart | BodyPiece | BodyEnd | LoginWanted | StartTls | Reset | Closed
