"""The command line of `posthouse terminal`: verbs, options and how their values are written (DESIGN §6)."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.protocol.names import is_name, no_name
from appliance.terminal.dial import Endpoint

__all__ = ["Enrolment", "parser"]

FINGERPRINT: Final = re.compile(r"sha256:[0-9a-f]{64}")
DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ENROLMENT: Final = "posthouse1:"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What `posthouse enrol NAME` prints: `posthouse1:HOST:PORT,NAME,FINGERPRINT,PASSWORD` (RELAY §2)."""

    relay: Endpoint
    name: str
    fingerprint: str
    password: str


def _enrolment(text: str) -> Enrolment:
    parts = text.strip().removeprefix(ENROLMENT).split(",", 3)
    if not text.strip().startswith(ENROLMENT) or len(parts) != 4:
        raise argparse.ArgumentTypeError("that is no enrolment string; `posthouse enrol NAME` prints one")
    return Enrolment(_relay(parts[0]), _name(parts[1]), _fingerprint(parts[2]), parts[3])


def _relay(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _name(text: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(no_name(text))
    return text


def _fingerprint(text: str) -> str:
    if not FINGERPRINT.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(
            "a fingerprint is sha256: and 64 digits in hex, as `posthouse status` prints it"
        )
    return text.lower()


def _offer(text: str) -> tuple[str, Endpoint]:
    service, equals, where = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no SERVICE=HOST:PORT, such as ssh=127.0.0.1:22")
    return _name(service), _relay(where)


def _duration(text: str) -> float:
    form = DURATION.fullmatch(text)
    if not form:
        raise argparse.ArgumentTypeError(f'{text!r} is no duration such as "90s", "10m", "2h" or "5d"')
    return float(int(form[1]) * SECONDS[form[2]])


def _port(text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535 or (colon and not host):
        raise argparse.ArgumentTypeError(f"{text!r} is no PORT and no ADDRESS:PORT")
    return Endpoint(host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port))


def parser() -> argparse.ArgumentParser:
    """`verb` in the result says which."""
    common = argparse.ArgumentParser(add_help=False)
    text = "where this terminal's key, counter and pins lie; default: the user's state folder"
    common.add_argument("--state", type=Path, metavar="DIR", help=text)
    out = argparse.ArgumentParser(
        prog="posthouse terminal",
        description="A terminal's own side: log in to a relay server, and reach other terminals' services through it.",
        epilog="Exit codes: 0 done; 1 it failed, or somebody refuses; 2 wrong usage; 3 not reachable now.",
    )
    verbs = out.add_subparsers(required=True, metavar="VERB", title="verbs", dest="verb")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])

    login = verb("login", "log in, stay logged in and offer services, until Ctrl-C")
    login.add_argument("--relay", type=_relay, metavar="HOST:PORT", help="the relay server; default: the last one")
    login.add_argument("--name", type=_name, metavar="NAME", help="this terminal's name; default: the last one")
    login.add_argument("--fingerprint", type=_fingerprint, metavar="F", help="the relay server's, sha256:…")
    login.add_argument("--password-file", type=Path, metavar="FILE", help="the password to enrol with, once")
    text = "what `posthouse enrol NAME` printed, instead of the four above"
    login.add_argument("--enrol", type=_enrolment, metavar="STRING", help=text)
    text = "a service that others may call, such as ssh=127.0.0.1:22; may be given again"
    login.add_argument("--offer", type=_offer, action="append", default=[], metavar="SERVICE=HOST:PORT", help=text)
    login.add_argument("--ask", action="store_true", help="ask here at each call before it is accepted")

    listing = verb("list", "list the terminals that this one may call")
    listing.add_argument("--watch", action="store_true", help="go on showing what changes, until Ctrl-C")
    listing.add_argument("--json", action="store_true", help="print JSON for programs")

    connect = verb("connect", "connect standard input and output with a terminal's service")
    forward = verb("forward", "let a port of this computer lead to a terminal's service, until Ctrl-C")
    forward.add_argument("at", type=_port, metavar="[ADDRESS:]PORT", help="where to listen; default: on 127.0.0.1")
    for sub in (connect, forward):
        sub.add_argument("name", type=_name, metavar="NAME", help="the terminal")
        sub.add_argument("service", type=_name, metavar="SERVICE", help="its service")
        text = "where it can't be reached now, wait so long for it, such as 1h"
        sub.add_argument("--wait", type=_duration, default=0.0, metavar="TIME", help=text)

    forget = verb("forget", "forget a terminal's certificate, so that its next one is taken")
    forget.add_argument("name", type=_name, metavar="NAME", help="the terminal")
    return out
