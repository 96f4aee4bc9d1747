"""The firewall in network namespaces, with real packets from both sides: `posthouse run` on a host with a LAN and a line
that is up by itself, a machine on each, and other users of the host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.netns import Namespace, namespace

from .product import Product, Table
from .providers import wait_until

SMTP, RELAY, SSH, OTHER, SERVER_PORT = 2525, 7400, 22, 8022, 2526
HOST, PC, LINE, SERVER = "192.168.77.1", "192.168.77.20", "10.9.9.1", "203.0.113.7"
QUICK_S = 1.0
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@dataclass
class World:
    """`here`: the host; `pc` on its LAN; `net` beyond its line, with SERVER behind it."""

    here: Namespace
    pc: Namespace
    net: Namespace
    product: Product

    def reaches(self, whence: Namespace, address: str, port: int) -> bool:
        with whence.socket() as sock:
            sock.settimeout(QUICK_S)
            try:
                sock.connect((address, port))
            except OSError:
                return False
            return True

    def open_ports(self, whence: Namespace, address: str) -> set[int]:
        ports = (SSH, 53, SMTP, RELAY, OTHER)
        with ThreadPoolExecutor(len(ports)) as pool:
            found = pool.map(lambda port: self.reaches(whence, address, port), ports)
            return {port for port, reached in zip(ports, found, strict=True) if reached}

    def reaches_as(self, user: int, address: str, port: int) -> bool:
        """From the host, as somebody."""

        def become() -> None:
            self.here.enter()
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)

        argv = ["/usr/bin/python3", "-c", CONNECT, address, str(port)]
        return subprocess.run(argv, preexec_fn=become, capture_output=True, timeout=30, cwd="/").returncode == 0

    def left(self) -> str:
        """What a call might leave in the kernel."""
        rules = self.here.exec("nft", "--stateless", "list", "ruleset")
        routes = self.here.ip("route", "show", "table", "all").splitlines()
        ours = [route for route in routes if "proto kernel" not in route]  # the kernel's come as addresses settle
        return rules + self.here.ip("rule") + "\n".join(ours)


@contextlib.contextmanager
def _serving(where: Namespace, *ports: int) -> Iterator[list[str]]:
    """Somebody listens on every address and takes connections; -> the addresses that they came from."""
    came: list[str] = []
    listeners = []
    for port in ports:
        sock = where.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.listen(64)
        listeners.append(sock)

    def take(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, (address, _) = sock.accept()
                came.append(address)
                taken.close()

    threads = [threading.Thread(target=take, args=(sock,), daemon=True) for sock in listeners]
    for thread in threads:
        thread.start()
    try:
        yield came
    finally:
        for sock in listeners:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in threads:
            thread.join(10)


@contextlib.contextmanager
def _world(root: Path, *, opened: bool) -> Iterator[World]:
    with namespace("here") as here, namespace("pc") as pc, namespace("net") as net:
        for one in (here, pc, net):
            one.ip("link", "set", "lo", "up")
        here.cable("lan0", pc, "eth0")
        here.cable("wan0", net, "wan1")
        here.ip("addr", "add", f"{LINE}/30", "dev", "wan0")
        here.ip("link", "set", "wan0", "up", "mtu", "576")  # a telephone line's: too small for IPv6
        here.ip("route", "add", "default", "via", "10.9.9.2")  # whoever brought it up gave it to everybody
        net.ip("addr", "add", "10.9.9.2/30", "dev", "wan1")
        net.ip("link", "set", "wan1", "up")
        net.ip("addr", "add", f"{SERVER}/32", "dev", "lo")
        pc.ip("addr", "add", f"{PC}/24", "dev", "eth0")
        pc.ip("link", "set", "eth0", "up")
        pc.ip("route", "add", "default", "via", HOST)
        site = {"name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run"}
        config: Table = {
            "site": site,
            "interface": [{"name": "lan", "device": "lan0", "addresses": [f"{HOST}/24"]}],
            "line": [{"name": "wan", "kind": "interface", "device": "wan0"}],
            "schedule": {"linger": "10m"},
            "mail": {"smtp": [f"0.0.0.0:{SMTP}"]},
        }
        if opened:
            config |= {"relay": {"listen": [f"0.0.0.0:{RELAY}"]}, "firewall": {"forward": [f"{PC} tcp {SERVER_PORT}"]}}
        product = Product(root, config, {})
        try:
            product.start(preexec_fn=here.enter)
            yield World(here, pc, net, product)
        except BaseException:
            print(product.journal()[-6000:], file=sys.stderr)
            raise
        finally:
            if product.alive:
                product.kill()


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "with relay.listen and firewall.forward"])
def test_from_both_sides(tmp_path: Path, opened: bool) -> None:
    with (
        _world(tmp_path, opened=opened) as w,
        _serving(w.here, SSH, 53, OTHER),
        _serving(w.net, SERVER_PORT, 80) as came,
    ):
        wait_until(lambda: "the firewall is in force" in w.product.journal(), "the firewall is loaded")
        before = w.left()
        # Between calls the line carries nothing, either way.
        assert w.open_ports(w.net, LINE) == set()
        assert not w.reaches(w.here, SERVER, 80) and not w.reaches(w.pc, SERVER, SERVER_PORT)
        # The LAN has its services, and nothing else of the host's.
        services = {SSH, 53, SMTP, *({RELAY} if opened else ())}
        assert w.open_ports(w.pc, HOST) == services

        w.product.dial_nowait()
        wait_until(lambda: w.product.status()["line"]["state"] == "lingering", "the call is up", patience=30)
        assert w.open_ports(w.net, LINE) == ({RELAY} if opened else set())
        assert w.open_ports(w.pc, HOST) == services
        assert w.reaches(w.here, SERVER, 80), "Posthouse's own user reaches the line"
        assert not w.reaches_as(65534, SERVER, 80), "nobody is nobody"
        assert w.reaches(w.pc, SERVER, SERVER_PORT) == opened
        assert not w.reaches(w.pc, SERVER, 80)
        wait_until(lambda: came.count(LINE) == (2 if opened else 1), f"those who may are taken for the host: {came}")
        assert PC not in came  # translated

        assert w.product.cli("hangup").returncode == 0
        wait_until(lambda: w.product.status()["line"]["state"] in ("idle", "failed"), "the call is over", patience=30)
        assert w.left() == before
        assert not w.reaches(w.here, SERVER, 80) and not w.reaches(w.pc, SERVER, SERVER_PORT)


def test_what_a_call_opened_is_shut_after_a_kill_and_what_somebody_flushed_comes_back(tmp_path: Path) -> None:
    with _world(tmp_path, opened=True) as w, _serving(w.net, 80, SERVER_PORT):
        wait_until(lambda: "the firewall is in force" in w.product.journal(), "the firewall is loaded")
        before = w.left()
        w.product.dial_nowait()
        wait_until(lambda: w.product.status()["line"]["state"] == "lingering", "the call is up", patience=30)
        w.here.exec("nft", "flush", "ruleset")
        wait_until(lambda: "table inet posthouse" in w.left(), "it is loaded anew")
        wait_until(lambda: w.reaches(w.pc, SERVER, SERVER_PORT), "and open as before")
        assert not w.reaches(w.pc, SERVER, 80)
        w.product.kill()
        w.product.start(preexec_fn=w.here.enter)
        wait_until(lambda: w.left() == before, "nothing of the call is left")
        assert not w.reaches(w.pc, SERVER, SERVER_PORT)
