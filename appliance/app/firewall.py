"""The part that keeps the firewall, and what a call opens on this host: the firewall for its device, and its way for
those who may use it. Without `[[interface]]` there is neither, and nothing of the host is touched.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.config.model import LineKind
from appliance.network.firewall import Nft, Rules, ruleset
from appliance.network.guard import Guard, open_watch
from appliance.storage.disk import Disk
from appliance.transport.listen import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["FirewallPart", "rules_of"]

PPP_DEVICES: Final = "posthouse*"
"""What pppd's network devices are called here (`modem.ppp_helper.NAMES`)."""
CHRONY_USERS: Final = ("_chrony", "chrony")
"""Debian's, and what Buildroot and others call it."""
IMAP_PORTS: Final = (143, 993)
SYSCTLS: Final = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}


class FirewallPart:
    """The service, and the `call.Window` of every call: `lacks` keeps a call from being made while the firewall is not
    in force."""

    name = "firewall"
    waits_for_call = True

    def __init__(self, house: House) -> None:
        self._house = house
        self._guard: Guard | None = None
        self._loaded = False
        self.device = ""
        """Of the call that is up, for the LED that flickers with its bytes."""

    def slice(self, config: Config) -> tuple[object, ...] | None:
        rules = rules_of(config)
        return (rules,) if rules is not None else ("taken away",) if self._loaded else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        from appliance.network.netlink import close_way  # pyroute2 costs 40 ms and 6 MB

        rules, nft = rules_of(self._house.config), Nft()
        try:
            await trio.to_thread.run_sync(close_way)  # of a call in which an earlier process died
        except OSError as error:
            events.emit(events.WINDOW_PROBLEM, line="any line", what=error)
        if rules is None:
            await self._take_away(nft, task_status)
            return
        self._loaded = True
        self._guard = guard = Guard(ruleset(rules), nft, open_watch)
        try:
            await guard.run(task_status=task_status)
        finally:
            self._guard = None

    async def _take_away(self, nft: Nft, task_status: trio.TaskStatus[None]) -> None:
        try:
            await nft.remove()
            self._loaded = False
        except OSError as error:
            events.emit(events.FIREWALL_FAILED, why=error)
        task_status.started()
        await trio.sleep_forever()

    async def drain(self) -> None:
        pass

    # ---- call.Window
    def lacks(self) -> str:
        """Why no call could be let through, "" where it could."""
        if not self._house.config.interface:
            return ""
        return self._guard.lacks if self._guard is not None else "the firewall is not in force"

    async def open(self, device: str, dns: Sequence[str]) -> None:
        self.device = device
        if self._guard is None or not device:
            return
        from appliance.network.netlink import open_way

        await self._guard.open(device)
        rules = rules_of(self._house.config)
        if rules is not None:
            # Not before: without the firewall in force the kernel would forward everything.
            await trio.to_thread.run_sync(_let_forward, Disk(), rules.forward)
            lan, chrony = rules.lan if rules.forward else (), _numbers(CHRONY_USERS)
            if lan or chrony:
                await trio.to_thread.run_sync(functools.partial(open_way, device, lan, chrony))

    async def close(self) -> None:
        self.device = ""
        if self._guard is None:
            return
        from appliance.network.netlink import close_way

        try:
            await self._guard.close()
        finally:
            await trio.to_thread.run_sync(close_way)


def rules_of(config: Config) -> Rules | None:
    """None: nothing of the host is touched."""
    if not config.interface:
        return None
    own = tuple(line.device for line in config.line if line.kind is LineKind.INTERFACE)
    imap = IMAP_PORTS if config.mail.imap else ()
    return Rules(
        lan=tuple(x.device for x in config.interface if x.device not in own),
        lines=(PPP_DEVICES, *own),
        mail=(*(parse_address(a).port for a in (*config.mail.smtp, *config.mail.pop3)), *imap),
        relay=tuple(parse_address(a).port for a in config.relay.listen),
        forward=config.firewall.forward,
        leased=tuple(x.device for x in config.interface if x.device in own and x.dhcp),
        users=(os.getuid(), *_numbers(CHRONY_USERS)),
    )


def _numbers(users: Sequence[str]) -> tuple[int, ...]:
    """Of those of these users that this host has."""
    found = []
    for name in users:
        try:
            found.append(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return tuple(found)


def _let_forward(disk: Disk, permissions: Sequence[str]) -> None:
    """The kernel forwards what the firewall lets pass, where somebody may. Blocks."""
    for version in {ipaddress.ip_network(p.split()[0]).version for p in permissions}:
        switch = SYSCTLS[version]
        try:
            if switch.read_text().strip() == "0":
                fd = disk.open_write(switch)
                try:
                    disk.write(fd, b"1\n")
                finally:
                    disk.close(fd)
        except OSError as error:
            events.emit(events.FORWARDING_OFF, why=f"{switch}: {error.strerror}")
