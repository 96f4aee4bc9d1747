"""The image in QEMU, as it was built last (dist/): its size, how long from the boot loader to READY, what memory is in use when
it is idle, and what it writes to the data partition in an hour. The machine is emulated, its host may be busy: the times to
READY of one run compare with each other, not with a board's. The hours are the machine's own, over which it leaps where it
has nothing to do (`Machine.leaps`).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from appliance.config.passwords import hash_password
from tests.image.board import MEMORY_MB, Board, flash, machine, unpack
from tests.image.boards import CONFIG, NIC
from tests.image.inject import ROOT
from tests.image.qemu import Machine

READY_S = 400.0
SETTLE_S = 60.0
"""After READY, before memory is measured: the slot is found good half a minute after it, the redo log emptied."""
UNDISTURBED_S = 60.0
"""From power to somebody at the console, which takes processor time from the start."""
SETTLE_H, IDLE_H = 1, 24
"""Of the machine's time: before what it writes is measured, as ext4 prepares what the partition has grown by; and while."""
HOURS_S = 1500.0
SECTOR = 512


def bench(rounds: int) -> None:
    dist = ROOT / "dist"
    for file in sorted(dist.glob("posthouse-*")):
        if file.suffix in (".zst", ".raucb"):
            print(f"{file.name:44} {file.stat().st_size / 1e6:7.1f} MB")
    with tempfile.TemporaryDirectory(prefix="ph-vm-") as name:
        folder = Path(name)
        disk = flash(unpack(dist), folder / "disk.qcow2")
        stick = folder / "stick"
        (stick / "posthouse").mkdir(parents=True)
        (stick / "posthouse/posthouse.toml").write_text(CONFIG.format(password=hash_password("Blau-Kessel-42")))
        (stick / "posthouse/secrets.toml").write_text('isp = "Sehr-geheim-7"\n')
        _start(folder, disk, stick=stick).close()
        for number in range(rounds):
            board = _start(folder, disk)
            try:
                if number == rounds - 1:
                    board.until('test "$(systemctl is-system-running)" = running', "all has started", seconds=READY_S)
                    print(board.sh("systemd-analyze critical-chain posthouse.service --no-pager"))
                    _memory(board)
            finally:
                board.close()
        board = Board(_machine(folder, disk, leaps=True))
        try:
            _writes(board)
        finally:
            board.close()


def _machine(folder: Path, disk: Path, *, stick: Path | None = None, leaps: bool = False) -> Machine:
    shutil.rmtree(folder / "board", ignore_errors=True)
    one = machine(folder / "board", disk, stick=stick, cpus=1 if leaps else 2)
    one.more, one.leaps = NIC, leaps
    one.start()
    return one


def _start(folder: Path, disk: Path, *, stick: Path | None = None) -> Board:
    """With 2 CPUs, until READY."""
    began = time.monotonic()
    board = Board(_machine(folder, disk, stick=stick))
    time.sleep(UNDISTURBED_S)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "READY", seconds=READY_S)
    up = float(board.sh("cut -d' ' -f1 /proc/uptime"))
    kernel = time.monotonic() - up - began
    ready = int(board.sh("systemctl show -P ActiveEnterTimestampMonotonic posthouse")) / 1e6
    first = " (the first start, with the configuration from the stick)" if stick else ""
    print(
        f"from power to READY {kernel + ready:6.1f} s: boot loader {kernel:.1f} s, then {ready:.1f} s{first}",
        flush=True,
    )
    board.sh("sync")
    return board


def _memory(board: Board) -> None:
    """With nobody at the console, which is not in memory then: a unit of systemd's looks."""
    look = "free -k | awk '/^Mem/ { print $3 }'; ps axo rss=,comm= | sort -rn | head -n 8"
    board.sh(f'systemd-run -q sh -c "sleep {SETTLE_S:.0f}; {{ {look.replace("$", chr(92) + "$")}; }} >/run/memory"')
    board.leave()
    time.sleep(2 * SETTLE_S)
    board.log_in()
    used, processes = board.sh("cat /run/memory").split("\n", 1)
    print(f"memory in use, of {MEMORY_MB} MB: {int(used) / 1024:.0f} MB")
    print(processes)


def _writes(board: Board) -> None:
    def written() -> int:
        board.sh("sync")
        return int(board.sh("cat /sys/class/block/vda5/stat").split()[6]) * SECTOR

    board.log_in()
    board.sh(f"sleep {SETTLE_H * 3600}", seconds=HOURS_S)
    before = written()
    board.sh(f"sleep {IDLE_H * 3600}", seconds=HOURS_S)
    print(f"written to the data partition: {(written() - before) / 1024 / IDLE_H:.1f} KiB an hour, of {IDLE_H}")
