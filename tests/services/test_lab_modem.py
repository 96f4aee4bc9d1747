"""The laboratory's modem and exchange: the AT language, how dials end, escape and hang-up, calls between modems."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.lab import hayes
from appliance.lab.exchange import Exchange, Progress
from appliance.lab.laboratory import NUMBER, Laboratory, open_laboratory
from appliance.lab.modem import Modem, ModemState
from fakes.port import QUICK, Port


@asynccontextmanager
async def opened(**options: object) -> AsyncIterator[tuple[Laboratory, Port]]:
    options = {"profile": QUICK, "paced": False, "ring_s": 0.0, "train_s": 0.0, **options}
    async with open_laboratory(**options) as lab:  # type: ignore[arg-type]
        port = Port(lab.modem.port)
        yield lab, port
        await port.aclose()


@pytest.mark.parametrize(
    ("body", "commands"),
    [
        ("", []),
        ("E0Q0V1X4&C1&D2", [("E", 0), ("Q", 0), ("V", 1), ("X", 4), ("&C", 1), ("&D", 2)]),
        ("e0 v 1", [("E", 0), ("V", 1)]),
        ("ZE", [("Z", 0), ("E", 0)]),
        ("\\N3%C0", [("\\N", 3), ("%C", 0)]),
        ("DT123", [("D", 0)]),
    ],
)
def test_a_command_line_is_taken_apart(body: str, commands: list[tuple[str, int]]) -> None:
    assert [(c.name, c.value) for c in hayes.parse_body(body)] == commands


def test_registers_dial_strings_and_extended_commands() -> None:
    assign, read, extended, dial = hayes.parse_body("S7=30S0?+MS=V34;DT 0,123;")
    assert (assign.value, assign.assign, assign.read) == (7, 30, False)
    assert (read.value, read.read) == (0, True)
    assert (extended.name, extended.text) == ("+MS", "=V34")
    assert dial.text == "T0,123;"


@pytest.mark.parametrize("body", ["?", "E0=", "S", "+", "&", "1", "E0?"])
def test_what_is_no_command_is_refused(body: str) -> None:
    with pytest.raises(hayes.BadCommand):
        hayes.parse_body(body)


@pytest.mark.parametrize(
    ("settings", "result", "said"),
    [
        (hayes.Settings(), "OK", b"\r\nOK\r\n"),
        (hayes.Settings(verbose=False), "CONNECT 33600", b"84\r"),
        (hayes.Settings(verbose=False), "NO ANSWER", b"8\r"),
        (hayes.Settings(quiet=True), "OK", b""),
        (hayes.Settings(x=0), "CONNECT 33600", b"\r\nCONNECT\r\n"),
        (hayes.Settings(x=2), "BUSY", b"\r\nNO CARRIER\r\n"),
        (hayes.Settings(x=3), "NO DIALTONE", b"\r\nNO CARRIER\r\n"),
        (hayes.Settings(x=3), "BLACKLISTED", b"\r\nERROR\r\n"),
        (hayes.Settings(verbose=False), "DELAYED", b"24\r"),
    ],
)
def test_results_as_v_q_and_x_let_them(settings: hayes.Settings, result: str, said: bytes) -> None:
    assert settings.format_result(result) == said


async def test_echo_settings_and_errors() -> None:
    async with opened() as (_, port):
        assert await port.ask("AT") == b"AT\r\r\nOK\r\n"
        assert await port.ask("ATE0") == b"ATE0\r\r\nOK\r\n"
        assert await port.ask("AT") == b"\r\nOK\r\n"
        assert await port.ask("ATS7=31S7?") == b"\r\n031\r\n\r\nOK\r\n"
        assert await port.ask("ATY9", b"ERROR\r\n") == b"\r\nERROR\r\n"
        assert await port.ask("ATX9", b"ERROR\r\n") == b"\r\nERROR\r\n"
        assert await port.ask("AT" + "M" * 300, b"ERROR\r\n") == b"\r\nERROR\r\n"
        assert await port.ask("noise then AT") == b"\r\nOK\r\n"
        await port.send("A/")
        assert await port.until(b"OK\r\n") == b"\r\nOK\r\n"
        assert await port.ask("ATV0", b"0\r") == b"0\r"
        assert await port.ask("ATZ", b"OK\r\n") == b"\r\nOK\r\n"
        assert await port.ask("ATE1", b"OK\r\n") == b"ATE1\r\r\nOK\r\n"  # Z brought the echo back


def busy(lab: Laboratory) -> None:
    lab.access.engaged = True


def silent(lab: Laboratory) -> None:
    lab.access.answers = False


def person(lab: Laboratory) -> None:
    lab.access.has_modem = False


def dead(lab: Laboratory) -> None:
    lab.exchange.alive = False


def black(lab: Laboratory) -> None:
    lab.modem.next_results.append("BLACKLISTED")


@pytest.mark.parametrize(
    ("number", "change", "said", "progress"),
    [
        (NUMBER, busy, "BUSY", Progress.BUSY),
        (NUMBER, silent, "NO ANSWER", Progress.NO_ANSWER),
        (NUMBER, person, "NO CARRIER", Progress.NO_CARRIER),
        (NUMBER, dead, "NO DIALTONE", Progress.NO_DIALTONE),
        ("999", lambda lab: None, "NO CARRIER", Progress.NO_CARRIER),
        (NUMBER, black, "BLACKLISTED", None),
    ],
)
async def test_how_a_dial_fails(number: str, change: object, said: str, progress: Progress | None) -> None:
    async with opened() as (lab, port):
        change(lab)  # type: ignore[operator]
        await port.ask("ATE0S7=1")
        assert await port.ask(f"ATDT{number}", said.encode() + b"\r\n") == b"\r\n%b\r\n" % said.encode()
        assert lab.modem.on_hook and lab.modem.dials == [number] and not lab.line.calls
        assert [r.progress for r in lab.exchange.records] == ([progress] if progress else [])


async def test_a_dial_is_aborted_by_any_byte_but_not_at_once() -> None:
    async with opened() as (lab, port):
        lab.access.answers = False
        await port.ask("ATE0")
        await port.send(f"ATD{NUMBER}\r\n")  # the line feed does not abort
        await lab.modem.wait_state(ModemState.DIALLING)
        while not lab.modem.on_hook:
            await port.send("x")
            await trio.sleep(0.02)
        assert await port.until(b"\r\nNO CARRIER\r\n")
        assert lab.exchange.records[0].progress is Progress.ABORTED


async def test_a_call_opens_the_gates_and_the_escape_takes_guard_times() -> None:
    async with opened(rate=14400) as (lab, port):
        gate = lab.line.gates["smtp"]
        await port.ask("ATE0")
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", gate.port)
        await port.ask(f"ATDT{NUMBER}", b"\r\nCONNECT 14400\r\n")
        stream = await trio.open_tcp_stream("127.0.0.1", gate.port)
        assert (await stream.receive_some(100)).startswith(b"220 smtp.isp.example")
        await port.send("+++")  # no silence before it: three bytes that go nowhere
        await port.send("x")
        await trio.sleep(0.15)
        assert lab.modem.state is ModemState.ONLINE and lab.modem.stray_bytes == 4
        await port.send("+++")
        await port.until(b"\r\nOK\r\n")
        assert lab.modem.state is ModemState.ESCAPED and lab.line.is_up and lab.modem.stray_bytes == 4
        await port.ask("ATO", b"\r\nCONNECT 14400\r\n")
        await trio.sleep(0.15)
        await port.send("+++")
        await port.until(b"\r\nOK\r\n")
        assert await port.ask("ATH0") == b"\r\nOK\r\n"
        assert not lab.line.is_up and lab.modem.on_hook
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", gate.port)
        record = lab.exchange.records[0]
        assert record.progress is Progress.CONNECTED and record.end_reason == "ATH" and record.rate == 14400
        await stream.aclose()


async def test_a_lost_carrier_is_said_and_the_next_dial_works() -> None:
    async with opened() as (lab, port):
        await port.ask("ATE0")
        for _ in range(2):
            await port.ask(f"ATDT{NUMBER}", b"\r\nCONNECT 33600\r\n")
            lab.line.cut_now()
            assert await port.until(b"NO CARRIER\r\n") == b"\r\nNO CARRIER\r\n"
            assert lab.modem.on_hook
        assert [r.end_reason for r in lab.exchange.records] == ["the line was cut"] * 2


async def test_a_closed_port_is_dtr_falling_where_that_is_wanted() -> None:
    async with opened(hangs_up_on_close=True) as (lab, port):
        await port.ask("ATE0")
        await port.ask(f"ATDT{NUMBER}", b"\r\nCONNECT 33600\r\n")
        await port.aclose()
        with trio.fail_after(10):
            await lab.modem.wait_state(ModemState.COMMAND)
        again = Port(lab.modem.port)
        await again.ask("AT")
        await again.aclose()
        assert lab.exchange.records[0].end_reason == "DTR"


async def test_two_modems_call_each_other_and_bytes_go_both_ways() -> None:
    async with opened(modems=2) as (lab, port):
        near, far = lab.modems
        other = Port(far.port)
        await port.ask("ATE0")
        await other.ask("ATE0")
        await port.send(f"ATD{far.number}\r")
        await other.until(b"\r\nRING\r\n")
        await other.ask("ATA", b"CONNECT 33600\r\n")
        await port.until(b"CONNECT 33600\r\n")
        await port.send("there")
        await other.until(b"there")
        await other.send("and back")
        await port.until(b"and back")
        assert not near.line.is_up  # type: ignore[union-attr]
        lab.exchange.drop_all()
        await other.until(b"\r\nNO CARRIER\r\n")
        await port.until(b"\r\nNO CARRIER\r\n")
        # An unanswered ring ends with the caller's patience; an engaged modem is busy.
        await port.ask("ATS7=1")
        await port.ask(f"ATD{far.number}", b"\r\nNO ANSWER\r\n")
        await other.ask("ATS0=1")
        await port.ask(f"ATD{far.number}", b"CONNECT 33600\r\n")
        await other.aclose()


async def test_a_mute_modem_says_nothing() -> None:
    async with opened() as (lab, port):
        lab.modem.mute = True
        await port.send("AT\r")
        await trio.testing.wait_all_tasks_blocked(0.05)
        lab.modem.mute = False
        assert await port.ask("AT") == b"AT\r\r\nOK\r\n"


def test_a_number_is_given_once() -> None:
    exchange = Exchange()
    exchange.subscribe(Modem(exchange, "1"))
    with pytest.raises(ValueError, match="taken"):
        exchange.subscribe(Modem(exchange, "1"))
