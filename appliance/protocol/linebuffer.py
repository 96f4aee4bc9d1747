"""Bytes in, lines out: the one receive buffer that the line protocols share. SANS-IO.

Lines end in LF; a CR before it is taken off. Nothing is copied but the line itself and, now and then, the
rest; a search never looks at a byte twice. The buffer holds at most one unfinished line (`max_line`, each
protocol names its own limit) and whatever one `feed` brought behind it; callers feed what one receive gave.
"""

from __future__ import annotations

from appliance.protocol.errors import LineTooLong

__all__ = ["LineBuffer"]


class LineBuffer:
    """`feed` bytes, then take lines with `next_line`, or raw bytes with `take`."""

    __slots__ = ("_data", "_searched", "_start", "max_line")

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self._data = bytearray()
        self._start = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Appends `data`."""
        if self._start:
            del self._data[: self._start]
            self._searched -= self._start
            self._start = 0
        self._data += data

    def next_line(self) -> bytes | None:
        """The next line without its end (LF or CRLF), or None when there is no whole one yet.

        Raises `LineTooLong` when a line, ended or not, is longer than `max_line` bytes; the buffer is then
        unchanged and `skip_line` goes on behind that line.
        """
        at = self._data.find(b"\n", self._searched)
        if at < 0:
            self._searched = len(self._data)
            # A CR at the end may be half of the line's end.
            if len(self) - self._data.endswith(b"\r") > self.max_line:
                raise LineTooLong(f"a line is longer than {self.max_line} bytes")
            return None
        end = at - 1 if at > self._start and self._data[at - 1] == 0x0D else at
        if end - self._start > self.max_line:
            raise LineTooLong(f"a line is longer than {self.max_line} bytes")
        line = bytes(self._data[self._start : end])
        self._start = self._searched = at + 1
        return line

    def skip_line(self) -> bool:
        """Drops bytes up to and with the next LF; whether one was there (else all is dropped, call again)."""
        at = self._data.find(b"\n", self._start)
        self._start = len(self._data) if at < 0 else at + 1
        self._searched = self._start
        return at >= 0

    def peek(self) -> memoryview:
        """All that is buffered. Release the view before the next `feed`."""
        return memoryview(self._data)[self._start :]

    def take(self, n: int = -1) -> bytes:
        """Removes and returns up to `n` bytes (all of them by default)."""
        end = len(self._data) if n < 0 else min(len(self._data), self._start + n)
        out = bytes(self._data[self._start : end])
        self._start = end
        self._searched = max(self._searched, end)
        return out

    def clear(self) -> None:
        """Forgets everything (what came before TLS must not be read after it: RFC 3207 §4.2)."""
        self._data.clear()
        self._start = self._searched = 0
