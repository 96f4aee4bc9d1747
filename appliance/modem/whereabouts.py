"""Where a line's modem is now: one on USB may come back under another name (ttyUSB0 as ttyUSB1) after it was reset, was
pulled out, or lost its power.

It owns the knowledge of which device the modem is, learned from sysfs once the modem has answered. It must not know
what is said to it. Nothing is remembered over a restart: who wants that configures the port by a name under
/dev/serial/by-id, which udev keeps, and which is followed here like any other.

A device is the same when vendor, product, interface and the port of its adapter are, and its serial number; where it
has none, or several have the same, the socket that it is plugged into. Never a mere look-alike: another modem may have
another SIM, and a PIN must not get there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance import events

__all__ = ["UsbDevice", "Whereabouts", "identify"]

SYS_TTY: Final = Path("/sys/class/tty")
DEV: Final = Path("/dev")


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """`socket` is the kernel's name of the place on the bus, "1-1.2"; `interface` and `port` tell a device's ttys
    apart."""

    vendor: str
    product: str
    serial: str
    interface: str
    port: str
    socket: str

    def same(self, other: UsbDevice) -> bool:
        """But for the socket."""
        return (self.vendor, self.product, self.serial, self.interface, self.port) == (
            other.vendor, other.product, other.serial, other.interface, other.port,
        )  # fmt: skip


def identify(tty: str, sys: Path = SYS_TTY) -> UsbDevice | None:
    """The USB device behind a tty (kernel's Documentation/ABI/testing/sysfs-bus-usb); None for one that is not on
    USB, or not there."""
    try:
        place = (sys / tty / "device").resolve(strict=True)
    except OSError:
        return None
    interface = ""
    for folder in (place, *place.parents):
        interface = interface or _read(folder / "bInterfaceNumber")
        vendor = _read(folder / "idVendor")
        if vendor:
            product, serial = _read(folder / "idProduct"), _read(folder / "serial")
            return UsbDevice(vendor, product, serial, interface, _read(place / "port_number"), folder.name)
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


class Whereabouts:
    """Of one line's `port`. `sys` and `dev` are for tests."""

    def __init__(self, line: str, port: str, *, sys: Path = SYS_TTY, dev: Path = DEV) -> None:
        self._line = line
        self._port = port
        self._sys = sys
        self._dev = dev
        self._known: UsbDevice | None = None
        self._at = port

    def find(self) -> str:
        """The path to open."""
        at = self._port
        if self._known is not None and not self._is_known(identify(self._name(at), self._sys)):
            at = self._elsewhere(self._known) or at
        if at != self._at and at != self._port:
            events.emit(events.MODEM_ELSEWHERE, line=self._line, serial_port=self._port, found_at=at)
        self._at = at
        return at

    def remember(self) -> None:
        """The modem has answered where `find` said."""
        self._known = identify(self._name(self._at), self._sys)

    def _name(self, path: str) -> str:
        try:
            return Path(path).resolve().name  # what a link of udev's leads to
        except (OSError, RuntimeError):
            return Path(path).name

    def _is_known(self, there: UsbDevice | None) -> bool:
        return self._known is not None and there is not None and there.same(self._known)

    def _elsewhere(self, known: UsbDevice) -> str:
        """The path; "" where it is nowhere, or nobody can tell."""
        try:
            names = sorted(tty.name for tty in self._sys.iterdir())
        except OSError:
            return ""
        found = [(name, device) for name in names if (device := identify(name, self._sys)) and device.same(known)]
        if not known.serial or len(found) > 1:
            found = [(name, device) for name, device in found if device.socket == known.socket]
        return str(self._dev / found[0][0]) if len(found) == 1 else ""
