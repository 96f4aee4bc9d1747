"""Updates as a test needs them: of another version, for another board, with another key, tampered with, or with a system in
which Posthouse does not start. Made by the tools that scripts/build-image keeps under .cache/, in their own root.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .inject import ROOT

TOOL_S = 900.0
"""Packing a root takes a minute of an idle machine."""
MANIFEST = """[update]
compatible={compatible}
version={version}
build={build}
[bundle]
format=verity
[image.rootfs]
filename=rootfs.img
"""
COMPATIBLE = "posthouse-x86_64"
KEY, CERTIFICATE = ROOT / "update-key/key.pem", ROOT / "update-key/certificate.pem"
"""Which scripts/build-image makes where it is given none."""

BROKEN = """#!/usr/bin/python3
import sys
from pathlib import Path
from appliance.storage import journal

def add(path, *records):
    with path.open("ab") as file:
        file.write(journal.encode(records))

state = Path("/var/lib/posthouse")
for envelope in state.glob("spool/queue/*.env"):
    add(envelope, {"routed": "by pigeon"})
if not (state / "spool/queue/newer.env").exists():
    (state / "spool/queue/newer.eml").write_bytes(b"Subject: of a newer version\\r\\n\\r\\n")
    add(state / "spool/queue/newer.env", {"id": "newer", "recipients": [], "priority": "whenever"})
add(state / "ledger", {"t": "weather", "id": 9, "rain": True})
(state / "version").write_text("99.0\\n")
print("posthouse: this version is broken", file=sys.stderr)
sys.exit(2)
"""
"""A version that writes what the one before does not know, and then does not start."""


class Tools:
    """The root with the image's tools, and a folder in it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self.folder = root, folder

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Tools]:
        roots = sorted((ROOT / ".cache").glob("image-base-amd64-*/tools"))
        assert roots, "no tools under .cache/: scripts/build-image makes them"
        with tempfile.TemporaryDirectory(dir=roots[-1], prefix="test.") as folder:
            yield cls(roots[-1], Path(folder))

    def run(self, *argv: str | Path) -> None:
        """Paths below `folder` are said as the root has them."""
        inside = [f"/{a.relative_to(self._root)}" if isinstance(a, Path) else a for a in argv]
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, self._root, *inside],
            check=True, timeout=TOOL_S, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def foreign_key(self) -> tuple[Path, Path]:
        """(key, certificate) that no image trusts."""
        key, certificate = self.folder / "foreign.key", self.folder / "foreign.pem"
        self.run("openssl", "req", "-quiet", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "7300", "-subj", "/CN=Foreign",
                 "-keyout", key, "-out", certificate)  # fmt: skip
        return key, certificate

    def bundle(
        self, to: Path, payload: Path, *, key: Path = KEY, certificate: Path = CERTIFICATE, compatible: str = COMPATIBLE,
        version: str = "99.0", build: str = "1",
    ) -> Path:  # fmt: skip
        """An update with `payload` as its root; -> `to`."""
        content = self.folder / "content"
        content.mkdir()
        shutil.copy(payload, content / "rootfs.img")
        (content / "manifest.raucm").write_text(MANIFEST.format(compatible=compatible, version=version, build=build))
        shutil.copy(key, self.folder / "key")
        shutil.copy(certificate, self.folder / "certificate")
        made = self.folder / "made.raucb"
        self.run(
            "rauc", f"--cert=/{self.folder.name}/certificate", f"--key=/{self.folder.name}/key", "bundle", content, made
        )
        shutil.rmtree(content)
        shutil.move(made, to)
        return to

    def broken_root(self, bundle: Path) -> Path:
        """A slot's root like the one in `bundle`, in which `posthouse run` is `BROKEN`."""
        update, content, root, packed = (self.folder / n for n in ("update", "content", "root", "broken.sqfs"))
        shutil.copy(bundle, update)
        self.run("unsquashfs", "-quiet", "-no-progress", "-d", content, update)  # a bundle is a squashfs too
        self.run("unsquashfs", "-quiet", "-no-progress", "-d", root, content / "rootfs.img")
        (root / "usr/bin/posthouse").write_text(BROKEN)
        self.run("mksquashfs", root, packed, "-comp", "gzip", "-Xcompression-level", "1", "-quiet", "-no-progress")
        for made in (root, content):
            shutil.rmtree(made)
        update.unlink()
        return packed


def tamper(bundle: Path, to: Path) -> Path:
    """The same bundle with a byte of its payload changed."""
    shutil.copy(bundle, to)
    with to.open("r+b") as file:
        file.seek(to.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes((byte[0] ^ 1,)))
    return to
