"""The console's history: kept over its end, within its limit, without a secret."""

from __future__ import annotations

from pathlib import Path

from appliance.console.history import FILE, HISTORY_KEPT, History


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


def test_where_nothing_can_be_written_the_console_works(tmp_path: Path) -> None:
    history = History(tmp_path / "missing")
    history.add("dial")
    assert history.lines == ["dial"]
    assert History(None).lines == []
