"""An archive of files for the initramfs: what comes along into a machine at each boot, so that a change of code makes no
new root. The kernel unpacks archives that stand one behind the other.

The format is cpio's `newc` (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_FOLDER, _FILE = 0o040755, 0o100000


def archive(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """(path without a leading slash, contents, mode) each; folders are added where a path needs them."""
    out = bytearray()
    folders: set[str] = set()
    for inode, (path, data, mode) in enumerate(files, 1):
        for folder in list(Path(path).parents)[-2::-1]:
            if str(folder) not in folders:
                folders.add(str(folder))
                _entry(out, 0, str(folder), _FOLDER, b"")
        _entry(out, inode, path, _FILE | mode, data)
    _entry(out, 0, "TRAILER!!!", 0, b"")
    return bytes(out)


def _entry(out: bytearray, inode: int, path: str, mode: int, data: bytes) -> None:
    name = path.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    out += b"070701" + b"".join(b"%08X" % n for n in numbers) + name
    out += bytes(-len(out) % 4)
    out += data + bytes(-len(data) % 4)


def checkout() -> Iterable[tuple[str, bytes, int]]:
    """Posthouse as it is in this checkout, with its command, and the machine's own programs."""
    for path in sorted((ROOT / "appliance").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"inject/opt/posthouse/{path.relative_to(ROOT)}", path.read_bytes(), 0o644
    yield "inject/usr/local/lib/python3.13/dist-packages/posthouse.pth", b"/opt/posthouse\n", 0o644
    yield "inject/usr/local/bin/posthouse", b'#!/bin/sh\nexec python3 -m appliance "$@"\n', 0o755
    for name in ("init", "agent"):
        yield f"inject/usr/lib/guest/{name}", (ROOT / "tests/image/guest" / name).read_bytes(), 0o755
