"""Bytes from an IMAP server in, responses out (RFC 3501 §9, RFC 9051 §9). SANS-IO.

It owns the shape of a response: lines, literals, atoms, strings, lists. It does not know what any of them means but for
two things that the grammar cannot be read without: which responses end in free text, and which literal is a message.

Theory of operation. A response is stretches of line, each but the last ending in `{n}`, with n bytes of literal behind
it. A stretch is read only when it is whole (a quoted string holds no line end), so bytes may be cut anywhere. Free text
(behind OK, NO, BAD, BYE, PREAUTH and +) is never looked into: "{5}" in it is no literal, a lone quote no string.

| a response                   | comes out as                                                         |
|------------------------------|----------------------------------------------------------------------|
| `TAG OK [CODE …] text`       | `Status`                                                             |
| `+ text`                     | `Continuation`                                                       |
| `* …` with small literals    | `Data`, whole                                                        |
| the literal of `BODY[]`      | `LiteralBegin`, `LiteralData`…, `LiteralEnd` as it comes, then `Data` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias, Union

from appliance.protocol.errors import RemoteProtocolError
from appliance.protocol.linebuffer import LineBuffer

__all__ = [
    "MAX_LINE",
    "MAX_STRING",
    "Continuation",
    "Data",
    "ImapLexer",
    "Item",
    "LiteralBegin",
    "LiteralData",
    "LiteralEnd",
    "Status",
    "Streamed",
    "Value",
]

MAX_LINE: Final = 2 << 20
"""Bytes of a line: SEARCH's answer of 200,000 UIDs of nine digits, a folder that nobody has."""

MAX_STRING: Final = 256 * 1024
"""Bytes of one literal that is kept whole: the longest header that is looked at."""

MAX_LITERALS: Final = 64
"""Kept literals of one response: we ask for one."""

MAX_DEPTH: Final = 16
"""Lists in lists: what we ask for has two."""

_STATUS: Final = re.compile(rb"(?i)([^ \r\n]+) (OK|NO|BAD|BYE|PREAUTH)(?: (?:\[([^ \]]+)(?: ([^\]]*))?\] ?)?(.*))?")
_TOKEN: Final = re.compile(
    rb' |(?P<list>[()])|"(?P<quoted>(?:[^"\\]|\\.)*)"|~?\{(?P<literal>[0-9]{1,18})\+?\}\Z'
    rb'|(?P<atom>[^ ()"\[]*\[[^\]]*\][^ ()"]*|[^ ()"]+)'
)
_MESSAGE: Final = re.compile(r"(?i)BODY\[\](?:<[0-9]+>)?")


@dataclass(frozen=True, slots=True)
class Streamed:
    """Stands in `Data` where the literal of a message was."""

    size: int


Value: TypeAlias = Union[str, bytes, Streamed, "list[Value]", None]
"""An atom or number, a string, a message that was streamed, a list, NIL."""


@dataclass(frozen=True, slots=True)
class Status:
    """`tag` is "*" for an untagged one; `kind` and `code` in upper case, `code` "" where there is none."""

    tag: str
    kind: str
    code: str
    argument: str
    text: str


@dataclass(frozen=True, slots=True)
class Continuation:
    text: str


@dataclass(frozen=True, slots=True)
class Data:
    """An untagged response, without its "*"."""

    values: list[Value]


@dataclass(frozen=True, slots=True)
class LiteralBegin:
    """A message of `size` bytes follows. `values`: the response so far, its open lists included; the last atom is the
    message's key."""

    values: list[Value]
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class LiteralData:
    data: bytes


@dataclass(frozen=True, slots=True)
class LiteralEnd:
    pass


Item = Status | Continuation | Data | LiteralBegin | LiteralData | LiteralEnd


class ImapLexer:
    """`feed` what came, take items with `next` until None."""

    def __init__(self) -> None:
        self._lines = LineBuffer(MAX_LINE)
        self._root: list[Value] = []
        self._open: list[list[Value]] = []  # the lists that are open, the root first; empty between responses
        self._left = 0  # bytes of the literal still to come
        self._kept: bytearray | None = None  # the literal that is being kept
        self._streaming = False
        self._literals = 0

    @property
    def between_responses(self) -> bool:
        """Whether nothing of a response has come that is not whole."""
        return not self._open and not len(self._lines)

    def feed(self, data: bytes) -> None:
        self._lines.feed(data)

    def next(self) -> Item | None:
        """The next item, or None when there is no whole one. Raises RemoteProtocolError; nothing may follow then."""
        while True:
            if self._streaming:
                return self._stream()
            if self._kept is not None:
                if not self._keep():
                    return None
                continue
            line = self._lines.next_line()
            if line is None:
                return None
            if not self._open:
                item = self._begin(line)
                if item is not None:
                    return item
                line = line[2:]
            item = self._stretch(line)
            if item is not None:
                return item

    def take_rest(self) -> bytes:
        """What lies behind the last item unread: the first bytes after COMPRESS began."""
        return self._lines.take()

    # ---- literals
    def _stream(self) -> Item | None:
        if not self._left:
            self._streaming = False
            return LiteralEnd()
        data = self._lines.take(self._left)
        self._left -= len(data)
        return LiteralData(data) if data else None

    def _keep(self) -> bool:
        """Whether the literal that is kept is whole."""
        assert self._kept is not None
        data = self._lines.take(self._left)
        self._kept += data
        self._left -= len(data)
        if self._left:
            return False
        self._open[-1].append(bytes(self._kept))
        self._kept = None
        return True

    def _literal(self, size: int) -> Item | None:
        key = self._open[-1][-1] if self._open[-1] else None
        self._left = size
        if isinstance(key, str) and _MESSAGE.fullmatch(key):
            self._streaming = True
            begin = LiteralBegin(self._root, key, size)
            self._open[-1].append(Streamed(size))
            return begin
        self._literals += 1
        if size > MAX_STRING or self._literals > MAX_LITERALS:
            raise RemoteProtocolError(f"a literal of {size} bytes where at most {MAX_STRING} are taken")
        self._kept = bytearray()
        return None

    # ---- lines
    def _begin(self, line: bytes) -> Item | None:
        """The first stretch of a response. None: a data response, to be read on behind its "* "."""
        if line == b"+" or line.startswith(b"+ "):
            return Continuation(_text(line[2:]))
        if found := _STATUS.fullmatch(line):
            tag, kind, code, argument, text = (_text(group or b"") for group in found.groups())
            return Status(tag, kind.upper(), code.upper(), argument, text)
        if not line.startswith(b"* "):
            raise RemoteProtocolError(f"that is no IMAP: {_text(line[:80])}")
        self._root = []
        self._open = [self._root]
        self._literals = 0
        return None

    def _stretch(self, line: bytes) -> Item | None:
        at = 0
        while at < len(line):
            found = _TOKEN.match(line, at)
            if found is None:
                raise RemoteProtocolError(f"that is no IMAP: {_text(line[at : at + 80])}")
            at = found.end()
            if (literal := found["literal"]) is not None:
                return self._literal(int(literal))  # the rest of the response comes behind it
            self._token(found)
        if len(self._open) > 1:
            raise RemoteProtocolError("a list was not closed")
        self._open = []
        return Data(self._root)

    def _token(self, found: re.Match[bytes]) -> None:
        if (atom := found["atom"]) is not None:
            self._open[-1].append(None if atom.upper() == b"NIL" else _text(atom))
        elif (quoted := found["quoted"]) is not None:
            self._open[-1].append(re.sub(rb"\\(.)", rb"\1", quoted) if b"\\" in quoted else quoted)
        elif found["list"] == b"(":
            inner: list[Value] = []
            self._open[-1].append(inner)
            self._open.append(inner)
            if len(self._open) > MAX_DEPTH:
                raise RemoteProtocolError(f"lists in lists, more than {MAX_DEPTH}")
        elif found["list"] == b")":
            if len(self._open) == 1:
                raise RemoteProtocolError("a list was closed that was not open")
            self._open.pop()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
