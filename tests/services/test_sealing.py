"""One end of the terminals' TLS against the other, without a socket: whole, byte at a time, and wrong in every way."""

from __future__ import annotations

import os
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.transport.sealing import CHUNK, PREFIX, Sealed, SealingError, WrongCertificate
from fakes.circuit import Key, make_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder, "pc1"), make_key(folder, "pc2"), make_key(folder, "pc3")


def pair(keys: tuple[Key, Key, Key]) -> tuple[Sealed, Sealed]:
    one, two, _ = keys
    return Sealed(one.pem, two.certificate, caller=True), Sealed(two.pem, one.certificate, caller=False)


def shake(caller: Sealed, callee: Sealed, step: int = 1 << 20) -> None:
    """Both handshakes to their ends."""
    done = [False, False]
    for _ in range(10):
        for i, (end, other) in enumerate(((caller, callee), (callee, caller))):
            done[i] = done[i] or end.handshake()
            data = end.outgoing()
            for at in range(0, len(data), step):
                other.feed(data[at : at + step])
                if step == 1 and not done[1 - i]:
                    done[1 - i] = other.handshake()
        if all(done):
            return
    raise AssertionError("no end of the handshake")


def connected(keys: tuple[Key, Key, Key]) -> tuple[Sealed, Sealed]:
    caller, callee = pair(keys)
    shake(caller, callee)
    callee.seal_go()
    caller.feed(callee.outgoing())
    assert caller.connected()
    return caller, callee


def put(end: Sealed, data: bytes) -> bytes:
    buffer = bytearray(PREFIX + CHUNK)
    buffer[PREFIX : PREFIX + len(data)] = data
    end.seal(buffer, len(data))
    return end.outgoing()


def got(end: Sealed) -> bytes:
    out = b""
    while parts := end.open():
        out += b"".join(parts)
    return out


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_the_handshake_in_pieces(keys: tuple[Key, Key, Key], step: int) -> None:
    caller, callee = pair(keys)
    shake(caller, callee, step)
    assert not caller.connected()
    callee.seal_go()
    for byte in callee.outgoing():
        caller.feed(bytes([byte]))
    assert caller.connected()


def test_both_directions_and_their_ends(keys: tuple[Key, Key, Key]) -> None:
    caller, callee = connected(keys)
    for source, sink in ((caller, callee), (callee, caller)):
        data = os.urandom(CHUNK)
        sink.feed(put(source, data) + put(source, b"x"))
        assert got(sink) == data + b"x"
        source.seal_end()
        sink.feed(source.outgoing())
        assert got(sink) == b"" and sink.ended and source.sealed_end


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(st.binary(min_size=1, max_size=40_000), max_size=6), step=st.integers(1, 20_000))
def test_any_records_in_any_pieces(keys: tuple[Key, Key, Key], records: list[bytes], step: int) -> None:
    caller, callee = connected(keys)
    data = b"".join(put(caller, r) for r in records)
    caller.seal_end()
    data += caller.outgoing()
    out = b""
    for at in range(0, len(data), step):
        callee.feed(data[at : at + step])
        out += got(callee)
    assert (out, callee.ended) == (b"".join(records), True)


def test_a_record_as_long_as_a_length_can_say(keys: tuple[Key, Key, Key]) -> None:
    """Others may send records longer than ours."""
    caller, callee = connected(keys)
    data = os.urandom(0xFFFF)
    caller._write(b"\xff\xff" + data)
    callee.feed(caller.outgoing())
    assert got(callee) == data


def test_content_behind_the_end_is_an_error(keys: tuple[Key, Key, Key]) -> None:
    caller, callee = connected(keys)
    caller._write(b"\0\0\0\x01x")
    callee.feed(caller.outgoing())
    with pytest.raises(SealingError, match="goes on after its end"):
        got(callee)


def test_another_first_byte_is_no_connection(keys: tuple[Key, Key, Key]) -> None:
    caller, callee = pair(keys)
    shake(caller, callee)
    callee._write(b"\0")
    caller.feed(callee.outgoing())
    with pytest.raises(SealingError, match="begins with the byte 0"):
        caller.connected()


def test_content_behind_the_first_byte_is_kept(keys: tuple[Key, Key, Key]) -> None:
    """The callee may send both in one record of TLS."""
    caller, callee = pair(keys)
    shake(caller, callee)
    callee._write(b"\x01\0\x03abc")
    caller.feed(callee.outgoing())
    assert caller.connected() and got(caller) == b"abc"


def test_a_close_notify_is_no_end(keys: tuple[Key, Key, Key]) -> None:
    caller, callee = connected(keys)
    data = put(caller, b"last")
    with pytest.raises(ssl.SSLWantReadError):
        caller._tls.unwrap()
    callee.feed(data + caller.outgoing())
    assert got(callee) == b"last" and not callee.ended


@pytest.mark.parametrize("impostor", ["caller", "callee"])
def test_another_certificate_is_refused(keys: tuple[Key, Key, Key], impostor: str) -> None:
    """The impostor believes the other one; who is lied to must not."""
    one, two, three = keys
    caller = Sealed((three if impostor == "caller" else one).pem, two.certificate, caller=True)
    callee = Sealed((three if impostor == "callee" else two).pem, one.certificate, caller=False)
    with pytest.raises(WrongCertificate, match="another certificate than was announced"):
        shake(caller, callee)
    # The alert reaches the impostor, who learns it only when it reads.
    refused, other = (callee, caller) if impostor == "caller" else (caller, callee)
    other.feed(refused.outgoing())
    with pytest.raises(WrongCertificate, match="does not take this terminal's certificate"):
        other.handshake()
        other.connected()
        other.open()


@pytest.mark.parametrize("alpn", [[], ["http/1.1"]])
def test_another_protocol_is_refused(
    keys: tuple[Key, Key, Key], alpn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = keys
    callee = Sealed(two.pem, one.certificate, caller=False)
    monkeypatch.setattr("appliance.transport.sealing.ALPN", alpn[0] if alpn else "x")
    caller = Sealed(one.pem, two.certificate, caller=True)
    monkeypatch.undo()
    with pytest.raises(SealingError):
        shake(caller, callee)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=2000), callee=st.booleans())
def test_garbage_is_an_error_or_waits_for_more(keys: tuple[Key, Key, Key], garbage: bytes, callee: bool) -> None:
    end = pair(keys)[callee]
    end.feed(garbage)
    try:
        assert not end.handshake()
    except SealingError:
        pass


def test_a_changed_byte_breaks_the_seal(keys: tuple[Key, Key, Key]) -> None:
    """At every place of a record."""
    data = None
    for at in range(40):
        caller, callee = connected(keys)
        data = bytearray(put(caller, b"secret"))
        if at >= len(data):
            break
        data[at] ^= 1
        callee.feed(data)
        try:
            assert got(callee) == b""  # a longer length: it waits for more, and the circuit's end is the error
        except SealingError:
            pass
    else:
        raise AssertionError("a record is longer than 40 bytes")


def test_no_tickets_are_given(keys: tuple[Key, Key, Key]) -> None:
    caller, callee = pair(keys)
    shake(caller, callee)
    assert callee.outgoing() == b"" and not caller._tls.session.has_ticket
