"""What a person meets on the image's serial console (rootfs-overlay/usr/lib/posthouse/console), with a stand-in for login(1)
alone: which way leads to a root shell, and that no other does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from .product import PASSWORD, ROOT, hashed

SCRIPT = ROOT / "rootfs-overlay/usr/lib/posthouse/console"
SHELL = "a root shell:"
SITE = '[site]\nname = "harbour"\n'


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
        f'exec {sys.executable} -m appliance "$@" --config {file} --state {tmp_path}/s --runtime {tmp_path}/r',
    )
    program("python3", f'exec {sys.executable} "$@"')
    program("login", 'echo "a root shell: $* ends after ${TMOUT-no time}"')

    def start(configuration: str | None, *, failsafe: bool = False) -> pexpect.spawn[str]:
        if configuration is not None:
            file.write_text(configuration)
        (tmp_path / "cmdline").write_text("quiet systemd.unit=posthouse-failsafe.target\n" if failsafe else "quiet\n")
        text = SCRIPT.read_text().replace("/etc/posthouse/posthouse.toml", str(file))
        (tmp_path / "console").write_text(text.replace("/proc/cmdline", str(tmp_path / "cmdline")))
        environ = {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb"}
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
    ("configuration", "failsafe"), [(SITE, False), ("broken [", False), (f'[console]\npassword = "{{}}"\n{SITE}', True)]
)
def test_where_nothing_is_asked(console: Console, configuration: str, failsafe: bool) -> None:
    said, code = end(console(configuration.format(hashed(PASSWORD)), failsafe=failsafe))
    assert said.split("\r\n")[0].startswith(SHELL) and said.split("\r\n")[0].endswith(" -f root ends after no time")
    assert code == 0


def test_the_administrators_password(console: Console) -> None:
    child = console(f'{SITE}[console]\npassword = "{hashed(PASSWORD)}"\nidle = "2m"\n')
    for answer in ("wrong", PASSWORD):
        child.expect_exact("Administrator's password: ")
        assert SHELL not in (child.before or "")
        child.sendline(answer)
    said, code = end(child)
    assert f"{SHELL} -p -f root ends after 120" in said and code == 0


@pytest.mark.parametrize("key", ["\x03", "\x04", "\x1c"], ids=["Ctrl-C", "Ctrl-D", "Ctrl-backslash"])
def test_no_way_round_it(console: Console, key: str) -> None:
    child = console(f'{SITE}[console]\npassword = "{hashed(PASSWORD)}"\n')
    child.expect_exact("Administrator's password: ")
    child.send(key)
    said, code = end(child)
    assert SHELL not in said and code == 1


def test_a_stick_with_a_password_comes_while_the_questions_stand_there(console: Console, tmp_path: Path) -> None:
    child = console(None)
    child.expect_exact("Administrator's password: ")
    (tmp_path / "posthouse.toml").write_text(f'{SITE}[console]\npassword = "{hashed(PASSWORD)}"\n')
    child.sendline("mine")
    child.expect_exact("Once more: ")
    child.sendline("mine")
    child.expect_exact("meanwhile there is a configuration")
    child.expect_exact("Administrator's password: ")
    child.sendeof()
    said, code = end(child)
    assert SHELL not in said and code == 1
