"""LEDs and the reset button on a kernel: a keyboard made by uinput has both, and tells what its LEDs do. Udev hands the LEDs
over by our rules, Posthouse drives them as its own user, the kernel's triggers make them blink.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from appliance.host.led_table import FAST, FAULTS, OFF, ON, SLOW, TRAFFIC

from .guest import Guest
from .inject import ROOT
from .site import JOURNAL, ORDINARY, Site

pytestmark = [pytest.mark.long, pytest.mark.seconds(900)]

LOG, PRESSES, LEDS = "/run/leds.log", "/run/presses", "/sys/class/leds"
KEYBOARD = r"""
import fcntl, os, select, struct, time
EV_SYN, EV_KEY, EV_LED, KEY_RESTART = 0, 1, 0x11, 0x198
fd = os.open("/dev/uinput", os.O_RDWR)
for request, value in ((0x40045564, EV_KEY), (0x40045565, KEY_RESTART), (0x40045564, EV_LED)):
    fcntl.ioctl(fd, request, value)
for led in range(4):
    fcntl.ioctl(fd, 0x40045569, led)
fcntl.ioctl(fd, 0x405C5503, struct.pack("HHHH80sI", 3, 1, 1, 1, b"board", 0))
fcntl.ioctl(fd, 0x5501)
os.mkfifo("/run/presses")
presses = os.open("/run/presses", os.O_RDWR)
log = open("/run/leds.log", "w", buffering=1)

def emit(kind, code, value):
    os.write(fd, struct.pack("@llHHi", 0, 0, kind, code, value))

while True:
    for ready in select.select([fd, presses], [], [])[0]:
        if ready == fd:
            seconds, micros, kind, code, value = struct.unpack("@llHHi", os.read(fd, 24))
            if kind == EV_LED:
                log.write(f"{seconds + micros / 1e6:.6f} {code} {value}\n")
        else:
            for held in os.read(presses, 100).split():
                emit(EV_KEY, KEY_RESTART, 1); emit(EV_SYN, 0, 0)
                time.sleep(float(held))
                emit(EV_KEY, KEY_RESTART, 0); emit(EV_SYN, 0, 0)
"""
"""Its LEDs in turn: numlock, capslock, scrolllock, compose (linux/input-event-codes.h)."""
SHOW = """
import sys
from pathlib import Path
from appliance.host import led_table
from appliance.host.leds import show_once
name, pattern, device = sys.argv[1:]
known = {row.pattern.name: row.pattern for row in led_table.TABLE}
show_once(Path("/sys/class/leds") / name, known[pattern], device)
"""
LISTEN = """
import trio
from appliance.host.button import Press, find, meaning, presses
async def main():
    left = 3
    async for what in presses(find()):
        if isinstance(what, Press):
            print(meaning(what).value, round(what, 1), flush=True)
            left -= 1
        if not left:
            return
trio.run(main)
"""


@pytest.fixture
def leds(site: Site) -> list[str]:
    """The names of the four, handed over by udev."""
    guest = site.guest
    site.become_ordinary()
    for name, where in (("led-files", "usr/lib/posthouse"), ("90-posthouse.rules", "usr/lib/udev/rules.d")):
        file = ROOT / "rootfs-overlay" / where / name
        guest.sh(f"mkdir -p /{where}")
        guest.put(f"/{where}/{name}", file.read_bytes(), mode=0o755)
    guest.sh(
        "modprobe -a uinput evdev ledtrig-timer ledtrig-netdev ledtrig-pattern; /usr/lib/systemd/systemd-udevd --daemon"
    )
    guest.put("/run/keyboard", KEYBOARD)
    guest.daemon("python3", "/run/keyboard", log="/run/keyboard.log")
    guest.wait(f"ls -d {LEDS}/*::compose && test -e {LOG}", "the keyboard is there")
    folder = guest.sh("dirname $(readlink -f $(grep -lx board /sys/class/input/input*/name))").strip()
    names = [f"{Path(folder).name}::{led}" for led in ("numlock", "capslock", "scrolllock", "compose")]
    for name in names:
        guest.wait(f"test $(stat -c %G {LEDS}/{name}/trigger) = {ORDINARY}", "udev hands it over")
    return names


def show(guest: Guest, name: str, pattern: str, device: str = "") -> None:
    guest.run(
        "setpriv",
        f"--reuid={ORDINARY}",
        f"--regid={ORDINARY}",
        "--clear-groups",
        "python3",
        "-c",
        SHOW,
        name,
        pattern,
        device,
    )


def told(guest: Guest, code: int) -> list[tuple[float, int]]:
    """(when, on or off) of each change of this LED."""
    rows = [line.split() for line in guest.get(LOG).decode().splitlines()]
    return [(float(at), int(value)) for at, number, value in rows if int(number) == code]


def trigger(guest: Guest, name: str) -> str:
    text: str = guest.sh(f"cat {LEDS}/{name}/trigger")
    return text.partition("[")[2].partition("]")[0]


def test_the_kernel_shows_every_pattern(site: Site, leds: list[str]) -> None:
    guest = site.guest
    for number, name, pattern in ((0, leds[0], ON), (1, leds[1], FAST), (2, leds[2], SLOW)):
        show(guest, name, pattern.name)
        assert trigger(guest, name) == pattern.trigger
        changes = 1 if pattern is ON else 6
        guest.wait(f"test $(grep -c ' {number} ' {LOG}) -ge {changes}", f"{pattern.name} is to be seen")
    assert guest.sh(f"cat {LEDS}/{leds[1]}/delay_on {LEDS}/{leds[1]}/delay_off").split() == ["100", "100"]
    assert told(guest, 0)[-1][1] == 1
    show(guest, leds[0], OFF.name)
    guest.wait(f"grep ' 0 ' {LOG} | tail -n 1 | grep -q ' 0$'", "it is off again")

    show(guest, leds[3], TRAFFIC.name, "lo")
    assert trigger(guest, leds[3]) == "netdev"
    assert guest.sh(f"cd {LEDS}/{leds[3]}; cat device_name link rx tx").split() == ["lo", "1", "1", "1"]
    guest.sh("ip link set lo up; ping -c 5 -i 0.2 127.0.0.1 || true")
    guest.wait(f"test $(grep -c ' 3 ' {LOG}) -ge 3", "it flickers with the traffic")

    code = FAULTS[2].pattern
    show(guest, leds[0], code.name)
    assert trigger(guest, leds[0]) == "pattern"
    begun = len(told(guest, 0))
    for _ in range(20):
        guest.sh("sleep 3")
        lit = [at for at, on in told(guest, 0)[begun:] if on]
        runs, length = [], 1
        for before, at in itertools.pairwise(lit):
            if at - before < 1.4:
                length += 1
            else:
                runs.append(length)
                length = 1
        if code.blinks in runs[1:]:
            break
    assert code.blinks in runs[1:], (runs, lit)


def test_posthouse_shows_what_it_does(site: Site, leds: list[str]) -> None:
    guest = site.guest
    site.config["leds"] = dict(zip(("power", "line", "mail", "fault"), leds, strict=True))
    site.start()
    guest.wait(f"test $(cat {LEDS}/{leds[0]}/brightness) -gt 0", "the power LED is lit")
    site.send("somebody@world.example", b"Subject: x\r\n\r\nx\r\n")
    guest.wait(f"test $(cat {LEDS}/{leds[2]}/brightness) -gt 0", "the mail LED is lit")
    call = site.dial()  # nobody answers there
    assert call["outcome"] not in ("complete", "partial")
    guest.wait(
        f"grep -q '\\[timer\\]' {LEDS}/{leds[1]}/trigger && grep -qx 1000 {LEDS}/{leds[1]}/delay_on", "the line failed"
    )
    journal = guest.get(JOURNAL).decode()
    for what in (
        f"{leds[0]}: on (power: ",
        f"{leds[2]}: on (mail: ",
        f"{leds[1]}: fast (line: ",
        f"{leds[1]}: slow (line: ",
    ):
        assert f"LED {what}" in journal
    assert "can't show" not in journal
    site.stop()
    guest.wait(f"test $(cat {LEDS}/{leds[0]}/brightness) = 0", "it is dark when Posthouse has ended")


def test_the_button(site: Site, leds: list[str]) -> None:
    guest = site.guest
    listening = guest.begin("python3", "-c", LISTEN, seconds=240)
    guest.wait("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/event", "somebody listens")
    guest.sh(f"echo 0.1 2 6 >{PRESSES}")
    said = [line.split() for line in listening().out.splitlines()]
    assert [action for action, _ in said] == ["reboot", "nothing", "factory-reset"]
    assert json.loads(said[2][1]) >= 6
