"""Two terminals' keys, a circuit between them in memory or over loopback, and local ends that a test holds."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.transport.self_signed import make_self_signed


@dataclass(frozen=True)
class Key:
    """A terminal's key file and its certificate, DER."""

    pem: Path
    certificate: bytes


def make_key(folder: Path, name: str) -> Key:
    certificate, key = make_self_signed([name])
    pem = folder / f"{name}.pem"
    pem.write_bytes(certificate + key)
    return Key(pem, ssl.PEM_cert_to_DER_cert(certificate.decode()))


async def tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Two connected sockets over loopback."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = trio.socket.socket()
        await one.connect(listener.getsockname())
        two, _ = await listener.accept()
    return one, two


@dataclass(eq=False)
class Held:
    """A local end that gives what a test puts into `gives` and keeps what it is sent. `breaks_at`: the operation,
    counted from 1 over reads and writes, at which it raises as a socket does whose peer is gone."""

    gives: list[bytes] = field(default_factory=list)
    ends: bool = True
    breaks_at: int = 0
    got: bytearray = field(default_factory=bytearray)
    eof: bool = False
    was_reset: bool = False
    closed: bool = False
    operations: int = 0
    more: trio.Event = field(default_factory=trio.Event)

    def _operation(self) -> None:
        self.operations += 1
        if self.operations == self.breaks_at:
            raise ConnectionResetError(104, "Connection reset by peer")

    def give(self, data: bytes, *, ends: bool = False) -> None:
        self.gives.append(data)
        self.ends = ends
        self.more.set()

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        self._operation()
        while not self.gives and not self.ends:
            self.more = trio.Event()
            await self.more.wait()
        if not self.gives:
            return 0
        data = self.gives.pop(0)
        view[: len(data)] = data
        return len(data)

    async def send_all(self, parts: list[memoryview]) -> None:
        await trio.lowlevel.checkpoint()
        self._operation()
        for part in parts:
            self.got += part

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self.eof = True

    def reset(self) -> None:
        if not self.closed:
            self.was_reset = True

    def close(self) -> None:
        self.closed = True
