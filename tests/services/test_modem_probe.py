"""Looking for modems: at the laboratory's ports, at what is none, and which ports there are."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.lab.laboratory import open_laboratory
from appliance.lab.mobile import MobileModem, Sim
from appliance.modem.dialogue import Timing
from appliance.modem.probe import Probed, probe, serial_ports

QUICK = Timing(answer_s=0.3, quiet_s=0.02)


async def test_a_telephone_modem() -> None:
    async with open_laboratory(paced=False) as lab:
        found = await probe(lab.modem.port)
        assert found == Probed(lab.modem.port, "Laboratory modem", "hayes", 115200, "hardware")
        assert lab.modem.dials == []
        assert await probe(lab.modem.port) == found, "the port is given back"


@pytest.mark.parametrize(
    ("sim", "what", "wants_pin"),
    [(Sim(), "SIM ready", False), (Sim(pin="1234"), "the SIM wants its PIN", True),
     (Sim(pin="1234", tries=0), "the SIM is blocked and wants its PUK", False)],
)  # fmt: skip
async def test_a_modem_with_a_sim(sim: Sim, what: str, wants_pin: bool) -> None:
    async with open_laboratory(paced=False, sim=sim) as lab:
        found = await probe(lab.modem.port)
        assert (found.profile, found.wants_pin) == ("gsm", wants_pin)
        assert found.what == f"Laboratory modem, {what}, signal -73 dBm, registered"
        assert sim.given == [], "no PIN is tried"


async def test_one_without_a_card_and_without_a_network() -> None:
    async with open_laboratory(paced=False, sim=Sim()) as lab:
        assert isinstance(lab.modem, MobileModem)
        lab.modem.sim, lab.modem.rssi, lab.modem.registration = None, 99, {"+CREG": 2}
        found = await probe(lab.modem.port)
        assert found.what == "Laboratory modem, no SIM card, no signal, looking for a network"


async def test_a_modem_that_hangs_is_none() -> None:
    async with open_laboratory(paced=False) as lab:
        lab.modem.mute = True
        assert await probe(lab.modem.port, QUICK) == Probed(lab.modem.port, "nothing answers")


@pytest.fixture
def device() -> Iterator[tuple[str, int]]:
    """A port behind which a test answers."""
    master, port = os.openpty()
    tty.setraw(port)
    path = os.ttyname(port)
    os.close(port)
    yield path, master
    os.close(master)


async def answer(master: int, answers: dict[bytes, bytes]) -> None:
    """Until cancelled; what it does not know is answered ERROR."""
    heard = b""
    while True:
        await trio.lowlevel.wait_readable(master)
        try:
            heard += os.read(master, 4096)
        except OSError:  # nobody has the port open
            await trio.sleep(0.01)
            continue
        while b"\r" in heard:
            line, _, heard = heard.partition(b"\r")
            os.write(master, answers.get(line, b"\r\nERROR\r\n"))


@pytest.mark.parametrize(
    ("answers", "profile", "what"),
    [
        (
            {b"AT+CGMI": b"\r\nIridium\r\n\r\nOK\r\n", b"AT+CGMM": b"\r\n9522B\r\n\r\nOK\r\n"},
            "iridium",
            "Iridium 9522B",
        ),
        ({b"ATI": b"\r\n5601\r\n\r\nOK\r\n"}, "hayes", "5601"),
        ({b"ATI": b"\r\n\x1b[2Jevil\r\n\r\nOK\r\n"}, "hayes", "[2Jevil"),
        ({}, "hayes", "a modem"),
    ],
)
async def test_what_it_says_of_itself(
    device: tuple[str, int], answers: dict[bytes, bytes], profile: str, what: str
) -> None:
    path, master = device
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, master, {b"ATE0Q0V1": b"\r\nOK\r\n", **answers})
        found = await probe(path)
        nursery.cancel_scope.cancel()
    assert (found.profile, found.what) == (profile, what)


async def test_something_that_answers_and_is_no_modem(device: tuple[str, int]) -> None:
    path, master = device
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, master, {})
        found = await probe(path, QUICK)
        nursery.cancel_scope.cancel()
    assert (found.profile, found.what) == ("", "it answers ERROR, which no modem does")


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/ttyNONE9", "there is no such port"), ("/dev/null", "this is not a serial port")]
)
async def test_what_is_no_port(path: str, why: str) -> None:
    assert await probe(path) == Probed(path, why)


def test_which_ports_there_are(tmp_path: Path) -> None:
    sys, by_id, dev = (tmp_path / name for name in ("sys", "by-id", "dev"))
    for folder in (sys, by_id, dev):
        folder.mkdir()
    for name, kind in (
        ("ttyS0", "4"),
        ("ttyS1", "4"),
        ("ttyS2", "0"),
        ("ttyUSB0", None),
        ("ttyUSB1", None),
        ("tty7", None),
    ):
        (sys / name).mkdir()
        if name != "tty7":
            (sys / name / "device").mkdir()
        if kind:
            (sys / name / "type").write_text(kind + "\n")
        (dev / name).touch()
    (sys / "console").mkdir()
    (sys / "console/active").write_text("tty0 ttyS0\n")
    (by_id / "usb-SIMCOM-if02").symlink_to(dev / "ttyUSB1")
    assert serial_ports(sys, by_id, dev) == [
        str(dev / "ttyS1"), str(dev / "ttyUSB0"), str(by_id / "usb-SIMCOM-if02")
    ]  # fmt: skip
    assert serial_ports(tmp_path / "none", by_id, dev) == []
