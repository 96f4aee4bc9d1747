"""Who rings: what modems of many makers say, and numbers that mean the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.at import AtChannel, Unsolicited
from appliance.protocol.caller_id import caller, is_ring, same_number

HEARD = [
    # 3GPP TS 27.007 §7.11 and its users' manuals: SIMCom SIM800 AT command manual +CLIP, Quectel M95 §4.4, u-blox SARA +CLIP
    (b'\r\nRING\r\n\r\n+CLIP: "02152063113",128,"",0,"",0\r\n', "02152063113"),
    (b'\r\n+CRING: VOICE\r\n\r\n+CLIP: "+391234567890",145,"",,"",0\r\n', "+391234567890"),
    (b'\r\n+CLIP: "",128,"",0,"",1\r\n', ""),  # withheld
    # Conexant and Rockwell, AT#CID=1 and AT+VCID=1, formatted (Conexant CX93001 command reference, "Caller ID")
    (b"\r\nRING\r\n\r\nDATE = 0321\r\n\r\nTIME = 1405\r\n\r\nNMBR = 5045551234\r\n\r\nNAME = DOE JOE\r\n\r\nRING\r\n", "5045551234"),
    (b"\r\nDATE=0321\r\nTIME=1405\r\nNMBR=0312345678\r\n", "0312345678"),
    (b"\r\nNMBR = P\r\n", ""),  # private
    (b"\r\nNMBR = O\r\n", ""),  # out of area
    (b"\r\nNAME = 5551234 LTD\r\n", ""),
    # ZyXEL U-336 and Omni.net manuals
    (b"\r\nRING\r\nTIME: 08-05 15:39\r\nCALLER NUMBER: 5783942\r\n", "5783942"),
    (b"\r\nRING\r\nFM:5783942 TO:5553333\r\n", "5783942"),
    # ELSA MicroLink ISDN manual
    (b"\r\nRING;0241606123\r\n", "0241606123"),
    # a modem told V0 rings with 2
    (b"2\r", ""),
    (b"\r\nNO CARRIER\r\n", ""),
    (b'\r\n+CLIP: "' + b"1" * 40 + b'"\r\n', ""),
]  # fmt: skip


def heard(pieces: list[bytes]) -> list[str]:
    channel = AtChannel(carries_data=False)
    return [e.text for piece in pieces for e in channel.receive_data(piece) if isinstance(e, Unsolicited)]


@pytest.mark.parametrize(("said", "number"), HEARD, ids=[repr(s) for s, _ in HEARD])
def test_who_rings_split_at_every_byte(said: bytes, number: str) -> None:
    for at in range(len(said) + 1):
        lines = heard([said[:at], said[at:]])
        assert [c for c in map(caller, lines) if c] == ([number] if number else [])
    assert heard([bytes([b]) for b in said]) == heard([said])


@pytest.mark.parametrize("text", ["RING", "RING 1", "+CRING: VOICE", "RING;0241606123", "ring", "2"])
def test_it_rings(text: str) -> None:
    assert is_ring(text)


@pytest.mark.parametrize("text", ["RINGING", "NMBR = 1234567", "OK", "+CLIP: 1", "22", ""])
def test_it_does_not_ring(text: str) -> None:
    assert not is_ring(text)


SAME = [
    ("+81 3 1234 5678", "0312345678"), ("0081312345678", "03-1234-5678"), ("+49 (241) 606123", "0241606123"),
    ("0241606123", "0241606123"), ("117", "117"), ("+39 06 1234567", "061234567"),
]  # fmt: skip
OTHERS = [
    ("0312345678", "0312345679"), ("117", "118"), ("117", "0312345117"), ("", ""), ("", "0312345678"),
    ("+81312345678", "+82312345678"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_number(one: str, other: str) -> None:
    assert same_number(one, other)
    assert same_number(other, one)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_number(one: str, other: str) -> None:
    assert not same_number(one, other)
    assert not same_number(other, one)


@given(st.text(max_size=80))
def test_whatever_a_modem_says(text: str) -> None:
    number = caller(text)
    assert len(number) <= 32
    assert not number or (any(c.isdigit() for c in number) and set(number) <= set("+*#0123456789 ().-/"))
