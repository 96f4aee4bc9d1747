"""What differs from one family of modems to the next. Data only: the dialogue and the line are the same for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PROFILES", "Profile", "ProfileNotBuilt", "profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """`init`: the command lines that prepare a modem for dialling, where the configuration gives none."""

    name: str
    init: tuple[str, ...]


PROFILES: Final = {
    # ATZ (V.250 §6.1.1): what is stored, and on-hook. Then (§6.2.4 to §6.2.9): no echo, result codes, in words, with
    # the rate and every call progress; DCD follows the carrier (&C1) and the fall of DTR hangs up (&D2).
    "hayes": Profile("hayes", ("ATZ", "ATE0Q0V1X4&C1&D2")),
}
"""By the configuration's `profile`."""


class ProfileNotBuilt(Exception):
    """A profile that the configuration knows and this version can't dial with."""


def profile(name: str) -> Profile:
    """The profile called `name`. Raises ProfileNotBuilt."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ProfileNotBuilt(f'profile "{name}" is not built yet; built: {", ".join(PROFILES)}') from None
