"""Whole folders: what lies in one, away with it, into other hands. Synchronous; nothing here is flushed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["files_below", "give", "remove"]


def files_below(folder: Path, *, leave_out: Iterable[str] = ()) -> Iterator[Path]:
    """Every regular file below, in order; `leave_out`: names of files and folders at any depth."""
    left = frozenset(leave_out)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in left or path.is_symlink():
            continue
        if path.is_dir():
            yield from files_below(path, leave_out=left)
        elif path.is_file():
            yield path


def give(folder: Path, owner: tuple[int, int]) -> None:
    """To that user and group, with all that lies in it; nothing where they are ours. Raises OSError."""
    if owner != (os.geteuid(), os.getegid()):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)


def remove(path: Path) -> None:
    """A file, or a folder with all that lies in it; nothing where there is none. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
