"""A modem on USB that comes back under another name is found again; one that only looks like it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from appliance.call import Dialled
from appliance.config.model import Bearer, Line
from appliance.modem.line import ModemLine
from appliance.modem.whereabouts import Whereabouts, identify
from fakes.modem import modem_on_pty


class Usb:
    """A sysfs as Linux lays it out (usb-serial: tty in the interface's folder and `port_number`; cdc-acm: the interface
    itself), and /dev."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys = root / "sys/class/tty"
        self.dev = root / "dev"
        self.by_id = self.dev / "serial/by-id"
        for folder in (self.sys, self.by_id):
            folder.mkdir(parents=True)
        self.platform("ttyS1")

    def platform(self, name: str) -> None:
        """A tty of the board's own."""
        place = self.root / "sys/devices/platform/serial8250"
        place.mkdir(parents=True, exist_ok=True)
        self._tty(name, place)

    def plug(
        self, name: str, serial: str = "A1", *, socket: str = "1-1.2", interface: str = "00", port: str | None = "0",
        ids: tuple[str, str] = ("12d1", "1506"),
    ) -> None:  # fmt: skip
        device = self.root / "sys/devices/pci0000:00/usb1/1-1" / socket
        place = device / f"{socket}:1.{int(interface)}"
        place.mkdir(parents=True, exist_ok=True)
        for file, text in (("idVendor", ids[0]), ("idProduct", ids[1]), ("serial", serial)):
            if text:
                (device / file).write_text(text + "\n")
            else:
                (device / file).unlink(missing_ok=True)
        (place / "bInterfaceNumber").write_text(interface + "\n")
        if port is not None:
            place = place / name
            place.mkdir()
            (place / "port_number").write_text(port + "\n")
        self._tty(name, place)

    def _tty(self, name: str, place: Path) -> None:
        tty = self.sys / name
        tty.mkdir()
        (tty / "device").symlink_to(place)
        (self.dev / name).touch()

    def unplug(self, name: str) -> None:
        place = (self.sys / name / "device").resolve()
        (self.sys / name / "device").unlink()
        (self.sys / name).rmdir()
        (self.dev / name).unlink()
        if (place / "port_number").exists():
            (place / "port_number").unlink()
            place.rmdir()

    def whereabouts(self, port: str = "ttyUSB0") -> Whereabouts:
        return Whereabouts("gsm", str(self.dev / port), sys=self.sys, dev=self.dev)


@pytest.fixture
def usb(tmp_path: Path) -> Usb:
    return Usb(tmp_path)


def learned(usb: Usb, port: str = "ttyUSB0") -> Whereabouts:
    where = usb.whereabouts(port)
    assert where.find() == str(usb.dev / port)
    where.remember()
    return where


def test_what_a_device_is(usb: Usb) -> None:
    usb.plug("ttyUSB0", "A1", interface="02", port="1")
    usb.plug("ttyACM0", "B2", socket="1-1.3", interface="00", port=None)
    one, two = identify("ttyUSB0", usb.sys), identify("ttyACM0", usb.sys)
    assert one is not None and (one.vendor, one.serial, one.interface, one.port) == ("12d1", "A1", "02", "1")
    assert two is not None and (two.serial, two.interface, two.port, two.socket) == ("B2", "00", "", "1-1.3")
    assert identify("ttyS1", usb.sys) is None and identify("ttyUSB9", usb.sys) is None


def test_another_name(usb: Usb, caplog: pytest.LogCaptureFixture) -> None:
    usb.plug("ttyUSB0")
    where = learned(usb)
    usb.unplug("ttyUSB0")
    assert where.find() == str(usb.dev / "ttyUSB0")  # it is nowhere: the error is of the configured port
    usb.plug("ttyUSB0", "OTHER", socket="1-1.4")  # something else has its name now
    usb.plug("ttyUSB1", socket="1-1.3")  # and it is in another socket, too
    for _ in range(3):
        assert where.find() == str(usb.dev / "ttyUSB1")
    where.remember()
    usb.unplug("ttyUSB1")
    usb.unplug("ttyUSB0")
    usb.plug("ttyUSB0")
    assert where.find() == str(usb.dev / "ttyUSB0")
    told = [r.getMessage() for r in caplog.records]
    assert told == [f"gsm: the modem of {usb.dev}/ttyUSB0 is {usb.dev}/ttyUSB1 now"]  # once


def test_one_of_a_devices_several_ttys(usb: Usb) -> None:
    """A module has its AT port on one of them; the others are of no use."""
    for number in range(3):
        usb.plug(f"ttyUSB{number}", interface=f"0{number}")
    where = learned(usb, "ttyUSB2")
    for number in range(3):
        usb.unplug(f"ttyUSB{number}")
    for number in range(3):
        usb.plug(f"ttyUSB{number + 3}", interface=f"0{number}")
    assert where.find() == str(usb.dev / "ttyUSB5")


@pytest.mark.parametrize(
    ("socket", "serial", "ids", "found"),
    [
        ("1-1.2", "", ("12d1", "1506"), True),  # no serial number: the same socket
        ("1-1.3", "", ("12d1", "1506"), False),  # or nobody can tell: another one may have another SIM
        ("1-1.2", "", ("12d1", "9999"), False),
        ("1-1.2", "X", ("12d1", "1506"), False),
    ],
)
def test_without_a_serial_number(usb: Usb, socket: str, serial: str, ids: tuple[str, str], found: bool) -> None:
    usb.plug("ttyUSB0", "")
    where = learned(usb)
    usb.unplug("ttyUSB0")
    usb.plug("ttyUSB1", serial, socket=socket, ids=ids)
    assert where.find() == str(usb.dev / ("ttyUSB1" if found else "ttyUSB0"))


def test_two_with_the_same_serial_number(usb: Usb) -> None:
    """Cheap adapters all have '0001'."""
    usb.plug("ttyUSB0", "0001", socket="1-1.2")
    usb.plug("ttyUSB1", "0001", socket="1-1.3")
    where = learned(usb, "ttyUSB1")
    usb.unplug("ttyUSB0")
    usb.unplug("ttyUSB1")
    usb.plug("ttyUSB2", "0001", socket="1-1.3")
    usb.plug("ttyUSB3", "0001", socket="1-1.2")
    assert where.find() == str(usb.dev / "ttyUSB2")


def test_a_name_under_by_id_is_followed(usb: Usb) -> None:
    link = usb.by_id / "usb-HUAWEI_Mobile_A1-if00-port0"
    usb.plug("ttyUSB0")
    link.symlink_to("../../ttyUSB0")
    where = Whereabouts("gsm", str(link), sys=usb.sys, dev=usb.dev)
    assert where.find() == str(link)
    where.remember()
    usb.unplug("ttyUSB0")
    usb.plug("ttyUSB1")
    assert where.find() == str(usb.dev / "ttyUSB1")  # udev is late
    link.unlink()
    assert where.find() == str(usb.dev / "ttyUSB1")
    link.symlink_to("../../ttyUSB1")
    assert where.find() == str(link)


def test_what_is_not_on_usb_is_where_it_is(usb: Usb) -> None:
    where = learned(usb, "ttyS1")
    usb.unplug("ttyS1")
    assert where.find() == str(usb.dev / "ttyS1")
    nowhere = Whereabouts("gsm", str(usb.dev / "ttyUSB7"), sys=usb.root / "no-sysfs", dev=usb.dev)
    nowhere.remember()
    assert nowhere.find() == str(usb.dev / "ttyUSB7")


async def test_a_line_goes_on_with_a_modem_that_came_back_elsewhere(usb: Usb) -> None:
    """On two pseudo-terminals in place of ttyUSB0 and ttyUSB1."""
    async with modem_on_pty() as (first, path), modem_on_pty() as (second, other):
        here, there = Path(path).name, Path(other).name
        usb.plug(here)
        config = Line(name="gsm", port=path, numbers=("1",), bearer=Bearer.NONE)
        line = ModemLine(config, whereabouts=Whereabouts("gsm", path, sys=usb.sys, dev=Path(path).parent))
        with trio.fail_after(30):
            assert await line.prepare() is None
            assert await line.dial("1") == Dialled(None, 9600, "CONNECT 9600")
            await line.hang_up()
            usb.unplug(here)
            usb.plug(there)
            assert await line.prepare() is None
            assert await line.dial("1") == Dialled(None, 9600, "CONNECT 9600")
            await line.hang_up()
        assert (len(first.dialled), len(second.dialled)) == (1, 1)
