"""The composition root: the only place that joins rooms. It builds them from the configuration, hands each its
slice, and keeps nothing of its own but who is who.

What lives as long as the process (`Core`): the disk, the committer, the spool, the mailboxes, the ledger. What comes
and goes with the configuration are services under the `Supervisor`: control, smtp, pop3, caller. SIGHUP reads the
configuration again and replaces the services whose slice has changed; SIGTERM stops accepting, gives sessions and the
call a bounded time, and ends.
"""

from __future__ import annotations

import functools
import gc
import logging
import signal
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import __version__, events
from appliance.calls.caller import Caller, CallRefused
from appliance.calls.cycle import Way
from appliance.calls.ledger import Ledger
from appliance.clock import Mark, SystemClock, unix
from appliance.config.load import ConfigErrors, load
from appliance.config.model import Bearer
from appliance.config.passwords import verify_password
from appliance.config.unbuilt import unbuilt
from appliance.control.server import ControlError, serve_control
from appliance.host.systemd import log_to, notify, notify_reloading
from appliance.mail.lan.logins import Logins
from appliance.mail.lan.pop3 import Pop3Service
from appliance.mail.lan.smtp import SmtpService, Terms
from appliance.mail.listing import list_message, queue_figures
from appliance.mail.office import MessageBusy, PostOffice
from appliance.mail.store.fetched import FetchedRecord, record_name
from appliance.mail.store.mailbox import Mailbox
from appliance.mail.store.spool import Spool
from appliance.mail.upstream.fetcher import FetchJob
from appliance.mail.upstream.sender import SendJob
from appliance.modem.line import ModemLine
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_folders
from appliance.storage.redo import RedoDisk
from appliance.supervisor import CrashLoop, Supervisor, alone
from appliance.transport import self_signed
from appliance.transport.listen import Address, ClientLimits, open_listeners, parse_address, serve
from appliance.transport.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from appliance.call import Job
    from appliance.config.model import Config, Line
    from appliance.control.server import Progress
    from appliance.mail.envelope import Envelope

__all__ = ["run"]

DRAIN_S: Final = 5.0
"""What sessions under way get when we stop; a client that is cut off sends its message again."""
WATCH_S: Final = 1.0
RECENT_CALLS: Final = 20
"""Whose best rate says how much a call can carry."""
SMTPS_PORT: Final = 465
POP3S_PORT: Final = 995


def run(config: Config, config_file: Path, *, debug: bool = False) -> int:
    """`posthouse run`; -> the exit code."""
    log_to(logging.DEBUG if debug else logging.INFO)
    gc.freeze()  # what was imported lives as long as the process: no collection need look at it
    try:
        core = Core(config)
    except BlockingIOError as error:
        print(f"posthouse: another Posthouse runs on {error.filename or config.site.state}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"posthouse: cannot use {config.site.state}: {error}", file=sys.stderr)
        return 1
    try:
        trio.run(House(core, config, config_file).run, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        expected, defect = group.split((CrashLoop, OSError))
        if defect is not None:
            raise
        if isinstance(cause := alone(expected), OSError):  # a crash loop stands in the journal
            print(f"posthouse: {cause}", file=sys.stderr)
        return 1
    return 0


class Core:
    """What lives as long as the process, opened and recovered. Raises OSError."""

    def __init__(self, config: Config) -> None:
        self.paths = StatePaths(config.site.state)
        plain = Disk()
        plain.mkdir(self.paths.root)
        plain.mkdir(config.site.runtime, mode=0o750)
        self.locks = lock_folders(self.paths.root, config.site.runtime)
        self.disk = RedoDisk(plain, self.paths.root)
        redone = self.disk.open_log()
        if redone:
            events.emit(events.REDONE, operations=redone)
        self.paths.make(self.disk)
        if not self.paths.version.exists() or self.paths.version.read_text() != __version__ + "\n":
            self.disk.replace_file(self.paths.version, f"{__version__}\n".encode())
        self.clock = SystemClock()
        self.committer = Committer(self.disk, self.paths.root)
        self.ledger = Ledger(self.committer, self.paths)
        self.ledger.open()
        for call in self.ledger.calls()[-1:]:
            self.clock.seen(unix(call["ended"] or call["started"]))
        self.spool = Spool(self.paths, self.disk, self.committer, self.clock)
        self.spool.recover()
        self.mailboxes: dict[str, Mailbox] = {}
        self.office = PostOffice(self.spool, self.committer, self.clock)
        self.logins = Logins(config.user, verify=verify_password)
        self.configure(config)

    def close(self) -> None:
        """After the committer."""
        self.ledger.close()
        self.disk.close_log()

    def configure(self, config: Config) -> None:
        """Takes over what a configuration says of users and routing."""
        for user in config.user:
            box = self.mailboxes.get(user.name)
            if box is None:
                free = self.office.free_bytes
                box = Mailbox(user.name, self.paths, self.committer, site=config.site.name, free_bytes=free)
                box.recover()
                self.mailboxes[user.name] = box
            box.quota_bytes = user.quota_bytes
        self.office.configure(config.site, config.mail, config.user, self.mailboxes)
        self.office.call_capacity = functools.partial(self._call_capacity, config.schedule.max_call_s)
        self.office.deferrals_s = config.schedule.retry_s or self.office.deferrals_s
        self.logins.replace(config.user)

    def _call_capacity(self, max_call_s: float) -> int:
        """Bytes that the longest call carries at the best recent rate, a start and a stop bit to each; 0: not known."""
        return int(self.ledger.best_rate(RECENT_CALLS) / 10 * max_call_s)

    def jobs(self, config: Config) -> list[Job]:
        """What a call has to do: one job for the spool, one for each account."""
        disk, paths = self.disk, self.paths
        jobs: list[Job] = [SendJob(self.office, config.secrets, self.office.hostname)]
        for user in config.user:
            for account in user.account:
                name = record_name(user.name, account)
                record = FetchedRecord(disk, self.committer, paths.fetched, name, corrupt=paths.corrupt)
                secret = config.secrets.get(account.secret, "")
                jobs.append(FetchJob(account, user.name, self.mailboxes[user.name], record, secret, self.clock))
        return jobs

    def tls(self, config: Config) -> ssl.SSLContext:
        """For the LAN's listeners: the configured certificate, or one of our own, made once."""
        mail = config.mail
        if mail.certificate:
            return server_context(Path(mail.certificate), Path(mail.key or mail.certificate))
        certificate, key = self.paths.keys / "mail.pem", self.paths.keys / "mail.key"
        if not (certificate.exists() and key.exists()):
            hosts = [parse_address(a).host for a in (*mail.smtp, *mail.pop3)]
            names = [self.office.hostname, config.site.name, "localhost", *(h for h in hosts if h)]
            self_signed.make_files(names, certificate, key, self.disk.replace_file)
        return server_context(certificate, key)


@dataclass(slots=True)
class House:
    """One run. `config` is the configuration in force."""

    core: Core
    config: Config
    config_file: Path
    caller: Caller = field(init=False)
    listeners: dict[str, list[str]] = field(default_factory=lambda: {"smtp": [], "pop3": [], "relay": []})
    supervisor: Supervisor = field(init=False)
    limits: ClientLimits = field(init=False)
    started: Mark = field(init=False)
    _smtp: SmtpService | None = None
    _accepting: dict[str, list[trio.SocketListener]] = field(default_factory=dict)
    _reloading: trio.Lock = field(default_factory=trio.Lock)
    _replacing_caller: trio.Lock = field(default_factory=trio.Lock)

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
                    for name in self._slices(self.config):
                        await self._start(name)
                    await self.supervisor.start("control", self._control)
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

    # ---- services
    def _slices(self, config: Config) -> dict[str, tuple[object, ...]]:
        """service -> what it was made of: where that has changed, the service is replaced."""
        mail = config.mail
        tls = (mail.certificate, mail.key)
        return {
            "smtp": (mail.smtp, tls, Terms.of(mail)),
            "pop3": (mail.pop3, tls, mail.plaintext_login, mail.idle_timeout_s),
            "caller": (
                config.site,
                config.line,
                config.schedule,
                mail.bulk_max_age_s,
                config.user,
                tuple(config.secrets.items()),
            ),
        }

    async def _start(self, name: str) -> None:
        run = {"smtp": self._run_smtp, "pop3": self._run_pop3, "caller": self._run_caller}[name]
        await self.supervisor.start(name, run)

    async def _run_smtp(self, *, task_status: trio.TaskStatus[None]) -> None:
        core, mail = self.core, self.config.mail
        tls = await trio.to_thread.run_sync(core.tls, self.config) if mail.smtp else None
        service = self._smtp = SmtpService(core.office, core.logins, mail, core.clock, tls=tls)
        handlers = (service.handle, service.handle_tls)
        await self._listen("smtp", mail.smtp, SMTPS_PORT, handlers, service.refuse, task_status)

    async def _run_pop3(self, *, task_status: trio.TaskStatus[None]) -> None:
        core, mail = self.core, self.config.mail
        tls = await trio.to_thread.run_sync(core.tls, self.config) if mail.pop3 else None
        service = Pop3Service(
            core.mailboxes,
            core.logins,
            tls=tls,
            plaintext_login=mail.plaintext_login,
            idle_timeout_s=mail.idle_timeout_s,
        )
        handlers = (service.handler, functools.partial(service.handler, implicit_tls=True))
        await self._listen("pop3", mail.pop3, POP3S_PORT, handlers, service.refuse, task_status)

    async def _listen(
        self,
        name: str,
        addresses: Sequence[str],
        tls_port: int,
        handlers: Sequence[Callable[[trio.abc.HalfCloseableStream, str], Awaitable[None]]],
        refuse: Callable[[str], bytes],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serves the plain listeners with the first handler, those on `tls_port` with the second."""
        wanted = [parse_address(a) for a in addresses]
        async with trio.open_nursery() as nursery:
            listeners = self._accepting[name] = await open_listeners(wanted)
            self.listeners[name] = [str(Address(*s.socket.getsockname()[:2])) for s in listeners]
            for secure, handler in enumerate(handlers):
                some = [s for a, s in zip(wanted, listeners, strict=True) if (a.port == tls_port) == bool(secure)]
                start = functools.partial(serve, name, some, handler, limits=self.limits, refuse=refuse)
                await nursery.start(start)
            task_status.started()
            await trio.sleep_forever()

    async def _run_caller(self, *, task_status: trio.TaskStatus[None]) -> None:
        core, config = self.core, self.config
        jobs = await trio.to_thread.run_sync(core.jobs, config)
        self.caller = Caller(
            schedule=config.schedule,
            timezone=config.site.timezone,
            bulk_max_age_s=config.mail.bulk_max_age_s,
            ways=[_way(line) for line in config.line],
            ledger=core.ledger,
            jobs=lambda: jobs,
            prospect=core.office.prospect,
            clock=core.clock,
            started=self.started,
            free_lines=not hasattr(self, "caller"),  # the first in this process
        )
        core.spool.on_change = self.caller.poke
        await self.caller.run(task_status=task_status)

    async def _control(self, *, task_status: trio.TaskStatus[None]) -> None:
        await serve_control(self.config.site.runtime, self._verbs(), task_status=task_status)

    # ---- signals
    async def _obey(self, signals: Any) -> None:
        """Until a signal says stop. A reload is a task of its own, since it may wait for a call's end."""
        async with trio.open_nursery() as reloads:
            async for signum in signals:
                if signum != signal.SIGHUP:
                    events.emit(events.STOPPING, why=signal.Signals(signum).name)
                    notify(STOPPING="1")
                    reloads.cancel_scope.cancel()
                    return
                reloads.start_soon(self._reload)

    async def _reload(self) -> None:
        """Takes over the configuration as it stands on disk, or says why not and keeps the old one."""
        async with self._reloading:
            notify_reloading()
            config = await self._read_again()
            changed = await self._take_over(config) if config is not None else ()
            notify(READY="1")
        if "caller" in changed:
            async with self._replacing_caller:
                await self.caller.wait_idle()
                await self._replace("caller")

    async def _read_again(self) -> Config | None:
        try:
            config = await trio.to_thread.run_sync(load, self.config_file)
        except ConfigErrors as errors:
            events.emit(events.RELOAD_REFUSED, errors=str(errors).replace("\n", "; "))
            return None
        if missing := unbuilt(config):
            events.emit(events.RELOAD_REFUSED, errors="; ".join(missing))
            return None
        site = self.config.site
        fixed = [f"site.{k}" for k in ("name", "state", "runtime") if getattr(site, k) != getattr(config.site, k)]
        if fixed:
            events.emit(events.RELOAD_NEEDS_RESTART, what=", ".join(fixed))
            return None
        return config

    async def _take_over(self, config: Config) -> Sequence[str]:
        """Puts this configuration in force; -> the services that it changes. All but the caller are replaced by
        then. Where one can't be (a port is taken, a certificate is missing) the old configuration stays."""
        old = self.config
        before, after = self._slices(old), self._slices(config)
        changed = [name for name in after if before[name] != after[name]]
        replaced: list[str] = []
        try:
            self._configure(config)
            for name in changed:
                if name != "caller":
                    replaced.append(name)
                    await self._replace(name)
        except OSError as error:
            events.emit(events.RELOAD_REFUSED, errors=error)
            self._configure(old)
            for name in replaced:
                await self._replace(name)
            return ()
        events.emit(events.RELOADED, changed=", ".join(changed) or "no service has changed")
        return changed

    def _configure(self, config: Config) -> None:
        self.config = config
        self.core.configure(config)
        self.limits.per_client, self.limits.total = config.mail.client_limit, config.mail.session_limit

    async def _replace(self, name: str) -> None:
        if name == "smtp":
            await self._drain_smtp()
        await self.supervisor.stop(name)
        await self._start(name)

    async def _drain(self) -> None:
        """Stops accepting; sessions with a message under way get `DRAIN_S`, a call is hung up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervisor.stop, "caller")
            await self._stop_accepting("pop3")
            await self._drain_smtp()

    async def _drain_smtp(self) -> None:
        await self._stop_accepting("smtp")
        if self._smtp is not None:
            with trio.move_on_after(DRAIN_S):
                await self._smtp.drain()

    async def _stop_accepting(self, name: str) -> None:
        for listener in self._accepting.pop(name, ()):
            await listener.aclose()

    # ---- the control socket's verbs
    def _verbs(self) -> dict[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]]:
        return {
            "status": self._status,
            "watch": self._watch,
            "dial": self._dial,
            "hangup": self._hangup,
            "queue": self._queue,
            "queue-show": self._queue_show,
            "queue-hold": functools.partial(self._queue_hold, on=True),
            "queue-release": functools.partial(self._queue_hold, on=False),
            "queue-remove": self._queue_remove,
            "calls": self._calls,
        }

    async def _status(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        core = self.core
        now = core.clock.now()
        return {
            "site": self.config.site.name,
            "version": __version__,
            "fingerprint": None,
            "uptime_s": round(self.started.seconds_until(now)),
            "clock_trusted": core.clock.trusted,
            "line": self.caller.status(),
            "queue": queue_figures(core.office, now.wall),
            "users": len(self.config.user),
            "terminals": {"local": 0, "remote": 0},
            "peers": {"up": 0, "suspended": 0, "lost": 0, "never": 0},
            "services": self.supervisor.states(),
            "listeners": self.listeners,
            "storage": {"flushes": core.disk.flushes, "free_bytes": core.office.free_bytes()},
        }

    async def _watch(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        """Never returns: the client goes away."""
        line = self.caller.status()
        planned = f"next call {line['next_call']}: " if line["next_call"] else ""
        await progress.show({**line, "text": planned + line["next_call_reason"]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_figures, progress)
            while True:
                caller = self.caller
                with caller.watch() as lines:
                    async for told in lines:
                        await progress.show({**caller.status(), "state": told.state.value, "text": told.text})
                await trio.sleep(WATCH_S)  # a new configuration makes a new caller

    async def _watch_figures(self, progress: Progress) -> None:
        """While a call is up and moves something: how much so far."""
        before = ""
        while True:
            await trio.sleep(WATCH_S)
            if (tally := self.caller.tally) is not None:
                text = f"{tally.bytes_out} bytes out, {tally.bytes_in} in; {tally.sent} sent, {tally.fetched} fetched"
                if text != before:
                    await progress.show({**self.caller.status(), "text": text})
                before = text

    async def _dial(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        try:
            if not arguments.get("wait", True):
                self.caller.dial_nowait(force=bool(arguments.get("force")))
                return None
            return await self.caller.dial(force=bool(arguments.get("force")))
        except CallRefused as refusal:
            raise ControlError(str(refusal)) from None

    async def _hangup(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        if not self.caller.hang_up():
            raise ControlError("no call is up")

    async def _calls(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        return self.core.ledger.calls()

    async def _queue(self, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
        return [list_message(self.core.office, e) for e in self.core.spool.messages.values()]

    async def _queue_show(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        return list_message(self.core.office, self._message(arguments))

    async def _queue_hold(self, arguments: Mapping[str, Any], progress: Progress, *, on: bool) -> None:
        await self._change(self.core.office.hold(self._message(arguments), on))

    async def _queue_remove(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        await self._change(self.core.office.remove(self._message(arguments)))

    async def _change(self, change: Awaitable[None]) -> None:
        try:
            await change
        except MessageBusy as busy:
            raise ControlError(str(busy)) from None
        except OSError as error:
            raise ControlError(f"the disk failed: {error}") from None

    def _message(self, arguments: Mapping[str, Any]) -> Envelope:
        envelope = self.core.spool.messages.get(str(arguments.get("id")))
        if envelope is None:
            raise ControlError(f"no message {arguments.get('id')!r} is in the queue")
        return envelope


def _way(line: Line) -> Way:
    """A `[[line]]` and its modem, or why it can't be dialled."""
    if line.bearer is Bearer.PPP:
        why = 'PPP is not built yet: only bearer = "none" can be dialled'
        events.emit(events.LINE_NOT_USABLE, line=line.name, why=why)
        return Way(line, None, why)
    return Way(line, ModemLine(line))
