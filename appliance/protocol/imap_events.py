"""What an IMAP client tells whoever drives it: plain data. A message is named by its UID in the folder that is open."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BodyBegin",
    "BodyData",
    "BodyEnd",
    "Closed",
    "Compressed",
    "Deleted",
    "Event",
    "Fetched",
    "Found",
    "Header",
    "Listed",
    "Listing",
    "Ready",
    "Refused",
    "Selected",
    "StartTls",
]


@dataclass(frozen=True, slots=True)
class StartTls:
    """The TLS handshake is due; then `tls_started`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Logged in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What was asked can't be had, and nothing else is possible without it. `permanent`: no other call does better."""

    text: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Selected:
    """A folder is open. `uidnext` and `modseq` are 0 where the server did not say."""

    uidvalidity: int
    uidnext: int
    exists: int
    modseq: int


@dataclass(frozen=True, slots=True)
class Compressed:
    """The answer to `compress`: whether what follows is compressed, both ways."""

    on: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search, rising."""

    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """One message, its size in octets as the server counts (about so many where it is not `exact`), and when it came
    there, Unix seconds (None: not asked, or not to be read)."""

    uid: int
    size: int
    arrived: float | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    messages: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """One answer of several; `data` is None where the server gave none."""

    uid: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class BodyBegin:
    """`size` octets of the message from `origin` on follow."""

    uid: int
    origin: int
    size: int


@dataclass(frozen=True, slots=True)
class BodyData:
    uid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    uid: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A request for these bodies is answered; which of them came is known. `done`: those that did not are not there any
    more; else `text` says why the server would not give them."""

    uids: tuple[int, ...]
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """`done`: they are gone, or (without UIDPLUS) marked as deleted."""

    uids: tuple[int, ...]
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over; `clean`: LOGOUT was answered, or the server closed behind it."""

    clean: bool
    text: str


Event = (
    StartTls | Ready | Refused | Selected | Compressed | Found | Listing | Header | BodyBegin | BodyData | BodyEnd
    | Fetched | Deleted | Closed
)  # fmt: skip
