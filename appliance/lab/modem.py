"""A Hayes modem on a pty, a station of the exchange: what Posthouse's serial port is in the laboratory.

It owns the pty and the modem's state; `hayes` has its language, `exchange` the calls, `line` what runs over a call to
a provider. A pty has neither DTR nor DCD (TIOCMGET says ENOTTY), so &C and &D are taken and mean nothing, unless
`hangs_up_on_close` stands for DTR falling when the last user closes the port.

Theory of operation (V.250 §5.1):

    state     | meaning                          | leaves it
    command   | bytes are command lines          | D, A -> dialling
    dialling  | D or A is being executed         | result -> online or command; any byte aborts (§5.6.1) -> command
    online    | bytes belong to the call         | guarded escape -> escaped; circuit down -> command
    escaped   | command lines, the call is up    | O -> online; H, Z -> command; circuit down -> command

While a call to a provider is up its bytes go over the `Line`, not over the pty: what the product writes to the pty then
is counted in `stray_bytes`. To another modem they go over the port, paced at the circuit's rate: each way is one serial
resource, on which a piece of n bytes takes n*8/rate seconds. `run` makes a pty; `serve` takes any stream as the port,
such as the serial port of a virtual machine.
"""

from __future__ import annotations

import os
import time
import tty
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import trio

from appliance.lab import hayes
from appliance.lab.exchange import Access, Circuit, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.lab.exchange import Exchange, Station
    from appliance.lab.line import Line

__all__ = ["Modem", "ModemState"]

RECEIVE_BYTES: Final = 4096
WRITE_LIMIT: Final = 64 * 1024
"""Bytes that wait for a reader of the port; what comes on top is lost, as with a modem's overrun buffer."""
PORT_POLL_S: Final = 0.02
"""A closed pty is looked at this often: the kernel does not tell when it is opened again."""
PIECE_S: Final = 0.02
"""Bytes of a circuit are handed over in pieces of so much time, so that nothing short waits for something long."""
LATE_S: Final = 0.01
"""A piece that comes this late after the last waited for us, not the circuit for it: it starts where that ended."""
COMMAND_PAUSE_S: Final = 0.02
"""A modem takes this long for a command."""
ABORT_DEAF_S: Final = 0.125
"""So long after D or A what comes does not abort it (V.250 §5.6.1)."""
RING_ON_S: Final = 0.5
TRANSCRIPT_LINES: Final = 2000

_RESULTS: Final = {
    Progress.NO_DIALTONE: "NO DIALTONE",
    Progress.BUSY: "BUSY",
    Progress.NO_ANSWER: "NO ANSWER",
    Progress.NO_CARRIER: "NO CARRIER",
    Progress.ABORTED: "NO CARRIER",
}


class ModemState(StrEnum):
    COMMAND = "command"
    DIALLING = "dialling"
    ONLINE = "online"
    ESCAPED = "escaped"


@dataclass(slots=True, eq=False)
class Modem:
    """`number` is its own; `line` what a call to a provider opens. To change how it behaves:

    `profile`: S-registers of the stored profile, over the factory's (`{12: 10}`: a guard time of 0.2 s).
    `mute`: it neither hears nor says anything (a hung modem).
    `next_results`: results of the next dials, said without going off-hook: "BLACKLISTED", "DELAYED 00:30", "ERROR";
    "" stands for no result at all until the dial is aborted.
    `watch(text)`: told what happens, for people.
    """

    exchange: Exchange
    number: str = "0451234567"
    line: Line | None = None
    profile: dict[int, int] = field(default_factory=dict)
    hangs_up_on_close: bool = False
    mute: bool = False
    next_results: deque[str] = field(default_factory=deque)
    watch: Callable[[str], None] = lambda text: None

    port: str = ""
    """The pty's path, from `run`'s start on."""
    dials: list[str] = field(default_factory=list)
    """Every number dialled, also those answered by `next_results`."""
    stray_bytes: int = 0
    transcript: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=TRANSCRIPT_LINES))
    """(wall-clock time, ">" to the modem or "<" from it, a line's text)."""
    state: ModemState = ModemState.COMMAND

    _master: trio.abc.Stream | None = None
    _nursery: trio.Nursery | None = None
    _stored: hayes.Settings = field(default_factory=hayes.Settings)
    _settings: hayes.Settings = field(default_factory=hayes.Settings)
    _body: bytearray = field(default_factory=bytearray)
    _last_body: str = ""
    _circuit: Circuit | None = None
    _dial: trio.CancelScope | None = None
    _dialled_at: float = 0.0
    _ringing: trio.Event | None = None
    _out: bytearray = field(default_factory=bytearray)
    _written: trio.Event = field(default_factory=trio.Event)
    _drained: trio.Event = field(default_factory=trio.Event)
    _escapes: int = 0
    _last_byte: float = 0.0
    _sent_at: float = 0.0
    _changed: trio.Event = field(default_factory=trio.Event)

    # ---- for those who look at it

    @property
    def off_hook(self) -> bool:
        return self.state is not ModemState.COMMAND

    @property
    def on_hook(self) -> bool:
        return not self.off_hook

    @property
    def carrier(self) -> bool:
        return self._circuit is not None

    async def wait_state(self, *states: ModemState) -> None:
        """Returns once it is in one of these states."""
        while self.state not in states:
            await self._changed.wait()

    def drop_carrier(self, reason: str = "carrier dropped") -> None:
        """The far end or the wire goes away: NO CARRIER, if a call is up."""
        if self._circuit is not None:
            self._circuit.end(reason)

    def say(self, text: str) -> None:
        """An unsolicited line, as a modem that reboots or reports may say at any time."""
        self._say_bytes(self._settings.format_information(text), text)

    # ---- running

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the port until cancelled; `started` with the port's path."""
        master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        if self.hangs_up_on_close:
            os.close(slave)
            slave = -1
        try:
            await self.serve(trio.lowlevel.FdStream(master), task_status=task_status)
        finally:
            if slave >= 0:
                os.close(slave)

    async def serve(
        self, port: trio.abc.Stream, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The same with `port` in place of a pty, switched on now; returns when its other end is closed."""
        for register, value in self.profile.items():
            self._stored.set_register(register, value)
        self._settings = self._stored.copy()
        self._body.clear()
        self._out.clear()
        self._master = port
        async with port:
            try:
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._write_port)
                    task_status.started(self.port)
                    await self._read_port()
                    self._nursery.cancel_scope.cancel()
            finally:
                self._nursery = None
                self._hang_up("the modem was switched off")

    async def _read_port(self) -> None:
        assert self._master is not None
        while True:
            timeout = self._settings.guard_s if self._escapes == 3 else float("inf")
            with trio.move_on_after(timeout) as silence:
                try:
                    data = await self._master.receive_some(RECEIVE_BYTES)
                except trio.BrokenResourceError:
                    if not self.port:
                        return
                    await self._closed_port()  # EIO: nobody has the pty open
                    continue
            if silence.cancelled_caught:
                self._escape()
            elif data:
                await self._received(bytes(data))
            else:
                return

    async def _closed_port(self) -> None:
        if self.state is not ModemState.COMMAND:
            self.watch("the port was closed: DTR falls, the modem hangs up")
            self._abort_dial()
            self._hang_up("DTR")
        self._body.clear()
        await trio.sleep(PORT_POLL_S)

    async def _write_port(self) -> None:
        assert self._master is not None
        while True:
            while not self._out:
                self._written = trio.Event()
                await self._written.wait()
            data = bytes(self._out)
            try:
                await self._master.send_all(data)
            except trio.BrokenResourceError:  # nobody has the port open: as good as sent
                pass
            del self._out[: len(data)]
            self._drained.set()

    # ---- bytes from the terminal

    async def _received(self, data: bytes) -> None:
        if self.mute:
            return
        for at, byte in enumerate(data):
            if self.state is ModemState.DIALLING:
                if trio.current_time() - self._dialled_at > ABORT_DEAF_S:
                    self._abort_dial()
                return
            if self.state is ModemState.ONLINE:
                await self._transmit(data[at:])
                return
            if self._command_byte(byte):
                line = self._body.decode("ascii", "replace")
                self._body.clear()
                await trio.sleep(COMMAND_PAUSE_S)
                self._execute_line(line)

    async def _transmit(self, data: bytes) -> None:
        """Bytes of the call."""
        self._look_for_escape(data)
        circuit = self._circuit
        other = circuit.other(self) if circuit is not None else None
        if circuit is None or other is None:
            self.stray_bytes += len(data)
        else:
            await self._pass_on(data, circuit, other)

    async def _pass_on(self, data: bytes, circuit: Circuit, other: Station) -> None:
        """Over the circuit at its rate. What the port holds back meanwhile is its flow control."""
        size = max(1, int(PIECE_S * circuit.rate / 8))
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            now = trio.current_time()
            start = self._sent_at if now - self._sent_at < LATE_S else now
            self._sent_at = start + len(piece) * 8 / circuit.rate
            await trio.sleep_until(self._sent_at)
            if not circuit.up:
                return
            circuit.carry(self, piece)
            if not circuit.dead:
                await other.hear(piece)

    def _command_byte(self, byte: int) -> bool:
        """Takes one byte of a command line (V.250 §5.2); whether the line is complete."""
        registers, body = self._settings.registers, self._body
        if self._settings.echo:
            self._put(bytes([byte]))
        if byte == registers[3]:
            if len(body) < 2:
                body.clear()
            return len(body) >= 2
        if byte == registers[5]:
            del body[-1:]
        elif byte >= 0x20 and len(body) <= hayes.BODY_LIMIT + 2:
            body.append(byte)
            # What is in front of an AT is noise, or the tail of an escape.
            if len(body) == 2 and bytes(body).upper() not in (b"AT", b"A/"):
                del body[0]
            if len(body) == 1 and bytes(body).upper() != b"A":
                body.clear()
        return bytes(body[1:]) == b"/"  # A/ has no end (§5.2.4)

    def _look_for_escape(self, data: bytes) -> None:
        """Counts escape characters between guard times; the third starts `_read_port`'s waiting for silence."""
        settings, now = self._settings, trio.current_time()
        for byte in data:
            quiet = now - self._last_byte
            is_escape = byte == settings.registers[2] <= 127
            if is_escape and (quiet >= settings.guard_s if self._escapes == 0 else self._escapes < 3):
                self._escapes += 1
            else:
                self._escapes = 0
            self._last_byte = now

    def _escape(self) -> None:
        self._escapes = 0
        if self.state is ModemState.ONLINE:
            self.stray_bytes = max(0, self.stray_bytes - 3)
            self.watch("+++: command mode, the call is still up")
            self._set_state(ModemState.ESCAPED)
            self._result("OK")

    # ---- command lines

    def _execute_line(self, line: str) -> None:
        body = self._last_body if line.upper() == "A/" else line[2:]
        self._last_body = body
        self.transcript.append((time.time(), ">", "AT" + body))
        try:
            if len(body) > hayes.BODY_LIMIT:
                raise hayes.BadCommand("too long")
            commands = hayes.parse_body(body)
            results = [self._execute(c) for c in commands]
        except hayes.BadCommand:
            self._result("ERROR")
            return
        if None not in results:
            self._result("OK")

    def _execute(self, command: hayes.Command) -> str | None:
        """One command; None when it brings its own result later. Raises BadCommand."""
        settings = self._settings
        match command.name:
            case "D":
                self._start_dial(command.text)
                return None
            case "A":
                if self._ringing is None:
                    raise hayes.BadCommand("A without a ring")
                self._ringing.set()
                return None
            case "H" if command.value == 0:
                self._hang_up("ATH")
            case "O":
                if self._circuit is None:
                    raise hayes.BadCommand("O without a call")
                self._go_online(self._circuit)
                return None
            case "Z":
                self._hang_up("ATZ")
                self._settings = self._stored.copy()
            case "&F":
                self._settings = hayes.Settings()
            case "&W":
                self._stored = settings.copy()
            case "I" | "+GMI" | "+GMM":
                self._information("Laboratory modem")
            case "+GMR":
                self._information("1")
            case "+GCAP":
                self._information("+GCAP: +MS")
            case "&V":
                self._information(" ".join(f"S{r}={v}" for r, v in settings.registers.items()))
            case "S" if command.read:
                if command.value not in settings.registers:
                    raise hayes.BadCommand("S")
                self._information(f"{settings.registers[command.value]:03d}")
            case "S":
                settings.set_register(command.value, command.assign or 0)
            case "+VCID" if command.text in ("=0", "=1"):
                settings.shows_caller = command.text == "=1"
            case "+MS" | "+IFC" | "+ICF" | "+IPR" | "+DS" | "+ES" if command.text.startswith("="):
                pass  # modulation, flow control and speed: nothing of these on a pty
            case _:
                if not settings.set(command):
                    raise hayes.BadCommand(command.name)
        return "OK"

    # ---- calls

    def _start_dial(self, text: str) -> None:
        if self._circuit is not None or self._nursery is None:
            raise hayes.BadCommand("D while a call is up")
        number = "".join(c for c in text if c in "0123456789*#+")
        self.dials.append(number)
        self.watch(f"ATD{text}")
        self._dialled_at = trio.current_time()
        self._set_state(ModemState.DIALLING)
        self._nursery.start_soon(self._place, number, text.count(",") * self._settings.registers[8])

    async def _place(self, number: str, pause_s: float) -> None:
        outcome: Circuit | Progress = Progress.ABORTED
        forced = self.next_results.popleft() if self.next_results else None
        with trio.CancelScope() as self._dial:
            if forced is None:
                await trio.sleep(pause_s)
                outcome = await self.exchange.place(self, number, patience_s=float(self._settings.registers[7]))
            else:
                await trio.sleep(COMMAND_PAUSE_S if forced else float("inf"))
        self._dial = None
        if isinstance(outcome, Circuit):
            return  # circuit_up has said CONNECT
        self._set_state(ModemState.COMMAND)
        result = forced or _RESULTS[outcome]
        self.watch(f"{number}: {result}")
        self._result(result)

    def _abort_dial(self) -> None:
        if self._dial is not None:
            self._dial.cancel()

    async def ring(self, caller: str) -> None:
        """The exchange rings: RING until ATA or S0's count (V.250 §6.3.5, §6.3.8), the number behind the first."""
        self._ringing = trio.Event()
        rings = 0
        try:
            while not self._ringing.is_set():
                rings += 1
                self._settings.registers[1] = rings
                self._result("RING")
                if rings == 1 and self._settings.shows_caller:
                    self._information(f"NMBR = {caller}")
                if 0 < self._settings.registers[0] <= rings:
                    self._ringing.set()
                with trio.move_on_after(RING_ON_S):
                    await self._ringing.wait()
        finally:
            self._ringing = None

    def circuit_up(self, circuit: Circuit) -> None:
        self._circuit = circuit
        if isinstance(circuit.callee, Access) and self.line is not None:
            self.line.up(circuit.rate, on_cut=self.drop_carrier)
        self._go_online(circuit)

    def _go_online(self, circuit: Circuit) -> None:
        self.watch(f"CONNECT {circuit.rate}")
        self._result(f"CONNECT {circuit.rate}")
        self._escapes, self._last_byte = 0, trio.current_time()
        self._set_state(ModemState.ONLINE)

    def circuit_down(self, circuit: Circuit) -> None:
        if self.line is not None:
            self.line.down()
        self._circuit = None
        if not self.off_hook:
            return  # this end hung up: its result is the command's
        if self._nursery is None:
            self._set_state(ModemState.COMMAND)
        else:
            self._nursery.start_soon(self._lose_carrier)

    async def _lose_carrier(self) -> None:
        await trio.sleep(self._settings.registers[10] / 10)
        # It may have been hung up meanwhile, and even dial again.
        if self.state in (ModemState.ONLINE, ModemState.ESCAPED) and self._circuit is None:
            self._set_state(ModemState.COMMAND)
            self.watch("NO CARRIER")
            self._result("NO CARRIER")

    def _hang_up(self, reason: str) -> None:
        if self.off_hook:
            self.watch(f"{reason}: on-hook")
        circuit = self._circuit
        self._set_state(ModemState.COMMAND)
        if circuit is not None:
            circuit.end(reason)

    async def hear(self, data: bytes) -> None:
        """Bytes from another modem; waits while the port's reader is slow."""
        while len(self._out) > WRITE_LIMIT:
            self._drained = trio.Event()
            await self._drained.wait()
        if self.state is ModemState.ONLINE:
            self._put(data)

    # ---- bytes to the terminal

    def _result(self, text: str) -> None:
        self._say_bytes(self._settings.format_result(text), text)

    def _information(self, text: str) -> None:
        self._say_bytes(self._settings.format_information(text), text)

    def _say_bytes(self, data: bytes, text: str) -> None:
        if data and not self.mute:
            self.transcript.append((time.time(), "<", text))
            self._put(data)

    def _put(self, data: bytes) -> None:
        if len(self._out) <= WRITE_LIMIT + RECEIVE_BYTES:
            self._out += data
            self._written.set()

    def _set_state(self, state: ModemState) -> None:
        if state is not self.state:
            self.state = state
            self._changed.set()
            self._changed = trio.Event()
