"""A modem line from the port to CONNECT and back on-hook: every outcome, and what modems do wrong.

Most run in virtual time on a port without a kernel, with the product's own deadlines and guard times; the
last ones on a pseudo-terminal in real time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from appliance.call import Dialled, Outcome
from appliance.config.model import Bearer
from appliance.config.model import Line as LineConfig
from appliance.modem.line import ModemLine
from appliance.modem.port import PortError
from fakes.modem import FakeModem, FakePort, modem_on_pty, modem_with_lines

NUMBER = "0570000111"
CONNECTED = Dialled(None, 9600, "CONNECT 9600")
LINES = pytest.mark.parametrize("lines", [True, False], ids=["dtr and dcd", "no modem lines"])


def config(**fields: Any) -> LineConfig:
    return LineConfig(**{"name": "pstn", "port": "", "numbers": (NUMBER,), "bearer": Bearer.NONE, **fields})


@asynccontextmanager
async def made(*, lines: bool = False, **fields: Any) -> AsyncIterator[tuple[FakeModem, ModemLine]]:
    """A modem and a line on it, in virtual time. The line is hung up and its port closed at the end."""
    ports: list[FakePort] = []

    async def open_port() -> FakePort:
        ports.append(FakePort(modem, has_lines=lines))
        return ports[-1]

    async with modem_with_lines() as modem:
        line = ModemLine(config(**fields), open_port=open_port)
        yield modem, line
        await line.hang_up()
        assert all(port.closed for port in ports)


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.posthouse_event.id == event]  # type: ignore[attr-defined]


async def test_a_person_s_command_is_answered_and_the_port_let_go(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        assert (await line.command("AT"))[-1] == "OK"
        modem.errors = {"AT+NONSENSE"}
        assert (await line.command("AT+NONSENSE"))[-1] == "ERROR"
        with pytest.raises(OSError, match="ATD dials"):
            await line.command("ATDT1")
        modem.mute = True
        with pytest.raises(OSError, match="does not answer"):
            await line.command("AT")
        modem.mute = False
        assert modem.dialled == []
        assert await line.prepare() is None and await line.dial(NUMBER) == CONNECTED


@LINES
@pytest.mark.parametrize("numeric", [False, True], ids=["verbose", "numeric"])
@pytest.mark.parametrize("echo", [False, True], ids=["no echo", "echo"])
@pytest.mark.parametrize("byte_s", [0.0, 0.005], ids=["at once", "byte by byte"])
async def test_a_call(autojump_clock: Any, lines: bool, numeric: bool, echo: bool, byte_s: float) -> None:
    async with made(lines=lines) as (modem, line):
        modem.numeric, modem.echo_at_reset, modem.byte_s = numeric, echo, byte_s
        for _ in range(2):
            assert await line.prepare() is None
            assert await line.dial(NUMBER) == CONNECTED
            assert await line.negotiate() is None
            await trio.sleep(30)
            started = trio.current_time()
            await line.hang_up()
            assert modem.on_hook
            assert modem.hung_up_by == ("DTR" if lines else "ATH")
            # within 1 s, and one guard time where there is no DTR: the other one has passed already
            assert trio.current_time() - started < (1 if lines else 2)
            await line.hang_up()
            modem.set_dtr(True)
        assert modem.dialled == [f"T{NUMBER}"] * 2
        assert modem.stray == b""


OUTCOMES = [
    ("BUSY", Outcome.BUSY),
    ("NO CARRIER", Outcome.NO_CARRIER),
    ("NO DIALTONE", Outcome.NO_DIALTONE),
    ("NO DIAL TONE", Outcome.NO_DIALTONE),
    ("NO ANSWER", Outcome.NO_ANSWER),
    ("BLACKLISTED", Outcome.BLACKLISTED),
    ("DELAYED 00:30", Outcome.DELAYED),
    ("ERROR", Outcome.MODEM_ERROR),
    ("+CME ERROR: 30", Outcome.MODEM_ERROR),
    ("VOICE", Outcome.NO_CARRIER),
    ("FAX", Outcome.NO_CARRIER),
]


@pytest.mark.parametrize(("text", "outcome"), OUTCOMES, ids=[text for text, _ in OUTCOMES])
async def test_each_result_is_its_outcome(autojump_clock: Any, text: str, outcome: Outcome) -> None:
    async with made() as (modem, line):
        modem.script, modem.dial_s = [text, "CONNECT 9600"], 20.0
        assert await line.prepare() is None
        assert await line.dial(NUMBER) == Dialled(outcome, 0, text)
        assert await line.prepare() is None
        assert await line.dial(NUMBER) == CONNECTED


@pytest.mark.parametrize("text", ["BUSY", "NO CARRIER", "NO DIALTONE", "NO ANSWER", "BLACKLISTED", "DELAYED 00:30"])
async def test_numeric_results(autojump_clock: Any, text: str) -> None:
    async with made() as (modem, line):
        modem.script, modem.numeric = [text], True
        assert await line.prepare() is None
        assert (await line.dial(NUMBER)).outcome is dict(OUTCOMES)[text]


@LINES
@pytest.mark.parametrize("urc", [b"\r\nRING\r\n", b"\r\n+CREG: 1\r\n", b"\r\n^RSSI:18\r\n\r\n^BOOT:1,0,0,0,72\r\n"])
async def test_unsolicited_codes_between_any_two_bytes(autojump_clock: Any, lines: bool, urc: bytes) -> None:
    for at in range(12):
        async with made(lines=lines) as (modem, line):
            # A rate that is cut in two is a lower rate: no parser can tell.
            modem.garnish = lambda data, at=at: urc + data + urc if b"CONNECT" in data else data[:at] + urc + data[at:]
            assert await line.prepare() is None
            assert await line.dial(NUMBER) == CONNECTED
            with trio.move_on_after(5) as waited:
                await line.wait_carrier_lost()
            assert waited.cancelled_caught
            await line.hang_up()
            assert modem.on_hook


async def test_a_dial_that_leaves_the_modem_in_command_mode(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.script = ["OK"]
        assert await line.prepare() is None
        assert await line.dial(NUMBER + ";") == Dialled(Outcome.MODEM_ERROR, 0, "OK")
        assert modem.heard[-1] == "ATH"


async def test_a_late_answer_is_not_taken_for_the_dials(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        assert await line.prepare() is None
        modem.dial_s = 5.0
        modem.garnish = lambda data: b"\r\nOK\r\n" + data
        assert await line.dial(NUMBER) == CONNECTED


async def test_the_dial_timeout_aborts(autojump_clock: Any) -> None:
    async with made(dial_timeout_s=60.0) as (modem, line):
        modem.script = [""]
        assert await line.prepare() is None
        started = trio.current_time()
        assert (await line.dial(NUMBER)).outcome is Outcome.TIMEOUT
        assert modem.on_hook
        assert 60 <= trio.current_time() - started < 62


async def test_a_result_that_comes_with_the_abort(autojump_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, outcome in [("BUSY", Outcome.BUSY), ("CONNECT 9600", Outcome.TIMEOUT)]:
        async with made(dial_timeout_s=10.0) as (modem, line):
            modem.script, modem.dial_s = [text], 10.05
            monkeypatch.setattr(modem, "_dialling", lambda byte: None)  # the abort came too late
            assert await line.prepare() is None
            assert (await line.dial(NUMBER)).outcome is outcome
            assert modem.on_hook


async def test_hanging_up_right_after_connect_keeps_both_guard_times(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.dial_s = 30.0
        await line.prepare()
        await line.dial(NUMBER)
        started = trio.current_time()
        await line.hang_up()
        assert modem.on_hook and modem.stray == b""
        assert 2 <= trio.current_time() - started < 3


async def test_a_modem_that_falls_silent_while_dialling(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with made(dial_timeout_s=10.0) as (modem, line):
        modem.script, modem.mute_when_dialling = [""], True
        assert await line.prepare() is None
        assert (await line.dial(NUMBER)).outcome is Outcome.MODEM_SILENT
        started = trio.current_time()
        await line.hang_up()
        assert trio.current_time() - started <= 20
        assert any("on-hook" in text for text in said(caplog, "modem-problem"))


async def test_a_silent_modem(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.mute = True
        for limit in (30, 16):  # the longest guard times are tried once
            started = trio.current_time()
            assert await line.prepare() is Outcome.MODEM_SILENT
            assert trio.current_time() - started < limit
        started = trio.current_time()
        await line.hang_up()
        assert trio.current_time() == started
        modem.mute = False
        assert await line.prepare() is None


@LINES
@pytest.mark.parametrize("state", ["online", "escaped", "dialling"])
@pytest.mark.parametrize("guard_s", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("numeric", [False, True], ids=["verbose", "numeric"])
async def test_off_hook_at_the_start(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, lines: bool, state: str, guard_s: float, numeric: bool
) -> None:
    async with made(lines=lines) as (modem, line):
        modem.state, modem.guard_s, modem.numeric = state, guard_s, numeric
        assert await line.prepare() is None
        assert modem.on_hook
        assert len(said(caplog, "modem-off-hook")) == (state == "online")
        assert await line.dial(NUMBER) == CONNECTED
        modem.stray = b""
        await line.hang_up()
        assert modem.on_hook
        assert modem.stray == b""  # the guard time was learned: one escape is enough


async def test_initialisation(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with made() as (modem, line):
        assert await line.prepare() is None
        assert modem.heard == ["AT", "ATH", "ATZ", "ATE0Q0V1X4&C1&D2", "ATS12?"]
    async with made(init=("AT&F1", "ATX3")) as (modem, line):
        modem.answers_s12 = False
        assert await line.prepare() is None
        assert modem.heard == ["AT", "ATH", "AT&F1", "ATX3", "ATS12?"]
    async with made(init=()) as (modem, line):
        assert await line.prepare() is None
    assert not said(caplog, "modem-problem")
    async with made(init=("ATZ", "AT%X9")) as (modem, line):
        modem.errors = {"AT%X9"}
        assert await line.prepare() is Outcome.MODEM_ERROR
        assert said(caplog, "modem-problem") == ["pstn: the modem answers AT%X9 with ERROR"]
    async with made(init=("ATZ\rATD1",)) as (modem, line):
        assert await line.prepare() is Outcome.MODEM_ERROR
        assert modem.heard == ["AT", "ATH"]


async def test_what_is_said_is_in_the_journal(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "posthouse")
    async with made(lines=True) as (_, line):
        await line.prepare()
        await line.dial(NUMBER)
    journal = said(caplog, "modem-said")
    assert journal[-2:] == [f"pstn: > ATDT{NUMBER}", "pstn: < CONNECT 9600"]
    assert journal[-5:-2] == ["pstn: > ATS12?", "pstn: < 050", "pstn: < OK"]


@LINES
@pytest.mark.parametrize("numeric", [False, True], ids=["verbose", "numeric"])
async def test_no_carrier_ends_the_call(autojump_clock: Any, lines: bool, numeric: bool) -> None:
    async with made(lines=lines) as (modem, line):
        modem.numeric = numeric
        await line.prepare()
        await line.dial(NUMBER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 100)
            await trio.sleep(10)
            modem.lose_carrier()
            started = trio.current_time()
            assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
            assert trio.current_time() - started < 1
            nursery.cancel_scope.cancel()
        await line.hang_up()
        assert modem.heard[-1] == "ATH"  # and no +++: the modem is back in command mode


async def test_a_carrier_that_goes_without_a_word(autojump_clock: Any) -> None:
    async with made(lines=True) as (modem, line):
        await line.prepare()
        await line.dial(NUMBER)

        async def lose() -> None:
            await trio.sleep(10)
            modem.lose_carrier(tell=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            with trio.fail_after(10.5):
                assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
    async with made(lines=False) as (modem, line):
        await line.prepare()
        await line.dial(NUMBER)
        modem.lose_carrier(tell=False)  # nobody can know; hanging up works all the same
        await line.hang_up()
        assert modem.heard[-1] == "ATH"


async def test_no_carrier_right_behind_connect(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.garnish = lambda data: data + b"\r\nNO CARRIER\r\n" if b"CONNECT" in data else data
        await line.prepare()
        assert await line.dial(NUMBER) == CONNECTED
        with trio.fail_after(1):
            assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST


@LINES
async def test_the_port_goes(autojump_clock: Any, lines: bool) -> None:
    for moment in ["prepare", "dial", "online", "hang up"]:
        async with made(lines=lines) as (modem, line):
            modem.script = [""] if moment == "dial" else ["CONNECT 9600"]
            if moment == "prepare":
                modem.end()
                assert await line.prepare() is Outcome.MODEM_SILENT
                continue
            await line.prepare()
            if moment == "dial":
                async with trio.open_nursery() as nursery:

                    async def end(modem: FakeModem = modem) -> None:
                        await trio.sleep(5)
                        modem.end()

                    nursery.start_soon(end)
                    assert (await line.dial(NUMBER)).outcome is Outcome.MODEM_SILENT
                continue
            await line.dial(NUMBER)
            modem.end()
            if moment == "online":
                assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
            await line.hang_up()


@LINES
async def test_the_carrier_goes_at_any_moment_of_a_hang_up(autojump_clock: Any, lines: bool) -> None:
    for tenths in range(25):
        async with made(lines=lines) as (modem, line):
            modem.obeys_dtr = False  # so that all steps are taken
            await line.prepare()
            await line.dial(NUMBER)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.hang_up)
                await trio.sleep(tenths / 10)
                if not modem.on_hook:
                    modem.lose_carrier()
            assert modem.on_hook
            assert await line.prepare() is None


@pytest.mark.parametrize("obeys_dtr", [True, False])
@pytest.mark.parametrize("dcd_wired", [True, False])
async def test_hanging_up_when_dtr_or_dcd_do_not_work(autojump_clock: Any, obeys_dtr: bool, dcd_wired: bool) -> None:
    async with made(lines=True) as (modem, line):
        modem.obeys_dtr, modem.dcd_wired = obeys_dtr, dcd_wired
        await line.prepare()
        await line.dial(NUMBER)
        await line.hang_up()
        assert modem.on_hook
        assert modem.hung_up_by == ("DTR" if obeys_dtr else "ATH")
        assert modem.stray == b""


async def test_a_dcd_that_is_always_on_is_not_believed(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeModem, "dcd", True)
    async with made(lines=True) as (modem, line):
        modem.obeys_dtr = False
        await line.prepare()
        await line.dial(NUMBER)
        await line.hang_up()
        assert modem.on_hook and modem.hung_up_by == "ATH"
        assert not said(caplog, "modem-problem")


@LINES
async def test_a_modem_that_cannot_be_hung_up(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, lines: bool
) -> None:
    async with made(lines=lines) as (modem, line):
        await line.prepare()
        await line.dial(NUMBER)
        modem.mute, modem.obeys_dtr, modem.guard_s = True, False, 100.0
        started = trio.current_time()
        await line.hang_up()
        assert trio.current_time() - started <= 20
        assert len(said(caplog, "modem-problem")) == 1
        assert len(modem.stray) < 50


@LINES
@pytest.mark.parametrize("script", ["", "CONNECT 9600", "BUSY"], ids=["silent", "connect", "busy"])
async def test_cancelled_at_any_moment_it_ends_on_hook(autojump_clock: Any, lines: bool, script: str) -> None:
    for hundredths in range(0, 200, 5):
        async with made(lines=lines) as (modem, line):
            modem.script, modem.dial_s, modem.byte_s, modem.guard_s = [script], 0.5, 0.02, 2.0
            with trio.move_on_after(hundredths / 100):
                await line.prepare()
                await line.dial(NUMBER)
                await line.wait_carrier_lost()
            with trio.CancelScope() as scope:
                scope.cancel()
                await line.hang_up()
            assert modem.on_hook
            modem.set_dtr(True)
            modem.script = ["CONNECT 9600"]
            assert await line.prepare() is None
            assert await line.dial(NUMBER) == CONNECTED
            modem.stray = b""
            await line.hang_up()
            assert modem.stray == b""  # the guard time is known: no answer was taken for another command's


async def test_a_cancelled_dial_is_aborted_first(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.script = [""]
        await line.prepare()
        with trio.move_on_after(5) as scope:
            await line.dial(NUMBER)
        assert scope.cancelled_caught
        assert modem.on_hook and modem.hung_up_by == "aborted"


@pytest.mark.parametrize("number", ["", "12\rATH", "hello"])
async def test_a_number_that_cannot_be_dialled(autojump_clock: Any, number: str) -> None:
    async with made() as (modem, line):
        await line.prepare()
        assert (await line.dial(number)).outcome is Outcome.MODEM_ERROR
        assert not modem.dialled


async def test_a_port_that_cannot_be_opened(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def open_port() -> FakePort:
        raise PortError("/dev/ttyS9: there is no such port")

    line = ModemLine(config(), open_port=open_port)
    assert await line.prepare() is Outcome.MODEM_SILENT
    assert (await line.dial(NUMBER)).outcome is Outcome.MODEM_SILENT
    assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
    await line.hang_up()
    assert said(caplog, "modem-problem") == ["pstn: /dev/ttyS9: there is no such port"]


@pytest.mark.parametrize(("busy_s", "outcome"), [(3.0, None), (30.0, Outcome.MODEM_SILENT)])
async def test_a_port_that_another_program_has_is_waited_for(
    autojump_clock: Any, busy_s: float, outcome: Outcome | None
) -> None:
    async with modem_with_lines() as modem:
        began = trio.current_time()

        async def open_port() -> FakePort:
            if trio.current_time() - began < busy_s:
                raise PortError("/dev/ttyS1: the port is in use by another program", busy=True)
            return FakePort(modem, has_lines=False)

        line = ModemLine(config(), open_port=open_port)
        assert await line.prepare() is outcome
        assert trio.current_time() - began < 15
        await line.hang_up()


# ---- in real time


async def test_streams() -> None:
    line = ModemLine(config())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, await line.open_stream("127.0.0.1", port) as stream, await listener.accept() as other:
        assert stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)
        await stream.send_all(b"x")
        assert await other.receive_some() == b"x"
    with pytest.raises(OSError):
        await line.open_stream("127.0.0.1", port)


@pytest.mark.parametrize("flow", ["none", "hardware"])
async def test_a_call_on_a_pseudo_terminal(flow: str) -> None:
    """With the true guard times."""
    async with modem_on_pty() as (modem, path):
        line = ModemLine(config(port=path, flow=flow))
        assert await line.prepare() is None
        assert await line.dial(NUMBER) == CONNECTED
        with trio.fail_after(15):
            await line.hang_up()
        assert modem.on_hook and modem.hung_up_by == "ATH"
        assert modem.stray == b""


async def test_the_end_of_a_pseudo_terminal() -> None:
    async with modem_on_pty() as (modem, path):
        line = ModemLine(config(port=path))
        assert await line.prepare() is None
        assert await line.dial(NUMBER) == CONNECTED
        modem.end()
        with trio.fail_after(10):
            assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
            await line.hang_up()
            assert await line.prepare() is Outcome.MODEM_SILENT
