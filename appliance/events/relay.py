"""Events: the relay server."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

TERMINAL_IN = Event("terminal-in", INFO, "terminal {name} logged in from {client}")
TERMINAL_OUT = Event("terminal-out", INFO, "terminal {name} is out: {why}")
TERMINAL_ENROLLED = Event("terminal-enrolled", INFO, "terminal {name} at {client} enrolled its certificate")
TERMINAL_REFUSED = Event(
    "terminal-refused",
    WARNING,
    "terminal {name} at {client} was refused: {what}",
    "A terminal with a new certificate needs `posthouse enrol NAME`; else somebody guesses.",
)
RELAY_RECORD_TORN = Event(
    "relay-record-torn",
    WARNING,
    "{file}: the last {bytes} bytes are torn and left out",
    "Half-written at a power cut and never acknowledged.",
)
PEER_UP = Event("peer-up", INFO, "the link to the relay server {peer} ({client}) is up")
PEER_DOWN = Event("peer-down", INFO, "the link to the relay server {peer} has ended: {why}")
PEER_FAILED = Event(
    "peer-failed",
    WARNING,
    "no link to the relay server {peer} at {address}: {why}",
    "Check the peer's `address`, `fingerprint` and `secret`, on both sides.",
)
NAME_TAKEN = Event(
    "name-taken",
    ERROR,
    "behind {peer} there is another relay server called {name}",
    "Every relay server needs a `site.name` of its own: give one of them another.",
)
NAME_CONFLICT = Event(
    "name-conflict",
    WARNING,
    "the relay server {owner} has a terminal {name}, which is ours; it is not believed",
    "Give one of them another name, or set `roams = true` for the account if it is the same terminal.",
)
CIRCUIT_FAILED = Event(
    "circuit-failed",
    WARNING,
    "circuit {caller} to {callee} {service}: {why}",
    "Too many circuits or files are open.",
)
DEVICE_ONLINE = Event("device-online", INFO, "device {device} answers: it is logged in")
DEVICE_OFFLINE = Event(
    "device-offline", WARNING, "device {device} does not answer", "Look at the device and its services."
)
DEVICE_CIRCUIT_BROKEN = Event("device-circuit-broken", INFO, "circuit of device {device} to {call} broke: {why}")
CIRCUIT_UP = Event("circuit-up", INFO, "circuit {caller} to {callee} {service} is up")
CIRCUIT_ENDED = Event(
    "circuit-ended",
    INFO,
    "circuit {caller} to {callee} {service} ended after {seconds} s ({why}): {bytes_up} bytes to {callee}, "
    "{bytes_down} back",
)
