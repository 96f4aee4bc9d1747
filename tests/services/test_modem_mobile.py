"""The profiles gsm and iridium: what is looked at before a call is paid for, what is dialled, and that a PIN is given once.

In virtual time, on a modem in software that counts its SIM's tries.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from appliance.call import Dialled, Outcome, PinState
from appliance.config.model import Bearer
from appliance.config.model import Line as LineConfig
from appliance.modem.cellular import NETWORK_S, SIM_S
from appliance.modem.line import ModemLine
from appliance.modem.profiles import PROFILES, completed
from fakes.mobile import FakeMobile, Record, Sim
from fakes.modem import FakePort, modem_with_lines

CONNECTED = Dialled(None, 9600, "CONNECT 9600")
PIN = "4711"


def config(**fields: Any) -> LineConfig:
    return LineConfig(**{"name": "gsm", "port": "", "profile": "gsm", "bearer": Bearer.NONE, **fields})


@asynccontextmanager
async def made(
    *, pin: str = "", record: Record | None = None, **fields: Any
) -> AsyncIterator[tuple[FakeMobile, ModemLine]]:
    """A modem with a SIM and a line on it."""

    async def open_port() -> FakePort:
        return FakePort(modem, has_lines=False)

    async with modem_with_lines(FakeMobile) as modem:
        assert isinstance(modem, FakeMobile)
        line = ModemLine(config(**fields), pin=pin, pin_record=record, open_port=open_port)
        yield modem, line
        await line.hang_up()


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.posthouse_event.id == event]  # type: ignore[attr-defined]


async def test_a_call(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "posthouse")
    async with made(apn="internet.example", pin=PIN, record=(record := Record())) as (modem, line):
        modem.sim = Sim(PIN)
        assert await line.prepare() is None
        assert modem.apn == "INTERNET.EXAMPLE"
        assert await line.dial("*99#") == CONNECTED
        assert modem.dialled == ["*99#"]  # without a T
        await trio.sleep(30)
        await line.hang_up()
        assert modem.on_hook
        assert await line.prepare() is None
        assert modem.sim.given == [PIN]  # once
        assert record.log == [PinState.GIVEN, PinState.TAKEN]
    assert said(caplog, "network-found") == ["gsm: registered with the home network, signal -73 dBm"] * 2


def test_a_line_gets_what_its_profile_says() -> None:
    gsm, iridium, hayes = (completed(config(profile=name)) for name in ("gsm", "iridium", "hayes"))
    assert (gsm.numbers, gsm.baud) == (("*99#",), 115200)
    assert (iridium.numbers, iridium.baud, (iridium.init or ())[-1]) == ((), 19200, "AT+CBST=71,0,1")
    assert (hayes.numbers, hayes.baud) == ((), 115200)
    own = completed(config(profile="iridium", baud=9600, init=("ATZ",), numbers=("00881600005100",)))
    assert (own.baud, own.init, own.numbers) == (9600, ("ATZ",), ("00881600005100",))
    assert completed(own) == own


async def test_a_module_that_refuses_atz(autojump_clock: Any) -> None:
    """ZTE's MF622: linuxforums.org, networking 151042. What else it refuses is an error, as with any modem."""
    async with made() as (modem, line):
        modem.errors = {"ATZ"}
        assert await line.prepare() is None
        modem.errors = {"ATE0Q0V1X4&C1&D2"}
        assert await line.prepare() is Outcome.MODEM_ERROR
    async with made(profile="hayes") as (modem, line):
        modem.errors = {"ATZ"}
        assert await line.prepare() is Outcome.MODEM_ERROR


# ---- the PIN


REFUSALS = [
    ("+CME ERROR: 16", "+CME ERROR: 16 (wrong PIN)"),
    ("+CME ERROR: incorrect password", "+CME ERROR: incorrect password (wrong PIN)"),
    ("ERROR", "ERROR"),
    ("+CME ERROR: 3", "+CME ERROR: 3 (operation not allowed)"),
]


@pytest.mark.parametrize(("answer", "shown"), REFUSALS, ids=[a for a, _ in REFUSALS])
async def test_a_refused_pin_is_never_given_again(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, answer: str, shown: str
) -> None:
    record = Record()
    sim = Sim("0000")
    for n in range(5):  # each a process of its own, with what the last one left on the disk
        async with made(pin=PIN, record=record) as (modem, line):
            modem.sim = sim
            if n == 0 and answer != "+CME ERROR: 16":
                modem.answers[f'AT+CPIN="{PIN}"'] = [answer]
            for _ in range(2):
                assert await line.prepare() is Outcome.PIN_REFUSED
            with trio.move_on_after(3600):
                await line.wait_wake()
    assert len(sim.given) == (answer == "+CME ERROR: 16")
    assert record.log == [PinState.GIVEN, PinState.REFUSED]
    assert said(caplog, "pin-refused")[0] == f"gsm: the SIM refuses the PIN: {shown}"
    assert PIN not in caplog.text


async def test_what_is_only_in_the_debug_journal_has_no_pin(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "posthouse")
    async with made(pin=PIN, record=Record(), init=("ATE1",)) as (modem, line):
        modem.sim = Sim(PIN)
        assert await line.prepare() is None
    assert 'gsm: > AT+CPIN="****"' in said(caplog, "modem-said")
    assert PIN not in caplog.text


@pytest.mark.parametrize("answer", ["", "+CME ERROR: 14"], ids=["silence", "busy"])
@pytest.mark.parametrize("counted", [False, True])
async def test_a_pin_of_which_nobody_knows_what_came(autojump_clock: Any, answer: str, counted: bool) -> None:
    """It is given again only where the modem tells that no try was used up."""
    record = Record()
    async with made(pin=PIN, record=record) as (modem, line):
        modem.sim = Sim(PIN)
        modem.counts_tries = counted
        modem.answers[f'AT+CPIN="{PIN}"'] = [answer]
        assert await line.prepare() is Outcome.PIN_REFUSED
        assert record.log == [PinState.GIVEN]
        del modem.answers[f'AT+CPIN="{PIN}"']
        assert await line.prepare() is (None if counted else Outcome.PIN_REFUSED)
        assert modem.sim.given == ([PIN] if counted else [])
        modem.unlocked = True  # somebody has entered it elsewhere
        assert await line.prepare() is None


@pytest.mark.parametrize("said_to", ["ERROR", ""], ids=["error", "silence"])
async def test_a_pin_that_is_taken_whatever_the_modem_says(autojump_clock: Any, said_to: str) -> None:
    record = Record()
    async with made(pin=PIN, record=record) as (modem, line):
        modem.sim = Sim(PIN)
        modem.answers[f'AT+CPIN="{PIN}"'] = [said_to]
        modem.answers["AT+CPIN?"] = ["+CPIN: SIM PIN|OK", "+CPIN: READY|OK"]
        assert await line.prepare() is None
        assert record.log == [PinState.GIVEN, PinState.TAKEN]


async def test_a_pin_taken_before_is_given_at_each_start_of_the_modem(autojump_clock: Any) -> None:
    record = Record()
    async with made(pin=PIN, record=record) as (modem, line):
        modem.sim = Sim(PIN)
        for _ in range(3):
            modem.unlocked = False
            assert await line.prepare() is None
        assert modem.sim.given == [PIN] * 3
        assert record.log == [PinState.GIVEN, PinState.TAKEN]  # so that a power cut in between leaves it taken
        modem.sim.pin = "9999"  # somebody has changed it on the SIM
        modem.unlocked = False
        for _ in range(3):
            assert await line.prepare() is Outcome.PIN_REFUSED
        assert modem.sim.given == [PIN] * 4
        assert record.log[2:] == [PinState.REFUSED]


async def test_a_pin_taken_before_of_which_nobody_knows_what_came_now(autojump_clock: Any) -> None:
    async with made(pin=PIN, record=(record := Record(PinState.TAKEN))) as (modem, line):
        modem.sim = Sim(PIN)
        modem.answers[f'AT+CPIN="{PIN}"'] = [""]
        for _ in range(2):
            assert await line.prepare() is Outcome.PIN_REFUSED
        assert record.log == [PinState.GIVEN]
        assert modem.heard.count(f'AT+CPIN="{PIN}"') == 1


@pytest.mark.parametrize("tries", [1, 2, 3])
async def test_the_last_try_is_a_persons(autojump_clock: Any, caplog: pytest.LogCaptureFixture, tries: int) -> None:
    async with made(pin=PIN, record=(record := Record())) as (modem, line):
        modem.sim = Sim(PIN)
        modem.sim.tries, modem.counts_tries = tries, True
        assert await line.prepare() is (None if tries > 1 else Outcome.PIN_REFUSED)
        assert (record.log == []) == (tries == 1)


async def test_no_pin_is_given_that_the_disk_would_forget(autojump_clock: Any) -> None:
    record = Record()
    record.keeps = False
    async with made(pin=PIN, record=record) as (modem, line):
        modem.sim = Sim(PIN)
        assert await line.prepare() is Outcome.MODEM_ERROR
        assert modem.sim.given == []


async def test_a_call_cancelled_at_any_moment_leaves_the_pins_result(autojump_clock: Any) -> None:
    """Where a PIN was given, what came of it is known: no cancellation comes between."""
    moments = set()
    for hundredths in range(0, 400, 5):
        record = Record()
        async with made(pin=PIN, record=record) as (modem, line):
            modem.sim, modem.byte_s = Sim(PIN), 0.01
            with trio.move_on_after(hundredths / 100):
                await line.prepare()
            assert len(modem.sim.given) == record.log.count(PinState.TAKEN)
            moments.add(len(modem.sim.given))
    assert moments == {0, 1}


SIMS = [
    ("+CME ERROR: 10", "there is no SIM card", Outcome.MODEM_ERROR),
    ("+CPIN: NOT INSERTED|OK", "there is no SIM card", Outcome.MODEM_ERROR),
    ("+CPIN: SIM PUK|OK", "wants its PUK", Outcome.PIN_REFUSED),
    ("+CME ERROR: 12", "wants its PUK", Outcome.PIN_REFUSED),
    ("+CPIN: PH-NET PIN|OK", "locked to another network", Outcome.MODEM_ERROR),
    ("+CPIN: PH-SIM PIN|OK", "locked to another network", Outcome.MODEM_ERROR),
    ("+CME ERROR: 13", "has failed", Outcome.MODEM_ERROR),
    ("+CME ERROR: 14", f"still busy after {SIM_S:g} s", Outcome.MODEM_ERROR),
    ("ERROR", "does not tell", Outcome.MODEM_ERROR),
]


@pytest.mark.parametrize(("answer", "words", "outcome"), SIMS, ids=[a for a, _, _ in SIMS])
async def test_a_sim_that_serves_nobody(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, answer: str, words: str, outcome: Outcome
) -> None:
    async with made(pin=PIN, record=(record := Record())) as (modem, line):
        modem.answers["AT+CPIN?"] = [answer]
        assert await line.prepare() is outcome
        assert record.log == []
    (text,) = said(caplog, "sim-problem")
    assert words in text


async def test_a_sim_that_wants_a_pin_where_none_is_configured(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with made() as (modem, line):
        modem.sim = Sim(PIN)
        assert await line.prepare() is Outcome.MODEM_ERROR
        assert modem.sim.given == []
    assert said(caplog, "sim-problem") == ["gsm: the SIM wants its PIN, and the line has no `pin`"]


async def test_a_sim_that_is_slow_and_a_radio_that_is_off(autojump_clock: Any) -> None:
    async with made(pin=PIN, record=Record()) as (modem, line):
        modem.functionality = 0
        modem.answers["AT+CPIN?"] = ["ERROR", "+CME ERROR: 14", "+CPIN: NOT READY|OK", "+CPIN: READY|OK"]
        assert await line.prepare() is None
        assert modem.functionality == 1


# ---- the network


NETWORKS = [
    ({"+CREG": 1, "+CGREG": 1}, 20, ""),
    ({"+CGREG": 5}, 3, ""),
    ({"+CREG": 0, "+CGREG": 0, "+CEREG": 1}, 31, ""),
    ({"+CREG": 5}, 20, ""),  # a modem that knows no other
    ({"+CREG": 1, "+CGREG": 1}, 99, ""),  # unknown is no reason
    ({"+CREG": 1, "+CGREG": 2}, 20, "no network: still searching"),  # calls, but no packets
    ({"+CREG": 1, "+CGREG": 3}, 20, "no network: the network refuses this SIM"),
    ({"+CREG": 0, "+CGREG": 0}, 99, "no network: none, and it searches for none; signal unknown"),
    ({"+CGREG": 4}, 0, "no network: no coverage; signal -113 dBm"),
    ({"+CGREG": 8}, 20, "no network: for short messages or emergencies alone"),
    ({}, 20, "no network: the modem does not tell"),
    ({"+CGREG": 1}, 2, "the signal is too weak: -109 dBm, -107 dBm is the least"),
]


@pytest.mark.parametrize(("registration", "rssi", "why"), NETWORKS)
async def test_no_call_without_a_network(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture, registration: dict[str, int], rssi: int, why: str
) -> None:
    async with made() as (modem, line):
        modem.registration, modem.rssi = registration, rssi
        started = trio.current_time()
        assert await line.prepare() is (Outcome.NO_NETWORK if why else None)
        if why:
            assert NETWORK_S <= trio.current_time() - started < NETWORK_S + 10
            (text,) = said(caplog, "no-network")
            assert why in text
        else:
            assert trio.current_time() - started < 5


async def test_a_circuit_switched_number_needs_calls_alone(autojump_clock: Any) -> None:
    async with made(numbers=("0570000111",)) as (modem, line):
        modem.registration = {"+CREG": 1, "+CGREG": 0}
        assert await line.prepare() is None
        assert await line.dial("0570000111") == CONNECTED
        assert modem.dialled == ["0570000111"]


async def test_a_modem_that_looks_for_packets_only_when_told(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        modem.registration = {"+CREG": 1, "+CGREG": 0}
        assert await line.prepare() is None
        assert modem.attaches == 1
        modem.registration = {"+CREG": 0, "+CGREG": 0}
        assert await line.prepare() is Outcome.NO_NETWORK
        assert modem.attaches == 1  # where there is no network at all there is nothing to attach to


async def test_a_network_that_comes_late(autojump_clock: Any) -> None:
    """Who waits is told what is going on, each time that it changes."""
    told: list[str] = []
    async with made() as (modem, line):
        modem.answers["AT+CGREG?"] = [*["+CGREG: 0,2|OK"] * 8, "+CGREG: 0,5|OK"]
        modem.answers["AT+CSQ"] = [*["+CSQ: 1,99|OK"] * 10, "+CSQ: 9,99|OK"]
        assert await line.prepare(told.append) is None
    assert told == [
        "looking for a network: still searching; signal -111 dBm",
        "looking for a network: found; signal -111 dBm",
        "registered with a foreign network, signal -95 dBm",
    ]


async def test_an_access_point_that_the_modem_does_not_take(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(apn="internet.example") as (modem, line):
        modem.answers['AT+CGDCONT=1,"IP","INTERNET.EXAMPLE"'] = ["+CME ERROR: 3"]
        assert await line.prepare() is Outcome.MODEM_ERROR
    assert said(caplog, "sim-problem") == [
        "gsm: the modem does not take the access point's name: +CME ERROR: 3 (operation not allowed)"
    ]


async def test_the_networks_time_goes_on(autojump_clock: Any) -> None:
    async with made() as (modem, line):
        assert await line.network_time() is None
        modem.clock = "26/11/28,09:00:05+36"
        assert await line.prepare() is None
        moment = datetime(2026, 11, 28, 0, 0, 5, tzinfo=UTC)
        first = await line.network_time()
        assert first is not None and timedelta(0) <= first - moment < timedelta(seconds=1)
        assert await line.dial("*99#") == CONNECTED
        await trio.sleep(100)
        later = await line.network_time()
        assert later is not None and timedelta(seconds=100) <= later - first < timedelta(seconds=101)
        modem.clock = "04/01/01,00:41:10+00"  # its own beginning: nobody told it
        await line.hang_up()
        assert await line.prepare() is None
        assert await line.network_time() is None


# ---- why a dial failed


DIALS = [
    ("gsm", "NO CARRIER", "No cause information available", Outcome.NO_CARRIER,
     "NO CARRIER (+CEER: No cause information available)"),
    ("gsm", "+CME ERROR: 30", "", Outcome.NO_NETWORK, "+CME ERROR: 30 (no network service)"),
    ("gsm", "+CME ERROR: 148", "", Outcome.MODEM_ERROR, "+CME ERROR: 148 (unspecified packet error)"),
    ("gsm", "NO CARRIER", "", Outcome.NO_CARRIER, "NO CARRIER"),
    ("iridium", "NO CARRIER", "User alerting, no answer", Outcome.NO_CARRIER,
     "NO CARRIER (+CEER: User alerting, no answer)"),
    ("iridium", "BUSY", "User busy", Outcome.BUSY, "BUSY (+CEER: User busy)"),
    ("iridium", "+CME ERROR: 30", "", Outcome.MODEM_ERROR, "+CME ERROR: 30"),
    ("hayes", "NO CARRIER", "1", Outcome.NO_CARRIER, "NO CARRIER"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "result", "cause", "outcome", "text"), DIALS)
async def test_a_dial_that_fails_says_why(
    autojump_clock: Any, profile: str, result: str, cause: str, outcome: Outcome, text: str
) -> None:
    async with made(profile=profile) as (modem, line):
        modem.script, modem.cause = [result], cause
        assert await line.prepare() is None
        assert await line.dial("88160") == Dialled(outcome, 0, text)
        assert ("AT+CEER" in modem.heard) == (profile != "hayes")


async def test_a_slow_iridium_modem(autojump_clock: Any) -> None:
    """Its answers come after 2 s each; a call is made and put down all the same."""
    async with made(profile="iridium", numbers=("00881600005100",), dial_timeout_s=60.0) as (modem, line):
        say, nursery = modem.say, modem._nursery

        async def later(data: bytes) -> None:
            await trio.sleep(2)
            say(data)

        modem.say = lambda data: nursery.start_soon(later, data)  # type: ignore[method-assign]
        modem.dial_s, modem.echo_at_reset, modem.echo = 25.0, False, False
        assert await line.prepare() is None
        assert "AT+CBST=71,0,1" in modem.heard
        assert await line.dial("00881600005100") == CONNECTED
        assert modem.dialled == ["00881600005100"]
        await trio.sleep(10)
        await line.hang_up()
        assert modem.on_hook
        assert await line.prepare() is None


def test_each_profiles_deadlines_fit_into_the_cycles() -> None:
    from appliance.calls.cycle import HANG_UP_DEADLINE_S, PREPARE_DEADLINE_S
    from appliance.modem.ladder import LADDER_S
    from appliance.modem.pppd import END_S, STOP_S

    for name, profile in PROFILES.items():
        init = 2 * profile.timing.init_s * len(profile.init)
        mobile = SIM_S + NETWORK_S if profile.cellular else 0
        assert LADDER_S + mobile + init / 2 <= PREPARE_DEADLINE_S, name
        assert STOP_S[name] + END_S + profile.timing.hang_up_s < HANG_UP_DEADLINE_S, name
        assert profile.restart_s + profile.boot_s + 30 < LADDER_S, name
