"""The terminals' own TLS inside a circuit, end to end (RELAY §6). Owns one end's TLS state and the records in it; knows
no socket: bytes of the circuit go in with `feed`, come out with `outgoing`.

    caller                     callee
    TLS client, handshake  <-> TLS server, handshake      each knows the other's certificate and takes that one alone
                           <-  0x01                       the service is connected: only now is the caller
    records                <-> records                    2-byte big-endian length, bytes
    length 0               <-> length 0                   the end of that direction; TCP's end without it is an error

`SSLObject.unwrap()` is never called: as a half-close it loses what the other side has in flight. A close_notify that
comes is neither an end nor an error.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ALPN", "CHUNK", "PREFIX", "Sealed", "SealingError", "WrongCertificate"]

ALPN: Final = "posthouse/1"
PREFIX: Final = 2
"""Bytes of a record's length."""
CHUNK: Final = 4 * 16384 - PREFIX
"""Bytes of a full record: with its length it fills four records of TLS, which have 16 KiB each (RFC 8446 §5.1)."""
READ_BYTES: Final = 256 * 1024
"""Of the circuit at once: what `open` can return beyond it is what a record of TLS is cut in two by."""
CONNECTED: Final = 1


class SealingError(Exception):
    """The other end, or whoever is between, broke the seal: this circuit is of no more use."""


class WrongCertificate(SealingError):
    """The other end has another certificate than was said, or takes ours for another."""


def context(own: Path, other: bytes, *, caller: bool) -> ssl.SSLContext:
    """TLS 1.3, with `own` (PEM: certificate and key) and the certificate `other` (DER) as the only one to be taken.
    Raises OSError for the file, SealingError where `other` is no certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if caller else ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    # Without it OpenSSL looks for the issuer's issuer of a certificate that is no authority.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.set_alpn_protocols([ALPN])
    if not caller:
        made.num_tickets = 0
    made.load_cert_chain(own)
    try:
        made.load_verify_locations(cadata=other)
    except (ssl.SSLError, ValueError) as error:
        raise SealingError("the other terminal's certificate is none") from error
    return made


class Sealed:
    """One end. Not for two threads at once; two tasks may, one that seals and one that opens.

    `ended`: the other end's direction is over. `sealed_end`: ours is.
    """

    def __init__(self, own: Path, other: bytes, *, caller: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._other = other
        made = context(own, other, caller=caller)
        self._tls = made.wrap_bio(self._incoming, self._outgoing, server_side=not caller)
        self._plain = bytearray(READ_BYTES)
        self._waits_for_go = caller
        self._header = b""
        self._left = 0  # of the record that is being read
        self._closed = False
        self.ended = False
        self.sealed_end = False

    # ---- the circuit's side
    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """What the circuit brought."""
        self._incoming.write(data)

    def outgoing(self) -> bytes:
        """What is to go into the circuit now, in this order."""
        return self._outgoing.read()

    # ---- the beginning
    def handshake(self) -> bool:
        """Goes on with the handshake; -> whether it is done. `outgoing` may have something either way, also after an
        error: the alert that tells the other end. Raises SealingError, WrongCertificate."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise WrongCertificate("the other terminal shows another certificate than was announced") from error
        except ssl.SSLError as error:
            raise _said_by_tls(error) from error
        if self._tls.getpeercert(binary_form=True) != self._other:
            raise WrongCertificate("the other terminal shows another certificate than was announced")
        if self._tls.selected_alpn_protocol() != ALPN:
            raise SealingError("the other terminal speaks another protocol")
        return True

    def seal_go(self) -> None:
        """The callee: the service is connected."""
        self._write(bytes([CONNECTED]))

    def connected(self) -> bool:
        """The caller: whether the callee has said so. Raises SealingError."""
        if self._waits_for_go:
            byte = self._read_at_most(1)
            if byte is None:
                return False
            if byte[0] != CONNECTED:
                raise SealingError(f"the other terminal begins with the byte {byte[0]}")
            self._waits_for_go = False
        return True

    # ---- records
    def seal(self, buffer: bytearray, n: int) -> None:
        """One record: the `n` bytes (1 to CHUNK) of `buffer` behind its first PREFIX, which are overwritten. So nothing
        is copied on the way into TLS."""
        buffer[:PREFIX] = n.to_bytes(PREFIX, "big")
        with memoryview(buffer) as view:
            self._write(view[: PREFIX + n])

    def seal_end(self) -> None:
        """The end of this direction."""
        self.sealed_end = True
        self._write(bytes(PREFIX))

    def open(self) -> list[memoryview]:
        """The contents that are there, up to READ_BYTES; good until the next call. Call again until it gives none.
        Raises SealingError."""
        have = 0
        whole = memoryview(self._plain)
        while have < READ_BYTES:
            n = self._read(whole[have:])
            if n == 0:
                break
            have += n
        return self._contents(whole[:have])

    def _contents(self, plain: memoryview) -> list[memoryview]:
        out: list[memoryview] = []
        at, end = 0, len(plain)
        while at < end:
            if self.ended:
                raise SealingError("the other terminal goes on after its end")
            if self._left:
                part = plain[at : at + self._left]
                out.append(part)
                self._left -= len(part)
                at += len(part)
                continue
            need = PREFIX - len(self._header)
            self._header += plain[at : at + need]
            at += need
            if len(self._header) == PREFIX:
                self._left = int.from_bytes(self._header, "big")
                self._header = b""
                self.ended = self._left == 0
        return out

    # ---- TLS
    def _read_at_most(self, n: int) -> bytes | None:
        try:
            return self._tls.read(n) or None
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            raise SealingError("the other terminal closed the circuit") from None
        except ssl.SSLError as error:
            raise _said_by_tls(error) from error

    def _read(self, into: memoryview) -> int:
        """Bytes of TLS's next record into that; 0 where none is whole."""
        if self._closed:
            return 0
        try:
            n = int(self._tls.read(len(into), into))
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLZeroReturnError:
            n = 0
        except ssl.SSLError as error:
            raise _said_by_tls(error) from error
        self._closed = n == 0  # by a close_notify, behind which nothing comes
        return n

    def _write(self, data: bytes | memoryview) -> None:
        try:
            # Memory takes everything: there is no 'would block'.
            self._tls.write(data)
        except ssl.SSLError as error:
            raise _said_by_tls(error) from error


def _said_by_tls(error: ssl.SSLError) -> SealingError:
    reason = error.reason or ""
    # The alerts by which the other end refuses our certificate (RFC 8446 §6.2).
    if any(word in reason for word in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_REQUIRED")):
        return WrongCertificate("the other terminal does not take this terminal's certificate")
    return SealingError(f"TLS: {(reason or str(error)).replace('_', ' ').lower()}")
