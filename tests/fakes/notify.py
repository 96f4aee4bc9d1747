"""systemd's side of sd_notify(3), for tests that wait for what a service says of itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import trio


class NotifySocket:
    """What was said, a dict of fields each; `env` goes into the service's environment."""

    def __init__(self, path: Path) -> None:
        self.env = {"NOTIFY_SOCKET": str(path)}
        self.said: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)

    def next(self) -> dict[str, str]:
        """Waits for the next message that says more than the state in a line. For plain tests."""
        while (said := self._keep(self._socket.recv(4096))).keys() == {"STATUS"}:
            pass
        return said

    async def wait(self, field: str) -> dict[str, str]:
        """Waits for a message with that field. For Trio tests."""
        with trio.fail_after(30):
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                if field in (said := self._keep(self._socket.recv(4096))):
                    return said

    def _keep(self, data: bytes) -> dict[str, str]:
        said = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.said.append(said)
        return said

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[NotifySocket]:
        it = cls(path)
        try:
            yield it
        finally:
            it._socket.close()
