"""The arguments of `posthouse config …`, apart from what it does: every verb's command line pays for this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "add_user_arguments"]

CONFIRM: Final = "10m"


def add_arguments(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The verbs below `config`."""
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="action", title="verbs")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])

    show = verb("show", "print the candidate, or one place in it")
    show.add_argument("path", nargs="?", default="", metavar="PATH", help="e.g. mail, user[0] or user[hanako].quota")
    show.add_argument("--json", action="store_true", help="print JSON for programs")
    place = verb("set", "set one place of the candidate")
    place.add_argument("path", metavar="PATH", help="e.g. schedule.every or line[0].numbers[1]")
    place.add_argument("value", metavar="VALUE", help="as in the file; words need no quotes: 2h, true, '[\"07:30\"]'")
    add = verb("add", "add an entry with a name to the candidate: a user, a line, a relay.account")
    add.add_argument("path", metavar="PATH", help="e.g. user or relay.account")
    add.add_argument("name", metavar="NAME")
    add.add_argument("values", nargs="*", metavar="KEY=VALUE", help="e.g. quota=1GiB or 'callers=[\"pc*\"]'")
    text = "keep a secret's value, from a prompt, a line of standard input or POSTHOUSE_PASSWORD; in force at once"
    secret = verb("secret", text)
    secret.add_argument("--delete", action="store_true", help="forget it, where the configuration does not name it")
    secret.add_argument("name", metavar="NAME", help="as ppp_secret, secret and pin have it, e.g. isp")
    delete = verb("delete", "remove one place of the candidate: a key, an element, a table")
    delete.add_argument("path", metavar="PATH")
    verb("load", "make the text on standard input the candidate")
    compare = verb("compare", "print what the candidate changes, as a unified diff")
    compare.add_argument("number", nargs="?", type=int, default=0, metavar="N", help="against what was N commits ago")
    compare.add_argument("--json", action="store_true", help="print each place that changes, for programs")
    commit = verb("commit", "check the candidate and put it in force")
    commit.add_argument(
        "--confirm", nargs="?", const=CONFIRM, metavar="TIME",
        help=f"take it back by itself unless `config confirm` comes in time ({CONFIRM} if left out)",
    )  # fmt: skip
    commit.add_argument("--comment", default="", metavar="TEXT", help="why, for those who look at the revisions")
    verb("confirm", "let the last commit stand")
    back = verb("rollback", "drop the candidate, or make it what was in force N commits ago")
    back.add_argument("number", nargs="?", type=int, default=0, metavar="N")
    status = verb("status", "say who edits, and how long a commit still waits for its confirmation")
    status.add_argument("--json", action="store_true", help="print JSON for programs")
    revisions = verb("revisions", "list what was in force, the newest first")
    revisions.add_argument("--json", action="store_true", help="print JSON for programs")


def add_user_arguments(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The verbs below `user`."""
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="action", title="verbs")
    for name, text in (
        ("add", "add a user to the candidate, with a password"),
        ("passwd", "give a user of the candidate another password"),
        ("remove", "remove a user from the candidate; the mailbox stays where it is"),
    ):
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])
        sub.add_argument("name", metavar="NAME")
        if name == "add":
            sub.add_argument("addresses", nargs="*", metavar="ADDRESS", help="the first is that of what he sends")
