"""The submission service on loopback, and a conversation with it by hand."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing

from appliance.mail.lan.logins import Logins
from appliance.mail.lan.smtp import SmtpService
from appliance.transport.listen import Address, ClientLimits, open_listeners, serve
from appliance.transport.self_signed import make_self_signed
from appliance.transport.tls import server_context
from fakes.office import MAIL, USERS, FakeOffice

WAIT = 20.0
"""Seconds that a test waits for anything on loopback."""
LOGIN = b"AUTH PLAIN " + base64.b64encode(b"\0hanako\0pw") + b"\r\n"
ENVELOPE = b"MAIL FROM:<hanako@harbour.example>\r\nRCPT TO:<boss@far.example>\r\n"


class Client:
    """A conversation by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def reply(self) -> str:
        """The next whole reply."""
        out = ""
        with trio.fail_after(WAIT):
            while True:
                line, end, rest = self.buffer.partition(b"\r\n")
                if end:
                    self.buffer = rest
                    out += line.decode() + "\n"
                    if line[3:4] == b" ":
                        return out[:-1]
                    continue
                data = await self.stream.receive_some()
                assert data, f"closed behind {out!r}{self.buffer!r}"
                self.buffer += data

    async def say(self, data: bytes, count: int = 1) -> list[str]:
        """Sends it in one piece; -> so many replies."""
        await self.stream.send_all(data)
        return [await self.reply() for _ in range(count)]

    async def codes(self, data: bytes, count: int = 1) -> list[str]:
        """The same; of each reply its code and enhanced status code."""
        return [" ".join(re.findall(r"^\d\d\d|(?<=^\d\d\d )[245]\.\d+\.\d+", r)) for r in await self.say(data, count)]

    async def ends(self) -> bytes:
        """What comes until the server closes."""
        with trio.fail_after(WAIT):
            while data := await self.stream.receive_some():
                self.buffer += data
        return self.buffer

    async def hello(self, login: bytes = LOGIN) -> None:
        assert (await self.reply()).startswith("220 ")
        await self.say(b"EHLO pc.example\r\n" + login, 1 + bool(login))


class House:
    """A service on loopback. `start` may be called again with other options; sessions of before stay."""

    def __init__(self, root: Path, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self.office = FakeOffice(root / "state")
        self.stack, self.nursery = stack, nursery
        certificate, key = make_self_signed(["127.0.0.1"])
        (root / "cert.pem").write_bytes(certificate)
        (root / "key.pem").write_bytes(key)
        self.tls = server_context(root / "cert.pem", root / "key.pem")
        self.client_tls = ssl.create_default_context(cafile=str(root / "cert.pem"))
        self.verify: Callable[[str, str], bool] = lambda password, stored: (password, stored) == ("pw", "s")
        self.service: SmtpService
        self.port = 0

    async def start(self, *, limits: ClientLimits | None = None, implicit: bool = False, **mail: Any) -> None:
        self.office.configure(MAIL, **mail)
        logins = Logins(USERS, verify=self.verify)
        self.service = SmtpService(self.office.office, logins, self.office.mail, self.office.clock, tls=self.tls)
        listeners = await open_listeners([Address("127.0.0.1", 0)])
        self.port = listeners[0].socket.getsockname()[1]
        handler = self.service.handle_tls if implicit else self.service.handle
        limits = limits or ClientLimits(100, 100)
        await self.nursery.start(partial(serve, "smtp", listeners, handler, limits=limits, refuse=self.service.refuse))

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.stack.push_async_callback(trio.aclose_forcefully, stream)
        return Client(stream)

    async def hello(self, login: bytes = LOGIN) -> Client:
        client = await self.connect()
        await client.hello(login)
        return client

    def sent(self) -> list[bytes]:
        """The messages that wait for a call, without the fields that were put in front."""
        office = self.office.office
        return [office.path(e).read_bytes() for e in office.pending()]


@asynccontextmanager
async def smtp_house(root: Path) -> AsyncIterator[House]:
    """The house, not started yet; its committer runs."""
    (root / "state").mkdir()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        it = House(root, stack, nursery)
        await nursery.start(it.office.committer.run)
        yield it
        nursery.cancel_scope.cancel()
