"""TLS contexts and handshakes, with a deadline and an error that says what is wrong.

Server side: TLS 1.2 and later. Client side: the system's authorities or one PEM file, the host's name always
checked; a failure is a `TlsFailed` in words a person can act on.

`ClientSessions` keeps each server's last session in memory. A handshake that resumes it (RFC 8446 §2.2, RFC 5077)
carries no certificates: 1.1 KB instead of 3.3 KB, on a line of 300 bytes/s 4 s instead of 11. A session is of the
server and the authority that it was verified with, and of no other; where the server does not know it any more the
handshake is a whole one.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import trio

__all__ = [
    "HANDSHAKE_S",
    "ClientSessions",
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


async def connect_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, host: str, *, session: ssl.SSLSession | None = None
) -> Stream:
    """The client's side; `host` is checked against the certificate. `session`: one of this context's, to be resumed.
    Raises TlsFailed."""
    made = context if session is None else _Resuming(context, session)
    return await _handshake(trio.SSLStream(stream, made, server_hostname=host, https_compatible=True), host)  # type: ignore[arg-type]


class _Resuming:
    """Stands for a context towards trio.SSLStream, which has no parameter for a session."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        self._context, self._session = context, session

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, session=self._session, **options)


class ClientSessions:
    """One for the life of a process, for every connection out."""

    def __init__(self) -> None:
        self._contexts: dict[str, tuple[object, ssl.SSLContext]] = {}
        self._sessions: dict[tuple[str, str, int], tuple[ssl.SSLContext, ssl.SSLSession]] = {}

    async def connect(self, stream: trio.abc.Stream, ca: str, host: str, port: int) -> Stream:
        """As `connect_tls`, resuming what is known of this server. Raises TlsFailed, OSError or ssl.SSLError."""
        context = await trio.to_thread.run_sync(self._context, ca)  # the system's authorities take a board 0.1 s
        known = self._sessions.pop((ca, host, port), None)
        session = known[1] if known is not None and known[0] is context else None
        return await connect_tls(stream, context, host, session=session)

    def _context(self, ca: str) -> ssl.SSLContext:
        """The one of this file, as long as it is the same: a session belongs to its context."""
        status = Path(ca).stat() if ca else None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None
        known = self._contexts.get(ca)
        if known is None or known[0] != stamp:
            known = self._contexts[ca] = (stamp, client_context(ca))
        return known[1]

    def keep(self, stream: Stream, ca: str, host: str, port: int) -> None:
        """Remembers the session of a connection that is about to be closed: TLS 1.3's tickets come at any time."""
        try:
            session = stream.session
        except trio.NeedHandshakeError:
            return
        known = self._contexts.get(ca)
        if session is not None and known is not None and (session.has_ticket or session.id):
            self._sessions[ca, host, port] = (known[1], session)


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
