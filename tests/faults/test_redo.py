"""The redo log against a model: random batches on a few files, the power cut behind every operation. What the last
acknowledged batch left is there to the letter, but for files that a later batch has touched.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from appliance.storage.disk import Disk
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from appliance.storage.redo import HEADER_BYTES, RedoDisk

SEEDS = range(24)
FATES = [Fate.DROPPED, Fate.KEPT, Fate.TORN, Fate.MIXED]


class Life:
    """One random life of a disk. `acknowledged`: (operations so far, path -> content) behind each batch; `touched`:
    (operations before it, paths) of each batch."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.plain = RecordingDisk(root)
        self.log_bytes = HEADER_BYTES + self.rng.choice([600, 1500, 4000, 60_000])
        self.disk = RedoDisk(self.plain, root, log_bytes=self.log_bytes, large_bytes=200)
        self.files: dict[str, bytes] = {}
        self.linked: set[str] = set()
        self.acknowledged: list[tuple[int, dict[str, bytes]]] = []
        self.touched: list[tuple[int, set[str]]] = []
        self.names = 0
        self.former: dict[str, list[str]] = {}  # a file's name -> those that it had before

    def live(self) -> None:
        self.disk.mkdir(self.root / "a")
        self.disk.mkdir(self.root / "b")
        self.disk.open_log()
        self.acknowledged.append((len(self.plain.operations), {}))
        for _ in range(14):
            if self.rng.random() < 0.15:
                self.disk.checkpoint()
            drafts = [self._draft() for _ in range(self.rng.choice([0, 0, 0, 1]))]
            before, paths = len(self.plain.operations), set(drafts)
            self.disk.begin_batch()
            for name in drafts:
                self._rename(name, paths)
            for _ in range(self.rng.randint(1, 4)):
                self._change(paths)
            self.disk.make_durable(self.disk.end_batch(), self.root)
            self.touched.append((before, paths))
            self.acknowledged.append((len(self.plain.operations), dict(self.files)))

    def _free_name(self) -> str:
        """A name is one file's for ever: the rule that the redo log takes."""
        self.names += 1
        return f"{self.rng.choice('ab')}/{self.names}"

    def _data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([3, 40, 300]))

    def _write(self, name: str, *, append: bool) -> None:
        data = self._data()
        fd = self.disk.open_append(self.root / name) if append else self.disk.create(self.root / name)
        self.disk.write(fd, data)
        self.disk.close(fd)
        self.files[name] = self.files.get(name, b"") + data

    def _draft(self) -> str:
        """Written outside of the batch, as a large message is: no promise until it is renamed within one."""
        name = f"a/draft{self.names}-{self.rng.randrange(10**6)}"
        self._write(name, append=False)
        return name

    def _rename(self, old: str, paths: set[str]) -> None:
        former = self.former.pop(old, [])
        new = self.rng.choice([self._free_name(), *former])  # back again, as a message that was held
        self.former[new] = [*(f for f in former if f != new), old]
        self.disk.rename(self.root / old, self.root / new)
        self.files[new] = self.files.pop(old)
        if old in self.linked:
            self.linked.add(new)
        paths |= {old, new}

    def _change(self, paths: set[str]) -> None:
        own = sorted(n for n in self.files if n not in self.linked)
        what = self.rng.choice(["create", "append", "append", "rename", "unlink", "link", "truncate", "replace"])
        if what == "create" or not own:
            name = self._free_name()
            self._write(name, append=False)
            paths.add(name)
            return
        name = self.rng.choice(sorted(self.files) if what == "unlink" else own)
        paths.add(name)
        if what == "append":
            self._write(name, append=True)
        elif what == "rename":
            self._rename(name, paths)
        elif what == "unlink":
            self.disk.unlink(self.root / name)
            del self.files[name]
        elif what == "link":
            new = self._free_name()
            self.disk.link(self.root / name, self.root / new)
            self.files[new] = self.files[name]
            self.linked |= {name, new}  # a file with two names is not changed any more, as messages are not
            paths.add(new)
        elif what == "replace":  # as the ledger is shortened
            self.files[name] = self._data()
            self.disk.replace_file(self.root / name, self.files[name])
            paths.add(name + ".new")
        elif what == "truncate":
            fd = self.disk.open_append(self.root / name)
            self.disk.truncate(fd, len(self.files[name]) // 2)
            self.disk.close(fd)
            self.files[name] = self.files[name][: len(self.files[name]) // 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_is_there(seed: int, tmp_path: Path) -> None:
    (tmp_path / "life").mkdir()
    life = Life(tmp_path / "life", seed)
    life.live()
    for n in range(life.acknowledged[0][0], len(life.plain.operations) + 1):
        expected = next(files for at, files in reversed(life.acknowledged) if at <= n)
        acknowledged_at = next(at for at, _ in reversed(life.acknowledged) if at <= n)
        later = {p for before, paths in life.touched if before >= acknowledged_at for p in paths}
        for fate in FATES:
            root = tmp_path / f"{n}-{fate.name}"
            root.mkdir()
            power_cut(life.plain, n, fate, root, seed=n)
            disk = RedoDisk(Disk(), root, log_bytes=life.log_bytes)
            disk.open_log()
            where = f"seed {seed}, behind operation {n} ({life.plain.operations[n - 1]}), {fate}"
            found = {str(p.relative_to(root)): p.read_bytes() for f in "ab" for p in (root / f).iterdir()}
            for name in expected.keys() - later:
                assert found.get(name) == expected[name], f"{name} is not as it was acknowledged, {where}"
            for name in found.keys() - expected.keys() - later:
                assert "draft" in name or name.endswith(".new"), f"{name} came back, {where}"
            disk.close_log()


def test_an_idle_log_is_empty_and_costs_nothing(tmp_path: Path) -> None:
    plain = Disk()
    disk = RedoDisk(plain, tmp_path, log_bytes=HEADER_BYTES + 1000)
    disk.open_log()
    disk.begin_batch()
    fd = disk.create(tmp_path / "x")
    disk.write(fd, b"x")
    disk.close(fd)
    before = plain.flushes
    disk.make_durable(disk.end_batch(), tmp_path)
    assert plain.flushes == before + 1
    assert disk.dirty
    disk.checkpoint()
    before = plain.flushes
    disk.checkpoint()
    assert plain.flushes == before
    assert RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 1000).open_log() == 0


class Failing(Disk):
    """Fails the next flush of the file system, once, as the kernel tells of a lost write."""

    fails = 0

    def syncfs(self, path: Path) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EIO, "lost")
        Disk.syncfs(self, path)


def test_a_failed_flush_is_never_forgotten(tmp_path: Path) -> None:
    plain = Failing()
    disk = RedoDisk(plain, tmp_path, log_bytes=HEADER_BYTES + 1000)
    disk.open_log()
    disk.begin_batch()
    fd = disk.create(tmp_path / "x")
    disk.write(fd, b"x")
    disk.close(fd)
    disk.make_durable(disk.end_batch(), tmp_path)
    plain.fails = 1
    with pytest.raises(OSError, match="lost"):
        disk.checkpoint()
    assert disk.broken
    disk.checkpoint()  # would succeed now, and empty the log that alone has the file
    disk.begin_batch()
    disk.unlink(tmp_path / "x")
    with pytest.raises(OSError, match="an earlier flush failed"):
        disk.make_durable(disk.end_batch(), tmp_path)
    assert RedoDisk(Disk(), tmp_path, log_bytes=HEADER_BYTES + 1000).open_log() == 2
    assert (tmp_path / "x").read_bytes() == b"x"
