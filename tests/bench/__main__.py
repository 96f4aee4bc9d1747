"""`scripts/bench WHAT`: measures and prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest does: tests name each other from there

from tests.bench import call, image, line, mail, network, relay, week

BENCHES = {
    "call": (call.bench, "what a call costs beyond its line, with bearer none and by PPP between virtual machines"),
    "image": (image.bench, "the image in QEMU: size, start, memory and writes when idle (a quarter of an hour)"),
    "line": (
        line.bench,
        "mail over a slow line, against its limit and against Postfix, msmtp, fetchmail, mpop and mbsync",
    ),
    "mail": (mail.bench, "taking mail in, against Postfix's smtpd"),
    "relay": (
        relay.bench,
        "circuits, logins and the table, against HAProxy, nginx, socat and Syncthing's relay server",
    ),
    "network": (network.bench, "putting right what was changed by hand"),
    "week": (
        lambda rounds: week.bench(),
        "a simulated week of an office: calls and cost against a call for each message",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Speed and memory, side by side in one run.")
    parser.add_argument("what", choices=BENCHES, help="; ".join(f"{k}: {h}" for k, (_, h) in BENCHES.items()))
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured (default 3)")
    parser.add_argument("--part", choices=(*relay.PARTS, *line.PARTS), help="of relay or line: this alone")
    arguments = parser.parse_args()
    if arguments.what in ("relay", "line"):
        {"relay": relay.bench, "line": line.bench}[arguments.what](arguments.rounds, arguments.part)
    else:
        BENCHES[arguments.what][0](arguments.rounds)


if __name__ == "__main__":
    main()
