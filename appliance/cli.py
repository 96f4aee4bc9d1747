"""The command line: verbs, arguments, exit codes (DESIGN §6). Imports no room before the verb is known, so that
`posthouse status` costs a fraction of what `posthouse run` does.

Exit codes: 0 done; 1 it failed, or policy refuses, one line on standard error says why; 2 wrong usage or
configuration; 3 not reachable now: no running Posthouse.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from appliance.config.model import Config
    from appliance.config.whereabouts import Whereabouts

__all__ = ["main"]

DEFAULT_CONFIG: Final = Path("/etc/posthouse/posthouse.toml")
OK, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; -> the exit code."""
    given = sys.argv[1:] if argv is None else argv
    # A terminal's own side has a parser of its own, which the appliance's verbs do not pay for.
    arguments = _terminal_arguments(given) if given[:1] == ["terminal"] else _parser(given).parse_args(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # addresses are of any script, terminals are not
    try:
        code: int = arguments.handler(arguments)
        with _output():
            sys.stdout.flush()
    except OutputFailed as failure:
        # The interpreter's last flush must not fail once more.
        os.dup2(os.pipe()[1], sys.stdout.fileno())
        if not isinstance(failure.__cause__, BrokenPipeError):  # `posthouse calls | head`: nobody listens any more
            print(f"posthouse: the output could not be written: {failure}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code


class OutputFailed(Exception):
    """Standard output takes nothing more; the cause is the OSError."""


@contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputFailed(error.strerror or error) from error


def _print(text: str, *, flush: bool = False) -> None:
    with _output():
        print(text, flush=flush)


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=f"default: {DEFAULT_CONFIG}"
    )
    printing = argparse.ArgumentParser(add_help=False)
    printing.add_argument("--json", action="store_true", help="print JSON for programs")
    parser = argparse.ArgumentParser(
        prog="posthouse",
        parents=[common],
        description="A gateway for a site whose line out is slow, metered and comes and goes.",
        epilog="Exit codes: 0 done; 1 failed or refused; 2 wrong usage or configuration; 3 no Posthouse is running.",
    )
    parser.add_argument("--version", action="version", version=f"posthouse {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")

    def verb(name: str, handler: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common, *parents]
        )
        sub.set_defaults(handler=handler)
        return sub

    def listing(name: str, text: str) -> None:
        verb(name, functools.partial(_list, name), text, printing)

    run = verb("run", _run, "be the gateway, in the foreground, until SIGTERM")
    run.add_argument("--debug", action="store_true", help="also log what the modem and the servers say")
    verb("check", _check, "check the configuration and print every error")
    demo = verb("demo", _demo, "show one call for everybody, with an emulated exchange, modem and provider", printing)
    demo.add_argument("--keep", action="store_true", help="keep the folder that it works in")
    status = verb("status", _status, "show the line, the queue and the services", printing)
    status.add_argument("--watch", action="store_true", help="go on showing what happens, until Ctrl-C")
    dial = verb("dial", _dial, "make a call now and wait for its end", printing)
    dial.add_argument("--force", action="store_true", help="even when the budget is used up")
    dial.add_argument("--no-wait", action="store_true", help="do not wait for the call's end")
    modem = verb("modem", _modem, "give a modem one AT command line while no call is up; what would cost is refused")
    modem.add_argument("--line", default="", metavar="NAME", help="whose; default: the first one's")
    modem.add_argument("command", metavar="AT…", help="e.g. ATI or AT+CSQ")
    verb("hangup", _hangup, "end the call that is up")
    queue = verb("queue", _queue, "list what waits to be sent, or deal with one message", printing)
    actions = ("show", "hold", "release", "remove", "fetch")
    text = "show the message ID, hold it back, release it again, remove it unsent; fetch the large message of a stub"
    queue.add_argument("action", nargs="?", choices=actions, help=text)
    queue.add_argument("id", nargs="?", metavar="ID", help="as `posthouse queue` lists them")
    listing("calls", "list the calls that were made")
    report = verb("report", _report, "show what calls cost, by month, day and user", printing)
    form = report.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print it for a spreadsheet")
    form.add_argument("--html", metavar="FILE", help="write it as one page with plots; - for standard output")
    text = "replay traffic against the configuration: what it would cost, and how long mail would wait"
    simulate = verb("simulate", _simulate, text, printing)
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
        verb(name, functools.partial(_say, name), text).add_argument("name", metavar="NAME", help=of)
    update = verb("update", _update, "install an update of the image, to be tried at the next start")
    update.add_argument("--allow-older", action="store_true", help="also one that is older than what runs")
    update.add_argument("file", metavar="FILE", help="a bundle (.raucb); `-` reads it from standard input")
    text = "write configuration, secrets and state into one archive, also while a Posthouse runs"
    backup = verb("backup", _backup, text)
    text = "a folder, for posthouse-backup.tar in it; a file NAME.tar; `-` for standard output"
    backup.add_argument("folder", metavar="FOLDER", help=text)
    restore = verb(
        "restore", _restore, "put back what `posthouse backup` wrote, once it is checked; no Posthouse may run"
    )
    restore.add_argument("folder", metavar="FOLDER", help="as with backup; `-` for standard input")
    reset = verb("factory-reset", _factory_reset, "forget configuration, mail and ledger, and start anew (image only)")
    reset.add_argument("--yes", action="store_true", help="without which nothing is done")
    terminal = verb("terminal", _terminal, "log this computer in to a relay server, reach others (terminal --help)")
    terminal.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="see `posthouse terminal --help`")
    config = verb("config", _config, "edit, compare and commit the configuration (config --help)")
    if "config" in given:
        from appliance.config.arguments import add_arguments

        add_arguments(config, common)
    setup = verb("setup", _setup, "make the first configuration by questions, and try it by a call")
    for name, key in (("--state", "site.state"), ("--runtime", "site.runtime")):
        setup.add_argument(name, type=Path, metavar="FOLDER", help=f"{key}, if not the default one")
    user = verb("user", _user, "add and remove users of the candidate, and give them passwords (user --help)")
    if "user" in given:
        from appliance.config.arguments import add_user_arguments

        add_user_arguments(user, common)
    verb("console", _console, "a shell to look at the site, work its line and edit its configuration")
    verb("passwd", _passwd, "make the string for `password` in the configuration")
    return parser


# ---- verbs of the stored files
def _load(arguments: argparse.Namespace) -> Config | None:
    """The configuration; None after its errors were printed."""
    from appliance.config.load import ConfigErrors, load

    try:
        return load(_config_file(arguments))
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return None


def _config_file(arguments: argparse.Namespace) -> Path:
    file: Path = getattr(arguments, "config", DEFAULT_CONFIG)
    return file


def _run(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    if config is None:
        return USAGE
    from appliance.config.unbuilt import unbuilt

    missing = unbuilt(config)
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return USAGE
    from appliance.app import run

    return run(config, _config_file(arguments), debug=arguments.debug)


def _check(arguments: argparse.Namespace) -> int:
    return USAGE if _load(arguments) is None else OK


def _demo(arguments: argparse.Namespace) -> int:
    from appliance.lab.demo import run

    return run(as_json=arguments.json, keep=arguments.keep)


def _passwd(arguments: argparse.Namespace) -> int:
    from appliance.config.passwords import hash_password

    try:
        _print(hash_password(_password()))
    except ValueError as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return FAILED
    return OK


def _password() -> str:
    """From the environment, a prompt or a line of standard input. Raises ValueError, in words for a person."""
    try:
        password = os.environ.get("POSTHOUSE_PASSWORD")
        if password is None and sys.stdin.isatty():
            from getpass import getpass

            password = getpass("Password: ")
            if getpass("Once more: ") != password:
                raise ValueError("the two are not the same")
        elif password is None:
            password = sys.stdin.readline().rstrip("\r\n")
        password.encode()
    except EOFError:
        raise ValueError("no password was given") from None
    except UnicodeError:
        raise ValueError("the password is no UTF-8") from None
    return password


def _config(arguments: argparse.Namespace) -> int:
    from appliance.config.command import main as config

    with _output():
        return config(arguments, _config_file(arguments), lambda verb, given: _ask(arguments, verb, given, quiet=True))


def _user(arguments: argparse.Namespace) -> int:
    from appliance.config.command import user

    return user(
        arguments, _config_file(arguments), lambda verb, given: _ask(arguments, verb, given, quiet=True), _password
    )


def _console(arguments: argparse.Namespace) -> int:
    from appliance.console.shell import main as console

    return console(_config_file(arguments), main)


def _backup(arguments: argparse.Namespace) -> int:
    from appliance.app.backup import backup

    ask = functools.partial(_ask, arguments, quiet=True)
    with _output():
        return backup(_config_file(arguments), arguments.folder, ask)


def _restore(arguments: argparse.Namespace) -> int:
    from appliance.app.backup import restore

    with _output():
        return restore(_config_file(arguments), arguments.folder)


def _setup(arguments: argparse.Namespace) -> int:
    from appliance.console.setup import main as setup
    from appliance.modem.probe import search, serial_ports

    return setup(
        _config_file(arguments), serial_ports, search, {"state": arguments.state, "runtime": arguments.runtime}
    )


# ---- verbs of the image
def _update(arguments: argparse.Namespace) -> int:
    older = ["--allow-older"] if arguments.allow_older else []
    return _on_the_image("update", *older, arguments.file)


def _factory_reset(arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        print(
            "posthouse: factory-reset forgets all mail and the configuration; say --yes if that is meant",
            file=sys.stderr,
        )
        return USAGE
    return _on_the_image("factory-reset")


def _on_the_image(program: str, *arguments: str) -> int:
    from appliance.host.image import NoImage, run

    try:
        return run(program, *arguments)
    except NoImage as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return FAILED


# ---- a terminal's own side
def _terminal_arguments(given: Sequence[str]) -> argparse.Namespace:
    return argparse.Namespace(handler=_terminal, rest=list(given[1:]))


def _terminal(arguments: argparse.Namespace) -> int:
    from appliance.terminal.command import main as terminal

    with _output():
        return terminal(arguments.rest)


# ---- verbs of the control socket
def _whereabouts(arguments: argparse.Namespace) -> Whereabouts | None:
    """Where the running Posthouse is to be found, whatever else the file says; None after its error was printed."""
    from appliance.config.whereabouts import ConfigErrors, whereabouts

    try:
        return whereabouts(_config_file(arguments))
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return None


def _ask(
    arguments: argparse.Namespace, verb: str, given: dict[str, Any], on_progress: Any = None, *, quiet: bool = False
) -> tuple[Any, int]:
    """A verb's result and OK, or None and the exit code after the sentence was printed. `quiet`: that no Posthouse runs
    is not worth one."""
    found = _whereabouts(arguments)
    if found is None:
        return None, USAGE
    arguments.timezone = found.timezone
    from appliance.control.client import SOCKET_NAME, NotRunning, Refused, ask

    path = found.runtime / SOCKET_NAME
    try:
        return ask(path, verb, given, on_progress=on_progress or (lambda what: None)), OK
    except NotRunning as error:
        if not quiet:
            print(f"posthouse: {error}", file=sys.stderr)
        return None, NOT_RUNNING
    except Refused as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return None, error.code


def _show(arguments: argparse.Namespace, result: Any, view: str) -> None:
    """For a program, or for a person with the site's times."""
    if arguments.json:
        _print(json.dumps(result, indent=2))
    else:
        _print(_view(arguments, result, view))


def _view(arguments: argparse.Namespace, result: Any, view: str) -> str:
    from zoneinfo import ZoneInfo

    from appliance.control import views

    text: str = getattr(views, view)(result, UTC if arguments.timezone == "UTC" else ZoneInfo(arguments.timezone))
    return text


def _status(arguments: argparse.Namespace) -> int:
    if not arguments.watch:
        result, code = _ask(arguments, "status", {})
        if code == OK:
            _show(arguments, result, "status")
        return code

    def show(what: dict[str, Any]) -> None:
        _print(json.dumps(what) if arguments.json else _view(arguments, what, "progress"), flush=True)

    try:
        return _ask(arguments, "watch", {}, show)[1]
    except KeyboardInterrupt:  # the way to end it
        return OK


def _dial(arguments: argparse.Namespace) -> int:
    given = {"force": arguments.force, "wait": not arguments.no_wait}
    result, code = _ask(arguments, "dial", given)
    if code != OK:
        return code
    if arguments.no_wait:
        return OK
    outcome = result["outcome"]
    _print(json.dumps(result, indent=2) if arguments.json else outcome)
    if outcome in ("complete", "partial"):
        return OK
    from appliance.control.views import why

    print(f"posthouse: {why(result)}", file=sys.stderr)
    return FAILED


def _modem(arguments: argparse.Namespace) -> int:
    result, code = _ask(arguments, "modem", {"command": arguments.command, "line": arguments.line})
    if code == OK:
        _print("\n".join(result))
    return code


def _hangup(arguments: argparse.Namespace) -> int:
    return _ask(arguments, "hangup", {})[1]


def _queue(arguments: argparse.Namespace) -> int:
    if arguments.action is None:
        result, code = _ask(arguments, "queue", {})
        if code == OK:
            _show(arguments, result, "queue")
        return code
    if arguments.id is None:
        print(f"posthouse: queue {arguments.action} needs an ID; `posthouse queue` lists them", file=sys.stderr)
        return USAGE
    result, code = _ask(arguments, f"queue-{arguments.action}", {"id": arguments.id})
    if code == OK and arguments.action == "show":
        _show(arguments, result, "message")
    return code


def _report(arguments: argparse.Namespace) -> int:
    result, code = _ask(arguments, "report", {})
    if code != OK:
        return code
    if arguments.json:
        _print(json.dumps(result, indent=2))
        return OK
    from appliance.control import report_page, report_view

    if arguments.csv:
        _print(report_view.as_csv(result))
    elif arguments.html is None:
        block = "\u2588" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
        _print(report_view.as_text(result, block=block))
    elif arguments.html == "-":
        _print(report_page.page(result, result["site"]).rstrip("\n"))
    else:
        from appliance.storage.disk import Disk

        try:
            Disk().replace_file(Path(arguments.html), report_page.page(result, result["site"]).encode(), mode=0o644)
        except OSError as error:
            print(f"posthouse: {arguments.html}: {error.strerror or error}", file=sys.stderr)
            return FAILED
    return OK


def _simulate(arguments: argparse.Namespace) -> int:
    if arguments.rate < 1 or not 0 <= arguments.overhead < 86400:
        print("posthouse: --rate is at least 1 bit/s, --overhead 0 to 86400 s", file=sys.stderr)
        return USAGE
    configs = []
    for file in (_config_file(arguments), *arguments.against):
        config = _load(argparse.Namespace(config=file))
        if config is None:
            return USAGE
        configs.append((file.name, config))
    from appliance.app.simulation import main as simulate

    with _output():
        return simulate(arguments, configs)


def _list(verb: str, arguments: argparse.Namespace) -> int:
    """A verb that prints what it is answered; the view has its name."""
    result, code = _ask(arguments, verb, {})
    if code == OK:
        _show(arguments, result, verb)
    return code


def _say(verb: str, arguments: argparse.Namespace) -> int:
    """A verb about NAME that is answered by a line."""
    result, code = _ask(arguments, verb, {"name": arguments.name})
    if code == OK:
        _print(result)
    return code
