"""`clean`: the one way by which a text from outside (modem, caller ID, SMTP, DNS, a peer, a name that somebody chose)
reaches a terminal, the journal, a mail or a page.

What moves a cursor, starts an escape sequence, turns the writing around or can't be seen stands there as U+FFFD, one
for each character: it shows that something was there, and can't do anything.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["FIELD_LIMIT", "clean", "fit_to_show"]

FIELD_LIMIT: Final = 500
"""Characters of one field that reach the journal: a reply line of SMTP is at most 512 bytes (RFC 5321 §4.5.3.1.5)."""

INSTEAD: Final = "\N{REPLACEMENT CHARACTER}"

_BANNED: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Control (C0, C1: escape sequences), format (bidirectional marks, zero-width ones, tags), surrogates, private use,
unassigned, line and paragraph separators (Unicode, chapter 4.5)."""

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""What Default_Ignorable_Code_Point has beyond those: fillers, variation selectors; letters and marks by category and
yet of no width (Unicode, DerivedCoreProperties.txt)."""


def clean(value: object, limit: int = FIELD_LIMIT) -> str:
    """`value` as one line of text that shows everything it has, at most `limit` characters long; what was cut off shows
    as `…`. Bytes are taken for UTF-8. Cleaning twice changes nothing more."""
    text = value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if fit_to_show(c) else INSTEAD for c in text)


def fit_to_show(character: str) -> bool:
    """Whether a terminal may be sent this character as it is."""
    return unicodedata.category(character) not in _BANNED and _UNSEEN.match(character) is None
