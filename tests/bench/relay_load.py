"""Load for `scripts/bench relay`: control connections that speak the relay protocol without a terminal's seal, so that what
is measured is the relay server, and streams between sockets, whichever way they were connected.

Blocking sockets and no Trio; senders and receivers are processes of their own. A *pair* is the two ends of one stream.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
import select
import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.protocol import relay
from tests.fakes.relay_client import Key

Pair = tuple[socket.socket, socket.socket]
CHUNK = 256 * 1024
PATIENCE_S = 60.0
JOINED = relay.encode("joined")
_counters = itertools.count(int(time.time() * 1000))
_sources = itertools.cycle(f"127.1.{i}.{j}" for i in range(1, 5) for j in range(1, 251))
Peer = tuple[str, int]


def source() -> str:
    """An address of loopback: a relay server takes 32 strangers from each."""
    return next(_sources)


def tcp(to: Peer, here: str = "") -> socket.socket:
    """Connected, blocking, without Nagle's delay."""
    sock = socket.create_connection(to, PATIENCE_S, (here, 0) if here else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def address(at: str) -> Peer:
    host, _, port = at.rpartition(":")
    return host, int(port)


# ---- the relay protocol
class Control:
    """A control connection; `der` is the certificate that the relay server showed."""

    def __init__(self, at: str, role: str, name: str, here: str = "") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.at, self.name, self.here = address(at), name, here or source()
        self.sock = context.wrap_socket(tcp(self.at, self.here))
        self.der = self.sock.getpeercert(binary_form=True) or b""
        self._decoder = relay.Decoder()
        self.bytes_in = self.bytes_out = 0
        self.send("hello", version=relay.VERSION, role=role, name=name)

    def send(self, kind: str, **body: Any) -> None:
        data = relay.encode(kind, body)
        self.bytes_out += len(data)
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise ConnectionError(f"{self.name}: {error}; heard {list(self.take())}") from error

    def take(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The frames that are there; waits for none. A connection that has ended is for who reads next."""
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(65536):
                self.bytes_in += len(data)
                self._decoder.feed(data)
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        finally:
            self.sock.settimeout(PATIENCE_S)
        while (frame := self._decoder.next()) is not None:
            yield frame

    def next(self) -> tuple[str, dict[str, Any]]:
        while (frame := self._decoder.next()) is None:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError(f"{self.name}: the relay server closed the connection")
            self.bytes_in += len(data)
            self._decoder.feed(data)
        return frame

    def expect(self, *kinds: str) -> dict[str, Any]:
        """The next frame but pings and tables, which must be of one of these kinds."""
        while True:
            kind, body = self.next()
            if kind == "ping":
                self.send("pong")
            elif kind in kinds:
                return body
            elif kind not in ("table", "pong"):
                raise ConnectionError(f"{self.name}: {kind} {body} where {kinds} was due")

    def answer_pings(self) -> None:
        """Of those that have come while nobody read."""
        for kind, _ in self.take():
            if kind == "ping":
                self.send("pong")

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


class Terminal(Control):
    """Logged in."""

    def __init__(self, at: str, name: str, key: Key, password: str, services: tuple[str, ...] = ()) -> None:
        super().__init__(at, "terminal", name)
        self.key = key
        self._login(services)
        if "code" in self.expect("welcome", "error"):
            self._login(services, password=password)
            self.expect("welcome")

    def _login(self, services: tuple[str, ...], **password: str) -> None:
        counter = next(_counters)
        proof = self.key.prove(self.der, self.name, counter)
        self.send("login", certificate=self.key.der, counter=counter, services=list(services), proof=proof, **password)


class PeerLink(Control):
    """A relay server's link to `at`, as `name`, up; `have`: owner -> [epoch, seq]."""

    def __init__(self, at: str, name: str, to: str, secret: bytes, have: dict[str, list[int]]) -> None:
        super().__init__(at, "relay", name)
        nonce = os.urandom(16)
        proof = relay.peer_proof(secret, "posthouse peer 1", name, to, self.der, nonce)
        self.send("peer", nonce=nonce, proof=proof, keepalive=30, stays=0)
        self.expect("welcome")
        self.send("have", have=have)
        self.send("route", owner=name, path=[name], state="up", age=0)


def data_connection(at: Peer, name: str, ticket: bytes, here: str) -> socket.socket:
    """Sent its `hello` and `join`; `joined` is still to come."""
    sock = tcp(at, here)
    hello = relay.encode("hello", {"version": relay.VERSION, "role": "data", "name": name})
    sock.sendall(hello + relay.encode("join", {"ticket": ticket}))
    return sock


def take_joined(sock: socket.socket) -> None:
    got = b""
    while len(got) < len(JOINED):
        data = sock.recv(len(JOINED) - len(got))
        if not data:
            break
        got += data
    if got != JOINED:
        raise ConnectionError(f"join was answered {got!r}")


def circuit(caller: Terminal, callee: Terminal, service: str) -> Pair:
    id = os.urandom(16)
    caller.send("connect", id=id, to=callee.name, service=service, wait=0)
    callee.expect("invite")
    callee.send("accept", id=id, certificate=callee.key.der)
    ends = []
    for one in (caller, callee):
        ready = one.expect("ready", "unavailable")
        if "ticket" not in ready:
            raise ConnectionError(f"no circuit: {ready}")
        sock = data_connection(one.at, one.name, ready["ticket"], one.here)
        take_joined(sock)
        ends.append(sock)
    return ends[0], ends[1]


# ---- streams
def _send(ends: list[socket.socket], seconds: float) -> None:
    data = memoryview(os.urandom(CHUNK))
    until = time.monotonic() + seconds
    if len(ends) == 1:
        ends[0].settimeout(None)
        while time.monotonic() < until:
            ends[0].sendall(data)
    else:
        poll = select.epoll()
        of = {sock.fileno(): sock for sock in ends}
        for fd, sock in of.items():
            sock.setblocking(False)
            poll.register(fd, select.EPOLLOUT)
        while time.monotonic() < until:
            for fd, _ in poll.poll(1.0):
                with contextlib.suppress(BlockingIOError):
                    of[fd].send(data)
    for sock in ends:
        sock.setblocking(True)
        sock.shutdown(socket.SHUT_WR)


def _receive(ends: list[socket.socket], sink: Any) -> None:
    """Puts (bytes, seconds from the first byte to the last end)."""
    buffer = memoryview(bytearray(CHUNK))
    poll = select.epoll()
    of = {sock.fileno(): sock for sock in ends}
    for fd, sock in of.items():
        sock.setblocking(False)
        poll.register(fd, select.EPOLLIN)
    total, begun = 0, 0.0
    while of:
        for fd, _ in poll.poll(PATIENCE_S):
            try:
                n = of[fd].recv_into(buffer)
            except BlockingIOError:
                continue
            begun = begun or time.monotonic()
            total += n
            if not n:
                poll.unregister(fd)
                del of[fd]
    sink.send((total, time.monotonic() - begun))


def stream(pairs: list[Pair], seconds: float) -> tuple[int, float]:
    """Sends through all pairs at once for so long; -> (bytes, seconds)."""
    fork = multiprocessing.get_context("fork")
    result, sink = fork.Pipe(duplex=False)
    receiver = fork.Process(target=_receive, args=([far for _, far in pairs], sink), daemon=True)
    sender = fork.Process(target=_send, args=([near for near, _ in pairs], seconds), daemon=True)
    receiver.start()
    sender.start()
    # The ends that matter are the children's: here they are closed, so that an end of one of theirs is one.
    for near, far in pairs:
        near.close()
        far.close()
    if not result.poll(seconds + PATIENCE_S):
        raise TimeoutError("a stream has not come to its end")
    total, took = result.recv()
    sender.join()
    receiver.join()
    return total, took


def round_trips(pair: Pair, count: int) -> tuple[float, float]:
    """64 bytes there and back, one after the other; -> (p50, p99) in microseconds."""
    near, far = pair
    times = []
    word = bytes(64)
    for sock in pair:
        sock.settimeout(PATIENCE_S)
    for _ in range(count):
        begun = time.perf_counter_ns()
        near.sendall(word)
        far.recv(64)
        far.sendall(word)
        near.recv(64)
        times.append((time.perf_counter_ns() - begun) / 1000)
    near.close()
    far.close()
    times = times[count // 10 :]
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


# ---- setting up
class Sink:
    """Listens; what comes to it is the far end of a stream."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(4096)
        self.sock.settimeout(PATIENCE_S)
        self.port: int = self.sock.getsockname()[1]

    def pair(self, by: Peer, here: str = "") -> Pair:
        """A stream to it by that address."""
        near = tcp(by, here)
        # Some programs connect onwards only when there is something to carry.
        near.sendall(b"!")
        far, _ = self.sock.accept()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.settimeout(PATIENCE_S)
        if far.recv(1) != b"!":
            raise ConnectionError("the first byte has not come")
        return near, far


def plain_connections(by: Peer, sink: Sink, seconds: float, at_once: int) -> float:
    """Connections through a proxy a second: connect, one byte there and one back, end. One process, as `circuits`."""
    poll = select.epoll()
    listener = sink.sock
    listener.setblocking(False)
    poll.register(listener, select.EPOLLIN)
    near: dict[int, socket.socket] = {}
    far: dict[int, socket.socket] = {}
    done = 0

    def begin() -> None:
        sock = tcp(by, source())
        sock.sendall(b"!")
        sock.setblocking(False)
        near[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)

    begun = time.monotonic()
    for _ in range(at_once):
        begin()
    while (now := time.monotonic()) < begun + seconds:
        for fd, _ in poll.poll(1.0):
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        far[sock.fileno()] = sock
                        poll.register(sock, select.EPOLLIN)
            elif fd in far:
                if far[fd].recv(1):
                    far[fd].send(b"!")
                else:
                    far.pop(fd).close()
            elif fd in near:
                if near[fd].recv(1):
                    done += 1
                    near.pop(fd).close()
                    begin()
                else:
                    raise ConnectionError("a connection ended before its answer")
    took = now - begun
    for sock in [*near.values(), *far.values()]:
        sock.close()
    listener.settimeout(PATIENCE_S)
    return done / took


def circuits(pairs: list[tuple[Terminal, Terminal]], seconds: float, at_once: int) -> float:
    """Circuits a second between these callers and callees, `at_once` under way for each caller: request, both data
    connections, one byte there and one back, end."""
    poll = select.epoll()
    callers = {caller.fileno(): (caller, callee) for caller, callee in pairs}
    callees = {callee.fileno(): callee for _, callee in pairs}
    near: dict[int, tuple[socket.socket, Terminal, bytearray]] = {}
    far: dict[int, tuple[socket.socket, bytearray]] = {}
    asked = done = 0
    for fd in (*callers, *callees):
        poll.register(fd, select.EPOLLIN)

    def ask(caller: Terminal, callee: Terminal) -> None:
        nonlocal asked
        asked += 1
        caller.send("connect", id=os.urandom(16), to=callee.name, service="raw", wait=0)

    def heard(fd: int) -> None:
        one = callers[fd][0] if fd in callers else callees[fd]
        for kind, body in one.take():
            if kind == "invite":
                one.send("accept", id=body["id"], certificate=one.key.der)
            elif kind == "ready":
                sock = data_connection(one.at, one.name, body["ticket"], source())
                poll.register(sock, select.EPOLLIN)
                if fd in callers:
                    sock.sendall(b"!")
                    near[sock.fileno()] = (sock, one, bytearray())
                else:
                    far[sock.fileno()] = (sock, bytearray())
            elif kind == "ping":
                one.send("pong")
            elif kind == "unavailable":
                raise ConnectionError(f"no circuit: {body}")

    begun = time.monotonic()
    for caller, callee in pairs:
        for _ in range(at_once):
            ask(caller, callee)
    whole = len(JOINED) + 1
    until, in_time = begun + seconds, 0
    while done < asked or far:  # those that are under way come to their end, so that the next run finds none of them
        if time.monotonic() > until + PATIENCE_S:
            raise TimeoutError("circuits have not come to their end")
        for fd, _ in poll.poll(1.0):
            if fd in callers or fd in callees:
                heard(fd)
            elif fd in far:
                sock, got = far[fd]
                data = sock.recv(256)
                before = len(got)
                got += data
                if before < whole <= len(got):
                    sock.send(b"!")
                elif not data:
                    del far[fd]
                    sock.close()
            elif fd in near:
                sock, caller, got = near[fd]
                data = sock.recv(256)
                if not data:
                    raise ConnectionError("a circuit ended before its answer")
                got += data
                if len(got) == whole:
                    done += 1
                    del near[fd]
                    sock.close()
                    if time.monotonic() < until:
                        in_time = done
                        ask(*callers[caller.fileno()])
    return in_time / seconds


# ---- processes
def cpu_s(pids: list[int]) -> float:
    """User and system time of these processes and of what they have waited for, seconds."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a child that has ended: its parent has waited for it, or will have
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def anonymous_kb(pids: list[int]) -> int:
    """What these processes have of their own in memory: RssAnon of proc(5)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def below(pid: int) -> list[int]:
    """A process and all those below it."""
    out = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                out += below(int(child))
    return out


def wait_forgotten(most: int) -> None:
    """Until no more connections than these are in TIME_WAIT, a minute at worst: between a proxy and the sink there are some
    28,000 ports, which a quick machine uses up within two seconds."""
    end = time.monotonic() + PATIENCE_S + 60
    while int(re.findall(r"\btw (\d+)", Path("/proc/net/sockstat").read_text())[0]) > most:
        if time.monotonic() > end:
            raise TimeoutError(f"more than {most} connections stay in TIME_WAIT: who else makes them here?")
        time.sleep(1)
