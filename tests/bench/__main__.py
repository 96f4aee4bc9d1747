"""`scripts/bench WHAT`: measures and prints."""

from __future__ import annotations

import argparse

from tests.bench import mail


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Speed and memory, side by side in one run.")
    parser.add_argument("what", choices=("mail",), help="mail: taking mail in, against Postfix's smtpd")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured (default 3)")
    arguments = parser.parse_args()
    {"mail": mail.bench}[arguments.what](arguments.rounds)


if __name__ == "__main__":
    main()
