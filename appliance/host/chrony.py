"""chrony for the time of a call, by its own `chronyc`: told when a line is there and when it has gone, and asked
whether it has the time. Only the chronyd whose command socket lies at `SOCKET` is ours, as the image sets it up
(rootfs-overlay/etc/chrony/chrony.conf): any other keeps the clock of a host whose network does not come and go.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Final

import trio

from appliance import events
from appliance.storage.disk import Disk

__all__ = ["SOCKET", "Chrony"]

SOCKET: Final = Path("/run/posthouse-chrony/chronyd.sock")
"""Made by chronyd; chronyc makes one beside it for the answers."""
ASK_S: Final = 5.0
"""For one command: chronyd answers within milliseconds; chronyc itself tries again after 1 s and 2 s."""
RIGHT_S: Final = 1.0
"""A clock that is further off than this is still being put right: certificates and schedules need no better."""
TRACKING_FIELDS: Final = 14
"""Of `chronyc -c tracking` (chronyc(1)): the fifth is how far the system's clock is off, the last the leap status."""
SYNCHRONISED: Final = frozenset({"Normal", "Insert second", "Delete second"})


class Chrony:
    """`socket`: chronyd's command socket. What goes wrong is an event, once until it goes right again."""

    def __init__(self, socket: Path = SOCKET) -> None:
        self._socket = socket
        self._program = shutil.which("chronyc", path="/usr/bin:/usr/local/bin:/bin") or ""
        self._problem = ""

    @property
    def present(self) -> bool:
        """Whether there is a chronyd to be asked."""
        return bool(self._program) and self._socket.exists()

    @property
    def resolv_conf(self) -> Path:
        """What chronyd has for /etc/resolv.conf."""
        return self._socket.with_name("resolv.conf")

    async def online(self, dns: tuple[str, ...]) -> None:
        """Its servers can be reached from now on, and it asks each a few times at once (`iburst`). `dns`: who knows the
        names of servers whose addresses it has not found yet."""
        self._write_resolv_conf(dns)
        await self._ask("online")

    async def offline(self) -> None:
        """It sends nothing any more, and forgets nothing."""
        await self._ask("offline")
        self._write_resolv_conf(())

    async def synchronised(self) -> bool:
        """Whether the host's clock is right by it."""
        fields = (await self._ask("tracking")).strip().split(",")
        if len(fields) != TRACKING_FIELDS:
            return False
        try:
            off_s = float(fields[4])
        except ValueError:
            return False
        return fields[-1] in SYNCHRONISED and math.isfinite(off_s) and abs(off_s) < RIGHT_S

    def _write_resolv_conf(self, dns: tuple[str, ...]) -> None:
        """In place, since chronyd has this file bound over the system's; not flushed, since it lies in memory."""
        if not self.resolv_conf.exists():
            return
        disk = Disk()
        try:
            fd = disk.open_write(self.resolv_conf)
            try:
                disk.truncate(fd, 0)
                disk.write(fd, "".join(f"nameserver {address}\n" for address in dns).encode())
            finally:
                disk.close(fd)
        except OSError as error:
            self._note(f"{self.resolv_conf}: {error.strerror}")

    async def _ask(self, command: str) -> str:
        """-> what chronyc printed; "" where it failed."""
        arguments = [self._program, "-h", str(self._socket), "-n", "-c", command]
        done: subprocess.CompletedProcess[bytes] | None = None
        problem = ""
        try:
            with trio.move_on_after(ASK_S):
                done = await trio.run_process(
                    arguments, capture_stdout=True, stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL
                )
        except OSError as error:
            problem = f"chronyc: {error.strerror}"
        said = done.stdout.decode("ascii", "replace") if done is not None else ""
        if done is None:
            problem = problem or f"`{command}`: no answer within {ASK_S:g} s"
        elif done.returncode != 0:
            problem = f"`{command}`: {said.strip() or 'refused'}"
        self._note(problem)
        return "" if problem else said

    def _note(self, problem: str) -> None:
        if problem and problem != self._problem:
            events.emit(events.CHRONY_PROBLEM, what=problem)
        self._problem = problem
