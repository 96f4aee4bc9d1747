"""Standard input and output as the local end of a circuit.

Read and written in threads, a hop for each piece: they may be a terminal, a file, a pipe or a socket, and others may
hold them too (a shell its terminal, a parent its pipe), so they must stay as blocking as they came. A hop costs 73 µs,
at the most 64 KiB a piece it is a tenth of what the piece costs anyhow.
"""

from __future__ import annotations

import os

import trio

__all__ = ["StandardStreams"]


class StandardStreams:
    """`standard input` is read and `standard output` written by it alone from now on."""

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        """File descriptors, both blocking."""
        self._source = source
        self._sink = sink
        self._open = True

    async def receive_into(self, view: memoryview) -> int:
        # Not into `view` itself, nor below out of the parts: a thread that is left behind would hold on to them.
        data = await trio.to_thread.run_sync(os.read, self._source, len(view), abandon_on_cancel=True)
        view[: len(data)] = data
        return len(data)

    async def send_all(self, parts: list[memoryview]) -> None:
        await trio.to_thread.run_sync(_write, self._sink, b"".join(parts), abandon_on_cancel=True)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._close()

    def reset(self) -> None:
        """The exit code tells an end from a break: there is nothing to reset."""

    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        """Whoever reads our output sees its end, while input may go on."""
        if self._open:
            self._open = False
            # Something has to stay under that number, or the next file that is opened gets it.
            reading, writing = os.pipe()
            os.dup2(writing, self._sink)
            os.close(reading)
            os.close(writing)


def _write(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.writev(fd, [memoryview(data)[at:]])
