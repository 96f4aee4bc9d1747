"""The certificates of this relay server and of its devices: self-signed, made once, in keys/ (RELAY §1)."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance import events
from appliance.transport import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.storage.disk import Disk

__all__ = ["Identity", "device_identity", "own_identity", "server_context"]

_END: Final = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Identity:
    """`certificate` and `key` are PEM files; `der` is the certificate's bytes."""

    certificate: Path
    key: Path
    der: bytes

    @property
    def digest(self) -> bytes:
        """As the wire has it."""
        return hashlib.sha256(self.der).digest()

    @property
    def fingerprint(self) -> str:
        """As configurations and terminals pin it."""
        return "sha256:" + hashlib.sha256(self.der).hexdigest()


def own_identity(disk: Disk, keys: Path, name: str, subject: str) -> Identity:
    """`keys/NAME.pem` and `keys/NAME.key`, made where they are not there. Blocks; raises OSError."""
    certificate, key = keys / f"{name}.pem", keys / f"{name}.key"
    if not (certificate.exists() and key.exists()):
        self_signed.make_files([subject], certificate, key, disk.replace_file)
    return Identity(certificate, key, _der(certificate, certificate.read_text(encoding="ascii")))


def device_identity(disk: Disk, keys: Path, name: str) -> Identity:
    """A device's: one file has both, as who ends its circuits wants it. Blocks; raises OSError."""
    both = keys / f"device-{name}.pem"
    if not both.exists():
        certificate, key = self_signed.in_a_child([name])
        disk.replace_file(both, certificate + key)
        events.emit(events.CERTIFICATE_MADE, names=name, file=both)
    text = both.read_text(encoding="ascii")
    return Identity(both, both, _der(both, text[: text.find(_END) + len(_END)]))


def _der(file: Path, pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError as error:
        raise OSError(f"cannot use the certificate {file}: {error}") from error


class _Socket(ssl.SSLSocket):
    """With what the standard library keeps of each in slots: as a dict it takes 340 bytes of the 16 KB of a login."""

    __slots__ = (
        "_connected", "_context", "_session", "_sslobj", "do_handshake_on_connect", "server_hostname", "server_side",
        "suppress_ragged_eofs",
    )  # fmt: skip


def server_context(identity: Identity) -> ssl.SSLContext:
    """For control connections: TLS 1.3 alone. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = _Socket
    # Nobody resumes: they would cost half a kilobyte of a metered line at each login, and memory as long as it lasts.
    context.num_tickets = 0
    try:
        context.load_cert_chain(identity.certificate, identity.key)
    except ssl.SSLError as error:
        raise OSError(f"cannot use the certificate {identity.certificate}: {error.reason or 'PEM'}") from error
    return context
