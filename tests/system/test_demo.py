"""`posthouse demo`: it runs as anyone would run it, and it can fail: what it claims, prevented, is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import demo
from appliance.lab.clients import SUBMITTERS, found
from appliance.lab.laboratory import Laboratory, open_laboratory
from appliance.lab.line import Way
from appliance.lab.provider import Fault, Refuse
from interop.providers import private_folder

COMMAND = (sys.executable, "-m", "appliance", "demo")


def folders(where: Path) -> list[str]:
    return sorted(p.name for p in where.iterdir())


@pytest.fixture
def place() -> Iterator[Path]:
    with private_folder("demo") as folder:
        yield folder


def test_the_demo_shows_what_it_claims(place: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--json"], capture_output=True, text=True, timeout=90, env={**os.environ, "TMPDIR": str(place)}
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    (call,) = summary["calls"]
    assert summary["ok"] and summary["dials"] == 1 and summary["calls_saved"] == 21
    assert (call["outcome"], call["sent"], call["fetched"]) == ("complete", 12, 10)
    assert summary["programs"] == found(SUBMITTERS)
    assert summary["seconds"] < 60
    assert "10 JPY were paid; a call for each message would have cost 220 JPY" in done.stderr
    assert "\033" not in done.stderr  # no colours into a pipe
    assert folders(place) == []  # nothing is left behind


def test_the_demo_ends_clean_when_it_is_interrupted(place: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "accepted" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest
    assert folders(place) == []
    assert str(place) not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout  # no child is left


# ---- each claim can fail


def refuse_smtp(lab: Laboratory) -> None:
    def fault(step: str, detail: str) -> Fault:
        return Refuse(550, "5.1.1", "nobody") if (step, detail) == ("rcpt", "friend3@far.example") else None

    lab.provider.smtp_fault = fault


def refuse_pop3(lab: Laboratory) -> None:
    lab.provider.pop3_fault = lambda step, detail: Refuse() if (step, detail) == ("retr", "yuki-isp.000002") else None


def wrong_number(lab: Laboratory) -> None:
    lab.access.has_modem = False


def go_around_the_line(lab: Laboratory) -> None:
    lab.provider.sessions.append("smtp")


def dial_early(lab: Laboratory) -> None:
    lab.modem.dials.append("123")


def swap_bytes(lab: Laboratory) -> None:
    taken = lab.provider.received

    class Changed(list):  # type: ignore[type-arg]
        def append(self, message: Any) -> None:
            object.__setattr__(message, "data", message.data.replace(b"berth", b"girth", 1))
            super().append(message)

    lab.provider.received = Changed(taken)


def miscount(lab: Laboratory) -> None:
    def count_again(gate: str, way: Way, data: bytes) -> None:
        lab.line.calls[-1].delivered[way] += len(data)

    lab.line.on_bytes = count_again


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (dial_early, "dialled 1 times before the condition was met"),
        (go_around_the_line, "the provider saw 1 connections, the line carried 0"),
        (refuse_smtp, "friend3@far.example"),
        (refuse_pop3, "1 of 10 messages are still upstream"),
        (swap_bytes, "not there once and whole"),
        (miscount, "the ledger is not what was seen: bytes_out is"),
        (wrong_number, "the modem dialled 3 times"),
    ],
)
def test_the_demo_fails_when_something_did_not_happen(
    sabotage: Callable[[Laboratory], None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @asynccontextmanager
    async def sabotaged(**options: Any) -> AsyncIterator[Laboratory]:
        async with open_laboratory(**{**options, "paced": False, "round_trip_s": 0.0}) as lab:
            sabotage(lab)
            yield lab

    monkeypatch.setattr(demo, "open_laboratory", sabotaged)
    assert demo.run(as_json=True) == 1
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert not summary["ok"] and said in summary["failure"]
    assert f"posthouse demo: {summary['failure']}" in printed.err


@pytest.mark.parametrize(
    ("got", "carried"),
    [
        (b"A: b\r\n\r\nx\r\n", True),
        (b"Received: from x\r\n\tby y\r\nA: b\r\n\r\nx\r\n", True),
        (b"A: b\r\n\r\nx\r\n\r\n", False),
        (b"A: b\r\n\r\ny\r\n", False),
        (b"no field\r\nA: b\r\n\r\nx\r\n", False),
        (b"Received: A: b\r\n\r\nx\r\n", False),
    ],
)
def test_a_letter_is_carried_with_fields_added_above_at_most(got: bytes, carried: bool) -> None:
    assert demo._carried(b"A: b\r\n\r\nx\r\n", got) is carried
