"""Modems that fail as machines do: one that hangs, and one on USB that is pulled out in the middle of a call and comes back
under another name."""

from __future__ import annotations

import time

import pytest

from .conftest import Start
from .guest import Guest
from .provider import WORLD, Provider
from .site import JOURNAL, Site
from .site import prepare as prepare_site
from .telephone import PROVIDER, Telephone
from .test_ppp import message, subjects

RESET = "ATZ"
"""The rung of the recovery ladder from which the modem comes back here."""
LADDER_S = 100
"""As docs/operating.md has it."""


def test_a_modem_that_hangs_is_brought_back_in_the_same_call(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    site.start()
    site.send("somebody@world.example", message("waits"))
    telephone.mute()
    site.dial_nowait()
    site.guest.wait(f"grep -q 'now {RESET}' {JOURNAL}", "the ladder is at the reset")
    telephone.mute(False)
    call = site.wait_call_over()
    assert (call["outcome"], call["sent"], call["dials"]) == ("complete", 1, 1), call
    assert telephone.dials == [PROVIDER]
    journal = site.guest.get(JOURNAL).decode()
    assert journal.index("now DTR") < journal.index(f"now {RESET}") < journal.index("answers again")


@pytest.mark.long
def test_a_modem_that_is_dead_is_told_from_a_line_that_fails(
    site: Site, provider: Provider, telephone: Telephone
) -> None:
    site.start()
    site.send("somebody@world.example", message("waits"))
    telephone.mute()
    began = time.monotonic()
    call = site.dial()
    assert (call["outcome"], call["connected"], call["dials"]) == ("modem-silent", None, 0), call
    assert time.monotonic() - began < LADDER_S + 20
    assert telephone.dials == []
    telephone.mute(False)
    call = site.dial()
    assert (call["outcome"], call["sent"]) == ("complete", 1), call


def prepare_usb(guest: Guest) -> None:
    """A site's machine that names USB adapters as every Debian does."""
    prepare_site(guest)
    guest.sh("modprobe -a xhci_pci ftdi_sio; /usr/lib/systemd/systemd-udevd --daemon; udevadm trigger; udevadm settle")


@pytest.mark.long
def test_a_usb_modem_pulled_out_in_a_call_comes_back_as_another_tty(
    machine: Start, provider: Provider, telephone: Telephone
) -> None:
    guest = machine("usb-site", prepare_usb)
    site = Site(guest)
    modem = telephone.folder / "site.modem"
    guest.machine.plug_serial("modem", modem)
    guest.wait("test -e /dev/serial/by-id/*", "udev has named the adapter")
    (name,) = guest.sh("ls /dev/serial/by-id").split()
    site.line["port"] = f"/dev/serial/by-id/{name}"
    assert guest.sh(f"readlink -f {site.line['port']}").strip() == "/dev/ttyUSB0"
    site.start()
    for n in range(2):
        site.send("somebody@world.example", message(f"go-out-{n}", size=8_000))
    site.dial_nowait()
    telephone.wait_carried(4000)
    guest.machine.unplug_serial("modem")
    call = site.wait_call_over()
    assert call["outcome"] == "carrier-lost", call

    guest.wait("test ! -e /dev/ttyUSB0", "the adapter is gone")
    guest.machine.plug_serial("other", None)
    guest.wait("test -c /dev/ttyUSB0", "another adapter has taken its name")
    guest.machine.plug_serial("modem", modem)
    guest.wait(f"test $(readlink -f {site.line['port']}) = /dev/ttyUSB1", "the modem is back as another tty")
    provider.wait_free()
    call = site.dial()
    assert call["outcome"] == "complete", call
    arrived = subjects(provider.waiting(WORLD))
    assert sorted(set(arrived)) == ["go-out-0", "go-out-1"]
    assert len(arrived) <= 3
