"""THE table of events: what the journal can say of Posthouse, each with an id, a text and what to do. A leaf.

An event is emitted with `emit(EVENT, field=value, …)`; its text is made of the fields. Every string from
outside (modem, caller ID, SMTP, DNS, a peer) passes `clean` on its way: control and bidirectional characters
never reach a terminal or the journal. Passwords are never a field.
"""

from __future__ import annotations

import logging
import unicodedata
from dataclasses import dataclass
from typing import Final

__all__ = ["Event", "clean", "emit", "table", "trace"]

FIELD_LIMIT: Final = 500
"""Characters of one field that reach the journal: a reply line of SMTP is at most 512 bytes (RFC 5321 §4.5.3.1.5)."""

_log = logging.getLogger("posthouse")
_table: dict[str, Event] = {}


@dataclass(frozen=True, slots=True)
class Event:
    """`id` as in the journal's field EVENT, `level` of `logging`, `text` a format string over the fields,
    `action` what a person does about it ("" where nothing is to be done)."""

    id: str
    level: int
    text: str
    action: str = ""

    def __post_init__(self) -> None:
        if self.id in _table:
            raise ValueError(f"event {self.id} is in the table twice")
        _table[self.id] = self


def table() -> dict[str, Event]:
    """id -> event, of all there are."""
    return dict(_table)


def clean(value: object, limit: int = FIELD_LIMIT) -> str:
    """`value` as text without control, format (bidirectional) and surrogate characters, at most `limit` long."""
    text = value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            c if c == " " or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else "\ufffd"
            for c in text
        )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def emit(event: Event, /, **fields: object) -> None:
    """Puts one event into the journal (the handlers of the logger `posthouse`), its fields cleaned."""
    if not _log.isEnabledFor(event.level):
        return
    cleaned = {k: clean(v) for k, v in fields.items()}
    _log.log(
        event.level, "%s", event.text.format_map(cleaned), extra={"posthouse_event": event, "posthouse_fields": cleaned}
    )


def trace(error: BaseException) -> None:
    """The traceback of a defect, at debug level, behind the event that told of it."""
    _log.debug("traceback", exc_info=error)


_D, _I, _W, _E = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

# The process
STARTED = Event("started", _I, "Posthouse {version} for {site} is ready after {seconds} s")
STOPPING = Event("stopping", _I, "stopping: {why}")
STOPPED = Event("stopped", _I, "stopped")
SERVICE_RESTARTED = Event(
    "service-restarted",
    _E,
    "service {service} failed ({error}); restarted in {seconds} s",
    "If it repeats, report it with the journal of that time.",
)
SERVICE_FAILED = Event(
    "service-failed",
    _E,
    "service {service} failed {times} times within {seconds} s; giving up, the process ends",
    "systemd starts the process again; if that repeats, report it with the journal of that time.",
)
SERVICE_STOP_FAILED = Event(
    "service-stop-failed",
    _E,
    "service {service} failed while it was stopped ({error})",
    "If it repeats, report it with the journal of that time.",
)
RELOADED = Event("reloaded", _I, "configuration read again: {changed}")
RELOAD_REFUSED = Event(
    "reload-refused",
    _W,
    "configuration not taken over, the old one stays: {errors}",
    "Run `posthouse check`, mend the file, reload again.",
)
RELOAD_NEEDS_RESTART = Event(
    "reload-needs-restart",
    _W,
    "{what} changed: takes effect at the next start; until then nothing else of the file is taken over either",
    "Restart posthouse.service when it suits.",
)
CONFIG_COMMITTED = Event("config-committed", _I, "configuration: revision {revision} by {who}: {comment}")
CONFIG_CONFIRMED = Event("config-confirmed", _I, "configuration: the last commit was confirmed by {who}")
CONFIG_REVERTED = Event(
    "config-reverted",
    _W,
    "configuration: back to revision {revision}: {why}",
    "`posthouse config revisions` has what was taken back; commit it again and confirm it in time.",
)
CONFIG_NOT_REVERTED = Event(
    "config-not-reverted",
    _W,
    "configuration: what is stored can't be mended or taken back yet: {error}",
    "Make room on the disk, or see why it fails. It is tried again each minute, and at the next start.",
)
CONFIG_MENDED = Event(
    "config-mended",
    _W,
    "{file} was damaged and is written anew from its copy",
    "See that its last change is in it. A card that loses data more than once wants to be replaced.",
)
WATCHDOG_STARVED = Event(
    "watchdog-starved",
    _E,
    "no progress: {what}; if that lasts systemd ends this process and starts it anew",
    "If it repeats, check the disk, and report it with the journal of that time.",
)
LISTENING = Event("listening", _I, "{service} listens on {address}")
ACCEPT_FAILED = Event(
    "accept-failed", _W, "{service} could not accept a connection: {error}", "Too many connections or files are open."
)
CLOCK_UNTRUSTED = Event(
    "clock-untrusted",
    _W,
    "the clock is not trusted: `at` and `windows` are ignored until it is",
    "Set the time, or let a call get it.",
)
CLOCK_TRUSTED = Event("clock-trusted", _I, "the clock is trusted: {source}")
CLOCK_STEPPED = Event("clock-stepped", _I, "the clock went from {before} to {after}: {source}")
CLOCK_NOT_SET = Event(
    "clock-not-set",
    _W,
    "the host's clock can't be set ({error}): Posthouse keeps one of its own, certificates are judged by the host's",
    "Set the host's clock, or give the service CAP_SYS_TIME.",
)
CHRONY_PROBLEM = Event(
    "chrony-problem", _W, "chrony: {what}", "Look at `systemctl status chrony`; calls are made all the same."
)

# The spool and the mailboxes
ACCEPTED = Event("accepted", _I, "{id}: accepted from {client} ({user}), {size} bytes, from <{sender}> to {recipients}")
LOCAL = Event("delivered-locally", _I, "{id}: delivered to {user}")
PUT_ASIDE = Event(
    "put-aside",
    _W,
    "{file} is damaged ({why}); moved to {to}",
    "Half-written at a power cut and never acknowledged, or the disk is failing: look at the file.",
)
STORAGE_FAILED = Event(
    "storage-failed", _E, "the disk failed: {error}", "Check the disk; accepted mail is kept as long as it can be read."
)
DISK_FULL = Event(
    "disk-full", _W, "the disk is full: {what} refused", "Remove mail, or give the data partition more room."
)
REDONE = Event("redone", _I, "Posthouse did not end cleanly: {operations} operations were done again")
NO_REDO_LOG = Event(
    "no-redo-log",
    _W,
    "the disk has no room for the redo log ({bytes} bytes): every message costs a flush of the file system",
    "Remove mail, or give the data partition more room, and restart.",
)
HELD = Event("held", _I, "{id}: held by hand")
RELEASED = Event("released", _I, "{id}: released by hand")
REMOVED = Event("removed", _W, "{id}: removed by hand, from <{sender}>, {recipients} not sent")
BOUNCED = Event("bounced", _W, "{id}: {recipients} failed ({reply}); bounce to <{to}>")
REPORTED = Event("reported", _I, "{id}: <{to}> is told that it is {action} for {recipients}")
BOUNCE_DROPPED = Event("bounce-dropped", _W, "{id}: {recipients} failed ({reply}); no bounce: {why}")

# The LAN
LOGIN_FAILED = Event("login-failed", _W, "{service}: {client} gave a wrong name or password for {user}")
SESSION_REFUSED = Event("session-refused", _W, "{service}: {client} refused: {why}")
SESSION_ENDED = Event("session-ended", _I, "{service}: {client} ended: {why}")
SMUGGLING = Event(
    "bare-line-end",
    _W,
    "{client} sent a bare CR or LF in a message; refused",
    "The mail program is broken, or an attack.",
)
CERTIFICATE_MADE = Event("certificate-made", _I, "made a self-signed certificate for {names} in {file}")

# The relay server
TERMINAL_IN = Event("terminal-in", _I, "terminal {name} logged in from {client}")
TERMINAL_OUT = Event("terminal-out", _I, "terminal {name} is out: {why}")
TERMINAL_ENROLLED = Event("terminal-enrolled", _I, "terminal {name} at {client} enrolled its certificate")
TERMINAL_REFUSED = Event(
    "terminal-refused",
    _W,
    "terminal {name} at {client} was refused: {what}",
    "A terminal with a new certificate needs `posthouse enrol NAME`; else somebody guesses.",
)
RELAY_RECORD_TORN = Event(
    "relay-record-torn",
    _W,
    "{file}: the last {bytes} bytes are torn and left out",
    "Half-written at a power cut and never acknowledged.",
)
PEER_UP = Event("peer-up", _I, "the link to the relay server {peer} ({client}) is up")
PEER_DOWN = Event("peer-down", _I, "the link to the relay server {peer} has ended: {why}")
PEER_FAILED = Event(
    "peer-failed",
    _W,
    "no link to the relay server {peer} at {address}: {why}",
    "Check the peer's `address`, `fingerprint` and `secret`, on both sides.",
)
NAME_TAKEN = Event(
    "name-taken",
    _E,
    "behind {peer} there is another relay server called {name}",
    "Every relay server needs a `site.name` of its own: give one of them another.",
)
NAME_CONFLICT = Event(
    "name-conflict",
    _W,
    "the relay server {owner} has a terminal {name}, which is ours; it is not believed",
    "Give one of them another name, or set `roams = true` for the account if it is the same terminal.",
)
CIRCUIT_FAILED = Event(
    "circuit-failed",
    _W,
    "circuit {caller} to {callee} {service}: {why}",
    "Too many circuits or files are open.",
)
DEVICE_ONLINE = Event("device-online", _I, "device {device} answers: it is logged in")
DEVICE_OFFLINE = Event("device-offline", _W, "device {device} does not answer", "Look at the device and its services.")
DEVICE_CIRCUIT_BROKEN = Event("device-circuit-broken", _I, "circuit of device {device} to {call} broke: {why}")
CIRCUIT_UP = Event("circuit-up", _I, "circuit {caller} to {callee} {service} is up")
CIRCUIT_ENDED = Event(
    "circuit-ended",
    _I,
    "circuit {caller} to {callee} {service} ended after {seconds} s ({why}): {bytes_up} bytes to {callee}, "
    "{bytes_down} back",
)

# The call
CALL_PLANNED = Event("call-planned", _I, "next call: {at}: {reason}")
CALL_STARTED = Event("call-started", _I, "call {id} on {line}: {reason}")
DIALLING = Event("dialling", _I, "call {id}: dialling {number} (dial {dial})")
DIAL_FAILED = Event("dial-failed", _W, "call {id}: {number}: {outcome} {text}")
CONNECTED = Event("connected", _I, "call {id}: connected to {number} at {rate} bit/s")
CARRIER_LOST = Event("carrier-lost", _W, "call {id}: the line dropped after {seconds} s")
CALL_ENDED = Event(
    "call-ended",
    _I,
    "call {id}: {outcome} after {seconds} s: sent {sent}, fetched {fetched}, failed {failed}, "
    "{bytes_in} bytes in, {bytes_out} out",
)
CALL_INTERRUPTED = Event("call-interrupted", _W, "call {id} had no end in the ledger: closed as interrupted")
REDIAL_FORBIDDEN = Event("redial-forbidden", _I, "{number} may not be dialled before {at}: {rule}")
LEDGER_RESERVE_USED = Event(
    "ledger-reserve-used",
    _W,
    "the disk is full: the ledger goes on in the room that was kept for it",
    "Remove mail, or give the data partition more room.",
)
LEDGER_BEHIND = Event(
    "ledger-behind",
    _W,
    "the ledger could not be written ({error}); {records} records wait in memory",
    "Check the disk; calls go on, and what waits is written as soon as the disk takes it.",
)
JOB_CRASHED = Event(
    "job-crashed",
    _E,
    "call {id}: {job} failed unexpectedly: {error}",
    "Its work waits for the next call; report it with the journal of that time.",
)
MODEM_FOUND_OFF_HOOK = Event("modem-off-hook", _W, "{line}: the modem did not answer AT; hung up with +++ and ATH")
MODEM_RUNG = Event("modem-rung", _W, "{line}: the modem does not answer to {tried}; now {now}")
MODEM_BACK = Event(
    "modem-back",
    _W,
    "{line}: the modem answers again after {seconds} s ({how})",
    "If it repeats, look for its cause: power supply, heat, firmware.",
)
MODEM_RESTARTED = Event(
    "modem-restarted",
    _W,
    "{line}: the modem has restarted in the call ({sign})",
    "If it repeats, look at its power supply: a module takes 2 A for moments.",
)
MODEM_ECHOES = Event(
    "modem-echoes",
    _W,
    "{line}: PPP gets back what it sends: the modem is off the line and echoes, or the port is looped",
    "If it repeats, the modem restarts or gives the line up in calls: look at its power supply and its aerial.",
)
MODEM_ELSEWHERE = Event(
    "modem-elsewhere",
    _W,
    "{line}: the modem of {port} is {now} now",
    "Configure `port` by its name under /dev/serial/by-id, so that it is found after a restart too.",
)
SIM_PROBLEM = Event("sim-problem", _W, "{line}: {what}", "Look at the SIM card, and at the line's `pin` and `apn`.")
PIN_REFUSED = Event(
    "pin-refused",
    _W,
    "{line}: {why}",
    "Put the right PIN into secrets.toml. No call goes over the line until it is another one; a third wrong one blocks "
    "the SIM.",
)
NETWORK_FOUND = Event("network-found", _I, "{line}: registered with {network} network, signal {signal}")
NO_NETWORK = Event(
    "no-network", _W, "{line}: {why}", "Look at the aerial and where it stands, and at the SIM's contract."
)
MODEM_PROBLEM = Event("modem-problem", _W, "{line}: {what}", "Check the modem, its cable and its power.")
WOKEN = Event("woken", _I, "{line}: a ring from {number}, not answered: a call is made")
RING_PASSED_OVER = Event(
    "ring-passed-over", _I, "{line}: a ring from {number}, which is none of wake_numbers: nothing is done"
)
MODEM_SAID = Event("modem-said", _D, "{line}: {direction} {text}")
WINDOW_PROBLEM = Event(
    "window-problem",
    _W,
    "{line}: the host's routes and rules for the line: {what}",
    "If it repeats, report it with the journal of that time.",
)
LINE_NOT_USABLE = Event("line-not-usable", _W, "{line}: {why}", "Change the line's configuration.")

# PPP and interfaces
PPP_UP = Event("ppp-up", _I, "{line}: PPP is up on {device} with {address}; name servers: {servers}")
PPP_ENDED = Event(
    "ppp-ended",
    _I,
    "{line}: pppd ended ({code}): {text}",
    "If calls fail: 19 is a wrong ppp_login or ppp_secret; 10 and 17 are no PPP at the far end.",
)
PPP_SAID = Event("ppp-said", _D, "{line}: pppd: {text}")
LINE_DOWN = Event("line-down", _W, "{line}: {what}", "Check the device, its cable and its own configuration.")

# Mail over the call
JOB_FAILED = Event("job-failed", _W, "call {id}: {job}: {why}")
SENT = Event("sent", _I, "{id}: sent to {recipients} by {host}: {reply}")
DEFERRED = Event("deferred", _W, "{id}: {recipients} deferred by {host}: {reply}")
IN_DOUBT = Event("in-doubt", _W, "{id}: sent but not acknowledged when the line dropped; it will be sent again")
FETCHED = Event("fetched", _I, "{account}: {uid} fetched for {user}, {size} bytes")
STUBBED = Event("stubbed", _I, "{account}: {uid} stays upstream, {size} bytes: {user} has its stub, {token}")
STUB_ASKED = Event("stub-asked", _I, "{user} asked for {uid}, which stays upstream: {what} with the next call")
STUB_ASK_IGNORED = Event("stub-ask-ignored", _I, "an automatic mail of {user} would {what} a large message: ignored")
DELETED_UPSTREAM = Event("deleted-upstream", _I, "{account}: {uid} deleted unread, as {user} asked")
NO_CHUNKING = Event("no-chunking", _I, "{host}:{port} offers CHUNKING and does it wrongly ({why}): DATA from now on")
FOUND_SENT = Event("found-sent", _I, "{id}: was in doubt, and lies in the sent folder at {host}: it is not sent again")
SENT_FOLDER_FAILED = Event(
    "sent-folder-failed",
    _W,
    "call {call}: {folder} of {login} at {host} can't be looked at ({why}): what is in doubt is sent again",
    "Check the account's sent_folder.",
)
SMARTHOST_FAILED = Event(
    "smarthost-failed",
    _W,
    "call {call}: {host}:{port} is of no use in this call: {why}",
    "Check the smarthost's host, port, tls, ca, login and secret.",
)
QUOTA_FULL = Event(
    "quota-full", _W, "{account}: the mailbox of {user} is full; {messages} messages stay upstream", "Remove mail."
)

# The host's network interfaces
INTERFACE_SET_UP = Event("interface-set-up", _I, "{interface}: set up: {what}")
INTERFACE_PUT_RIGHT = Event(
    "interface-put-right",
    _W,
    "{interface}: something else changed it; put right: {what}",
    "If it repeats, find the other program that manages the device and take it away from there.",
)
INTERFACE_STATE = Event("interface-state", _I, "{interface}: {device} is {state}")
INTERFACE_FAILED = Event(
    "interface-failed",
    _W,
    "{interface}: not as configured, tried again: {why}",
    "Change the interface's configuration; `Operation not permitted`: Posthouse needs CAP_NET_ADMIN.",
)
DEVICE_ABSENT = Event(
    "device-absent", _W, "{interface}: the device {device} is not there", "Nothing, if it is to come later."
)
DEVICE_THERE = Event("device-there", _I, "{interface}: the device {device} is there")
LEASE_GOT = Event(
    "lease-got", _I, "{interface}: {address} from the DHCP server {server} for {seconds} s, with {routes}"
)
LEASE_LOST = Event("lease-lost", _W, "{interface}: the lease of {address} has ended")
DHCP_CLIENT_FAILED = Event(
    "dhcp-client-failed",
    _W,
    "{interface}: no lease, asked again: {why}",
    "Look for the DHCP server; `Operation not permitted`: udhcpc needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.",
)
FIREWALL_LOADED = Event("firewall-loaded", _I, "the firewall is in force")
FIREWALL_CHANGED = Event(
    "firewall-changed", _W, "something else has changed the firewall's table; it is loaded anew", "Find out what did."
)
FIREWALL_FAILED = Event(
    "firewall-failed",
    _W,
    "the firewall can't be loaded: {why}; no call is made",
    "Install nftables, give Posthouse CAP_NET_ADMIN. It is tried again each minute.",
)
FORWARDING_OFF = Event(
    "forwarding-off",
    _W,
    "the host does not forward packets ({why}): firewall.forward lets nobody onto the line",
    "Set net.ipv4.ip_forward = 1 in /etc/sysctl.d.",
)
DNSMASQ_STARTED = Event("dnsmasq-started", _I, "DHCP and DNS for {interfaces}")
DNSMASQ_FAILED = Event(
    "dnsmasq-failed",
    _W,
    "no DHCP and DNS for {interfaces}, tried again: {why}",
    "Is dnsmasq installed, and does nothing else hold port 53 or 67 there?",
)
