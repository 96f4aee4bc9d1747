"""Network namespaces for tests: hosts and cables that the kernel makes, under names of this process's own, gone at the
end. For root on Linux alone; what runs there are real programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
WAIT = 30

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def run(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"{argv}: {done.returncode} {done.stderr}"
    return done.stdout


class Namespace:
    """One host. `ip("link", …)` is iproute2's command in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *words: str, check: bool = True) -> str:
        return run("ip", "-n", self.name, *words, check=check)

    def show(self, *words: str) -> list[dict[str, Any]]:
        text = run("ip", "-n", self.name, "-j", "-d", *words, check=False)
        return [entry for entry in json.loads(text or "[]") if entry]

    def argv(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]

    def exec(self, *argv: str, check: bool = True) -> str:
        return run(*self.argv(*argv), check=check)

    def enter(self) -> None:
        """For a child between fork and exec (`preexec_fn`), which keeps its view of the file system."""
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of that host, in this process."""
        with self.inside():
            return socket.socket(family, kind)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on that host; a socket that it makes there stays there."""
        with open("/proc/thread-self/ns/net", "rb") as here:
            self.enter()
            try:
                yield
            finally:
                if _libc.setns(here.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")

    # ---- what there is
    def link(self, device: str) -> dict[str, Any] | None:
        found = self.show("link", "show", "dev", device)
        return found[0] if found else None

    def addresses(self, device: str) -> set[str]:
        """But the link-local ones."""
        found = self.show("addr", "show", "dev", device)
        return {f"{a['local']}/{a['prefixlen']}" for one in found for a in one["addr_info"] if a.get("scope") != "link"}

    def routes(self, device: str) -> set[str]:
        """Of the main table, `DESTINATION via GATEWAY` or `DESTINATION`; but link-local ones."""
        found = self.show("-4", "route", "show", "dev", device) + self.show("-6", "route", "show", "dev", device)
        return {
            r["dst"] + (f" via {r['gateway']}" if "gateway" in r else "")
            for r in found
            if not r["dst"].startswith(("fe80:", "ff00:", "multicast", "169.254."))
        }

    def ports(self, bridge: str) -> set[str]:
        return {one["ifname"] for one in self.show("link", "show", "master", bridge)}

    # ---- what a test does
    def cable(self, device: str, other: Namespace, other_device: str) -> None:
        """A veth pair: a device here and one there, both down."""
        self.ip("link", "add", device, "type", "veth", "peer", "name", other_device, "netns", other.name)

    def spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        """A program that goes on; ended with the namespace."""
        return subprocess.Popen(
            self.argv(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


@contextlib.contextmanager
def namespace(label: str) -> Iterator[Namespace]:
    """A fresh one, its loopback up."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are for root alone")
    it = Namespace(f"posthouse-{os.getpid()}-{next(_numbers)}-{label}")
    run("ip", "netns", "add", it.name)
    try:
        it.ip("link", "set", "lo", "up")
        yield it
    finally:
        for pid in run("ip", "netns", "pids", it.name, check=False).split():
            if Path(f"/proc/{pid}").exists():
                os.kill(int(pid), 9)
        run("ip", "netns", "del", it.name)
