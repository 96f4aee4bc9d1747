"""What a call does on the line's device: the window that is open while it is up, the bytes that the device carried,
lines without numbers beside lines with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance import call
from appliance.call import Dialled, JobReport, OpenCall, Outcome, Reason
from appliance.calls.cycle import HANG_UP_DEADLINE_S, Cycle, Way
from appliance.calls.ledger import Ledger
from appliance.calls.metered import MeteredStream
from appliance.calls.window import WINDOW_DEADLINE_S
from appliance.config.model import Bearer, Line, LineKind
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from fakes.clock import FakeClock
from fakes.committer import InlineCommitter
from fakes.line import BLOCK, FakeLine

MODEM = Line(name="pstn", numbers=("111",), bearer=Bearer.PPP, attempts=2)
DEVICE = Line(name="wwan", kind=LineKind.INTERFACE, device="wwan0", attempts=2)


class FakeWindow:
    """Writes into the line's log, so that the order is seen. `opens`, `closes`: None, an OSError to raise, `BLOCK`."""

    def __init__(self, line: FakeLine, opens: object = None, closes: object = None) -> None:
        self.line = line
        self.opens, self.closes = opens, closes
        self.lacking = ""

    def lacks(self) -> str:
        return self.lacking

    async def open(self, device: str, dns: Sequence[str]) -> None:
        await self._do(f"window {device} {' '.join(dns)}".rstrip(), self.opens)

    async def close(self) -> None:
        await self._do("window shut", self.closes)

    async def _do(self, what: str, step: object) -> None:
        self.line.log.append(what)
        await trio.lowlevel.checkpoint()
        if step == BLOCK:
            await trio.sleep_forever()
        if isinstance(step, OSError):
            raise step


class Job:
    def __init__(self, seconds: float = 10.0) -> None:
        self.name = "mail"
        self.seconds = seconds
        self.begun = 0

    async def run(self, call: OpenCall) -> JobReport:
        self.begun += 1
        await trio.sleep(self.seconds)
        return JobReport()

    async def wait_work(self) -> None:
        await trio.sleep_forever()


class Bench:
    def __init__(self, root: Path, mock: MockClock | None) -> None:
        self.clock = FakeClock(mock=mock)
        self.ledger = Ledger(InlineCommitter(Disk(), root), StatePaths(root))  # type: ignore[arg-type]
        self.ledger.open()

    def cycle(self, *ways: Way, window: call.Window | None = None, jobs: Sequence[call.Job] = ()) -> Cycle:
        return Cycle(
            reason=Reason.BY_HAND, due=None, ways=ways, ledger=self.ledger, clock=self.clock, jobs=jobs,
            linger_s=2.0, max_call_s=600.0, tell=lambda text: None, window=window,
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, autojump_clock: MockClock) -> Bench:
    return Bench(tmp_path, autojump_clock)


def up(name: str = "pstn") -> FakeLine:
    line = FakeLine(name)
    line.device, line.dns = "ppp-line", ("192.0.2.53",)
    return line


async def test_the_window_is_open_while_the_network_is_up(bench: Bench, autojump_clock: MockClock) -> None:
    line = up()
    entry = await bench.cycle(Way(MODEM, line), window=FakeWindow(line), jobs=[Job()]).run()
    assert entry.outcome is Outcome.COMPLETE
    assert line.log == ["prepare", "dial 111", "negotiate", "window ppp-line 192.0.2.53", "window shut", "hang_up"]


async def test_the_device_is_the_calls_for_as_long_as_it_is_up(bench: Bench, autojump_clock: MockClock) -> None:
    seen: list[str] = []
    line = up()
    cycle = bench.cycle(Way(MODEM, line), jobs=[Job()])
    line.hooks["hang_up"] = lambda: seen.append(cycle.device)
    assert cycle.device == ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cycle.run)
        await trio.sleep(0.5)
        assert (cycle.state, cycle.device) == (call.LineState.EXCHANGING, "ppp-line")
    assert seen == [""] and cycle.device == ""


async def test_nothing_is_dialled_while_the_host_could_not_let_it_through(
    bench: Bench, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    line = up()
    window = FakeWindow(line)
    window.lacking = "the firewall can't be loaded: nft: no such program"
    entry = await bench.cycle(Way(MODEM, line), window=window, jobs=[Job()]).run()
    assert (entry.outcome, entry.dials, line.log) == (Outcome.NO_NETWORK, [], ["hang_up"] if line.log else [])
    assert "the firewall can't be loaded" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        FakeLine(prepare=[Outcome.MODEM_SILENT]),
        FakeLine(dials=[Outcome.BUSY]),
        FakeLine(negotiate=[Outcome.LOGIN_REFUSED]),
    ],
    ids=["prepare", "dial", "negotiate"],
)
async def test_a_call_that_does_not_come_up_opens_none(bench: Bench, autojump_clock: MockClock, line: FakeLine) -> None:
    await bench.cycle(Way(MODEM, line), window=FakeWindow(line)).run()
    assert not [entry for entry in line.log if entry.startswith("window")]


@pytest.mark.parametrize(
    ("step", "said"), [(OSError("nft: no such table"), "no such table"), (BLOCK, "not opened within 5 s")]
)
async def test_a_window_that_does_not_open_ends_the_call(
    bench: Bench, autojump_clock: MockClock, step: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    line, job = up(), Job()
    began = trio.current_time()
    entry = await bench.cycle(Way(MODEM, line), window=FakeWindow(line, opens=step), jobs=[job]).run()
    assert (entry.outcome, job.begun) == (Outcome.NO_NETWORK, 0)
    assert line.log[-2:] == ["window shut", "hang_up"]
    assert trio.current_time() - began < WINDOW_DEADLINE_S + 1
    assert said in caplog.text


@pytest.mark.parametrize(("step", "said"), [(OSError("netlink: busy"), "busy"), (BLOCK, "not closed within 5 s")])
async def test_a_window_that_does_not_close_keeps_no_line_up(
    bench: Bench, autojump_clock: MockClock, step: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    line = up()
    entry = await bench.cycle(Way(MODEM, line), window=FakeWindow(line, closes=step), jobs=[Job()]).run()
    assert entry.outcome is Outcome.COMPLETE
    assert line.log[-2:] == ["window shut", "hang_up"]
    assert said in caplog.text


@pytest.mark.parametrize("how", ["hang_up", "carrier", "stop"])
@pytest.mark.parametrize("where", ["opening", "exchanging"])
async def test_the_window_is_closed_however_the_call_ends(
    tmp_path: Path, mock_clock: MockClock, how: str, where: str
) -> None:
    bench, line = Bench(tmp_path, mock_clock), up()
    window = FakeWindow(line, opens=BLOCK if where == "opening" else None)
    cycle = bench.cycle(Way(MODEM, line), window=window, jobs=[Job(500)])
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await cycle.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked(0.001)
        {"hang_up": cycle.hang_up, "carrier": line.drop, "stop": scope.cancel}[how]()
        await wait_all_tasks_blocked(0.001)
        mock_clock.jump(HANG_UP_DEADLINE_S + 1)
    assert line.log[-2:] == ["window shut", "hang_up"]
    assert line.log.count("window shut") == 1


async def test_bytes_are_the_devices_where_there_is_one(bench: Bench, autojump_clock: MockClock) -> None:
    line = up()
    line.figures = (100, 50)

    class Reads(Job):
        async def run(self, call: OpenCall) -> JobReport:
            await trio.sleep(1)
            line.figures = (1000, 500)
            cycle.weigh()
            assert (call.tally.bytes_in, call.tally.bytes_out) == (1000, 500)
            line.hooks["hang_up"] = lambda: setattr(line, "figures", (1014, 514))  # LCP's last words
            return JobReport()

    cycle = bench.cycle(Way(MODEM, line), jobs=[Reads()])
    entry = await cycle.run()
    assert (entry.tally.bytes_in, entry.tally.bytes_out) == (1014, 514)


async def test_the_last_calls_bytes_are_not_this_ones(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine(dials=[Outcome.BUSY])
    line.figures = (4000, 3000)
    entry = await bench.cycle(Way(MODEM, line)).run()
    assert (entry.tally.bytes_in, entry.tally.bytes_out) == (0, 0)


@pytest.mark.parametrize("figures", [None, (7, 7)])
async def test_streams_are_metered_only_where_no_device_counts(tmp_path: Path, figures: tuple[int, int] | None) -> None:
    bench, line = Bench(tmp_path, None), up()
    line.figures = figures
    metered: list[bool] = []

    class Sends(Job):
        async def run(self, call: OpenCall) -> JobReport:
            async with await call.open_stream("127.0.0.1", port) as stream:
                metered.append(isinstance(stream, MeteredStream))
                await stream.send_all(b"x" * 1000)
            return JobReport()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener:
        cycle = bench.cycle(Way(MODEM, line), jobs=[Sends()])
        cycle._linger_s = 0.0
        with trio.fail_after(30):
            entry = await cycle.run()
    assert metered == [figures is None]
    assert (entry.tally.bytes_in, entry.tally.bytes_out) == (figures or (0, 1000))


# ---- lines without numbers


async def test_a_line_without_numbers_is_dialled_once_with_none(bench: Bench, autojump_clock: MockClock) -> None:
    line = FakeLine("wwan")
    entry = await bench.cycle(Way(DEVICE, line), jobs=[Job()]).run()
    assert line.log == ["prepare", "dial", "negotiate", "hang_up"]
    call = entry.as_json()
    assert (call["line"], call["number"], call["dials"], call["outcome"]) == ("wwan", "", 1, "complete")


@pytest.mark.parametrize(
    ("modem", "device", "line", "dials", "outcome"),
    [
        ({}, {}, "pstn", 1, Outcome.COMPLETE),
        ({"dials": [Outcome.BUSY]}, {}, "wwan", 3, Outcome.COMPLETE),
        ({"prepare": [Outcome.MODEM_SILENT]}, {}, "wwan", 1, Outcome.COMPLETE),
        ({"dials": [Outcome.BUSY]}, {"prepare": [Outcome.NO_NETWORK]}, "pstn", 2, Outcome.NO_NETWORK),
        ({"dials": [Outcome.BUSY]}, {"dials": [Outcome.NO_NETWORK]}, "wwan", 4, Outcome.NO_NETWORK),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
async def test_a_later_line_only_after_the_earlier_ones_attempts(
    bench: Bench,
    autojump_clock: MockClock,
    modem: dict,
    device: dict,
    line: str,
    dials: int,
    outcome: Outcome,
    turned: bool,
) -> None:
    """Mixed kinds, in both orders."""
    first, second = FakeLine("pstn", **modem), FakeLine("wwan", **device)
    first.hooks["hang_up"] = lambda: second.log.append("the first is hung up")
    configs = (replace(DEVICE, name="pstn"), replace(MODEM, name="wwan")) if turned else (MODEM, DEVICE)
    ways = [Way(config, line) for config, line in zip(configs, (first, second), strict=True)]
    entry = await bench.cycle(*ways, jobs=[Job()]).run()
    assert (entry.line, len(entry.dials), entry.outcome) == (line, dials, outcome)
    if line == "wwan":
        assert second.log[0] == "the first is hung up"
    assert first.log.count("prepare") == 1


async def test_an_interface_that_went_is_no_dial_too_many(bench: Bench, autojump_clock: MockClock) -> None:
    """`attempts` counts for it as for a modem."""
    line = FakeLine("wwan", dials=[Dialled(Outcome.NO_NETWORK, text="wwan0 has no address")])
    entry = await bench.cycle(Way(DEVICE, line)).run()
    assert (len(entry.dials), entry.outcome) == (2, Outcome.NO_NETWORK)


async def test_the_ledger_knows_whose_login_was_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    bench = Bench(tmp_path, autojump_clock)
    for step, identity in ((Outcome.LOGIN_REFUSED, "1a2b"), (Outcome.NEGOTIATION_FAILED, None)):
        line = FakeLine(negotiate=[step])
        await bench.cycle(Way(MODEM, line, identity="1a2b")).run()
        assert bench.ledger.summary().login_refused == identity
        again = Ledger(InlineCommitter(Disk(), tmp_path), StatePaths(tmp_path))  # type: ignore[arg-type]
        again.open()
        assert again.summary().login_refused == identity
        again.close()
