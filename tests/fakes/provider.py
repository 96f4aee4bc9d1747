"""A provider's servers in memory, scripted, that can break at every step; and the call that leads to them.

A session passes `point(name)` before and after everything that it does; the points of a run are counted, so that a
test can break the line, or the server, at each one there is.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
import trio.testing

from appliance.call import OpenCall, Reason

FULL = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")


class Cut(Exception):
    """The server is gone, without a word."""


@dataclass
class Provider:
    """What both servers share. `cut_at`: the point (counted from 1 over all sessions) at which `on_cut` runs: by
    default the server's end of the connection is closed."""

    tls: ssl.SSLContext | None = None
    starttls: bool = False
    login: tuple[str, str] | None = None
    cut_at: int = 0
    on_cut: Callable[[], None] | None = None
    points: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    resumed: list[bool] = field(default_factory=list)
    """Of each connection under TLS, whether its session was resumed."""

    def point(self, name: str) -> None:
        self.points.append(name)
        if len(self.points) == self.cut_at:
            if self.on_cut is None:
                raise Cut
            self.on_cut()

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        try:
            if self.tls is not None and not self.starttls:
                stream = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
            await self.session(Wire(stream))
        except (Cut, trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        finally:
            self.note_tls(stream)
            await trio.aclose_forcefully(stream)

    def note_tls(self, stream: trio.abc.Stream) -> None:
        if isinstance(stream, trio.SSLStream):
            try:
                self.resumed.append(bool(stream.session_reused))
            except trio.NeedHandshakeError:
                pass

    async def session(self, wire: Wire) -> None:
        raise NotImplementedError


class Wire:
    """Lines over a stream; replies are held while more commands lie in the buffer, as servers do."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.out = b""

    async def line(self) -> str:
        while b"\r\n" not in self.buffer:
            await self.flush()
            await self._fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode("utf-8", "replace")

    async def data(self, begun: Callable[[], None]) -> bytes:
        await self.flush()
        got = b"\r\n"
        while (end := got.find(b"\r\n.\r\n")) < 0:
            if not self.buffer:
                await self._fill()
            got, self.buffer = got + self.buffer, b""
            begun()
        self.buffer = got[end + 5 :]
        return (got[: end + 2]).replace(b"\r\n.", b"\r\n")[2:]

    async def octets(self, n: int, begun: Callable[[], None]) -> bytes:
        await self.flush()
        while len(self.buffer) < n:
            await self._fill()
        begun()
        got, self.buffer = self.buffer[:n], self.buffer[n:]
        return got

    async def _fill(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        self.buffer += bytes(data)

    def say(self, text: str | bytes) -> None:
        self.out += (text.encode() if isinstance(text, str) else text) + b"\r\n"

    async def flush(self) -> None:
        out, self.out = self.out, b""
        if out:
            await self.stream.send_all(out)


@dataclass
class SmtpProvider(Provider):
    """`answer(verb, argument)` may give another reply than the usual one; `on_end(data)` is called when an end of
    data has come, before anything is stored."""

    extensions: tuple[str, ...] = FULL
    answer: Callable[[str, str], str | None] = lambda verb, argument: None
    on_end: Callable[[bytes], None] = lambda data: None
    stored: list[tuple[str, list[str], bytes]] = field(default_factory=list)

    async def session(self, wire: Wire) -> None:
        sender, to = "", []
        secure = self.tls is not None and not self.starttls
        self.point("connected")
        wire.say(self.answer("CONNECT", "") or "220 mx.isp.example ESMTP")
        self.point("greeted")
        while True:
            line = await wire.line()
            self.commands.append(line)
            verb, _, argument = line.partition(" ")
            self.point(f"got {verb}")
            reply = self.answer(verb, argument)
            if reply == "drop":
                raise Cut
            if verb == "EHLO" and reply is None:
                offered = [*self.extensions]
                offered += ["STARTTLS"] if self.starttls and not secure else []
                offered += ["AUTH PLAIN LOGIN"] if self.login and (secure or not self.starttls) else []
                lines = ["mx.isp.example", *offered]
                reply = "\r\n".join(f"250{'-' if i < len(lines) - 1 else ' '}{x}" for i, x in enumerate(lines))
            elif verb == "AUTH" and reply is None:
                _, name, password = base64.b64decode(argument.split()[1]).decode().split("\0")
                reply = "235 2.7.0 ok" if (name, password) == self.login else "535 5.7.8 wrong"
            elif verb == "MAIL":
                reply = reply or "250 2.1.0 ok"
                sender, to = argument, []
            elif verb == "RCPT":
                reply = reply or "250 2.1.5 ok"
                if reply[0] == "2":
                    to.append(argument[4:].partition(">")[0])
            elif verb == "BDAT":
                count, _, last = argument.partition(" ")
                assert last == "LAST"
                data = await wire.octets(int(count), lambda: self.point("body begun"))
                self.on_end(data)
                self.point("end of data")
                reply = reply or ("250 2.0.0 queued" if to else "554 5.5.1 no valid recipients")
                if reply[0] == "2":
                    self.stored.append((sender, to, data))
                    self.point("stored")
                to = []
            elif verb == "DATA":
                reply = reply or ("354 go" if to else "554 5.5.1 no valid recipients")
                wire.say(reply)
                self.point("answered DATA")
                if reply[0] != "3":
                    continue
                first = True

                def begun() -> None:
                    nonlocal first
                    if first:
                        first = False
                        self.point("body begun")

                data = await wire.data(begun)
                self.on_end(data)
                self.point("end of data")
                reply = self.answer(".", "") or ("250 2.0.0 queued" if to else "554 5.5.1 no recipients")
                if reply == "drop":
                    raise Cut
                if reply[0] == "2":
                    self.stored.append((sender, to, data))
                    self.point("stored")
                verb = "."
            wire.say(
                reply or ("221 2.0.0 bye" if verb == "QUIT" else "220 go" if verb == "STARTTLS" else "250 2.0.0 ok")
            )
            over = verb == "QUIT" or (reply or "").startswith("421")
            if over or not wire.buffer:
                await wire.flush()
            self.point(f"answered {verb}")
            if over:
                return
            if verb == "STARTTLS" and reply is None:
                assert self.tls is not None
                wire.stream = trio.SSLStream(wire.stream, self.tls, server_side=True, https_compatible=True)
                secure = True


@dataclass
class Pop3Provider(Provider):
    """`mails`: unique-id -> message. `answer(verb, argument)` may give another one-line answer than the usual one.
    What was deleted goes at QUIT, as RFC 1939 says."""

    mails: dict[str, bytes] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ("TOP", "UIDL", "RESP-CODES", "PIPELINING", "USER", "SASL PLAIN")
    answer: Callable[[str, str], str | None] = lambda verb, argument: None

    async def session(self, wire: Wire) -> None:
        listed = list(self.mails)
        deleted: list[str] = []
        self.point("connected")
        wire.say(self.answer("CONNECT", "") or "+OK POP3 ready")
        self.point("greeted")
        while True:
            line = await wire.line()
            self.commands.append(line)
            verb, _, argument = line.partition(" ")
            self.point(f"got {verb}")
            reply = self.answer(verb, argument)
            if reply == "drop":
                raise Cut
            uid = listed[int(argument.split()[0]) - 1] if verb in ("RETR", "TOP", "DELE") else ""
            if reply is not None:
                wire.say(reply)
            elif verb == "CAPA":
                self._many(wire, [*self.capabilities, *(["STLS"] if self.starttls else [])])
            elif verb == "UIDL":
                self._many(wire, [f"{i} {u}" for i, u in enumerate(listed, 1) if u not in deleted])
            elif verb == "STAT":
                there = [self.mails[u] for u in listed if u not in deleted]
                wire.say(f"+OK {len(there)} {sum(map(len, there))}")
            elif verb == "LIST" and argument:
                wire.say(f"+OK {argument} {len(self.mails[listed[int(argument) - 1]])}")
            elif verb == "LIST":
                self._many(wire, [f"{i} {len(self.mails[u])}" for i, u in enumerate(listed, 1) if u not in deleted])
            elif verb in ("RETR", "TOP"):
                data = self.mails[uid]
                if verb == "TOP":
                    head, _, body = data.partition(b"\r\n\r\n")
                    data = head + b"\r\n\r\n" + b"".join(body.splitlines(keepends=True)[: int(argument.split()[1])])
                wire.say("+OK")
                half = len(data) // 2
                stuffed = (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
                wire.out += stuffed[:half]
                await wire.flush()
                self.point("half a message")
                wire.out += stuffed[half:] + b".\r\n"
            elif verb == "DELE":
                deleted.append(uid)
                wire.say("+OK")
            elif verb == "QUIT":
                for gone in deleted:
                    del self.mails[gone]
                self.point("deleted")
                wire.say("+OK bye")
            elif verb == "AUTH":
                _, name, password = base64.b64decode(argument.split()[1]).decode().split("\0")
                wire.say("+OK" if self.login in (None, (name, password)) else "-ERR [AUTH] wrong")
            else:
                wire.say("+OK")
            if not wire.buffer or verb == "QUIT":
                await wire.flush()
            self.point(f"answered {verb}")
            if verb == "QUIT":
                return
            if verb == "STLS" and reply is None:
                assert self.tls is not None
                wire.stream = trio.SSLStream(wire.stream, self.tls, server_side=True, https_compatible=True)

    @staticmethod
    def _many(wire: Wire, lines: list[str]) -> None:
        wire.say("+OK")
        for line in lines:
            wire.say(line)
        wire.say(".")


def call_to(
    nursery: trio.Nursery, servers: dict[str, Provider | OSError], *, unbuffered: bool = False, rate: int = 9600
) -> OpenCall:
    """A call on which each host name leads to its server. `unbuffered`: a sender waits until the other side reads;
    else what is sent is taken at once."""

    async def open_stream(host: str, port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        server = servers[host]
        if isinstance(server, OSError):
            raise server
        ours, theirs = trio.testing.lockstep_stream_pair() if unbuffered else trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve, theirs)
        return ours

    return OpenCall(7, "pstn", Reason.BY_HAND, rate, open_stream)


async def run_job(
    job: Callable[[OpenCall], Awaitable[object]],
    servers: dict[str, Provider | OSError],
    *,
    cancelled: trio.Event | None = None,
    unbuffered: bool = False,
    wall_s: float = 20.0,
    rate: int = 9600,
) -> tuple[OpenCall, object]:
    """Runs a job's `run` in a call of its own; `cancelled` set: the line is gone. -> (the call, what was returned)."""
    result: object = None
    with trio.fail_after(wall_s):
        async with trio.open_nursery() as servers_nursery:
            call = call_to(servers_nursery, servers, unbuffered=unbuffered, rate=rate)
            with trio.CancelScope() as line:
                async with trio.open_nursery() as watch:
                    if cancelled is not None:

                        async def drop() -> None:
                            await cancelled.wait()
                            line.cancel()

                        watch.start_soon(drop)
                    result = await job(call)
                    watch.cancel_scope.cancel()
            servers_nursery.cancel_scope.cancel()
    return call, result
