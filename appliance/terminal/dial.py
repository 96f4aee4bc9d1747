"""Connections to the relay server: addresses, TCP, TLS with the pinned certificate, data connections by ticket. Every
wait has its deadline; every failure is one of three: not reachable, not the one it should be, refused."""

from __future__ import annotations

import os
import random
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol import relay

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Endpoint", "JoinRefused", "Unreachable", "join", "open_control", "open_tcp"]

CONNECT_S: Final = 20.0
"""A TCP handshake over the slowest line behind a busy queue."""
TLS_S: Final = 60.0
JOIN_S: Final = 30.0
"""The ticket's own life (RELAY §5)."""
JOIN_TRIES: Final = 5
RETRY_S: Final = (0.5, 2.0)
"""RELAY §1: a connection closed without a byte passed a limit; the opener tries again after so long."""


class Unreachable(Exception):
    """No connection now; the text says why. Temporary."""


class JoinRefused(Exception):
    """The relay server does not take the ticket; the text is its code."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a relay server or a service is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """HOST:PORT or [ADDRESS]:PORT; ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not bare or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no HOST:PORT")
        return cls(bare, int(port))


async def open_tcp(to: Endpoint, within_s: float = CONNECT_S) -> trio.SocketStream:
    """Raises Unreachable."""
    try:
        with trio.fail_after(within_s):
            stream = await trio.open_tcp_stream(to.host, to.port)
    except trio.TooSlowError:
        raise Unreachable(f"{to} does not answer within {within_s:g} s") from None
    except socket.gaierror as error:
        raise Unreachable(f"the name {to.host} is not found ({error.strerror})") from error
    except OSError as error:
        raise Unreachable(f"{to}: {_reason(error)}") from error
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def _reason(error: OSError) -> str:
    """In the system's words: Trio's name Python's tuples, and give one error for all addresses that were tried."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) and cause.errno else error
    return os.strerror(found.errno) if found.errno else str(error)


async def open_control(to: Endpoint) -> tuple[trio.SSLStream[trio.SocketStream], bytes]:
    """A control connection and the certificate that it shows, DER, which the caller compares before it says anything.
    Raises Unreachable."""
    stream = await open_tcp(to)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # pinned by its fingerprint instead
    tls = trio.SSLStream(stream, context, https_compatible=True)
    try:
        with trio.fail_after(TLS_S):
            await tls.do_handshake()
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise Unreachable(f"{to} does not answer the TLS handshake within {TLS_S:g} s") from None
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        why = error.__cause__
        said = (why.reason or "TLS").replace("_", " ").lower() if isinstance(why, ssl.SSLError) else "it closed"
        raise Unreachable(f"{to} does not speak TLS 1.3 as a relay server does: {said}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls, tls.getpeercert(binary_form=True) or b""


async def join(to: Endpoint, name: str, ticket: bytes) -> trio.socket.SocketType:
    """A data connection, joined: from now on it is the circuit. Raises Unreachable, JoinRefused."""
    hello = relay.encode("hello", {"version": relay.VERSION, "role": "data", "name": name})
    opening = hello + relay.encode("join", {"ticket": ticket})
    for attempt in range(JOIN_TRIES):
        if attempt:
            await trio.sleep(random.uniform(*RETRY_S))
        stream = await open_tcp(to)
        try:
            with trio.fail_after(JOIN_S):
                await stream.send_all(opening)
                answer = await _one_frame(stream)
        except trio.BrokenResourceError:
            answer = None  # what we had sent by then makes a reset of its closing
        except trio.TooSlowError:
            await trio.aclose_forcefully(stream)
            raise Unreachable(f"{to} does not answer on the data connection within {JOIN_S:g} s") from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if answer is not None:
            break
        await trio.aclose_forcefully(stream)
    else:
        raise Unreachable(f"{to} closed the data connection {JOIN_TRIES} times: it has too many")
    kind, body = answer
    if kind != "joined":
        await trio.aclose_forcefully(stream)
        raise JoinRefused(str(body.get("code") or kind))
    return stream.socket


async def _one_frame(stream: trio.SocketStream) -> tuple[str, Mapping[str, Any]] | None:
    """Exactly one frame and not a byte more, for what follows is another's; None where it was closed instead."""
    decoder = relay.Decoder()
    while (frame := decoder.next()) is None:
        data = await stream.receive_some(decoder.missing)
        if not data:
            return None
        decoder.feed(data)
    return frame
