"""Posthouse as its users meet it: a configuration written, `posthouse run` as a child, verbs asked, an end by SIGTERM.

It knows the product by its configuration, its command line and its JSON alone (DESIGN §5, §6), and imports none of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

__all__ = ["House", "HouseFailed", "toml", "until_told"]

T = TypeVar("T")

START_S: Final = 20.0
ASK_S: Final = 20.0
STOP_S: Final = 15.0
POLL_S: Final = 0.1
TAIL_LINES: Final = 5

_COMMAND: Final = (sys.executable, "-m", "appliance")


class HouseFailed(Exception):
    """Posthouse did not do what it was asked; the text is a sentence."""


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """A mapping as TOML: mappings are tables, lists of mappings arrays of tables; the rest strings, numbers, booleans
    and lists of those, whose JSON is TOML too."""
    plain, tables = [], []
    for key, value in table.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            tables.append(f"\n[{name}]\n{toml(value, name + '.')}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"\n[[{name}]]\n{toml(entry, name + '.')}" for entry in value]
        else:
            plain.append(f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(plain + tables)


@dataclass(slots=True, eq=False)
class House:
    """One Posthouse in `folder`. `config` is `posthouse.toml`; `site.state` and `site.runtime` are added to it."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    smtp: tuple[str, int] = ("", 0)
    """Where it listens for submissions, once it runs; and for POP3."""
    pop3: tuple[str, int] = ("", 0)
    exit_code: int | None = None
    """Of `posthouse run`, once it has ended."""

    @property
    def config_file(self) -> Path:
        return self.folder / "posthouse.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / "run.log"

    def write(self) -> None:
        """Both configuration files; `secrets.toml` for its owner alone."""
        site = {**self.config["site"], "state": str(self.folder / "state"), "runtime": str(self.folder / "runtime")}
        for name in ("state", "runtime"):
            (self.folder / name).mkdir(exist_ok=True)
        self.config_file.write_text(toml({**self.config, "site": site}), encoding="utf-8")
        secrets = self.folder / "secrets.toml"
        secrets.touch(mode=0o600)
        secrets.write_text(toml(self.secrets), encoding="utf-8")

    async def ask(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """What a verb prints. Raises HouseFailed when it does not end with 0 in time."""
        argv = [*_COMMAND, *words]
        if words[0] != "passwd":
            argv += ["--config", str(self.config_file)]
        with trio.move_on_after(ASK_S) as patience:
            done = await trio.run_process(
                argv, capture_stdout=True, capture_stderr=True, check=False, env={**os.environ, **(env or {})}
            )
        if patience.cancelled_caught:
            raise HouseFailed(f"`posthouse {' '.join(words)}` did not end within {ASK_S:g} s")
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise HouseFailed(f"`posthouse {' '.join(words)}` ended with {done.returncode}: {said}")
        return done.stdout.decode()

    async def ask_json(self, *words: str) -> Any:
        """The same for a verb with --json, parsed."""
        said = await self.ask(*words, "--json")
        try:
            return json.loads(said)
        except ValueError:
            raise HouseFailed(f"`posthouse {' '.join(words)} --json` printed no JSON: {said[:200]!r}") from None

    async def hash_password(self, password: str) -> str:
        return (await self.ask("passwd", env={"POSTHOUSE_PASSWORD": password})).strip()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """`posthouse run`, ready to be used; ended by SIGTERM when this is left."""
        with self.log_file.open("ab") as log:
            process = await trio.lowlevel.open_process(
                [*_COMMAND, "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for us; the child is told by SIGTERM
            )
        try:
            await self._wait_ready(process)
            yield
        finally:
            with trio.CancelScope(shield=True):
                self.exit_code = await _end(process)

    async def _wait_ready(self, process: trio.Process) -> None:
        trouble = HouseFailed("it was never asked")
        with trio.move_on_after(START_S):
            while True:
                if process.poll() is not None:
                    raise HouseFailed(f"`posthouse run` ended with {process.returncode}: {self.tail()}")
                try:
                    status = await self.ask_json("status")
                    self.smtp, self.pop3 = (_address(status["listeners"][name][0]) for name in ("smtp", "pop3"))
                    return
                except HouseFailed as error:
                    trouble = error
                await trio.sleep(POLL_S)
        raise HouseFailed(f"Posthouse is not ready after {START_S:g} s ({trouble}): {self.tail()}")

    async def follow(self, *, task_status: trio.TaskStatus[trio.abc.ReceiveStream]) -> None:
        """`posthouse status --watch --json`, started with its output, until cancelled."""
        await trio.run_process(
            [*_COMMAND, "status", "--watch", "--json", "--config", str(self.config_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            task_status=_Output(task_status),
        )

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines: Sequence[str] = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return " | ".join(lines[-TAIL_LINES:])


class _Output(trio.TaskStatus[trio.Process]):
    """Hands on a started process's output in place of the process."""

    def __init__(self, status: trio.TaskStatus[trio.abc.ReceiveStream]) -> None:
        self._status = status

    def started(self, value: trio.Process | None = None) -> None:
        assert value is not None and value.stdout is not None
        self._status.started(value.stdout)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _end(process: trio.Process) -> int:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(STOP_S):
            return await process.wait()
        process.kill()
    return await process.wait()


async def until_told(run: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """What `run` returns; raises KeyboardInterrupt, in a group, at SIGTERM. That is taken in a task: what a handler
    raises may meet Trio itself anywhere."""

    async def obey() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                raise KeyboardInterrupt

    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey)
        value = await run(*arguments)
        nursery.cancel_scope.cancel()
    return value
