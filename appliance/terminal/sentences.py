"""What a person at a terminal reads: why there is no connection and when there may be one, and the exit code that goes
with it (DESIGN §6). Text from the relay server or another terminal is cleaned on its way."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAILED", "OK", "UNREACHABLE", "USAGE", "back", "code_of", "refusal", "row", "size", "span", "waiting"]

OK, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
TEXT_LIMIT: Final = 200
FINAL: Final = frozenset({"forbidden", "no-service", "rejected", "certificate-changed", "not-registered"})
"""What does not become better by itself: exit code 1. Every other reason: 3."""

_REASONS: Final = {
    "not-registered": "no terminal of the name {to} is known",
    "offline": "{to} is offline: it is not logged in",
    "suspended": "{to} is suspended: a line on the way to it is down by plan",
    "lost": "{to} is lost: the connection to it broke off and has not come back",
    "expired": "{to} has not been heard of for so long that it is taken as gone",
    "forbidden": "calling {to} is forbidden here or there",
    "no-service": "{to} offers no service {service}",
    "rejected": "{to} rejected the call",
    "timeout": "{to} did not answer",
    "cancelled": "the call was cancelled",
    "line-budget": "the line to {to} has no budget left",
    "loop": "the relay servers found no way to {to} that does not go in a circle",
    "no-circuit": "{to} accepted, but the circuit to it was not made in time",
    "duplicate-id": "the relay server took this call for another one",
    "too-many": "too many calls or circuits at once",
    "no-relay": "no login at the relay server just now",
    "certificate-changed": "{to} or this terminal has another certificate than the other one has met before",
}

_TOLD: Final = {"offline": "{to} is offline", "no-relay": _REASONS["no-relay"]}
"""What is said with these is no word of the other terminal: a relay server's of a device, or ours of the login."""


def code_of(reason: str) -> int:
    """connect's exit code for a reason of RELAY §5."""
    return FAILED if reason in FINAL else UNREACHABLE


def refusal(to: str, service: str, said: Mapping[str, Any]) -> str:
    """A sentence for `unavailable`: reason, presence, since when, when it will be back, what was said with it."""
    reason, more = clean(said.get("reason") or "?", TEXT_LIMIT), clean(said.get("text") or "", TEXT_LIMIT)
    text = _REASONS.get(reason, "{to} can't be reached: {reason}").format(to=to, service=service, reason=reason)
    if more and reason in _TOLD:
        text, more = f"{_TOLD[reason].format(to=to)}: {more}", ""
    presence = said.get("presence")
    if isinstance(presence, str) and presence not in ("online", reason):
        text += f" (it is {clean(presence, TEXT_LIMIT)})"
    if when := _since(said.get("age")):
        text += f", {when}"
    if when := back(said.get("back_in"), "more" if reason == "line-budget" else "back"):
        text += f"; {when}"
    if more:
        text += f"; it says: {more}"
    return text


def waiting(to: str, service: str, said: Mapping[str, Any]) -> str:
    """A sentence for `waiting`."""
    left = said.get("wait")
    more = f" up to {span(left)}" if isinstance(left, (int, float)) and left > 0 else ""
    return f"{refusal(to, service, said)}; waiting{more}"


def back(seconds: object, what: str = "back") -> str:
    """`back in 2 h (at 18:30)`; "" where nobody knows."""
    if not _is_span(seconds):
        return ""
    return f"{what} in {span(seconds)} (at {_moment(seconds)})"


def _since(seconds: object) -> str:
    """`since 18:30`, of an age; "" where nobody knows."""
    return f"since {_moment(-seconds)}" if _is_span(seconds) else ""


def _is_span(seconds: object) -> TypeGuard[float]:
    return isinstance(seconds, (int, float)) and 0 <= seconds < 10 * 366 * 86400


def _moment(seconds: float) -> str:
    """So far from now, by this computer's clock."""
    now = datetime.now().astimezone()
    at = now + timedelta(seconds=seconds)
    return at.strftime("%H:%M" if at.date() == now.date() else "%a %d %b %H:%M")


def span(seconds: float) -> str:
    """The two largest units."""
    left = round(seconds)
    out = []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= length:
            out.append(f"{left // length} {unit}")
            left %= length
    return " ".join(out[:2]) or "0 s"


def size(n: int) -> str:
    value = float(n)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of `terminal list`: name, presence, relay server, since when, services."""
    path = entry.get("path")
    by = clean(entry.get("relay") or "", TEXT_LIMIT)
    if isinstance(path, list) and len(path) > 1:
        by += f" ({len(path) - 1} away)"
    presence = clean(entry.get("presence") or "gone", TEXT_LIMIT)
    age = entry.get("age")
    since = span(age) if isinstance(age, (int, float)) and age >= 0 else ""
    if when := back(entry.get("back_in")):
        presence += f", {when}"
    services = entry.get("services")
    names = ", ".join(clean(s, TEXT_LIMIT) for s in services) if isinstance(services, list) else ""
    return clean(entry.get("name") or "?", TEXT_LIMIT), presence, by, since, names
