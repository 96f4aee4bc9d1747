"""A message's bytes on their way out by POP3's RETR and TOP (RFC 1939 §3, §5, §7), streamed. SANS-IO.

It knows nothing of sessions. Pieces may be cut anywhere; but for what `dots.Stuffer` keeps, nothing is kept.
"""

from __future__ import annotations

from appliance.protocol.dots import Stuffer

__all__ = ["Pop3Body"]


class Pop3Body:
    """A message's bytes as they go out: every line end CRLF, dots doubled, and for TOP cut behind `lines` lines of
    the body. A bare LF must not go out: a client that takes it for a line's end would see an end of message where
    `LF . LF` stands in the text, and read the rest as replies."""

    def __init__(self, lines: int | None) -> None:
        self._stuffer = Stuffer()
        self._after_cr = False
        self._left = lines
        self._in_header = True
        self._line_empty = True  # so far: of the header's line that is not complete
        self.enough = False

    def feed(self, data: bytes) -> bytes:
        if self.enough or not data:
            return b""
        if data.count(b"\n") != data.count(b"\r\n") + (self._after_cr and data[:1] == b"\n"):
            head = b"\n" if self._after_cr and data[:1] == b"\n" else b""
            data = head + data[len(head) :].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        self._after_cr = data[-1:] == b"\r"
        return self._stuffer.feed(data if self._left is None else self._top(data))

    def finish(self) -> bytes:
        return self._stuffer.finish()

    def _top(self, data: bytes) -> bytes:
        """The part of `data` up to the end of the last line that is wanted."""
        assert self._left is not None
        at = 0
        if not self._in_header and self._left == 0:
            self.enough = True
            return b""
        while (end := data.find(b"\n", at)) >= 0:
            if self._in_header:
                self._in_header = not (self._line_empty and data[at:end] in (b"\r", b""))
                self._line_empty = True
            else:
                self._left -= 1
            at = end + 1
            if not self._in_header and self._left == 0:
                self.enough = True
                return data[:at]
        if data[at:] not in (b"\r", b""):
            self._line_empty = False
        return data
