"""One call: every way in which it can go, at every state, on a line and jobs in software and in simulated time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.call import Dialled, JobReport, LineState, OpenCall, Outcome, Reason
from appliance.calls.cycle import HANG_UP_DEADLINE_S, Cycle, Way
from appliance.calls.ledger import Ledger
from appliance.config.model import Bearer, Line
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.line import BLOCK, FakeLine, Step

CONNECT = Dialled(None, 9600, "CONNECT 9600")
CONFIG = Line(name="pstn", numbers=("111",), bearer=Bearer.NONE, attempts=3, redial_wait_s=5.0, dial_timeout_s=60.0)


DONE = JobReport()
LEFT = JobReport(left=True, detail="the server did not answer")


class FakeJob:
    """`runs`: what each run does, then the last for ever. `wake` makes `wait_work` return."""

    def __init__(self, name: str = "mail", *runs: Callable[[OpenCall], Awaitable[JobReport]]) -> None:
        self.name = name
        self.runs = list(runs)
        self.begun = 0
        self.cancelled = False
        self._work = trio.Event()

    def wake(self) -> None:
        self._work.set()

    async def run(self, call: OpenCall) -> JobReport:
        self.begun += 1
        self._work = trio.Event()
        try:
            run = self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
            return await run(call)
        except trio.Cancelled:
            self.cancelled = True
            raise

    async def wait_work(self) -> None:
        await self._work.wait()


def takes(seconds: float, report: JobReport = DONE, *, sent: int = 0) -> Callable[[OpenCall], Awaitable[JobReport]]:
    async def run(call: OpenCall) -> JobReport:
        await trio.sleep(seconds)
        call.count(sent=sent)
        call.show(f"sent {sent}")
        return report

    return run


class Bench:
    """A ledger, a clock and what a cycle tells."""

    def __init__(self, root: Path, mock: MockClock) -> None:
        self.clock = FakeClock(mock=mock)
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()
        self.told: list[str] = []
        self.states: list[str] = []

    def cycle(
        self,
        *lines: FakeLine | Way,
        jobs: Sequence[FakeJob] = (),
        linger_s: float = 2.0,
        max_call_s: float = 1800.0,
        config: Line = CONFIG,
    ) -> Cycle:
        ways = [x if isinstance(x, Way) else Way(replace(config, name=x.name), x) for x in lines]
        return Recorded(
            self,
            reason=Reason.AT,
            due=None,
            ways=ways,
            ledger=self.ledger,
            clock=self.clock,
            jobs=jobs,
            linger_s=linger_s,
            max_call_s=max_call_s,
            tell=self.told.append,
        )

    async def call(self, *lines: FakeLine | Way, **options: Any) -> dict[str, Any]:
        """The whole call, as the ledger has it."""
        cycle = self.cycle(*lines, **options)
        await cycle.run()
        return self.last()

    def last(self) -> dict[str, Any]:
        call = self.ledger.calls()[-1]
        on_disk = Ledger(InlineCommitter(Disk(), Path()), self.paths)  # type: ignore[arg-type]
        on_disk._read()
        assert on_disk.calls()[-1] == call
        return call

    @property
    def paths(self) -> StatePaths:
        return StatePaths(self.ledger._path.parent)


class Recorded(Cycle):
    """A cycle that writes its states down. Whoever waits for the line to be idle finds the call ended."""

    def __init__(self, bench: Bench, **options: Any) -> None:
        self._bench = bench
        super().__init__(**options)

    def _enter(self, state: LineState) -> None:
        if state is not self.state:
            self._bench.states.append(state.value)
        if state in (LineState.IDLE, LineState.FAILED):
            assert self._bench.last()["ended"] is not None
        super()._enter(state)


@pytest.fixture
def bench(tmp_path: Path, autojump_clock: MockClock) -> Bench:
    return Bench(tmp_path, autojump_clock)


async def test_a_complete_call(bench: Bench, autojump_clock: MockClock) -> None:
    line, job, other = FakeLine(), FakeJob("mail", takes(10, sent=3)), FakeJob("fetch", takes(4))
    call = await bench.call(line, jobs=[job, other])
    assert line.log == ["prepare", "dial 111", "negotiate", "hang_up"]
    assert (call["outcome"], call["sent"], call["rate"], call["dials"], call["number"]) == (
        "complete",
        3,
        9600,
        1,
        "111",
    )
    assert call["duration_s"] == 12.0  # ten and the linger
    assert bench.states == ["dialling", "negotiating", "exchanging", "lingering", "hanging-up", "idle"]
    assert bench.told == [
        "call 1: at", "dialling 111 (1 of 3)", "CONNECT 9600", "sent 0", "sent 3", "hanging up",
        "on-hook after 12.0 s: complete; sent 3, fetched 0, failed 0",
    ]  # fmt: skip


@pytest.mark.parametrize(("linger", "seconds"), [(0.0, 10.05), (2.0, 12.0), (30.0, 40.0)])
async def test_linger(bench: Bench, autojump_clock: MockClock, linger: float, seconds: float) -> None:
    call = await bench.call(FakeLine(), jobs=[FakeJob("mail", takes(10))], linger_s=linger)
    assert call["duration_s"] == seconds


async def test_without_jobs_it_hangs_up(bench: Bench, autojump_clock: MockClock) -> None:
    assert (await bench.call(FakeLine()))["outcome"] == "complete"


async def test_work_that_comes_while_lingering_is_done(bench: Bench, autojump_clock: MockClock) -> None:
    mail, fetch = FakeJob("mail", takes(1), takes(5)), FakeJob("fetch", takes(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cycle(FakeLine(), jobs=[mail, fetch]).run)
        await trio.sleep(2)
        mail.wake()  # while the other still works
        await trio.sleep(6)
        mail.wake()  # while lingering
    assert mail.begun == 3
    assert fetch.begun == 1
    assert bench.last()["duration_s"] == pytest.approx(8 + 5 + 2, abs=0.1)
    assert bench.states.count("lingering") == 2


async def test_a_job_sees_which_others_have_work_and_what_the_line_has_carried(
    bench: Bench, autojump_clock: MockClock
) -> None:
    seen: list[tuple[list[str], tuple[int, int]]] = []
    line = FakeLine()
    line.figures = (70, 30)

    async def look(call: OpenCall) -> JobReport:
        for _ in range(2):
            await trio.sleep(2.0)
            seen.append((sorted(call.moving()), call.carried()))
            line.figures = (700, 300)
        return DONE

    await bench.call(line, jobs=[FakeJob("relay hub", look), FakeJob("send", takes(3.0))])
    assert seen == [(["relay hub", "send"], (70, 30)), (["relay hub"], (700, 300))]


async def test_a_job_finds_work_that_another_made(bench: Bench, autojump_clock: MockClock) -> None:
    mail = FakeJob("mail", takes(0, sent=1))

    async def makes_work(call: OpenCall) -> JobReport:
        mail.wake()
        return JobReport()

    call = await bench.call(FakeLine(), jobs=[FakeJob("fetch", makes_work), mail], linger_s=0.0)
    assert (mail.begun, call["sent"], call["outcome"]) in {(1, 1, "complete"), (2, 2, "complete")}


@pytest.mark.parametrize(
    ("runs", "outcome"),
    [
        ([LEFT], "partial"),
        ([JobReport()], "complete"),
        ([LEFT, JobReport()], "complete"),
        ([JobReport(), LEFT], "partial"),
    ],
)
async def test_partial_is_what_a_job_left_at_last(
    bench: Bench, autojump_clock: MockClock, runs: list[JobReport], outcome: str
) -> None:
    job = FakeJob("mail", *(takes(1, report) for report in runs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cycle(FakeLine(), jobs=[job, FakeJob("fetch", takes(2))]).run)
        await trio.sleep(1.5)
        if len(runs) > 1:
            job.wake()
    assert bench.last()["outcome"] == outcome


@pytest.mark.parametrize("where", ["run", "wait_work"])
async def test_a_job_that_fails_unexpectedly_leaves_the_others_alone(
    bench: Bench, autojump_clock: MockClock, expected_errors: list[str], where: str
) -> None:
    expected_errors.append("call 1: broken failed unexpectedly: ValueError: a defect (test_cycle.py:")

    async def defect(call: OpenCall | None = None) -> JobReport:
        await trio.sleep(1)
        raise ValueError("a defect")

    broken = FakeJob("broken", defect if where == "run" else takes(1))
    if where == "wait_work":
        broken.wait_work = defect  # type: ignore[assignment, method-assign]
    call = await bench.call(FakeLine(), jobs=[broken, FakeJob("mail", takes(10, sent=5))])
    assert (call["outcome"], call["sent"], call["failed"]) == ("partial", 5, 1)


FAILURES = [
    o
    for o in Outcome
    if o not in (Outcome.COMPLETE, Outcome.PARTIAL, Outcome.INTERRUPTED, Outcome.MAX_CALL, Outcome.HUNG_UP)
]


@pytest.mark.parametrize("outcome", FAILURES)
async def test_each_failed_dial_is_the_calls_outcome(bench: Bench, autojump_clock: MockClock, outcome: Outcome) -> None:
    line = FakeLine(dials=[outcome])
    call = await bench.call(line)
    assert call["outcome"] == outcome.value
    once = (
        Outcome.PIN_REFUSED,
        Outcome.DELAYED,
        Outcome.BLACKLISTED,
    )  # the modem refuses the number: no good asking again
    assert call["dials"] == len(line.dialled) == (1 if outcome in once else 3)
    assert (call["connected"], call["duration_s"]) == (None, 0)
    assert line.log[-1] == "hang_up"
    assert bench.states[-1] == "failed"


@pytest.mark.parametrize(
    ("prepare", "outcome"),
    [
        (Outcome.MODEM_SILENT, "modem-silent"),
        (Outcome.MODEM_ERROR, "modem-error"),
        (Outcome.PIN_REFUSED, "pin-refused"),
        (Outcome.NO_NETWORK, "no-network"),
        (BLOCK, "modem-silent"),
        (OSError("gone"), "modem-error"),
    ],
)
async def test_a_line_that_is_not_prepared_is_not_dialled(
    bench: Bench, autojump_clock: MockClock, prepare: Step, outcome: str
) -> None:
    line = FakeLine(prepare=[prepare])
    call = await bench.call(line)
    assert (call["outcome"], call["dials"]) == (outcome, 0)
    assert line.dialled == []
    assert line.log[-1] == "hang_up"


async def test_dials_in_turn_with_a_wait_between(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[Outcome.BUSY, Outcome.NO_ANSWER, Outcome.NO_CARRIER, CONNECT])
    config = replace(CONFIG, numbers=("111", "222"), attempts=5)
    at: list[float] = []
    line.hooks["dial"] = lambda: at.append(trio.current_time())
    call = await bench.call(line, config=config)
    assert line.dialled == ["111", "222", "111", "222"]
    assert [b - a for a, b in pairwise(at)] == [5.0, 5.0, 5.0]
    assert (call["outcome"], call["dials"], call["number"]) == ("complete", 4, "222")


@pytest.mark.parametrize("outcome", [Outcome.MODEM_ERROR, Outcome.MODEM_SILENT, Outcome.TIMEOUT])
async def test_a_modem_that_failed_is_prepared_again(bench: Bench, autojump_clock: MockClock, outcome: Outcome) -> None:
    line = FakeLine(dials=[outcome, CONNECT])
    assert (await bench.call(line))["outcome"] == "complete"
    assert line.log[:4] == ["prepare", "dial 111", "prepare", "dial 111"]
    gone = FakeLine(dials=[outcome], prepare=[None, Outcome.MODEM_SILENT])
    assert (await bench.call(gone))["outcome"] == "modem-silent"
    assert gone.log == ["prepare", "dial 111", "prepare", "hang_up"]


async def test_a_dial_that_never_ends_is_a_timeout(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[BLOCK, CONNECT])
    call = await bench.call(line)
    assert (call["outcome"], call["dials"]) == ("complete", 2)
    assert "111: timeout" in bench.told


async def test_the_next_line_only_after_the_first_has_failed(bench: Bench, autojump_clock: MockClock) -> None:
    first, second, third = FakeLine("pstn", dials=[Outcome.BUSY]), FakeLine("gsm"), FakeLine("sat")
    first.hooks["hang_up"] = lambda: second.log.append("the first is hung up")
    call = await bench.call(first, second, third)
    assert (call["line"], call["dials"], call["outcome"]) == ("gsm", 4, "complete")
    assert second.log[0] == "the first is hung up"
    assert third.log == []


async def test_an_unusable_line_is_passed_over(
    bench: Bench, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    unused = FakeLine("ppp")
    call = await bench.call(Way(replace(CONFIG, name="ppp"), unused, "bearer ppp is not built"), FakeLine("pstn"))
    assert (call["line"], call["outcome"]) == ("pstn", "complete")
    assert unused.log == []
    assert "ppp: bearer ppp is not built" in caplog.text
    call = await bench.call(Way(replace(CONFIG, name="ppp"), None, "bearer ppp is not built"))
    assert (call["outcome"], call["dials"]) == ("no-network", 0)


async def test_a_number_that_the_modem_refuses_is_passed_over(bench: Bench, autojump_clock: MockClock) -> None:
    two = replace(CONFIG, numbers=("111", "222"))
    line = FakeLine(dials=[Outcome.BLACKLISTED, Outcome.BUSY])
    assert (await bench.call(line, config=two))["outcome"] == "busy"
    assert line.dialled == ["111", "222", "222"]


async def test_the_pause_between_two_dials_is_waited_for(bench: Bench, autojump_clock: MockClock) -> None:
    hasty = replace(CONFIG, country="eu", redial_wait_s=0.0)
    line = FakeLine(dials=[Outcome.BUSY])
    began = trio.current_time()
    assert (await bench.call(line, config=hasty))["dials"] == 3
    assert trio.current_time() - began >= 10


async def test_redial_rules_of_japan_over_calls(bench: Bench, autojump_clock: MockClock) -> None:
    config = replace(CONFIG, country="jp", attempts=10)
    line = FakeLine(dials=[Outcome.BUSY])
    at: list[float] = []
    line.hooks["dial"] = lambda: at.append(trio.current_time())
    call = await bench.call(line, config=config)
    assert (call["dials"], call["outcome"]) == (3, "busy")
    assert (await bench.call(line, config=config))["outcome"] == "delayed"
    assert len(at) == 3
    for _ in range(30):
        await trio.sleep(40)
        await bench.call(line, config=config)
    assert len(at) > 12
    for first, fourth in zip(at, at[3:], strict=False):
        assert fourth - first > 180
    # another number may be dialled meanwhile
    two = replace(config, numbers=("111", "222"))
    await bench.call(line, config=two)
    line.log.clear()
    await bench.call(line, config=two)
    assert set(line.dialled) <= {"222"}


async def test_each_dial_is_in_the_ledger_before_atd(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[Outcome.BUSY, Outcome.BUSY, CONNECT])
    seen: list[int] = []

    def look() -> None:
        on_disk = Ledger(InlineCommitter(Disk(), Path()), bench.paths)  # type: ignore[arg-type]
        on_disk._read()
        seen.append(on_disk.calls()[-1]["dials"])

    line.hooks["dial"] = look
    await bench.call(line)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("negotiate", "outcome"),
    [
        (Outcome.LOGIN_REFUSED, "login-refused"),
        (Outcome.NEGOTIATION_FAILED, "negotiation-failed"),
        (BLOCK, "negotiation-failed"),
        (OSError("gone"), "negotiation-failed"),
    ],
)
async def test_failed_negotiation_ends_the_call(
    bench: Bench, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, negotiate: Step, outcome: str
) -> None:
    line, job, second = FakeLine(negotiate=[negotiate]), FakeJob("mail", takes(1)), FakeLine("gsm")
    call = await bench.call(line, second, jobs=[job])
    assert (call["outcome"], call["dials"]) == (outcome, 1)
    assert ("the provider refuses ppp_login" in caplog.text) == (outcome == "login-refused")
    assert call["connected"] is not None
    assert (job.begun, second.log) == (0, [])
    assert line.log[-1] == "hang_up"
    assert not line.off_hook


# ---- what ends a call, at each state

STEPS = ["prepare", "dialling", "redial-wait", "negotiating", "exchanging", "lingering", "hanging-up"]


def arrange(state: str) -> tuple[FakeLine, FakeJob]:
    """A line and a job with which the call stays in `state`."""
    options: dict[str, list[Step]] = {
        "prepare": {"prepare": [BLOCK]},
        "dialling": {"dials": [BLOCK]},
        "redial-wait": {"dials": [Outcome.BUSY]},
        "negotiating": {"negotiate": [BLOCK]},
        "hanging-up": {"hang_up": [BLOCK]},
    }.get(state, {})  # type: ignore[assignment]
    busy = takes(1000, sent=1) if state == "exchanging" else takes(0, sent=1)
    return FakeLine(**options), FakeJob("mail", busy)  # type: ignore[arg-type]


async def settle(state: str) -> None:
    """Until the call is in that state, without time passing by itself."""
    await wait_all_tasks_blocked(0.001)


@pytest.mark.parametrize("state", STEPS)
async def test_hang_up_in_each_state(tmp_path: Path, mock_clock: MockClock, state: str) -> None:
    bench = Bench(tmp_path, mock_clock)
    line, job = arrange(state)
    cycle = bench.cycle(line, jobs=[job], config=replace(CONFIG, attempts=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cycle.run)
        await settle(state)
        if state == "hanging-up":
            mock_clock.jump(3)
            await settle(state)
        assert cycle.state.value == {"prepare": "dialling", "redial-wait": "dialling"}.get(state, state)
        assert cycle.hang_up() == (state != "hanging-up")
        await settle(state)
        mock_clock.jump(HANG_UP_DEADLINE_S + 1)
    expected = "complete" if state == "hanging-up" else "hung-up"
    call = bench.last()
    assert call["outcome"] == expected
    assert cycle.state is LineState.IDLE
    assert line.log[-1] == "hang_up"
    assert not cycle.hang_up()
    assert job.cancelled == (state == "exchanging")


@pytest.mark.parametrize("state", STEPS)
async def test_stopped_in_each_state(tmp_path: Path, mock_clock: MockClock, state: str) -> None:
    bench = Bench(tmp_path, mock_clock)
    line, job = arrange(state)
    cycle = bench.cycle(line, jobs=[job])
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await cycle.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settle(state)
        if state == "hanging-up":
            mock_clock.jump(3)
            await settle(state)
        scope.cancel()
        await settle(state)
        mock_clock.jump(HANG_UP_DEADLINE_S + 1)
    assert bench.last()["outcome"] == ("complete" if state == "hanging-up" else "hung-up")
    assert line.log.count("hang_up") == 1
    if state != "hanging-up":
        assert not line.off_hook


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("negotiating", "carrier-lost"),
        ("exchanging", "carrier-lost"),
        ("lingering", "complete"),
        ("hanging-up", "complete"),
    ],
)
@pytest.mark.parametrize("how", [Outcome.CARRIER_LOST, OSError("the port is gone")])
async def test_carrier_lost_in_each_state(
    tmp_path: Path, mock_clock: MockClock, state: str, outcome: str, how: Outcome | OSError
) -> None:
    bench = Bench(tmp_path, mock_clock)
    line, job = arrange(state)
    cycle = bench.cycle(line, jobs=[job])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cycle.run)
        await settle(state)
        if state == "hanging-up":
            mock_clock.jump(3)
            await settle(state)
        line.drop(how)
        await settle(state)
        mock_clock.jump(HANG_UP_DEADLINE_S + 1)
    call = bench.last()
    assert call["outcome"] == outcome
    assert cycle.state is (LineState.FAILED if outcome == "carrier-lost" else LineState.IDLE)
    assert line.log.count("hang_up") == 1


async def test_carrier_lost_while_lingering_with_work_left_is_partial(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cycle(line, jobs=[FakeJob("mail", takes(1, LEFT))]).run)
        await trio.sleep(2)
        line.drop()
    assert bench.last()["outcome"] == "partial"


async def test_carrier_lost_as_the_network_says_it(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cycle(line, jobs=[FakeJob("mail", takes(100))]).run)
        await trio.sleep(2)
        line.drop(Outcome.NO_NETWORK)
    assert bench.last()["outcome"] == "no-network"


@pytest.mark.parametrize("state", ["negotiating", "exchanging", "lingering"])
async def test_max_call(bench: Bench, autojump_clock: MockClock, state: str) -> None:
    line, job = arrange(state)
    call = await bench.call(line, jobs=[job], max_call_s=60.0, linger_s=1000.0)
    assert (call["outcome"], call["duration_s"]) == ("max-call", 60.0)
    assert not line.off_hook


async def test_figures_of_a_cancelled_job_are_kept(bench: Bench, autojump_clock: MockClock) -> None:
    async def counts(call: OpenCall) -> JobReport:
        while True:
            await trio.sleep(1)
            call.count(fetched=1)

    call = await bench.call(FakeLine(), jobs=[FakeJob("fetch", counts)], max_call_s=10.5)
    assert call["fetched"] == 10


async def test_a_job_that_cleans_up_slowly_keeps_no_line_up(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine()
    down: list[float] = []
    line.hooks["hang_up"] = lambda: down.append(trio.current_time())

    async def slow(call: OpenCall) -> JobReport:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)
        raise AssertionError

    started = trio.current_time()
    await bench.call(line, jobs=[FakeJob("mail", slow)], max_call_s=10.0)
    assert down == [started + 10.0]


@pytest.mark.parametrize("problem", [BLOCK, OSError("the port is gone")])
async def test_a_line_that_does_not_hang_up_ends_the_call_all_the_same(
    bench: Bench, autojump_clock: MockClock, problem: Step, caplog: pytest.LogCaptureFixture
) -> None:
    call = await bench.call(FakeLine(hang_up=[problem]))
    assert call["outcome"] == "complete"
    assert ("not on-hook after" if problem == BLOCK else "the port is gone") in caplog.text


async def test_a_defect_of_the_line_closes_the_entry(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine()

    def defect() -> None:
        raise ValueError("a defect")

    line.hooks["dial"] = defect
    with pytest.raises(ValueError, match="a defect"):
        await bench.call(line)
    assert bench.last()["outcome"] == "modem-error"
    assert line.log[-1] == "hang_up"


async def test_an_interrupted_long_call_was_seen_to_the_minute(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path, mock_clock)
    line, job = arrange("exchanging")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.cycle(line, jobs=[job]).run)
        await settle("exchanging")
        for _ in range(5):
            mock_clock.jump(60)
            await settle("exchanging")
        copy = tmp_path / "after"
        copy.mkdir()
        (copy / "ledger").write_bytes((tmp_path / "ledger").read_bytes())
        after = Ledger(InlineCommitter(Disk(), copy), StatePaths(copy))  # type: ignore[arg-type]
        after.open()
        assert (after.calls()[-1]["outcome"], after.calls()[-1]["duration_s"]) == ("interrupted", 300.0)
        after.close()
        nursery.cancel_scope.cancel()


async def test_bytes_are_tcp_payload_both_ways(tmp_path: Path) -> None:
    """Over a real connection, in real time."""
    bench = Bench(tmp_path, None)  # type: ignore[arg-type]
    got = bytearray()

    async def provider(stream: trio.SocketStream) -> None:
        await stream.send_all(b"y" * 70_000)
        async for data in stream:
            got.extend(data)
        await stream.aclose()

    async def work(call: OpenCall) -> JobReport:
        stream = await call.open_stream("127.0.0.1", port)
        async with stream:
            back = 0
            while back < 70_000:
                back += len(await stream.receive_some())
            await stream.wait_send_all_might_not_block()
            await stream.send_all(b"x" * 50_000)
            await stream.send_all(b"")
            await stream.send_eof()
            assert await stream.receive_some(10) == b""
        with pytest.raises(OSError):
            await call.open_stream("127.0.0.1", 1)
        return JobReport()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, provider, [listener])
        with trio.fail_after(30):
            call = await bench.call(FakeLine(), jobs=[FakeJob("mail", work)], linger_s=0.0)
        nursery.cancel_scope.cancel()
    assert bytes(got) == b"x" * 50_000
    assert (call["bytes_in"], call["bytes_out"], call["outcome"]) == (70_000, 50_000, "complete")
