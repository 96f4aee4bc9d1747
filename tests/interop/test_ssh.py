"""The console over ssh: OpenSSH's client, and dropbear started as posthouse-ssh.service starts it, on the files that a running
Posthouse has written. What systemd does for that unit, the user and the bounds, is shown by tests/image/test_console.py.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from fakes.netns import Namespace, namespace

from .console import EDITED
from .product import PASSWORD, ROOT, Product, hashed, running
from .providers import end_process, wait_until

UNIT = ROOT / "systemd/posthouse-ssh.service"
FORCED = "/usr/lib/posthouse/ssh-console"
ADDRESS = "127.0.0.1"
PATIENCE_S = 60


class Ssh:
    """`host` is where dropbear listens; `known` the client's known hosts."""

    def __init__(self, site: Product, host: Namespace) -> None:
        self.site, self.host, self.known = site, host, site.root / "known_hosts"

    def argv(self, *command: str, password: bool = True) -> list[str]:
        options = [
            "StrictHostKeyChecking=accept-new", f"UserKnownHostsFile={self.known}", "LogLevel=ERROR", "PubkeyAuthentication=no",
            f"PreferredAuthentications={'password' if password else 'publickey'}", "NumberOfPasswordPrompts=1",
        ]  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        return self.host.argv("ssh", "-F", "none", *words, f"admin@{ADDRESS}", *command)

    def talk(self, *command: str, answer: str = PASSWORD) -> pexpect.spawn[str]:
        """Somebody who types, the password given."""
        program, *arguments = self.argv(*command)
        child: pexpect.spawn[str] = pexpect.spawn(
            program, arguments, encoding="utf-8", timeout=PATIENCE_S, use_poll=True
        )
        child.logfile_read = sys.stdout
        child.expect_exact("password: ")
        child.sendline(answer)
        return child


@contextlib.contextmanager
def dropbear(site: Product, host: Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """As the unit has it."""
    folder = site.root / "run/ssh"
    program = site.root / "ssh-console"
    program.write_text(
        f'#!/bin/sh\nposthouse() {{ {sys.executable} -m appliance "$@" --config {site.file}; }}\ncd {ROOT}\n'
        + (ROOT / "rootfs-overlay" / FORCED.lstrip("/"))
        .read_text()
        .replace("exec posthouse", "posthouse")
        .replace("fi\n", "exit\nfi\n")
    )
    program.chmod(0o755)
    unit = UNIT.read_text()
    command = re.search(r"^ExecStart=(.*)$", unit, re.M)
    assert command
    binds = [
        f"mount --bind {folder}/{Path(source).name} {target}"
        for source, target in re.findall(r"-/run/posthouse/ssh/(\w+):(\S+)", unit)
    ]
    assert len(binds) == 2
    script = ";".join([
        "set -e", "mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts /dev/pts",
        "mount --bind /dev/pts/ptmx /dev/ptmx", *binds, f". {site.root}/environment",
        "exec " + command[1].replace(FORCED, str(program)),
    ])  # fmt: skip
    # systemd needs no quotes where a shell does.
    text = re.sub(r"^(\w+)=(.*)$", r"\1='\2'", (folder / "environment").read_text(), flags=re.M)
    (site.root / "environment").write_text(text)
    with (site.root / "dropbear.log").open("wb") as log:
        process = subprocess.Popen(
            host.argv("unshare", "--mount", "sh", "-c", script), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: f"{ADDRESS}:22" in host.exec("ss", "-ltn"), "dropbear listens")
        yield process
    finally:
        end_process(process)


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    root = tmp_path_factory.mktemp("site")
    config = {
        "site": {"name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run"},
        "mail": {"smtp": [f"{ADDRESS}:0"]},
        "console": {"ssh": True, "password": hashed(PASSWORD)},
    }
    site = Product(root, config, {})
    with namespace("board") as host, running(site):
        wait_until((root / "run/ssh/environment").exists, "what dropbear is given")
        with dropbear(site, host):
            yield Ssh(site, host)


def test_elsewhere_than_on_the_image_it_says_so(ssh: Ssh) -> None:
    assert "no console over ssh on 127.0.0.1 port 22, tried again: only the image has it" in ssh.site.journal()


def test_the_administrators_password_opens_the_console(ssh: Ssh) -> None:
    child = ssh.talk()
    child.expect_exact("for harbour")
    assert "Administrator's password" not in (child.before or "")
    child.expect(EDITED)
    child.send("show status\r")
    child.expect_exact("services")
    child.send("start shell\r")
    child.send("echo shell-$((6*7))\r")
    child.expect_exact("shell-42")
    child.send("exit\r")
    child.expect(EDITED)
    child.send("exit\r")
    child.expect(pexpect.EOF)


def test_no_other_password_does_and_no_other_name(ssh: Ssh) -> None:
    child = ssh.talk(answer="wrong")
    child.expect_exact("Permission denied")
    child.expect(pexpect.EOF)
    done = subprocess.run(
        ssh.argv(password=False), capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 255 and "Permission denied" in done.stderr
    program, *arguments = [word.replace("admin@", "root@") for word in ssh.argv()]
    other = pexpect.spawn(program, arguments, encoding="utf-8", timeout=PATIENCE_S, use_poll=True)
    other.expect_exact("password: ")
    other.sendline(PASSWORD)
    other.expect_exact("Permission denied")
    other.expect(pexpect.EOF)


@pytest.mark.parametrize(("line", "says", "code"), [
    ("show queue", "the queue is empty", 0), ("show config console.ssh", "true", 0), ("show staus", "^ unknown word", 2),
])  # fmt: skip
def test_a_line_given_to_ssh_is_answered(ssh: Ssh, line: str, says: str, code: int) -> None:
    child = ssh.talk(line)
    child.expect(pexpect.EOF)
    child.close()
    said = child.before or ""
    assert says in said and "harbour>" not in said
    assert child.exitstatus == code


def test_nothing_is_forwarded(ssh: Ssh) -> None:
    program, *arguments = ssh.argv("show version")
    at = arguments.index("ssh") + 1
    child = pexpect.spawn(
        program, [*arguments[:at], "-o", "ExitOnForwardFailure=yes", "-R", "2525:127.0.0.1:25", *arguments[at:]],
        encoding="utf-8", timeout=PATIENCE_S, use_poll=True,
    )  # fmt: skip
    child.expect_exact("password: ")
    child.sendline(PASSWORD)
    child.expect_exact("remote port forwarding failed")
    child.expect(pexpect.EOF)


def test_the_host_key_is_the_one_that_the_journal_told_and_stays(ssh: Ssh) -> None:
    file = ssh.site.root / "state/keys/ssh.key"
    said = subprocess.run(
        ["dropbearkey", "-y", "-f", file], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    shown = re.search(r"Fingerprint: (SHA256:\S+)", said.stdout)
    assert shown and file.stat().st_mode & 0o777 == 0o600
    from appliance.app.ssh import host_key

    assert host_key(file) == shown[1]
    before = file.read_bytes()
    assert host_key(file) == shown[1] and file.read_bytes() == before
