"""Events: the spool, the mailboxes, the LAN's mail programs, mail over the call."""

from __future__ import annotations

from appliance.events.event import ERROR, INFO, WARNING, Event

# ---- The spool and the mailboxes
ACCEPTED = Event(
    "accepted",
    "39b3b30cd704418eb1daab5f5ad8f9c6",
    INFO,
    "{mail_id}: accepted from {client} (user {user}), {size} bytes, from <{sender}> to {recipients}",
    follows="Local recipients have it in their mailboxes. For the others it waits for the next call.",
)
PUT_ASIDE = Event(
    "put-aside",
    "7497423352f24cc68b322197a1b4eea6",
    WARNING,
    "{file} is damaged ({why}); moved to {moved_to}",
    follows="It is neither sent nor shown to anybody. Everything else goes on.",
    action="Half-written at a power cut and never acknowledged, or the disk is failing: look at the file.",
)
NOT_UNDERSTOOD = Event(
    "not-understood",
    "2e163eff3954445e954a88c14d8bf4bc",
    WARNING,
    "{file} holds what this version does not know ({what}): it stays there as it is",
    follows="A newer Posthouse wrote it, and takes it up again. Until then it is neither sent nor used.",
    action="Update again, or see in that file what it is.",
)
STORAGE_FAILED = Event(
    "storage-failed",
    "d10f4c9488554682981c4c4c6c7328ff",
    ERROR,
    "the disk failed: {error}",
    follows="What was just to be written was refused, and its sender told to try again later.",
    action="Check the disk; accepted mail is kept as long as it can be read.",
    fold=("error",),
)
DISK_FULL = Event(
    "disk-full",
    "6efac8e0504346e1990f3b3d358c5adc",
    WARNING,
    "the disk is full: {what} refused",
    follows="Who sends is told to try again later. Sending and calls go on.",
    action="Remove mail, or give the data partition more room.",
    fold=(),
)
DISK_FILLING = Event(
    "disk-filling",
    "22d1a926039442cb8aa4e08221154705",
    WARNING,
    "the disk is filling: {bytes} bytes are free for new mail",
    follows="Nothing yet. When it is full new mail is refused; calls and sending go on.",
    action="Remove mail, have users do so, or give the data partition more room.",
    alarm=True,
)
REDONE = Event(
    "redone",
    "4ac17fa509a8471e94587fd506d768e6",
    INFO,
    "Posthouse did not end cleanly: {operations} operations were done again",
    follows="Nothing that was acknowledged is lost.",
)
NO_REDO_LOG = Event(
    "no-redo-log",
    "b51684eb49d847e19fbff1ca23da5e3e",
    WARNING,
    "the disk has no room for the redo log ({bytes} bytes): every message costs a flush of the file system",
    follows="Nothing is less safe; it is slower, and wears the card more.",
    action="Remove mail, or give the data partition more room, and restart.",
)
HELD = Event(
    "held",
    "195d8781eaff41d0b3a81207533ee8cb",
    INFO,
    "{mail_id}: held by hand",
    follows="It is not sent.",
    action="`posthouse queue release ID` puts it back.",
)
RELEASED = Event(
    "released",
    "f15a428b31ad4faab89fe4d4fad0192c",
    INFO,
    "{mail_id}: released by hand",
    follows="It goes with the next call.",
)
REMOVED = Event(
    "removed",
    "0af4d7853b5645cfa15a64fcd1b6e7b2",
    WARNING,
    "{mail_id}: removed by hand, from <{sender}>, {recipients} not sent",
    follows="It is gone; its sender is not told.",
)
BOUNCED = Event(
    "bounced",
    "8ac6cc1ae22845eca9767529883c5b3b",
    WARNING,
    "{mail_id}: {recipients} failed ({reply}); bounce to <{to}>",
    follows="These recipients do not get it. The sender has a report in his mailbox.",
    action="The sender corrects the address. If the reply speaks of policy or of the sender: look at "
    "`[[mail.smarthost]]`.",
)
REPORTED = Event(
    "reported",
    "964541bbc1bc4c09bed14e1f1b06694b",
    INFO,
    "{mail_id}: <{to}> is told that it is {action} for {recipients}",
    follows="The report is in his mailbox.",
)
BOUNCE_DROPPED = Event(
    "bounce-dropped",
    "03ddb286dff74b948d14d654a00f5453",
    WARNING,
    "{mail_id}: {recipients} failed ({reply}); no bounce: {why}",
    follows="These recipients do not get it, and nobody is told.",
)

# ---- The LAN
LOGIN_FAILED = Event(
    "login-failed",
    "f93e55a85cd84a829a10c379dc42318c",
    WARNING,
    "{service}: {client} gave a wrong name or password for {user}",
    follows="The session was refused. Attempts of one client within a minute are one entry, with the last name.",
    action="Correct the password in the mail program. From an address that you do not know: somebody guesses.",
    fold=(
        "service",
        "client",
    ),
)
SESSION_REFUSED = Event(
    "session-refused",
    "6123575327cb4bf7994329f735dabeda",
    WARNING,
    "{service}: {client} refused: {why}",
    follows="The client was told to try again later.",
    action="Many connections of one client: look at that machine; `mail.client_limit` and `mail.session_limit` are "
    "the limits.",
    fold=(
        "service",
        "client",
    ),
)
SESSION_ENDED = Event(
    "session-ended",
    "0079f6bd19d44e41a58f3d5e3355fd59",
    INFO,
    "{service}: {client} ended: {why}",
    follows="What the client had been answered 250 for is kept; it sends the rest again.",
    fold=(
        "service",
        "client",
        "why",
    ),
)
SMUGGLING = Event(
    "bare-line-end",
    "86000f5b508a4c7e8163f30a277fbb0b",
    WARNING,
    "{client} sent a bare CR or LF in a message; refused",
    follows="The message was refused; nothing of it is kept.",
    action="The mail program is broken, or an attack.",
    fold=("client",),
)
CERTIFICATE_MADE = Event(
    "certificate-made",
    "d9bccf4452c6437fbf3f0bb639fd9321",
    INFO,
    "made a self-signed certificate for {names} in {file}",
    follows="Programs ask once whether they are to trust it.",
    action="For a certificate that they know, set `mail.certificate` and `mail.key`.",
)

# ---- Mail over the call
JOB_FAILED = Event(
    "job-failed",
    "4c39aae63524487080f62e20b81382d7",
    WARNING,
    "call {call_id}: {job}: {why}",
    follows="The rest of the call goes on; this work waits for the next one.",
    action="If it repeats, check the account or the smarthost: host, port, tls, ca, login, secret.",
)
SENT = Event(
    "sent",
    "ce60c5a57c7347b9a27b29ff2fc15b41",
    INFO,
    "{mail_id}: sent to {recipients} by {host}: {reply}",
    follows="These recipients are done with.",
)
DEFERRED = Event(
    "deferred",
    "57f45f29682742f79ea42ce4e48c5974",
    WARNING,
    "{mail_id}: {recipients} deferred by {host}: {reply}",
    follows="It is tried again with a later call, until `mail.give_up_after`.",
)
IN_DOUBT = Event(
    "in-doubt",
    "e5236564ebc648db8c113a6fe0b98796",
    WARNING,
    "{mail_id}: sent but not acknowledged when the line dropped; it will be sent again",
    follows="The next call sends it again with the same Message-ID: it may arrive twice, it does not get lost.",
)
FETCHED = Event(
    "fetched",
    "118ef05a299148c0a3c6399ad1e4f034",
    INFO,
    "{account}: {uid} fetched for {user}, {size} bytes",
    follows="It is in the mailbox, and deleted upstream unless the account has `keep = true`.",
)
STUBBED = Event(
    "stubbed",
    "81540e37924e4b47a2b2ec58fcd841ff",
    INFO,
    "{account}: {uid} stays upstream, {size} bytes: {user} has its stub, {token}",
    follows="The user has its header, and how to ask for the rest.",
)
STUB_ASKED = Event(
    "stub-asked",
    "4d4b33181c054514a17c94f9b3dc6815",
    INFO,
    "{user} asked for {uid}, which stays upstream: {what} with the next call",
    follows="The call takes it along; it is no reason for one.",
)
STUB_ASK_IGNORED = Event(
    "stub-ask-ignored",
    "5d38eeb1191e4e78949e3a51a003520d",
    INFO,
    "an automatic mail of {user} would {what} a large message: ignored",
    follows="The message stays upstream.",
)
DELETED_UPSTREAM = Event(
    "deleted-upstream",
    "819630b3e6cb41f48c560f687d71b173",
    INFO,
    "{account}: {uid} deleted unread, as {user} asked",
    follows="It is gone there too.",
)
NO_CHUNKING = Event(
    "no-chunking",
    "4fce01f123584c9a99b8dafbe13a1bdb",
    INFO,
    "{host}:{port} offers CHUNKING and does it wrongly ({why}): DATA from now on",
    follows="What is not sent yet goes to that server by DATA.",
)
FOUND_SENT = Event(
    "found-sent",
    "3f273c698b534581a72f3f8039888739",
    INFO,
    "{mail_id}: was in doubt, and lies in the sent folder at {host}: it is not sent again",
    follows="The message is done with, without a duplicate.",
)
SENT_FOLDER_FAILED = Event(
    "sent-folder-failed",
    "8fe0e9ef388c4a9fb50077a3388d56d4",
    WARNING,
    "call {call_id}: {folder} of {login} at {host} can't be looked at ({why}): what is in doubt is sent again",
    follows="A message may arrive twice.",
    action="Check the account's sent_folder.",
)
ACCOUNT_REFUSED = Event(
    "account-refused",
    "7a840419f4ca4935a6b06ed96f703f47",
    WARNING,
    "call {call_id}: {host} refuses the login {login}: {why}",
    follows="Nothing goes over this account until that is mended; each call asks again.",
    action="Check the account's `login` and its secret.",
    alarm=True,
)
ALERT_NOT_SENT = Event(
    "alert-not-sent",
    "c62b9338913447efa26cd6419b3db962",
    WARNING,
    "an alert to <{to}> could not be sent: {why}",
    follows="It is only here in the journal.",
    action="Check `alerts.to`, and that a `[[mail.smarthost]]` carries the postmaster's address.",
)
SMARTHOST_FAILED = Event(
    "smarthost-failed",
    "b0e7e58a27534de4a04fc1129194ef36",
    WARNING,
    "call {call_id}: {host}:{port} is of no use in this call: {why}",
    follows="The next smarthost that fits is tried; what none takes waits for the next call.",
    action="Check the smarthost's host, port, tls, ca, login and secret.",
)
QUOTA_FULL = Event(
    "quota-full",
    "ef9b168eea7e45dcb2cec21753880979",
    WARNING,
    "{account}: the mailbox of {user} is full; left upstream: {messages}",
    follows="Nothing is lost: they are fetched once there is room. Mail sent to the user here is refused meanwhile.",
    action="The user removes mail, or raise his `quota`.",
)
