"""A terminal on a modem's port: what is typed there, and what comes back. For the laboratory's modems."""

from __future__ import annotations

import os

import trio

QUICK = {12: 5, 10: 0}  # guard time 0.1 s; a lost carrier is said at once


class Port:
    """The terminal's side of a modem's port."""

    def __init__(self, path: str) -> None:
        self._stream = trio.lowlevel.FdStream(os.open(path, os.O_RDWR | os.O_NOCTTY))
        self.heard = b""

    async def send(self, text: str) -> None:
        await self._stream.send_all(text.encode())

    async def until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        with trio.fail_after(10):
            while end not in self.heard:
                self.heard += await self._stream.receive_some(4096)
        at = self.heard.index(end) + len(end)
        out, self.heard = self.heard[:at], self.heard[at:]
        return out

    async def ask(self, text: str, end: bytes = b"\r\nOK\r\n") -> bytes:
        await self.send(text + "\r")
        return await self.until(end)

    async def aclose(self) -> None:
        await self._stream.aclose()
