"""The command line: verbs and exit codes (DESIGN §6). Imports no room before the verb is known, so that
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

from appliance.arguments import DEFAULT_CONFIG, parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from appliance.config.model import Config
    from appliance.config.whereabouts import Whereabouts

__all__ = ["main"]

SUPPORT_LINES: Final = 500
"""Of the journal in a bundle for support."""
OK, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; -> the exit code."""
    given = sys.argv[1:] if argv is None else argv
    # A terminal's own side has a parser of its own, which the appliance's verbs do not pay for.
    arguments = _terminal_arguments(given) if given[:1] == ["terminal"] else parser(given).parse_args(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # addresses are of any script, terminals are not
    try:
        code: int = _VERBS[arguments.verb](arguments)
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
    from appliance.app import run

    return run(config, _config_file(arguments), debug=arguments.debug)


def _check(arguments: argparse.Namespace) -> int:
    if not arguments.json:
        return USAGE if _load(arguments) is None else OK
    from appliance.config.load import faults_in

    faults = faults_in(_config_file(arguments))
    _print(json.dumps(faults, indent=2))
    return USAGE if faults else OK


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
        return config(
            arguments, _config_file(arguments), lambda verb, given: _ask(arguments, verb, given, quiet=True), _password
        )


def _user(arguments: argparse.Namespace) -> int:
    from appliance.config.command import user

    return user(
        arguments, _config_file(arguments), lambda verb, given: _ask(arguments, verb, given, quiet=True), _password
    )


def _console(arguments: argparse.Namespace) -> int:
    from appliance.console.shell import main as console

    return console(_config_file(arguments), main, unlocked=arguments.unlocked)


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


def _reboot(arguments: argparse.Namespace) -> int:
    from appliance.host.image import NoImage
    from appliance.host.reading import reboot

    try:
        return reboot()
    except NoImage as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return FAILED


def _journal(arguments: argparse.Namespace) -> int:
    from appliance.host.reading import NoJournal, journal

    try:
        _print(journal(arguments.lines, explain=arguments.explain))
    except NoJournal as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return FAILED
    return OK


def _support(arguments: argparse.Namespace) -> int:
    from appliance.console.support import NoBundle, bundle
    from appliance.host.reading import NoJournal, journal

    def entries() -> str:
        try:
            return journal(SUPPORT_LINES)
        except NoJournal as error:
            return str(error)

    try:
        text = bundle(_config_file(arguments), lambda verb: _ask(arguments, verb, {}, quiet=True)[0], entries)
    except NoBundle as error:
        print(f"posthouse: {error}", file=sys.stderr)
        return FAILED
    if arguments.file == "-":
        _print(text.removesuffix("\n"))
        return OK
    return _write(arguments.file, text, mode=0o600)


def _write(name: str, text: str, *, mode: int) -> int:
    """A file that a person wants; -> the exit code."""
    from appliance.storage.disk import Disk

    try:
        Disk().replace_file(Path(name).absolute(), text.encode(errors="replace"), mode=mode)
    except OSError as error:
        print(f"posthouse: {name}: {error.strerror or error}", file=sys.stderr)
        return FAILED
    return OK


# ---- a terminal's own side
def _terminal_arguments(given: Sequence[str]) -> argparse.Namespace:
    return argparse.Namespace(verb="terminal", rest=list(given[1:]))


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
    is not worth one, and what it may have done before it ended without an answer is FAILED, so that nobody does it once
    more."""
    found = _whereabouts(arguments)
    if found is None:
        return None, USAGE
    arguments.timezone = found.timezone
    from appliance.control.client import SOCKET_NAME, NotRunning, Refused, Unanswered, ask

    path = found.runtime / SOCKET_NAME
    try:
        return ask(path, verb, given, on_progress=on_progress or (lambda what: None)), OK
    except NotRunning as error:
        if quiet and isinstance(error, Unanswered):
            print(f"posthouse: {error}: look whether it was done", file=sys.stderr)
            return None, FAILED
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

    try:
        return _ask(arguments, "watch", {}, functools.partial(_show_step, arguments))[1]
    except KeyboardInterrupt:  # the way to end it
        return OK


def _show_step(arguments: argparse.Namespace, what: dict[str, Any]) -> None:
    _print(json.dumps(what) if arguments.json else _view(arguments, what, "progress"), flush=True)


def _dial(arguments: argparse.Namespace) -> int:
    given = {"force": arguments.force, "wait": not arguments.no_wait}
    if arguments.watch:
        given["watch"] = True
    result, code = _ask(arguments, "dial", given, functools.partial(_show_step, arguments))
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
        return _write(arguments.html, report_page.page(result, result["site"]), mode=0o644)
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
        _print(json.dumps(result) if arguments.json else result)
    return code


_LISTINGS: Final = ("calls", "terminals", "peers", "lines", "interfaces", "users")
_VERBS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "run": _run,
    "check": _check,
    "demo": _demo,
    "status": _status,
    "dial": _dial,
    "modem": _modem,
    "hangup": _hangup,
    "queue": _queue,
    "report": _report,
    "simulate": _simulate,
    "update": _update,
    "backup": _backup,
    "restore": _restore,
    "factory-reset": _factory_reset,
    "reboot": _reboot,
    "journal": _journal,
    "support": _support,
    "terminal": _terminal,
    "config": _config,
    "setup": _setup,
    "user": _user,
    "console": _console,
    "passwd": _passwd,
    **{verb: functools.partial(_list, verb) for verb in _LISTINGS},
    **{verb: functools.partial(_say, verb) for verb in ("why", "enrol")},
}
