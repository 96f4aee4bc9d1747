"""What a person does at the image's serial console: typed there, and read there. Once on plain lines (9600 bit/s, a terminal
without a size), once on a terminal on which lines are edited in place (115200 bit/s). And what somebody on the LAN does there
by ssh.
"""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
import trio

from appliance.config.passwords import hash_password
from appliance.lab.modem import Modem
from fakes.hostile import SAYS, SEEN, steering
from fakes.netns import Namespace, namespace
from fakes.relay_client import Client, PeerClient

from .board import BOOT_S, CONSOLE, EDITED, ENTER, LOOK_S, PASSWORD_ASKED, PLAIN, PROMPT, Board
from .boards import CONFIG, READY_S
from .provider import LOGINS, POP3_HOST, PPP_LOGIN, PPP_SECRET, SMTP_HOST, WORLD, Provider
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

pytestmark = [pytest.mark.long, pytest.mark.seconds(2400)]

PASSWORD = "Blau-Kessel-42"
SAY_S = 240.0
"""From a line to what follows: a password's hash takes an emulated board seconds."""
CALL_S = 400.0
IDLE_S = 120
CONFIRM_S = 600
LAN_ADDRESS, PC_ADDRESS = "192.168.77.1", "192.168.77.50"
RELAY_PORT = 7400
WAYS = ["plain", "edited"]
ROWS = 200
"""Of the person's terminal: what is shown comes on one page."""
DRAWING = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])")
"""What moves the cursor of the terminal, by prompt_toolkit."""
FIRST = (
    ("Administrator's password: ", PASSWORD), ("Once more: ", PASSWORD), ("Name of the site: ", "harbour"),
    ("Mail domain of the site: ", "harbour.example"), ("Time zone", ""), ("Network device of the LAN", ""),
    ("Address of this host on the LAN", ""), ("Addresses that computers there are given", ""),
    ("Where mail programs submit", ""), ("Where mail programs read", ""), ("Serial port of the modem", "1"), ("Kind of modem", ""),
    ("Number to dial", PROVIDER), ("On the line", ""), ("PPP login", PPP_LOGIN), ("PPP password", PPP_SECRET),
    ("Times of calls", "-"), ("Provider's server for outgoing mail", SMTP_HOST), ("Port there", "25"),
    ("Encryption there", "none"), ("Login there", "-"), ("Name of the first user", "hanako"),
    ("Password of that user", PASSWORD), ("Once more", PASSWORD),
    ("Mail addresses of that user", "hanako@harbour.example hanako@isp.example"), ("Fetch that user's mail", "pop3"),
    ("Server there", POP3_HOST), ("Port there", "110"), ("Encryption there", "none"), ("Login there", "hanako"),
    ("Password there", LOGINS["hanako"]), ("Mail that waits there already", "all"), ("Write this?", "yes"),
    ("Make a trial call now?", "yes"), ("Send a test message with it", "somebody@world.example"),
)  # fmt: skip


class Person:
    """Sits at the console's prompt, from where lines are plain or edited in place on."""

    def __init__(self, board: Board, way: str) -> None:
        self.board, self.edited = board, way == "edited"
        self.ready = EDITED if self.edited else PLAIN

    def equip(self) -> None:
        """By stty in the shell below the console, as a person whose terminal is large, or whose line is slow."""
        self.board.type("start shell\r")
        self.board.wait(re.escape(PROMPT), seconds=SAY_S)
        self.board.type(f"stty rows {ROWS} cols {ROWS}{'' if self.edited else ' 9600'}; exit\r")
        self.board.wait(self.ready, seconds=SAY_S)

    def unlock(self) -> None:
        """From the question for the password, the first answer wrong."""
        self.board.type("wrong\n")
        self.board.wait("that is not the password", seconds=SAY_S)
        self.board.wait(PASSWORD_ASKED, seconds=SAY_S)
        self.board.type(PASSWORD + "\n")
        self.board.wait(CONSOLE, seconds=SAY_S)

    def type(self, keys: str, end: str = "\r") -> str:
        """-> what was shown until a line may be typed again, without what moves the cursor."""
        begin = len(self.board.said)
        self.board.type(keys + end)
        found = self.board.wait(self.ready, seconds=SAY_S)
        return DRAWING.sub("", self.board.said[begin : found.start()])

    def until_ready(self) -> None:
        """Until Posthouse is, as `show status` says."""
        end = time.monotonic() + READY_S
        while "services" not in self.type("show status"):
            assert time.monotonic() < end, f"Posthouse is not ready within {READY_S:g} s"
            time.sleep(LOOK_S)

    def sees(self, pattern: str, *, seconds: float = SAY_S) -> None:
        self.board.wait(pattern, seconds=seconds)


@pytest.fixture
def lan() -> Iterator[Namespace]:
    """A PC's, its cable not yet in a board."""
    with namespace("pc") as space:
        space.ip("tuntap", "add", "dev", "eth0", "mode", "tap")
        space.ip("addr", "add", f"{PC_ADDRESS}/24", "dev", "eth0")
        space.ip("link", "set", "eth0", "up")
        yield space


def with_password(stick: Path, more: str = "") -> Path:
    """The stick, its configuration with an administrator's password."""
    text = f'[console]\npassword = "{hash_password(PASSWORD)}"\nidle = "{IDLE_S}s"\n{more}'
    (stick / "posthouse/posthouse.toml").write_text(CONFIG.format(password=hash_password(PASSWORD)) + text)
    return stick


# ---- from a blank disk to the first mail
@pytest.mark.parametrize("way", WAYS)
def test_first_mail(
    start: Callable[..., Board], provider: Provider, telephone: Telephone, way: str
) -> None:  # fmt: skip
    provider.deliver("hanako", message("come-in", to="hanako@isp.example"))
    board = start(modem=telephone.folder / "site.modem")
    person = Person(board, way)
    assert board.open_console() == PASSWORD_ASKED
    if not person.edited:  # there is no password yet, and so a shell; getty keeps the speed that it finds
        assert board.leave_questions(seconds=SAY_S) == PROMPT
        board.type("stty 9600; exit\n")
        board.wait(ENTER, seconds=SAY_S)
        board.type("\r")
        board.wait(PASSWORD_ASKED, seconds=SAY_S)
    begin = len(board.said)
    board.type(FIRST[0][1] + "\n")
    for prompt, answer in FIRST[1:]:
        board.wait(rf"{re.escape(prompt)}[^\n]*: \Z|{re.escape(prompt)}\Z", seconds=SAY_S)
        board.type(answer + "\n")
    for step in (
        f"dialling {PROVIDER}",
        "CONNECT",
        "the network is up on ",
        "logged in",
        "on-hook",
        "It works",
        "1 sent, 1 fetched",
    ):
        found = board.wait(re.escape(step), seconds=CALL_S)
    assert "\x1b" not in board.said[begin : found.end()], "a question moves the cursor"
    board.wait(CONSOLE, seconds=SAY_S)
    assert telephone.dials == [PROVIDER]
    assert subjects(provider.waiting(WORLD)) == ["Test from Posthouse"]
    if not person.edited:
        assert "\x1b" not in board.said[begin:]
    assert "complete" in person.type("show calls")
    assert re.search(r"hanako +yes +1 ", person.type("show users"))
    board.start_shell(seconds=SAY_S)
    assert board.sh("stty speed").strip() == ("115200" if person.edited else "9600")
    board.sh("grep -rq 'Subject: come-in' /var/lib/posthouse/mail/hanako/new")


# ---- the configuration, and the lock
@pytest.mark.parametrize("way", WAYS)
def test_the_configuration_and_a_power_cut_before_it_is_confirmed(
    start: Callable[..., Board], stick: Path, way: str
) -> None:
    board = start(stick=with_password(stick))
    person = Person(board, way)
    assert board.open_console() == PASSWORD_ASKED
    person.unlock()
    person.equip()
    begin = len(board.said)
    if person.edited:
        board.type("sh\tver\t\r")
        person.sees(r"posthouse 0\.", seconds=SAY_S)
        person.sees(person.ready)
        board.type("show ?")
        person.sees("the calls that were made")
        person.sees(person.ready)
        person.type("\x15")
    else:
        board.type("show ?\r")
        person.sees("the calls that were made")
        person.sees(r"harbour> show \Z")
        assert "posthouse 0." in person.type("version")
    person.until_ready()
    person.type("set mail.warn_after 3h")
    assert re.search(r"\+ *warn_after = \"3h\"", person.type("compare"))
    person.type("commit comment hours")
    assert 'warn_after = "3h"' in person.type("show config mail")
    assert "hours" in person.type("revisions")
    person.type("rollback 1")
    person.type("commit")
    assert "warn_after" not in person.type("show config mail")

    person.type("set mail.warn_after 5h")
    board.type(f"commit confirm {CONFIRM_S}s\r")
    person.sees(r"min to confirm\)")
    if not person.edited:
        assert "\x1b" not in board.said[begin:]
    board.close()  # the power goes
    board = start()
    person = Person(board, way)
    assert board.open_console() == PASSWORD_ASKED
    person.unlock()
    person.equip()
    person.until_ready()
    assert "to confirm" not in person.type("")  # it went back with that start
    assert "warn_after" not in person.type("show config mail")
    assert re.search(r"configuration: back to revision \d+", person.type("show journal 40"))


def test_a_forgotten_console_locks_itself(start: Callable[..., Board], stick: Path) -> None:
    """And so does the shell below it."""
    board = start(stick=with_password(stick))
    person = Person(board, "plain")
    assert board.open_console() == PASSWORD_ASKED
    person.unlock()
    person.equip()
    board.wait("locked: nobody has typed anything for a while", seconds=IDLE_S + SAY_S)
    board.wait(PASSWORD_ASKED, seconds=SAY_S)
    person.unlock()
    board.type("start shell\r")
    board.wait(re.escape(PROMPT), seconds=SAY_S)
    board.wait("locked: nobody has typed anything for a while", seconds=IDLE_S + SAY_S)
    board.wait(PASSWORD_ASKED, seconds=SAY_S)
    person.unlock()
    assert "services" in person.type("show status")


# ---- what others say
@pytest.mark.parametrize("way", WAYS)
def test_nobody_steers_the_terminal(
    start: Callable[..., Board],
    stick: Path,
    telephone: Telephone,
    lan: Namespace,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """A modem, a mail program and a relay server that send escape sequences."""
    say = Modem._say_bytes

    def hostile(self: Modem, data: bytes, text: str) -> None:
        say(
            self,
            data[:-2] + b" " + SAYS.encode() + b"\x9b2J\xff" + data[-2:] if text.startswith("Laboratory") else data,
            text,
        )

    monkeypatch.setattr(Modem, "_say_bytes", hostile)
    relay = f'[relay]\nlisten = ["{LAN_ADDRESS}:{RELAY_PORT}"]\n[[relay.peer]]\nname = "peer1"\nsecret = "peer1"\nconnect = "never"\n'
    with_password(stick, relay)
    secrets = stick / "posthouse/secrets.toml"
    secrets.write_text(secrets.read_text() + f'peer1 = "{"00" * 32}"\n')
    board = start(stick=stick, modem=telephone.folder / "site.modem", lan=lan)
    person = Person(board, way)
    assert board.open_console() == PASSWORD_ASKED
    person.unlock()
    person.equip()
    board.start_shell()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    board.until(f"ss -ltn | grep -q {LAN_ADDRESS}:{RELAY_PORT}", "the relay server listens")
    mischief = threading.Thread(target=_talk, args=(lan,))
    mischief.start()
    mischief.join()
    board.type("exit\r")
    person.sees(person.ready)
    begin = len(board.said)
    shown = ""
    for verb in ("modem ATI", "show queue", "show peers", "show terminals", "show status", "show journal 40"):
        shown += person.type(verb)
    raw = board.said[begin:]
    for says in ("Laboratory modem ", "wrong name or password for ", "peer1 has ended: it says x: "):
        assert re.search(re.escape(says) + SEEN.pattern, shown), f"it did not come that far: {says}"
    assert steering(DRAWING.sub("", raw)) == []
    assert "\x1b]" not in raw and "\x1b[2J" not in raw and "\x1b[31m" not in raw


def _talk(lan: Namespace) -> None:
    """As the PC's programs, from within its namespace."""
    with lan.inside():
        with socket.create_connection((LAN_ADDRESS, 25), timeout=SAY_S) as client, client.makefile("rwb") as stream:
            stream.readline()
            for line in (f"EHLO {SAYS}", f"MAIL FROM:<{SAYS}@x.example>", f"AUTH PLAIN {SAYS}"):
                stream.write(line.encode() + b"\r\n")
                stream.flush()
                while stream.readline()[3:4] == b"-":
                    pass
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP(LAN_ADDRESS, 25, timeout=SAY_S) as smtp:
            smtp.starttls(context=context)
            smtp.login("hanako", PASSWORD)
            mail = b"From: hanako@harbour.example\r\nSubject: " + SAYS.encode() + b"\r\n\r\n.\r\n"
            smtp.sendmail("hanako@harbour.example", ["somebody@world.example"], mail)
        with smtplib.SMTP(LAN_ADDRESS, 25, timeout=SAY_S) as smtp:
            smtp.starttls(context=context)
            smtp.ehlo()
            smtp.docmd("AUTH", "PLAIN " + base64.b64encode(f"\0{SAYS}\0x".encode()).decode())
        trio.run(_peer)


async def _peer() -> None:
    client = await Client.dial(RELAY_PORT, SAYS, host=PC_ADDRESS, server=LAN_ADDRESS)
    await client.send("login", certificate=b"x", counter=1, services=[SAYS], proof=SAYS, text=SAYS)
    await client.receive()
    await client.close()
    for kind, body in (("error", {"code": "x", "text": SAYS}), (SAYS, {})):
        peer = await PeerClient.link(RELAY_PORT, "peer1", "harbour", host=PC_ADDRESS, server=LAN_ADDRESS)
        await peer.begin()
        await peer.send(kind, **body)
        while await peer.receive() is not None:
            pass
        await peer.close()


# ---- over ssh
def test_the_console_over_ssh(start: Callable[..., Board], stick: Path, lan: Namespace, tmp_path: Path) -> None:
    board = start(stick=with_password(stick, "ssh = true\n"), lan=lan)
    board.log_in(password=PASSWORD)
    board.until(f"ss -ltn | grep -q {LAN_ADDRESS}:22", "ssh listens", seconds=READY_S)
    board.until(
        "journalctl -q --no-pager -o cat | grep -q 'the console over ssh for admin'", "it is told", seconds=READY_S
    )
    told = re.search(
        r"host key (SHA256:\S+)", board.sh("journalctl -q --no-pager -o cat | grep 'the console over ssh'")
    )
    assert told
    options = [
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        f"UserKnownHostsFile={tmp_path}/known",
        "-o",
        "PubkeyAuthentication=no",
    ]

    def ssh(password: str, *command: str) -> pexpect.spawn[str]:
        program, *arguments = lan.argv(
            "ssh", *options, "-o", "NumberOfPasswordPrompts=1", f"admin@{LAN_ADDRESS}", *command
        )
        child: pexpect.spawn[str] = pexpect.spawn(
            program,
            arguments,
            encoding="utf-8",
            timeout=SAY_S,
            use_poll=True,
            dimensions=(ROWS, ROWS),
            env={"TERM": "xterm", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        child.logfile_read = sys.stdout
        child.expect_exact("password: ")
        child.sendline(password)
        return child

    ssh("wrong").expect_exact("Permission denied")
    assert (tmp_path / "known").read_text().startswith(LAN_ADDRESS)
    shown = lan.exec("ssh-keygen", "-lf", str(tmp_path / "known"))
    assert told[1] in shown
    line = ssh(PASSWORD, "show", "status")
    line.expect_exact("services")
    line.expect(pexpect.EOF)

    child = ssh(PASSWORD)
    child.expect_exact("for harbour")
    child.expect(EDITED)
    for typed, says in (
        ("show journal 20", "the console over ssh"), ("set mail.warn_after 3h", ""), ("commit comment over-ssh", ""),
        ("revisions", "over-ssh"), ("show config mail", 'warn_after = "3h"'), ("update x", "only root may do that: at the serial console"),
    ):  # fmt: skip
        child.send(typed + "\r")
        if says:
            child.expect_exact(says)
        child.expect(EDITED)
    child.send("start shell\r")
    child.expect(r"\$ \Z")
    child.send("id -u; cat /etc/posthouse/secrets.toml >/dev/null && echo may-$((40+2)); touch /etc/x\r")
    child.expect("470")
    child.expect_exact("may-42")
    child.expect_exact("Read-only file system")
    child.send("exit\r")
    child.expect(EDITED)
    # Who changes the password stays; the old one opens nothing any more.
    board.sh("posthouse config set console.idle 5m && posthouse config commit")
    child.send("show version\r")
    child.expect(r"posthouse 0\.")
    child.expect(EDITED)
    child.send("reboot\r")
    child.expect_exact("type reboot once more")
    child.send("reboot\r")
    board.wait_end(seconds=BOOT_S)
