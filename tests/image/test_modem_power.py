"""The last rung of the recovery ladder on a kernel's pin: an arm64 machine with a GPIO chip (PL061), Posthouse in it, and its
modem's power on one of the chip's outputs. What is on the pin is read from outside, in the emulated chip itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Start
from .guest import Guest
from .inject import ROOT
from .machines import Snapshots, make_boot
from .provider import WORLD, Provider
from .qemu import Machine
from .site import JOURNAL, ORDINARY, Site
from .site import prepare as prepare_site
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

pytestmark = [pytest.mark.long, pytest.mark.seconds(1200)]

CHIP, PIN = "gpiochip0", 5
"""Pin 3 is the machine's power button."""
REGISTERS = 0x0903_0000
"""Where QEMU's `virt` has the chip (hw/arm/virt.c)."""
DATA, DIRECTION = REGISTERS + 0x3FC, REGISTERS + 0x400
"""Its registers (ARM DDI 0190, 3.2): the pins, all of them by this address, and which of them are outputs."""
OFF_S = 5.0
"""As docs/operating.md has it."""
LADDER_S = 100
LOOK_S = 0.02
PORT = "/dev/ttyS0"
RULES = "usr/lib/udev/rules.d/90-posthouse.rules"


class Outlet(threading.Thread):
    """The modem's power: off while the pin is driven low, on while it is high or nobody drives it, as with a pull-up. A modem
    that hangs is well again after it was off for `OFF_S`.

    `offs`: (at least, at most) seconds of each time that it was off; the truth is between them however busy the host is.
    """

    def __init__(self, machine: Machine, telephone: Telephone) -> None:
        super().__init__(name="outlet", daemon=True)
        self.machine, self.telephone = machine, telephone
        self.offs: list[tuple[float, float]] = []
        self._end = threading.Event()

    def run(self) -> None:
        last_on = off_begins = off_ends = time.monotonic()
        was_on = True
        while not self._end.wait(LOOK_S):
            begun = time.monotonic()
            outputs, pins = self._read(DIRECTION), self._read(DATA)
            done = time.monotonic()
            on = not outputs >> PIN & 1 or bool(pins >> PIN & 1)
            assert not outputs & ~(1 << PIN), f"other pins were made outputs: {outputs:#x}"
            if on and not was_on:
                self.offs.append((off_ends - off_begins, done - last_on))
                if done - last_on >= OFF_S:
                    self.telephone.mute(False)
            elif was_on and not on:
                off_begins = done
            if on:
                last_on = begun
            else:
                off_ends = begun
            was_on = on

    def end(self) -> None:
        self._end.set()
        self.join()

    def registers(self) -> tuple[int, int]:
        """(which pins are outputs, what is on the pins), once nobody looks any more."""
        assert not self.is_alive()
        return self._read(DIRECTION), self._read(DATA)

    def _read(self, address: int) -> int:
        said = self.machine.command("human-monitor-command", **{"command-line": f"xp /1xw {address:#x}"})
        return int(said.partition(":")[2], 16)


def prepare(guest: Guest) -> None:
    """A site's machine whose devices udev hands over as on the image."""
    prepare_site(guest)
    guest.put(f"/{RULES}", (ROOT / "rootfs-overlay" / RULES).read_bytes())
    guest.sh("/usr/lib/systemd/systemd-udevd --daemon; udevadm trigger --subsystem-match=gpio; udevadm settle")


@pytest.fixture(scope="module")
def boards(folder: Path) -> Snapshots:
    (folder / "arm64").mkdir()
    return Snapshots(folder / "arm64", make_boot(folder, "aarch64"))


@pytest.fixture
def site(machine: Start, boards: Snapshots, telephone: Telephone) -> Site:
    """Posthouse as its own user, its modem at a port of the arm64 machine, the power on a pin."""
    site = Site(machine("board", prepare, modem=telephone.folder / "site.modem", kind=boards))
    site.line.update(port=PORT, power_gpio=f"{CHIP}:{PIN}")
    site.become_ordinary()
    return site


@pytest.fixture
def outlet(site: Site, telephone: Telephone) -> Iterator[Outlet]:
    outlet = Outlet(site.guest.machine, telephone)
    outlet.start()
    try:
        yield outlet
    finally:
        outlet.end()


def test_a_hung_modem_gets_its_power_cut_by_a_pin(
    site: Site, outlet: Outlet, provider: Provider, telephone: Telephone
) -> None:
    guest = site.guest
    assert "pl061" in guest.sh(f"gpiodetect {CHIP}")
    assert guest.sh(f"stat -c '%G %a' /dev/{CHIP}").split() == [ORDINARY, "660"]
    site.start()
    site.send("somebody@world.example", message("waits"))
    telephone.mute()
    began = time.monotonic()
    call = site.dial()
    print(f"the call took {time.monotonic() - began:.0f} s, the power was off for {outlet.offs} s")
    assert (call["outcome"], call["sent"], call["dials"]) == ("complete", 1, 1), call
    assert telephone.dials == [PROVIDER]
    assert subjects(provider.waiting(WORLD)) == ["waits"]
    ((at_least, at_most),) = outlet.offs
    assert at_least > 0 and at_most >= OFF_S

    journal = guest.get(JOURNAL).decode()
    print("\n".join(line for line in journal.splitlines() if "the modem" in line))
    rungs = ["now DTR, +++ and ATH", "now ATZ", f"now power off for 5 s ({CHIP}:{PIN})", "(its power was off)"]
    at = [journal.index(rung) for rung in rungs]
    assert at == sorted(at)
    site.stop()
    outlet.end()
    assert outlet.registers() == (1 << PIN, 1 << PIN), "the modem keeps its power when Posthouse ends"


def test_a_pin_that_somebody_else_has_is_left_alone(site: Site, outlet: Outlet, telephone: Telephone) -> None:
    site.guest.daemon("gpioset", "-c", CHIP, f"{PIN}=active", log="/run/gpioset.log")
    site.guest.wait(f"gpioinfo -c {CHIP} {PIN} | grep -q output", "the pin is held")
    site.start()
    telephone.mute()
    began = time.monotonic()
    call = site.dial()
    assert (call["outcome"], call["dials"]) == ("modem-silent", 0), call
    assert time.monotonic() - began < LADDER_S + 20
    assert (
        f"its power can't be switched: {CHIP}:{PIN}: [Errno 16] Device or resource busy"
        in site.guest.get(JOURNAL).decode()
    )
    assert outlet.offs == []
