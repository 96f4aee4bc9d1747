"""The laboratory's modem with a SIM: its lock, its network, its starts."""

from __future__ import annotations

import pytest
import trio

from appliance.lab.laboratory import open_laboratory
from appliance.lab.mobile import MobileModem, Sim
from appliance.lab.modem import ModemState
from fakes.port import QUICK, Port


async def test_a_sim_its_network_and_a_packet_call() -> None:
    async with open_laboratory(profile=QUICK, paced=False, ring_s=0, train_s=0, sim=Sim("4711")) as lab:
        modem = lab.modem
        assert isinstance(modem, MobileModem) and modem.sim is not None
        modem.offset_quarters = -13  # Newfoundland, -03:15 once
        port = Port(modem.port)
        await port.ask("ATE0")
        assert await port.ask("AT+CPIN?") == b"\r\n+CPIN: SIM PIN\r\n\r\nOK\r\n"
        assert await port.ask('AT+CPIN="4712"', b"16\r\n") == b"\r\n+CME ERROR: 16\r\n"
        assert await port.ask("AT+CPINR", b"ERROR\r\n") == b"\r\nERROR\r\n"
        modem.counts_tries = True
        assert b"+CPINR: SIM PIN,2,3\r\n" in await port.ask("AT+CPINR")
        assert await port.ask('AT+CPIN="4711"') == b"\r\nOK\r\n"
        assert modem.sim.tries == 3
        assert await port.ask("AT+CREG?") == b"\r\n+CREG: 0,1\r\n\r\nOK\r\n"
        assert await port.ask("AT+CEREG?", b"ERROR\r\n") == b"\r\nERROR\r\n"
        assert await port.ask('AT+CGDCONT=1,"IP","internet"') == b"\r\nOK\r\n"
        assert (await port.ask("AT+CCLK?")).endswith(b'-13"\r\n\r\nOK\r\n')
        assert await port.ask("ATD*99#", b"CONNECT 33600\r\n") == b"\r\nCONNECT 33600\r\n"
        modem.restart()
        assert await port.until(b"+CPIN: SIM PIN\r\n") == b"\r\nRDY\r\n\r\n+CFUN: 1\r\n\r\n+CPIN: SIM PIN\r\n"
        assert modem.state is ModemState.COMMAND and lab.exchange.records[-1].ended is not None
        assert await port.ask("AT") == b"AT\r\r\nOK\r\n"  # it echoes again
        await port.aclose()


@pytest.mark.parametrize("hears", [True, False])
async def test_a_module_that_hangs_and_one_that_blocks_itself(hears: bool) -> None:
    async with open_laboratory(profile=QUICK, paced=False, sim=Sim("4711")) as lab:
        modem = lab.modem
        assert isinstance(modem, MobileModem) and modem.sim is not None
        port = Port(modem.port)
        await port.ask("ATE0")
        for _ in range(3):
            await port.ask('AT+CPIN="0000"', b"16\r\n")
        assert await port.ask("AT+CPIN?") == b"\r\n+CPIN: SIM PUK\r\n\r\nOK\r\n"
        assert await port.ask('AT+CPIN="4711"', b"12\r\n") == b"\r\n+CME ERROR: 12\r\n"
        modem.mute, modem.hears_restart = True, hears
        await port.send("AT\rAT+CFUN=1,1\r")
        with trio.move_on_after(1):
            await port.until(b"RDY")
        assert modem.restarts == hears
        if not hears:
            modem.power_cycle()
            await port.until(b"RDY")
        await port.aclose()
