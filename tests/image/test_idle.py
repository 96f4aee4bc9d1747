"""Two days without a line: nothing grows, nothing is noisy, nothing restarts. The board's own clock goes through them; the
emulator leaps over the time in which its processor has nothing to do.

Calls are planned every 12 hours, and none gets further than the modem, which does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .board import Board
from .boards import READY_S, is_well

pytestmark = [pytest.mark.long, pytest.mark.seconds(3600)]

HOUR = 3600
LEAP_S = 1500.0
"""For a day and a night of the board's time: minutes of an idle machine."""
WRITTEN_BYTES = 512 << 10
"""To the data partition, an hour, with calls that fail: 300 KiB were measured."""
LOOK = """
pid=$(systemctl show -P MainPID posthouse)
echo seconds $(cut -d. -f1 /proc/uptime)
echo used_kib $(free -k | awk '/^Mem/ { print $3 }')
echo process_kib $(awk '/^RssAnon/ { print $2 }' /proc/$pid/status)
echo files $(ls /proc/$pid/fd | wc -l)
echo processes $(ls -d /proc/[0-9]* | wc -l)
echo written $(awk '{ print $7 * 512 }' /sys/class/block/vda5/stat)
echo on_disk $(du -sb /data/state | cut -f1)
echo entries $(journalctl -b --no-pager -q -o cat | wc -l)
echo calls $(posthouse calls --json | grep -c '"id"')
echo pid $pid
echo restarts $(systemctl show -P NRestarts posthouse)
"""


def look(board: Board) -> dict[str, int]:
    board.sh("sync")
    said = board.sh(LOOK.strip(), seconds=300).splitlines()
    found = {name: int(number) for name, number in (line.split() for line in said)}
    print(found, flush=True)
    return found


def test_two_days_without_a_line(start: Callable[..., Board], stick: Path) -> None:
    config = stick / "posthouse/posthouse.toml"
    config.write_text(config.read_text() + '[schedule]\nevery = "12h"\n')
    board = start(stick=stick, leaps=True)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    board.sh(f"sleep {HOUR}", seconds=LEAP_S)  # what the first start has left to do
    looks = [look(board)]
    for _ in range(2):
        board.sh(f"sleep {24 * HOUR}", seconds=LEAP_S)
        looks.append(look(board))
    first, between, last = looks
    assert last["seconds"] - first["seconds"] >= 48 * HOUR
    assert (last["pid"], last["restarts"]) == (first["pid"], 0)
    assert board.sh("systemctl list-units --failed --no-legend") == ""
    # Every 12 hours a call, and again where it failed, the tries of `schedule.retry`.
    calls = last["calls"] - first["calls"]
    assert 4 <= calls <= 4 * 6
    assert last["files"] <= first["files"] + 2 and last["processes"] <= first["processes"] + 3
    assert last["process_kib"] - first["process_kib"] < 4096  # the first calls import what they need
    assert last["process_kib"] - between["process_kib"] < 512
    assert last["used_kib"] - first["used_kib"] < 8192
    assert last["entries"] - first["entries"] <= 48 * 10
    assert last["on_disk"] - first["on_disk"] < calls * 4096
    assert (last["written"] - first["written"]) / 48 < WRITTEN_BYTES
