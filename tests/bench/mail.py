"""Taking mail in: accepted messages per second with durability against Postfix's smtpd (by its own smtp-source),
flushes per accepted message, peak memory under a 100 MB message, idle memory, start until ready.

Postfix holds everything that it takes (`static:HOLD`), so that both measure intake alone; both keep their queue on the
same disk. The pairs are measured in turns, so that a machine whose speed drifts does so for both.
"""

from __future__ import annotations

import os
import signal
import smtplib
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.ports import free_port
from tests.interop.product import Product
from tests.interop.providers import HOST, Certificates, Dovecot, Postfix, private_folder

SENDER, RECIPIENT = "hanako@harbour.example", "somebody@far.example"
SETTLE_S = 1.0
CASES = [(size, sessions) for size in (4096, 102_400) for sessions in (1, 10, 50)]
GOALS = "goals: ahead of Postfix at each; flushes at most 1 alone, 0.1 at 50 sessions"


def messages_for(size: int, sessions: int) -> int:
    """Enough for a second or two each."""
    return {1: 400, 10: 1500, 50: 2500}[sessions] if size < 50_000 else {1: 200, 10: 600, 50: 800}[sessions]


def bench(rounds: int) -> None:
    with private_folder("bench") as folder:
        _intake(folder, rounds)
        _memory_and_start(folder)


def _product(folder: Path, name: str, *, message_limit: str = "20MiB") -> Product:
    root = folder / name
    root.mkdir()
    port = free_port()
    config = {
        "site": {"name": "harbour", "domain": "harbour.example", "state": f"{root}/state", "runtime": f"{root}/run"},
        "mail": {
            "smtp": [f"{HOST}:{port}"],
            "trusted_networks": ["127.0.0.0/8"],
            "message_limit": message_limit,
            "smarthost": [{"host": "smtp.isp.example", "port": 25, "tls": "none"}],
        },
        "user": [{"name": "hanako", "addresses": [SENDER]}],
    }
    product = Product(root, config, {})
    product.start()
    return product


def _intake(folder: Path, rounds: int) -> None:
    certificates = Certificates.make(folder)
    for name in ("dovecot", "postfix"):
        (folder / name).mkdir()
    dovecot = Dovecot(folder / "dovecot", {"u": "p"}, certificates)
    postfix = Postfix(
        folder / "postfix",
        dovecot,
        certificates,
        main="smtpd_recipient_restrictions = static:HOLD, permit_mynetworks, reject",
    )
    postfix.start()
    product = _product(folder, "intake")
    port = int(product.config["mail"]["smtp"][0].rpartition(":")[2])
    print("accepted messages per second, connection reused (smtp-source -d); the median of", rounds)
    print(f"{'size':>7} {'sessions':>8} {'postfix':>9} {'posthouse':>9} {'ratio':>6} {'flushes per message':>20}")
    try:
        for size, sessions in CASES:
            n = messages_for(size, sessions)
            theirs, ours, flushes = [], [], []
            for _ in range(rounds):
                theirs.append(_source(postfix.smtp, size, sessions, n))
                before = _flushes(product)
                ours.append(_source(port, size, sessions, n))
                flushes.append((_flushes(product) - before) / n)
                _fresh_state(product)
            a, b = statistics.median(theirs), statistics.median(ours)
            print(
                f"{size:>7} {sessions:>8} {a:>9.0f} {b:>9.0f} {b / a:>6.2f} {statistics.median(flushes):>20.3f}",
                flush=True,
            )
    finally:
        product.stop()
        postfix.stop()
    print(GOALS)


def _source(port: int, size: int, sessions: int, n: int) -> float:
    """Messages per second. Every one must be accepted."""
    argv = ["smtp-source", "-d", "-l", str(size), "-s", str(sessions), "-m", str(n), "-f", SENDER, "-t", RECIPIENT]
    os.sync()  # what the other one left to be written, and to be discarded, is not this one's
    time.sleep(SETTLE_S)
    began = time.monotonic()
    done = subprocess.run([*argv, f"{HOST}:{port}"], capture_output=True, text=True, timeout=300, check=False)
    seconds = time.monotonic() - began
    if done.returncode or done.stderr:
        raise SystemExit(f"smtp-source failed: {done.stderr}")
    return n / seconds


def _flushes(product: Product) -> int:
    """How often the product waited for the disk: syncfs, fsync, fdatasync of its process, counted by the kernel."""
    return int(product.status()["storage"]["flushes"])


def _fresh_state(product: Product) -> None:
    """Nothing is deleted between the measurements: ext4 looks through what was deleted in the last minutes at each file
    that it makes, which would be measured instead."""
    product.stop()
    product.config["site"]["state"] += "+"
    product.start()


def _memory_and_start(folder: Path) -> None:
    product = _product(folder, "memory", message_limit="200MiB")
    try:
        time.sleep(1)
        idle = _rss(product, "VmRSS")
        with smtplib.SMTP(HOST, int(product.config["mail"]["smtp"][0].rpartition(":")[2]), timeout=300) as client:
            client.sendmail(SENDER, [RECIPIENT], b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 1_460_000)
        peak = _rss(product, "VmHWM")
        print(f"peak memory under a message of 105 MB: {(peak - idle) / 1024:.1f} MB above idle (goal 4)")
        print(f"idle memory: {idle / 1024:.1f} MB resident (goal 40)")
    finally:
        product.stop()
    starts = [_start_seconds(product) for _ in range(5)]
    print(f"start until ready: {statistics.median(starts):.2f} s, the median of 5 (goal 1)")


def _rss(product: Product, field: str) -> int:
    """KB."""
    assert product.process is not None
    lines = Path(f"/proc/{product.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _start_seconds(product: Product) -> float:
    """From exec to READY=1, as systemd would see it."""
    import socket

    path = str(product.root / "notify")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(30)
        began = time.monotonic()
        argv = [sys.executable, "-m", "appliance", "run", "--config", str(product.file)]
        process = subprocess.Popen(
            argv, env={**os.environ, "NOTIFY_SOCKET": path}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while b"READY=1" not in sock.recv(4096):
                pass
            return time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
