"""A terminal for tests of the relay server: says what it is told to, in frames or in bytes, and keeps what it hears."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any, Self

import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.protocol import relay
from appliance.transport.self_signed import make_self_signed

Frame = tuple[str, dict[str, Any]]


class Key:
    """A certificate and its key, made in memory."""

    def __init__(self, *names: str) -> None:
        pem, key = make_self_signed(list(names))
        self.pem = pem + key
        self.der = ssl.PEM_cert_to_DER_cert(pem.decode())
        self.fingerprint = hashlib.sha256(self.der).digest()
        self._private = serialization.load_pem_private_key(key, None)

    def prove(self, relay_der: bytes, name: str, counter: int) -> bytes:
        assert isinstance(self._private, ec.EllipticCurvePrivateKey)
        return self._private.sign(relay.login_message(relay_der, name, counter), ec.ECDSA(hashes.SHA256()))

    def file(self) -> Path:
        fd, name = tempfile.mkstemp(suffix=".pem")
        with os.fdopen(fd, "wb") as f:
            f.write(self.pem)
        return Path(name)


class Client:
    """A control connection. `relay_der` is the certificate that the relay server showed."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], name: str) -> None:
        self.stream = stream
        self.name = name
        self.relay_der = stream.getpeercert(binary_form=True) or b""
        self._decoder = relay.Decoder(65536)

    @classmethod
    async def dial(
        cls, port: int, name: str, *, role: str | None = "terminal", host: str = "127.0.0.1", server: str = "127.0.0.1"
    ) -> Self:
        """`host`: our own address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = trio.SSLStream(await trio.open_tcp_stream(server, port, local_address=host), context)
        await stream.do_handshake()
        client = cls(stream, name)
        if role is not None:
            await client.send("hello", version=1, role=role, name=name)
        return client

    async def send(self, kind: str, **body: Any) -> None:
        await self.stream.send_all(relay.encode(kind, body))

    async def receive(self) -> Frame | None:
        """The next frame; None at the end."""
        while (frame := self._decoder.next()) is None:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, ssl.SSLError):
                return None
            if not data:
                return None
            self._decoder.feed(data)
        return frame[0], dict(frame[1])

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next frame of that type; pings are answered, `table`s passed over."""
        while True:
            frame = await self.receive()
            assert frame is not None, f"the connection ended before {kind}"
            if frame[0] == "ping":
                await self.send("pong")
            elif frame[0] == kind:
                return frame[1]
            else:
                assert frame[0] == "table", f"{frame} where {kind} was due"

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of that type; others are passed over."""
        while (frame := await self.receive()) is not None:
            if frame[0] == kind:
                return frame[1]
        raise AssertionError(f"the connection ended before {kind}")

    async def log_in(
        self, key: Key, counter: int, *, services: list[str] | None = None, password: str | None = None
    ) -> Frame | None:
        await self.send_login(key, counter, services=services, password=password)
        return await self.receive()

    async def send_login(
        self, key: Key, counter: int, *, services: list[str] | None = None, password: str | None = None, **other: Any
    ) -> None:
        body: dict[str, Any] = {
            "certificate": key.der,
            "counter": counter,
            "services": services or [],
            "proof": key.prove(self.relay_der, self.name, counter),
        }
        if password is not None:
            body["password"] = password
        await self.send("login", **{**body, **other})

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)


class PeerClient(Client):
    """A relay server that says what it is told to: a link to the one under test, which it has opened. `had`: what that
    one has, owner -> [epoch, seq]."""

    had: dict[str, list[int]]

    @classmethod
    async def link(
        cls, port: int, me: str, them: str, *, host: str = "127.0.0.1", server: str = "127.0.0.1", **told: Any
    ) -> PeerClient:
        """It is up; `told` goes into `peer`. The secret is 32 bytes of 0."""
        peer = await cls.dial(port, me, role="relay", host=host, server=server)
        nonce = os.urandom(16)
        proof = relay.peer_proof(bytes(32), "posthouse peer 1", me, them, peer.relay_der, nonce)
        await peer.send("peer", **{"nonce": nonce, "proof": proof, "keepalive": 30, "stays": 0, **told})
        welcome = await peer.expect("welcome")
        assert welcome["relay"] == them
        want = relay.peer_proof(bytes(32), "posthouse welcome 1", me, them, peer.relay_der, nonce)
        assert welcome["proof"] == want
        peer.had = (await peer.expect("have"))["have"]
        return peer

    async def begin(self, have: dict[str, list[int]] | None = None) -> None:
        """What each side says first."""
        await self.send("have", have=have or {})
        await self.route(self.name, [self.name])

    async def route(self, owner: str, path: list[str], state: str = "up", **more: Any) -> None:
        await self.send("route", owner=owner, path=path, state=state, age=0, **more)

    async def update(self, owner: str, *entries: list[Any], epoch: int = 1, base: int = 0, last: bool = True) -> None:
        seq = entries[-1][1] if entries else base
        await self.send("update", owner=owner, epoch=epoch, base=base, seq=seq, last=last, entries=list(entries))


async def join(port: int, name: str, ticket: bytes, behind: bytes = b"") -> trio.SocketStream:
    """A data connection, joined."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    hello = relay.encode("hello", {"version": 1, "role": "data", "name": name})
    await stream.send_all(hello + relay.encode("join", {"ticket": ticket}) + behind)
    want = relay.encode("joined", {})
    got = b""
    while len(got) < len(want) and (part := await stream.receive_some(len(want) - len(got))):
        got += part
    if got != want:
        await stream.aclose()
        raise AssertionError(f"join answered with {got!r}")
    return stream
