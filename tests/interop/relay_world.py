"""Relay servers and terminals of the product as child processes, and real servers that terminals offer. A relay server
or a terminal may live in a network namespace of its own. Nothing of the product is imported."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fakes.netns import Namespace
from fakes.ports import free_port

from .product import PASSWORD, ROOT, Product, Table, hashed
from .providers import PATIENCE_S, end_process, wait_until

BLOCK = 1 << 20


class RelaySite(Product):
    """One `posthouse run` with a relay server alone. `peers`: name -> the relay server that it opens a link to, or None
    for one that opens the link itself."""

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        terminals: tuple[str, ...] = (),
        peers: dict[str, RelaySite | str | None] | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        host: Namespace | None = None,
        more: Table | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.host = host
        self.at = f"{address}:{port or free_port()}"
        secrets, entries = {}, []
        for peer, other in (peers or {}).items():
            secrets[f"peer-{peer}"] = hashlib.sha256("-".join(sorted((name, peer))).encode()).hexdigest()
            entry: Table = {"name": peer, "secret": f"peer-{peer}", "connect": "never"}
            if other is not None:
                at, mark = (other.at, other.fingerprint) if isinstance(other, RelaySite) else other.split(" ")
                entry |= {"address": at, "fingerprint": mark, "connect": "always"}
            entries.append(entry)
        accounts = [{"name": t, "password": hashed(PASSWORD), "may_call": ["*"], "callers": ["*"]} for t in terminals]
        relay: Table = {"listen": [self.at], "peer": entries, "account": accounts, **(more or {})}
        site = {"name": name, "domain": f"{name}.example", "state": root / "state", "runtime": root / "run"}
        super().__init__(root, {"site": site, "relay": relay}, secrets)

    def start(self, **preparation: Any) -> None:
        if self.host is not None:
            preparation["preexec_fn"] = self.host.enter
        super().start(**preparation)

    @property
    def fingerprint(self) -> str:
        return str(self.status()["fingerprint"])

    def shows(self, name: str) -> str | None:
        """A terminal's presence here; None without a row."""
        rows = {row["name"]: row for row in self.ask("terminals")}
        return rows[name]["presence"] if name in rows else None


@dataclass(frozen=True)
class Relay:
    """A relay server that somebody else runs, as a terminal knows it."""

    at: str
    fingerprint: str


class Pc:
    """A terminal with its state folder. `patience`: for what it waits for, in seconds."""

    def __init__(
        self,
        root: Path,
        name: str,
        relay: RelaySite | Relay,
        host: Namespace | None = None,
        *,
        patience: float = PATIENCE_S,
    ) -> None:
        self.root, self.name, self.relay, self.host, self._patience = root, name, relay, host, patience
        self.state = root / f"{name}-state"
        self.log = root / f"{name}.log"
        self.children: list[subprocess.Popen[bytes]] = []
        self.holder: subprocess.Popen[bytes] | None = None

    def argv(self, verb: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "appliance", "terminal", verb, "--state", str(self.state), *more]

    @property
    def proxy(self) -> str:
        """What ssh's ProxyCommand is."""
        return " ".join(self.argv("connect", "%h", "ssh"))

    @property
    def _child(self) -> dict[str, Any]:
        out: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "POSTHOUSE_PASSWORD": PASSWORD}}
        if self.host is not None:
            out["preexec_fn"] = self.host.enter
        return out

    def popen(self, argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """A program of this computer, ended with it."""
        child = subprocess.Popen(argv, **self._child, **how)
        self.children.append(child)
        return child

    def run(self, argv: list[str], *, patience: float = 120.0, **how: Any) -> subprocess.CompletedProcess[Any]:
        """A program of this computer to its end."""
        how = {"capture_output": True, "stdin": None if "input" in how else subprocess.DEVNULL, **how}
        return subprocess.run(argv, timeout=patience, **self._child, **how)

    def terminal(self, verb: str, *more: str, **how: Any) -> subprocess.CompletedProcess[Any]:
        return self.run(self.argv(verb, *more), **how)

    def start(self, verb: str, *more: str, until: str) -> subprocess.Popen[bytes]:
        """A verb that goes on; what it says goes to the log."""
        before = self.said().count(until)
        with self.log.open("ab") as log:
            child = self.popen(self.argv(verb, *more), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def there() -> bool:
            assert child.poll() is None, f"{verb} ended with {child.returncode}:\n{self.said()}"
            return self.said().count(until) > before

        wait_until(there, f"{self.name} says {until!r}", patience=self._patience)
        return child

    @contextlib.contextmanager
    def piped(
        self, verb: str, *more: str, patience: float = 180.0
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
        """A verb with its standard input and output; killed after `patience`, so that nothing waits for it for good."""
        child = self.popen(self.argv(verb, *more), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None and child.stdout is not None
        watchdog = threading.Timer(patience, child.kill)
        watchdog.start()
        try:
            yield child, child.stdin, child.stdout
        finally:
            watchdog.cancel()
            end_process(child)
            child.stdout.close()
            with contextlib.suppress(OSError):
                child.stdin.close()

    def login(self, **offers: str) -> subprocess.Popen[bytes]:
        given = ["--relay", self.relay.at, "--name", self.name, "--fingerprint", self.relay.fingerprint]
        for service, where in offers.items():
            given += ["--offer", f"{service}={where}"]
        self.holder = self.start("login", *given, until="is logged in")
        return self.holder

    def logout(self) -> None:
        assert self.holder is not None and end_process(self.holder) == 0

    def forward(self, name: str, service: str) -> int:
        """-> the port of this computer that leads there."""
        port = free_port()
        self.start("forward", str(port), name, service, until=f"leads to {service}")
        return port

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> None:
        for child in reversed(self.children):
            end_process(child)


# ---- servers
@contextlib.contextmanager
def server(argv: list[str], port: int, host: Namespace | None = None, address: str = "127.0.0.1") -> Iterator[str]:
    """A real server on that port; -> where it listens."""
    how: dict[str, Any] = {"preexec_fn": host.enter} if host else {}
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **how
    )  # fmt: skip

    def listens() -> bool:
        if child.poll() is not None:
            assert child.stderr is not None
            raise AssertionError(f"{argv[0]} ended: {child.stderr.read().decode()}")
        return listening(port, child.pid)

    try:
        wait_until(listens, f"{argv[0]} listens")
        yield f"{address}:{port}"
    finally:
        end_process(child)
        assert child.stderr is not None
        child.stderr.close()


def listening(port: int, pid: int) -> bool:
    """Whether something listens there, in that process's network, without connecting."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


class Sshd:
    """OpenSSH's server for the user that runs the test, and the client's side of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700)
        Path("/run/sshd").mkdir(exist_ok=True)  # as its package's unit does
        for name in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
            subprocess.run(argv, check=True, timeout=60)
        (root / "authorized").write_bytes((root / "user.pub").read_bytes())
        self.port = free_port()
        (root / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "Subsystem sftp internal-sftp\n"
        )

    def serve(self, host: Namespace | None = None) -> contextlib.AbstractContextManager[str]:
        return server(["/usr/sbin/sshd", "-D", "-e", "-f", f"{self.root}/sshd_config"], self.port, host)

    def client(self, program: str, proxy: str, *words: str) -> list[str]:
        """`ssh` or `scp` with this key, by that ProxyCommand, with nothing of the user's own configuration."""
        return [
            program, "-F", "none", "-i", f"{self.root}/user", "-o", f"ProxyCommand={proxy}", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.root}/known", "-o", "StrictHostKeyChecking=accept-new", "-o",
            "LogLevel=ERROR", *words,
        ]  # fmt: skip

    @staticmethod
    def at(name: str) -> str:
        return f"{getpass.getuser()}@{name}"


class Tcp:
    """Small services of the test: `handler(socket)` in a thread for each connection."""

    def __init__(self, handler: Callable[[socket.socket], None], host: Namespace | None = None) -> None:
        self._handler = handler
        self._listener = host.socket() if host else socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.at = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._handler(sock)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def blocks(size: int) -> Iterator[bytes]:
    """`size` bytes in which no lost, doubled or swapped block goes unnoticed."""
    noise = bytearray(hashlib.shake_256(b"posthouse").digest(BLOCK))
    for i in range(0, size, BLOCK):
        noise[:8] = i.to_bytes(8, "big")
        yield bytes(noise[: min(BLOCK, size - i)])


def sha_of(size: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(size):
        digest.update(block)
    return digest.hexdigest()


def tell_sha(sock: socket.socket) -> None:
    """Reads to the end, then says what it got: only half-close lets the answer arrive."""
    digest = hashlib.sha256()
    while data := sock.recv(1 << 18):
        digest.update(data)
    sock.sendall(digest.hexdigest().encode())


def give_blocks(sock: socket.socket) -> None:
    """Reads how many bytes, and gives them."""
    for block in blocks(int(sock.recv(20))):
        sock.sendall(block)


def seconds_of(text: str) -> float:
    """The last `… s` of a line that a terminal says."""
    return float(re.findall(r"([0-9.]+) s$", text, re.M)[-1])
