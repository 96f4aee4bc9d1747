"""The console's history: kept over its end, within its limit, without a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.console.history import FILE, HISTORY_KEPT, History, may_be_kept
from appliance.console.parse import parse
from appliance.console.paths import takes_open_value


def test_lines_are_kept_over_the_console_s_end(tmp_path: Path) -> None:
    history = History(tmp_path)
    for line in ("show status", "show status", "dial"):
        history.add(line)
    assert History(tmp_path).lines == ["show status", "dial"]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_the_oldest_go(tmp_path: Path) -> None:
    history = History(tmp_path)
    for n in range(HISTORY_KEPT + 5):
        history.add(f"show queue {n}")
    again = History(tmp_path)
    assert len(again.lines) == HISTORY_KEPT and again.lines[-1] == f"show queue {HISTORY_KEPT + 4}"
    assert len((tmp_path / FILE).read_text().splitlines()) == HISTORY_KEPT


def test_a_history_that_somebody_else_wrote_into_steers_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"dial\n\x1b[2J\n\xff\xfe ok\n")
    assert "dial" in History(tmp_path).lines
    assert all(line.isprintable() for line in History(tmp_path).lines)


@pytest.mark.parametrize("how", ["symlink", "hard link", "FIFO"])
def test_root_s_console_writes_through_no_link(tmp_path: Path, how: str) -> None:
    """Which somebody who is not root, but has the state, has put there."""
    victim, state = tmp_path / "victim", tmp_path / "state"
    state.mkdir()
    victim.write_text("not yours\n")
    match how:
        case "symlink":
            (state / FILE).symlink_to(victim)
        case "hard link":
            (state / FILE).hardlink_to(victim)
        case _:
            os.mkfifo(state / FILE)
    history = History(state)
    history.add("dial")
    assert history.lines == ["dial"]
    assert victim.read_text() == "not yours\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("set mail.bulk_size 5MiB", True), ("set user[0].quota 5MiB", True), ("delete user[0].password", True),
        ("set user[0].password hunter2", False), ("set user[0].pasword hunter2", False),
        ('set user[0] { password = "hunter2" }', False), ("set user[0].account[0].secret hunter2", False),
        ("set line[0].pin 1234", False), ("modem AT+CPIN=1234", False), ("modem ATI", True), ("show status", True),
    ],
)  # fmt: skip
def test_no_line_is_kept_that_may_hold_a_secret(line: str, kept: bool) -> None:
    data = {"user": [{"name": "hanako", "account": [{}]}], "line": [{}]}
    assert may_be_kept(parse(line), lambda path: takes_open_value(path, "", data)) is kept


def test_where_nothing_can_be_written_the_console_works(tmp_path: Path) -> None:
    history = History(tmp_path / "missing")
    history.add("dial")
    assert history.lines == ["dial"]
    assert History(None).lines == []
