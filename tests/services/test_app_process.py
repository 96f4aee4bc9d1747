"""`posthouse run` as a process: its exit codes, what it says on standard error, and the command line beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance import app
from appliance.app import Core, House
from appliance.clock import Seen
from appliance.config.load import load
from appliance.storage.disk import Disk
from appliance.storage.paths import unlock
from appliance.storage.slots import SlotFile
from appliance.supervisor import CrashLoop
from fakes.config import HASH, SITE
from fakes.notify import NotifySocket

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT = 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "posthouse.toml"
    path.write_text(SITE + 'state = "state"\nruntime = "run"\n')
    return path


def argv(file: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "appliance", *arguments, "--config", str(file)]


def posthouse(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(file, *arguments), capture_output=True, text=True, timeout=WAIT, cwd=ROOT, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start(file: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `posthouse run` and waits until it says that it is ready."""
    processes: list[subprocess.Popen[str]] = []
    with NotifySocket.open(tmp_path / "notify") as notify:

        def run() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                argv(file, "run"), env={**os.environ, **notify.env}, cwd=ROOT, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
            assert notify.next() == {"READY": "1"}
            return process

        yield run
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=WAIT)


@pytest.mark.parametrize("ahead", [0.0, 10 * 86400.0], ids=["right", "behind"])
def test_the_last_time_seen_outlives_a_kill(file: Path, start: Start, ahead: float) -> None:
    """And another start in the same boot does not make a guess right."""
    record = file.parent / "state" / "clock"
    began = time.time()
    if ahead:
        record.parent.mkdir()
        record.write_text(json.dumps({"seen": began + ahead, "boot_id": "another", "guess": None}))
    for _ in range(2):
        before = record.read_bytes() if record.exists() else b""
        process = start()
        status = json.loads(posthouse(file, "status", "--json").stdout)
        end = time.monotonic() + WAIT
        while not record.exists() or record.read_bytes() == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.kill()
        process.wait(WAIT)
        seen = json.loads(SlotFile(Disk(), record).read() or b"")
        assert (status["clock_trusted"], seen["guess"] is None) == (not ahead, not ahead)
        assert began + ahead <= seen["seen"] < began + ahead + 120
    assert time.time() < began + 5 * 86400  # root's clock is left alone


def test_to_keep_the_time_writes_nothing_else(file: Path) -> None:
    """No redo log, which a checkpoint of the whole file system would follow: it is done every hour."""
    core = Core(load(file))
    try:
        core.keep_seen(Seen(time.time()))  # makes the file
        core.disk.begin_batch()
        core.keep_seen(Seen(time.time() + 86400))
        core.disk.make_durable(core.disk.end_batch(), core.paths.root)
        assert not core.disk.dirty
    finally:
        core.close()
        unlock(core.locks)
    again = Core(load(file))
    try:
        assert not again.clock.trusted  # it has been seen later
    finally:
        again.close()
        unlock(again.locks)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_life(signum: signal.Signals, file: Path, start: Start) -> None:
    process = start()
    status = json.loads(posthouse(file, "status", "--json").stdout)
    assert status["line"]["state"] == "idle"
    assert posthouse(file, "dial").returncode == 1
    assert posthouse(file, "queue", "show", "none").stderr == "posthouse: no message 'none' is in the queue\n"
    for verb in ("queue", "calls"):
        done = posthouse(file, verb, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
    process.send_signal(signum)
    out, log = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (0, "")
    assert f"stopping: {signum.name}" in log
    assert log.rstrip().endswith(" I stopped")
    assert not [line for line in log.splitlines() if " E " in line or "Traceback" in line]
    assert posthouse(file, "status").returncode == 3


@pytest.mark.parametrize(
    ("state", "runtime", "taken"), [("state", "run", "state"), ("state", "run2", "state"), ("state2", "run", "run")]
)
def test_a_second_one_on_the_same_folders(file: Path, start: Start, state: str, runtime: str, taken: str) -> None:
    process = start()
    other = file.with_name("other.toml")
    other.write_text(SITE + f'state = "{state}"\nruntime = "{runtime}"\n')
    second = posthouse(other, "run")
    assert second.returncode == 1
    assert second.stderr == f"posthouse: another Posthouse runs on {file.parent}/{taken}\n"
    assert posthouse(file, "status").returncode == 0  # the first one's socket is untouched
    process.kill()
    process.wait(WAIT)
    again = start()  # and what a killed one leaves does not keep the next one away
    assert posthouse(file, "status").returncode == 0
    again.terminate()
    assert again.wait(WAIT) == 0


def test_a_port_that_is_taken(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(
            file.read_text() + f'[mail]\nsmtp = ["127.0.0.1:{port}"]\n[[user]]\nname = "hanako"\npassword = "{HASH}"\n'
        )
        done = posthouse(file, "run")
    assert done.returncode == 1
    assert f"posthouse: cannot listen on 127.0.0.1:{port}: Address already in use\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_that_can_t_be_used(file: Path) -> None:
    (file.parent / "state").write_text("a file")
    done = posthouse(file, "run")
    assert done.returncode == 1
    assert done.stderr.startswith(f"posthouse: cannot use {file.parent}/state: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (CrashLoop("service smtp: broken"), ""),  # it stands in the journal
        (OSError("cannot listen"), "posthouse: cannot listen\n"),
        (ExceptionGroup("inner", [OSError("cannot listen")]), "posthouse: cannot listen\n"),
    ],
)
def test_what_ends_a_run(
    error: Exception, printed: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(self: House) -> None:
        async with trio.open_nursery():
            await trio.lowlevel.checkpoint()
            raise error

    monkeypatch.setattr(House, "run", run)
    monkeypatch.setattr(app, "log_to", lambda level: None)
    kept = _keep_cores(monkeypatch)
    assert app.run(load(file), file) == 1
    assert capsys.readouterr() == ("", printed)
    unlock(kept[0].locks)


def test_a_defect_is_shown_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: House) -> None:
        async with trio.open_nursery():
            await trio.lowlevel.checkpoint()
            raise KeyError("defect")

    monkeypatch.setattr(House, "run", run)
    monkeypatch.setattr(app, "log_to", lambda level: None)
    kept = _keep_cores(monkeypatch)
    with pytest.raises(BaseExceptionGroup) as raised:
        app.run(load(file), file)
    assert raised.group_contains(KeyError)
    unlock(kept[0].locks)


def _keep_cores(monkeypatch: pytest.MonkeyPatch) -> list[Core]:
    """The cores that are made from now on: the process's end is what closes them."""
    kept: list[Core] = []
    real = Core.__init__

    def init(self: Core, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        kept.append(self)

    monkeypatch.setattr(Core, "__init__", init)
    return kept
