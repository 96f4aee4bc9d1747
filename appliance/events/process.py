"""Events: the process, its configuration, its clock."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

STARTED = Event("started", INFO, "Posthouse {version} for {site} is ready after {seconds} s")
STOPPING = Event("stopping", INFO, "stopping: {why}")
STOPPED = Event("stopped", INFO, "stopped")
SERVICE_RESTARTED = Event(
    "service-restarted",
    ERROR,
    "service {service} failed ({error}); restarted in {seconds} s",
    "If it repeats, report it with the journal of that time.",
)
SERVICE_FAILED = Event(
    "service-failed",
    ERROR,
    "service {service} failed {times} times within {seconds} s; giving up, the process ends",
    "systemd starts the process again; if that repeats, report it with the journal of that time.",
)
SERVICE_STOP_FAILED = Event(
    "service-stop-failed",
    ERROR,
    "service {service} failed while it was stopped ({error})",
    "If it repeats, report it with the journal of that time.",
)
RELOADED = Event("reloaded", INFO, "configuration read again: {changed}")
RELOAD_REFUSED = Event(
    "reload-refused",
    WARNING,
    "configuration not taken over, the old one stays: {errors}",
    "Run `posthouse check`, mend the file, reload again.",
)
RELOAD_NEEDS_RESTART = Event(
    "reload-needs-restart",
    WARNING,
    "{what} changed: takes effect at the next start; until then nothing else of the file is taken over either",
    "Restart posthouse.service when it suits.",
)
CONFIG_COMMITTED = Event("config-committed", INFO, "configuration: revision {revision} by {who}: {comment}")
CONFIG_CONFIRMED = Event("config-confirmed", INFO, "configuration: the last commit was confirmed by {who}")
CONFIG_REVERTED = Event(
    "config-reverted",
    WARNING,
    "configuration: back to revision {revision}: {why}",
    "`posthouse config revisions` has what was taken back; commit it again and confirm it in time.",
)
CONFIG_NOT_REVERTED = Event(
    "config-not-reverted",
    WARNING,
    "configuration: what is stored can't be mended or taken back yet: {error}",
    "Make room on the disk, or see why it fails. It is tried again each minute, and at the next start.",
)
CONFIG_MENDED = Event(
    "config-mended",
    WARNING,
    "{file} was damaged and is written anew from its copy",
    "See that its last change is in it. A card that loses data more than once wants to be replaced.",
)
WATCHDOG_STARVED = Event(
    "watchdog-starved",
    ERROR,
    "no progress: {what}; if that lasts systemd ends this process and starts it anew",
    "If it repeats, check the disk, and report it with the journal of that time.",
)
LISTENING = Event("listening", INFO, "{service} listens on {address}")
ACCEPT_FAILED = Event(
    "accept-failed",
    WARNING,
    "{service} could not accept a connection: {error}",
    "Too many connections or files are open.",
)
CLOCK_UNTRUSTED = Event(
    "clock-untrusted",
    WARNING,
    "the clock is not trusted: `at` and `windows` are ignored until it is",
    "Set the time, or let a call get it.",
)
CLOCK_TRUSTED = Event("clock-trusted", INFO, "the clock is trusted: {source}")
CLOCK_STEPPED = Event("clock-stepped", INFO, "the clock went from {before} to {after}: {source}")
CLOCK_NOT_SET = Event(
    "clock-not-set",
    WARNING,
    "the host's clock can't be set ({error}): Posthouse keeps one of its own, certificates are judged by the host's",
    "Set the host's clock, or give the service CAP_SYS_TIME.",
)
CHRONY_PROBLEM = Event(
    "chrony-problem", WARNING, "chrony: {what}", "Look at `systemctl status chrony`; calls are made all the same."
)
