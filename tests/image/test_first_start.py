"""The first start as the person with the serial cable has it: an image without a configuration, the questions on ttyS0, a
Posthouse that systemd runs, and from then on the administrator's password before the console.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from .board import BOOT_S, CONSOLE, ENTER, PASSWORD_ASKED, PLAIN, PROMPT, Board

pytestmark = [pytest.mark.long, pytest.mark.seconds(2400)]

PASSWORD = "Blau-Kessel-42"
SAY_S = 240.0
"""From an answer to the next question: a password's hash takes an emulated board seconds."""
ANSWERS = (
    ("Administrator's password: ", PASSWORD), ("Once more: ", PASSWORD), ("Name of the site: ", "harbour"),
    ("Mail domain of the site: ", "harbour.example"), ("Time zone [UTC]: ", ""), ("Network device of the LAN [eth0]: ", ""),
    ("[192.168.77.1/24]: ", ""), ("[192.168.77.100-192.168.77.199]: ", ""), ("[192.168.77.1:25 192.168.77.1:587]: ", ""),
    ("[192.168.77.1:110]: ", ""), ("Serial port of the modem: ", "/dev/ttyUSB0"), ("Take this port all the same? (yes, no) [no]: ", "yes"),
    ("Kind of modem [hayes]: ", ""), ("Number to dial: ", "0570000111"), ("(ppp, none) [ppp]: ", ""), ("PPP login: ", "-"),
    ("[07:30 18:00]: ", "-"), ("server for outgoing mail: ", "-"), ("first user: ", "hanako"), ("of that user: ", PASSWORD),
    ("Once more: ", PASSWORD), ("[hanako@harbour.example]: ", ""), ("(pop3, imap) [pop3]: ", "-"),
    ("Write this? (yes, no) [yes]: ", ""), ("Make a trial call now? It costs what a call costs. (yes, no) [yes]: ", "no"),
)  # fmt: skip


def test_the_questions_and_then_the_password(start: Callable[..., Board]) -> None:
    board = start()
    board.wait(ENTER, seconds=BOOT_S)
    board.type("\r")
    for prompt, answer in ANSWERS:
        board.wait(re.escape(prompt), seconds=SAY_S)
        board.type(answer + "\n")
    board.wait(CONSOLE, seconds=SAY_S)  # who has just made the password is not asked for it
    board.start_shell()
    assert board.sh("systemctl is-active posthouse").strip() == "active"
    assert "harbour" in board.sh("posthouse status")
    assert board.sh("stat -c '%U %a' /etc/posthouse/posthouse.toml /etc/posthouse/secrets.toml").split("\n")[:2] == [
        "posthouse 640", "posthouse 600",
    ]  # fmt: skip
    board.until("ss -ltn | grep -q 192.168.77.1:25", "SMTP listens on the LAN")
    assert "root on ttyS0  first start" in board.sh("posthouse config revisions")

    board.run_no_wait("exit")
    board.wait(CONSOLE, seconds=SAY_S)
    begin = len(board.said)
    board.type("exit\r")
    assert board.open_console(seconds=SAY_S) == PASSWORD_ASKED
    board.type("wrong\n")
    board.wait(PASSWORD_ASKED, seconds=SAY_S)
    assert not re.search(PLAIN, board.said[begin:]) and PROMPT not in board.said[begin:]
    board.type(PASSWORD + "\n")
    board.wait(CONSOLE, seconds=SAY_S)
