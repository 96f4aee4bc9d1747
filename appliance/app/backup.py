"""`posthouse backup` and `restore`: the site as one archive (`storage.archive`), and back (DESIGN §6, §7).

    configuration/   posthouse.toml, secrets.toml, and the certificates beside them (*.pem)
    state/           what lies under `site.state`, but for what was never accepted and what can be made anew

While a Posthouse runs it is asked for a snapshot, a folder in its state in which mail is linked and everything else is
copied between two batches of the committer: so the archive is of one moment. Where none runs the files themselves are
read, under the state's lock.

A restore reads the whole archive into a folder of the state and checks it, before anything is changed. Then what was
there is moved to `before-restore/`, and what came takes its place. Between the two a mark stands in the state: a start
that finds it refuses (`app.core`), and the same restore, done again, completes it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from appliance import __version__
from appliance.clock import rfc3339
from appliance.config import copies
from appliance.config.faults import ConfigErrors
from appliance.config.whereabouts import whereabouts
from appliance.storage.archive import Damaged, Reader, Sink, Writer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths, lock_folders, unlock
from appliance.storage.trees import files_below, give, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["backup", "drop_snapshot", "make_snapshot", "restore"]

OK, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3

FILE_NAME: Final = "posthouse-backup.tar"
STANDARD_STREAM: Final = "-"
CONFIGURATION, STATE = "configuration/", "state/"
TRIES: Final = 5
"""Passes of a snapshot over the mailboxes, in which Dovecot may move a message meanwhile."""
SECRETS_MODE, CONFIG_MODE = 0o600, 0o640


# ---- what belongs to a site
def state_files(paths: StatePaths, root: Path) -> Iterator[Path]:
    """Those that make the state, below `root`, which is the state or a snapshot of it."""
    ours = {p.name for p in (paths.snapshot, paths.restored, paths.restoring, paths.before_restore)}
    for entry in sorted(root.iterdir()):
        if entry.name in ours:
            continue
        if entry.name == paths.mail.name:
            for user in sorted(entry.iterdir()):
                # What a client's message is written into, and what Dovecot makes anew.
                yield from (p for p in files_below(user, leave_out=("tmp",)) if not p.name.startswith("dovecot.index"))
        elif entry.name == paths.queue.parent.name:
            for folder in sorted(entry.iterdir()):
                if folder.name != paths.incoming.name:
                    yield from files_below(folder)
        elif entry.is_dir():
            yield from files_below(entry)
        elif entry.is_file():
            yield entry


def configuration_files(file: Path) -> list[tuple[str, Path]]:
    """(name in the archive's folder, where)."""
    beside = [file.with_name("secrets.toml"), *sorted(file.parent.glob("*.pem"))]
    found = [("posthouse.toml", file), *((path.name, path) for path in beside)]
    return [(name, path) for name, path in found if path.is_file()]


# ---- while a Posthouse runs: its part
def make_snapshot(paths: StatePaths, disk: Disk) -> None:
    """For a committer's batch; `disk` is not the one with the redo log, since nobody needs this after a power cut."""
    drop_snapshot(paths)
    for _ in range(TRIES):
        moved = False
        for path in state_files(paths, paths.root):
            if path.name == "redo" and path.parent == paths.root:
                continue  # what it holds is in the files too
            to = paths.snapshot / path.relative_to(paths.root)
            if to.exists():
                continue
            disk.mkdir(to.parent)
            try:
                _take(disk, path, to, is_mail=_is_mail(paths, path))
            except FileNotFoundError:
                moved = True
        if not moved:
            return


def _is_mail(paths: StatePaths, path: Path) -> bool:
    """Whether its bytes never change under this name."""
    return path.suffix == ".eml" or (paths.mail in path.parents and path.parent.name in ("new", "cur"))


def _take(disk: Disk, path: Path, to: Path, *, is_mail: bool) -> None:
    if is_mail:
        disk.link(path, to)
        return
    data, status = path.read_bytes(), path.stat()
    fd = disk.create(to)
    try:
        disk.write(fd, data)
    finally:
        disk.close(fd)
    os.utime(to, ns=(status.st_mtime_ns, status.st_mtime_ns))


def drop_snapshot(paths: StatePaths) -> None:
    """Nothing where there is none. Raises OSError."""
    remove(paths.snapshot)


# ---- backup
def backup(file: Path, target: str, ask: Callable[[str, dict[str, Any]], tuple[Any, int]]) -> int:
    """-> the exit code. `ask(verb, arguments)` of the running Posthouse: its result and code; NOT_RUNNING, without a
    word, where none runs."""
    if target == STANDARD_STREAM and sys.stdout.isatty():
        return _say("standard output is a terminal, and a backup is not for one", USAGE)
    try:
        paths = StatePaths(whereabouts(file).state)
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return USAGE
    _, code = ask("backup", {})
    if code not in (OK, NOT_RUNNING):
        return int(code)
    try:
        if code == OK:
            try:
                return _write(file, paths, paths.snapshot, target)
            finally:
                ask("backup-over", {})
        locks = lock_folders(paths.root)
        try:
            return _write(file, paths, paths.root, target)
        finally:
            unlock(locks)
    except BlockingIOError:
        return _say(
            "a Posthouse runs on this state and does not answer at its control socket: it is starting, or it hangs",
            FAILED,
        )
    except (OSError, Damaged) as error:
        return _say(_sentence(error), FAILED)


def _write(file: Path, paths: StatePaths, root: Path, target: str) -> int:
    if target == STANDARD_STREAM:
        _archive(sys.stdout.buffer, file, paths, root)
        sys.stdout.buffer.flush()
        return OK
    disk = Disk()
    place = _place(target)
    disk.mkdir(place.parent)
    draft = place.with_name(place.name + ".new")
    with suppress(FileNotFoundError):
        disk.unlink(draft)
    fd = disk.create(draft)
    try:
        count = _archive(Sink(disk, fd), file, paths, root)  # type: ignore[arg-type]  # it is written to, no more
        disk.fsync(fd)
    finally:
        disk.close(fd)
    with draft.open("rb") as written:  # as it will be read once
        for _ in Reader(written).members():
            pass
    size = draft.stat().st_size
    disk.rename(draft, place)
    disk.fsync_folder(place.parent)
    print(f"{count} files, {size / 1e6:.1f} MB: {place}")
    return OK


def _archive(stream: IO[bytes], file: Path, paths: StatePaths, root: Path) -> int:
    configuration = {name: path.read_bytes() for name, path in configuration_files(file)}
    # Its sums come first too: it says where the state goes, before the end of the archive is read.
    sums = {name: _sum(data) for name, data in configuration.items()}
    writer = Writer(stream, {"posthouse": __version__, "made": rfc3339(time.time()), "configuration": sums})
    for name, data in configuration.items():
        writer.add_bytes(CONFIGURATION + name, data)
    state = [(STATE + str(p.relative_to(root)), p) for p in state_files(paths, root)]
    count = sum(writer.add_file(name, path) for name, path in state)
    writer.close()
    return count + len(configuration)


def _place(target: str) -> Path:
    """A folder has the archive in it; a name with .tar is the archive itself."""
    path = Path(target)
    return path if path.suffix == ".tar" and not path.is_dir() else path / FILE_NAME


# ---- restore
def restore(file: Path, source: str, disk: Disk | None = None) -> int:
    """-> the exit code. `file` is where the configuration goes; its `site.state` says where the state does."""
    disk = disk or Disk()
    try:
        if source == STANDARD_STREAM:
            return _restore(file, sys.stdin.buffer, disk)
        with _place(source).open("rb") as stream:
            return _restore(file, stream, disk)
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return FAILED
    except BlockingIOError:
        return _say("a Posthouse runs on this state; end it first (systemctl stop posthouse)", FAILED)
    except Damaged as damaged:
        return _say(f"{damaged}; nothing was changed", FAILED)
    except OSError as error:
        return _say(_sentence(error), FAILED)


def _restore(file: Path, stream: IO[bytes], disk: Disk) -> int:
    reader = Reader(stream)
    configuration: dict[str, bytes] = {}
    count = 0
    paths: StatePaths | None = None
    with ExitStack() as ending:
        for member in reader.members():
            if member.name.startswith(CONFIGURATION) and paths is None:
                configuration[member.name.removeprefix(CONFIGURATION)] = reader.read(member)
            elif member.name.startswith(STATE):
                paths = paths or _begin(file, configuration, reader.about, disk, ending)
                reader.extract(member, disk, paths.restored / member.name.removeprefix(STATE))
                count += 1
            else:
                raise Damaged(f"it has an entry that no backup has: {member.name!r}")
        paths = paths or _begin(file, configuration, reader.about, disk, ending)
        status = paths.root.stat()
        owner = (status.st_uid, status.st_gid)
        give(paths.restored, owner)
        _exchange(paths, disk)
        _configure(file, configuration, disk, owner)
        disk.syncfs(paths.root)
        disk.unlink(paths.restoring)
        disk.fsync_folder(paths.root)
    before = f"what was there before is in {paths.before_restore}"
    print(f"{count} files restored to {paths.root}, the configuration to {file}; {before}")
    return OK


def _begin(
    file: Path, configuration: dict[str, bytes], about: dict[str, Any], disk: Disk, ending: ExitStack
) -> StatePaths:
    """The state's, locked until `ending`, with an empty folder for what comes."""
    if "posthouse.toml" not in configuration:
        raise Damaged("it has no configuration")
    if {name: _sum(data) for name, data in configuration.items()} != about.get("configuration"):
        raise Damaged("its configuration is not as it was written")
    paths = StatePaths(whereabouts(file, configuration["posthouse.toml"]).state)
    disk.mkdir(paths.root)
    ending.callback(unlock, lock_folders(paths.root))
    ending.callback(remove, paths.restored)
    remove(paths.restored)
    disk.mkdir(paths.restored)
    return paths


def _exchange(paths: StatePaths, disk: Disk) -> None:
    """What was checked takes the place of what is there. Everything of it is on stable storage before."""
    disk.syncfs(paths.root)
    kept = (paths.restored, paths.restoring, paths.before_restore)
    if paths.restoring.exists():  # broken off before: `before_restore` is whole by name, and here lies a mixture
        for entry in [e for e in paths.root.iterdir() if e not in kept]:
            to = paths.before_restore / entry.name
            if to.exists():
                remove(entry)
            else:
                disk.rename(entry, to)
    else:
        remove(paths.before_restore)
        disk.mkdir(paths.before_restore)
        disk.close(disk.create(paths.restoring))
        disk.syncfs(paths.root)
        for entry in [e for e in paths.root.iterdir() if e not in kept]:
            disk.rename(entry, paths.before_restore / entry.name)
    for entry in list(paths.restored.iterdir()):
        disk.rename(entry, paths.root / entry.name)


def _configure(file: Path, configuration: dict[str, bytes], disk: Disk, owner: tuple[int, int]) -> None:
    """The configuration itself goes last: with it the site is there."""
    disk.mkdir(file.parent)
    for name, data in configuration.items():
        if name != "posthouse.toml":
            disk.replace_file(file.with_name(name), data, mode=SECRETS_MODE, owner=owner)
    disk.replace_file(file, configuration["posthouse.toml"], mode=CONFIG_MODE, owner=owner)
    copies.write(disk, file, configuration["posthouse.toml"])


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return str(error)


def _say(text: str, code: int) -> int:
    print(f"posthouse: {text}", file=sys.stderr)
    return code
