"""How the names of relay servers, terminals, devices and services are written (RELAY §1): the one place for it, for
frames as for the configuration, the command line and the console."""

from __future__ import annotations

import re
from typing import Final, TypeGuard

__all__ = ["FORM", "HOW", "is_name", "no_name"]

FORM: Final = r"[a-z0-9.-]{1,63}"
HOW: Final = "1 to 63 of a-z 0-9 - ."
_NAME: Final = re.compile(FORM)


def is_name(value: object) -> TypeGuard[str]:
    """Whether a terminal or a relay server can be called so."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def no_name(value: object) -> str:
    """What is wrong with what is none, in one sentence."""
    return f"{value!r} is no name: a name is {HOW}"
