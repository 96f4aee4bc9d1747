"""Programs beside us: as our child, with whatever such a child does; and the service that keeps dnsmasq running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance import events
from appliance.network import late_addresses, neighbour
from appliance.network.lan import FIRST_PAUSE_S, MAX_PAUSE_S, STANDS_S, LanServices
from appliance.network.late_addresses import LOOK_S, LateAddresses
from appliance.network.neighbour import Child

MARK = "--conf-file=/of/this/test"
STAYS = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def child(folder: Path, program: str, pid_file: str = "pid") -> Child:
    return Child([sys.executable, "-c", program, MARK], folder / pid_file, MARK)


async def test_it_runs_and_is_stopped(tmp_path: Path) -> None:
    one = child(tmp_path, STAYS)
    assert await one.start() == ""
    assert await one.stop() == ""
    assert await one.stop() == ""
    assert await one.wait_ended() == "it does not run"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit(3)", "it ended with 3: it did not say why"),
        ("import sys; print('a\\nport \\x1b[31mtaken', file=sys.stderr); sys.exit(2)",
         "it ended with 2: port \ufffd[31mtaken"),
        ("import os; os.kill(os.getpid(), 9)", "it ended with -9: it did not say why"),
        ("import sys; sys.stderr.write('x' * 100000 + '\\nlast'); sys.exit(1)", "it ended with 1: last"),
    ],
)  # fmt: skip
async def test_one_that_ends_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str) -> None:
    monkeypatch.setattr(neighbour, "STANDS_S", 10)
    assert await child(tmp_path, program).start() == why


async def test_one_that_is_not_there(tmp_path: Path) -> None:
    assert await Child(["/no/such/program"], tmp_path / "pid", MARK).start() == (
        "/no/such/program can't be started: No such file or directory"
    )


async def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour, "STOP_S", 0.2)
    one = child(tmp_path, DEAF)
    assert await one.start() == ""
    began = time.monotonic()
    assert await one.stop() == ""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("program", [STAYS, DEAF])
async def test_one_that_was_left_behind_is_ended_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(neighbour, "STOP_S", 0.3)
    left = subprocess.Popen([sys.executable, "-c", program, MARK], stdout=subprocess.DEVNULL)
    await trio.sleep(0.3)  # until it is deaf
    (tmp_path / "pid").write_text(f"{left.pid}\n")
    one = child(tmp_path, STAYS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, left.wait)  # init, which takes up orphans
        assert await one.start() == ""
    assert left.returncode in (-signal.SIGTERM, -signal.SIGKILL)
    await one.stop()


@pytest.mark.parametrize("text", ["", "no number", "999999999", "{pid}"])
async def test_a_number_that_is_another_s_by_now(tmp_path: Path, text: str) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", STAYS], stdout=subprocess.DEVNULL)
    try:
        (tmp_path / "pid").write_text(text.format(pid=stranger.pid))
        one = child(tmp_path, STAYS)
        assert await one.start() == ""
        await one.stop()
        assert stranger.poll() is None
        os.kill(stranger.pid, 0)
    finally:
        stranger.kill()
        stranger.wait()


class FakeNeighbour:
    """`fails`: what `start` answers in turn, then ""; `end` makes it end by itself."""

    def __init__(self, *fails: str) -> None:
        self.fails = list(fails)
        self.starts: list[float] = []
        self.stopped = 0
        self._ended = trio.Event()

    async def start(self) -> str:
        self.starts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self.fails.pop(0) if self.fails else ""

    async def wait_ended(self) -> str:
        await self._ended.wait()
        return "it ended"

    async def stop(self) -> str:
        self.stopped += 1
        await trio.lowlevel.checkpoint()
        return ""

    def end(self) -> None:
        self._ended.set()
        self._ended = trio.Event()


def lan_services(write: Callable[[], Awaitable[None]], neighbour: FakeNeighbour) -> LanServices:
    return LanServices(
        write,
        neighbour,
        lambda: events.emit(events.DNSMASQ_STARTED, interfaces="lan"),
        lambda why: events.emit(events.DNSMASQ_FAILED, interfaces="lan", why=why),
    )


async def test_it_is_started_again_at_growing_intervals(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "posthouse")
    one = FakeNeighbour(*["port 53 is taken"] * 8, "another reason")
    written: list[str] = []

    async def write() -> None:
        written.append("file")

    service = lan_services(write, one)
    await nursery.start(service.run)
    assert len(one.starts) == 1  # ready though it does not run: the others do without
    await trio.sleep(400)
    gaps = [b - a for a, b in zip(one.starts, one.starts[1:], strict=False)]
    assert gaps == pytest.approx([min(FIRST_PAUSE_S * 2**n, MAX_PAUSE_S) for n in range(9)])
    assert len(written) == len(one.starts) == 10
    said = [r.getMessage() for r in caplog.records]
    assert said == [
        "no DHCP and DNS for lan, tried again: port 53 is taken",
        "no DHCP and DNS for lan, tried again: another reason",
        "DHCP and DNS for lan",
    ]
    await trio.sleep(STANDS_S)
    one.end()
    await wait_all_tasks_blocked()
    await trio.sleep(FIRST_PAUSE_S * 1.5)
    assert len(one.starts) == 11
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
    assert one.stopped == 1


class Addresses:
    """What the host has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self.hosts = set(hosts)
        monkeypatch.setattr(late_addresses, "is_there", lambda host: host in self.hosts)


async def test_one_that_listens_on_what_is_there_is_started_anew_when_more_comes(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "posthouse")
    host, runner = Addresses(monkeypatch), FakeNeighbour()
    one = LateAddresses(runner, ["192.0.2.1", "fd00::1"])
    told: list[str] = []

    async def write() -> None:
        one.look()

    service = LanServices(write, one, lambda: told.append(" ".join(one.here)), told.append)
    await nursery.start(service.run)
    await trio.sleep(5 * FIRST_PAUSE_S)
    assert told == ["none of its addresses is there yet"] and runner.starts == []
    host.hosts.add("192.0.2.1")
    await trio.sleep(2 * LOOK_S)
    assert told[1:] == ["192.0.2.1"] and len(runner.starts) == 1
    host.hosts.add("fd00::1")
    await trio.sleep(1.5 * LOOK_S)
    assert told[2:] == ["192.0.2.1 fd00::1"] and len(runner.starts) == 2  # at once, and no fault is told
    host.hosts.clear()  # a cable that is drawn: dropbear goes on listening
    await trio.sleep(10 * LOOK_S)
    assert len(runner.starts) == 2
    runner.end()
    await wait_all_tasks_blocked()
    assert told[3:] == ["it ended"]


def test_what_is_there_can_be_listened_on() -> None:
    assert late_addresses.is_there("127.0.0.1")
    assert not late_addresses.is_there("192.0.2.77") and not late_addresses.is_there("2001:db8::77")


async def test_a_disk_that_is_full(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    async def write() -> None:
        raise OSError(28, "No space left on device")

    one = FakeNeighbour()
    await nursery.start(lan_services(write, one).run)
    assert one.starts == []
    await wait_all_tasks_blocked()
    assert "its configuration can't be written: [Errno 28] No space left on device" in caplog.text
    nursery.cancel_scope.cancel()
