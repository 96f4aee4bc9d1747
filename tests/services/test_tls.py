"""TLS: handshakes that work, those that fail with what a person can act on, and the certificate of our own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.transport import tls as module
from appliance.transport.self_signed import make_self_signed
from appliance.transport.tls import TlsFailed, accept_tls, client_context, connect_tls, server_context

WAIT = 20.0


class Files:
    """A server's certificate, self-signed unless `ca` signed it; and a PEM file that trusts it."""

    def __init__(self, folder: Path, *names: str, ca: trustme.CA | None = None) -> None:
        self.certificate, self.key, self.trust = folder / "c.pem", folder / "k.pem", folder / "ca.pem"
        if ca is None:
            certificate, key = make_self_signed(list(names))
            self.certificate.write_bytes(certificate)
            self.key.write_bytes(key)
            self.trust.write_bytes(certificate)
        else:
            leaf = ca.issue_cert(*names)
            leaf.private_key_pem.write_to_path(str(self.key))
            leaf.cert_chain_pems[0].write_to_path(str(self.certificate))
            ca.cert_pem.write_to_path(str(self.trust))


async def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> tuple[object, object]:
    """Both sides of one handshake; -> what each has: a stream or a TlsFailed."""
    ours, theirs = trio.testing.memory_stream_pair()
    out: dict[str, object] = {}

    async def side(name: str, start: Callable[[], object]) -> None:
        try:
            out[name] = await start()  # type: ignore[misc]
        except TlsFailed as failure:
            out[name] = failure
            await trio.aclose_forcefully(ours if name == "server" else theirs)

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side, "server", lambda: accept_tls(ours, server))
            nursery.start_soon(side, "client", lambda: connect_tls(theirs, client, host))
    return out["server"], out["client"]


@pytest.mark.parametrize("host", ["mail.harbour.example", "192.0.2.7", "::1"])
@pytest.mark.parametrize("signed", [True, False])
async def test_a_handshake(host: str, signed: bool, tmp_path: Path) -> None:
    files = Files(tmp_path, "mail.harbour.example", "192.0.2.7", "::1", ca=trustme.CA() if signed else None)
    context = server_context(files.certificate, files.key)
    server, client = await shake(context, client_context(str(files.trust)), host)
    assert isinstance(server, trio.SSLStream)
    assert isinstance(client, trio.SSLStream)
    await client.send_all(b"hi")
    assert await server.receive_some() == b"hi"
    await trio.aclose_forcefully(client)
    await trio.aclose_forcefully(server)


async def test_another_name(tmp_path: Path) -> None:
    files = Files(tmp_path, "mail.harbour.example")
    context = server_context(files.certificate, files.key)
    _, client = await shake(context, client_context(str(files.trust)), "smtp.isp.example")
    assert isinstance(client, TlsFailed)
    assert "the certificate of smtp.isp.example was refused: Hostname mismatch" in str(client)


async def test_nobody_vouches_for_it(tmp_path: Path) -> None:
    files = Files(tmp_path, "mail.harbour.example")
    server, client = await shake(server_context(files.certificate, files.key), client_context(), "mail.harbour.example")
    assert isinstance(client, TlsFailed)
    assert "the certificate of mail.harbour.example was refused: self-signed certificate" in str(client)
    assert isinstance(server, TlsFailed)


async def test_an_old_version(tmp_path: Path) -> None:
    files = Files(tmp_path, "a.example")
    client = client_context(str(files.trust))
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    sides = await shake(server_context(files.certificate, files.key), client, "a.example")
    assert all(isinstance(side, TlsFailed) for side in sides)


@pytest.mark.parametrize("noise", [b"EHLO pc.example\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 100, b""])
async def test_what_is_no_handshake(noise: bytes, tmp_path: Path) -> None:
    files = Files(tmp_path, "a.example")
    ours, theirs = trio.testing.memory_stream_pair()
    if noise:
        await theirs.send_all(noise)
    await theirs.send_eof()
    with trio.fail_after(WAIT), pytest.raises(TlsFailed):
        await accept_tls(ours, server_context(files.certificate, files.key))


async def test_silence(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    files = Files(tmp_path, "a.example")
    ours, _theirs = trio.testing.memory_stream_pair()
    with pytest.raises(TlsFailed, match=f"no TLS handshake within {module.HANDSHAKE_S:g} s"):
        await accept_tls(ours, server_context(files.certificate, files.key))
    with pytest.raises(TlsFailed, match="no TLS handshake"):
        await connect_tls(ours, client_context(), "a.example")


@pytest.mark.parametrize("which", ["certificate", "key"])
@pytest.mark.parametrize("what", ["missing", "garbage", "empty"])
def test_files_that_are_no_good_are_named(which: str, what: str, tmp_path: Path) -> None:
    files = Files(tmp_path, "a.example")
    path: Path = getattr(files, which)
    if what == "missing":
        path.unlink()
    else:
        path.write_text("garbage" if what == "garbage" else "")
    with pytest.raises(OSError, match=r"cannot use the certificate .*c.pem with the key .*k.pem: ") as raised:
        server_context(files.certificate, files.key)
    assert not str(raised.value).startswith("[")


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    files = Files(tmp_path, "a.example")
    files.key.write_bytes(make_self_signed(["b.example"])[1])
    with pytest.raises(OSError, match="key values mismatch"):
        server_context(files.certificate, files.key)


def test_an_authority_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client_context(str(tmp_path / "none.pem"))


def test_the_certificate_of_our_own() -> None:
    names = ["harbour.harbour.example", "localhost", "192.168.77.1", "::1", "localhost", "hafen.例え.example"]
    certificate = x509.load_pem_x509_certificate(make_self_signed(names)[0])
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = alternative.get_values_for_type(x509.DNSName)
    assert dns == ["harbour.harbour.example", "localhost", "hafen.xn--r8jz45g.example"]
    assert [str(a) for a in alternative.get_values_for_type(x509.IPAddress)] == ["192.168.77.1", "::1"]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_before_utc.year == 1970  # a board's clock may be anywhere
    assert certificate.not_valid_after_utc.year == 9999
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_a_name_of_the_greatest_length() -> None:
    name = ".".join(["a" * 60] * 4)
    certificate = x509.load_pem_x509_certificate(make_self_signed([name])[0])
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.DNSName) == [name]
