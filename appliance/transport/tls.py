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
    "make_self_signed",
    "server_context",
]

HANDSHAKE_S: Final = 60.0
"""A handshake's deadline: two round trips and 4 KB take 20 s on the slowest line that is served."""

Stream = trio.SSLStream[Any]


class TlsFailed(Exception):
    """A handshake that failed; the text says why."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener. Raises OSError or ssl.SSLError for files that are missing or do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
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


def make_self_signed(names: list[str]) -> tuple[bytes, bytes]:
    """A self-signed P-256 certificate for these names and addresses, and its key, both PEM.

    Valid from 1970 to 9999: a board's clock may be anywhere. CA:FALSE, so that pinning it pins it alone.
    """
    import ipaddress
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(1970, 1, 1))  # noqa: DTZ001 - x509 takes naive UTC
        .not_valid_after(datetime(9999, 12, 31))  # noqa: DTZ001
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([general(n) for n in dict.fromkeys(names)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
