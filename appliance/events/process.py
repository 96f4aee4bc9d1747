"""Events: the process, its configuration, its clock."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

STARTED = Event(
    "started",
    "3387b9a839dd433f84246b74dd662194",
    INFO,
    "Posthouse {version} for {site} is ready after {seconds} s",
    follows="Mail is accepted, calls are made as planned.",
)
STATE_NEWER = Event(
    "state-newer",
    "52d7cd610eb64be8a20c0f5c819fef68",
    WARNING,
    "the state was written by Posthouse {newer}, which is newer than this {version}",
    follows="What this version does not know stays as it is (`not-understood`), and the newer one finds it again.",
    action="Nothing, where an update was taken back; else find out who installed an older version.",
)
STOPPING = Event(
    "stopping",
    "0c5284b1e9a146a48b9b65e6003881a8",
    INFO,
    "stopping: {why}",
    follows="Nothing new is accepted, a call is hung up, a message that is being taken in gets 5 s.",
)
STOPPED = Event(
    "stopped",
    "ac9447e8399b499c8182b08e7101bcb1",
    INFO,
    "stopped",
    follows="No call is made and no mail accepted until the next start.",
)
SERVICE_RESTARTED = Event(
    "service-restarted",
    "b57a9b70489243118eae0f223f40c2c5",
    ERROR,
    "service {service} failed ({error}); restarted in {seconds} s",
    follows="The others go on. It is started again after a pause that doubles each time.",
    action="If it repeats, report it with the journal of that time.",
)
SERVICE_FAILED = Event(
    "service-failed",
    "c090d9ea20b94ffdb65dc72d6c186b94",
    ERROR,
    "service {service} failed {times} times within {seconds} s; giving up, the process ends",
    follows="The process ends; what was accepted is on the disk.",
    action="systemd starts the process again; if that repeats, report it with the journal of that time.",
)
SERVICE_STOP_FAILED = Event(
    "service-stop-failed",
    "5f1416061f644834b306079cb2166ce3",
    ERROR,
    "service {service} failed while it was stopped ({error})",
    follows="It is stopped all the same.",
    action="If it repeats, report it with the journal of that time.",
)
RELOADED = Event(
    "reloaded",
    "f048f4cdc7254403890552dc8f5009d6",
    INFO,
    "configuration read again: {changed}",
    follows="Services whose part has changed were replaced, or will be behind the call that is up.",
)
RELOAD_REFUSED = Event(
    "reload-refused",
    "a7c90a7e8133438c9f12d2de6c883bfa",
    WARNING,
    "configuration not taken over, the old one stays: {errors}",
    follows="The old configuration stays in force as a whole.",
    action="Run `posthouse check`, mend the file, reload again.",
)
RELOAD_NEEDS_RESTART = Event(
    "reload-needs-restart",
    "4d89f5edc9594967bd6e6a32a9f6d691",
    WARNING,
    "{what} changed: takes effect at the next start; until then nothing else of the file is taken over either",
    follows="The old configuration stays in force as a whole.",
    action="Restart posthouse.service when it suits.",
)
CONFIG_COMMITTED = Event(
    "config-committed",
    "0c762010b41e417b8c5b4b713890c3eb",
    INFO,
    "configuration: revision {revision} by {who}: {comment}",
    follows="It is in force. Where a time for its confirmation was given, it is taken back unless it is confirmed in "
    "that time.",
)
CONFIG_CONFIRMED = Event(
    "config-confirmed",
    "f9f65c624b574d508a917202c5314c4e",
    INFO,
    "configuration: the last commit was confirmed by {who}",
    follows="It stays.",
)
SECRET_CHANGED = Event(
    "secret-changed",
    "11e3438cc2da462dbd402e74a0bebc95",
    INFO,
    "the secret {secret} was given another value, or none, by {who}",
    follows="What uses it does so with the new value.",
)
CONFIG_REVERTED = Event(
    "config-reverted",
    "b971dbc31a824d81ae4115a5a58558db",
    WARNING,
    "configuration: back to revision {revision}: {why}",
    follows="The older revision is in force.",
    action="`posthouse config revisions` has what was taken back; commit it again and confirm it in time.",
)
CONFIG_NOT_REVERTED = Event(
    "config-not-reverted",
    "e60b9311461e4c458f041986549266a8",
    WARNING,
    "configuration: what is stored can't be mended or taken back yet: {error}",
    follows="What is in force goes on.",
    action="Make room on the disk, or see why it fails. It is tried again each minute, and at the next start.",
)
CONFIG_MENDED = Event(
    "config-mended",
    "9697c6d98fd54d049830f803f6aec780",
    WARNING,
    "{file} was damaged and is written anew from its copy",
    follows="The copy is in force.",
    action="See that its last change is in it. A card that loses data more than once wants to be replaced.",
)
WATCHDOG_STARVED = Event(
    "watchdog-starved",
    "48f7eb33864c4dab9cf22e7bacb5e095",
    ERROR,
    "no progress: {what}; if that lasts systemd ends this process and starts it anew",
    follows="Without progress systemd kills the process and starts it anew; what was accepted is on the disk.",
    action="If it repeats, check the disk, and report it with the journal of that time.",
)
LISTENING = Event(
    "listening",
    "48b10d5be0f94f78bcea093588ebe917",
    INFO,
    "{service} listens on {address}",
    follows="It can be reached there.",
)
ACCEPT_FAILED = Event(
    "accept-failed",
    "3a93b2a29bfd444781b05ccafd18c9b6",
    WARNING,
    "{service} could not accept a connection: {error}",
    follows="It tries again after a moment; who connects has to wait.",
    action="Too many connections or files are open: see who holds them, or raise LimitNOFILE.",
    fold=(
        "service",
        "error",
    ),
)
CLOCK_UNTRUSTED = Event(
    "clock-untrusted",
    "35cd8510de1c48739976284780f14780",
    WARNING,
    "the clock is not trusted: `at` and `windows` are ignored until it is",
    follows="The dearest price is assumed; `every` and all other conditions go on. The next call asks for the time "
    "before anything else.",
    action="Set the time, or let a call get it.",
)
CLOCK_TRUSTED = Event(
    "clock-trusted",
    "32b4e78d375941c3af3df9966778e346",
    INFO,
    "the clock is trusted: {source}",
    follows="`at` and `windows` hold from now on.",
)
CLOCK_STEPPED = Event(
    "clock-stepped",
    "1c2e18d2cac34c018a6c93d80b8bf79b",
    INFO,
    "the clock went from {before} to {after}: {source}",
    follows="What is planned is planned anew by the new time; ages and pauses go on by the time since the boot.",
)
CLOCK_NOT_SET = Event(
    "clock-not-set",
    "f968956ccf3c4cf1900ce9f89cb5e8dc",
    WARNING,
    "the host's clock can't be set ({error}): Posthouse keeps one of its own, certificates are judged by the host's",
    follows="Other programs of the host go by the wrong time.",
    action="Set the host's clock, or give the service CAP_SYS_TIME.",
)
CHRONY_PROBLEM = Event(
    "chrony-problem",
    "481acd183a8c499f90ee9975af43ecbe",
    WARNING,
    "chrony: {what}",
    follows="The call asks for the time in another way, or goes without.",
    action="Look at `systemctl status chrony`; calls are made all the same.",
)
