"""The disk's operations on a real file system, and the lock that keeps a second Posthouse out."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_state


def test_writes_append_and_pwrites_do_not(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.create(tmp_path / "x")
    disk.write(fd, b"abc")
    disk.write(fd, memoryview(bytearray(b"def")))
    disk.pwrite(fd, b"XY", 1)
    disk.close(fd)
    assert (tmp_path / "x").read_bytes() == b"aXYdef"
    fd = disk.open_append(tmp_path / "x")
    disk.write(fd, b"!")
    disk.truncate(fd, 5)
    disk.write(fd, b"?")
    disk.close(fd)
    assert (tmp_path / "x").read_bytes() == b"aXYde?"


def test_create_never_takes_what_is_there(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "x").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("x", "link"):
        with pytest.raises(FileExistsError):
            disk.create(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        disk.open_append(tmp_path / "none")


def test_a_write_that_the_kernel_takes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, real_pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:3]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_pwrite(fd, data[:3], at))
    disk = Disk()
    fd = disk.create(tmp_path / "x")
    disk.write(fd, b"0123456789")
    disk.pwrite(fd, b"abcdefg", 2)
    disk.close(fd)
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == b"01abcdefg9"


def test_folders_and_files_are_ours_alone(tmp_path: Path) -> None:
    disk = Disk()
    disk.mkdir(tmp_path / "a" / "b" / "c")
    disk.mkdir(tmp_path / "a" / "b" / "c")
    disk.close(disk.create(tmp_path / "a" / "x"))
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "x").stat().st_mode) == 0o600
    with pytest.raises(OSError, match="Not a directory"):
        disk.mkdir(tmp_path / "a" / "x" / "y")


def test_entries(tmp_path: Path) -> None:
    disk = Disk()
    for name in ("a", "b"):
        disk.replace_file(tmp_path / name, name.encode())
    disk.link(tmp_path / "a", tmp_path / "c")
    with pytest.raises(FileExistsError):
        disk.link(tmp_path / "a", tmp_path / "b")
    disk.rename(tmp_path / "a", tmp_path / "b")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"b": b"a", "c": b"a"}
    disk.unlink(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        disk.unlink(tmp_path / "b")


def test_flushes_are_counted(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.create(tmp_path / "x")
    disk.fsync(fd)
    disk.fdatasync(fd)
    disk.close(fd)
    disk.fsync_folder(tmp_path)
    disk.syncfs(tmp_path)
    assert disk.flushes == 4
    disk.replace_file(tmp_path / "y", b"data")
    assert disk.flushes == 6


def test_syncfs_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Disk().syncfs(tmp_path / "none")


def test_replace_file(tmp_path: Path) -> None:
    disk = Disk()
    path = tmp_path / "version"
    (tmp_path / "version.new").write_text("left behind by a power cut")
    disk.replace_file(path, b"one", mode=0o640)
    disk.replace_file(path, b"two", mode=0o640)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"version": b"two"}


def test_the_folders_of_a_state(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state")
    paths.make(Disk())
    paths.make(Disk())
    found = {str(p.relative_to(paths.root)) for p in paths.root.rglob("*")}
    expected = "spool spool/incoming spool/queue spool/hold spool/corrupt mail fetched keys relay"  # DESIGN §7
    assert found == set(expected.split())


def test_one_process_has_the_state(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    fd = lock_state(paths)
    with pytest.raises(BlockingIOError):
        lock_state(paths)
    code = (
        "import sys; from pathlib import Path; from appliance.storage.paths import *\n"
        "try: lock_state(StatePaths(Path(sys.argv[1])))\n"
        "except BlockingIOError: sys.exit(7)"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(run, timeout=30, check=False).returncode == 7
    os.close(fd)
    assert subprocess.run(run, timeout=30, check=False).returncode == 0
    os.close(lock_state(paths))


def test_the_lock_needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_state(StatePaths(tmp_path / "none"))
