"""Self-signed certificates. `in_a_child` makes one in a process of its own, since the cryptography package would stay
in this one's memory for good (10 MB) for the sake of one certificate in years.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["in_a_child", "make_files", "make_self_signed"]

CHILD_S: Final = 120.0
"""A slow board takes 10 s to import cryptography."""
_END: Final = b"-----END CERTIFICATE-----\n"


def make_files(names: Sequence[str], certificate: Path, key: Path, write: Callable[[Path, bytes], object]) -> None:
    """A certificate for these names and its key into these files, the key first. Blocks; raises OSError."""
    names = list(dict.fromkeys(names))
    made_certificate, made_key = in_a_child(names)
    write(key, made_key)
    write(certificate, made_certificate)
    events.emit(events.CERTIFICATE_MADE, names=", ".join(names), file=certificate)


def in_a_child(names: list[str]) -> tuple[bytes, bytes]:
    """`make_self_signed` in a child process. Blocks; raises OSError."""
    argv = [sys.executable, "-m", "appliance.transport.self_signed", *names]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=CHILD_S, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"no certificate could be made: {error}") from error
    certificate, end, key = done.stdout.partition(_END)
    return certificate + end, key


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
            return x509.DNSName(name if name.isascii() else name.encode("idna").decode())

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


if __name__ == "__main__":
    sys.stdout.buffer.write(b"".join(make_self_signed(sys.argv[1:])))
