"""Services that fail and are started again: pauses, forgiveness, crash loops, stopping. In simulated time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from appliance.supervisor import FIRST_PAUSE_S, FORGIVEN_S, MAX_FAILURES, MAX_PAUSE_S, CrashLoop, Supervisor

RESTARTED = "failed (ValueError: broken"


class Service:
    """Lives for `lives` seconds a run, the last for all further ones, then raises. `starts`: when it was started."""

    def __init__(self, *lives: float, error: type[BaseException] | None = ValueError) -> None:
        self.lives = list(lives)
        self.error = error
        self.starts: list[float] = []
        self.ready = True
        self.cleaned_up = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.starts.append(trio.current_time())
        if self.ready:
            task_status.started()
        try:
            await trio.sleep(self.lives.pop(0) if len(self.lives) > 1 else self.lives[0])
        finally:
            self.cleaned_up += 1
        if self.error is not None:
            raise self.error("broken")


@asynccontextmanager
async def supervisor() -> AsyncIterator[Supervisor]:
    async with trio.open_nursery() as nursery:
        yield Supervisor(nursery)
        nursery.cancel_scope.cancel()


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def test_pauses_double_up_to_a_crash_loop(
    autojump_clock: trio.testing.MockClock, expected_errors: list[str]
) -> None:
    expected_errors += [RESTARTED, "giving up, the process ends"]
    service = Service(0.0)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await Supervisor(nursery).start("smtp", service.run)
            await trio.sleep_forever()
    (loop,) = leaves(raised.value)
    assert isinstance(loop, CrashLoop)
    assert "smtp" in str(loop)
    assert "broken" in str(loop)
    pauses = [b - a for a, b in zip(service.starts, service.starts[1:], strict=False)]
    assert pauses == pytest.approx([min(FIRST_PAUSE_S * 2**i, MAX_PAUSE_S) for i in range(MAX_FAILURES - 1)])


async def test_the_time_of_a_crash_loop_is_that_of_all_its_failures(
    autojump_clock: trio.testing.MockClock, expected_errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected_errors += [RESTARTED, "giving up"]
    with caplog.at_level(logging.ERROR), pytest.raises(BaseExceptionGroup):
        async with trio.open_nursery() as nursery:
            await Supervisor(nursery).start("smtp", Service(1.0).run)
            await trio.sleep_forever()
    pauses = sum(FIRST_PAUSE_S * 2**i for i in range(MAX_FAILURES - 1))
    assert f"failed {MAX_FAILURES} times within {pauses + MAX_FAILURES:.0f} s;" in caplog.messages[-1]


async def test_pauses_are_capped(
    autojump_clock: trio.testing.MockClock, expected_errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.append(RESTARTED)
    monkeypatch.setattr("appliance.supervisor.MAX_FAILURES", 100)
    service = Service(0.0)
    async with supervisor() as s:
        await s.start("smtp", service.run)
        await trio.sleep(1000)
    pauses = [b - a for a, b in zip(service.starts, service.starts[1:], strict=False)]
    assert pauses[-3:] == pytest.approx([MAX_PAUSE_S] * 3)


async def test_a_long_life_is_forgiven(autojump_clock: trio.testing.MockClock, expected_errors: list[str]) -> None:
    expected_errors.append(RESTARTED)
    lives = [1.0] * (MAX_FAILURES - 1) + [FORGIVEN_S + 1, 1.0, 1.0, 1e9]
    service = Service(*lives)
    async with supervisor() as s:
        await s.start("smtp", service.run)
        await trio.sleep(10 * FORGIVEN_S)
        assert s.states() == {"smtp": "running"}
    pauses = [b - a - life for a, b, life in zip(service.starts, service.starts[1:], lives, strict=False)]
    assert pauses[MAX_FAILURES - 1 :] == pytest.approx([FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S])
    assert len(service.starts) == len(lives)


async def test_states(autojump_clock: trio.testing.MockClock, expected_errors: list[str]) -> None:
    expected_errors.append(RESTARTED)
    service = Service(10.0, 1e9)
    async with supervisor() as s:
        assert s.states() == {}
        await s.start("smtp", service.run)
        await s.start("pop3", Service(1e9).run)
        assert s.states() == {"smtp": "running", "pop3": "running"}
        await trio.sleep(10 + FIRST_PAUSE_S / 2)
        assert s.states() == {"smtp": "restarting", "pop3": "running"}
        await trio.sleep(FIRST_PAUSE_S)
        assert s.states() == {"smtp": "running", "pop3": "running"}


@pytest.mark.parametrize("error", [OSError, ValueError])
async def test_a_first_start_that_fails_goes_up(error: type[Exception]) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise error("port taken")

    async with supervisor() as s:
        with pytest.raises(error, match="port taken"):
            await s.start("smtp", run)
        assert s.states() == {}


async def test_a_first_start_that_fails_in_a_nursery_goes_up_as_it_is() -> None:
    """A service opens a nursery of its own; whoever starts it catches OSError all the same."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery():
            raise OSError("port taken")

    async with supervisor() as s:
        with pytest.raises(OSError, match="port taken"):
            await s.start("smtp", run)


async def test_a_service_that_ends_before_it_was_ready_goes_up(autojump_clock: trio.testing.MockClock) -> None:
    service = Service(0.0, error=None)
    service.ready = False
    async with supervisor() as s:
        with trio.fail_after(5), pytest.raises(RuntimeError, match="ended by itself"):
            await s.start("smtp", service.run)


async def test_a_service_that_returns_is_started_again(
    autojump_clock: trio.testing.MockClock, expected_errors: list[str]
) -> None:
    expected_errors.append("ended by itself")
    service = Service(1.0, 1e9, error=None)
    async with supervisor() as s:
        await s.start("smtp", service.run)
        await trio.sleep(10)
        assert len(service.starts) == 2


async def test_a_restart_that_fails_before_it_is_ready_is_a_failure_like_others(
    autojump_clock: trio.testing.MockClock, expected_errors: list[str]
) -> None:
    expected_errors.append(RESTARTED)
    service = Service(1.0, 0.0, 0.0, 1e9)
    async with supervisor() as s:
        await s.start("smtp", service.run)
        service.ready = False
        await trio.sleep(2)
        assert s.states() == {"smtp": "restarting"}
        service.ready = True
        await trio.sleep(10)
        assert s.states() == {"smtp": "running"}


async def test_stop_waits_for_the_end_and_others_go_on() -> None:
    a, b = Service(1e9), Service(1e9)
    async with supervisor() as s:
        await s.start("a", a.run)
        await s.start("b", b.run)
        await s.stop("a")
        assert (a.cleaned_up, b.cleaned_up) == (1, 0)
        assert s.states() == {"b": "running"}
        await s.stop("a")  # there is none any more


async def test_replace() -> None:
    old, new = Service(1e9), Service(1e9)
    async with supervisor() as s:
        await s.start("smtp", old.run)
        await s.stop("smtp")
        await s.start("smtp", new.run)
        assert (old.cleaned_up, new.cleaned_up) == (1, 0)
        assert s.states() == {"smtp": "running"}


async def test_stop_within_a_pause(autojump_clock: trio.testing.MockClock, expected_errors: list[str]) -> None:
    expected_errors.append(RESTARTED)
    service = Service(1.0)
    async with supervisor() as s:
        await s.start("smtp", service.run)
        await trio.sleep(1 + FIRST_PAUSE_S / 2)
        await s.stop("smtp")
        await trio.sleep(100)
    assert len(service.starts) == 1


@pytest.mark.parametrize("wrap", [True, False])
async def test_a_failure_while_it_is_stopped_is_told_and_harms_nobody(
    wrap: bool, autojump_clock: trio.testing.MockClock, expected_errors: list[str]
) -> None:
    expected_errors.append("no good end")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            if wrap:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise ValueError("no good end")
            raise ValueError("no good end")

    other = Service(1e9)
    async with supervisor() as s:
        await s.start("other", other.run)
        await s.start("smtp", run)
        await s.stop("smtp")
        await trio.sleep(10)
        assert s.states() == {"other": "running"}


async def test_cancelled_from_above_runs_every_clean_up() -> None:
    services = [Service(1e9) for _ in range(3)]
    async with supervisor() as s:
        for i, service in enumerate(services):
            await s.start(str(i), service.run)
    assert [s.cleaned_up for s in services] == [1, 1, 1]
