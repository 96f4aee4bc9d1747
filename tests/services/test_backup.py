"""`posthouse backup` and `restore` on stored files: what comes back, what is refused, and a restore that is broken off at
each of its steps. (A backup while Posthouse runs: `interop/test_backup_running`.)
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from appliance import cli
from appliance.app import backup as room
from appliance.app.core import Core
from appliance.config.load import load
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_state, unlock
from fakes.config import HASH, SITE

CONFIG = SITE + f'state = "state"\nruntime = "run"\n[[user]]\nname = "hanako"\npassword = "{HASH}"\n'
FILES = {
    "spool/queue/1.eml": b"Subject: out\r\n\r\n1\r\n",
    "spool/queue/1.json": b"{}",
    "spool/hold/2.eml": b"Subject: held\r\n\r\n2\r\n",
    "mail/hanako/new/1.M1P1.harbour,S=5,W=5": b"new\r\n",
    "mail/hanako/cur/2.M1P1.harbour,S=5,W=5:2,S": b"cur\r\n",
    "mail/hanako/.Sent/cur/3.x:2,S": b"sent\r\n",
    "mail/hanako/dovecot-uidlist": b"3 V1 N3",
    "mail/tmp/cur/4.x": b"of a user with an odd name",
    "ledger": b"a line\n" * 1000,
    "relay/epoch": b"7",
    "keys/mail.key": b"secret",
    "config/revision-1.toml": b"[site]",
    "version": b"0.1.0\n",
}
LEFT_OUT = {
    "spool/incoming/x": b"half",
    "mail/hanako/tmp/y.draft": b"half",
    "mail/hanako/dovecot.index.cache": b"made anew",
}


class Site:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.file, self.state = folder, folder / "posthouse.toml", folder / "state"

    def fill(self, files: dict[str, bytes], config: str = CONFIG) -> Site:
        self.file.write_text(config)
        (self.folder / "secrets.toml").touch(0o600)
        (self.folder / "secrets.toml").write_text('isp = "geheim"\n')
        (self.folder / "mail.pem").write_text("certificate")
        for name, data in files.items():
            path = self.state / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, (1_700_000_000, 1_700_000_000))
        return self

    def files(self, *, but: tuple[str, ...] = ("before-restore",)) -> dict[str, bytes]:
        return {
            str(p.relative_to(self.state)): p.read_bytes()
            for p in self.state.rglob("*")
            if p.is_file() and p.relative_to(self.state).parts[0] not in but
        }

    def configuration(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.folder.iterdir() if p.is_file() and p.suffix != ".copy"}

    def run(self, verb: str, target: Path | str) -> int:
        return cli.main([verb, str(target), "--config", str(self.file)])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "old").fill({**FILES, **LEFT_OUT})


@pytest.fixture
def archive(site: Site, tmp_path: Path) -> Path:
    assert site.run("backup", tmp_path / "stick") == cli.OK
    return tmp_path / "stick/posthouse-backup.tar"


def test_everything_comes_back(site: Site, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = Site(tmp_path / "new")
    assert new.run("restore", archive.parent) == cli.OK, capsys.readouterr().err
    assert new.files() == FILES
    assert new.configuration() == site.configuration()
    assert (new.folder / "secrets.toml").stat().st_mode & 0o777 == 0o600
    # A Maildir's time is the time of arrival.
    assert {int((new.state / name).stat().st_mtime) for name in FILES} == {1_700_000_000}
    assert load(new.file).user[0].name == "hanako"
    assert archive.stat().st_mode & 0o777 == 0o600
    assert set(os.listdir(archive.parent)) == {archive.name}


def test_a_restore_replaces_and_keeps_what_was_there(site: Site, archive: Path, tmp_path: Path) -> None:
    other = Site(tmp_path / "new").fill({"ledger": b"other", "mail/taro/new/9.x": b"kept aside"})
    assert other.run("restore", archive) == cli.OK
    assert other.files() == FILES
    assert (other.state / "before-restore/mail/taro/new/9.x").read_bytes() == b"kept aside"
    assert (other.state / "before-restore/ledger").read_bytes() == b"other"


def test_other_tools_read_it(archive: Path, tmp_path: Path) -> None:
    import subprocess

    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert (tmp_path / "state/ledger").read_bytes() == FILES["ledger"]


def test_by_standard_streams(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    assert site.run("backup", "-") == cli.OK
    monkeypatch.undo()
    data = out.buffer.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    new = Site(tmp_path / "new")
    assert new.run("restore", "-") == cli.OK
    assert new.files() == FILES


def refused(new: Site, archive: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A restore that fails and changes nothing; -> why."""
    before = new.files(but=()), new.configuration()
    capsys.readouterr()
    assert new.run("restore", archive) == cli.FAILED
    assert (new.files(but=()), new.configuration()) == before
    assert not (new.state / "restoring").exists()
    assert not (new.state / "restore").exists()
    said = capsys.readouterr().err
    assert said.startswith("posthouse: ") and said.count("\n") == 1, said
    return said


def test_a_damaged_one_is_refused_wherever_it_is_damaged(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = Site(tmp_path / "new").fill({"ledger": b"other"})
    whole = archive.read_bytes()
    bad = tmp_path / "bad.tar"
    for length in [0, 1, 511, 512, 1024, *range(1536, len(whole) - 10240, 4096)]:
        bad.write_bytes(whole[:length])
        assert "nothing was changed" in refused(new, bad, capsys), length
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    for member in members:
        for place in (member.offset + 20, member.offset_data, member.offset_data + member.size // 2):
            changed = bytearray(whole)
            changed[place] ^= 1
            bad.write_bytes(changed)
            if changed[place] or place >= member.offset_data:
                assert "nothing was changed" in refused(new, bad, capsys), (member.name, place)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "state/../../outside", "other/file", "state/added"])
def test_an_entry_that_no_backup_has(
    name: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.tar"
    with tarfile.open(archive) as old, tarfile.open(bad, "w") as made:
        for member in old:
            if member.name == "SHA256SUMS":
                info = tarfile.TarInfo(name)
                info.size = 1
                made.addfile(info, io.BytesIO(b"x"))
            made.addfile(member, old.extractfile(member))
    refused(Site(tmp_path / "new").fill({"ledger": b"other"}), bad, capsys)
    assert not (tmp_path / "outside").exists()


def test_a_link_is_refused(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.tar"
    with tarfile.open(archive) as old, tarfile.open(bad, "w") as made:
        for member in old:
            if member.name == "state/ledger":
                info = tarfile.TarInfo("state/link")
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                made.addfile(info)
            made.addfile(member, old.extractfile(member))
    assert "state/link" in refused(Site(tmp_path / "new").fill({}), bad, capsys)


def test_what_is_not_there(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.run("restore", tmp_path / "nowhere") == cli.FAILED
    assert "nowhere" in capsys.readouterr().err
    assert Site(tmp_path / "empty").run("backup", tmp_path / "stick") == cli.USAGE
    assert "posthouse.toml" in capsys.readouterr().err


def test_while_a_posthouse_has_the_state(site: Site, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = lock_state(StatePaths(site.state))
    try:
        assert site.run("restore", archive) == cli.FAILED
        assert "systemctl stop posthouse" in capsys.readouterr().err
        assert site.run("backup", archive.parent) == cli.FAILED
        assert "does not answer" in capsys.readouterr().err
    finally:
        unlock([lock])
    assert site.files() == {**FILES, **LEFT_OUT}


class Failing(Disk):
    """Fails from its `number`-th change on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")


def _counting(name: str) -> Any:
    def method(self: Failing, *arguments: Any, **options: Any) -> Any:
        self._count()
        return getattr(Disk, name)(self, *arguments, **options)

    return method


for _name in ("rename", "unlink", "fsync", "syncfs"):
    setattr(Failing, _name, _counting(_name))


def test_broken_off_at_each_step_it_is_the_old_or_can_be_done_again(
    site: Site, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"ledger": b"other", "mail/taro/new/9.x": b"kept aside"}
    broken_off = 0
    for number in range(1000):
        new = Site(tmp_path / f"new{number}").fill(old)
        if room.restore(new.file, str(archive), Failing(number)) == cli.OK:
            break
        if (new.state / "restoring").exists():
            broken_off += 1
            with pytest.raises(OSError, match="a restore was broken off"):
                Core(load(new.file))
        elif new.files() == FILES:
            continue  # but for its last step it was done
        else:
            assert new.files() == old, number
            assert new.file.read_text() == CONFIG
        assert new.run("restore", archive) == cli.OK
        assert new.files() == FILES, number
        assert new.configuration() == site.configuration()
        kept = {str(p.relative_to(new.state / "before-restore")) for p in (new.state / "before-restore").rglob("*.x")}
        assert kept == {"mail/taro/new/9.x"}, number
    else:
        pytest.fail("it never came to its end")
    assert broken_off > 5
    capsys.readouterr()
