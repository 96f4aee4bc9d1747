"""Posthouse itself during the first start: systemd's unit where there is one, else a child that ends with us."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from appliance.control.client import SOCKET_NAME, NotRunning, Refused, ask

if TYPE_CHECKING:
    from typing import IO

__all__ = ["Child", "Service", "Unit", "service_for"]

UNIT: Final = "posthouse.service"
OF_UNIT: Final = Path("/etc/posthouse/posthouse.toml")
START_S: Final = 120.0
"""A board that is busy with its own start takes half a minute."""
STOP_S: Final = 60.0
POLL_S: Final = 0.1
TAIL_LINES: Final = 5


class Service(Protocol):
    stays: bool
    """Whether it goes on running when the first start is over."""

    def start(self) -> str:
        """Returns when it is ready; -> "", or why it is not."""
        ...

    def stop(self) -> None:
        """It has ended then. Nothing where it does not run."""
        ...


class Unit:
    """Systemd's."""

    stays = True

    def start(self) -> str:
        return _systemctl("start")

    def stop(self) -> None:
        _systemctl("stop")


def _systemctl(verb: str) -> str:
    done = subprocess.run(["systemctl", verb, UNIT], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{done.stderr.strip() or UNIT} (see `journalctl -u {UNIT}`)"


class Child:
    """`posthouse run`. `runtime`: the folder of its control socket."""

    stays = False

    def __init__(self, file: Path, runtime: Path) -> None:
        self._command = [sys.executable, "-m", "appliance", "run", "--config", str(file)]
        self._socket = runtime / SOCKET_NAME
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=TAIL_LINES)

    def start(self) -> str:
        # A session of its own: Ctrl-C is for us.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        reading = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        reading.start()
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                reading.join(STOP_S)
                return f"`posthouse run` ended: {'; '.join(self._said) or 'it said nothing'}"
            try:
                ask(self._socket, "status")
                return ""
            except (NotRunning, Refused):
                time.sleep(POLL_S)
        return f"`posthouse run` is not ready after {START_S:g} s"

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._said.append(line.strip())

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def service_for(file: Path, runtime: Path) -> Service:
    """Systemd's unit, where this is its configuration and we may start it."""
    known = Path("/run/systemd/system").is_dir() and file.absolute() == OF_UNIT and os.geteuid() == 0
    if known and subprocess.run(["systemctl", "cat", UNIT], capture_output=True, check=False).returncode == 0:
        return Unit()
    return Child(file, runtime)
