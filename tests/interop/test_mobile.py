"""The whole product on a modem with a SIM: a PIN given once, a network asked for before it is dialled, a module that hangs."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.mobile import MobileModem, Sim
from fakes.ports import free_port

from .product import Site, quick_lab, running
from .providers import HOST, wait_until

PIN = "4711"
REFUSED = "its SIM has refused the PIN: put another into secrets.toml"


def site_of(tmp_path: Path, lab: Any, pin: str, **line: Any) -> Site:
    site = Site(
        tmp_path, lab, users=("hanako",), smtp_target=(HOST, free_port()),
        line={"name": "gsm", "profile": "gsm", "numbers": [], "pin": "sim", "apn": "internet.example", **line},
    )  # fmt: skip
    site.secrets["sim"] = pin
    return site


def modem_of(lab: Any) -> MobileModem:
    modem = lab.lab.modem
    assert isinstance(modem, MobileModem)
    return modem


def test_a_call_over_a_module_that_wants_a_pin(tmp_path: Path) -> None:
    with quick_lab(sim=Sim(PIN)) as lab:
        site, modem = site_of(tmp_path, lab, PIN), modem_of(lab)
        with running(site):
            call = site.dial()
            assert (call["outcome"], call["line"], call["number"]) == ("complete", "gsm", "*99#"), call
            assert modem.apn == "internet.example"
            assert "registered with the home network, signal -73 dBm" in site.journal()
            assert site.dial()["outcome"] == "complete"
            assert modem.sim is not None and modem.sim.given == [PIN]
            assert modem.dials == ["*99#"] * 2
        assert PIN not in site.journal() and PIN not in (tmp_path / "state" / "ledger").read_text()


def test_a_call_brings_the_time(tmp_path: Path) -> None:
    """To a clock that is behind the last time seen: by more than the network could be wrong."""
    with quick_lab(sim=Sim(PIN)) as lab:
        site, now = site_of(tmp_path, lab, PIN), datetime.now(UTC)
        (tmp_path / "state").mkdir(exist_ok=True)
        seen = {"seen": now.timestamp() + 400 * 86400, "boot_id": "another", "guess": None}
        (tmp_path / "state" / "clock").write_text(json.dumps(seen))
        with running(site):
            assert not site.status()["clock_trusted"]
            call = site.dial()
            assert call["outcome"] == "complete"
            assert site.status()["clock_trusted"]
            assert "the clock is trusted: the network of gsm" in site.journal()
            ended = datetime.fromisoformat(call["ended"])
            assert abs((ended - now).total_seconds()) < 60


def test_a_wrong_pin_is_given_once_whatever_is_done(tmp_path: Path) -> None:
    sim = Sim(PIN)
    with quick_lab(sim=sim) as lab:
        site, modem = site_of(tmp_path, lab, "0000"), modem_of(lab)
        with running(site):
            wait_until(lambda: "the SIM refuses the PIN: +CME ERROR: 16 (wrong PIN)" in site.journal(), "it is refused")
            for again in (True, False):
                done = site.cli("dial")
                assert done.returncode == 1 and REFUSED in done.stderr, done.stderr
                assert f"gsm: {REFUSED}" in site.status()["line"]["next_call_reason"]
                if again:
                    site.kill()
                    site.start()
            assert (sim.given, modem.dials) == (["0000"], [])
            site.secrets["sim"] = PIN
            site.write()
            assert site.process is not None
            site.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "configuration read again: caller" in site.journal(), "it is read again")
            assert site.dial()["outcome"] == "complete"
            assert sim.given == ["0000", PIN]


@pytest.mark.long
@pytest.mark.parametrize("hears_restart", [True, False])
def test_a_module_that_hangs(tmp_path: Path, hears_restart: bool) -> None:
    """With the true times."""
    with quick_lab(sim=Sim(PIN)) as lab:
        site, modem = site_of(tmp_path, lab, PIN), modem_of(lab)
        with running(site):
            assert site.dial()["outcome"] == "complete"
            modem.hears_restart = hears_restart
            modem.mute = True
            call = site.dial()
            assert call["outcome"] == ("complete" if hears_restart else "modem-silent")
            assert modem.restarts == hears_restart
            assert "now DTR, +++ and ATH" in site.journal() and "now AT+CFUN=1,1" in site.journal()
            assert ("answers again after" in site.journal()) == hears_restart


def test_a_module_that_restarts_in_a_call(tmp_path: Path) -> None:
    """The call is not left open on a module that is back in command mode, and the next one is made as ever."""
    with quick_lab(sim=Sim(PIN)) as lab:
        site, modem = site_of(tmp_path, lab, PIN), modem_of(lab)
        site.config["schedule"]["linger"] = "30s"
        with running(site):
            site.dial_nowait()
            lab.wait_online()
            wait_until(lambda: site.status()["line"]["state"] == "lingering", "it lingers")
            lab.do(modem.restart)
            (call,) = site.wait_calls(1)
            assert call["outcome"] == "complete"  # its work was done
            assert call["duration_s"] < 20
            assert "the modem has restarted in the call (" in site.journal()
            site.dial_nowait()
            lab.wait_online()
            assert site.cli("hangup").returncode == 0
            assert site.wait_calls(2)[-1]["outcome"] == "hung-up"
            assert modem.sim is not None and modem.sim.given == [PIN, PIN]
