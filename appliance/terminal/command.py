"""`posthouse terminal`: runs one verb to its exit code (DESIGN §6). Progress and errors go to standard error, a line
each; standard output is for the data of `connect` and the rows of `list`."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.events import clean
from appliance.storage.disk import Disk
from appliance.terminal import sentences
from appliance.terminal.arguments import parser
from appliance.terminal.client import Client, NoConnection, connecting
from appliance.terminal.dial import Endpoint
from appliance.terminal.holder import Holder
from appliance.terminal.local import Gone, NoHolder, Refused, ask
from appliance.terminal.login import LoginOver
from appliance.terminal.person import NoPerson, Person, password_from
from appliance.terminal.sentences import FAILED, OK, UNREACHABLE, USAGE
from appliance.terminal.session import Credentials
from appliance.terminal.state import State, StateError, default_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["main"]

STEP_ASIDE_S: Final = 10.0
LINE_LIMIT: Final = 1000


def main(argv: Sequence[str]) -> int:
    """-> the exit code."""
    arguments = parser().parse_args(argv)
    state = State(arguments.state or default_folder(), Disk())
    try:
        if arguments.verb == "forget":
            return _forget(arguments, state)
        state.prepare()
        code: int = trio.run(_run, arguments, state)
    except (OSError, StateError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        _say(str(error))
        return FAILED
    return code


def _say(text: str) -> None:
    """One line on standard error; to be able to go on matters more than to be heard."""
    try:
        print(f"posthouse: {clean(text, LINE_LIMIT)}", file=sys.stderr, flush=True)
    except OSError:
        pass


async def _run(arguments: argparse.Namespace, state: State) -> int:
    if arguments.verb == "login":
        return await _login(arguments, state)
    verbs = {"list": _list, "connect": _connect, "forward": _forward}
    return await _with_client(arguments, state, verbs[arguments.verb])


def _forget(arguments: argparse.Namespace, state: State) -> int:
    if state.forget_terminal(arguments.name):
        return OK
    _say(f"nothing is known of {arguments.name}")
    return FAILED


# ---- login
async def _login(arguments: argparse.Namespace, state: State) -> int:
    person = Person()
    if arguments.ask and not person.there:
        _say("--ask needs a terminal to ask on")
        return USAGE
    try:
        who = _credentials(arguments, state, person)
        lock = await _become_holder(state)
    except LoginOver as over:
        _say(str(over))
        return over.code
    try:
        asking = _asker(person) if arguments.ask else None
        return await _hold(Holder(state, who, _say, offers=dict(arguments.offer), ask=asking))
    finally:
        state.unlock(lock)


async def _hold(holder: Holder) -> int:
    over: LoginOver | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_on_signal, holder.stop)
        try:
            await holder.hold()
        except LoginOver as why:
            over = why
        nursery.cancel_scope.cancel()
    if over is None:
        return OK
    _say(str(over))
    return over.code


def _credentials(arguments: argparse.Namespace, state: State, person: Person) -> Credentials:
    """Raises LoginOver where something that is needed was not given."""
    enrol = arguments.enrol
    beside = [o for o in ("relay", "name", "fingerprint", "password_file") if getattr(arguments, o) is not None]
    if enrol and beside:
        raise LoginOver(f"--enrol says what --{beside[0].replace('_', '-')} would: give one of the two", USAGE)
    last = state.last_login()
    relay = enrol.relay if enrol else arguments.relay or (last and Endpoint.parse(last.relay))
    name = enrol.name if enrol else arguments.name or (last and last.name)
    if not relay or not name:
        raise LoginOver("which relay server, and as whom? Give --relay and --name, or --enrol", USAGE)

    async def password() -> str:
        if enrol:
            return str(enrol.password)
        try:
            given = await password_from(arguments.password_file, name, person)
        except NoPerson:
            raise LoginOver(
                f"{relay} wants the password that enrols {name}: give --password-file, or POSTHOUSE_PASSWORD", USAGE
            ) from None
        except OSError as error:
            raise LoginOver(f"the password: {arguments.password_file}: {error.strerror or error}", USAGE) from None
        except ValueError as error:
            raise LoginOver(f"the password: {error}", USAGE) from None
        return given

    async def confirm(fingerprint: str) -> None:
        question = (
            f"The relay server at {relay} shows the certificate\n  {fingerprint}\n"
            "Is it what `posthouse status` there prints as its fingerprint?"
        )
        try:
            if not await person.yes(question):
                raise LoginOver("not confirmed: nothing was sent")
        except NoPerson:
            raise LoginOver(
                f"{relay} was never met before: give its fingerprint with --fingerprint; it shows {fingerprint}", USAGE
            ) from None

    pin = enrol.fingerprint if enrol else arguments.fingerprint or state.relay_pin(str(relay))
    services = tuple(dict(arguments.offer))
    return Credentials(relay, name, services, pin, confirm, password)


def _asker(person: Person) -> Callable[[str], Awaitable[bool]]:
    async def yes(question: str) -> bool:
        try:
            return await person.yes(question)
        except NoPerson:
            return False

    return yes


async def _become_holder(state: State) -> int:
    """The lock on the state folder; a command that holds it for its own duration steps aside. Raises LoginOver."""
    deadline = trio.current_time() + STEP_ASIDE_S
    while (lock := state.lock()) is None:
        try:
            await ask(state.socket, "step-aside", {}, lambda what: None)
        except Refused as refused:
            raise LoginOver(str(refused)) from None
        except (NoHolder, Gone):
            pass  # it is just coming or just going
        if trio.current_time() > deadline:
            raise LoginOver(f"another process has locked {state.folder}, but does not answer")
        await trio.sleep(0.05)
    return lock


async def _on_signal(stop: Callable[[], Awaitable[None]]) -> None:
    """Ends what runs in order at the first SIGTERM, SIGINT or SIGHUP."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            await stop()


# ---- the others
async def _with_client(
    arguments: argparse.Namespace, state: State, verb: Callable[[argparse.Namespace, Client], Awaitable[int]]
) -> int:
    """The verb with a client, ended in order by a signal: exit code 0 for those that run until then, else 128 and
    more."""
    code = FAILED
    scope = trio.CancelScope()
    caught = 0

    async def wait_signal() -> None:
        nonlocal caught
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                caught = number
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_signal)
        async with connecting(state, lambda: _last_credentials(state), _say) as client:
            with scope:
                try:
                    code = await verb(arguments, client)
                except NoConnection as why:
                    _say(str(why))
                    code = why.code
                except BrokenPipeError:
                    code = _no_output()
                except (OSError, StateError) as error:
                    _say(str(error))
        nursery.cancel_scope.cancel()
    if caught:
        return OK if arguments.verb == "forward" or getattr(arguments, "watch", False) else 128 + caught
    return code


def _no_output() -> int:
    """Whoever read our standard output has gone. The interpreter's last flush must not fail once more."""
    reading, writing = os.pipe()
    os.dup2(writing, sys.stdout.fileno())
    os.close(reading)
    return FAILED


def _last_credentials(state: State) -> Credentials:
    last = state.last_login()
    if last is None:
        raise NoConnection("no login yet: begin with `posthouse terminal login`", USAGE)

    async def password() -> str:
        raise LoginOver(f"{last.relay} does not know this terminal's certificate any more: `posthouse terminal login`")

    async def confirm(fingerprint: str) -> None:
        raise LoginOver(f"the certificate of {last.relay} was never confirmed: `posthouse terminal login`", USAGE)

    relay = Endpoint.parse(last.relay)
    return Credentials(relay, last.name, (), state.relay_pin(last.relay), confirm, password)


async def _connect(arguments: argparse.Namespace, client: Client) -> int:
    from appliance.terminal.standard import StandardStreams
    from appliance.transport import circuit

    to, service = arguments.name, arguments.service
    opened = await client.open(to, service, arguments.wait)
    try:
        await circuit.carry(opened.socket, opened.sealed, StandardStreams(), circuit.Carried())
    except circuit.CircuitBroken as error:
        _say(f"{to} {service}: broken off: {error}")
        return FAILED
    except circuit.LocalBroken as error:
        _say(f"{to} {service}: standard input or output broke: {error}")
        return FAILED
    return OK


async def _forward(arguments: argparse.Namespace, client: Client) -> int:
    from appliance.terminal.forward import forward, listener_at

    listener = await listener_at(arguments.at)
    host, port = listener.socket.getsockname()[:2]
    _say(f"{Endpoint(host, port)} leads to {arguments.service} at {arguments.name}")
    await forward(client, listener, arguments.name, arguments.service, arguments.wait, _say)
    return UNREACHABLE


# ---- list
TIMES: Final = ("age", "back_in")
HEADINGS: Final = ("NAME", "PRESENCE", "RELAY", "SINCE", "SERVICES")


async def _list(arguments: argparse.Namespace, client: Client) -> int:
    known: dict[str, dict[str, Any]] = {}
    shown, trouble = False, ""

    def take(what: dict[str, Any]) -> None:
        nonlocal shown, trouble
        trouble = ""
        for entry in what.get("entries", ()):
            before = known.get(entry["name"])
            known[entry["name"]] = entry
            # After a new login everything comes once more; what is as it was is no news.
            if shown and (before is None or any(entry[k] != before[k] for k in entry if k not in TIMES)):
                _print_change(entry, as_json=arguments.json)
        if what.get("last") and not shown:
            shown = True
            _print_table(list(known.values()), as_json=arguments.json)

    while True:
        try:
            await client.ask("list", {"watch": arguments.watch}, take)
            return OK
        except NoConnection as why:
            if not (arguments.watch and shown and why.code == UNREACHABLE):
                raise
            if str(why) != trouble:
                trouble = str(why)
                _say(trouble)
            await trio.sleep(1)


def _print_table(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    rows.sort(key=lambda e: str(e.get("name")))
    if as_json:
        print(json.dumps(rows, indent=2), flush=True)
        return
    lines = [HEADINGS, *map(sentences.row, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()


def _print_change(entry: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(entry) if as_json else "  ".join(c for c in sentences.row(entry) if c), flush=True)
