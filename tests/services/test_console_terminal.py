"""What a terminal can do, and the lock: what the file says of it, also a faulty one."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.passwords import hash_password
from appliance.console.lock import Access
from appliance.console.terminal import can_edit

HASH = hash_password("Administrator-9")


@pytest.fixture
def pty() -> Iterator[int]:
    master, slave = os.openpty()
    shape(slave)
    yield slave
    os.close(master)
    os.close(slave)


def shape(fd: int, *, lines: int = 24, columns: int = 80, speed: int = termios.B115200) -> None:
    attributes = termios.tcgetattr(fd)
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def test_lines_are_edited_where_the_terminal_can(pty: int) -> None:
    assert can_edit(pty, {"TERM": "vt220"})
    assert not can_edit(pty, {"TERM": "dumb"}) and not can_edit(pty, {})
    shape(pty, speed=termios.B9600)
    assert not can_edit(pty, {"TERM": "vt220"})
    shape(pty, lines=0, columns=0)  # as a serial line begins
    assert not can_edit(pty, {"TERM": "vt220"})
    read, write = os.pipe()
    assert not can_edit(read, {"TERM": "vt220"})
    os.close(read)
    os.close(write)


SAID = [
    ("", Access("", 600.0)),
    (f'[console]\npassword = "{HASH}"\nidle = "90s"', Access(HASH, 90.0)),
    ("[console]\npassword = 5\nidle = 5", Access("", 600.0)),
    ('[console]\nidle = "soon"', Access("", 600.0)),
    ("console = 1", Access("", 600.0)),
    ("[console", None),
]


@pytest.mark.parametrize(("text", "access"), SAID)
def test_what_the_file_says_of_the_lock(tmp_path: Path, text: str, access: Access | None) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_text(text)
    assert Access.read(file) == access


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert Access.read(tmp_path / "posthouse.toml") is None
