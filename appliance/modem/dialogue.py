"""Drives an `AtChannel` over a port: one command and its answer at a time, each with a deadline, and guard times.

It owns the channel and the moment since which nothing was written on line, from which a guard time counts. It must
not know what an answer means for a call: that is `line`'s. Nothing is read between calls: the kernel's buffer keeps
what the modem says meanwhile, and the next call finds it. All that is said goes to the journal (debug level).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from appliance import events
from appliance.protocol.at import Answer, AtChannel, Data, Event, Noise, ResultCode, Unsolicited
from appliance.protocol.at_mobile import says_restart

if TYPE_CHECKING:
    from appliance.modem.port import Port

__all__ = ["Dialogue", "Timing"]

READ_S: Final = 0.01
"""Enough to read what lies in the kernel's buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a modem is waited for. All in seconds; tests shorten them."""

    answer_s: float = 1.0
    """To AT, ATH and a question. Modems answer within 0.3 s, emulated ones on a slow board within 0.6 s."""
    init_s: float = 5.0
    """To an initialising command line: ATZ reads non-volatile memory and runs self-tests."""
    guard_s: float = 1.0
    """The escape sequence's guard time: register S12's default, 50 units of 20 ms, until the modem tells its own."""
    longest_guard_s: float = 5.1
    """S12 at its most, 255."""
    guard_margin_s: float = 0.1
    """On top of a guard time: the two clocks, and the bytes still in the port's buffers."""
    settle_s: float = 0.15
    """Before a dial is aborted: characters of the first 125 ms are disregarded (V.250 §5.6.1)."""
    abort_s: float = 3.0
    """To the abort of a dial: the modem goes on-hook first."""
    quiet_s: float = 0.1
    """Silence before the first command on a port, and after an unanswered one: an answer may still be coming."""
    dtr_s: float = 1.0
    """DTR stays low for at most that long: the modem looks after S25 (50 ms) and DCD falls within some 200 ms."""
    poll_s: float = 0.2
    """Between two looks at DCD."""
    hang_up_s: float = 20.0
    """All of a hang-up: both escapes, the second with the longest guard times, and their answers."""


class Dialogue:
    """`name` is the line's, for the journal."""

    def __init__(self, port: Port, name: str, timing: Timing, *, carries_data: bool = False) -> None:
        self._port = port
        self._name = name
        self._timing = timing
        self._channel = AtChannel(carries_data=carries_data)
        self._pending: deque[Event] = deque()
        self._unanswered = True
        self._quiet_since = trio.current_time()
        self._secret = ""
        self.restart_said = ""
        """What the modem has said since the last dial that a modem says only when it starts."""

    @property
    def echoed(self) -> bool:
        """Whether the last command came back."""
        return self._channel.echoed

    async def command(self, command: str, seconds: float, *, secret: str = "") -> Answer | None:
        """One command line and its answer, None when none came within `seconds`. `secret`: what of it the journal must
        not have. Raises PortError; LocalProtocolError for what is no command line."""
        await self._catch_up()
        self._secret = secret or self._secret  # its echo may be late
        await self._send(self._channel.command(command))
        return await self.answer(seconds)

    async def start_dial(self, number: str, *, tone: bool = True) -> None:
        """Sends the dial command line; `answer` brings its result. Raises PortError; LocalProtocolError for what is
        no number."""
        await self._catch_up()
        self.restart_said = ""
        await self._send(self._channel.dial(number, tone=tone))

    async def abort(self) -> Answer | None:
        """Ends the dial in flight; its result, None when the modem says nothing any more."""
        if not self._channel.busy:
            return None
        await trio.sleep_until(self._quiet_since + self._timing.settle_s)
        await self._send(self._channel.abort())
        return await self.answer(self._timing.abort_s)

    async def escape(self, guard_s: float) -> Answer | None:
        """+++ with its guard times: silence before it, as far as it has not passed already, and after it, where the
        modem's OK is waited for. None: no answer, and the guard time has passed."""
        guard_s += self._timing.guard_margin_s
        self._channel.give_up()
        await trio.sleep_until(self._quiet_since + guard_s)
        await self._send(self._channel.escape())
        return await self.answer(guard_s + self._timing.answer_s)

    async def answer(self, seconds: float) -> Answer | None:
        """The answer to what is in flight, None (and nothing is in flight any more) when it takes over `seconds`.
        Cancelled, the command stays in flight."""
        self._unanswered = True
        with trio.move_on_after(seconds):
            while True:
                event = await self._next()
                if isinstance(event, Answer):
                    self._unanswered = False
                    if event.code is ResultCode.CONNECT:  # on line from now on: no guard time has passed yet
                        self._quiet_since = trio.current_time()
                    return event
        self._channel.give_up()
        return None

    async def listen(self) -> Unsolicited:
        """The next line that nobody asked for. Raises PortError."""
        while True:
            event = await self._next()
            if isinstance(event, Unsolicited):
                return event

    def resume(self) -> None:
        """The port carried something else until now: what is in flight is void, and the guard time begins here."""
        self._channel.give_up()
        self._pending.clear()
        self._unanswered = True
        self._quiet_since = trio.current_time()

    async def _catch_up(self) -> None:
        """Takes what the modem said meanwhile, so that it is not taken for the next command's answer."""
        self._channel.give_up()
        silence = self._timing.quiet_s if self._unanswered else READ_S
        with trio.move_on_after(self._timing.answer_s):
            quiet = False
            while not quiet:
                while self._pending:
                    self._log(self._pending.popleft())
                with trio.move_on_after(silence) as waiting:
                    await self._read()
                quiet = waiting.cancelled_caught
        self._unanswered = False

    async def _send(self, data: bytes) -> None:
        self._said(">", data.rstrip(b"\r").decode("latin-1") or "(CR)")
        with trio.CancelScope(shield=True):  # half a command line would be completed by the next one's CR
            await self._port.send(data)
        self._quiet_since = trio.current_time()

    async def _read(self) -> None:
        self._pending.extend(self._channel.receive_data(await self._port.receive()))

    async def _next(self) -> Event:
        while not self._pending:
            await self._read()
        event = self._pending.popleft()
        self._log(event)
        return event

    def _log(self, event: Event) -> None:
        match event:
            case Answer(text=text, information=information):
                texts = [*information, text]
            case Data(data=data):
                texts = [f"({len(data)} bytes of data)"]
            case Noise(size=size):
                texts = [f"({size} bytes of noise)"]
            case _:
                texts = [event.text]
        if isinstance(event, Unsolicited) and says_restart(event.text):
            self.restart_said = event.text
        for text in texts:
            self._said("<", text)

    def _said(self, direction: str, text: str) -> None:
        if self._secret:
            text = text.replace(self._secret, "****")
        events.emit(events.MODEM_SAID, line=self._name, direction=direction, text=text)
