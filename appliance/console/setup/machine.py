"""What the first start has to know of the machine: its network devices. Reads /sys and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Device", "network_devices"]

SYS_NET: Final = Path("/sys/class/net")


class Device(NamedTuple):
    """`state`: "cable" where there is a link, "no cable" where none is, "off" where it is not up."""

    name: str
    hardware: str
    state: str

    def __str__(self) -> str:
        return f"{self.name}  {self.hardware}  {self.state}"


def network_devices(folder: Path = SYS_NET) -> list[Device]:
    """Those that a piece of hardware is behind, in the order of their names."""
    found = []
    for path in sorted(folder.iterdir() if folder.is_dir() else []):
        if (path / "device").exists():
            state = {"1": "cable", "0": "no cable"}.get(_read(path / "carrier"), "off")
            found.append(Device(path.name, _read(path / "address"), state))
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:  # the carrier of a device that is not up
        return ""
