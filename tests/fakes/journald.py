"""A systemd-journald of a test's own, in a mount namespace of its own: the sockets that programs write to are in it at their
usual places, and its journal is nobody else's. For root on Linux alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNS = 0x00020000
JOURNALD = Path("/usr/lib/systemd/systemd-journald")
PATIENCE = 60.0

CONFIG = """[Journal]
Storage=volatile
ReadKMsg=no
Audit=no
ForwardToSyslog=no
ForwardToWall=no
RateLimitIntervalSec=0
"""
START = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/systemd
mount --bind "$1/machine-id" /etc/machine-id
cp "$1/journald.conf" /etc/systemd
mkdir -p /run/systemd/journal /run/log/journal
exec "$2"
"""

_libc = ctypes.CDLL(None, use_errno=True)


class Journald:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def ready(self) -> bool:
        assert self._process.poll() is None, "systemd-journald has ended"
        return Path(f"/proc/{self._process.pid}/root/run/systemd/journal/stdout").exists()

    def join(self) -> None:
        """For a child between fork and exec (`preexec_fn`): what it sees under /run and /etc/systemd is the namespace's."""
        fd = os.open(f"/proc/{self._process.pid}/ns/mnt", os.O_RDONLY)
        if _libc.setns(fd, CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)

    def enter(self) -> None:
        """`join`, and its standard error becomes the journal's, as systemd has it for a service (JOURNAL_STREAM in
        systemd.exec(5))."""
        self.join()
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect("/run/systemd/journal/stdout")
        stream.send(
            b"posthouse\n\n6\n1\n0\n0\n0\n"
        )  # identifier, unit, priority, prefixes, three forwards: stdout's header
        os.dup2(stream.detach(), 2)
        stat = os.fstat(2)
        os.environ["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"

    def inside(self, *argv: str) -> str:
        """Runs a program in the namespace; -> what it printed."""
        command = ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", *argv]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode in (0, 1), done.stderr  # 1: nothing matches
        return done.stdout

    def journalctl(self, *arguments: str) -> str:
        return self.inside("journalctl", "--no-pager", *arguments)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Oldest first."""
        self.journalctl("--sync")
        return [json.loads(line) for line in self.journalctl("-o", "json", "--all", *matches).splitlines()]


@contextlib.contextmanager
def journald(folder: Path) -> Iterator[Journald]:
    """A fresh one; `folder` takes its configuration."""
    if os.geteuid() != 0:
        pytest.skip("mount namespaces are for root alone")
    (folder / "journald.conf").write_text(CONFIG)
    (folder / "machine-id").write_text(os.urandom(16).hex() + "\n")
    unshare = shutil.which("unshare")
    assert unshare and JOURNALD.exists(), "util-linux and systemd are missing: see scripts/test"
    process = subprocess.Popen(
        [unshare, "--mount", "--propagation", "private", "sh", "-ec", START, "sh", str(folder), str(JOURNALD)],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        it = Journald(process)
        until = time.monotonic() + PATIENCE
        while not it.ready:
            assert time.monotonic() < until, "systemd-journald is not ready"
            time.sleep(0.02)
        yield it
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
