"""PPP as the line sees it: exit codes to outcomes, the helper's words to a network, every way in which the helper may
fail, and the modem line around it. The helper here says what a test lets it say."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.call import Dialled, Outcome
from appliance.config.model import Bearer, Line
from appliance.modem import pppd as module
from appliance.modem.line import ModemLine
from appliance.modem.ppp_network import PppNetwork
from appliance.modem.pppd import END_S, OPEN_S, STOP_S, UP_S, Link, Ppp, PppError, connect, outcome_of, spawn, unfit
from fakes.modem import FakeModem, FakePort, modem_with_lines

UP = {"state": "up", "device": "posthouse0", "address": "10.64.0.2", "dns": ["192.0.2.53"]}
READY = {"state": "ready"}


def ended(code: object, text: str = "") -> dict[str, Any]:
    return {"state": "ended", "code": code, "text": text}


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "negotiation-failed"),
        (1, "negotiation-failed"),
        (2, "negotiation-failed"),
        (3, "negotiation-failed"),
        (4, "negotiation-failed"),
        (5, "negotiation-failed"),
        (6, "negotiation-failed"),
        (7, "negotiation-failed"),
        (8, "negotiation-failed"),
        (9, "negotiation-failed"),
        (10, "negotiation-failed"),
        (11, "login-refused"),
        (12, "complete"),
        (13, "max-call"),
        (14, "negotiation-failed"),
        (15, "carrier-lost"),
        (16, "carrier-lost"),
        (17, "negotiation-failed"),
        (18, "negotiation-failed"),
        (19, "login-refused"),
        (20, "negotiation-failed"),
        (137, "negotiation-failed"),
        (-1, "negotiation-failed"),
    ],
)
def test_each_exit_is_its_outcome(code: int, outcome: str) -> None:
    assert outcome_of(code, was_up=False) == outcome
    assert outcome_of(code, was_up=True) == ("carrier-lost" if code in (0, 5) else outcome)


@pytest.mark.parametrize(
    ("login", "secret", "why"),
    [("harbour", "x", ""), ("", "", ""), ("l" * 256, "x", "login is longer"), ("l", "a\nb", "secret has control")],
)
def test_what_pppd_cannot_be_given(login: str, secret: str, why: str) -> None:
    assert (unfit("hayes", login, secret).startswith(why)) and bool(unfit("hayes", login, secret)) == bool(why)


class Helper:
    """The other end, as a `Link`. `script`: what it says at once; then what a test says. `asked` holds what it was asked;
    it answers a stop with `on_stop`, None: not at all."""

    def __init__(self, *script: dict[str, Any] | None, on_stop: dict[str, Any] | None = None) -> None:
        self.script, self.on_stop = script, on_stop
        self.asked: list[dict[str, Any]] = []
        self.links = 0
        self.closed = trio.Event()
        self.refuses: OSError | None = None
        self.gone = False

    async def connect(self) -> Link:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        self.links += 1
        self.gone = False
        self.closed = trio.Event()
        self._says, self._hears = trio.open_memory_channel[dict[str, Any] | None](100)
        for message in self.script:
            self.say(message)
        return self  # type: ignore[return-value]

    def say(self, message: dict[str, Any] | None) -> None:
        """None: what is no message, or the end."""
        self._says.send_nowait(message)

    def vanish(self) -> None:
        self.gone = True
        self.say(None)

    # ---- Link
    async def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise BrokenPipeError(32, "Broken pipe")
        self.asked.append(message)
        if "stop" in message and self.on_stop is not None:
            self.say(self.on_stop)

    async def receive(self) -> dict[str, Any] | None:
        return await self._hears.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed.set()


def ppp(helper: Helper) -> Ppp:
    return Ppp("pstn", "hayes", "harbour", "secret", connect=helper.connect)


async def test_a_call(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    helper = Helper(READY, on_stop=ended(5))
    one = ppp(helper)
    await one.open()
    await one.open()
    assert helper.links == 1
    await one.start(0)
    helper.say({"state": "log", "text": "Remote message: \x1b[31mhello"})
    helper.say(UP)
    assert await one.wait_up() is None
    assert (one.device, one.dns) == ("posthouse0", ("192.0.2.53",))
    assert helper.asked == [{"profile": "hayes", "login": "harbour", "secret": "secret"}]
    await one.stop()
    assert helper.asked[1:] == [{"stop": STOP_S["hayes"]}]
    await one.aclose()
    await helper.closed.wait()
    await one.stop()
    await one.aclose()
    assert "secret" not in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([{"state": "failed", "why": "this kernel has no PPP"}], "no PPP: this kernel has no PPP"),
        ([None], "the PPP helper ended at once"),
        ([{"state": "odd"}], "says nothing"),
        ([], "says nothing within"),
    ],
)
async def test_a_host_that_has_no_ppp(autojump_clock: MockClock, script: list[Any], why: str) -> None:
    began = trio.current_time()
    helper = Helper(*script)
    with pytest.raises(PppError, match=why):
        await ppp(helper).open()
    assert trio.current_time() - began <= OPEN_S + 1


async def test_a_helper_that_is_not_there(autojump_clock: MockClock) -> None:
    helper = Helper()
    helper.refuses = FileNotFoundError(2, "No such file")
    with pytest.raises(PppError, match=r"does posthouse-ppp\.socket run"):
        await ppp(helper).open()


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (ended(19, "CHAP authentication failed"), Outcome.LOGIN_REFUSED),
        (ended(10), Outcome.NEGOTIATION_FAILED),
        (ended(16), Outcome.CARRIER_LOST),
        (ended("no number"), Outcome.NEGOTIATION_FAILED),
        ({"state": "failed", "why": "every name is taken"}, Outcome.NEGOTIATION_FAILED),
        (None, Outcome.NEGOTIATION_FAILED),
    ],
)
@pytest.mark.parametrize("was_up", [False, True])
async def test_the_end_before_and_after_it_is_up(
    autojump_clock: MockClock, last: Any, outcome: Outcome, was_up: bool
) -> None:
    helper = Helper(READY)
    one = ppp(helper)
    await one.open()
    await one.start(0)
    if was_up:
        helper.say(UP)
        assert await one.wait_up() is None
    if last is None:
        helper.vanish()
    else:
        helper.say(last)
    assert await one.wait_ended() is outcome
    if not was_up:
        assert await one.wait_up() is outcome
    await one.stop()
    assert not [a for a in helper.asked if "stop" in a]


@pytest.mark.parametrize(
    ("messages", "echoes"),
    [
        ([ended(17, "Serial line is looped back.")], True),
        ([UP, {"state": "log", "text": "appear to have received our own echo-reply!"}, ended(15)], True),
        ([{"state": "log", "text": "Serial line is looped back."}, ended(10)], True),
        ([UP, {"state": "log", "text": "No response to 3 echo-requests"}, ended(15)], False),
    ],
)
async def test_a_modem_that_echoes_what_pppd_sends(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, messages: list[Any], echoes: bool
) -> None:
    one = ppp(Helper(READY, *messages))
    await one.start(0)
    await one.wait_ended()
    told = [r for r in caplog.records if r.posthouse_event.id == "modem-echoes"]  # type: ignore[attr-defined]
    assert len(told) == echoes


async def test_no_end_of_the_negotiation(autojump_clock: MockClock) -> None:
    helper = Helper(READY, on_stop=ended(5))
    one = ppp(helper)
    await one.start(0)
    began = trio.current_time()
    assert await one.wait_up() is Outcome.NEGOTIATION_FAILED
    assert trio.current_time() - began == pytest.approx(UP_S["hayes"], abs=1)
    await one.stop()


async def test_a_helper_that_hears_nothing_is_left(autojump_clock: MockClock) -> None:
    helper = Helper(READY, UP)
    one = ppp(helper)
    await one.start(0)
    assert await one.wait_up() is None
    began = trio.current_time()
    await one.stop()
    assert trio.current_time() - began <= STOP_S["hayes"] + END_S + 1


@pytest.mark.parametrize("first", ["wait_up", "wait_ended"])
async def test_two_wait_and_one_may_be_cancelled(autojump_clock: MockClock, first: str) -> None:
    helper = Helper(READY)
    one = ppp(helper)
    await one.open()
    await one.start(0)
    ups: list[Outcome | None] = []

    async def wait_up() -> None:
        ups.append(await one.wait_up())

    async with trio.open_nursery() as nursery:
        for name in [first, *({"wait_up", "wait_ended"} - {first})]:
            nursery.start_soon(wait_up if name == "wait_up" else one.wait_ended)
            await wait_all_tasks_blocked()
        helper.say(UP)
        await wait_all_tasks_blocked()
        assert ups == [None]
        nursery.cancel_scope.cancel()
    helper.say(ended(15))
    assert await one.wait_ended() is Outcome.CARRIER_LOST


async def test_the_program_as_a_child(tmp_path: Any) -> None:
    """The helper itself, in earnest: it says whether this host can do PPP, and ends when nobody listens any more."""
    link = await spawn()
    with trio.fail_after(20):
        said = await link.receive()
        assert said is not None and said["state"] in ("ready", "failed")
        await link.aclose()
        with pytest.raises(OSError):
            await spawn([str(tmp_path / "none")])


async def test_the_socket_of_a_helper_that_does_not_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    with pytest.raises(OSError):
        await connect(tmp_path / "none")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        link = await connect(tmp_path / "socket")
        await link.aclose()


# ---- the modem line around it

CONFIG = Line(name="pstn", numbers=("1",), bearer=Bearer.PPP, ppp_login="harbour", ppp_secret="isp")
CONNECTED = Dialled(None, 9600, "CONNECT 9600")
LINES = pytest.mark.parametrize("lines", [True, False], ids=["dtr and dcd", "no modem lines"])


@asynccontextmanager
async def made(helper: Helper, *, lines: bool = False) -> AsyncIterator[tuple[FakeModem, ModemLine, list[FakePort]]]:
    ports: list[FakePort] = []

    async def open_port() -> FakePort:
        ports.append(FakePort(modem, has_lines=lines))
        return ports[-1]

    async with modem_with_lines() as modem:
        network = PppNetwork(CONFIG, "secret", make=lambda: ppp(helper))
        line = ModemLine(CONFIG, network=network, open_port=open_port)
        yield modem, line, ports
        await line.hang_up()
        assert all(port.closed for port in ports)


async def dial(line: ModemLine) -> None:
    assert await line.prepare() is None
    assert await line.dial("1") == CONNECTED


@LINES
async def test_calls_by_ppp(autojump_clock: MockClock, lines: bool) -> None:
    """The port is pppd's from CONNECT until the hang-up, and the modem's again for that."""
    async with made(Helper(READY, UP, on_stop=ended(5)), lines=lines) as (modem, line, ports):
        for n in range(1, 3):
            await dial(line)
            assert line.carried() is None and line.device == ""
            assert await line.negotiate() is None
            assert (line.device, line.dns, ports[-1].lent) == ("posthouse0", ("192.0.2.53",), True)
            assert line.carried() == (0, 0)
            with trio.move_on_after(20):
                await line.wait_carrier_lost()
            began = trio.current_time()
            await line.hang_up()
            # The guard time begins when pppd has ended: both, where there is no DTR.
            assert trio.current_time() - began < (1 if lines else 3.5)
            assert modem.on_hook and modem.hung_up_by == ("DTR" if lines else "ATH")
            assert (line.device, line.dns, line.carried()) == ("", (), (0, 0))
            modem.set_dtr(True)
            assert len(ports) == n
        assert modem.stray == b""


async def test_the_watch_may_begin_before_the_network_is_there(autojump_clock: MockClock) -> None:
    async with made(helper := Helper(READY, on_stop=ended(5))) as (_, line, _):
        await dial(line)
        lost: list[Outcome] = []

        async def watch() -> None:
            lost.append(await line.wait_carrier_lost())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await wait_all_tasks_blocked()
            helper.say(UP)
            assert await line.negotiate() is None
            helper.say(ended(15))
        assert lost == [Outcome.CARRIER_LOST]


@LINES
@pytest.mark.parametrize(("code", "outcome"), [(19, Outcome.LOGIN_REFUSED), (10, Outcome.NEGOTIATION_FAILED)])
async def test_a_network_that_does_not_come_up(
    autojump_clock: MockClock, lines: bool, code: int, outcome: Outcome
) -> None:
    async with made(Helper(READY, ended(code)), lines=lines) as (modem, line, _):
        await dial(line)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.wait_carrier_lost)  # as the cycle has it; it has nothing to say
            assert await line.negotiate() is outcome
            with pytest.raises(OSError):
                await line.open_stream("192.0.2.1", 25)
            nursery.cancel_scope.cancel()
        await line.hang_up()
        assert modem.on_hook


@LINES
async def test_the_network_ends_by_itself(autojump_clock: MockClock, lines: bool) -> None:
    async with made(helper := Helper(READY, UP), lines=lines) as (modem, line, _):
        await dial(line)
        assert await line.negotiate() is None
        helper.say(ended(15, "No response to 3 echo-requests"))
        assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
        await line.hang_up()
        assert modem.on_hook


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_modem_that_restarts_in_the_middle_of_ppp(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, restarts: bool
) -> None:
    """pppd hears nothing of what it says then; but it echoes again, as it had been told not to."""
    async with made(helper := Helper(READY, UP)) as (modem, line, _):
        await dial(line)
        assert await line.negotiate() is None
        if restarts:
            modem.state, modem.echo = "command", True
        helper.say(ended(15, "No response to 3 echo-requests"))
        assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
        await line.hang_up()
        assert modem.on_hook
        told = [r.getMessage() for r in caplog.records if r.posthouse_event.id == "modem-restarted"]  # type: ignore[attr-defined]
        assert told == (["pstn: the modem has restarted in the call (it echoes again)"] if restarts else [])
        await dial(line)
        await line.hang_up()
        assert len(told) == restarts


async def test_dcd_falls(autojump_clock: MockClock) -> None:
    """Seen by us: pppd is not asked to say goodbye to anybody."""
    async with made(helper := Helper(READY, UP, on_stop=ended(5)), lines=True) as (modem, line, _):
        await dial(line)
        assert await line.negotiate() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fall, modem)
            assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
        await line.hang_up()
        assert helper.asked[-1] == {"stop": 0.0}
        assert modem.on_hook


async def _fall(modem: FakeModem) -> None:
    await trio.sleep(5)
    modem.state = "command"
    modem.result("NO CARRIER")


async def test_a_port_that_is_gone_with_the_call(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with made(helper := Helper(READY, UP)) as (modem, line, ports):
        await dial(line)
        assert await line.negotiate() is None
        modem.gone = True
        helper.say(ended(16, "Modem hangup"))
        assert await line.wait_carrier_lost() is Outcome.CARRIER_LOST
        await line.hang_up()
        assert ports[-1].closed
        assert "the port is gone" in caplog.text


async def test_no_call_is_paid_for_where_there_is_no_ppp(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(Helper({"state": "failed", "why": "this kernel has no PPP"})) as (modem, line, _):
        assert await line.prepare() is Outcome.NEGOTIATION_FAILED
        assert modem.dialled == []
        assert "no PPP: this kernel has no PPP" in caplog.text


@pytest.mark.parametrize("when", ["opening", "negotiating", "up", "stopping"])
async def test_the_helper_vanishes(autojump_clock: MockClock, when: str) -> None:
    helper = Helper(*([] if when == "opening" else [READY]), *([UP] if when in ("up", "stopping") else []))
    async with made(helper) as (modem, line, _):
        if when == "opening":
            helper.script = (None,)
            assert await line.prepare() is Outcome.NEGOTIATION_FAILED
            return
        await dial(line)
        async with trio.open_nursery() as nursery:
            if when == "negotiating":
                nursery.start_soon(_later, helper.vanish)
                assert await line.negotiate() is Outcome.NEGOTIATION_FAILED
            else:
                assert await line.negotiate() is None
                nursery.start_soon(_later, helper.vanish)
                if when == "up":
                    assert await line.wait_carrier_lost() is Outcome.NEGOTIATION_FAILED
        await line.hang_up()
        assert modem.on_hook
        await dial(line)


async def _later(do: Callable[[], None]) -> None:
    await trio.sleep(3)
    do()


@pytest.mark.parametrize("when", ["opening", "negotiating", "up"])
async def test_hung_up_at_any_time(autojump_clock: MockClock, when: str) -> None:
    helper = Helper(READY, *([UP] if when == "up" else []), on_stop=ended(5))
    async with made(helper) as (modem, line, ports):
        await dial(line)
        with trio.move_on_after(0 if when == "opening" else 3):
            await line.negotiate()
            await line.wait_carrier_lost()
        await line.hang_up()
        assert modem.on_hook
        assert not ports[-1].lent
        with trio.fail_after(5):
            await helper.closed.wait()
