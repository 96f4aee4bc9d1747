"""The configuration file and its second copy beside it, `FILE.copy`, which begins with its own sum.

A power cut or a worn card can leave a file of NULs, or an empty one, where a good one was. Such a file is no
configuration that a person wrote: then the copy counts, if its sum holds. Any other file is a person's, whatever is in
it, and counts as it stands.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["copy_of", "damaged", "read", "write"]

_MARK: Final = b"# posthouse copy sha256:"


def copy_of(file: Path) -> Path:
    return file.with_name(file.name + ".copy")


def damaged(data: bytes) -> bool:
    """Whether these bytes are what a power cut leaves, and nobody's configuration."""
    return not data or b"\0" in data


def read(file: Path) -> bytes:
    """The file's bytes, or the copy's where the file is damaged and the copy whole. Raises OSError."""
    data = file.read_bytes()
    if damaged(data):
        copied = _copied(file)
        return data if copied is None else copied
    return data


def write(disk: Disk, file: Path, data: bytes) -> None:
    """Both, durably, the file first; either is whole at every moment. Mode and owner stay. Raises OSError."""
    for path, content in ((file, data), (copy_of(file), _MARK + _sum(data) + b"\n" + data)):
        like = path if path.exists() else file
        stat = like.stat() if like.exists() else None
        if stat is None:
            disk.replace_file(path, content)
        else:
            disk.replace_file(path, content, mode=stat.st_mode & 0o777, owner=(stat.st_uid, stat.st_gid))


def _copied(file: Path) -> bytes | None:
    """What the copy holds; None where there is none, or it is damaged too."""
    try:
        raw = copy_of(file).read_bytes()
    except OSError:
        return None
    head, _, data = raw.partition(b"\n")
    return data if head == _MARK + _sum(data) else None


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
