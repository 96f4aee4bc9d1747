"""User-space memory of idle logins (TLS) and idle circuits, at 1,000 and 5,000 of each: what the process has of its own
(RssAnon) more than without them. The kernel's own for each connection is the same for everybody, and is not counted.

A login at HAProxy is an idle TLS connection that it passes on to a plain one; at Syncthing's relay server it is a device
that has joined. An idle circuit is two plain connections, joined, over which a byte has gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench import relay_load as load
from tests.bench import relay_rivals as rivals
from tests.fakes.ports import free_port
from tests.fakes.relay_client import Key
from tests.interop.product import PASSWORD
from tests.interop.relay_world import RelaySite

STEPS = (1000, 5000)
SETTLE_S = 1.0
TRIES = 20
PINGS_S = 10.0
ENROLLING = 32
GOALS = {"login": 16, "circuit": 1}
"""KB."""


def bench(folder: Path, site: Callable[[Path, str, tuple[str, ...]], RelaySite]) -> None:
    """`site(folder, name, terminals)` is a relay server with these accounts, running."""
    print("\nuser-space memory of an idle one, KB, at 1,000 and at 5,000")
    _posthouse(folder, site)
    _haproxy(folder)
    _syncthing(folder)


def _grow(pid: int, make: Callable[[int], object], what: str, who: str, at_once: int = 1) -> None:
    """Makes as many as the steps say with `make(i)`, `at_once` in threads, and prints what each took but the first: what a
    program loads for it serves all."""
    make(0)
    time.sleep(SETTLE_S)
    before = load.anonymous_kb([pid])
    figures = []
    made = 1
    for count in STEPS:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(make, range(made, count)))
        made = count
        time.sleep(SETTLE_S)
        figures.append((load.anonymous_kb([pid]) - before) / (count - 1))
    goal = f"   goal: at most {GOALS[what]}" if who == "Posthouse" else ""
    print(f"{who:20}{what:10}" + "".join(f"{f:>8.2f}" for f in figures) + goal, flush=True)


def _posthouse(folder: Path, site: Callable[[Path, str, tuple[str, ...]], RelaySite]) -> None:
    names = tuple(f"pc{i}" for i in range(STEPS[-1]))
    relay, key = site(folder / "memory", "a", names), Key("bench")
    logins: dict[int, load.Terminal] = {}
    circuits: list[load.Pair] = []
    quiet, over = threading.Lock(), threading.Event()  # nobody but one uses the control connections

    def answer_pings() -> None:
        """5,000 logins take longer than the relay server waits for a word."""
        while not over.wait(PINGS_S):
            with quiet:
                for terminal in tuple(logins.values()):
                    terminal.answer_pings()

    pings = threading.Thread(target=answer_pings)
    pings.start()
    try:
        assert relay.process is not None
        pid = relay.process.pid

        def login(i: int) -> None:
            logins[i] = load.Terminal(relay.at, names[i], key, PASSWORD, ("raw",))

        def circuit(i: int) -> None:
            with quiet:
                near, far = load.circuit(logins[i], logins[(i or len(logins)) - 1], "raw")
            near.sendall(b"!")
            far.recv(1)
            circuits.append((near, far))

        _grow(pid, login, "login", "Posthouse", ENROLLING)  # each waits for the disk
        total = load.resident_mb(pid)
        print(f"{'':20}with {len(logins)} logins the process has {total:.0f} MB resident (goal: below 256)", flush=True)
        _grow(pid, circuit, "circuit", "Posthouse")
        assert "fallen silent" not in relay.log.read_text(), "not all that was counted was there"
    finally:
        over.set()
        pings.join()
        relay.stop()
        for one in (*logins.values(), *(end for pair in circuits for end in pair)):
            one.close()


def _haproxy(folder: Path) -> None:
    key = Key("bench").file()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for what, certificate in (("login", key), ("circuit", None)):
        sink = load.Sink()
        argv, port = rivals.haproxy(folder, sink.port, splice=True, certificate=certificate)
        kept: list[socket.socket] = []

        def login(i: int, port: int = port, sink: load.Sink = sink, kept: list[socket.socket] = kept) -> None:
            tls = context.wrap_socket(load.tcp(("127.0.0.1", port), load.source()))
            tls.sendall(b"!")
            far, _ = sink.sock.accept()
            far.recv(1)
            kept.extend((tls, far))

        def circuit(i: int, port: int = port, sink: load.Sink = sink, kept: list[socket.socket] = kept) -> None:
            kept.extend(sink.pair(("127.0.0.1", port), load.source()))

        with rivals.child(argv, port, folder) as pid:
            _grow(pid, login if certificate else circuit, what, "HAProxy")
        for sock in (*kept, sink.sock):
            sock.close()
    key.unlink()


# ---- Syncthing's relay protocol, version 1 (docs.syncthing.net, relay-v1)
MAGIC = 0x9E79BC40
JOIN_RELAY, JOIN_SESSION, RESPONSE, CONNECT, INVITATION = 2, 3, 4, 5, 6
PING, PONG = 0, 1


class SyncthingDevice:
    """A device with a key of its own, which is its name."""

    def __init__(self, port: int, folder: Path) -> None:
        key = Key("syncthing")
        self.port = port
        self.id = hashlib.sha256(key.der).digest()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        file = key.file()
        self._context.load_cert_chain(file)
        file.unlink()
        self._context.set_alpn_protocols(["bep-relay"])
        self.control = self._dial()
        _say(self.control, JOIN_RELAY, b"")
        _heard(self.control, RESPONSE)

    def _dial(self) -> ssl.SSLSocket:
        return self._context.wrap_socket(load.tcp(("127.0.0.1", self.port), load.source()))

    def session(self, other: SyncthingDevice) -> load.Pair:
        for _ in range(TRIES):
            with contextlib.suppress(ConnectionError):
                return self._session(other)
            # A session whose end comes before the server waits for it is "already connected", and gone.
        raise ConnectionError(f"strelaysrv has taken none of {TRIES} sessions")

    def _session(self, other: SyncthingDevice) -> load.Pair:
        request = self._dial()
        _say(request, CONNECT, _opaque(other.id))
        ours = _key_of(_heard(request, INVITATION))
        request.close()
        theirs = _key_of(_heard(other.control, INVITATION))
        with contextlib.ExitStack() as refused:
            first, second = (refused.enter_context(self._join(key)) for key in (ours, theirs))
            refused.pop_all()
        first.sendall(b"!")
        second.recv(1)
        return first, second

    def _join(self, key: bytes) -> socket.socket:
        with contextlib.ExitStack() as refused:
            sock = refused.enter_context(load.tcp(("127.0.0.1", self.port), load.source()))
            _say(sock, JOIN_SESSION, _opaque(key))
            _heard(sock, RESPONSE)
            refused.pop_all()
            return sock


def _opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def _say(sock: socket.socket, kind: int, body: bytes) -> None:
    sock.sendall(struct.pack(">III", MAGIC, kind, len(body)) + body)


def _heard(sock: socket.socket, wanted: int) -> bytes:
    while True:
        _, kind, length = struct.unpack(">III", _exactly(sock, 12))
        body = _exactly(sock, length)
        if kind == PING:
            _say(sock, PONG, b"")
        elif kind != wanted:
            raise ConnectionError(f"strelaysrv says {kind} {body!r}")
        elif kind == RESPONSE and body[:4] != bytes(4):
            raise ConnectionError(f"strelaysrv refuses: {body!r}")
        else:
            return body


def _exactly(sock: socket.socket, n: int) -> bytes:
    got = b""
    while len(got) < n:
        data = sock.recv(n - len(got))
        if not data:
            raise ConnectionError("strelaysrv closed the connection")
        got += data
    return got


def _key_of(invitation: bytes) -> bytes:
    """The session's key: behind the other's id."""
    (length,) = struct.unpack_from(">I", invitation)
    at = 4 + length + -length % 4
    (length,) = struct.unpack_from(">I", invitation, at)
    return invitation[at + 4 : at + 4 + length]


def _syncthing(folder: Path) -> None:
    port = free_port()
    keys = folder / "strelaysrv"
    keys.mkdir()
    argv = ["strelaysrv", "-listen", f"127.0.0.1:{port}", "-status-srv", "", "-pools", "", "-keys", str(keys)]
    devices: list[SyncthingDevice] = []
    ends: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(rivals.child([*argv, "-ping-interval", "1h", "-network-timeout", "2h"], port, folder))
        stack.callback(lambda: [sock.close() for sock in (*ends, *(d.control for d in devices))])
        _grow(pid, lambda i: devices.append(SyncthingDevice(port, folder)), "login", "strelaysrv")
        _grow(pid, lambda i: ends.extend(devices[i].session(devices[i - 1])), "circuit", "strelaysrv")
