"""Modems that do not answer, and what brings them back: rung by rung, within the published time; restarts, loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.call import Dialled, Outcome, PinState
from appliance.config.model import Bearer
from appliance.config.model import Line as LineConfig
from appliance.modem.ladder import LADDER_S
from appliance.modem.line import ModemLine
from appliance.modem.port import PortError
from appliance.modem.power import OFF_S, GpioPower
from fakes.mobile import FakeMobile, Record, Sim
from fakes.modem import FakePort, modem_with_lines

CONNECTED = Dialled(None, 9600, "CONNECT 9600")
PROFILES = pytest.mark.parametrize("profile", ["hayes", "gsm", "iridium"])


class Power:
    """A switch that calls `cycled` while it is off. `fails`: what it raises."""

    name = "gpiochip0:17"
    off_s = 5.0

    def __init__(self, cycled: Callable[[], None] = lambda: None) -> None:
        self.cycled = cycled
        self.cycles = 0
        self.fails: OSError | None = None

    async def cycle(self) -> None:
        if self.fails:
            raise self.fails
        self.cycles += 1
        await trio.sleep(self.off_s)
        self.cycled()


class Socket:
    """What a modem on USB is plugged into: `there` or not."""

    def __init__(self, modem: FakeMobile) -> None:
        self.modem = modem
        self.there = True
        self.lines = False

    async def open(self) -> FakePort:
        if not self.there:
            raise PortError("/dev/ttyUSB0: there is no such port")
        return FakePort(self.modem, has_lines=self.lines)

    def pull(self) -> None:
        self.there = False
        self.modem.end()

    def plug(self) -> None:
        self.modem.replug()
        self.there = True


@asynccontextmanager
async def made(
    profile: str, *, power: Power | None = None, **more: Any
) -> AsyncIterator[tuple[FakeMobile, ModemLine, Socket]]:
    config = LineConfig(name="line", port="", numbers=("111",), bearer=Bearer.NONE, profile=profile)
    async with modem_with_lines(FakeMobile) as modem:
        assert isinstance(modem, FakeMobile)
        socket = Socket(modem)
        line = ModemLine(config, power=power, open_port=socket.open, **more)
        yield modem, line, socket
        await line.hang_up()


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.posthouse_event.id == event]  # type: ignore[attr-defined]


async def call(modem: FakeMobile, line: ModemLine) -> None:
    assert await line.dial("111") == CONNECTED
    await trio.sleep(10)
    await line.hang_up()
    assert modem.on_hook


@PROFILES
async def test_a_quiet_modem_is_told_to_speak(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, profile: str
) -> None:
    """Q1 (V.250 §6.2.5): it hears, does what it is told, and says nothing."""
    async with made(profile) as (modem, line, _):
        modem.quiet, modem.echo = True, False
        modem.hears_restart = False
        assert await line.prepare() is None
        await call(modem, line)
    reset = "AT+CFUN=1,1" if profile == "gsm" else "ATZ"
    assert said(caplog, "modem-rung") == [
        "line: the modem does not answer to AT; now DTR, +++ and ATH",
        f"line: the modem does not answer to DTR, +++ and ATH; now {reset}",
    ]
    (back,) = said(caplog, "modem-back")
    assert back.endswith(f"s ({reset})")


async def test_a_module_that_restarts_gets_its_pin_again(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    record = Record(PinState.TAKEN)
    async with made("gsm", pin="4711", pin_record=record) as (modem, line, _):
        modem.sim, modem.mute = Sim("4711"), True
        assert await line.prepare() is None
        assert (modem.restarts, modem.sim.given) == (1, ["4711"])
        await call(modem, line)
    assert not said(caplog, "modem-restarted")  # we made it do so


async def test_a_module_that_leaves_the_bus_while_it_restarts(autojump_clock: Any) -> None:
    async with made("gsm") as (modem, line, socket):
        restart = modem.restart

        async def come_back() -> None:
            await trio.sleep(8)
            socket.plug()
            restart()

        def leave() -> None:
            socket.pull()
            modem._nursery.start_soon(come_back)

        modem.mute, modem.restart = True, leave  # type: ignore[method-assign]
        assert await line.prepare() is None
        await call(modem, line)


@PROFILES
async def test_a_dead_modem_costs_no_more_than_the_published_time(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, profile: str
) -> None:
    power = Power()
    for switch in (None, power):
        async with made(profile, power=switch) as (modem, line, socket):
            modem.mute, modem.hears_restart, socket.lines = True, False, True
            told: list[str] = []
            started = trio.current_time()
            assert await line.prepare(told.append) is Outcome.MODEM_SILENT
            took = trio.current_time() - started
            assert len(told) == (4 if switch else 3) and told[-1] == "the modem does not answer"
            print(f"{profile}, {'power' if switch else 'no power'}: {took:.1f} s")
            assert took < LADDER_S - 1, "else the limit cuts a rung short"
    assert power.cycles == 1
    assert len(said(caplog, "modem-rung")) == 2 + 3
    assert said(caplog, "modem-problem") == ["line: the modem does not answer"] * 2
    assert not said(caplog, "modem-back")


@PROFILES
@pytest.mark.parametrize("usb", [False, True])
async def test_a_hung_modem_gets_its_power_cut(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, profile: str, usb: bool
) -> None:
    power = Power()
    async with made(profile, power=power) as (modem, line, socket):

        async def come_back() -> None:
            await trio.sleep(12)
            if usb:
                socket.plug()
            modem.boot_s = 1.0
            modem.restart()

        def cut() -> None:
            if usb:
                socket.pull()
            modem._nursery.start_soon(come_back)

        modem.mute, modem.hears_restart, power.cycled = True, False, cut
        assert await line.prepare() is None
        assert power.cycles == 1
        await call(modem, line)
        assert await line.prepare() is None  # and no second time
    assert power.cycles == 1
    assert [text.rpartition("; now ")[2] for text in said(caplog, "modem-rung")] == [
        "DTR, +++ and ATH",
        "AT+CFUN=1,1" if profile == "gsm" else "ATZ",
        "power off for 5 s (gpiochip0:17)",
    ]
    (back,) = said(caplog, "modem-back")
    assert "its power was off" in back


async def test_a_modem_that_is_gone_from_the_bus_gets_its_power_cut(autojump_clock: Any) -> None:
    power = Power()
    async with made("gsm", power=power) as (modem, line, socket):
        socket.pull()
        power.cycled = socket.plug
        assert await line.prepare() is None
        await call(modem, line)
    async with made("gsm") as (modem, line, socket):
        socket.pull()
        started = trio.current_time()
        assert await line.prepare() is Outcome.MODEM_SILENT
        assert trio.current_time() - started < 1


async def test_a_power_that_cannot_be_switched(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    power = Power()
    power.fails = OSError("gpiochip0:17: [Errno 13] Permission denied: '/dev/gpiochip0'")
    async with made("hayes", power=power) as (modem, line, _):
        modem.mute = True
        assert await line.prepare() is Outcome.MODEM_SILENT
    assert "its power can't be switched: gpiochip0:17" in said(caplog, "modem-problem")[0]


async def test_who_only_listens_for_rings_resets_nothing(autojump_clock: Any) -> None:
    power = Power()
    async with made("gsm", power=power) as (modem, line, _):
        modem.mute = True
        with trio.move_on_after(3600):
            await line.wait_wake()
        assert (modem.restarts, power.cycles) == (0, 0)


async def test_a_looped_port_is_told_from_a_dead_one(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with made("hayes") as (modem, line, _):
        modem.hear = lambda data: modem.say(data)  # type: ignore[method-assign]
        assert await line.prepare() is Outcome.MODEM_SILENT
    assert said(caplog, "modem-problem") == [
        "line: the port gives back what it is sent, and no answer: a loop, or somebody's login?"
    ]


RESTARTS = ["RDY", "+CPIN: SIM PIN", "^SYSSTART", "NORMAL POWER DOWN", "+WIND: 1", "START"]


@pytest.mark.parametrize("word", RESTARTS)
async def test_a_modem_that_restarts_in_a_call_has_lost_it(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    async with made("hayes") as (modem, line, _):
        assert await line.prepare() is None
        assert await line.dial("111") == CONNECTED

        async def restart() -> None:
            await trio.sleep(10)
            modem.state, modem.echo = "command", True
            modem.result(word)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            with trio.fail_after(11):
                assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
        await line.hang_up()
        assert modem.heard[-1] == "ATH"  # and no +++: it is no call any more
    assert said(caplog, "modem-restarted") == [f"line: the modem has restarted in the call ({word})"]


async def test_a_modem_that_restarts_while_it_dials(autojump_clock: Any) -> None:
    async with made("gsm") as (modem, line, _):
        assert await line.prepare() is None
        modem.script = [""]

        async def restart() -> None:
            await trio.sleep(10)
            modem.restart()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            dialled = await line.dial("111")
        assert dialled.outcome is Outcome.TIMEOUT
        assert "the modem restarted (+CPIN: READY)" in dialled.text


# ---- the output of a board


class Gpiod:
    """As gpiod 2: `log` has what became of the line."""

    def __init__(self, *, request: Exception | None = None) -> None:
        self.log: list[str] = []
        self.request = request
        self.line = SimpleNamespace(
            Value=SimpleNamespace(ACTIVE="on", INACTIVE="off"), Direction=SimpleNamespace(OUTPUT="output")
        )

    def LineSettings(self, *, direction: str, output_value: str) -> str:
        return f"{direction} {output_value}"

    def request_lines(self, path: str, *, consumer: str, config: dict[int, str]) -> Any:
        if self.request:
            raise self.request
        self.log.append(f"{path} {config} for {consumer}")
        return SimpleNamespace(set_value=lambda line, value: self.log.append(f"{line} {value}"))


async def test_the_power_goes_off_and_on() -> None:
    gpiod = Gpiod()
    power = GpioPower("gpiochip1:17", off_s=0.05, gpiod=lambda: gpiod)
    assert gpiod.log == []  # nothing is touched before it is needed
    for _ in range(2):
        started = trio.current_time()
        await power.cycle()
        assert trio.current_time() - started >= 0.05
    assert gpiod.log == [
        "/dev/gpiochip1 {17: 'output off'} for posthouse", "17 on", "17 off", "17 on",
    ]  # fmt: skip
    assert GpioPower("gpiochip1:17").off_s == OFF_S


async def test_a_cancelled_cycle_leaves_the_power_on() -> None:
    gpiod = Gpiod()
    with trio.move_on_after(0.2):
        await GpioPower("gpiochip1:17", gpiod=lambda: gpiod).cycle()
    assert gpiod.log[-1] == "17 on"


@pytest.mark.parametrize(
    "error", [OSError(16, "Device or resource busy"), ValueError("no such line"), FileNotFoundError(2, "No such file")]
)
async def test_an_output_that_cannot_be_had(error: Exception) -> None:
    with pytest.raises(OSError, match="gpiochip1:17: "):
        await GpioPower("gpiochip1:17", gpiod=lambda: Gpiod(request=error)).cycle()


async def test_without_the_library() -> None:
    def missing() -> Any:
        raise ImportError("No module named 'gpiod'")

    with pytest.raises(OSError, match="package gpiod is missing"):
        await GpioPower("gpiochip1:17", gpiod=missing).cycle()


async def test_with_the_library_itself() -> None:
    """gpiod as it is installed: a chip that is not there is an error in words, not a crash."""
    with pytest.raises(OSError, match="gpiochip987:0: "):
        await GpioPower("gpiochip987:0").cycle()
