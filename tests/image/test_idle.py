"""Four days without a line: nothing grows, nothing is noisy, nothing restarts. The board's own clock goes through them; the
emulator leaps over the time in which its processor has nothing to do.

Calls are planned every 12 hours, and none gets further than the modem, which does not answer. On the first day the process
comes to what it needs for good: it makes its first calls, which import what only calls need, and the interpreter's caches
fill. From then on the days are held, each and together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from .board import Board
from .boards import READY_S, is_well

pytestmark = [pytest.mark.long, pytest.mark.seconds(5400)]

HOUR = 3600
DAYS = 4
QUIET_H = 9
"""Hours before the first call."""
LEAP_S = 1500.0
"""For a day and a night of the board's time: minutes of an idle machine."""
FIRST_DAY_KIB, DAY_KIB, DAYS_KIB = 1024, 128, 256
"""What the process grows by on the first day, on another, and on all of those: 132, 28, 8 and 28 KiB were measured."""
QUIET_BYTES, WRITTEN_BYTES = 64 << 10, 256 << 10
"""Written to the data partition in an hour without a call (DESIGN §7), and with the calls that fail, of which there is one in
two and a half hours: 20 and 192 KiB were measured."""
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


def test_four_days_without_a_line(start: Callable[..., Board], stick: Path) -> None:
    config = stick / "posthouse/posthouse.toml"
    config.write_text(config.read_text() + '[schedule]\nevery = "12h"\n')
    board = start(stick=stick, leaps=True)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_well(board)
    board.sh(f"sleep {HOUR}", seconds=LEAP_S)  # what the first start has left to do
    first = look(board)
    board.sh(f"sleep {QUIET_H * HOUR}", seconds=LEAP_S)
    quiet = look(board)
    days = [first]
    for day in range(DAYS):
        left = (day + 1) * 24 * HOUR - (look(board)["seconds"] - first["seconds"])
        board.sh(f"sleep {left}", seconds=LEAP_S)
        days.append(look(board))
    last = days[-1]
    assert last["seconds"] - first["seconds"] >= DAYS * 24 * HOUR
    assert (last["pid"], last["restarts"]) == (first["pid"], 0)
    assert board.sh("systemctl list-units --failed --no-legend") == ""
    # Every 12 hours a call, and again where it failed, the tries of `schedule.retry`.
    calls = last["calls"] - first["calls"]
    assert quiet["calls"] == first["calls"] and 2 * DAYS <= calls <= 2 * DAYS * 6
    assert last["files"] <= first["files"] + 2 and last["processes"] <= first["processes"] + 3
    grown = [after["process_kib"] - before["process_kib"] for before, after in pairwise(days)]
    assert grown[0] < FIRST_DAY_KIB, grown
    assert max(grown[1:]) < DAY_KIB and sum(grown[1:]) < DAYS_KIB, grown
    assert last["used_kib"] - first["used_kib"] < 8192
    assert last["entries"] - first["entries"] <= DAYS * 24 * 10
    assert last["on_disk"] - first["on_disk"] < calls * 4096
    assert (quiet["written"] - first["written"]) / QUIET_H < QUIET_BYTES
    assert (last["written"] - first["written"]) / (DAYS * 24) < WRITTEN_BYTES
