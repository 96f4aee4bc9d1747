"""Events: the spool, the mailboxes, the LAN's mail programs, mail over the call."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

# ---- The spool and the mailboxes
ACCEPTED = Event(
    "accepted", INFO, "{id}: accepted from {client} ({user}), {size} bytes, from <{sender}> to {recipients}"
)
LOCAL = Event("delivered-locally", INFO, "{id}: delivered to {user}")
PUT_ASIDE = Event(
    "put-aside",
    WARNING,
    "{file} is damaged ({why}); moved to {to}",
    "Half-written at a power cut and never acknowledged, or the disk is failing: look at the file.",
)
STORAGE_FAILED = Event(
    "storage-failed",
    ERROR,
    "the disk failed: {error}",
    "Check the disk; accepted mail is kept as long as it can be read.",
)
DISK_FULL = Event(
    "disk-full", WARNING, "the disk is full: {what} refused", "Remove mail, or give the data partition more room."
)
REDONE = Event("redone", INFO, "Posthouse did not end cleanly: {operations} operations were done again")
NO_REDO_LOG = Event(
    "no-redo-log",
    WARNING,
    "the disk has no room for the redo log ({bytes} bytes): every message costs a flush of the file system",
    "Remove mail, or give the data partition more room, and restart.",
)
HELD = Event("held", INFO, "{id}: held by hand")
RELEASED = Event("released", INFO, "{id}: released by hand")
REMOVED = Event("removed", WARNING, "{id}: removed by hand, from <{sender}>, {recipients} not sent")
BOUNCED = Event("bounced", WARNING, "{id}: {recipients} failed ({reply}); bounce to <{to}>")
REPORTED = Event("reported", INFO, "{id}: <{to}> is told that it is {action} for {recipients}")
BOUNCE_DROPPED = Event("bounce-dropped", WARNING, "{id}: {recipients} failed ({reply}); no bounce: {why}")

# ---- The LAN
LOGIN_FAILED = Event("login-failed", WARNING, "{service}: {client} gave a wrong name or password for {user}")
SESSION_REFUSED = Event("session-refused", WARNING, "{service}: {client} refused: {why}")
SESSION_ENDED = Event("session-ended", INFO, "{service}: {client} ended: {why}")
SMUGGLING = Event(
    "bare-line-end",
    WARNING,
    "{client} sent a bare CR or LF in a message; refused",
    "The mail program is broken, or an attack.",
)
CERTIFICATE_MADE = Event("certificate-made", INFO, "made a self-signed certificate for {names} in {file}")

# ---- Mail over the call
JOB_FAILED = Event("job-failed", WARNING, "call {id}: {job}: {why}")
SENT = Event("sent", INFO, "{id}: sent to {recipients} by {host}: {reply}")
DEFERRED = Event("deferred", WARNING, "{id}: {recipients} deferred by {host}: {reply}")
IN_DOUBT = Event("in-doubt", WARNING, "{id}: sent but not acknowledged when the line dropped; it will be sent again")
FETCHED = Event("fetched", INFO, "{account}: {uid} fetched for {user}, {size} bytes")
STUBBED = Event("stubbed", INFO, "{account}: {uid} stays upstream, {size} bytes: {user} has its stub, {token}")
STUB_ASKED = Event("stub-asked", INFO, "{user} asked for {uid}, which stays upstream: {what} with the next call")
STUB_ASK_IGNORED = Event("stub-ask-ignored", INFO, "an automatic mail of {user} would {what} a large message: ignored")
DELETED_UPSTREAM = Event("deleted-upstream", INFO, "{account}: {uid} deleted unread, as {user} asked")
NO_CHUNKING = Event("no-chunking", INFO, "{host}:{port} offers CHUNKING and does it wrongly ({why}): DATA from now on")
FOUND_SENT = Event(
    "found-sent", INFO, "{id}: was in doubt, and lies in the sent folder at {host}: it is not sent again"
)
SENT_FOLDER_FAILED = Event(
    "sent-folder-failed",
    WARNING,
    "call {call}: {folder} of {login} at {host} can't be looked at ({why}): what is in doubt is sent again",
    "Check the account's sent_folder.",
)
SMARTHOST_FAILED = Event(
    "smarthost-failed",
    WARNING,
    "call {call}: {host}:{port} is of no use in this call: {why}",
    "Check the smarthost's host, port, tls, ca, login and secret.",
)
QUOTA_FULL = Event(
    "quota-full", WARNING, "{account}: the mailbox of {user} is full; {messages} messages stay upstream", "Remove mail."
)
