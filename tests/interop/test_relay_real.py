"""One or two relay servers, two terminals, and programs that we did not write on both ends: OpenSSH, curl and an HTTP server,
iperf3. Large transfers, and links that break in the middle of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.ports import free_port

from .product import running
from .providers import wait_until
from .relay_world import BLOCK, Pc, RelaySite, Sshd, Tcp, blocks, give_blocks, server, sha_of, tell_sha


@dataclass
class World:
    """pc11 at relay server a, pc21 at b, which offers everything; a opens the link to b, or a and b are the same one."""

    root: Path
    a: RelaySite
    b: RelaySite
    pc11: Pc
    pc21: Pc
    sshd: Sshd
    http: Path
    offers: dict[str, str]


LONG = pytest.mark.long
TWO = [2, pytest.param(1, marks=LONG)]
"""Two in a row show everything that one does."""


@contextlib.contextmanager
def world(root: Path, servers: int) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        if servers == 1:
            a = b = RelaySite(root / "a", "a", terminals=("pc11", "pc21"))
            stack.enter_context(running(a))
        else:
            b = RelaySite(root / "b", "b", terminals=("pc21",), peers={"a": None})
            stack.enter_context(running(b))
            a = RelaySite(root / "a", "a", terminals=("pc11",), peers={"b": b})
            stack.enter_context(running(a))
        pc11, pc21 = Pc(root, "pc11", a), Pc(root, "pc21", b)
        stack.callback(pc11.stop)
        stack.callback(pc21.stop)
        sshd, http = Sshd(root / "ssh"), root / "http"
        http.mkdir()
        http_port, iperf_port, iperf2_port = free_port(), free_port(), free_port()
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(http), str(http_port)]
        offers = {
            "ssh": stack.enter_context(sshd.serve()),
            "http": stack.enter_context(server(argv, http_port)),
            "iperf": stack.enter_context(server(["iperf3", "-s", "-p", str(iperf_port)], iperf_port)),
            "iperf2": stack.enter_context(server(["iperf3", "-s", "-p", str(iperf2_port)], iperf2_port)),
        }
        for name, handler in (("sha", tell_sha), ("source", give_blocks)):
            service = Tcp(handler)
            stack.callback(service.close)
            offers[name] = service.at
        pc21.login(**offers)
        pc11.login()
        wait_until(lambda: a.shows("pc21") == "online", "pc21 is online in a's table")
        yield World(root, a, b, pc11, pc21, sshd, http, offers)


@pytest.fixture(scope="module", params=TWO, ids=lambda n: f"{n} relay server" + "s" * (n > 1))
def w(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("relay"), request.param) as made:
        yield made


# ---- OpenSSH through connect
def test_ssh_logs_into_the_machine_at_the_other_site(w: World) -> None:
    done = w.pc11.run(
        w.sshd.client("ssh", w.pc11.proxy, w.sshd.at("pc21"), "echo $SSH_CONNECTION; cat; exit 7"), input=b"typed"
    )
    assert (done.returncode, done.stderr) == (7, b"")
    assert done.stdout.startswith(b"127.0.0.1 ") and done.stdout.endswith(b"typed")


def test_scp_copies_both_ways(w: World, tmp_path: Path) -> None:
    data = os.urandom(20 * BLOCK)
    (tmp_path / "here").write_bytes(data)
    for source, sink in (
        (f"{tmp_path}/here", f"{w.sshd.at('pc21')}:{tmp_path}/there"),
        (f"{w.sshd.at('pc21')}:{tmp_path}/there", f"{tmp_path}/back"),
    ):
        done = w.pc11.run(w.sshd.client("scp", w.pc11.proxy, "-q", source, sink))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data


def test_ssh_says_why_it_cannot(w: World) -> None:
    done = w.pc11.run(w.sshd.client("ssh", w.pc11.proxy, w.sshd.at("pc99"), "true"))
    assert done.returncode == 255 and b"no terminal of the name pc99 is known" in done.stderr


def test_ssh_without_a_login_of_its_own(w: World, tmp_path: Path) -> None:
    """`connect` logs in for its own duration; ssh's control is all that runs."""
    w.pc11.logout()
    try:
        done = w.pc11.run(w.sshd.client("ssh", w.pc11.proxy, w.sshd.at("pc21"), "echo there"))
        assert (done.returncode, done.stdout) == (0, b"there\n"), done.stderr
    finally:
        w.pc11.login()


# ---- curl and iperf3 through forward
def test_curl_reads_from_an_http_server(w: World, tmp_path: Path) -> None:
    data = os.urandom(30 * BLOCK)
    (w.http / "file").write_bytes(data)
    port = w.pc11.forward("pc21", "http")
    urls = [f"http://127.0.0.1:{port}/file"] * 8
    argv = ["curl", "-sS", "--fail", "--parallel", "--max-time", "60"]
    for i, url in enumerate(urls):
        argv += ["-o", str(tmp_path / f"file{i}"), url]
    done = w.pc11.run(argv)
    assert done.returncode == 0, done.stderr
    assert {hashlib.sha256((tmp_path / f"file{i}").read_bytes()).hexdigest() for i in range(8)} == {
        hashlib.sha256(data).hexdigest()
    }
    done = w.pc11.run(["curl", "-sS", "--fail", "--max-time", "60", f"http://127.0.0.1:{port}/missing"])
    assert done.returncode == 22


def iperf3(port: int, *more: str) -> list[str]:
    return ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-J", "-t", "1", *more]


def check_iperf3(returncode: int, out: bytes) -> None:
    report = json.loads(out)
    assert returncode == 0 and "error" not in report, report.get("error")
    assert report["end"]["sum_received"]["bytes"] > BLOCK


@pytest.mark.parametrize("more", [[], ["-R"], ["-P", "4"]], ids=["up", "down", "four"])
def test_iperf3_measures_through_forward(w: World, more: list[str]) -> None:
    done = w.pc11.run(iperf3(w.pc11.forward("pc21", "iperf"), *more))
    check_iperf3(done.returncode, done.stdout)


def test_iperf3_measures_both_ways_at_once(w: World) -> None:
    """Not with --bidir: there it tells its connections apart by the order in which they come, which no network keeps.
    Where two change places both ends send on the one and read from the other, and each has received nothing."""
    children = [
        w.pc11.popen(iperf3(w.pc11.forward("pc21", service), *more), stdout=subprocess.PIPE)
        for service, *more in (["iperf"], ["iperf2", "-R"])
    ]
    for child in children:
        out, _ = child.communicate(timeout=120)
        check_iperf3(child.returncode, out)


# ---- large transfers
@pytest.mark.parametrize(
    "size", [pytest.param(100 * BLOCK, id="100 MB"), pytest.param(1000 * BLOCK, id="1 GB", marks=pytest.mark.long)]
)
def test_a_large_transfer_arrives_whole(w: World, size: int) -> None:
    child = w.pc11.popen(w.pc11.argv("connect", "pc21", "sha"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child:
        for block in blocks(size):
            child.stdin.write(block)
        child.stdin.close()
        assert child.stdout.read().decode() == sha_of(size)
    assert child.wait() == 0
    child = w.pc11.popen(w.pc11.argv("connect", "pc21", "source"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child:
        child.stdin.write(str(size).encode())
        child.stdin.close()
        digest = hashlib.sha256()
        while data := child.stdout.read(BLOCK):
            digest.update(data)
    assert (child.wait(), digest.hexdigest()) == (0, sha_of(size))


def begins_as_blocks(path: Path, size: int) -> bool:
    """Whether a file is the beginning of what `blocks(size)` gives."""
    with path.open("rb") as file:
        for block in blocks(size):
            got = file.read(len(block))
            if got != block:
                return block.startswith(got) and not file.read(1)
    return True


BREAKS = ["relay server b", *(pytest.param(w, marks=LONG) for w in ("relay server a", "the callee's login"))]


@pytest.mark.parametrize("servers", TWO)
@pytest.mark.parametrize("which", BREAKS)
def test_what_breaks_in_the_middle_is_an_error_and_never_wrong_bytes(tmp_path: Path, which: str, servers: int) -> None:
    """1 GB is asked for; as soon as some of it has come, one of those that carry it is killed."""
    size, out = 1000 * BLOCK, tmp_path / "out"
    with world(tmp_path / "w", servers) as w:
        port = w.pc11.forward("pc21", "source")
        with out.open("wb") as sink:
            connect = w.pc11.popen(
                w.pc11.argv("connect", "pc21", "source"), stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.PIPE
            )
            ends: list[object] = []
            reader = threading.Thread(target=lambda: ends.append(read_forward(port, size)))
            reader.start()
            assert connect.stdin is not None and connect.stderr is not None
            connect.stdin.write(str(size).encode())
            connect.stdin.close()
            wait_until(lambda: out.stat().st_size > 20 * BLOCK, "some of it has come")
            if which == "the callee's login":
                assert w.pc21.holder is not None
                w.pc21.holder.send_signal(signal.SIGKILL)
            else:
                (w.a if which == "relay server a" else w.b).kill()
            assert connect.wait(30) == 1
            assert b"broken off" in connect.stderr.read()
            connect.stderr.close()
        reader.join(30)
        assert ends == ["reset"], "through forward it is a reset, not an end"
        assert out.stat().st_size < size and begins_as_blocks(out, size)


def read_forward(port: int, size: int) -> str:
    import socket

    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(str(size).encode())
        expected, got = blocks(size), 0
        rest = b""
        try:
            while data := sock.recv(1 << 18):
                got += len(data)
                while data:
                    rest = rest or next(expected)
                    n = min(len(rest), len(data))
                    if rest[:n] != data[:n]:
                        return "wrong bytes"
                    rest, data = rest[n:], data[n:]
        except ConnectionResetError:
            return "reset" if got < size else "whole"
        return "whole" if got == size else "cut short"


@pytest.mark.parametrize("servers", [1, pytest.param(2, marks=LONG)])
def test_terminals_are_back_after_a_restart_of_their_relay_server(tmp_path: Path, servers: int) -> None:
    with world(tmp_path / "w", servers) as w:
        assert w.b.stop() == 0
        done = w.pc11.terminal("connect", "pc21", "sha")
        assert done.returncode == 3 and done.stdout == b"" and done.stderr
        begun = time.monotonic()
        w.b.start()
        wait_until(lambda: w.a.shows("pc21") == "online", "pc21 is online again", patience=60)
        assert time.monotonic() - begun < 60
        done = w.pc11.terminal("connect", "pc21", "sha", input=b"x")
        assert (done.returncode, done.stdout.decode()) == (0, hashlib.sha256(b"x").hexdigest()), done.stderr


def test_thousands_of_connections_are_not_stopped_by_the_limit_of_files(tmp_path: Path) -> None:
    """It starts with systemd's default, as a service does."""
    a = RelaySite(tmp_path, "a")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    a.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard)))
    try:
        assert a.process is not None
        limit = resource.prlimit(a.process.pid, resource.RLIMIT_NOFILE)
        assert limit == (min(hard, 65_536), hard)
    finally:
        assert a.stop() == 0
