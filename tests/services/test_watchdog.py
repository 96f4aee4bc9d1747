"""The watchdog: fed while there is progress, and only then."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.host import watchdog
from appliance.host.watchdog import feed, watchdog_s
from fakes.notify import NotifySocket

PERIOD = 8.0


@pytest.mark.parametrize(("environ", "seconds"), [
    ({}, None),
    ({"WATCHDOG_USEC": "60000000"}, 60.0),
    ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
    ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
])  # fmt: skip
def test_when_systemd_watches(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_s(environ) == seconds


@pytest.fixture
def fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """When it was fed, in simulated seconds."""
    times: list[float] = []
    with NotifySocket.open(tmp_path / "notify"):
        monkeypatch.setattr(watchdog, "notify", lambda **_: times.append(trio.current_time()))
        yield times


async def test_it_is_fed_well_within_its_time(fed: list[float], autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(feed, PERIOD, lambda: "", try_thread=trio.lowlevel.checkpoint))
        await trio.sleep(10 * PERIOD)
        nursery.cancel_scope.cancel()
    assert len(fed) >= 20
    assert max(b - a for a, b in itertools.pairwise(fed)) <= PERIOD / 2


async def test_what_is_stuck_starves_it_is_said_once_and_forgiven(
    fed: list[float],
    autojump_clock: trio.testing.MockClock,
    expected_errors: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_errors.append("the disk does not answer")
    why = "the disk does not answer"
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(feed, PERIOD, lambda: why, try_thread=trio.lowlevel.checkpoint))
        await trio.sleep(3 * PERIOD)
        assert fed == []
        assert caplog.text.count("no progress: the disk does not answer") == 1
        why = ""
        await trio.sleep(PERIOD)
        assert fed
        nursery.cancel_scope.cancel()


async def test_threads_that_do_not_answer_starve_it(
    fed: list[float], autojump_clock: trio.testing.MockClock, expected_errors: list[str]
) -> None:
    expected_errors.append("no thread answers")
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(feed, PERIOD, lambda: "", try_thread=trio.sleep_forever))
        await trio.sleep(3 * PERIOD)
        nursery.cancel_scope.cancel()
    assert fed == []


async def test_a_real_thread_answers(fed: list[float]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(feed, PERIOD, lambda: ""))
        with trio.fail_after(PERIOD):
            while not fed:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
