"""The power goes under mail load: the image on its board takes mail from many clients while QEMU notes every write to the
whole disk and every flush; then the disk is made anew as a cut at random places of that log leaves it, and every mail that
had been answered 250 by then must be there, once and whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import poplib
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from appliance.app.core import Core
from appliance.config.load import load
from appliance.config.passwords import hash_password
from fakes.netns import Namespace, namespace

from .board import Board, flash
from .boards import READY_S, is_well
from .disk import PATH, partitions
from .mail_load import CLIENT_S, DOMAIN, HOST, PASSWORD, SPOOL, USERS, Load, judge
from .write_log import Fate, WriteLog, whole

pytestmark = [pytest.mark.long, pytest.mark.seconds(3000)]

DISK_BYTES = 2 << 30
MAILS = 300
CUTS = 10
BOOTED = 2
TOOL_S = 300.0
CONFIG = f"""
[site]
name = "harbour"
domain = "{DOMAIN}"
[[interface]]
name = "lan"
device = "eth0"
addresses = ["192.168.77.1/24"]
[[line]]
name = "pstn"
port = "/dev/ttyS1"
numbers = ["0570000111"]
[mail]
smtp = ["192.168.77.1:25"]
pop3 = ["192.168.77.1:110"]
imap = true
plaintext_login = true
trusted_networks = ["192.168.77.0/24"]
[[mail.smarthost]]
host = "smtp.isp.example"
"""
WITHOUT_FLUSHES = """
set -e
there=$(python3 -c 'import appliance.storage; print(appliance.storage.__path__[0])')
cp -a "$there" /run/storage
rm -rf /run/storage/__pycache__
sed -i 's/os\\.fdatasync(fd)/pass/; s/os\\.fsync(fd)/pass/; s/_libc\\.syncfs(fd) != 0/False/' /run/storage/disk.py
calls='os\\.f(data)?sync\\(fd\\)|_libc\\.syncfs\\(fd\\) != 0'
test $(grep -Ec "$calls" "$there/disk.py") = 4
test $(grep -Ec "$calls" /run/storage/disk.py) = 0
mount --bind /run/storage "$there"
systemctl restart posthouse
"""
"""A Posthouse that waits for no disk."""
USER = """
[[user]]
name = "{name}"
password = "{password}"
addresses = ["{name}@harbour.example"]
"""


def tool(*argv: str | Path, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, timeout=TOOL_S, env={**os.environ, "PATH": PATH}
    )
    assert done.returncode in codes, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A USB stick with this site's configuration."""
    here = tmp_path / "stick"
    (here / "posthouse").mkdir(parents=True)
    password = hash_password(PASSWORD)
    users = "".join(USER.format(name=name, password=password) for name in USERS)
    (here / "posthouse/posthouse.toml").write_text(CONFIG + users)
    (here / "posthouse/secrets.toml").write_text("")
    return here


@pytest.fixture
def lan() -> Iterator[Namespace]:
    """Of the mail clients; its cable leads to whichever board runs."""
    with namespace("clients") as space:
        space.ip("tuntap", "add", "dev", "eth0", "mode", "tap")
        space.ip("link", "set", "eth0", "up")
        space.ip("addr", "add", "192.168.77.20/24", "dev", "eth0")
        yield space


def ready(board: Board) -> Board:
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    board.until("ss -ltn | grep -q 192.168.77.1:110", "POP3 listens", seconds=READY_S)
    return board


def check_data(disk: Path, data: Path) -> Path:
    """Takes the data partition off a disk; its journal is replayed, and then its file system is clean."""
    _, first, size = partitions(disk)["data"]
    tool("dd", f"if={disk}", f"of={data}", "bs=1M", "iflag=skip_bytes,count_bytes", f"skip={first}", f"count={size}", "conv=sparse")  # fmt: skip
    said = tool("e2fsck", "-fp", data, codes=(0, 1))
    # Nothing but what a start after a power cut does: the journal, and files that were open and had no name any more.
    said = re.sub(r"Feature orphan_present is set but orphan file is clean\.\s+CLEARED\.", "", said)
    usual = r"^data: (recovering journal|Clearing orphaned inode .*|\d+/\d+ files .*|\s*)$|^$"
    strange = [line for line in said.splitlines() if not re.match(usual, line)]
    assert not strange, said
    tool("e2fsck", "-fn", data)
    return data


def recovered(data: Path, folder: Path) -> list[tuple[str, bytes]]:
    """What Posthouse's own start makes of the data partition: every message that it would serve or send, with its place."""
    folder.mkdir()
    for name in ("state", "configuration"):
        tool("debugfs", "-R", f"rdump /{name} {folder}", data)
    config = load(folder / "configuration/posthouse.toml")
    config = dataclasses.replace(
        config, site=dataclasses.replace(config.site, state=folder / "state", runtime=folder / "run")
    )
    core = Core(config)
    found = [(SPOOL, core.spool.path(envelope).read_bytes()) for envelope in core.spool.messages.values()]
    for user, box in core.mailboxes.items():
        for message in box.messages():
            with box.open(message) as file:
                found.append((user, file.read()))
    core.close()
    for lock in core.locks:
        os.close(lock)
    return found


def served(board: Board, lan: Namespace, spooled: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """What a board that has started serves by POP3, and what it holds for the line; `spooled`: by SHA-256 what may lie there."""
    found = []
    with lan.inside():
        for user in USERS:
            client = poplib.POP3(HOST, timeout=CLIENT_S)
            client.user(user)
            client.pass_(PASSWORD)
            found += [(user, b"\r\n".join(client.retr(n + 1)[1]) + b"\r\n") for n in range(client.stat()[0])]
            client.quit()
    sums = board.sh("cd /var/lib/posthouse/spool/queue && find . -name '*.eml' -exec sha256sum {} +", seconds=CLIENT_S)
    found += [(SPOOL, spooled[line.split()[0]]) for line in sums.splitlines()]
    assert len(json.loads(board.sh("posthouse queue --json", seconds=CLIENT_S))) == len(sums.splitlines())
    return found


@dataclasses.dataclass
class Recording:
    base: Path
    log: WriteLog
    load: Load
    began: int


def record(
    start: Callable[..., Board], stick: Path, image: Path, lan: Namespace, folder: Path, rng: random.Random,
    before: Callable[[Board], None] = lambda board: None,
) -> Recording:  # fmt: skip
    """A board's life from its very first power until the power goes in the middle of its work."""
    path = folder / "writes.log"
    board = ready(start("loaded", stick=stick, lan=lan, write_log=path))
    board.until("systemctl is-active --quiet posthouse-dovecot", "IMAP is ready", seconds=READY_S)
    before(board)
    load = Load(path, lan, MAILS, rng)
    began = load.length
    load.run()
    board.close()
    print(f"{len(load.mails)} mails, {sum(len(m.data) for m in load.mails)} bytes; read: {dict(load.rounds)}")
    assert min(load.rounds.values()) >= 1 and len(load.rounds) == 3, load.rounds
    log = WriteLog(path)
    return Recording(whole(image, folder / "base.raw", DISK_BYTES), log, load, log.behind(began))


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("POSTHOUSE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"POSTHOUSE_SEED={seed}")
    return random.Random(seed)


def cuts(made: Recording, folder: Path, rng: random.Random) -> Iterator[tuple[str, Path, int]]:
    """(what it is, the disk, how long the log was) at CUTS random places of the load; each disk is gone with the next."""
    positions = sorted(rng.sample(range(made.began + 1, len(made.log.entries) + 1), CUTS))
    for n, count in enumerate(positions):
        fate = (Fate.DROPPED, Fate.MIXED)[n % 2]
        disk = made.log.cut(made.base, folder / "cut.raw", count, fate, rng)
        yield (
            f"cut {n} behind entry {count} of {len(made.log.entries)}, unflushed writes {fate.value}",
            disk,
            made.log.entries[count - 1].end,
        )
        disk.unlink()


def test_every_accepted_mail_is_there_once_wherever_the_power_goes(
    start: Callable[..., Board],
    stick: Path,
    image: Path,
    lan: Namespace,
    folder: Path,
    tmp_path: Path,
    rng: random.Random,
) -> None:
    made = record(start, stick, image, lan, tmp_path, rng)
    booted = set(rng.sample(range(CUTS), BOOTED))
    for n, (what, disk, length) in enumerate(cuts(made, tmp_path, rng)):
        if n in booted:
            shutil.copyfile(disk, tmp_path / "again.raw")
            flash(tmp_path / "again.raw", folder / "again.qcow2")
        found = recovered(check_data(disk, tmp_path / "data"), tmp_path / f"recovered-{n}")
        wrong = judge(made.load.mails, found, length)
        print(
            f"{what}: {sum(m.accepted <= length for m in made.load.mails)} accepted, {len(found)} found, {len(wrong)} wrong"
        )
        assert not wrong, f"{what}: " + "\n".join(wrong)
        if n in booted:
            board = ready(start("again", lan=lan))
            spooled = {sha256(data).hexdigest(): data for place, data in found if place == SPOOL}
            wrong = judge(made.load.mails, served(board, lan, spooled), length)
            assert not wrong, f"{what}, booted: " + "\n".join(wrong)
            is_well(board)
            board.close()
            (folder / "again.qcow2").unlink()


def test_a_board_whose_posthouse_waits_for_no_disk_is_found_out(
    start: Callable[..., Board], stick: Path, image: Path, lan: Namespace, tmp_path: Path, rng: random.Random
) -> None:
    """Of the test above: that it can fail."""

    def change(board: Board) -> None:
        board.sh(f"( {WITHOUT_FLUSHES} )", seconds=READY_S)

    made = record(start, stick, image, lan, tmp_path, rng, change)
    lost = 0
    for n, (what, disk, length) in enumerate(cuts(made, tmp_path, rng)):
        found = recovered(check_data(disk, tmp_path / "data"), tmp_path / f"recovered-{n}")
        wrong = judge(made.load.mails, found, length)
        print(f"{what}: {len(wrong)} wrong")
        lost += bool(wrong)
    assert lost > CUTS // 2
