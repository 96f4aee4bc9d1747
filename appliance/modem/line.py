"""A modem as a `call.Line`: from the port to CONNECT and back on-hook, each step with its outcome.

It owns the port, the dialogue on it, and what is known of the hook. It must not know why a call is made or
what goes over it. With bearer none the network is simply there after CONNECT, and the port carries nothing but the
modem's own words, so that a NO CARRIER on it is the carrier's end. With bearer ppp the port is lent to `ppp_network`
from CONNECT until the hang-up; the modem's lines stay ours, and a fall of DCD is the carrier's end.

    hook       what happens                                      next
    UNKNOWN    prepare(): AT and ATH are answered                ON
    UNKNOWN    prepare(): no answer; up the ladder (`ladder`)    ON, or UNKNOWN: modem-silent
    ON         dial()                                            OFF
    OFF        CONNECT                                           OFF
    OFF        any other result                                  ON
    OFF        dial_timeout or cancelled: abort, ATH             ON, or OFF: modem-silent
    OFF        NO CARRIER, DCD falls, the port hangs up          LOST
    OFF, LOST  hang_up()                                         ON, or an event; the port is closed in any case

A modem that restarts in a call has lost it. On a port that carries its own words it says so (RDY, +CPIN: READY); with
PPP on the port nobody hears that, but its settings are lost too: it echoes again, although it was told not to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Dialled, Outcome
from appliance.modem import rings
from appliance.modem.cellular import Cellular, explain
from appliance.modem.dialogue import Dialogue, Timing
from appliance.modem.hook import Hook, HookSwitch, is_ok
from appliance.modem.ladder import Ladder
from appliance.modem.port import Port, PortError, open_serial
from appliance.modem.profiles import PROFILES, completed
from appliance.modem.whereabouts import Whereabouts
from appliance.protocol.at import Answer, ResultCode, clean_number
from appliance.protocol.at_by_hand import why_not
from appliance.protocol.at_mobile import cause, says_restart
from appliance.protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from appliance.call import PinRecord
    from appliance.config import model
    from appliance.modem.ladder import PowerSwitch
    from appliance.modem.ppp_network import PppNetwork

__all__ = ["ModemLine"]

STREAM_S: Final = 60.0
"""A connection over the line: name look-up and TCP's handshake, with retransmissions at 1, 3, 7 and 15 s (RFC 6298)."""
NEXT_ADDRESS_S: Final = 5.0
"""Before a host's next address is tried beside the first (RFC 8305 says 250 ms, less than one round trip here)."""
BY_HAND_S: Final = 30.0
"""To a command that a person gives: a search for networks takes as long."""
SHORTEST_SECRET: Final = 4
"""A PIN has four digits; what is shorter is no secret, and its characters are everywhere."""
BUSY_S: Final = 8.0
"""A port that another program has is waited for: longer than pppd may take to end (`pppd.STOP_S` and `END_S`)."""
BUSY_POLL_S: Final = 0.5
LISTEN_AGAIN_S: Final = 60.0
LISTEN_AGAIN_MAX_S: Final = 3600.0
"""Before a modem that is gone, silent or of no use for it is asked to listen for rings again: a minute, doubled each
time up to an hour."""
_OUTCOMES: Final = {
    ResultCode.BUSY: Outcome.BUSY,
    ResultCode.NO_ANSWER: Outcome.NO_ANSWER,
    ResultCode.NO_CARRIER: Outcome.NO_CARRIER,
    ResultCode.NO_DIALTONE: Outcome.NO_DIALTONE,
    ResultCode.DELAYED: Outcome.DELAYED,
    ResultCode.BLACKLISTED: Outcome.BLACKLISTED,
    ResultCode.VOICE: Outcome.NO_CARRIER,
    ResultCode.FAX: Outcome.NO_CARRIER,
}
"""A dial's results but CONNECT; all others (ERROR, an OK that nothing explains) are modem-error."""
_MAY_BE_OFF_HOOK: Final = frozenset({ResultCode.OK, ResultCode.VOICE, ResultCode.FAX})


def _nobody(text: str) -> None:
    """Whom progress is told while nobody waits for it."""


class ModemLine:
    """`call.Line` for a `[[line]]` of kind modem.

    `network` is what bearer ppp makes of the carrier, `pin` the SIM's and `pin_record` what is known of it, `power` the
    switch of `power_gpio`. `timing`, `open_port` and `whereabouts` are for tests; the product opens the configured
    serial port.
    """

    def __init__(
        self,
        config: model.Line,
        *,
        network: PppNetwork | None = None,
        pin: str = "",
        pin_record: PinRecord | None = None,
        power: PowerSwitch | None = None,
        timing: Timing | None = None,
        open_port: Callable[[], Awaitable[Port]] | None = None,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        self.name = config.name
        self._config = config = completed(config)
        self._profile = profile = PROFILES[config.profile]
        self._network = network
        self._timing = timing or profile.timing
        self._whereabouts = whereabouts or Whereabouts(config.name, config.port)
        self._open_port = open_port or self._open_serial
        self._port: Port | None = None
        self._dialogue: Dialogue | None = None
        self._hook = HookSwitch(self._timing)
        self._tell: Callable[[str], None] = _nobody
        self._cellular = Cellular(config, pin, pin_record, lambda text: self._tell(text)) if profile.cellular else None
        self._ladder = Ladder(
            config.name, profile, self._timing, self._hook, power,
            open=self._opened, close=self._close, tell=lambda text: self._tell(text),
        )  # fmt: skip
        self._silent_echo = False

    # ---- Line

    @property
    def device(self) -> str:
        return self._network.device if self._network is not None else ""

    @property
    def dns(self) -> tuple[str, ...]:
        return self._network.dns if self._network is not None else ()

    async def prepare(self, tell: Callable[[str], None] = _nobody) -> Outcome | None:
        self._tell = tell
        try:
            return await self._prepare()
        finally:
            self._tell = _nobody

    async def _prepare(self) -> Outcome | None:
        try:
            dialogue = await self._ladder.find()
            if dialogue is None:
                self._problem(self._ladder.complaint)
                return Outcome.MODEM_SILENT
            self._whereabouts.remember()
            failed = await self._initialise(dialogue)
            if failed is None and self._cellular is not None:
                failed = await self._cellular.attach(dialogue)
            if failed is not None:
                return failed
            await self._hook.learn(dialogue)
            self._silent_echo = not dialogue.echoed
        except PortError as error:
            await self._lose_port(error)
            return Outcome.MODEM_SILENT
        return None if self._network is None else await self._network.prepare()

    async def dial(self, number: str) -> Dialled:
        try:
            clean_number(number)
            if self._dialogue is None:
                return Dialled(Outcome.MODEM_SILENT, text="the port is not open")
            return await self._dial(self._dialogue, number)
        except LocalProtocolError as error:
            return Dialled(Outcome.MODEM_ERROR, text=str(error))
        except PortError as error:
            await self._lose_port(error)
            return Dialled(Outcome.MODEM_SILENT, text=str(error))

    async def negotiate(self) -> Outcome | None:
        if self._network is None:
            return None
        if self._port is None:
            return Outcome.CARRIER_LOST
        try:
            return await self._network.come_up(self._port)
        except PortError as error:
            self._problem(str(error))
            return Outcome.CARRIER_LOST

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        if self._network is not None:
            return await self._network.open_stream(host, port)
        try:
            with trio.fail_after(STREAM_S):
                return await trio.open_tcp_stream(host, port, happy_eyeballs_delay=NEXT_ADDRESS_S)
        except trio.TooSlowError:
            raise TimeoutError(f"no connection to {host} port {port} within {STREAM_S:g} s") from None

    async def network_time(self) -> datetime | None:
        await trio.lowlevel.checkpoint()
        return self._cellular.time if self._cellular is not None else None

    def carried(self) -> tuple[int, int] | None:
        return self._network.carried() if self._network is not None else None

    async def wait_carrier_lost(self) -> Outcome:
        if self._network is not None and self._hook.state is Hook.OFF:
            return await self._wait_network_lost(self._network)
        if self._dialogue is not None and self._hook.state is Hook.OFF:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_no_carrier, self._dialogue, nursery.cancel_scope)
                nursery.start_soon(self._wait_dcd_falls, nursery.cancel_scope)
            self._hook.state = Hook.LOST
        return Outcome.CARRIER_LOST

    async def wait_wake(self) -> str:
        told = ""
        pause = LISTEN_AGAIN_S
        while True:
            try:
                return await self._listen_for_rings()
            except PortError as error:
                trouble = str(error)
            finally:
                with trio.CancelScope(shield=True):
                    await self._close()
            if trouble != told:
                self._problem(f"can't listen for rings: {trouble}")
                told = trouble
            await trio.sleep(pause)
            pause = min(2 * pause, LISTEN_AGAIN_MAX_S)

    async def _listen_for_rings(self) -> str:
        dialogue = await self._opened()
        if not await self._ladder.greet(dialogue):
            raise PortError(self._ladder.complaint)
        failed = await self._initialise(dialogue)
        if failed is Outcome.PIN_REFUSED:  # no other day will be another answer
            await self._close()
            await trio.sleep_forever()
        if failed is not None:
            raise PortError("the modem can't be prepared")
        if not await rings.show_callers(dialogue):
            raise PortError("the modem can't show who rings")
        return await rings.listen(dialogue, self._config.wake_numbers, self.name)

    async def command(self, command: str) -> list[str]:
        if why := why_not(command):
            raise OSError(why)
        argument = command.partition("=")[2].strip('"')
        secret = argument if len(argument) >= SHORTEST_SECRET else ""
        try:
            dialogue = await self._opened()
            if not await self._ladder.greet(dialogue):
                raise PortError(self._ladder.complaint)
            answer = await dialogue.command(command, BY_HAND_S, secret=secret)
        except (PortError, LocalProtocolError) as error:
            raise OSError(str(error)) from None
        finally:
            with trio.CancelScope(shield=True):
                await self._close()
        if answer is None:
            raise OSError(f"the modem does not answer {command} within {BY_HAND_S:g} s")
        return [*answer.information, answer.text]

    async def hang_up(self) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._end_network()
                if self._dialogue is not None and self._hook.state in (Hook.OFF, Hook.LOST):
                    done = False
                    with trio.move_on_after(self._timing.hang_up_s):
                        done = await self._hook.put_on(self._dialogue)
                    if not done:
                        self._problem("no sign that the modem is on-hook; closing the port, so that DTR falls")
                    self._look_for_restart(self._dialogue)
            except PortError as error:
                self._problem(str(error))
            finally:
                await self._close()
                if self._network is not None:
                    await self._network.close()

    # ---- port

    async def _opened(self) -> Dialogue:
        if self._dialogue is None:
            self._port = await self._open_when_free()
            self._dialogue = Dialogue(self._port, self.name, self._timing)
            self._hook.attach(self._port)
        return self._dialogue

    async def _open_serial(self) -> Port:
        baud = self._config.baud
        assert baud is not None, "completed"
        return await open_serial(self._whereabouts.find(), baud, self._config.flow)

    async def _open_when_free(self) -> Port:
        """A Posthouse that was killed in a call leaves the port with pppd, which gives it back within seconds."""
        deadline = trio.current_time() + BUSY_S
        while True:
            try:
                return await self._open_port()
            except PortError as error:
                if not error.busy or trio.current_time() >= deadline:
                    raise
            await trio.sleep(BUSY_POLL_S)

    async def _close(self) -> None:
        port, self._port, self._dialogue = self._port, None, None
        if port is not None:
            await port.aclose()

    async def _lose_port(self, error: PortError) -> None:
        self._problem(str(error))
        self._hook.state = Hook.UNKNOWN
        await self._close()

    def _problem(self, what: str) -> None:
        events.emit(events.MODEM_PROBLEM, line=self.name, what=what)
        self._tell(what)

    # ---- before a dial

    async def _initialise(self, dialogue: Dialogue) -> Outcome | None:
        for command in self._config.init or ():
            failed = await self._take(dialogue, command)
            if failed is not None:
                return failed
        return await self._cellular.unlock(dialogue) if self._cellular is not None else None

    async def _take(self, dialogue: Dialogue, command: str) -> Outcome | None:
        try:
            answer = await dialogue.command(command, self._timing.init_s)
            if answer is None:  # a modem that has just reset may have missed it
                answer = await dialogue.command(command, self._timing.init_s)
        except LocalProtocolError as error:
            self._problem(str(error))
            return Outcome.MODEM_ERROR
        if answer is None:
            self._problem(f"the modem does not answer {command}")
            return Outcome.MODEM_SILENT
        if not is_ok(answer) and command not in self._profile.may_refuse:
            self._problem(f"the modem answers {command} with {answer.text}")
            return Outcome.MODEM_ERROR
        return None

    # ---- the dial

    async def _dial(self, dialogue: Dialogue, number: str) -> Dialled:
        self._hook.state = Hook.OFF
        answer = None
        try:
            await dialogue.start_dial(number, tone=self._profile.tone)
            with trio.move_on_after(self._config.dial_timeout_s):
                answer = await dialogue.answer(math.inf)
            if answer is None:
                return await self._stop_dialling(dialogue)
            return await self._dialled(dialogue, answer)
        except trio.Cancelled:
            with trio.CancelScope(shield=True), trio.move_on_after(self._timing.hang_up_s):
                await self._stop_dialling(dialogue)
            raise

    async def _dialled(self, dialogue: Dialogue, answer: Answer) -> Dialled:
        if answer.code is ResultCode.CONNECT:
            return Dialled(None, answer.rate, answer.text)
        if answer.code in _MAY_BE_OFF_HOOK:
            await self._hook.hang_up(dialogue)
        else:
            self._hook.state = Hook.ON
        outcome, text = _OUTCOMES.get(answer.code, Outcome.MODEM_ERROR), answer.text
        if self._cellular is not None:
            networks, text = explain(answer)
            outcome = networks or outcome
        if self._profile.tells_cause:
            why = cause(await dialogue.command("AT+CEER", self._timing.answer_s))
            text = f"{text} (+CEER: {why})" if why else text
        return Dialled(outcome, text=text)

    async def _stop_dialling(self, dialogue: Dialogue) -> Dialled:
        """Aborts the dial in flight and sees to it that the line is free again."""
        answer = await dialogue.abort()
        if answer is not None and answer.code is ResultCode.CONNECT:  # just before the abort, as the next ones
            await self._hook.put_on(dialogue)
        elif answer is not None and answer.code in (ResultCode.BUSY, ResultCode.NO_ANSWER, ResultCode.NO_DIALTONE):
            return await self._dialled(dialogue, answer)
        elif not await self._hook.hang_up(dialogue):
            return Dialled(Outcome.MODEM_SILENT, text="the modem does not answer any more")
        restarted = f"; the modem restarted ({dialogue.restart_said})" if dialogue.restart_said else ""
        return Dialled(Outcome.TIMEOUT, text=f"no result within {self._config.dial_timeout_s:g} s{restarted}")

    # ---- on line

    async def _wait_no_carrier(self, dialogue: Dialogue, done: trio.CancelScope) -> None:
        try:
            while True:
                said = await dialogue.listen()
                if said.code is ResultCode.NO_CARRIER or says_restart(said.text):
                    break
        except PortError as error:
            self._problem(str(error))
        done.cancel()

    async def _wait_dcd_falls(self, done: trio.CancelScope) -> None:
        port = self._port
        if port is None or not port.has_lines:
            return
        try:
            was_on = False
            while True:
                on = await port.carrier()
                if was_on and not on:
                    break
                was_on = on
                await trio.sleep(self._timing.poll_s)
        except PortError as error:
            self._problem(str(error))
        done.cancel()

    async def _wait_network_lost(self, network: PppNetwork) -> Outcome:
        outcome: Outcome | None = None

        async def ended(done: trio.CancelScope) -> None:
            nonlocal outcome
            outcome = await network.wait_lost()
            done.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended, nursery.cancel_scope)
            nursery.start_soon(self._wait_dcd_falls, nursery.cancel_scope)
        if outcome is None:
            self._hook.state = Hook.LOST
        return outcome or Outcome.CARRIER_LOST

    # ---- hanging up

    async def _end_network(self) -> None:
        """The port is ours again. A modem whose far end has gone is not told so by PPP: it is hung up all the same."""
        network, gently = self._network, self._hook.state is Hook.OFF
        if network is not None and await network.end(gently=gently) and self._dialogue is not None:
            self._dialogue.resume()

    def _look_for_restart(self, dialogue: Dialogue) -> None:
        """After a hang-up by command: whether it was a modem that has restarted since its dial."""
        sign = dialogue.restart_said
        if not sign and self._silent_echo and dialogue.echoed:
            sign = "it echoes again"
        if sign:
            events.emit(events.MODEM_RESTARTED, line=self.name, sign=sign)
        self._silent_echo = False
