"""The proof that a terminal's login carries (RELAY §1, §2): its certificate is one that may be used here, and whoever
logs in has its key. Pure.
"""

from __future__ import annotations

import hashlib
from typing import Final

from appliance.protocol.relay import login_message

__all__ = ["prove_login"]

CERTIFICATE_LIMIT: Final = 1024


def prove_login(relay: bytes, certificate: bytes, proof: bytes, name: str, counter: int) -> bytes | None:
    """SHA-256 of the certificate (DER) where it and the proof are good, else None. `relay` is our own certificate."""
    # Here and not above: 3 MB, for nothing where no terminal ever logs in.
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if len(certificate) > CERTIFICATE_LIMIT:
        return None
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        message = login_message(relay, name, counter)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(proof, message)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(proof, message, ec.ECDSA(hashes.SHA256()))
        else:
            return None
        constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        if constraints.ca:
            return None
    except x509.ExtensionNotFound:
        pass  # without the extension it is none either (RFC 5280 §4.2.1.9)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.DuplicateExtension, TypeError):
        return None
    return hashlib.sha256(certificate).digest()
