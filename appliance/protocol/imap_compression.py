"""COMPRESS=DEFLATE of IMAP (RFC 4978): one connection's two streams, raw deflate without zlib's header. Pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from appliance.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Compression"]

INFLATE: Final = 64 * 1024
"""Bytes that are inflated at once: what is small may grow a thousandfold."""


class Compression:
    """Both ways, from behind the answer to COMPRESS on."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(level=9, wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)

    def pack(self, data: bytes) -> bytes:
        """So that the other side can read all of it."""
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Raises RemoteProtocolError."""
        try:
            while data:
                yield self._inflate.decompress(data, INFLATE)
                data = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise RemoteProtocolError(f"what came is not compressed as it should be: {error}") from error
