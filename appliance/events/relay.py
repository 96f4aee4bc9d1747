"""Events: the relay server."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

TERMINAL_IN = Event(
    "terminal-in",
    "5ed2713b826f4bd48d897f93d2b2c573",
    INFO,
    "terminal {terminal} logged in from {client}",
    follows="It can be called; other relay servers are told.",
)
TERMINAL_OUT = Event(
    "terminal-out",
    "f70852fbb87849b7868dd8981e4e6ee6",
    INFO,
    "terminal {terminal} is out: {why}",
    follows="It can't be called until it is back.",
)
TERMINAL_ENROLLED = Event(
    "terminal-enrolled",
    "0106467add3b44a79d70aa56b01b7c29",
    INFO,
    "terminal {terminal} at {client} enrolled its certificate",
    follows="From now on nobody else logs in under that name.",
)
TERMINAL_REFUSED = Event(
    "terminal-refused",
    "3b41ca60d09f43e1845f756513a6e8af",
    WARNING,
    "terminal {terminal} at {client} was refused: {what}",
    follows="It is not logged in. Attempts of one client within a minute are one entry, with the last name.",
    action="A terminal with a new certificate needs `posthouse enrol NAME`; else somebody guesses.",
    fold=("client",),
)
RELAY_RECORD_TORN = Event(
    "relay-record-torn",
    "3734fd971e0743bbb5dd1f4b1ac4f08f",
    WARNING,
    "{file}: the last {bytes} bytes are torn and left out",
    follows="The record before it holds.",
    action="Half-written at a power cut and never acknowledged.",
)
SLICE_THROWN_AWAY = Event(
    "slice-thrown-away",
    "ccb86e1663aa42849711268bef0a37dc",
    WARNING,
    "{file} is damaged ({why}) and thrown away",
    follows="What it said of another relay server's terminals is asked for again, over the whole line.",
    action="If it recurs check the disk.",
)
SLICE_TOO_LARGE = Event(
    "slice-too-large",
    "66cad1163ea54f4788bd51cb1da9885f",
    WARNING,
    "there is no room on the disk for what the relay server {owner} tells of its terminals",
    follows="They are known while this process lives, and asked for again after a restart.",
    action="Look whether that relay server has so many terminals.",
)
PEER_UP = Event(
    "peer-up",
    "bda1a905e3f24839bffbcd0933b3ed08",
    INFO,
    "the link to the relay server {peer} ({client}) is up",
    follows="The login tables are being exchanged; terminals behind it can be called.",
)
PEER_DOWN = Event(
    "peer-down",
    "f4074fc4256049d98c378dc0e1addecc",
    INFO,
    "the link to the relay server {peer} has ended: {why}",
    follows="Terminals behind it are suspended or lost until it is back.",
)
PEER_FAILED = Event(
    "peer-failed",
    "890146438e09499e97fa077e6354b0e7",
    WARNING,
    "no link to the relay server {peer} at {address}: {why}",
    follows="It is tried again, less and less often.",
    action="Check the peer's `address`, `fingerprint` and `secret`, on both sides.",
    fold=(
        "peer",
        "why",
    ),
)
NAME_TAKEN = Event(
    "name-taken",
    "918e09140c9040a9a830745be9333e3b",
    ERROR,
    "behind {peer} there is another relay server called {site}",
    follows="The link to that peer is refused.",
    action="Every relay server needs a `site.name` of its own: give one of them another.",
    fold=("peer",),
)
NAME_CONFLICT = Event(
    "name-conflict",
    "190491646811481c8953f18126d41721",
    WARNING,
    "the relay server {owner} has a terminal {terminal}, which is ours; it is not believed",
    follows="Calls of that name go to ours.",
    action="Give one of them another name, or set `roams = true` for the account if it is the same terminal.",
)
CIRCUIT_FAILED = Event(
    "circuit-failed",
    "b504bee5648e406dac152c6b3408a2fc",
    WARNING,
    "circuit {caller} to {callee} {service}: {why}",
    follows="The caller was told; it can call again.",
    action="Too many circuits or files are open.",
    fold=("why",),
)
DEVICE_ONLINE = Event(
    "device-online",
    "6828887be7bb4a08b3e7890042cc1ccf",
    INFO,
    "device {terminal} answers: it is logged in",
    follows="It can be called.",
)
DEVICE_OFFLINE = Event(
    "device-offline",
    "73889dfcacb14e6b9908c03db239daa0",
    WARNING,
    "device {terminal} does not answer",
    follows="It can't be called until it answers again.",
    action="Look at the device and its services.",
)
DEVICE_CIRCUIT_BROKEN = Event(
    "device-circuit-broken",
    "2e245bef5d5c4fa3b151436f0664b032",
    INFO,
    "circuit of device {terminal} to {caller} {service} broke: {why}",
    follows="The caller can call again.",
)
CIRCUIT_UP = Event(
    "circuit-up",
    "ae15f379f6e54f25929e1083da86644a",
    INFO,
    "circuit {caller} to {callee} {service} is up",
    follows="Their bytes are relayed.",
)
CIRCUIT_ENDED = Event(
    "circuit-ended",
    "c853b9a82f574d489840dfeb3d0fe923",
    INFO,
    "circuit {caller} to {callee} {service} ended after {seconds} s ({why}): {bytes_up} bytes to {callee}, "
    "{bytes_down} back",
    follows="Nothing is left of it.",
)
