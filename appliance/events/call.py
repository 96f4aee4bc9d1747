"""Events: the call: line, modem, PPP, ledger."""

from __future__ import annotations

from appliance.events.event import DEBUG, ERROR, INFO, WARNING, Event

# ---- The call
CALL_PLANNED = Event("call-planned", INFO, "next call: {at}: {reason}")
CALL_STARTED = Event("call-started", INFO, "call {id} on {line}: {reason}")
DIALLING = Event("dialling", INFO, "call {id}: dialling {number} (dial {dial})")
DIAL_FAILED = Event("dial-failed", WARNING, "call {id}: {number}: {outcome} {text}")
CONNECTED = Event("connected", INFO, "call {id}: connected to {number} at {rate} bit/s")
CARRIER_LOST = Event("carrier-lost", WARNING, "call {id}: the line dropped after {seconds} s")
CALL_ENDED = Event(
    "call-ended",
    INFO,
    "call {id}: {outcome} after {seconds} s: sent {sent}, fetched {fetched}, failed {failed}, "
    "{bytes_in} bytes in, {bytes_out} out",
)
CALL_INTERRUPTED = Event("call-interrupted", WARNING, "call {id} had no end in the ledger: closed as interrupted")
REDIAL_FORBIDDEN = Event("redial-forbidden", INFO, "{number} may not be dialled before {at}: {rule}")
LEDGER_RESERVE_USED = Event(
    "ledger-reserve-used",
    WARNING,
    "the disk is full: the ledger goes on in the room that was kept for it",
    "Remove mail, or give the data partition more room.",
)
LEDGER_BEHIND = Event(
    "ledger-behind",
    WARNING,
    "the ledger could not be written ({error}); {records} records wait in memory",
    "Check the disk; calls go on, and what waits is written as soon as the disk takes it.",
)
JOB_CRASHED = Event(
    "job-crashed",
    ERROR,
    "call {id}: {job} failed unexpectedly: {error}",
    "Its work waits for the next call; report it with the journal of that time.",
)
MODEM_FOUND_OFF_HOOK = Event("modem-off-hook", WARNING, "{line}: the modem did not answer AT; hung up with +++ and ATH")
MODEM_RUNG = Event("modem-rung", WARNING, "{line}: the modem does not answer to {tried}; now {now}")
MODEM_BACK = Event(
    "modem-back",
    WARNING,
    "{line}: the modem answers again after {seconds} s ({how})",
    "If it repeats, look for its cause: power supply, heat, firmware.",
)
MODEM_RESTARTED = Event(
    "modem-restarted",
    WARNING,
    "{line}: the modem has restarted in the call ({sign})",
    "If it repeats, look at its power supply: a module takes 2 A for moments.",
)
MODEM_ECHOES = Event(
    "modem-echoes",
    WARNING,
    "{line}: PPP gets back what it sends: the modem is off the line and echoes, or the port is looped",
    "If it repeats, the modem restarts or gives the line up in calls: look at its power supply and its aerial.",
)
MODEM_ELSEWHERE = Event(
    "modem-elsewhere",
    WARNING,
    "{line}: the modem of {port} is {now} now",
    "Configure `port` by its name under /dev/serial/by-id, so that it is found after a restart too.",
)
SIM_PROBLEM = Event(
    "sim-problem", WARNING, "{line}: {what}", "Look at the SIM card, and at the line's `pin` and `apn`."
)
PIN_REFUSED = Event(
    "pin-refused",
    WARNING,
    "{line}: {why}",
    "Put the right PIN into secrets.toml. No call goes over the line until it is another one; a third wrong one blocks "
    "the SIM.",
)
NETWORK_FOUND = Event("network-found", INFO, "{line}: registered with {network} network, signal {signal}")
NO_NETWORK = Event(
    "no-network", WARNING, "{line}: {why}", "Look at the aerial and where it stands, and at the SIM's contract."
)
MODEM_PROBLEM = Event("modem-problem", WARNING, "{line}: {what}", "Check the modem, its cable and its power.")
WOKEN = Event("woken", INFO, "{line}: a ring from {number}, not answered: a call is made")
RING_PASSED_OVER = Event(
    "ring-passed-over", INFO, "{line}: a ring from {number}, which is none of wake_numbers: nothing is done"
)
MODEM_SAID = Event("modem-said", DEBUG, "{line}: {direction} {text}")
WINDOW_PROBLEM = Event(
    "window-problem",
    WARNING,
    "{line}: the host's routes and rules for the line: {what}",
    "If it repeats, report it with the journal of that time.",
)
LINE_NOT_USABLE = Event("line-not-usable", WARNING, "{line}: {why}", "Change the line's configuration.")

# ---- PPP and interfaces
PPP_UP = Event("ppp-up", INFO, "{line}: PPP is up on {device} with {address}; name servers: {servers}")
PPP_ENDED = Event(
    "ppp-ended",
    INFO,
    "{line}: pppd ended ({code}): {text}",
    "If calls fail: 19 is a wrong ppp_login or ppp_secret; 10 and 17 are no PPP at the far end.",
)
PPP_SAID = Event("ppp-said", DEBUG, "{line}: pppd: {text}")
LINE_DOWN = Event("line-down", WARNING, "{line}: {what}", "Check the device, its cable and its own configuration.")
