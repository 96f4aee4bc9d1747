"""A modem as a `call.Line`: from the port to CONNECT and back on-hook, each step with its outcome.

It owns the port, the dialogue on it, and what is known of the hook. It must not know why a call is made or
what goes over it. With bearer none the network is simply there after CONNECT, and the port carries nothing but the
modem's own words, so that a NO CARRIER on it is the carrier's end. With bearer ppp the port is lent to `ppp_network`
from CONNECT until the hang-up; the modem's lines stay ours, and a fall of DCD is the carrier's end.

    hook       what happens                                      next
    UNKNOWN    prepare(): AT and ATH are answered                ON
    UNKNOWN    prepare(): no answer; DTR, +++ and ATH            ON, or UNKNOWN: modem-silent
    ON         dial()                                            OFF
    OFF        CONNECT                                           OFF
    OFF        any other result                                  ON
    OFF        dial_timeout or cancelled: abort, ATH             ON, or OFF: modem-silent
    OFF        NO CARRIER, DCD falls, the port hangs up          LOST
    OFF, LOST  hang_up()                                         ON, or an event; the port is closed in any case
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.call import Dialled, Outcome
from appliance.modem import rings
from appliance.modem.dialogue import Dialogue, Timing
from appliance.modem.hook import Hook, HookSwitch, is_ok
from appliance.modem.port import Port, PortError, open_serial
from appliance.modem.profiles import profile
from appliance.protocol.at import Answer, ResultCode, clean_number
from appliance.protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.config import model
    from appliance.modem.ppp_network import PppNetwork

__all__ = ["ModemLine"]

STREAM_S: Final = 60.0
"""A connection over the line: name look-up and TCP's handshake, with retransmissions at 1, 3, 7 and 15 s (RFC 6298)."""
NEXT_ADDRESS_S: Final = 5.0
"""Before a host's next address is tried beside the first (RFC 8305 says 250 ms, less than one round trip here)."""
BUSY_S: Final = 8.0
"""A port that another program has is waited for: longer than pppd may take to end (`pppd.STOP_S` and `END_S`)."""
BUSY_POLL_S: Final = 0.5
LISTEN_AGAIN_S: Final = 60.0
"""Before a modem that is gone, silent or of no use for it is asked to listen for rings again."""
AT_TRIES: Final = 2
"""The first AT after a pause may be lost to a modem that wakes up or finds its speed."""

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


class ModemLine:
    """`call.Line` for a `[[line]]` of kind modem. Raises ProfileNotBuilt for a profile that is not built.

    `network` is what bearer ppp makes of the carrier. `timing` and `open_port` are for tests; the product opens the
    configured serial port.
    """

    def __init__(
        self,
        config: model.Line,
        *,
        network: PppNetwork | None = None,
        timing: Timing | None = None,
        open_port: Callable[[], Awaitable[Port]] | None = None,
    ) -> None:
        self.name = config.name
        self._config = config
        self._network = network
        self._init = profile(config.profile).init if config.init is None else config.init
        self._timing = timing or Timing()
        self._open_port = open_port or (lambda: open_serial(config.port, config.baud, config.flow))
        self._port: Port | None = None
        self._dialogue: Dialogue | None = None
        self._hook = HookSwitch(self._timing)

    # ---- Line

    @property
    def device(self) -> str:
        return self._network.device if self._network is not None else ""

    @property
    def dns(self) -> tuple[str, ...]:
        return self._network.dns if self._network is not None else ()

    async def prepare(self) -> Outcome | None:
        try:
            dialogue = await self._opened()
            if not await self._find(dialogue):
                self._problem("the modem does not answer")
                return Outcome.MODEM_SILENT
            for command in self._init:
                failed = await self._initialise(dialogue, command)
                if failed is not None:
                    return failed
            await self._hook.learn(dialogue)
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
            await trio.sleep(LISTEN_AGAIN_S)

    async def _listen_for_rings(self) -> str:
        dialogue = await self._opened()
        if not await self._find(dialogue):
            raise PortError("the modem does not answer")
        for command in self._init:
            if await self._initialise(dialogue, command) is not None:
                raise PortError(f"the modem does not take {command}")
        if not await rings.show_callers(dialogue):
            raise PortError("the modem can't show who rings")
        return await rings.listen(dialogue, self._config.wake_numbers, self.name)

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

    # ---- before a dial

    async def _find(self, dialogue: Dialogue) -> bool:
        """Whether the modem answers, on-hook, if need be after it was hung up."""
        if await self._answers(dialogue):
            # It may be off-hook all the same: a process that died between +++ and ATH left it so.
            return self._hook.state is Hook.ON or await self._hook.hang_up(dialogue)
        if await self._hook.put_on(dialogue) and await self._answers(dialogue):
            events.emit(events.MODEM_FOUND_OFF_HOOK, line=self.name)
            return True
        return False

    async def _answers(self, dialogue: Dialogue) -> bool:
        for _ in range(AT_TRIES):
            if is_ok(await dialogue.command("AT", self._timing.answer_s)):
                self._hook.patient = True
                return True
        return False

    async def _initialise(self, dialogue: Dialogue, command: str) -> Outcome | None:
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
        if not is_ok(answer):
            self._problem(f"the modem answers {command} with {answer.text}")
            return Outcome.MODEM_ERROR
        return None

    # ---- the dial

    async def _dial(self, dialogue: Dialogue, number: str) -> Dialled:
        self._hook.state = Hook.OFF
        answer = None
        try:
            await dialogue.start_dial(number)
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
        return Dialled(_OUTCOMES.get(answer.code, Outcome.MODEM_ERROR), text=answer.text)

    async def _stop_dialling(self, dialogue: Dialogue) -> Dialled:
        """Aborts the dial in flight and sees to it that the line is free again."""
        answer = await dialogue.abort()
        if answer is not None and answer.code is ResultCode.CONNECT:  # just before the abort, as the next ones
            await self._hook.put_on(dialogue)
        elif answer is not None and answer.code in (ResultCode.BUSY, ResultCode.NO_ANSWER, ResultCode.NO_DIALTONE):
            return await self._dialled(dialogue, answer)
        elif not await self._hook.hang_up(dialogue):
            return Dialled(Outcome.MODEM_SILENT, text="the modem does not answer any more")
        return Dialled(Outcome.TIMEOUT, text=f"no result within {self._config.dial_timeout_s:g} s")

    # ---- on line

    async def _wait_no_carrier(self, dialogue: Dialogue, done: trio.CancelScope) -> None:
        try:
            while (await dialogue.listen()).code is not ResultCode.NO_CARRIER:
                pass
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
