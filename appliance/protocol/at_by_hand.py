"""Which command lines a person may give a modem by hand, between calls. SANS-IO.

A command line is a row of commands in one body (V.250 §5.2): `ATI;D123` dials too. So the body is taken apart. What
would go off-hook, answer, or send something over a network is refused: a call is Posthouse's to make, to pay and to
count. What else a modem can be told is the person's to know.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["why_not"]

_LINE: Final = re.compile(r"\s*AT(.*)", re.IGNORECASE | re.DOTALL)
_EXTENDED: Final = re.compile(r"""[+*^$%#_!-][A-Za-z][A-Za-z0-9+-]*(?:[^;"]|"[^"]*")*;?""")
_BASIC: Final = re.compile(r"\s*(?:S\d*(?:=\d*|\?)?|[&\\%:]?([A-Z])\s*\d*(?:=\d*|\?)?)\s*;?", re.IGNORECASE)
_CALLS: Final = {"D": "dials", "A": "answers a call", "O": "goes back into a call"}
_SENDS: Final = re.compile(
    r"\+(CMG[SWC]|CMSS|CGDATA|CGACT=1|CGANS|CUSD=1|SBD(I|D|IX|REG)|FCLASS=[12]|CHUP|CRSL)|[\^$#]\S*(DIAL|DUP|CALL|QMI)"
    r"|\+QIACT|\+NETOPEN|\+CIP|[#^$]SGACT",
    re.IGNORECASE,
)
"""3GPP 27.005 (messages), 27.007 (packet data, USSD), Iridium's short bursts, and makers' own ways to the network."""


def why_not(line: str) -> str:
    """Why this line is refused, "" where it is not."""
    m = _LINE.fullmatch(line)
    if m is None:
        return "a command line begins with AT"
    body = m[1].strip()
    while body:
        if found := _EXTENDED.match(body):
            if _SENDS.match(found[0]):
                return f"{found[0].rstrip(';')} sends something or opens a connection: that is for a call"
        elif found := _BASIC.match(body):
            letter = (found[1] or "").upper()
            if letter in _CALLS and not found[0].lstrip().startswith(("&", "\\", "%", ":")):
                return f"AT{letter} {_CALLS[letter]}: use `dial`"
        if found is None or not found[0]:
            return f"{body[:20]!r} is no command that is known here, so nobody knows what it costs"
        body = body[found.end() :].lstrip()
    return ""
