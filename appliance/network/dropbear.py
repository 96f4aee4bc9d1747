"""What dropbear(8) is given, so that the administrator's password of `[console]` opens the console over ssh. Pure but
for the host key, which is random.

It runs as Posthouse's own user (posthouse-ssh.service) and so lets in that one alone, under the name that a person
types. In the place of the host's `/etc/passwd` and `/etc/shadow` it sees two of ours: `console.password` is a string
of crypt(5), scrypt's, and so stands in the latter as it is.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PORT", "USER", "files", "fingerprint", "make_host_key"]

USER: Final = "admin"
PORT: Final = 22
KEY_TYPE: Final = b"ssh-ed25519"
KEY_LENGTH: Final = 32


def files(password: str, addresses: Sequence[str], key: str, shell: str, *, uid: int, gid: int) -> Mapping[str, str]:
    """Name -> text, of the files that posthouse-ssh.service reads. `password`: the string of `console.password`; `key`:
    the host key's file; `shell`: the account's."""
    hosts = (f"[{address}]" if ":" in address else address for address in addresses)
    return {
        "passwd": f"{USER}:x:{uid}:{gid}:Administrator:/:{shell}\nroot:x:0:0:root:/:/bin/sh\n",
        "shadow": f"{USER}:{password}:::::::\nroot:*:::::::\n",
        "environment": f"KEY={key}\nLISTEN={' '.join(f'-p {host}:{PORT}' for host in hosts)}\n",
    }


def make_host_key() -> bytes:
    """A new one, Ed25519 (RFC 8709), as dropbear's files have it: its type, then the private and the public key in one
    string, each with its length before it (RFC 4251 §5)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    return _string(KEY_TYPE) + _string(private.private_bytes_raw() + private.public_key().public_bytes_raw())


def fingerprint(host_key: bytes) -> str:
    """As ssh(1) shows it at the first login, `SHA256:…`. Raises ValueError for what is no such key, or not whole."""
    begin = len(_string(KEY_TYPE)) + 4
    if host_key[:begin] != _string(KEY_TYPE) + (2 * KEY_LENGTH).to_bytes(4) or len(host_key) != begin + 2 * KEY_LENGTH:
        raise ValueError("no host key")
    digest = hashlib.sha256(_string(KEY_TYPE) + _string(host_key[-KEY_LENGTH:])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data
