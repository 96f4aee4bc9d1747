"""What somebody says who wants to steer the terminal of whoever looks: escape sequences of 7 and of 8 bits, one that fills the
clipboard (OSC 52), and characters that turn the writing round.
"""

from __future__ import annotations

import re
import unicodedata

STEERS = "\x1b]52;c;b3duZWQ=\x07\x1b[2J\x9b31m\x85\x90q\x9c\u202egnp\u2066\u200b\x08\x0c"
SAYS = f"owned{STEERS}here"
"""In what is shown the words on both sides of it stand for it: it has come that far."""
SEEN = re.compile(r"owned.+here")


def steering(text: str) -> list[str]:
    """What a terminal would obey in it, or show turned round or not at all."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c not in "\r\n"]
