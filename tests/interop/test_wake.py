"""The whole product is woken: a ring from a wake number is not answered and makes a call, another one does nothing."""

from __future__ import annotations

from pathlib import Path

from appliance.lab.exchange import Progress
from appliance.lab.laboratory import NUMBER
from fakes.ports import free_port

from .product import Site, quick_lab, running
from .providers import HOST, wait_until


def test_a_ring_from_a_wake_number_makes_a_call(tmp_path: Path) -> None:
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, free_port()),
            line={"wake_numbers": ["+81312345678"]},
        )  # fmt: skip
        with running(site):
            records = lab.lab.exchange.records
            wait_until(lambda: "ATS0=0" in str(lab.lab.modem.transcript), "it listens")
            assert lab.ring("0399990000") is Progress.NO_ANSWER
            wait_until(lambda: "none of wake_numbers" in site.journal(), "it is passed over")
            assert lab.ring("0312345678") is Progress.NO_ANSWER
            (call,) = site.wait_calls(1)
            assert (call["reason"], call["outcome"]) == ("wake", "complete")
            assert [r.number for r in records] == [lab.lab.modem.number] * 2 + [NUMBER]
            assert "a ring from +81312345678, not answered" in site.journal()
