"""The part that has Dovecot serve IMAP to the LAN, from the mailboxes, with the certificate and the users of POP3.

systemd's unit runs it on the image, a child of ours elsewhere. As root it does not run: Dovecot serves no mail of
root's.
"""

from __future__ import annotations

import functools
import grp
import ipaddress
import os
import pwd
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.app.network import RUNTIME_OF_UNIT
from appliance.host.units import Unit, systemd_runs
from appliance.mail.lan.dovecot import ImapSettings, configuration, users
from appliance.network.lan import LanServices
from appliance.network.neighbour import Child, Lacking, Neighbour
from appliance.storage.disk import Disk
from appliance.transport.listen import parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.app.house import House
    from appliance.config.model import Config

__all__ = ["ImapPart"]

UNIT: Final = "posthouse-dovecot.service"
FOLDER_OF_UNIT: Final = "/run/posthouse-dovecot"
VERSION_S: Final = 30.0
"""For `dovecot --version`, on a busy board."""
OLDEST: Final = (2, 3)


class ImapPart:
    """`configure` writes the users anew while it runs, which costs no session."""

    name = "imap"
    waits_for_call = False

    def __init__(self, house: House) -> None:
        self._house = house
        self._users_file: Path | None = None
        self._users = ""

    def slice(self, config: Config) -> tuple[object, ...] | None:
        mail = config.mail
        if not mail.imap:
            return None
        return (
            _hosts(config),
            mail.certificate,
            mail.key,
            mail.plaintext_login,
            mail.client_limit,
            mail.session_limit,
        )

    def configure(self, config: Config) -> None:
        """Dovecot looks at its users again by itself. Raises OSError."""
        text = users(config.user)
        if self._users_file is not None and text != self._users:
            Disk().replace_file(self._users_file, text.encode())
            self._users = text

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        house, config = self._house, self._house.config
        await trio.to_thread.run_sync(house.core.tls, config)  # it makes the certificate that is not configured
        program = shutil.which("dovecot", path="/usr/sbin:/usr/local/sbin:/usr/bin:/sbin") or "dovecot"
        version = await _version(program)
        file, users_file = (config.site.runtime / name for name in ("dovecot.conf", "dovecot.users"))
        by_unit = str(config.site.runtime) == RUNTIME_OF_UNIT and systemd_runs() and await Unit(UNIT).exists()
        folder = FOLDER_OF_UNIT if by_unit else str(config.site.runtime / "dovecot")
        text = configuration(_settings(house, folder, users_file), version or OLDEST).encode()
        disk = Disk()

        def write_both() -> None:
            self._users = users(house.config.user)
            disk.replace_file(users_file, self._users.encode())
            disk.replace_file(file, text)

        neighbour: Neighbour
        if version is None:
            neighbour = Lacking("Dovecot is not installed")
        elif version < OLDEST:
            neighbour = Lacking(f"Dovecot is older than {OLDEST[0]}.{OLDEST[1]}")
        elif by_unit:
            neighbour = Unit(UNIT)
        elif os.geteuid() == 0:
            neighbour = Lacking("Posthouse runs as root, and Dovecot serves no mail of root's: run it as another user")
        else:
            disk.mkdir(config.site.runtime / "dovecot")
            command = [program, "-F", "-c", str(file)]
            neighbour = Child(command, config.site.runtime / "dovecot/master.pid", str(file))
        addresses, said = ", ".join(_hosts(config)), ".".join(map(str, version or ())) or "?"

        def started() -> None:
            events.emit(events.IMAP_STARTED, addresses=addresses, version=said)

        def failed(why: str) -> None:
            events.emit(events.IMAP_FAILED, addresses=addresses, version=said, why=why)

        self._users_file = users_file
        write = functools.partial(trio.to_thread.run_sync, write_both)
        try:
            await LanServices(write, neighbour, started, failed).run(task_status=task_status)
        finally:
            self._users_file = None

    async def drain(self) -> None:
        pass


def _hosts(config: Config) -> tuple[str, ...]:
    """Where the LAN's other mail services are; where there are none, this host's addresses on the LAN."""
    mail = [parse_address(a).host or "*" for a in (*config.mail.pop3, *config.mail.smtp)]
    lan = [str(ipaddress.ip_interface(a).ip) for x in config.interface for a in x.addresses]
    return tuple(dict.fromkeys(mail or lan or ["*"]))


def _settings(house: House, folder: str, users_file: Path) -> ImapSettings:
    mail, paths = house.config.mail, house.core.paths
    certificate = mail.certificate or str(paths.keys / "mail.pem")
    key = mail.key or mail.certificate or str(paths.keys / "mail.key")
    return ImapSettings(
        hosts=_hosts(house.config),
        mail=str(paths.mail.absolute()),
        certificate=certificate,
        key=key,
        folder=folder,
        users_file=str(users_file),
        user=pwd.getpwuid(os.geteuid()).pw_name,
        group=grp.getgrgid(os.getegid()).gr_name,
        plaintext_login=mail.plaintext_login,
        client_limit=mail.client_limit,
        session_limit=mail.session_limit,
    )


async def _version(program: str) -> tuple[int, int] | None:
    """Of `dovecot --version`: "2.3.19.1 (9b53102964)". None: there is no such program, or it says nothing like it."""
    try:
        with trio.move_on_after(VERSION_S):
            done = await trio.run_process(
                [program, "--version"],
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            found = re.match(rb"(\d+)\.(\d+)", done.stdout)
            return (int(found[1]), int(found[2])) if found else None
    except OSError:
        pass
    return None
