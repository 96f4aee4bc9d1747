"""A stream that knows what of it has gone out onto the network.

It owns the count of what it was given. What has left the kernel's memory for the network the kernel says (TCP_INFO and
SIOCOUTQ, tcp(7)): what it has taken, less what it has never sent. What was sent may have arrived, acknowledged or not,
for an acknowledgement can be lost; what was never sent has not. Where the kernel can't be asked, or the stream is no
socket's, all that it was given counts as sent.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

import trio

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = ["OutgoingStream"]

_INFO: Final = struct.Struct("120xQ16xI")
"""Of struct tcp_info (linux/tcp.h): tcpi_bytes_acked, tcpi_notsent_bytes; since Linux 4.6."""

_ABORT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER without a wait: what is not sent is thrown away when the socket is closed."""


class OutgoingStream(trio.abc.HalfCloseableStream):
    """Hands on to `stream`, whose own it is from then on. `offered`: octets that `send_all` was given, whatever became
    of them."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.offered = 0
        self._stream = stream
        sock = getattr(stream, "socket", None)  # what counts a call's bytes passes on the socket below it
        self._socket: trio.socket.SocketType | None = sock if _octets_out(sock) is not None else None
        self._before = _octets_out(sock) or 0  # SYN counts as one

    def sent(self) -> int:
        """Octets of the stream that may have arrived at the other end."""
        octets = _octets_out(self._socket)
        return self.offered if octets is None else octets - self._before

    def abort_on_close(self) -> None:
        """What is unsent is not to leave after `aclose`; nor is anything sent again."""
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.offered += len(data)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _octets_out(sock: trio.socket.SocketType | None) -> int | None:
    """Up to SND.NXT (RFC 9293 §3.3.1): acknowledged, or sent and not acknowledged; SYN included. None: not known."""
    if sock is None or sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        queued = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return None
    if len(info) < _INFO.size:
        return None
    acknowledged, unsent = _INFO.unpack(info)
    return int(acknowledged) + int(queued) - int(unsent)
