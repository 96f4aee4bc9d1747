"""The arguments of the command line (DESIGN §6), apart from what the verbs do. Every verb pays for this module: it
imports nothing of the house but where a verb's own arguments are many, and then for that verb alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEFAULT_CONFIG", "parser"]

DEFAULT_CONFIG: Final = Path("/etc/posthouse/posthouse.toml")


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of `posthouse`: `verb` of what it makes of `given` is the verb's name."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=f"default: {DEFAULT_CONFIG}"
    )
    printing = argparse.ArgumentParser(add_help=False)
    _add_json(printing)
    top = argparse.ArgumentParser(
        prog="posthouse",
        parents=[common],
        description="A gateway for a site whose line out is slow, metered and comes and goes.",
        epilog="Exit codes: 0 done; 1 failed or refused; 2 wrong usage or configuration; 3 no Posthouse is running.",
    )
    top.add_argument("--version", action="version", version=f"posthouse {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB", title="verbs")

    def verb(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common, *parents]
        )
        sub.set_defaults(verb=name)
        return sub

    def listing(name: str, text: str) -> None:
        verb(name, text, printing)

    run = verb("run", "be the gateway, in the foreground, until SIGTERM")
    run.add_argument("--debug", action="store_true", help="also log what the modem and the servers say")
    verb("check", "check the configuration and print every error", printing)
    demo = verb("demo", "show one call for everybody, with an emulated exchange, modem and provider", printing)
    demo.add_argument("--keep", action="store_true", help="keep the folder that it works in")
    status = verb("status", "show the line, the queue and the services", printing)
    status.add_argument("--watch", action="store_true", help="go on showing what happens, until Ctrl-C")
    dial = verb("dial", "make a call now and wait for its end", printing)
    dial.add_argument("--force", action="store_true", help="even when the budget is used up")
    waiting = dial.add_mutually_exclusive_group()
    waiting.add_argument("--watch", action="store_true", help="show each step as it comes")
    waiting.add_argument("--no-wait", action="store_true", help="do not wait for the call's end")
    modem = verb("modem", "give a modem one AT command line while no call is up; what would cost is refused")
    modem.add_argument("--line", default="", metavar="NAME", help="whose; default: the first one's")
    modem.add_argument("command", metavar="AT…", help="e.g. ATI or AT+CSQ")
    verb("hangup", "end the call that is up")
    queue = verb("queue", "list what waits to be sent, or deal with one message", printing)
    actions = ("show", "hold", "release", "remove", "fetch")
    text = "show the message ID, hold it back, release it again, remove it unsent; fetch the large message of a stub"
    queue.add_argument("action", nargs="?", choices=actions, help=text)
    queue.add_argument("id", nargs="?", metavar="ID", help="as `posthouse queue` lists them")
    listing("calls", "list the calls that were made")
    report = verb("report", "show what calls cost, by month, day and user")
    form = report.add_mutually_exclusive_group()
    _add_json(form)
    form.add_argument("--csv", action="store_true", help="print it for a spreadsheet")
    form.add_argument("--html", metavar="FILE", help="write it as one page with plots; - for standard output")
    text = "replay traffic against the configuration: what it would cost, and how long mail would wait"
    simulate = verb("simulate", text, printing)
    simulate.add_argument(
        "--traffic", type=Path, required=True, metavar="T.csv", help="columns: time, direction, user, size, priority"
    )
    simulate.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another configuration to compare with",
    )
    simulate.add_argument("--rate", type=int, default=9600, metavar="BITS", help="of the line in bit/s; default: 9600")
    text = "of a call, in seconds, for PPP, names and logins; default: 20"
    simulate.add_argument("--overhead", type=float, default=20.0, metavar="S", help=text)
    listing("terminals", "list the terminals that are known and how they are reached")
    listing("peers", "list the links to other relay servers")
    listing("lines", "list the lines to call over, and how each stands")
    listing("interfaces", "list the interfaces of the host's own network, as configured and as they are")
    listing("users", "list the users, what waits in their mailboxes, and where they fetch from")
    for name, text, of in (
        ("why", "say what would happen to a call of a terminal now, and why", "a terminal's name"),
        ("enrol", "forget a terminal's certificate and print what it logs in anew with", "that of a [[relay.account]]"),
    ):
        verb(name, text, printing).add_argument("name", type=_terminal, metavar="NAME", help=of)
    update = verb("update", "install an update of the image, to be tried at the next start")
    update.add_argument("--allow-older", action="store_true", help="also one that is older than what runs")
    update.add_argument("file", metavar="FILE", help="a bundle (.raucb); `-` reads it from standard input")
    text = "write configuration, secrets and state into one archive, also while a Posthouse runs"
    backup = verb("backup", text)
    text = "a folder, for posthouse-backup.tar in it; a file NAME.tar; `-` for standard output"
    backup.add_argument("folder", metavar="FOLDER", help=text)
    restore = verb("restore", "put back what `posthouse backup` wrote, once it is checked; no Posthouse may run")
    restore.add_argument("folder", metavar="FOLDER", help="as with backup; `-` for standard input")
    reset = verb("factory-reset", "forget configuration, mail and ledger, and start anew (image only)")
    reset.add_argument("--yes", action="store_true", help="without which nothing is done")
    verb("reboot", "restart the board; a call that is up is hung up first (image only)")
    journal = verb("journal", "show the last entries of Posthouse's in the journal")
    journal.add_argument("--lines", type=int, default=100, metavar="N", help="how many; default: 100")
    journal.add_argument("--explain", action="store_true", help="each with what it means and what to do")
    support = verb("support", "write one text for somebody who helps: state, journal, configuration, without a secret")
    support.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard output")
    terminal = verb("terminal", "log this computer in to a relay server, reach others (terminal --help)")
    terminal.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="see `posthouse terminal --help`")
    config = verb("config", "edit, compare and commit the configuration (config --help)")
    if "config" in given:
        from appliance.config.arguments import add_arguments

        add_arguments(config, common)
    setup = verb("setup", "make the first configuration by questions, and try it by a call")
    for name, key in (("--state", "site.state"), ("--runtime", "site.runtime")):
        setup.add_argument(name, type=Path, metavar="FOLDER", help=f"{key}, if not the default one")
    user = verb("user", "add and remove users of the candidate, and give them passwords (user --help)")
    if "user" in given:
        from appliance.config.arguments import add_user_arguments

        add_user_arguments(user, common)
    console = verb("console", "a shell to look at the site, work its line and edit its configuration")
    console.add_argument(
        "--unlocked", action="store_true", help="ask for the password only when nobody has typed for console.idle"
    )
    verb("passwd", "make the string for `password` in the configuration")
    return top


def _terminal(text: str) -> str:
    from appliance.protocol.names import is_name, no_name

    if not is_name(text):
        raise argparse.ArgumentTypeError(no_name(text))
    return text


def _add_json(to: argparse._ActionsContainer) -> None:
    to.add_argument("--json", action="store_true", help="print JSON for programs")
