"""The control socket's words: one JSON object a line, both ways. SANS-IO.

A client sends one request and reads answers until the last:

    -> {"verb": "dial", "arguments": {"force": false}}
    <- {"progress": {...}}            any number of these
    <- {"result": ...}                or {"error": "a sentence", "code": 1}

`code` is the exit code of the command line (DESIGN §6).
"""

from __future__ import annotations

import json
from typing import Any, Final

from appliance.protocol.errors import RemoteProtocolError
from appliance.protocol.linebuffer import LineBuffer

__all__ = ["MAX_ANSWER", "MAX_REQUEST", "SOCKET_NAME", "Decoder", "encode"]

SOCKET_NAME: Final = "control"
"""Under `site.runtime`."""
MAX_REQUEST: Final = 64 * 1024
MAX_ANSWER: Final = 64 * 1024 * 1024
"""A queue of 100,000 messages, listed."""


def encode(message: dict[str, Any]) -> bytes:
    # An argument of the command line may hold bytes that are no UTF-8 (PEP 383): no id is like that.
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


class Decoder:
    """`feed` bytes, take objects with `next`. Raises RemoteProtocolError for what is none."""

    def __init__(self, limit: int) -> None:
        self._lines = LineBuffer(limit)

    def feed(self, data: bytes) -> None:
        self._lines.feed(data)

    def next(self) -> dict[str, Any] | None:
        line = self._lines.next_line()
        if line is None:
            return None
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):  # the latter for a thousand brackets in a row
            raise RemoteProtocolError("a line is no JSON") from None
        if not isinstance(message, dict):
            raise RemoteProtocolError("a line is no JSON object")
        return message
