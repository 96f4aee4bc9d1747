"""Fields of the relay server's messages as what they should be, and as nothing where they are something else: a message
that is odd must not stop a login."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["number", "octets", "text", "texts"]


def octets(body: Mapping[str, Any], key: str) -> bytes:
    value = body.get(key)
    return value if isinstance(value, bytes) else b""


def text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""


def texts(body: Mapping[str, Any], key: str) -> list[str]:
    value = body.get(key)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def number(body: Mapping[str, Any], key: str) -> float | None:
    """None also for what is no time: infinite, or none at all."""
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
