"""A message on its way through an SMTP server: counted, dots undone, searched for bare line ends. SANS-IO.

Every line of a message ends in CR LF (RFC 5321 §2.3.8). A CR or LF by itself makes the whole message refused, not
mended: what one server takes for a line end and the next one does not is how mail is smuggled
(CVE-2023-51764 to 51766).
"""

from __future__ import annotations

from appliance.protocol.dots import Unstuffer

__all__ = ["BodyReader"]


class BodyReader:
    """One message. `feed_stuffed` for DATA, until `ended`; `feed` for the octets of BDAT."""

    __slots__ = ("_bare", "_half", "_limit", "_received", "_unstuffer")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = 0
        self._bare = False
        self._half = False  # a chunk ended in CR
        self._unstuffer = Unstuffer()

    @property
    def ended(self) -> bool:
        return self._unstuffer.ended

    @property
    def rest(self) -> bytes:
        """What came behind the end of DATA."""
        return self._unstuffer.rest

    def feed_stuffed(self, data: bytes) -> bytes:
        """What shall be kept of a piece of DATA."""
        return self._keep(self._unstuffer.feed(data))

    def feed(self, data: bytes) -> bytes:
        """What shall be kept of a piece of BDAT. A CR at its end is kept back until the LF has come."""
        if self._half:
            data, self._half = b"\r" + data, False
        if data.endswith(b"\r"):
            data, self._half = data[:-1], True
        return self._keep(data)

    def _keep(self, data: bytes) -> bytes:
        self._received += len(data)
        pairs = data.count(b"\r\n")
        if data.count(b"\n") != pairs or data.count(b"\r") != pairs:
            self._bare = True
        return b"" if self._bare or self._received > self._limit else data

    def problem(self) -> tuple[int, str, str] | None:
        """Why the whole message must be refused (code, status, text), or None. At its end."""
        if self._received > self._limit:
            return (552, "5.3.4", f"a message may have {self._limit} bytes")
        if self._bare or self._half:
            return (550, "5.6.0", "a bare CR or LF stands in the message; lines end in CR LF (RFC 5321 2.3.8)")
        return None
