"""A message with 8-bit bodies as one that a server without 8BITMIME takes: quoted-printable (RFC 2045 §6.7, RFC 6152
§3).

It owns the way through the parts of a message (RFC 2046 §5.1), no more: only the bodies that hold a byte beyond ASCII
are changed, and the Content-Transfer-Encoding of these and of what encloses them. A signed or encrypted part stays as
it is, since what was signed are its bytes (RFC 1847 §2.1): it goes as 8-bit, and most servers take it. Header fields
are left alone. A signature over the message as a whole (DKIM) does not survive; nothing that converts can help that.

Theory of operation. The message is read line by line, never as a whole, twice: once to see which bodies hold 8-bit
bytes, once to write. Both ways go through `_walk`, which tells of each line where it belongs.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["SevenBit", "seven_bit"]

MAX_DEPTH: Final = 20
"""Parts in parts: what lies deeper is left as it is."""
MAX_LINE: Final = 64 * 1024
"""Bytes of a line that are read at once; what is longer is dealt with in pieces."""
MAX_HEADER_LINES: Final = 2000
"""A header longer than that is taken for a body."""

_TYPE: Final = re.compile(rb"(?is)content-type[ \t]*:\s*([a-z0-9.+-]+)/([a-z0-9.+-]+)(.*)")
_BOUNDARY: Final = re.compile(rb'(?is);\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))')
_ENCODING: Final = re.compile(rb"(?is)content-transfer-encoding[ \t]*:\s*([a-z0-9-]+)")
_ENCODING_NAME: Final = re.compile(rb"(?i)content-transfer-encoding[ \t]*:")
_UNTOUCHED: Final = frozenset({b"signed", b"encrypted"})


class _Kind(Enum):
    LEAF = auto()
    MULTIPART = auto()
    MESSAGE = auto()
    UNTOUCHED = auto()


@dataclass(slots=True)
class _Header:
    """One part's header, whole: its lines with the blank one behind it."""

    number: int
    lines: list[bytes]
    kind: _Kind = _Kind.LEAF
    boundary: bytes = b""
    encoding: bytes = b"7bit"


@dataclass(slots=True)
class _Line:
    """A line of the body of the part `number`, or of no part's (a boundary, what is around parts)."""

    number: int | None
    data: bytes


@dataclass(slots=True)
class _Open:
    """A part that encloses the place that is read."""

    boundary: bytes
    untouched: bool


@dataclass(slots=True)
class _Reader:
    lines: list[bytes] = field(default_factory=list)
    parts: int = 0

    def header(self) -> _Header:
        out = _Header(self.parts, self.lines)
        self.parts += 1
        self.lines = []
        for value in _fields(out.lines):
            if found := _ENCODING.match(value):
                out.encoding = found[1].lower()
            elif found := _TYPE.match(value):
                main, sub = found[1].lower(), found[2].lower()
                if main == b"multipart":
                    boundary = _BOUNDARY.search(found[3])
                    out.boundary = re.sub(rb"\\(.)", rb"\1", boundary[1] or boundary[2] or b"") if boundary else b""
                    touched = _Kind.MULTIPART if out.boundary else _Kind.LEAF
                    out.kind = _Kind.UNTOUCHED if sub in _UNTOUCHED else touched
                elif main == b"message" and sub in (b"rfc822", b"global", b"news"):
                    out.kind = _Kind.MESSAGE
        if out.encoding in (b"quoted-printable", b"base64"):  # it is 7-bit already, whatever it holds
            out.kind = _Kind.UNTOUCHED
        return out


def _fields(lines: list[bytes]) -> Iterator[bytes]:
    whole = b""
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            whole += line
        else:
            yield whole
            whole = line
    yield whole


def _walk(lines: Iterable[bytes]) -> Iterator[_Header | _Line]:
    """Where each line belongs."""
    reader = _Reader()
    stack: list[_Open] = []
    in_header, part = True, None  # `part`: whose body it is
    for line in lines:
        ended = _ended(line, stack)
        if ended is not None:
            if in_header and reader.lines:  # a part that ends within its header
                yield from (_Line(None, data) for data in reader.lines)
                reader.lines = []
            last = line.rstrip().endswith(b"--" + stack[ended].boundary + b"--")
            del stack[ended + 1 :]
            yield _Line(None, line)
            if last:
                stack.pop()
            in_header, part = not last and not any(o.untouched for o in stack), None
            continue
        if not in_header:
            yield _Line(part, line)
            continue
        reader.lines.append(line)
        if line.strip() and len(reader.lines) <= MAX_HEADER_LINES:
            continue
        header = reader.header()
        yield header
        in_header, part = False, header.number
        if header.kind is _Kind.MESSAGE and len(stack) < MAX_DEPTH:
            in_header, part = True, None
        elif header.boundary and len(stack) < MAX_DEPTH:
            stack.append(_Open(header.boundary, header.kind is _Kind.UNTOUCHED))
            part = None
        elif header.kind is not _Kind.LEAF:
            part = None
    yield from (_Line(None, data) for data in reader.lines)


def _ended(line: bytes, stack: list[_Open]) -> int | None:
    """The place in `stack` of the part whose boundary this line is: an enclosing one's ends all within it."""
    if not line.startswith(b"--"):
        return None
    text = line.rstrip()
    for at in range(len(stack) - 1, -1, -1):
        boundary = b"--" + stack[at].boundary
        if text in (boundary, boundary + b"--"):
            return at
    return None


def seven_bit(lines: Iterable[bytes], again: Iterable[bytes]) -> Iterator[bytes]:
    """`lines` and `again`: the message's lines with their ends, twice; -> its bytes in pieces, of which every line of a
    body that was changed is ASCII and has 76 characters at most."""
    changed = {line.number for line in _walk(lines) if isinstance(line, _Line) and not line.data.isascii()} - {None}
    for item in _walk(again):
        if isinstance(item, _Line):
            yield _quoted(item.data) if item.number in changed else item.data
        elif item.number in changed:
            yield from _with_encoding(item.lines, b"quoted-printable")
        elif item.kind in (_Kind.MULTIPART, _Kind.MESSAGE) and item.encoding in (b"8bit", b"binary"):
            yield from _with_encoding(item.lines, b"7bit")
        else:
            yield from item.lines


def _with_encoding(lines: list[bytes], encoding: bytes) -> Iterator[bytes]:
    """The header with that Content-Transfer-Encoding, where the old one stood or at its end."""
    new = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    done = within = False
    for line in lines:
        if line[:1] in (b" ", b"\t") and within:
            continue  # a continuation of the old one
        within = _ENCODING_NAME.match(line) is not None
        if within:
            if not done:
                yield new
            done = True
            continue
        if not line.strip() and not done:
            yield new
            done = True
        yield line


def _quoted(line: bytes) -> bytes:
    """One line in quoted-printable; a CR or LF within it, or a blank at its end, is quoted too."""
    text = line.removesuffix(b"\r\n")
    coded = binascii.b2a_qp(text, quotetabs=False, istext=False).replace(b"=\n", b"=\r\n")
    if coded.endswith((b" ", b"\t")):
        coded = coded[:-1] + (b"=20" if coded.endswith(b" ") else b"=09")
    return coded + line[len(text) :]


class SevenBit:
    """A message's file, read as `seven_bit` makes it. `size` in bytes. Synchronous; making one reads the whole file."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self.size = sum(map(len, self._pieces()))
        self._left = self._pieces()
        self._rest = b""

    def _pieces(self) -> Iterator[bytes]:
        return seven_bit(_lines(self._path), _lines(self._path))

    def read(self, n: int) -> bytes:
        """Up to `n` bytes; b"" at the end. Raises OSError."""
        out = bytearray(self._rest)
        while len(out) < n and (piece := next(self._left, None)) is not None:
            out += piece
        self._rest = bytes(out[n:])
        return bytes(out[:n])

    def __enter__(self) -> SevenBit:
        return self

    def __exit__(self, *error: object) -> None:
        self._left = iter(())


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE):
            yield line
