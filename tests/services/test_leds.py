"""LEDs written into a folder that stands for /sys/class/leds: what is there afterwards, what the journal says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.app import failsafe
from appliance.call import LineState
from appliance.host import leds as module
from appliance.host.led_table import LEDS, ON, SLOW, TRAFFIC, State
from appliance.host.leds import Leds, show_once

FILES = ("delay_on", "delay_off", "device_name", "link", "rx", "tx", "pattern")
NAMES = {led: f"board:{led}" for led in LEDS}


def make_led(folder: Path, *, files: tuple[str, ...] = FILES) -> Path:
    """An LED whose trigger's files are there from the beginning."""
    folder.mkdir(parents=True)
    (folder / "max_brightness").write_text("255\n")
    (folder / "brightness").write_text("0\n")
    (folder / "trigger").write_text("[none] default-on timer netdev pattern\n")
    for file in files:
        (folder / file).write_text("")
    return folder


class Board:
    """Four LEDs. `trigger` keeps what was written last: a file of the kernel's lists all of them at each reading."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in NAMES.values():
            make_led(root / name)

    def shows(self, led: str) -> str:
        folder = self.root / NAMES[led]
        trigger = (folder / "trigger").read_text().split()[0]
        self.offer(led)
        values = {"none": "brightness", "timer": "delay_on", "netdev": "device_name", "pattern": "pattern"}
        name = trigger.strip("[]")
        return f"{name} {(folder / values[name]).read_text()[:3].strip()}"

    def offer(self, led: str) -> None:
        (self.root / NAMES[led] / "trigger").write_text("[none] default-on timer netdev pattern\n")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "leds")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "posthouse")
    return lambda: [r.getMessage() for r in caplog.records if "LED" in r.getMessage()]


def truncating(path: Path, text: str) -> None:
    """As `_write`, of files whose old end the kernel would not keep."""
    assert path.exists(), path
    path.write_text(text)


@pytest.fixture(autouse=True)
def write_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_write", truncating)


async def test_states_follow_each_other(board: Board, told: Callable[[], list[str]]) -> None:
    leds = Leds(NAMES, folder=board.root)
    await leds.show(State())
    assert {led: board.shows(led) for led in LEDS} == {
        "power": "none 255", "line": "none 0", "mail": "none 0", "fault": "none 0"
    }  # fmt: skip
    await leds.show(State(line=LineState.DIALLING, waiting=True))
    assert [board.shows(led) for led in ("line", "mail")] == ["timer 100", "none 255"]
    await leds.show(State(line=LineState.EXCHANGING, device="ppp7", waiting=True, failing=True))
    assert [board.shows(led) for led in ("line", "mail", "fault")] == ["netdev ppp", "timer 100", "pattern 255"]
    assert told()[4:] == [
        "LED board:line: fast (line: dialling, negotiating or hanging up)",
        "LED board:mail: on (mail: mail waits for a call)",
        "LED board:line: traffic (line: a call is up; flickers with its bytes)",
        "LED board:mail: fast (mail: mail moves over the line)",
        "LED board:fault: 7 blinks (fault: a part of Posthouse keeps failing: see `journalctl -u posthouse`)",
    ]
    before = told()
    await leds.show(State(line=LineState.EXCHANGING, device="ppp7", waiting=True, failing=True))
    assert told() == before


async def test_the_device_of_the_call_is_another(board: Board) -> None:
    leds = Leds(NAMES, folder=board.root)
    for device in ("", "ppp7", "ppp8"):
        await leds.show(State(line=LineState.EXCHANGING, device=device))
        board.offer("line")
    assert (board.root / NAMES["line"] / "device_name").read_text() == "ppp8"


async def test_what_flaps_is_folded(
    board: Board, told: Callable[[], list[str]], mock_clock: trio.testing.MockClock
) -> None:
    leds = Leds({"mail": NAMES["mail"]}, folder=board.root)
    for waiting in [True, False] * 20:
        await leds.show(State(waiting=waiting))
        mock_clock.jump(1.0)
    assert len(told()) == module.BURST
    mock_clock.jump(module.BURST_S)
    await leds.show(State(waiting=True))
    assert len(told()) == module.BURST + 1
    assert told()[-1] == "LED board:mail: on (mail: mail waits for a call)"


async def test_absent_leds_are_no_error(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    leds = Leds(NAMES, folder=tmp_path)
    await leds.show(State())
    assert told() == []
    make_led(tmp_path / NAMES["power"])  # one that comes later, with its driver
    await leds.show(State())
    assert told() == ["LED board:power: on (power: Posthouse runs)"]


async def test_a_failing_led_is_told_of_once(
    board: Board, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, text: str) -> None:
        if "power" in str(path):
            raise OSError(5, "Input/output error")
        truncating(path, text)

    monkeypatch.setattr(module, "_write", fails)
    leds = Leds(NAMES, folder=board.root)
    await leds.show(State())
    await leds.show(State(updating=True))
    failed = [line for line in told() if "can't" in line]
    assert failed == ["LED board:power can't show on: [Errno 5] Input/output error"]
    assert board.shows("line") == "none 0"
    monkeypatch.setattr(module, "_write", truncating)
    await leds.show(State(updating=True))
    assert board.shows("power") == "timer 100"
    assert told()[-1] == "LED board:power: fast (power: an update is being installed: leave the power on)"


def test_a_triggers_files_may_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_led(tmp_path / "x", files=())
    waiting = threading.Event()

    def sleep(seconds: float) -> None:
        waiting.set()
        threading.Event().wait(seconds)

    def as_udev_does() -> None:
        waiting.wait(10)
        for file in FILES:
            (folder / file).write_text("")

    def refusing(path: Path, text: str) -> None:
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory")
        truncating(path, text)

    monkeypatch.setattr(module, "PERMITTED_S", 60.0)
    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module, "_write", refusing)
    udev = threading.Thread(target=as_udev_does)
    udev.start()
    try:
        show_once(folder, SLOW)
    finally:
        waiting.set()
        udev.join()
    assert (folder / "delay_off").read_text() == "1000"


def test_files_that_never_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real `_write` makes no file
    monkeypatch.setattr(module, "PERMITTED_S", 0.05)
    folder = make_led(tmp_path / "x", files=())
    with pytest.raises(FileNotFoundError):
        show_once(folder, TRAFFIC, "ppp7")
    assert not (folder / "device_name").exists()
    (folder / "trigger").write_text("[none]")
    show_once(folder, ON)
    assert (folder / "brightness").read_text().startswith("255")


def test_the_failsafe_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_led(tmp_path / "leds" / "p")
    file = tmp_path / "posthouse.toml"
    file.write_text('[site]\nname = "harbour"\n[leds]\npower = "p"\n')
    assert failsafe.main(file, tmp_path / "leds") == 0
    assert (folder / "delay_on").read_text() == "1000"
    file.write_text("broken")
    assert failsafe.main(file, tmp_path / "leds") == 0
