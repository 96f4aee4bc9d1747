"""TLS contexts and handshakes, with a deadline and an error that says what is wrong.

Server side: TLS 1.2 and later. Client side: the system's authorities or one PEM file, the host's name always
checked; a failure is a `TlsFailed` in words a person can act on.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "HANDSHAKE_S",
    "TlsFailed",
    "accept_tls",
    "client_context",
    "connect_tls",
    "server_context",
]

HANDSHAKE_S: Final = 60.0
"""A handshake's deadline: two round trips and 4 KB take 20 s on the slowest line that is served."""

Stream = trio.SSLStream[Any]


class TlsFailed(Exception):
    """A handshake that failed; the text says why."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener. Raises OSError, in words for a person, for files that are missing or do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        why = (
            error.strerror if not isinstance(error, ssl.SSLError) else (error.reason or "PEM").replace("_", " ").lower()
        )
        raise OSError(f"cannot use the certificate {certificate} with the key {key}: {why}") from error
    return context


def client_context(ca: str = "") -> ssl.SSLContext:
    """For connections out; `ca` is a PEM file, "" the system's authorities. Raises OSError or ssl.SSLError."""
    return ssl.create_default_context(cafile=ca or None)


async def accept_tls(stream: trio.abc.Stream, context: ssl.SSLContext) -> Stream:
    """The server's side of a handshake. Raises TlsFailed."""
    return await _handshake(trio.SSLStream(stream, context, server_side=True, https_compatible=True), "")


async def connect_tls(stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> Stream:
    """The client's side; `host` is checked against the certificate. Raises TlsFailed."""
    return await _handshake(trio.SSLStream(stream, context, server_hostname=host, https_compatible=True), host)


async def _handshake(tls: Stream, host: str) -> Stream:
    try:
        with trio.fail_after(HANDSHAKE_S):
            await tls.do_handshake()
    except trio.TooSlowError:
        raise TlsFailed(f"no TLS handshake within {HANDSHAKE_S:g} s") from None
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise TlsFailed(f"the certificate of {host} was refused: {cause.verify_message}") from error
        if isinstance(cause, ssl.SSLError):
            raise TlsFailed(f"TLS handshake failed: {cause.reason or cause}") from error
        raise TlsFailed("the connection ended within the TLS handshake") from error
    return tls
