"""A call's time and bytes beyond what the line itself costs, in software and, with PPP, between two virtual machines.

In software (bearer none, a laboratory's modem and provider on this host, no round trip, no pacing): from the modem's
CONNECT to the first byte of mail, and from the last byte of mail until the modem is on-hook, less `linger` and the
guard times. The times are the exchange's and the line's own, not Posthouse's. Then how long a modem that hangs holds a
call up.

By PPP, between two virtual machines: `call_vm`.
"""

from __future__ import annotations

import smtplib
import statistics
import time
from pathlib import Path
from typing import Any

from appliance.lab.laboratory import NUMBER, LabThread
from appliance.lab.mobile import MobileModem, Sim
from tests.bench import call_vm
from tests.fakes.ports import free_port
from tests.interop.product import Product
from tests.interop.providers import private_folder

ROUNDS = 5
GUARD_S = 1.0
"""S12's default, as a modem on a port without DTR has it."""
GOAL_S = 1.0
BOOT_S = 5.0
LADDER_S = 100.0
"""As docs/operating.md has it."""


def message(n: int) -> bytes:
    body = b"The harbour is calm, the ferry leaves at ten as always.\r\n" * 50
    head = f"From: hanako@harbour.example\r\nTo: a@far.example\r\nSubject: {n}\r\nMessage-ID: <{n}@harbour.example>\r\n\r\n"
    return head.encode() + body


def bench(rounds: int) -> None:
    with private_folder("bench") as folder:
        _software(folder, max(rounds, ROUNDS))
    with private_folder("bench") as folder:
        _ladder(folder)
    call_vm.bench(rounds)


def _software(folder: Path, rounds: int) -> None:
    seen: list[float] = []
    with LabThread(paced=False, ring_s=0.05, train_s=0.05, profile={12: round(GUARD_S * 50)}) as lab:
        lab.lab.provider.require_login = False
        lab.lab.line.on_bytes = lambda gate, way, data: seen.append(time.time())
        product = _product(folder, lab)
        product.start()
        begins, ends = [], []
        try:
            for n in range(rounds):
                seen.clear()
                with smtplib.SMTP("127.0.0.1", int(product.config["mail"]["smtp"][0].rpartition(":")[2])) as client:
                    client.sendmail("hanako@harbour.example", "a@far.example", message(n))
                call = product.dial()
                assert (call["outcome"], call["sent"]) == ("complete", 1), call
                lab.wait_on_hook()
                record = lab.lab.exchange.records[-1]
                assert record.connected is not None and record.ended is not None
                begins.append(seen[0] - record.connected)
                ends.append(record.ended - seen[-1] - 2 * GUARD_S)
        finally:
            product.stop()
    print(f"bearer none, a pseudo-terminal without modem lines, {rounds} calls; seconds: median (longest)")
    _print("CONNECT to the first byte of mail", begins)
    _print("last byte of mail to on-hook, beyond linger and two guard times", ends, GOAL_S)


def _ladder(folder: Path) -> None:
    """A module that hangs: until it is dialled after its restart, and until a dead one is given up. What the module itself
    takes to start is part of it."""
    with LabThread(paced=False, ring_s=0.05, train_s=0.05, sim=Sim()) as lab:
        modem = lab.lab.modem
        assert isinstance(modem, MobileModem)
        modem.boot_s = BOOT_S
        product = _product(folder, lab)
        product.config["line"][0] |= {"profile": "gsm", "numbers": []}
        product.start()
        print(f"profile gsm, a module that hangs and starts within {BOOT_S:g} s; seconds")
        try:
            for hears, what in (
                (True, "restarted by AT+CFUN=1,1: from dial to ATD"),
                (False, "dead: from dial to its end"),
            ):
                modem.hears_restart, modem.mute = hears, True
                began = time.time()
                call = product.dial()
                assert (call["outcome"] == "complete") == hears, call
                _print(what, [(lab.lab.exchange.records[-1].started if hears else time.time()) - began], LADDER_S)
        finally:
            product.stop()


def _product(folder: Path, lab: LabThread) -> Product:
    config: dict[str, Any] = {
        "site": {"name": "harbour", "domain": "harbour.example", "state": folder / "state", "runtime": folder / "run"},
        "line": [{
            "name": "pstn", "port": lab.lab.modem.port, "flow": "none", "numbers": [NUMBER], "bearer": "none", "attempts": 1,
        }],
        "schedule": {"urgent": False, "min_gap": "0s", "linger": "0s"},
        "mail": {
            "smtp": [f"127.0.0.1:{free_port()}"], "trusted_networks": ["127.0.0.0/8"],
            "smarthost": [{"host": "127.0.0.1", "port": lab.lab.line.gates["smtp"].port, "tls": "none"}],
        },
        "user": [{"name": "hanako", "addresses": ["hanako@harbour.example"]}],
    }  # fmt: skip
    return Product(folder, config, {})


def _print(what: str, figures: list[float], goal: float | None = None) -> None:
    at_most = f"; goal {goal:g}" if goal is not None else ""
    print(f"  {what}: {statistics.median(figures):.3f} ({max(figures):.3f}){at_most}", flush=True)
