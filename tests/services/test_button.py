"""The reset button: how long it was held, which device it is, and what the part of the board does about it. A FIFO stands
for the device: what is read from it are the kernel's events."""

from __future__ import annotations

import logging
import os
import struct
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.app import board as module
from appliance.app.board import BoardPart
from appliance.host.button import EV_KEY, EVENT, KEY_RESTART, Action, Held, Press, Timing, find, meaning, presses


def event(at: float, value: int, *, kind: int = EV_KEY, code: int = KEY_RESTART) -> bytes:
    return EVENT.pack(int(at), round(at % 1 * 1e6), kind, code, value)


def press(at: float, held_s: float) -> bytes:
    return event(at, 1) + event(at, 0, kind=0, code=0) + event(at + held_s, 0) + event(at + held_s, 0, kind=0, code=0)


@pytest.mark.parametrize(
    ("held_s", "action"),
    [(0.0, Action.REBOOT), (0.999, Action.REBOOT), (1.0, Action.NOTHING), (4.999, Action.NOTHING),
     (5.0, Action.FACTORY_RESET), (600.0, Action.FACTORY_RESET)],
)  # fmt: skip
def test_what_a_press_means(held_s: float, action: Action) -> None:
    assert meaning(held_s) is action


def test_timing() -> None:
    timing = Timing()
    fed = [timing.feed(e) for e in (
        event(1, 0),  # a release whose press nobody saw
        event(2, 1), event(3, 2), event(4, 2), event(8.5, 0),  # held, repeating
        event(9, 1, code=116),  # another key
        event(9, 0, code=116),
        event(10, 1), event(20, 1), event(20.25, 0),  # a release was lost
        event(20.5, 0),
    )]  # fmt: skip
    assert [type(f) for f in fed if f is not None] == [Held, Press, Held, Held, Press]
    assert [float(f) for f in fed if isinstance(f, Press)] == [6.5, 0.25]


def capability(*keys: int) -> str:
    """A bitmap as the kernel writes it."""
    bits = struct.calcsize("@l") * 8
    whole = sum(1 << key for key in keys)
    words = []
    while whole:
        words.append(f"{whole & ((1 << bits) - 1):x}")
        whole >>= bits
    return " ".join(reversed(words)) + "\n"


def make_input(root: Path, name: str, keys: str) -> None:
    (root / name / "device/capabilities").mkdir(parents=True)
    (root / name / "device/capabilities/key").write_text(keys)


def test_which_device_it_is(tmp_path: Path) -> None:
    assert find(tmp_path / "none", tmp_path) is None
    make_input(tmp_path, "event0", capability(116))
    make_input(tmp_path, "event1", "0\n")
    make_input(tmp_path, "event2", "no number\n")
    (tmp_path / "event3").mkdir()
    assert find(tmp_path, Path("/dev/input")) is None
    make_input(tmp_path, "event4", capability(30, KEY_RESTART, 600))
    assert find(tmp_path, Path("/dev/input")) == Path("/dev/input/event4")


async def test_presses_until_the_device_goes(tmp_path: Path) -> None:
    device = tmp_path / "event0"
    os.mkfifo(device)
    writer = os.open(device, os.O_RDWR)
    before = len(os.listdir("/proc/self/fd"))
    os.write(writer, press(100, 0.5) + press(200, 7))
    found = []
    with trio.fail_after(20), pytest.raises(OSError, match="event0 is gone"):
        async with aclosing(presses(device)) as happened:
            async for what in happened:
                found.append(what)
                if len(found) == 4:
                    os.close(writer)
    assert [float(f) for f in found if isinstance(f, Press)] == [0.5, 7.0]
    assert len(os.listdir("/proc/self/fd")) == before - 1


class FakeUnit:
    """Stands for `Unit`: notes what is started."""

    started: list[str]

    def __init__(self, name: str) -> None:
        self.name = name

    async def run_once(self) -> str:
        self.started.append(self.name)
        return "refused" if "reboot" in self.name and len(self.started) == 1 else ""


async def test_the_board_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "posthouse")
    device = tmp_path / "event0"
    os.mkfifo(device)
    writer = os.open(device, os.O_RDWR)
    monkeypatch.setattr(module, "find", lambda: device)
    monkeypatch.setattr(module, "Unit", FakeUnit)
    FakeUnit.started = []
    house: Any = None
    part = BoardPart(house)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(part._obey_button)
        with trio.fail_after(20):
            os.write(writer, press(1, 0.2) + press(10, 3) + event(20, 1))
            while part._held_since is None or len(caplog.records) < 3:  # the third is held on
                await trio.sleep(0.01)
            os.write(writer, event(25.5, 0))
            while len(FakeUnit.started) < 2 or part._held_since is not None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    os.close(writer)
    assert FakeUnit.started == ["posthouse-reboot.service", "posthouse-factory-reset.service"]
    assert [r.getMessage() for r in caplog.records] == [
        "the reset button was held for 0.2 s: reboot",
        "the reset button: refused",
        "the reset button was held for 3.0 s: nothing",
        "the reset button was held for 5.5 s: factory-reset",
    ]
