"""Terminals as child processes of a test, each with its state folder, at a relay server of the tests or a real one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from fakes.netns import Namespace
from fakes.relay_server import FakeRelay

PASSWORD = "correct horse"
SOON_S = 20.0


class Terminal:
    """One terminal's state folder, and the commands that use it."""

    def __init__(
        self, folder: Path, name: str, relay: FakeRelay, nursery: trio.Nursery, host: Namespace | None = None
    ) -> None:
        """`host`: the network namespace that it lives in."""
        self.host = host
        self.folder = folder / name
        self.name = name
        self.relay = relay
        self.nursery = nursery
        self.said = ""

    def argv(self, verb: str, *more: str) -> list[str]:
        argv = [sys.executable, "-m", "appliance", "terminal", verb, "--state", str(self.folder), *more]
        return argv if self.host is None else self.host.argv(*argv)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "POSTHOUSE_PASSWORD": PASSWORD, "PYTHONUNBUFFERED": "1"}

    async def start(self, verb: str, *more: str, until: str = "") -> trio.Process:
        """A command that goes on; what it says gathers in `said`."""
        process = await trio.lowlevel.open_process(
            self.argv(verb, *more), env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.nursery.start_soon(self._listen, process)
        if until:
            await self.until(lambda: until in self.said, until)
        return process

    async def _listen(self, process: trio.Process) -> None:
        assert process.stdout is not None
        try:
            async for data in process.stdout:
                self.said += data.decode()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def until(self, there: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(SOON_S):
            while not there():
                await trio.sleep(0.02)
        assert there(), f"not seen: {what}; said: {self.said}"

    async def login(self, *more: str) -> trio.Process:
        before = self.said.count("is logged in")
        given = ["--relay", self.relay.at, "--name", self.name, "--fingerprint", self.relay.fingerprint, *more]
        process = await self.start("login", *given)
        await self.until(lambda: self.said.count("is logged in") > before, "a login")
        return process

    async def run(self, verb: str, *more: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        with trio.fail_after(SOON_S):
            return await trio.run_process(
                self.argv(verb, *more), env=self.environment(), stdin=stdin, capture_stdout=True, capture_stderr=True,
                check=False,
            )  # fmt: skip


class House:
    """A relay server, and terminals of it."""

    def __init__(self, folder: Path, relay: FakeRelay, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.relay = relay
        self.nursery = nursery

    def terminal(self, name: str) -> Terminal:
        return Terminal(self.folder, name, self.relay, self.nursery)

    async def service(self, handler: Callable[[trio.SocketStream], object]) -> str:
        """A TCP service of a test; -> HOST:PORT."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.nursery.start_soon(trio.serve_listeners, handler, listeners)
        return f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    relay = FakeRelay(folder, {f"pc{i}": PASSWORD for i in range(1, 5)})
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve)
        yield House(folder, relay, nursery)
        nursery.cancel_scope.cancel()


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def sha(stream: trio.SocketStream) -> None:
    """Reads to the end, then says what it got: only half-close lets the answer arrive."""
    digest = hashlib.sha256()
    async for data in stream:
        digest.update(data)
    await stream.send_all(digest.hexdigest().encode())
    await stream.aclose()
