"""A modem that listens between calls: which rings count, when, and what goes wrong meanwhile. Virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from appliance.config.model import Bearer
from appliance.config.model import Line as LineConfig
from appliance.modem.line import LISTEN_AGAIN_MAX_S, LISTEN_AGAIN_S, ModemLine
from appliance.modem.port import PortError
from appliance.modem.rings import SHOW_CALLER, SILENCE_S
from fakes.modem import FakeModem, FakePort, modem_with_lines

WAKE = "+81312345678"
RING_S = 6.0


class Listening:
    """`woken`: the number, and how long the line has listened by then. `opens` fails so many times."""

    def __init__(self, modem: FakeModem) -> None:
        self.modem = modem
        self.woken: list[tuple[str, float]] = []
        self.ports: list[FakePort] = []
        self.no_port = 0
        self.line = ModemLine(
            LineConfig(name="pstn", port="", numbers=("111",), bearer=Bearer.NONE, wake_numbers=(WAKE, "104")),
            open_port=self._open,
        )

    async def _open(self) -> FakePort:
        if self.no_port:
            self.no_port -= 1
            raise PortError("/dev/ttyS1: no such device")
        self.ports.append(FakePort(self.modem, has_lines=True))
        return self.ports[-1]

    async def listen(self) -> None:
        started = trio.current_time()
        number = await self.line.wait_wake()
        self.woken.append((number, trio.current_time() - started))

    async def ring(self, caller: str, times: int = 1) -> None:
        for i in range(times):
            self.modem.result("RING")
            if i == 0 and caller:
                self.modem.information(caller)
            await trio.sleep(RING_S)


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    async with modem_with_lines() as modem, trio.open_nursery() as nursery:
        made = Listening(modem)
        modem.numeric = False
        nursery.start_soon(made.listen)
        await trio.sleep(10)
        yield made
        nursery.cancel_scope.cancel()
    assert all(port.closed for port in made.ports)


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.posthouse_event.id == event]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "caller",
    ['+CLIP: "+81312345678",145,,,,0', "NMBR = 0312345678", "NMBR=0312345678", 'CALLER NUMBER: 0312345678',
     "RING;0312345678"],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 4])
async def test_a_ring_of_a_wake_number_counts_once_it_rings_no_more(
    autojump_clock: Any, caller: str, times: int
) -> None:
    async with listening() as it:
        await it.ring(caller, times)
        assert it.woken == []
        await trio.sleep(SILENCE_S)
        assert [number for number, _ in it.woken] == [WAKE]
        assert not any(command.startswith("ATA") for command in it.modem.heard)
        assert "ATS0=0" in it.modem.heard
        assert all(port.closed for port in it.ports)


async def test_other_rings_are_let_ring_and_said(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as it:
        for caller in ("NMBR = 0399998888", "NMBR = P", "", "NMBR = 1042"):
            await it.ring(caller, 2)
            await trio.sleep(60)
        assert it.woken == []
        assert said(caplog, "ring-passed-over") == [
            "pstn: a ring from 0399998888, which is none of wake_numbers: nothing is done",
            "pstn: a ring from 1042, which is none of wake_numbers: nothing is done",
        ]
        await it.ring("NMBR = 104")
        await trio.sleep(60)
        assert [number for number, _ in it.woken] == ["104"]


@pytest.mark.parametrize("first", ["0399998888", "0312345678"])
async def test_two_who_ring_one_right_behind_the_other(autojump_clock: Any, first: str) -> None:
    async with listening() as it:
        for caller in (first, "0312345678" if first == "0399998888" else "0399998888"):
            await it.ring(f"NMBR = {caller}", 2)
        await trio.sleep(60)
        assert [number for number, _ in it.woken] == [WAKE]


async def test_a_modem_that_shows_the_number_with_each_ring_is_noted_once(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as it:
        for _ in range(5):
            await it.ring('+CLIP: "0399998888",129')
        await trio.sleep(60)
        assert len(said(caplog, "ring-passed-over")) == 1


async def test_what_else_a_modem_says_does_not_keep_a_ring_from_counting(autojump_clock: Any) -> None:
    async with listening() as it:
        await it.ring("NMBR = 0312345678")
        for _ in range(10):
            it.modem.information("+CREG: 1")
            await trio.sleep(SILENCE_S / 5)
        assert [number for number, _ in it.woken] == [WAKE]


async def test_the_command_that_shows_callers_is_found(autojump_clock: Any) -> None:
    async with modem_with_lines() as modem, trio.open_nursery() as nursery:
        modem.errors = set(SHOW_CALLER[:2])
        it = Listening(modem)
        nursery.start_soon(it.listen)
        await trio.sleep(10)
        assert [c for c in modem.heard if c in SHOW_CALLER] == list(SHOW_CALLER)
        await it.ring("NMBR = 0312345678")
        await trio.sleep(SILENCE_S)
        assert it.woken
        nursery.cancel_scope.cancel()


TROUBLES = {
    "no port": (lambda it: setattr(it, "no_port", 3), "/dev/ttyS1: no such device"),
    "silent": (lambda it: setattr(it.modem, "mute", True), "the modem does not answer"),
    "no caller id": (lambda it: setattr(it.modem, "errors", set(SHOW_CALLER)), "the modem can't show who rings"),
    "init refused": (lambda it: setattr(it.modem, "errors", {"ATZ"}), "the modem can't be prepared"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_modem_that_can_not_listen_is_said_once_and_asked_again(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    caplog.set_level(logging.DEBUG)
    make, text = TROUBLES[trouble]
    async with modem_with_lines() as modem, trio.open_nursery() as nursery:
        it = Listening(modem)
        make(it)
        nursery.start_soon(it.listen)
        await trio.sleep(8 * LISTEN_AGAIN_S)
        assert [t for t in said(caplog, "modem-problem") if "rings" in t] == [f"pstn: can't listen for rings: {text}"]
        modem.mute, modem.errors, it.no_port = False, set(), 0
        await trio.sleep(LISTEN_AGAIN_MAX_S)
        await it.ring("NMBR = 0312345678")
        await trio.sleep(SILENCE_S)
        assert [number for number, _ in it.woken] == [WAKE]
        nursery.cancel_scope.cancel()


async def test_a_line_that_listened_is_ready_for_a_call(autojump_clock: Any) -> None:
    async with listening() as it:
        await it.ring("NMBR = 0312345678")
        await trio.sleep(SILENCE_S)
        assert it.woken
        it.modem.set_dtr(True)
        assert await it.line.prepare() is None
        assert (await it.line.dial("111")).connected
        await it.line.hang_up()
        assert it.modem.on_hook
