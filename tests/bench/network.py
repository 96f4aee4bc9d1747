"""The host's interfaces: from the kernel's message that something was changed by hand to the one that it is put right,
and what managing interfaces costs in memory and at the start. In network namespaces, as root.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.mail import _rss
from tests.fakes.netns import Namespace, namespace
from tests.interop.product import Product, Table
from tests.interop.providers import private_folder

LAN: Table = {
    "name": "lan", "device": "br-lan", "ports": ["p0"], "addresses": ["192.168.77.1/24"],
    "routes": ["10.0.0.0/8 via 192.168.77.254"],
}  # fmt: skip
USB: Table = {"name": "usb", "device": "e0", "addresses": ["172.20.1.2/24"], "mtu": 1400}
TIMES = 12
"""Of each case and round: all of them together stay below the 50 corrections that are made without a pause."""
CALM_S = 0.3

NEWLINK, NEWADDR, NEWROUTE = 16, 20, 24
GROUPS = 0x1 | 0x10 | 0x40  # links, IPv4's addresses and routes
Right = Callable[[int, bytes], bool]
ROUTE_BACK: Right = lambda kind, data: kind == NEWROUTE and bytes([10, 0, 0, 0]) in data  # noqa: E731
ADDRESS_BACK: Right = lambda kind, data: kind == NEWADDR  # noqa: E731
MTU_BACK: Right = lambda kind, data: kind == NEWLINK and struct.pack("=HHI", 8, 4, 1400) in data  # noqa: E731

CASES: list[tuple[str, str, Right]] = [
    ("an address removed", "addr del 192.168.77.1/24 dev br-lan", ROUTE_BACK),
    ("a route removed", "route del 10.0.0.0/8", ROUTE_BACK),
    ("another MTU", "link set e0 mtu 1300", MTU_BACK),
    ("a bridge set down", "link set br-lan down", ROUTE_BACK),
    ("a bridge deleted", "link del br-lan", ROUTE_BACK),
    ("an adapter plugged in", "link add e0 type veth peer name far-e0", ADDRESS_BACK),
]


def bench(rounds: int) -> None:
    print("from the kernel's message of the change to its message that all is right again, ms:")
    for what, command, right in CASES:
        times = [t for _ in range(rounds) for t in _case(command, right)]
        print(f"  {what:24} median {statistics.median(times):6.1f}   longest {max(times):6.1f}   of {len(times)}")
    _cost()


def _case(command: str, right: Right) -> list[float]:
    times: list[float] = []
    with namespace("bench") as here, private_folder("bench") as folder:
        here.ip("link", "add", "p0", "type", "veth", "peer", "name", "far-p0")
        here.ip("link", "add", "e0", "type", "veth", "peer", "name", "far-e0")
        product = _product(folder, LAN, USB)
        product.start(preexec_fn=here.enter)
        thread = threading.Thread(target=_measure, args=(here, command, right, times))
        thread.start()
        thread.join()
        product.stop()
    assert len(times) == TIMES, command
    return times


def _measure(here: Namespace, command: str, right: Right, times: list[float]) -> None:
    """In a thread of its own, since a thread enters a namespace for good."""
    here.enter()
    for _ in range(TIMES):
        if command.startswith("link add e0"):
            subprocess.run(["ip", "link", "del", "e0"], check=True)
        time.sleep(CALM_S)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as watch:
            watch.bind((0, GROUPS))
            watch.settimeout(10)
            by_hand = subprocess.Popen(["ip", *command.split()])
            first = 0.0
            while True:
                data = watch.recv(65536)
                now = time.monotonic()
                first = first or now
                if any(right(kind, body) for kind, body in _messages(data)):
                    times.append(1000 * (now - first))
                    break
            assert by_hand.wait(10) == 0


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    """(type, everything) of each (struct nlmsghdr)."""
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        found.append((kind, data[at : at + length]))
        at += (length + 3) & ~3
    return found


def _product(folder: Path, *interfaces: Table) -> Product:
    site = {"name": "harbour", "state": folder / "state", "runtime": folder / "run"}
    return Product(folder, {"site": site, **({"interface": list(interfaces)} if interfaces else {})}, {})


def _cost() -> None:
    figures = []
    for interfaces in ((), (LAN, USB)):
        with namespace("bench") as here, private_folder("bench") as folder:
            product = _product(folder, *interfaces)
            product.start(preexec_fn=here.enter)
            time.sleep(1)
            seconds = product.journal().partition("is ready after ")[2].split()[0]
            assert product.process
            cpu = _cpu(product.process.pid)
            time.sleep(5)
            figures.append((_rss(product, "VmRSS") / 1024, float(seconds), _cpu(product.process.pid) - cpu))
            product.stop()
    (without, start, _), (with_them, start_with, idle) = figures
    print(f"memory: {with_them:.1f} MB with interfaces, {without:.1f} MB without ({with_them - without:.1f} MB more)")
    print(f"start until ready, inside the process: {start_with:.2f} s with interfaces, {start:.2f} s without")
    print(f"idle for 5 s with interfaces: {1000 * idle:.0f} ms of processor time")


def _cpu(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
