"""A relay server for tests of the terminal's side: one port, TLS control connections and data connections, logins with
enrolment and counters, a table, connection requests between its own terminals, circuits. It speaks the protocol through
`protocol.relay` and keeps everything in dictionaries that a test may look at and change. Not a relay server's limits."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.protocol import relay
from appliance.transport.self_signed import make_self_signed

Body = Mapping[str, Any]


@dataclass(eq=False)
class Login:
    """One terminal's control connection."""

    name: str
    stream: trio.SSLStream[trio.SocketStream]
    certificate: bytes = b""
    services: list[str] = field(default_factory=list)
    sending: trio.Lock = field(default_factory=trio.Lock)
    watches: bool = False

    async def send(self, kind: str, **body: Any) -> None:
        async with self.sending:
            await self.stream.send_all(relay.encode(kind, body))

    async def cut(self) -> None:
        """As a link that breaks."""
        await trio.aclose_forcefully(self.stream)


@dataclass(eq=False)
class Circuit:
    legs: dict[str, trio.SocketStream] = field(default_factory=dict)
    both: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False)
class Call:
    caller: Login
    callee: Login
    certificate: bytes


class FakeRelay:
    """`serve` in a nursery. `accounts`: name -> password; `enrolled` and `counters` are what it has learnt. `heard` is
    every message but `ping`. `answer(login, kind, body)` may say True: then the message is dealt with."""

    def __init__(self, folder: Path, accounts: Mapping[str, str]) -> None:
        certificate, key = make_self_signed(["relay"])
        self._pem = folder / "relay.pem"
        self._pem.write_bytes(certificate + key)
        self.certificate = ssl.PEM_cert_to_DER_cert(certificate.decode())
        self.accounts = dict(accounts)
        self.enrolled: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.logins: dict[str, Login] = {}
        self.heard: list[tuple[str, str, Body]] = []
        self.entries: dict[str, dict[str, Any]] = {}
        self.tickets: dict[bytes, tuple[str, Circuit]] = {}
        self.circuits: list[Circuit] = []
        self.calls: dict[bytes, Call] = {}
        self.keepalive = 30
        self.deaf = False  # answers no ping
        self.close_silently = 0  # so many connections are closed without a byte
        self.answer: Callable[[Login, str, Body], bool] = lambda login, kind, body: False
        self.nursery: trio.Nursery | None = None
        self.port = 0
        self.host = "127.0.0.1"

    @property
    def at(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def fingerprint(self) -> str:
        return relay.fingerprint(self.certificate)

    async def serve(
        self,
        listener: trio.socket.SocketType | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """`listener`: a socket that a test has made, in a network of its own."""
        listener = listener or trio.socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind((self.host, self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        task_status.started()
        with listener:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                while True:
                    sock, _ = await listener.accept()
                    if self.close_silently:
                        self.close_silently -= 1
                        sock.close()
                        continue
                    nursery.start_soon(self._connection, trio.SocketStream(sock))

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            first = await stream.socket.recv(1, socket.MSG_PEEK)
            if first == b"\x16":
                await self._control(stream)
            elif first == b"\x00":
                await self._data(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    # ---- control connections
    async def _control(self, stream: trio.SocketStream) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._pem)
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        login: Login | None = None
        try:
            async with aclosing(frames(tls)) as messages:
                async for kind, body in messages:
                    if login is None:
                        assert kind == "hello" and body["version"] == 1 and body["role"] == "terminal", (kind, body)
                        login = Login(body["name"], tls)
                    elif kind == "ping":
                        if not self.deaf:
                            await login.send("pong")
                    elif await self._heard(login, kind, body):
                        break
        finally:
            if login is not None and self.logins.get(login.name) is login:
                del self.logins[login.name]
                self._changed(login.name)

    async def _heard(self, login: Login, kind: str, body: Body) -> bool:
        """-> whether the terminal said good-bye."""
        self.heard.append((login.name, kind, body))
        if kind == "bye":
            return True
        if self.answer(login, kind, body):
            return False
        if kind == "login":
            await self._login(login, body)
        else:
            await self._message(login, kind, body)
        return False

    def _changed(self, name: str) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._tell, name)

    async def _login(self, login: Login, body: Body) -> None:
        name, certificate, counter = login.name, body["certificate"], body["counter"]
        assert proven(certificate, body["proof"], self.certificate, name, counter)
        if self.enrolled.get(name) != certificate:
            password = body.get("password")
            if name in self.enrolled or password != self.accounts.get(name):
                await login.send("error", code="bad-login" if password else "enrol")
                return
            self.enrolled[name] = certificate
        if counter <= self.counters.get(name, 0):
            await login.send("error", code="counter", counter=self.counters[name])
            return
        self.counters[name] = counter
        old = self.logins.get(name)
        login.certificate, login.services = certificate, body["services"]
        self.logins[name] = login
        if old is not None:
            try:
                await old.send("bye", reason="replaced")
                await old.stream.transport_stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await login.send("welcome", relay="fake", keepalive=self.keepalive)
        self._changed(name)

    async def _message(self, login: Login, kind: str, body: Body) -> None:
        call = self.calls.get(body.get("id", b""))
        if kind == "list":
            login.watches = bool(body.get("watch"))
            await login.send("table", entries=self.table(), last=True)
        elif kind == "connect":
            await self._connect(login, body)
        elif kind == "accept" and call is not None:
            await self.ready(body["id"], body["certificate"])
        elif kind == "reject" and call is not None:
            said = {k: v for k, v in body.items() if k in ("reason", "text", "presence", "back_in")}
            await call.caller.send("unavailable", id=body["id"], **said)
        elif kind == "cancel" and call is not None:
            await call.callee.send("cancel", id=body["id"])

    async def _connect(self, login: Login, body: Body) -> None:
        callee = self.logins.get(body["to"])
        if callee is None:
            entry = self.entries.get(body["to"])
            said = {"reason": "not-registered"} if entry is None else {
                "reason": entry["presence"], "presence": entry["presence"], "back_in": entry.get("back_in"),
            }  # fmt: skip
            if entry is not None and body["wait"]:
                await login.send("waiting", id=body["id"], wait=body["wait"], **said)
            else:
                await login.send("unavailable", id=body["id"], **said)
            return
        self.calls[body["id"]] = Call(login, callee, login.certificate)
        await callee.send(
            "invite", **{"id": body["id"], "from": login.name}, to=body["to"], service=body["service"],
            certificate=login.certificate, path=["fake"], wait=body["wait"],
        )  # fmt: skip

    async def ready(self, id: bytes, certificate: bytes) -> None:
        """Tickets for both."""
        call, circuit = self.calls[id], Circuit()
        self.circuits.append(circuit)
        for login, other in ((call.caller, certificate), (call.callee, call.certificate)):
            ticket = os.urandom(16)
            self.tickets[ticket] = (login.name, circuit)
            await login.send("ready", id=id, ticket=ticket, certificate=other)

    def table(self) -> list[dict[str, Any]]:
        rows = {n: self.row(n) for n in self.logins}
        return [*rows.values(), *(e for n, e in self.entries.items() if n not in rows)]

    def row(self, name: str) -> dict[str, Any]:
        login = self.logins.get(name)
        if login is None:
            return {"name": name, "presence": None}
        return {
            "name": name, "presence": "online", "relay": "fake", "path": ["fake"], "age": 0, "services": login.services,
            "back_in": None,
        }  # fmt: skip

    async def _tell(self, name: str) -> None:
        for login in list(self.logins.values()):
            if login.watches:
                try:
                    await login.send("table", entries=[self.row(name)], last=True)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass

    # ---- data connections
    async def _data(self, stream: trio.SocketStream) -> None:
        decoder = relay.Decoder()
        got: list[tuple[str, Body]] = []
        while len(got) < 2:
            data = await stream.receive_some(decoder.missing)
            if not data:
                return
            decoder.feed(data)
            while (frame := decoder.next()) is not None:
                got.append(frame)
        (hello, first), (join, second) = got
        assert (hello, join, first["role"]) == ("hello", "join", "data"), got
        name, circuit = self.tickets.pop(second["ticket"], ("", Circuit()))
        if name != first["name"]:
            await stream.send_all(relay.encode("error", {"code": "bad-ticket"}))
            return
        await stream.send_all(relay.encode("joined", {}))
        circuit.legs[name] = stream
        if len(circuit.legs) < 2:
            await circuit.both.wait()
            await trio.sleep_forever()
        circuit.both.set()
        a, b = circuit.legs.values()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, a, b)
                nursery.start_soon(copy, b, a)
        finally:
            for leg in (a, b):
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(leg)


async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    while data := await source.receive_some(1 << 16):
        await sink.send_all(data)
    await sink.send_eof()


async def frames(stream: trio.abc.ReceiveStream) -> AsyncGenerator[tuple[str, Body], None]:
    decoder = relay.Decoder()
    while data := await stream.receive_some(1 << 16):
        decoder.feed(data)
        while (frame := decoder.next()) is not None:
            yield frame


def proven(certificate: bytes, proof: bytes, relay_certificate: bytes, name: str, counter: int) -> bool:
    """RELAY §2, written out once more and not shared with the product."""
    import hashlib

    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = x509.load_der_x509_certificate(certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    message = b"posthouse login 1\0" + hashlib.sha256(relay_certificate).digest()
    message += name.encode() + b"\0" + struct.pack(">Q", counter)
    try:
        key.verify(proof, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
