"""Who rings, from what a modem says on its own between two rings. SANS-IO.

| form | whose |
|---|---|
| `+CLIP: "+81312345678",145,…` | 3GPP TS 27.007 §7.11 |
| `NMBR = 0312345678`, `NMBR=0312345678` | ITU-T V.253 (+VCID=1); AT#CID=1 of Rockwell and Conexant |
| `CALLER NUMBER: 0312345678` | ZyXEL |
| `FM:0312345678 TO:…` | ZyXEL's ISDN adapters |
| `RING;0312345678`, `RING FROM 0312345678` | ELSA's and Japanese ISDN adapters |

A number that is kept back (`NMBR = P`, `O`, an empty +CLIP) is none.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["caller", "is_ring", "same_number"]

MAX_NUMBER: Final = 32
"""Characters of a number: E.164 has 15 digits, a prefix and a sub-address on top."""
SIGNIFICANT: Final = 7
"""So many last digits tell two numbers apart: less is a short number, which must be the same in full."""

_NUMBER: Final = r"([+*#0-9][0-9 ().*#/-]*)"
_FORMS: Final = (
    re.compile(rf'\+CLIP: ?"{_NUMBER}"'),
    re.compile(rf"NMBR ?= ?{_NUMBER}"),
    re.compile(rf"CALLER NUMBER ?: ?{_NUMBER}"),
    re.compile(rf"FM ?: ?{_NUMBER}"),
    re.compile(rf"RING(?: FROM |[;,] ?){_NUMBER}"),
)
_RING: Final = re.compile(r"RING\b|RING;|\+CRING:|2$")


def is_ring(text: str) -> bool:
    """Whether a line says that it rings now (numeric: 2, V.250 table 1)."""
    return _RING.match(text.upper()) is not None


def caller(text: str) -> str:
    """The number that a line tells, "" where it tells none."""
    for form in _FORMS:
        found = form.match(text.upper())
        if found is not None and len(found[1]) <= MAX_NUMBER and (re.search("[0-9]", found[1])):
            return found[1].strip()
    return ""


def same_number(one: str, other: str) -> bool:
    """Whether two ways to write a number mean the same: with and without the country's prefix (`+81 3…`, `0081 3…`,
    `03…`), spaces and brackets aside."""
    a, b = sorted((_digits(one), _digits(other)), key=len)
    if len(a) < SIGNIFICANT:
        return bool(a) and re.sub("[^0-9]", "", one) == re.sub("[^0-9]", "", other)
    return b.endswith(a)


def _digits(number: str) -> str:
    """Without the national or international prefix."""
    return re.sub("[^0-9]", "", number).lstrip("0")
