"""Events: the call: line, modem, PPP, ledger."""

from __future__ import annotations

from appliance.events.event import DEBUG, ERROR, INFO, WARNING, Event

# ---- The call
CALL_PLANNED = Event(
    "call-planned",
    "272e1003516448ec928feaac141416de",
    INFO,
    "next call: {at}: {why}",
    follows="Until then the line stays on-hook, unless something more urgent comes.",
    action="`posthouse dial` calls now.",
)
CALL_REFUSED = Event(
    "call-refused",
    "6e81dbc3118646bba93ec8bbf81f7f8c",
    INFO,
    "a call by hand is refused: {why}",
    follows="No call is made.",
    action="`posthouse dial --force` passes the budget; nothing passes the redial rules or a refused PIN.",
    fold=("why",),
)
CALL_STARTED = Event(
    "call-started",
    "a1be003c78ab447e81c16f1e33bbdb61",
    INFO,
    "call {call_id} on {line}: {reason}",
    follows="The modem is got ready and dials.",
)
DIALLING = Event(
    "dialling",
    "012aa4b79222403b92edfd7a147ccd2f",
    INFO,
    "call {call_id}: dialling {number} (dial {dial})",
    follows="CONNECT, or why not, within `dial_timeout`.",
)
DIAL_FAILED = Event(
    "dial-failed",
    "89638a5d6f34412a8a3b352afbd431dc",
    WARNING,
    "call {call_id}: {number}: {outcome} {text}",
    follows="The next number, attempt or line is tried, as far as the redial rules allow; then the call has failed "
    "and `schedule.retry` says when the next one is.",
    action="Nothing for a busy number. no-dialtone: is the telephone line plugged in? Else see the outcome in "
    "docs/operating.md.",
)
CONNECTED = Event(
    "connected",
    "ba3c2fb4f7a7401d86603375e9e997da",
    INFO,
    "call {call_id}: connected to {number} at {rate} bit/s",
    follows="The call is billed from here on, or from `billed_before_connect` before.",
)
CARRIER_LOST = Event(
    "carrier-lost",
    "4b42aa62cf4b422a9f10e9678da7925e",
    WARNING,
    "call {call_id}: the line dropped after {seconds} s",
    follows="What was under way is tried again with the next call; what was not acknowledged is in doubt.",
    action="If it repeats, look at the line, or at the mobile network's signal.",
)
CALL_ENDED = Event(
    "call-ended",
    "36f3e5689b41478ea5b83f8b81355003",
    INFO,
    "call {call_id}: {outcome} after {seconds} s: sent {sent}, fetched {fetched}, failed {failed}, "
    "{bytes_in} bytes in, {bytes_out} out; cost {cost} {currency}",
    follows="The line is on-hook. The call is in the ledger (`posthouse calls`).",
    action="Nothing after complete or hung-up. The other outcomes and what to do: docs/operating.md.",
)
CALL_INTERRUPTED = Event(
    "call-interrupted",
    "0dac4ac0a55e49b595b226c32310d763",
    WARNING,
    "call {call_id} had no end in the ledger: closed as interrupted",
    follows="It is paid for up to its last mark and one unit more. What it had not finished goes with the next call.",
)
LOGIN_REFUSED = Event(
    "login-refused",
    "82fa50f364df4d85b500bdb2a72c0506",
    WARNING,
    "{line}: the provider refuses ppp_login with ppp_secret",
    follows="No automatic call is made until somebody has called by hand, or the line's configuration or secret is "
    "another: a provider locks an account that keeps trying.",
    action="Mend `ppp_login` or the secret and reload, or call with `posthouse dial`.",
    alarm=True,
)
BUDGET_GONE = Event(
    "budget-gone",
    "beba55dc0d7042f48911c32446eddd70",
    WARNING,
    "no call is made for want of money: {why}",
    follows="What waits goes when there is money again; `posthouse status` says when.",
    action="Wait, raise `[budget]`, or call with `posthouse dial --force`.",
    alarm=True,
)
NO_CALL = Event(
    "no-call",
    "bc27a24d3bad4a62abdfccb379e551ed",
    WARNING,
    "every call of the last {hours} hours has failed",
    follows="Mail waits, and goes nowhere. Calls are tried on as `schedule.retry` says.",
    action="`posthouse calls` has the outcomes, docs/operating.md what they mean; look at the line and the modem.",
    alarm=True,
)
REDIAL_FORBIDDEN = Event(
    "redial-forbidden",
    "61abeea2ed384e9b8c67f0a85f0bb52b",
    INFO,
    "{number} may not be dialled for {seconds} s: {rule}",
    follows="Another number is dialled, or the call fails and is made later.",
)
LEDGER_RESERVE_USED = Event(
    "ledger-reserve-used",
    "ced4c31b567a4167a0402a494a6def61",
    WARNING,
    "the disk is full: the ledger goes on in the room that was kept for it",
    follows="Calls and their ledger go on; new mail is refused.",
    action="Remove mail, or give the data partition more room.",
)
LEDGER_BEHIND = Event(
    "ledger-behind",
    "4ac65597b975408494a0143957d5b22f",
    WARNING,
    "the ledger could not be written ({error}); {records} records wait in memory",
    follows="Calls go on.",
    action="Check the disk; calls go on, and what waits is written as soon as the disk takes it.",
    fold=("error",),
)
JOB_CRASHED = Event(
    "job-crashed",
    "162fc1561cfd49108696d0c586e38086",
    ERROR,
    "call {call_id}: {job} failed unexpectedly: {error}",
    follows="The rest of the call goes on. Its work waits for the next call.",
    action="Report it with the journal of that time.",
)
MODEM_FOUND_OFF_HOOK = Event(
    "modem-off-hook",
    "4549ae27cb554f39b9803fb3419eb763",
    WARNING,
    "{line}: the modem did not answer AT; hung up with +++ and ATH",
    follows="It answers now.",
    action="If it repeats, have the line's DTR wired, or `&D2` in `init`.",
)
MODEM_RUNG = Event(
    "modem-rung",
    "11388185d62a441cb549d1bc47f4d593",
    WARNING,
    "{line}: the modem does not answer to {tried}; now {now}",
    follows="One thing after the other is tried, from a harmless one to the modem's power.",
)
MODEM_BACK = Event(
    "modem-back",
    "66c8b23e12ac49769dccede7de6e4e2f",
    WARNING,
    "{line}: the modem answers again after {seconds} s ({how})",
    follows="Calls are made again.",
    action="If it repeats, look for its cause: power supply, heat, firmware.",
)
MODEM_RESTARTED = Event(
    "modem-restarted",
    "1f80e5d0912241849a361b8f55b66570",
    WARNING,
    "{line}: the modem has restarted in the call ({sign})",
    follows="The call is over; its work waits for the next one.",
    action="If it repeats, look at its power supply: a module takes 2 A for moments.",
)
MODEM_ECHOES = Event(
    "modem-echoes",
    "8808205855454601a19328f50d73d757",
    WARNING,
    "{line}: PPP gets back what it sends: the modem is off the line and echoes, or the port is looped",
    follows="The call has failed.",
    action="If it repeats, the modem restarts or gives the line up in calls: look at its power supply and its aerial.",
)
MODEM_ELSEWHERE = Event(
    "modem-elsewhere",
    "a451cd87552a474ca7c8b70270b68fbb",
    WARNING,
    "{line}: the modem of {serial_port} is {found_at} now",
    follows="It is used there.",
    action="Configure `port` by its name under /dev/serial/by-id, so that it is found after a restart too.",
)
SIM_PROBLEM = Event(
    "sim-problem",
    "a061bb9ceef7444092a9afa1fe607418",
    WARNING,
    "{line}: {what}",
    follows="No call goes over the line now.",
    action="Look at the SIM card, and at the line's `pin` and `apn`.",
)
PIN_REFUSED = Event(
    "pin-refused",
    "6f61d44a6293431b87797299aa323b4f",
    WARNING,
    "{line}: {why}",
    follows="The line is used no more, also not by `posthouse dial`, until secrets.toml has another PIN.",
    action="Put the right PIN into secrets.toml; a third wrong one blocks the SIM, which then wants its PUK, in a "
    "telephone.",
    alarm=True,
)
NETWORK_FOUND = Event(
    "network-found",
    "53951ea7499c4f3dbd64ea5e26ee8a8d",
    INFO,
    "{line}: registered with {network} network, signal {signal}",
    follows="The line can be dialled.",
)
NO_NETWORK = Event(
    "no-network",
    "bf3a24361e0e4eb39b861ea15d7305ad",
    WARNING,
    "{line}: {why}",
    follows="The call has failed; it is tried again as `schedule.retry` says.",
    action="Look at the aerial and where it stands, and at the SIM's contract.",
)
MODEM_PROBLEM = Event(
    "modem-problem",
    "33bbb2fa323140a1b3d332ce3ad7aff6",
    WARNING,
    "{line}: {what}",
    follows="This attempt has failed; the next one begins by asking the modem anew.",
    action="Check the modem, its cable and its power.",
    fold=(
        "line",
        "what",
    ),
)
WOKEN = Event(
    "woken",
    "27e9598fdfb14c198703b265fe2f0a83",
    INFO,
    "{line}: a ring from {number}, not answered: a call is made",
    follows="The call is made once it has rung out.",
)
RING_PASSED_OVER = Event(
    "ring-passed-over",
    "d2947f4efa5c43b78094c9910d7dd91b",
    INFO,
    "{line}: a ring from {number}, which is none of wake_numbers: nothing is done",
    follows="Nothing.",
    action="If that number is to wake: put it into `wake_numbers`.",
)
MODEM_SAID = Event(
    "modem-said",
    "",
    DEBUG,
    "{line}: {direction} {text}",
)
WINDOW_PROBLEM = Event(
    "window-problem",
    "e7af6bdffaf84222935b7eb1807623f6",
    WARNING,
    "{line}: the host's routes and rules for the line: {what}",
    follows="Where they can't be set no call is made; nothing gets onto the line that should not.",
    action="If it repeats, report it with the journal of that time.",
    fold=(
        "line",
        "what",
    ),
)
LINE_NOT_USABLE = Event(
    "line-not-usable",
    "78fa254aa0c244ddbbea399140fdaf00",
    WARNING,
    "{line}: {why}",
    follows="The next line is used; where there is none, no call is made.",
    action="Change the line's configuration.",
)

# ---- PPP and interfaces
PPP_UP = Event(
    "ppp-up",
    "da789183537b4991a23baae0f1a5bb5a",
    INFO,
    "{line}: PPP is up on {device} with {address}; name servers: {servers}",
    follows="The jobs of the call begin.",
)
PPP_ENDED = Event(
    "ppp-ended",
    "b6534cda890b453d9009da301ae91054",
    INFO,
    "{line}: pppd ended ({code}): {text}",
    follows="The call ends.",
    action="If calls fail: 19 is a wrong ppp_login or ppp_secret; 10 and 17 are no PPP at the far end.",
)
PPP_SAID = Event(
    "ppp-said",
    "",
    DEBUG,
    "{line}: pppd: {text}",
)
LINE_DOWN = Event(
    "line-down",
    "dd1aa3d859e84b3d9df77ac9bd4dc297",
    WARNING,
    "{line}: {what}",
    follows="The call fails, or is over.",
    action="Check the device, its cable and its own configuration.",
)
