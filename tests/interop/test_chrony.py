"""A real chronyd with the image's own configuration, as a client that leaves the clock alone (-x), and another as its server:
what `host.chrony` tells and asks it, and a call that waits for the time. Needs no root, except to look at who may."""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.app.timekeeping import Timekeeper
from appliance.calls.window import TIME_DEADLINE_S
from appliance.clock import Seen, SystemClock
from appliance.host import chrony
from appliance.host.chrony import Chrony
from fakes.host_clock import FakeHost
from fakes.line import FakeLine

from .providers import private_folder

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE_CHRONY = ROOT / "rootfs-overlay/etc/chrony"
CHRONYD = shutil.which("chronyd", path="/usr/sbin:/sbin:/usr/bin:/bin") or "chronyd"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


class Chronyd:
    """One that runs, with `configuration` and its command socket in `folder`."""

    def __init__(self, folder: Path, configuration: str, *, user: str = "", umask: int = 0o022) -> None:
        self.socket = folder / "run" / "chronyd.sock"
        self.log = folder / "log"
        folder.mkdir(exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        file = folder / "chrony.conf"
        file.write_text(f"{configuration}\npidfile {folder}/pid\n")
        options = ["-x", "-U", "-n", "-u", user or getpass.getuser(), "-f", str(file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([CHRONYD, *options], stdout=log, stderr=subprocess.STDOUT, umask=umask)
        end = time.monotonic() + 10
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def ask(self, *command: str) -> list[str]:
        done = subprocess.run(
            ["chronyc", "-h", self.socket, "-n", "-c", *command], capture_output=True, text=True, timeout=10
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def folder() -> Iterator[Path]:
    with private_folder("chrony") as it:  # a socket's path is short
        yield it


@pytest.fixture
def server(folder: Path) -> Iterator[Chronyd]:
    port = free_port()
    it = Chronyd(
        folder / "server",
        f"local stratum 1\nport {port}\nallow 127.0.0.1\nbindaddress 127.0.0.1\ncmdport 0\n"
        f"bindcmdaddress {folder}/server/run/chronyd.sock",
    )
    it.port = port  # type: ignore[attr-defined]
    yield it
    it.stop()


@pytest.fixture
def client(folder: Path, server: Chronyd) -> Iterator[Chronyd]:
    """The image's configuration, its folders here. The site's file takes the place of Debian's pool."""
    here = folder / "client"
    text = (IMAGE_CHRONY / "chrony.conf").read_text()
    moved = {
        "/run/posthouse-chrony/": f"{here}/run/",
        "/var/lib/chrony/": f"{here}/lib/",
        "/etc/chrony/": f"{here}/etc/",
    }
    for there, to in moved.items():
        assert there in text
        text = text.replace(there, to)
    if not Path("/usr/share/zoneinfo/leap-seconds.list").exists() or "leapseclist" not in chronyd_knows():
        text = re.sub(r"^leapseclist .*$", "", text, flags=re.M)
    shutil.copytree(IMAGE_CHRONY / "sources.d", here / "etc/sources.d")
    (here / "lib/sources.d").mkdir(parents=True)
    port = server.port  # type: ignore[attr-defined]
    (here / "lib/sources.d/pool.sources").write_text(f"server 127.0.0.1 port {port} iburst offline\n")
    it = Chronyd(here, text)
    yield it
    it.stop()


def chronyd_knows() -> str:
    """The directives of this version: Debian 12's has no `leapseclist` yet."""
    return Path(CHRONYD).read_bytes().decode("latin-1")


def received(server: Chronyd) -> int:
    """Packets that the server has got."""
    return int(server.ask("serverstats")[0].split(",")[0])


async def test_offline_until_a_call_and_right_within_its_deadline(server: Chronyd, client: Chronyd) -> None:
    it = Chrony(client.socket)
    it.resolv_conf.write_text("nameserver 198.51.100.1\n")
    assert it.present
    assert [row.split(",")[2] for row in client.ask("sources")] == ["127.0.0.1"]  # and not the pool
    assert not await it.synchronised()
    assert received(server) == 0

    host = FakeHost(0.0)
    clock = SystemClock(built=1e9, host=host)
    clock.begin(Seen(0.0))
    trusted = trio.Event()
    keeper, line = Timekeeper(clock, it, trusted.set), FakeLine("pstn")
    line.dns = ("192.0.2.53", "192.0.2.54")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(0.2)
        with trio.fail_after(TIME_DEADLINE_S):
            await keeper.begin(line)
        assert clock.trusted and trusted.is_set()
        assert it.resolv_conf.read_text() == "nameserver 192.0.2.53\nnameserver 192.0.2.54\n"
        keeper.end()
        with trio.fail_after(5):
            while client.ask("activity")[0].split(",")[:2] != ["0", "1"]:  # online, offline
                await trio.sleep(0.05)
        sent = received(server)
        assert sent >= 1
        await trio.sleep(2.5)  # a burst has a packet every two seconds
        assert received(server) == sent
        assert await it.synchronised()  # it forgets nothing
        assert it.resolv_conf.read_text() == ""
        nursery.cancel_scope.cancel()


async def test_one_that_hangs_or_is_gone(
    client: Chronyd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chrony, "ASK_S", 0.5)
    it = Chrony(client.socket)
    client.process.send_signal(19)  # SIGSTOP
    try:
        began = trio.current_time()
        assert not await it.synchronised()
        await it.online(())
        assert trio.current_time() - began < 3
        assert "chrony: `tracking`: no answer within 0.5 s" in caplog.text
    finally:
        client.process.send_signal(18)
    client.process.kill()
    client.process.wait(10)
    assert it.present  # its socket is left
    await it.offline()
    assert "Could not open connection to daemon" in caplog.text


@pytest.mark.parametrize("member", [True, False])
def test_whoever_is_in_its_group_may_tell_it(folder: Path, member: bool) -> None:
    """As the image's units, tmpfiles and sysusers have it: the user posthouse and nobody else."""
    if os.getuid() != 0:
        pytest.skip("runs chronyd and chronyc as two users")
    overlay = ROOT / "rootfs-overlay/usr/lib"
    assert (
        "\nd /run/posthouse-chrony             0770 _chrony _chrony\n"
        in (overlay / "tmpfiles.d/posthouse.conf").read_text()
    )
    assert "\nm posthouse _chrony\n" in (overlay / "sysusers.d/posthouse.conf").read_text()
    drop_in = (overlay / "systemd/system/chrony.service.d/50-posthouse.conf").read_text()
    umask = int(re.findall(r"^UMask=(\d+)$", drop_in, re.M)[0], 8)
    group = grp.getgrnam("_chrony").gr_gid
    run = folder / "here/run"
    run.mkdir(parents=True)
    shutil.chown(run, "_chrony", "_chrony")
    run.chmod(0o770)
    it = Chronyd(folder / "here", f"port 0\ncmdport 0\nbindcmdaddress {run}/chronyd.sock", user="_chrony", umask=umask)
    try:
        done = subprocess.run(
            ["chronyc", "-h", it.socket, "-c", "activity"],
            user=65534, group=65534, extra_groups=[group] if member else [], umask=0o077, capture_output=True, timeout=10,
        )  # fmt: skip
        assert (done.returncode == 0) == member, done.stdout
    finally:
        it.stop()


def test_where_there_is_none(folder: Path) -> None:
    assert not Chrony(folder / "chronyd.sock").present


def test_the_socket_is_the_one_of_the_image() -> None:
    configuration = (IMAGE_CHRONY / "chrony.conf").read_text()
    assert f"\nbindcmdaddress {chrony.SOCKET}\n" in configuration
    for place in ("systemd/posthouse.service", "rootfs-overlay/usr/lib/tmpfiles.d/posthouse.conf"):
        assert str(chrony.SOCKET.parent) in (ROOT / place).read_text()
    assert os.fspath(Chrony().resolv_conf) == "/run/posthouse-chrony/resolv.conf"
    drop_in = ROOT / "rootfs-overlay/usr/lib/systemd/system/chrony.service.d/50-posthouse.conf"
    assert f"{Chrony().resolv_conf}:/etc/resolv.conf" in drop_in.read_text()
