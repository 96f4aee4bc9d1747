"""A DHCP client for one interface: udhcpc as a child, from the device's carrier until it is gone. It owns the child and
what that was lent; who sets addresses it does not know: it hands each lease on.

udhcpc and not dhcpcd, since it does one thing: it asks, and runs a script at each event. Ours (`udhcpc-script`) changes
nothing and writes the event to the child's standard output, which we read. udhcpc keeps the times of RFC 2131 (renew,
rebind, end) and asks again for ever.

When the carrier goes, the client ends and the lease stays: its address carries its lifetime, so that the kernel takes
it away in time, whatever becomes of us. With the carrier a new client asks for the same address. udhcpc needs
CAP_NET_RAW and CAP_NET_BIND_SERVICE; it inherits what the process has.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.network import child
from appliance.network.lease import BadLease, Lease, Records, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config.model import Interface
    from appliance.network.interfaces import Link

__all__ = ["DhcpClient", "argv"]

SCRIPT: Final = Path(__file__).with_name("udhcpc-script")
SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
DISCOVERS: Final = 3
DISCOVER_PAUSE_S: Final = 3
"""Between two of a round: a bridge or a switch may need that long before it passes packets on."""
ROUND_PAUSE_S: Final = 10
"""Between two rounds without an answer; the server may be switched on later."""
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
"""Before a client that ended by itself is started again."""
STOP_S: Final = 2.0
"""For the child to end on SIGTERM; it has nothing to save."""
SAID_LIMIT: Final = 4096
"""Bytes of standard error that are kept: its last line says why it ended."""


def argv(program: str, device: str, hostname: str, ask_for: Lease | None = None) -> list[str]:
    """udhcpc's command line (busybox 1.35, networking/udhcp/dhcpc.c): in the foreground, for ever, and not longer than
    we are there (PR_SET_PDEATHSIG)."""
    setpriv = shutil.which("setpriv", path=SBIN)
    until_we_end = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv is not None else []
    again = ["-r", str(ask_for.address.ip)] if ask_for is not None else []
    return [
        *until_we_end, program, "-f", "-i", device, "-s", str(SCRIPT), "-t", str(DISCOVERS), "-T",
        str(DISCOVER_PAUSE_S), "-A", str(ROUND_PAUSE_S), "-O", "staticroutes", "-x", f"hostname:{hostname}", *again,
    ]  # fmt: skip


class DhcpClient:
    """`lend` is told each lease, and None when it has ended; `lease`: what an earlier client was lent there."""

    def __init__(
        self,
        interface: Interface,
        link: Link,
        lend: Callable[[Lease | None], None],
        *,
        hostname: str,
        lease: Lease | None = None,
    ) -> None:
        self._interface = interface.name
        self._device = interface.device
        self._link = link
        self._lend = lend
        self._hostname = hostname
        self._told = ""
        self._begun = False  # the first event of each child is a deconfig that means nothing
        self.lease = lease

    async def run(self) -> None:
        """Until cancelled. Whatever udhcpc does is told and tried again; nothing is raised."""
        pause = FIRST_PAUSE_S
        while True:
            index = await self._link.wait_ready()
            began = trio.current_time()
            why = ""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_gone, index, nursery.cancel_scope)
                why = await self._ask()
                nursery.cancel_scope.cancel()
            if why:
                self._tell(why)
                pause = FIRST_PAUSE_S if trio.current_time() - began > MAX_PAUSE_S else min(2 * pause, MAX_PAUSE_S)
                await trio.sleep(pause)

    async def _cancel_when_gone(self, index: int, scope: trio.CancelScope) -> None:
        await self._link.wait_not(index)
        scope.cancel()

    def _tell(self, why: str) -> None:
        """Once for each reason in turn: it is tried again every minute."""
        if why != self._told:
            self._told = why
            events.emit(events.DHCP_CLIENT_FAILED, interface=self._interface, why=why)

    async def _ask(self) -> str:
        """One life of the child; -> why it ended by itself."""
        program = shutil.which("udhcpc", path=SBIN)
        if program is None:
            return "udhcpc is not installed"
        try:
            process = await trio.lowlevel.open_process(
                argv(program, self._device, self._hostname, self.lease),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": SBIN},
            )
        except OSError as error:
            return f"udhcpc can't be started: {error}"
        said = bytearray()
        self._begun = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_last, process.stderr, said)
                why = await self._obey(process.stdout)
                nursery.cancel_scope.deadline = trio.current_time() + STOP_S  # for its last words
            if why:
                return why
            await process.wait()
        finally:
            await child.end(process, STOP_S)
        last = events.clean(bytes(said).strip().rpartition(b"\n")[2])
        return f"udhcpc ended with {process.returncode}: {last.removeprefix('udhcpc: ') or 'it did not say why'}"

    async def _keep_last(self, stream: trio.abc.ReceiveStream | None, said: bytearray) -> None:
        assert stream is not None
        async for data in stream:
            said += data
            del said[:-SAID_LIMIT]

    async def _obey(self, stream: trio.abc.ReceiveStream | None) -> str:
        """Every event of the script's, until the child closes its standard output; -> what was wrong with it."""
        assert stream is not None
        records = Records()
        async for data in stream:
            try:
                for fields in records.feed(bytes(data)):
                    self._event(fields)
            except BadLease as error:
                return f"udhcpc's script: {error}"
        return ""

    def _event(self, fields: dict[str, str]) -> None:
        match fields.get("event"):
            case "bound" | "renew":
                try:
                    lease = read(fields)
                except BadLease as error:
                    self._tell(f"the server's lease is of no use: {error}")
                    return
                self._told = ""
                if self.lease is None or lease.address != self.lease.address:
                    via = ", ".join(str(r) for r in lease.routes) or "no routes"
                    events.emit(
                        events.LEASE_GOT, interface=self._interface, address=lease.address, seconds=lease.seconds,
                        server=lease.server, routes=via,
                    )  # fmt: skip
                self.lease = lease
                self._lend(lease)
            case "deconfig" if self._begun:
                self._lost()
            case "nak":  # what an earlier client was lent is not for this network
                self._lost()
            case "leasefail":
                self._tell("no DHCP server answers")
        self._begun = True

    def _lost(self) -> None:
        if self.lease is not None:
            events.emit(events.LEASE_LOST, interface=self._interface, address=self.lease.address)
        self.lease = None
        self._lend(None)
