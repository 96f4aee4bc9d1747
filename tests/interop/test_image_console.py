"""What a person meets on the image's serial console (rootfs-overlay/usr/lib/posthouse/console), with a stand-in for login(1)
alone: which way leads to the questions, to the console, and to root's shell, and that no other does."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from .product import PASSWORD, ROOT, hashed

SCRIPT = ROOT / "rootfs-overlay/usr/lib/posthouse/console"
SHELL = "a root shell:"
SITE = '[site]\nname = "harbour"\nstate = "{root}/s"\nruntime = "{root}/r"\n'
PROMPT = "harbour> "
LOCKED = SITE + '[console]\npassword = "{password}"\n'


Console = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """console(configuration, failsafe=…) -> what agetty would start."""
    children: list[pexpect.spawn[str]] = []
    file, programs = tmp_path / "posthouse.toml", tmp_path / "bin"
    programs.mkdir()

    def program(name: str, text: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    program(
        "posthouse",
        f'[ "$1" != setup ] || set -- "$@" --state {tmp_path}/s --runtime {tmp_path}/r\n'
        f'exec {sys.executable} -m appliance "$@" --config {file}',
    )
    program("login", 'echo "a root shell: $*"')

    def start(configuration: str | None, *, failsafe: bool = False) -> pexpect.spawn[str]:
        if configuration is not None:
            file.write_text(configuration.format(root=tmp_path, password=hashed(PASSWORD)))
        (tmp_path / "cmdline").write_text("quiet systemd.unit=posthouse-failsafe.target\n" if failsafe else "quiet\n")
        text = SCRIPT.read_text().replace("/etc/posthouse/posthouse.toml", str(file)).replace("/root", str(tmp_path))
        (tmp_path / "console").write_text(text.replace("/proc/cmdline", str(tmp_path / "cmdline")))
        environ = {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
        child: pexpect.spawn[str] = pexpect.spawn(
            "sh", [str(tmp_path / "console")], cwd=str(ROOT), env=environ, encoding="utf-8", timeout=60, use_poll=True
        )
        child.logfile_read = sys.stdout
        children.append(child)
        return child

    try:
        yield start
    finally:
        for child in children:
            child.close(force=True)


def end(child: pexpect.spawn[str]) -> tuple[str, int | None]:
    child.expect(pexpect.EOF)
    child.close()
    return child.before or "", child.exitstatus


def test_without_a_configuration_the_questions_come_and_can_be_left(console: Console, tmp_path: Path) -> None:
    child = console(None)
    child.expect_exact("Administrator's password: ")
    child.sendintr()
    child.expect_exact("Leave?")
    child.sendline("yes")
    said, code = end(child)
    assert SHELL in said and code == 0
    assert not (tmp_path / "posthouse.toml").exists()


@pytest.mark.parametrize(
    ("configuration", "failsafe"), [(SITE, False), (LOCKED, True)], ids=["no password", "failsafe"]
)
def test_where_nothing_is_asked(console: Console, configuration: str, failsafe: bool) -> None:
    child = console(configuration, failsafe=failsafe)
    child.expect_exact(PROMPT)
    assert "Administrator's password: " not in (child.before or "")
    child.sendline("exit")
    said, code = end(child)
    assert SHELL not in said and code == 0


def test_a_file_that_can_not_be_read_locks_nobody_out(console: Console) -> None:
    child = console("broken [")
    child.expect_exact("posthouse> ")
    child.sendline("show config")
    child.expect_exact("posthouse.toml:1")


def test_the_administrators_password(console: Console) -> None:
    child = console(LOCKED)
    for answer in ("wrong", PASSWORD):
        child.expect_exact("Administrator's password: ")
        assert PROMPT not in (child.before or "")
        child.sendline(answer)
    child.expect_exact(PROMPT)
    child.sendline("exit")
    said, code = end(child)
    assert SHELL not in said and code == 0


def test_failsafe_leaves_a_shell_where_posthouse_cannot_run(console: Console, tmp_path: Path) -> None:
    (tmp_path / "bin/posthouse").write_text("#!/bin/sh\necho this version is broken\nexit 1\n")
    said, code = end(console(LOCKED, failsafe=True))
    assert SHELL in said and code == 0
    said, code = end(console(LOCKED))
    assert SHELL not in said


@pytest.mark.parametrize("key", ["\x03", "\x04", "\x1c", "\x1a"], ids=["Ctrl-C", "Ctrl-D", "Ctrl-backslash", "Ctrl-Z"])
def test_no_way_round_it(console: Console, key: str) -> None:
    child = console(LOCKED)
    child.expect_exact("Administrator's password: ")
    child.send(key)
    child.sendline("show status")
    with contextlib.suppress(pexpect.TIMEOUT):
        child.expect(pexpect.EOF, timeout=5)
    said = child.before or ""
    assert PROMPT not in said and SHELL not in said and "services" not in said


def test_a_stick_with_a_password_comes_while_the_questions_stand_there(console: Console, tmp_path: Path) -> None:
    child = console(None)
    child.expect_exact("Administrator's password: ")
    (tmp_path / "posthouse.toml").write_text(LOCKED.format(root=tmp_path, password=hashed(PASSWORD)))
    child.sendline("mine")
    child.expect_exact("Once more: ")
    child.sendline("mine")
    child.expect_exact("meanwhile there is a configuration")
    child.expect_exact("Administrator's password: ")
    child.sendeof()
    said, _ = end(child)
    assert SHELL not in said and PROMPT not in said
