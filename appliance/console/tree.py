"""What may be typed: one table of verbs, and what their arguments are. Help, completion and the parser (`parse`) all go
by it.

A row's pattern is words as they are typed, arguments in capitals, and optional parts in brackets. `runs` is the command
line of `posthouse` that the row stands for, with the arguments in their places and, in brackets, what is left out when
its argument was not given. One that begins with `@` is the shell's own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.protocol import names

__all__ = ["ARGUMENTS", "ROWS", "Argument", "Row"]


class Row(NamedTuple):
    """`live`: what it prints is shown as it comes, not a page at a time. `ask`: what has to be typed out before it
    is done."""

    pattern: str
    runs: str
    help: str
    live: bool = False
    ask: str = ""


class Argument(NamedTuple):
    """`of`: where its completions come from (`parse.Candidates`). `default`: taken where it is left out. `rest`: all to
    the end of the line. `form`: a regular expression of the whole, where not every text will do."""

    help: str
    of: str = ""
    default: str = ""
    rest: bool = False
    form: str = ""


ARGUMENTS: Final = {
    "PATH": Argument("a place of the configuration, such as mail, user[0] or user[hanako].quota", of="path"),
    "VALUE": Argument('as in the file; words need no quotes: 2h, true, ["07:30", "18:00"]', of="value", rest=True),
    "AT": Argument("such as ATI or AT+CSQ; what would call or send is refused", rest=True),
    "LINES": Argument("how many entries", default="100", form=r"\d{1,6}"),
    "FOLDER": Argument("a folder, or a file NAME.tar"),
    "N": Argument("so many commits ago; 0 is what is stored", default="0", form=r"\d{1,4}"),
    "TIME": Argument("a duration, such as 90s, 10m or 2h", default="10m", form=r"\d{1,9}[smhd]"),
    "TEXT": Argument("why, for those who look at the revisions", rest=True),
    "FILE": Argument("a file's name"),
    "ID": Argument("of a message, as `show queue` lists them", of="message"),
    "USER": Argument("a user's name", of="user"),
    "NEW": Argument("the name of a new one"),
    "SECRET": Argument("a secret's name, as ppp_secret, secret and pin have it"),
    "ADDRESS": Argument("a mail address, the first of the user's"),
    "NAME": Argument(f"a terminal's name, {names.HOW}", of="terminal", form=names.FORM),
    "LOGIN": Argument(f"the name of a terminal that logs in here, {names.HOW}", of="account", form=names.FORM),
    "ACCOUNT": Argument("a terminal's name, as its relay.account has it", of="account"),
    "VERB": Argument("a word that can be typed here", rest=True),
}  # fmt: skip

ROWS: Final = (
    Row("show status", "status", "the line, the queue and the services"),
    Row("show line", "lines", "the lines to call over, and how each stands"),
    Row("show interfaces", "interfaces", "the interfaces of the host's own network"),
    Row("show users", "users", "the users and what waits in their mailboxes"),
    Row("show queue [ID]", "queue [show -- ID]", "what waits to be sent, or one message"),
    Row("show calls", "calls", "the calls that were made"),
    Row("show terminals", "terminals", "the terminals that are known and how they are reached"),
    Row("show peers", "peers", "the links to other relay servers"),
    Row("show config [PATH]", "config show [-- PATH]", "the configuration as it is edited, or one place of it"),
    Row("show config status", "config status", "who edits, and how long a commit still waits to be confirmed"),
    Row("show journal [LINES]", "journal --lines=LINES", "the last entries of the journal"),
    Row("show journal explain [LINES]", "journal --explain --lines=LINES", "each with what it means and what to do"),
    Row("show version", "--version", "the version of Posthouse"),
    Row("watch", "status --watch", "go on showing what happens, until Ctrl-C", live=True),
    Row("dial", "dial --watch", "make a call now and wait for its end", live=True),
    Row("dial force", "dial --force --watch", "make a call even when the budget is used up", live=True),
    Row("hangup", "hangup", "end the call that is up"),
    Row("modem AT", "modem -- AT", "give the modem an AT command line while no call is up", live=True),
    Row("queue", "queue", "what waits to be sent"),
    Row("queue show ID", "queue show -- ID", "one message, with each recipient's state"),
    Row("queue hold ID", "queue hold -- ID", "hold a message back"),
    Row("queue release ID", "queue release -- ID", "let a message go again"),
    Row("queue remove ID", "queue remove -- ID", "remove a message unsent"),
    Row("queue fetch ID", "queue fetch -- ID", "fetch the large message of a stub at the next call"),
    Row("why NAME", "why -- NAME", "what would happen to a call of a terminal now, and why"),
    Row("report", "report", "what calls cost, by month, day and user"),
    Row("set PATH VALUE", "config set -- PATH VALUE", "set one place of the candidate, the configuration to be"),
    Row("delete PATH", "config delete -- PATH", "remove one place of the candidate: a key, an element, a table"),
    Row("edit [PATH]", "@edit [PATH]", "from now on paths begin at PATH; without one, at the top"),
    Row("compare [N]", "config compare N", "what the candidate changes, against what is stored or was N commits ago"),
    Row("commit [comment TEXT]", "config commit [--comment=TEXT]", "check the candidate and put it in force"),
    Row("commit confirm [TIME] [comment TEXT]", "config commit --confirm=TIME [--comment=TEXT]",
        "the same, and take it back by itself unless `confirm` comes in time"),
    Row("confirm", "config confirm", "let the last commit stand"),
    Row("rollback [N]", "config rollback N", "drop the candidate, or make it what was in force N commits ago"),
    Row("revisions", "config revisions", "what was in force, the newest first"),
    Row("user add NEW ADDRESS", "user add -- NEW ADDRESS", "add a user to the candidate; asks for a password"),
    Row("user passwd USER", "user passwd -- USER", "give a user of the candidate another password"),
    Row("user remove USER", "user remove -- USER", "remove a user from the candidate; the mailbox stays where it is"),
    Row("terminal add NEW", "config add -- relay.account NEW", "let a terminal log in here: add it to the candidate"),
    Row("terminal enrol LOGIN", "enrol -- LOGIN", "forget a terminal's certificate; what it logs in anew with"),
    Row("terminal remove ACCOUNT", "config delete -- relay.account[ACCOUNT]", "remove a terminal from the candidate"),
    Row("secret set SECRET", "config secret -- SECRET", "keep a secret's value, which is asked for; in force at once"),
    Row("secret delete SECRET", "config secret --delete -- SECRET", "forget a secret that nothing names any more"),
    Row("save FILE", "@save FILE", "write the candidate to a file"),
    Row("load FILE", "@load FILE", "make what is in a file the candidate"),
    Row("support [FILE]", "support [-- FILE]", "one text for somebody who helps, without a secret in it"),
    Row("backup FOLDER", "backup -- FOLDER", "write the whole site into one archive"),
    Row("restore FOLDER", "restore -- FOLDER", "put a site back from its archive; no Posthouse may run", ask="restore"),
    Row("update FILE", "update -- FILE", "install an update of the image, tried at the next start", live=True),
    Row("reboot", "reboot", "restart the board; a call that is up is hung up first", live=True, ask="reboot"),
    Row("factory-reset", "factory-reset --yes", "forget configuration, mail and ledger, and start anew", live=True,
        ask="factory-reset"),
    Row("start shell", "@shell", "a shell of this host's, for what no verb does; `exit` comes back"),
    Row("help [VERB]", "@help [VERB]", "what can be typed"),
    Row("exit", "@exit", "leave the console; what is not committed stays as it is"),
    Row("quit", "@exit", "the same as exit"),
)  # fmt: skip
