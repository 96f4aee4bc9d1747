"""A TCP stream over the line that counts its payload into the call's figures. Owns the stream it wraps.

Counted is what the kernel took, in slices, so that a line that drops in the middle of a large send leaves
the count wrong by a slice at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from appliance.call import Tally

__all__ = ["MeteredStream"]

SLICE: Final = 16 * 1024
"""Bytes handed to the kernel at a time: a TLS record's most (RFC 8446 §5.1)."""


class MeteredStream(trio.abc.HalfCloseableStream):
    """Adds to `tally.bytes_in` and `tally.bytes_out`, in bytes of TCP payload. `socket` is the one below."""

    def __init__(self, stream: trio.SocketStream, tally: Tally) -> None:
        self._stream = stream
        self._tally = tally

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        if not view:
            await self._stream.send_all(view)
        while view:
            piece, view = view[:SLICE], view[SLICE:]
            await self._stream.send_all(piece)
            self._tally.bytes_out += len(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._tally.bytes_in += len(data)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
