"""A scripted Hayes modem for tests, on a pseudo-terminal or, with DTR and DCD, behind a port object.

It is written from V.250 and the manuals of real modems, apart from the product's own parser. What it can be
told to do wrong is what modems do: not answer, answer slowly, keep quiet about a lost carrier, ignore DTR.
"""

from __future__ import annotations

import math
import os
import re
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from appliance.modem.port import PortError

NUMERIC = {
    "OK": "0", "CONNECT": "1", "RING": "2", "NO CARRIER": "3", "ERROR": "4", "NO DIALTONE": "6", "BUSY": "7",
    "NO ANSWER": "8", "CONNECT 9600": "12", "DELAYED 00:30": "24", "BLACKLISTED": "32",
}  # fmt: skip


class FakeModem:
    """`state`: command, dialling, online, escaped. `script`: the result of each dial in turn, the last repeats;
    "" is silence. `byte_s`: between two bytes that it says."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.state = "command"
        self.script = ["CONNECT 9600"]
        self.dial_s = 0.0
        self.byte_s = 0.0
        self.guard_s = 1.0
        self.numeric = False
        self.echo = self.echo_at_reset = True
        self.quiet = False
        self.mute = False
        self.mute_when_dialling = False
        self.errors: set[str] = set()
        self.answers_s12 = True
        self.garnish: Callable[[bytes], bytes] = lambda data: data
        self.obeys_dtr = True
        self.dcd_wired = True
        self.dtr = True
        self.heard: list[str] = []
        self.dialled: list[str] = []
        self.stray = b""
        self.hung_up_by = ""
        self.gone = False
        self._line = b""
        self._plus = 0
        self._last = -math.inf
        self._dial = 0
        self._say, self.said = trio.open_memory_channel[bytes](math.inf)

    @property
    def on_hook(self) -> bool:
        return self.state == "command"

    @property
    def dcd(self) -> bool:
        return self.dcd_wired and self.state in ("online", "escaped")

    # ---- out

    def say(self, data: bytes) -> None:
        if self.mute:
            return
        for piece in [bytes([b]) for b in data] if self.byte_s else [data]:
            with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                self._say.send_nowait(piece)

    def result(self, text: str) -> None:
        if not self.quiet:
            self.say(self.garnish(f"{NUMERIC[text]}\r".encode() if self.numeric else f"\r\n{text}\r\n".encode()))

    def information(self, text: str) -> None:
        self.say(self.garnish(f"{text}\r\n".encode() if self.numeric else f"\r\n{text}\r\n".encode()))

    def end(self) -> None:
        """The port goes, as an unplugged adapter does."""
        self._say.close()

    def replug(self) -> None:
        """A port that has gone is there again; who has it open must open it anew."""
        self._say, self.said = trio.open_memory_channel[bytes](math.inf)

    # ---- what happens to it

    def set_dtr(self, on: bool) -> None:
        self.dtr = on
        if not on and self.obeys_dtr and not self.on_hook:
            self._hang_up("DTR")
            self.result("OK")

    def lose_carrier(self, *, tell: bool = True) -> None:
        self._hang_up("far end")
        if tell:
            self.result("NO CARRIER")

    def _hang_up(self, why: str) -> None:
        self.state, self.hung_up_by = "command", why

    # ---- in

    def hear(self, data: bytes) -> None:
        for byte in data:
            {"online": self._online, "dialling": self._dialling}.get(self.state, self._command)(byte)

    def _online(self, byte: int) -> None:
        now = trio.current_time()
        quiet, self._last = now - self._last, now
        if byte == ord("+") and (self._plus or quiet >= self.guard_s):
            self._plus += 1
            if self._plus == 3:
                self._nursery.start_soon(self._escape, now)
        else:
            self.stray += b"+" * self._plus + bytes([byte])
            self._plus = 0

    async def _escape(self, since: float) -> None:
        await trio.sleep(self.guard_s)
        if self.state == "online" and self._last == since:
            self.state, self._plus = "escaped", 0
            self.result("OK")

    def _dialling(self, byte: int) -> None:
        self._dial += 1
        self._hang_up("aborted")
        self.result("NO CARRIER")

    def _command(self, byte: int) -> None:
        if self.echo:
            self.say(bytes([byte]))
        if byte != 13:
            self._line += bytes([byte])
            return
        line, self._line = self._line.decode("latin-1"), b""
        if "AT" in line.upper():
            line = line[line.upper().replace("+CGATT", "+CG__T").rindex("AT") :]
            self.heard.append(line)
            self._run(line[2:].upper())

    def _run(self, body: str) -> None:
        if f"AT{body}" in self.errors:
            self.result("ERROR")
        elif body[:1] == "D":
            self._start_dial(body[1:])
        else:
            if "Z" in body:
                self.echo = self.echo_at_reset
            if on := re.search("E([01])", body):
                self.echo = on[1] == "1"
            if on := re.search("Q([01])", body):
                self.quiet = on[1] == "1"
            if body in ("H", "H0", "Z") and not self.on_hook:
                self._hang_up("ATH")
            if body == "S12?":
                if not self.answers_s12:
                    self.result("ERROR")
                    return
                self.information(f"{round(self.guard_s * 50):03d}")
            self.result("OK")

    def _start_dial(self, number: str) -> None:
        self.dialled.append(number)
        self.state = "dialling"
        self._dial += 1
        self.mute = self.mute or self.mute_when_dialling
        text = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if text:
            self._nursery.start_soon(self._end_dial, self._dial, text)

    async def _end_dial(self, dial: int, text: str) -> None:
        await trio.sleep(self.dial_s)
        if dial != self._dial:
            return
        self.state = "online" if text.startswith("CONNECT") else "command"
        self._last, self._plus = trio.current_time(), 0
        self.result(text)


class FakePort:
    """`modem.port.Port` without a kernel between, so that virtual time works; with DTR and DCD, which a
    pseudo-terminal has not, or without."""

    def __init__(self, modem: FakeModem, *, has_lines: bool = True) -> None:
        self._modem = modem
        self.has_lines = has_lines
        self.closed = False
        self.lent = False

    async def receive(self) -> bytes:
        if self.closed:
            raise PortError("closed")
        assert not self.lent, "read while pppd has the port"
        try:
            data = await self._modem.said.receive()
        except trio.EndOfChannel:
            raise PortError("hung up") from None
        await trio.sleep(self._modem.byte_s)
        return data

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise PortError("closed")
        assert not self.lent, "written while pppd has the port"
        self._modem.hear(data)

    async def carrier(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.has_lines and self._modem.dcd

    async def set_dtr(self, on: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self.has_lines:
            self._modem.set_dtr(on)

    async def lend(self) -> int:
        self.lent = True
        return -1

    async def take_back(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed or self._modem.gone:
            raise PortError("the port is gone")
        self.lent = False

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            if self.has_lines:
                self._modem.set_dtr(False)


@asynccontextmanager
async def modem_on_pty() -> AsyncIterator[tuple[FakeModem, str]]:
    """A modem and its port's path."""
    master, slave = os.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    stream = trio.lowlevel.FdStream(master)

    async def listen() -> None:
        try:
            async for data in stream:
                modem.hear(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def speak() -> None:
        async for data in modem.said:
            await trio.sleep(modem.byte_s)
            await stream.send_all(data)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        modem = FakeModem(nursery)
        nursery.start_soon(listen)
        nursery.start_soon(speak)
        try:
            yield modem, path
        finally:
            os.close(slave)  # kept open till here, so that a port that is closed in between is no hang-up
            nursery.cancel_scope.cancel()
    await stream.aclose()


@asynccontextmanager
async def modem_with_lines(kind: type[FakeModem] = FakeModem) -> AsyncIterator[FakeModem]:
    async with trio.open_nursery() as nursery:
        yield kind(nursery)
        nursery.cancel_scope.cancel()
