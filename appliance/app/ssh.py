"""The part that lets the administrator into the console over ssh, from the LAN: dropbear, which systemd's unit runs.

On the image alone: elsewhere the host has an ssh server of its own, and the one who may use it may call `posthouse
console`.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.app.network import RUNTIME_OF_UNIT
from appliance.config.rules import ssh_hosts
from appliance.host.units import Unit, systemd_runs
from appliance.network import dropbear
from appliance.network.lan import LanServices
from appliance.network.late_addresses import LateAddresses
from appliance.network.neighbour import Lacking, Neighbour
from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["SshPart"]

UNIT: Final = "posthouse-ssh.service"
FOLDER: Final = "ssh"
"""Under `site.runtime`, where the unit looks."""
HOST_KEY: Final = "ssh.key"
SHELLS: Final = ("/bin/bash", "/bin/sh")
"""Of the account: the first that there is. It is to end by idleness (TMOUT), which Debian's sh does not."""
NOT_HERE: Final = "only the image has it; by this host's own ssh server people may get at `posthouse console`"


class SshPart:
    name = "ssh"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house

    def slice(self, config: Config) -> tuple[object, ...] | None:
        return (ssh_hosts(config), config.console.password) if config.console.ssh else None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        config, keys = self._house.config, self._house.core.paths.keys
        hosts = ssh_hosts(config)
        by_unit = str(config.site.runtime) == RUNTIME_OF_UNIT and systemd_runs() and await Unit(UNIT).exists()
        runner: Neighbour = Unit(UNIT) if by_unit else Lacking(NOT_HERE)
        neighbour = LateAddresses(runner, hosts)
        key = ""

        def write() -> None:
            nonlocal key
            neighbour.look()
            key = host_key(keys / HOST_KEY)
            file, shell = str((keys / HOST_KEY).absolute()), next(x for x in SHELLS if Path(x).exists())
            password, uid, gid = config.console.password, os.geteuid(), os.getegid()
            made = dropbear.files(password, neighbour.here, file, shell, uid=uid, gid=gid)
            disk, folder = Disk(), config.site.runtime / FOLDER
            disk.mkdir(folder)
            for name, text in made.items():
                disk.replace_file(folder / name, text.encode())

        def started() -> None:
            addresses = _ports(neighbour.here)
            events.emit(events.SSH_STARTED, addresses=addresses, user=dropbear.USER, host_key=key)

        def failed(why: str) -> None:
            events.emit(events.SSH_FAILED, addresses=_ports(hosts), why=why)

        to_disk = functools.partial(trio.to_thread.run_sync, write)
        await LanServices(to_disk, neighbour, started, failed).run(task_status=task_status)

    async def drain(self) -> None:
        pass


def _ports(hosts: Iterable[str]) -> str:
    return ", ".join(f"{host} port {dropbear.PORT}" for host in hosts)


def host_key(file: Path) -> str:
    """The fingerprint of the host key in that file; it is made where there is none, or no whole one. Raises OSError."""
    try:
        return dropbear.fingerprint(file.read_bytes())
    except (FileNotFoundError, ValueError):
        key = dropbear.make_host_key()
        Disk().replace_file(file, key)
        return dropbear.fingerprint(key)
