"""Named services and their restarts.

A service is an async function that says when it is ready (`task_status.started()`) and then runs until cancelled.
One that fails or returns is started again after a pause that doubles up to `MAX_PAUSE_S`, and is forgiven after
`FORGIVEN_S` without a failure. `MAX_FAILURES` without being forgiven is a crash loop: `CrashLoop` goes up and the
process ends, for what is above it (systemd) knows better.

Services of one supervisor share nothing here; what they share is handed to them by `app`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["CrashLoop", "Supervisor", "alone"]

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 60.0
FORGIVEN_S: Final = 300.0
MAX_FAILURES: Final = 8
"""0.5 + 1 + 2 + … + 32 s of pauses: a minute of a broken service before the process gives up."""


class CrashLoop(Exception):
    """A service that can't be kept running; the text names it."""


@dataclass(slots=True, eq=False)
class _Service:
    name: str
    run: Callable[..., Awaitable[None]]
    state: str = "running"
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Supervisor:
    """Lives inside a nursery of `app`'s; `states` is what `status` shows."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._services: dict[str, _Service] = {}

    def states(self) -> dict[str, str]:
        """name -> running | restarting | failed."""
        return {s.name: s.state for s in self._services.values()}

    async def start(self, name: str, run: Callable[..., Awaitable[None]]) -> None:
        """Starts a service and returns when it is ready. What its *first* start raises goes up to the caller: a
        port that is taken is for a person to mend, not for us to try again."""
        service = _Service(name, run)
        await self._nursery.start(self._keep_running, service)
        self._services[name] = service

    async def stop(self, name: str) -> None:
        """Cancels a service and returns when it has ended; nothing where there is none."""
        service = self._services.pop(name, None)
        if service is not None:
            service.scope.cancel()
            await service.ended.wait()

    async def _keep_running(self, service: _Service, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with service.scope:
                await self._restart_forever(service, task_status)
        except Exception as error:
            if not service.scope.cancel_called:
                raise
            events.emit(events.SERVICE_STOP_FAILED, service=service.name, error=_describe(error))
            events.trace(error)
        finally:
            service.ended.set()

    async def _restart_forever(self, service: _Service, task_status: trio.TaskStatus[None]) -> None:
        failures = 0
        pause = FIRST_PAUSE_S
        since = trio.current_time()
        while True:
            began = trio.current_time()
            status = _Status(service, task_status, first=failures == 0)
            try:
                await service.run(task_status=status)
                if service.scope.cancel_called:
                    return
                error: Exception = RuntimeError("it ended by itself")
            except Exception as raised:
                if service.scope.cancel_called:
                    raise
                error = raised
            if not status.was_ready and failures == 0:
                raise alone(error) or error
            if trio.current_time() - began > FORGIVEN_S:
                failures, pause, since = 0, FIRST_PAUSE_S, trio.current_time()
            failures += 1
            if failures >= MAX_FAILURES:
                service.state = "failed"
                lasted = round(trio.current_time() - since)
                events.emit(events.SERVICE_FAILED, service=service.name, times=failures, seconds=lasted)
                raise CrashLoop(f"service {service.name}: {_describe(error)}") from error
            service.state = "restarting"
            seconds = f"{pause:g}"
            events.emit(events.SERVICE_RESTARTED, service=service.name, error=_describe(error), seconds=seconds)
            events.trace(error)
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)


class _Status:
    """Stands for `task_status`: tells the first start's caller, and every time that the service runs."""

    def __init__(self, service: _Service, task_status: trio.TaskStatus[None], *, first: bool) -> None:
        self._service, self._task_status, self._first = service, task_status, first
        self.was_ready = False

    def started(self, value: Any = None) -> None:
        self.was_ready = True
        self._service.state = "running"
        if self._first:
            self._task_status.started()


def alone(error: BaseException | None) -> BaseException | None:
    """What nurseries have wrapped, where it is one error alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _describe(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_describe(e) for e in error.exceptions)
    return f"{type(error).__name__}: {error}"
