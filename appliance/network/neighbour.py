"""A program beside us that serves the LAN from a configuration that we write: what may be asked of one, and one that is
our own child. On the image it is a unit of systemd's, which `host` speaks to and `app` hands in.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import trio

from appliance import events
from appliance.network import child

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Child", "Lacking", "Neighbour"]

STOP_S: Final = 5.0
"""For it to end on SIGTERM, then SIGKILL."""
STANDS_S: Final = 0.3
"""What can't be started (a port that is taken, a file that is wrong) has said so by then."""
SAID_LIMIT: Final = 4096
"""Bytes of standard error that are kept: its last line says why it ended."""
PID_LENGTH: Final = 10


class Neighbour(Protocol):
    """Each is bounded in time but `wait_ended`, and raises nothing for what the program does."""

    async def start(self) -> str:
        """It runs, anew, with the configuration as it is on the disk; -> "", or why it does not."""
        ...

    async def wait_ended(self) -> str:
        """Returns when it has ended by itself, with why; with "" when it is to be started anew without a fault."""
        ...

    async def stop(self) -> str:
        """It does not run; nothing where it does not. -> "", or why it still does."""
        ...


class Lacking:
    """One that can't be: `start` says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def start(self) -> str:
        await trio.lowlevel.checkpoint()
        return self._why

    async def wait_ended(self) -> str:
        await trio.lowlevel.checkpoint()
        return self._why

    async def stop(self) -> str:
        await trio.lowlevel.checkpoint()
        return ""


class Child:
    """Our own. `marker`: an argument that only ours has, by which one is known that an earlier Posthouse, killed, left
    behind with its number in `pid_file`: it would hold the ports."""

    def __init__(self, command: Sequence[str], pid_file: Path, marker: str) -> None:
        self._command = command
        self._pid_file = pid_file
        self._marker = marker
        self._process: trio.Process | None = None
        self._said = bytearray()

    async def start(self) -> str:
        await self.stop()
        if why := await self._end_left_behind():
            return why
        self._said.clear()
        try:
            self._process = await trio.lowlevel.open_process(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            return f"{self._command[0]} can't be started: {error.strerror}"
        with trio.move_on_after(STANDS_S):
            return await self.wait_ended()
        return ""

    async def wait_ended(self) -> str:
        process = self._process
        if process is None:
            return "it does not run"
        assert process.stderr is not None
        async for data in process.stderr:
            self._said += data
            del self._said[:-SAID_LIMIT]
        await process.wait()
        last = events.clean(bytes(self._said).strip().rpartition(b"\n")[2])
        return f"it ended with {process.returncode}: {last or 'it did not say why'}"

    async def stop(self) -> str:
        process, self._process = self._process, None
        if process is None:
            return ""
        await child.end(process, STOP_S)
        return ""

    async def _end_left_behind(self) -> str:
        pid = _left_behind(self._pid_file, self._marker)
        if not pid:
            return ""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, signum)
                with trio.move_on_after(STOP_S):
                    while True:
                        await trio.sleep(STANDS_S / 10)
                        os.kill(pid, 0)
            except OSError as error:
                if error.errno == errno.ESRCH:
                    return ""
                return f"one that was left behind ({pid}) can't be ended: {error.strerror}"
        return f"one that was left behind ({pid}) does not end"


def _left_behind(pid_file: Path, marker: str) -> int:
    """0: none, or the number is another process's by now."""
    try:
        pid = int(pid_file.read_bytes()[:PID_LENGTH])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if marker.encode() in words else 0
