"""`posthouse setup` as a person types at it on a dumb terminal, with the laboratory's modem and provider: from no
configuration to the first mail moved, with wrong answers and changes of mind; and what is left of one that was broken off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from appliance.lab.laboratory import NUMBER, LabThread
from fakes.ports import free_port

from .product import ROOT, quick_lab
from .providers import wait_until

PATIENCE_S = 60.0
ADMINISTRATOR, USER, PROVIDER = "Blau-Kessel-42", "Lampe-am-Steg", "Sehr-geheim-7"
MAIL = b"Message-ID: <1@far.example>\r\nFrom: a@far.example\r\nSubject: first\r\nDate: Mon, 05 Jan 2026 11:00:00 +0000\r\n\r\nhello\r\n"
WRONG = "Sehr-geheim-8"


class Person:
    """At `posthouse setup` on a pseudo-terminal. `root`: where the configuration and its folders are to be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "posthouse.toml"
        folders = [arg for name in ("state", "runtime") for arg in (f"--{name}", str(root / name))]
        self.child: pexpect.spawn[str] = pexpect.spawn(
            sys.executable, ["-m", "appliance", "setup", "--config", str(self.file), *folders], cwd=str(ROOT),
            encoding="utf-8", env={**os.environ, "TERM": "dumb", "LANG": "C.UTF-8"}, timeout=PATIENCE_S, use_poll=True
        )  # fmt: skip
        self.child.delaybeforesend = None
        self.child.logfile_read = sys.stdout  # what a failing test shows

    def answer(self, prompt: str, text: str) -> None:
        self.child.expect_exact(prompt)
        self.child.expect(r": $")
        self.child.sendline(text)

    def wait(self, text: str) -> str:
        """-> what was shown before it."""
        self.child.expect_exact(text)
        return self.child.before or ""

    def end(self) -> int | None:
        """Waits for it; -> the exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus

    def answers_to_the_line(self, lab: LabThread) -> None:
        self.answer("Administrator's password", ADMINISTRATOR)
        self.answer("Once more", ADMINISTRATOR)
        self.answer("Name of the site", "harbour")
        self.answer("Mail domain", "harbour.example")
        self.answer("Time zone", "")
        self.answer("Network device", "-")
        self.answer("programs submit", f"127.0.0.1:{free_port()}")
        self.answer("programs read", f"127.0.0.1:{free_port()}")
        self.answer("Serial port", lab.lab.modem.port)
        self.wait(f"{lab.lab.modem.port}: Laboratory modem")
        self.answer("Kind of modem [hayes]", "")
        self.answer("Number to dial", NUMBER)
        self.answer("On the line", "none")

    def answers_to_the_end(self, lab: LabThread, password: str) -> None:
        gates = lab.lab.line.gates
        self.answer("Times of calls", "")
        self.answer("outgoing mail", "127.0.0.1")
        self.answer("Port there", str(gates["smtp"].port))
        self.answer("Encryption there", "none")
        self.answer("Login there", "h")
        self.answer("Password there", PROVIDER)
        self.answer("first user", "hanako")
        self.answer("Password of that user", USER)
        self.answer("Once more", USER)
        self.answer("Mail addresses", "")
        self.answer("(pop3, imap)", "")
        self.answer("Server there", "127.0.0.1")
        self.answer("Port there", str(gates["pop3"].port))
        self.answer("Encryption there", "none")
        self.answer("Login there [hanako]", "h")
        self.answer("Password there", password)
        self.answer("waits there already", "all")


@pytest.fixture
def lab() -> Iterator[LabThread]:
    with quick_lab() as one:
        one.do(one.lab.provider.add_login, "h", PROVIDER)
        one.do(one.lab.provider.deliver, "h", MAIL)
        yield one


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    one = Person(tmp_path)
    try:
        yield one
    finally:
        one.child.close(force=True)


def test_from_nothing_to_the_first_mail(person: Person, lab: LabThread) -> None:
    """A password is wrong; the trial call says so, and the second one, after a change, moves mail both ways."""
    person.wait("Nothing is written")
    person.answers_to_the_line(lab)
    person.answer("Times of calls", "<")
    person.answer("On the line", "?")
    person.wait("with any provider")
    person.answer("On the line", "slip")
    person.wait("That will not do")
    person.answer("On the line", "")
    person.child.expect_exact("Times of calls")
    person.child.sendintr()
    person.answer("Leave?", "no")
    # Once more from the beginning, with what was answered.
    person.answer("Administrator's password [as before]", "")
    for prompt in ("Name of the site [harbour]", "Mail domain", "Time zone", "Network device"):
        person.answer(prompt, "")
    for prompt in ("programs submit", "programs read", "Serial port", "Kind of modem", "Number to dial"):
        person.answer(prompt, "")
    person.answer("On the line (ppp, none) [none]", "")
    person.answers_to_the_end(lab, WRONG)
    assert not person.file.exists()
    shown = person.wait("Write this?")
    assert 'password = "(set)"' in shown and f'numbers = ["{NUMBER}"]' in shown and WRONG not in shown
    person.child.sendline("yes")
    person.wait("Starting Posthouse")
    person.answer("Make a trial call now?", "")
    person.answer("to which address", "-")
    said = " ".join(person.wait("And now").split())
    assert "CONNECT 33600" in said and "a mail server did not do what it was asked" in said
    assert "What to try: Check that server's name, port, encryption, login and password." in said
    person.child.sendline("change")
    person.answer("Administrator's password [as before]", "")
    for prompt in (
        "Name of the site",
        "Mail domain",
        "Time zone",
        "Network device",
        "programs submit",
        "programs read",
    ):
        person.answer(prompt, "")
    for prompt in ("Serial port", "Kind of modem", "Number to dial", "On the line", "Times of calls", "outgoing mail",
                   "Port there", "Encryption there", "Login there", "Password there [as before]", "first user",
                   "that user [as before]", "Mail addresses", "(pop3, imap)", "Server there", "Port there",
                   "Encryption there", "Login there"):  # fmt: skip
        person.answer(prompt, "")
    person.answer("Password there [as before]", PROVIDER)
    for prompt in ("waits there already", "Write this?"):
        person.answer(prompt, "")
    person.answer("Make a trial call now?", "yes")
    person.answer("to which address", "friend@far.example")
    said = person.wait("It works")
    for step in (
        f"dialling {NUMBER}",
        "CONNECT 33600",
        "the network is up",
        "logged in",
        "1 new",
        "delivered",
        "on-hook",
    ):
        assert step in said
    assert said.index(f"dialling {NUMBER}") < said.index("CONNECT") < said.index("logged in") < said.index("on-hook")
    person.wait("1 sent, 1 fetched")
    assert person.end() == 0

    assert [m.addresses for m in lab.lab.provider.received] == [("friend@far.example",)]
    (mail,) = (person.root / "state/mail/hanako/new").iterdir()
    assert b"\r\nSubject: first\r\n" in mail.read_bytes()
    assert lab.lab.modem.dials == [NUMBER, NUMBER]
    assert [p.stat().st_mode & 0o777 for p in (person.file, person.root / "secrets.toml")] == [0o640, 0o600]
    assert sorted(p.name for p in person.root.iterdir() if not p.is_dir()) == [
        "posthouse.toml", "posthouse.toml.copy", "secrets.toml"
    ]  # fmt: skip
    child = Person(person.root)  # once
    child.wait("There is a configuration already")
    assert child.end() == 1


def broken_off(person: Person, how: str) -> int | None:
    person.answer("Administrator's password", ADMINISTRATOR)
    person.answer("Once more", ADMINISTRATOR)
    person.answer("Name of the site", "harbour")
    person.child.expect_exact("Mail domain of the site: ")
    match how:
        case "Ctrl-C":
            person.child.sendintr()
            person.answer("Leave?", "yes")
        case "Ctrl-C twice":
            person.child.sendintr()
            person.child.expect_exact("Leave?")
            person.child.sendintr()
        case "Ctrl-D":
            person.child.sendeof()
            person.wait("nothing was written")
        case "killed":
            person.child.kill(signal.SIGKILL)
        case "hung up":
            with contextlib.suppress(OSError):
                person.child.close(force=False)  # the terminal goes, as with its cable
            wait_until(lambda: not person.child.isalive(), "it ends with its terminal")
            return None
    return person.end()


@pytest.mark.parametrize(
    ("how", "code"),
    [("Ctrl-C", 130), ("killed", None), ("hung up", None),
     pytest.param("Ctrl-C twice", 130, marks=pytest.mark.long), pytest.param("Ctrl-D", 1, marks=pytest.mark.long)],
)  # fmt: skip
def test_broken_off_it_leaves_nothing(person: Person, how: str, code: int | None) -> None:
    assert broken_off(person, how) == code
    assert list(person.root.iterdir()) == []


@pytest.mark.long
def test_a_posthouse_that_does_not_start_is_told_of(person: Person, lab: LabThread) -> None:
    """A port that somebody else has: the person is told, changes it, and leaves without a call."""
    person.answers_to_the_line(lab)
    for prompt in ("Times of calls", "outgoing mail"):
        person.answer(prompt, "-")
    person.answer("first user", "hanako")
    person.answer("Password of that user", USER)
    person.answer("Once more", USER)
    person.answer("Mail addresses", "")
    person.answer("(pop3, imap)", "-")
    person.child.expect_exact("Write this?")
    (person.root / "runtime").write_text("in the way")
    person.child.sendline("")
    person.wait("It does not start: ")
    person.answer("And now", "again")
    person.wait("It does not start: ")
    (person.root / "runtime").unlink()
    person.answer("And now", "again")
    person.answer("Make a trial call now?", "no")
    person.wait("`posthouse run` starts it")
    assert person.end() == 0
    assert lab.lab.modem.dials == []
