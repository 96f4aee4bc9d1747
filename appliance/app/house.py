"""One run: the services under the supervisor, SIGHUP, SIGTERM.

SIGHUP reads the configuration again and replaces the parts whose slice has changed; SIGTERM stops accepting, gives
sessions and the call a bounded time, and ends.
"""

from __future__ import annotations

import functools
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import __version__, events
from appliance.app.alerts import AlertsPart
from appliance.app.board import BoardPart
from appliance.app.configuration import Configuration
from appliance.app.firewall import FirewallPart
from appliance.app.imap import ImapPart
from appliance.app.lan import Pop3Part, SmtpPart
from appliance.app.lines import CallerPart
from appliance.app.network import DnsmasqPart, InterfacesPart
from appliance.app.notices import NoticesPart
from appliance.app.relay import RelayPart
from appliance.app.ssh import SshPart
from appliance.app.status_line import StatusLinePart
from appliance.app.timekeeping import ClockPart
from appliance.app.verbs import Verbs
from appliance.config.load import ConfigErrors, load
from appliance.control.server import serve_control
from appliance.host.systemd import notify, notify_reloading
from appliance.host.watchdog import feed, watchdog_s
from appliance.supervisor import Supervisor
from appliance.transport.listen import ClientLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from appliance.app.core import Core
    from appliance.app.parts import Part
    from appliance.calls.caller import Caller
    from appliance.clock import Mark
    from appliance.config.model import Config

__all__ = ["House"]

BATCH_HANGS_S: Final = 60.0
"""A flush of the redo log takes seconds on the slowest card; one that takes this long does not come back."""


class _NotTaken(Exception):
    """A configuration that is not taken over: the event that says why, with its fields."""

    def __init__(self, event: events.Event, **fields: str) -> None:
        super().__init__(event.id)
        self.event, self.fields = event, fields


@dataclass(slots=True)
class House:
    """One run. `config` is the configuration in force; `caller` the one that makes its calls; `listeners` service ->
    addresses, for `status`. `parts` in the order in which they start."""

    core: Core
    config: Config
    config_file: Path
    caller: Caller = field(init=False)
    clock: ClockPart = field(init=False)
    relay: RelayPart = field(init=False)
    firewall: FirewallPart = field(init=False)
    interfaces: InterfacesPart = field(init=False)
    imap: ImapPart = field(init=False)
    listeners: dict[str, list[str]] = field(default_factory=lambda: {"smtp": [], "pop3": [], "relay": []})
    configuration: Configuration = field(init=False)
    supervisor: Supervisor = field(init=False)
    limits: ClientLimits = field(init=False)
    started: Mark = field(init=False)
    parts: tuple[Part, ...] = field(init=False)
    refused: bool = False
    """Whether the last changed configuration was not taken over."""
    _tasks: trio.Nursery = field(init=False)
    _reloading: trio.Lock = field(default_factory=trio.Lock)
    _replacing_late: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self.clock = ClockPart(self)
        self.relay = RelayPart(self)
        self.configuration = Configuration(self)
        self.interfaces = InterfacesPart(self)
        self.firewall = FirewallPart(self)
        self.imap = ImapPart(self)
        # The firewall first: no interface is up without it.
        net = (self.firewall, self.interfaces, DnsmasqPart(self))
        lan = (*net, SmtpPart(self), Pop3Part(self), self.imap, SshPart(self))
        seen = (NoticesPart(self), AlertsPart(self), BoardPart(self), StatusLinePart(self))
        self.parts = (*lan, self.clock, self.relay, CallerPart(self), *seen)

    @property
    def caller_or_none(self) -> Caller | None:
        """None until the first one is made."""
        return getattr(self, "caller", None)

    async def run(self) -> None:
        """From nothing to ready to the end."""
        began = trio.current_time()
        self.started = self.core.clock.now()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as bottom:
                await bottom.start(self.core.committer.run)
                async with trio.open_nursery() as nursery:
                    self.supervisor = Supervisor(nursery)
                    self.limits = ClientLimits(self.config.mail.client_limit, self.config.mail.session_limit)
                    for part in self.parts:
                        await self._start(part)
                    await self.supervisor.start("control", self._control)
                    if (period_s := watchdog_s()) is not None:
                        await self.supervisor.start("watchdog", functools.partial(feed, period_s, self._stuck))
                    seconds = f"{trio.current_time() - began:.2f}"
                    events.emit(events.STARTED, version=__version__, site=self.config.site.name, seconds=seconds)
                    if not self.core.clock.trusted:
                        events.emit(events.CLOCK_UNTRUSTED)
                    notify(READY="1")
                    await self._obey(signals)
                    await self._drain()
                    nursery.cancel_scope.cancel()
                bottom.cancel_scope.cancel()
        self.core.close()
        events.emit(events.STOPPED)

    async def _control(self, *, task_status: trio.TaskStatus[None]) -> None:
        await serve_control(self.config.site.runtime, Verbs(self).table, task_status=task_status)

    def _stuck(self) -> str:
        """What makes no progress, for the watchdog. A service that fails or ends is the supervisor's business."""
        if self.core.committer.batch_s > BATCH_HANGS_S:
            return "the disk does not answer"
        caller = self.caller_or_none
        return "the service that makes the calls hangs" if caller is not None and caller.stalled else ""

    async def _start(self, part: Part) -> None:
        if part.slice(self.config) is not None:
            await self.supervisor.start(part.name, part.run)

    async def _replace(self, part: Part) -> None:
        await part.drain()
        await self.supervisor.stop(part.name)
        await self._start(part)

    async def _drain(self) -> None:
        """Stops accepting; sessions with a message under way get their time, a call is hung up."""
        async with trio.open_nursery() as nursery:
            for part in self.parts:
                nursery.start_soon(part.drain)

    # ---- signals
    async def _obey(self, signals: Any) -> None:
        """Until a signal says stop. A reload is a task of its own, since it may wait for a call's end."""
        async with trio.open_nursery() as tasks:
            self._tasks = tasks
            self.configuration.begin()
            async for signum in signals:
                if signum != signal.SIGHUP:
                    events.emit(events.STOPPING, why=signal.Signals(signum).name)
                    notify(STOPPING="1")
                    tasks.cancel_scope.cancel()
                    return
                self.start_soon(self._reload, [], trio.Event())

    async def reload(self) -> str:
        """Takes over the configuration as it stands on disk; -> "", or why the old one stays. What has to wait for the
        end of a call is replaced behind that. Who asks may go away: it is done all the same."""
        told: list[str] = []
        done = trio.Event()
        self.start_soon(self._reload, told, done)
        await done.wait()
        return told[0]

    def start_soon(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """A task of this run that no service owns; it raises nothing, and the end of the run cancels it."""
        self._tasks.start_soon(task, *arguments)

    async def _reload(self, told: list[str], done: trio.Event) -> None:
        late: Sequence[Part] = ()
        async with self._reloading:
            notify_reloading()
            try:
                late = await self._take_over(await self._read_again())
                told.append("")
                self.refused = False
            except _NotTaken as refused:
                self.refused = True
                events.emit(refused.event, **refused.fields)
                told.append(refused.event.text.format(**refused.fields))
            notify(READY="1")
            done.set()
        if late:
            async with self._replacing_late:
                await self.caller.wait_idle()
                for part in late:
                    await self._replace(part)

    async def _read_again(self) -> Config:
        """Raises _NotTaken."""
        try:
            config = await trio.to_thread.run_sync(load, self.config_file)
        except ConfigErrors as errors:
            raise _NotTaken(events.RELOAD_REFUSED, errors=str(errors).replace("\n", "; ")) from None
        site = self.config.site
        fixed = [f"site.{k}" for k in ("name", "state", "runtime") if getattr(site, k) != getattr(config.site, k)]
        if fixed:
            raise _NotTaken(events.RELOAD_NEEDS_RESTART, what=", ".join(fixed))
        return config

    async def _take_over(self, config: Config) -> Sequence[Part]:
        """Puts this configuration in force and replaces the parts that it changes; -> those of them that wait for the
        end of a call. Where one can't be replaced (a port is taken, a certificate is missing) the old configuration
        stays, and _NotTaken is raised."""
        old = self.config
        changed = [part for part in self.parts if part.slice(old) != part.slice(config)]
        replaced: list[Part] = []
        try:
            self._configure(config)
            for part in changed:
                if not part.waits_for_call:
                    replaced.append(part)
                    await self._replace(part)
        except OSError as error:
            self._configure(old)
            for part in replaced:
                await self._replace(part)
            raise _NotTaken(events.RELOAD_REFUSED, errors=str(error)) from None
        names = ", ".join(part.name for part in changed)
        events.emit(events.RELOADED, changed=names or "no service has changed")
        return [part for part in changed if part.waits_for_call]

    def _configure(self, config: Config) -> None:
        self.config = config
        self.core.configure(config)
        self.relay.configure(config)
        self.imap.configure(config)
        self.limits.per_client, self.limits.total = config.mail.client_limit, config.mail.session_limit
