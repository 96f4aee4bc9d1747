"""What runs in a virtual machine, as a test works with it: commands with their exit code and output, and files.

It owns the connection to the machine's agent (`guest/agent`) and knows no devices. Blocking; each call has a deadline.
"""

from __future__ import annotations

import base64
import json
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .qemu import Machine

BOOT_S = 240.0
"""From QEMU's start to the agent's answer: 15 s on an idle machine without KVM, many times that on a busy one."""
RUN_S = 120.0
"""A command: some seconds at most on an idle machine, many times that on a busy one."""
GRACE_S = 30.0
"""An answer comes that long after a command's own deadline at the latest."""
POLL_S = 0.3


@dataclass(frozen=True)
class Ended:
    """A command that has ended; `code` None: not within its time."""

    argv: tuple[str, ...]
    code: int | None
    out: str
    err: str

    def __str__(self) -> str:
        code = "no end in time" if self.code is None else f"code {self.code}"
        return f"{shlex.join(self.argv)}: {code}\n{self.out[-4000:]}{self.err[-4000:]}"


class Guest:
    """Of a machine that was just started, from boot or from a snapshot."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._waiting: dict[int, Future[dict[str, Any]]] = {0: Future()}
        self._next = 1
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name=f"agent of {machine.name}", daemon=True).start()

    @property
    def name(self) -> str:
        return self.machine.name

    def wait_boot(self) -> None:
        """Until the agent has started."""
        self._result(self._waiting[0], BOOT_S, "it has not booted")

    def set_clock(self) -> None:
        """To the host's time: a snapshot goes on with the time at which it was saved."""
        self.run("date", "-u", "-s", f"@{time.time():.3f}")

    # ---- commands
    def run(self, *argv: str, seconds: float = RUN_S, input: bytes = b"", check: bool = True) -> Ended:
        """Runs a command as root; with `check` it must end with 0 in time."""
        return self.begin(*argv, seconds=seconds, input=input, check=check)()

    def begin(self, *argv: str, seconds: float = RUN_S, input: bytes = b"", check: bool = True) -> Callable[[], Ended]:
        """The same, begun; what is returned waits for its end."""
        future = self._ask(run=list(argv), seconds=seconds, input=base64.b64encode(input).decode())

        def end() -> Ended:
            reply = self._result(future, seconds + GRACE_S, f"no answer to {argv}")
            out, err = (base64.b64decode(reply[k]).decode(errors="replace") for k in ("out", "err"))
            ended = Ended(argv, reply["code"], out, err)
            assert not check or ended.code == 0, f"in {self.name}: {ended}"
            return ended

        return end

    def sh(self, script: str, *, seconds: float = RUN_S, check: bool = True) -> str:
        """A shell script's output."""
        return self.run("sh", "-euc", script, seconds=seconds, check=check).out

    def daemon(self, *argv: str, log: str) -> None:
        """Starts a program that stays; its output goes to the file `log`."""
        self.sh(f"setsid {shlex.join(argv)} </dev/null >>{log} 2>&1 &")

    def wait(self, script: str, what: str, *, seconds: float = RUN_S) -> str:
        """Until the script ends with 0, for `seconds` at most; -> its output."""
        looped = f'until out=$(sh -euc "$1"); do sleep {POLL_S}; done; printf %s "$out"'
        ended = self.run("sh", "-c", looped, "sh", script, seconds=seconds, check=False)
        assert ended.code == 0, (
            f"in {self.name}, not within {seconds:g} s: {what}\n{self.run('sh', '-euc', script, check=False)}"
        )
        return ended.out

    # ---- files
    def put(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        data = data.encode() if isinstance(data, str) else data
        self._result(
            self._ask(put=path, data=base64.b64encode(data).decode(), mode=mode), RUN_S, f"no end of put {path}"
        )

    def get(self, path: str) -> bytes:
        return base64.b64decode(self._result(self._ask(get=path), RUN_S, f"no end of get {path}")["data"])

    def tail(self, path: str, lines: int = 60) -> str:
        """The last lines of a file, for a test that failed."""
        return self.run("tail", "-n", str(lines), path, check=False).out

    # ---- the agent
    def _ask(self, **request: Any) -> Future[dict[str, Any]]:
        assert self.machine.agent is not None
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            request["id"] = self._next
            self._next += 1
            self._waiting[request["id"]] = future
            self.machine.agent.sendall(json.dumps(request).encode() + b"\n")
        return future

    def _result(self, future: Future[dict[str, Any]], seconds: float, what: str) -> dict[str, Any]:
        try:
            reply = future.result(seconds)
        except TimeoutError:
            raise AssertionError(f"{self.name}: {what} within {seconds:g} s\n{self.machine.console()}") from None
        assert "error" not in reply, f"{self.name}: {reply['error']}"
        return reply

    def _read(self) -> None:
        assert self.machine.agent is not None
        try:
            with self.machine.agent.makefile("rb") as lines:
                for line in lines:
                    reply = json.loads(line)
                    self._waiting.pop(reply["id"]).set_result(reply)
        except OSError:
            pass  # closed by us
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_result({"error": "the machine has ended"})
