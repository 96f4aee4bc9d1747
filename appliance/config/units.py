"""How a single value is written and read: durations, sizes, money, times, words, names, addresses.

A `Kind` is one way of writing; `schema.py` says which key has which. A kind knows nothing of other keys, and reads
no file but those that a value names (certificates, time zones). What it can't take it says as `Unfit`, in words for
the person who wrote it.
"""

from __future__ import annotations

import re
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.config.faults import Unfit, choice, nearest, quoted, shown
from appliance.config.model import Window
from appliance.config.passwords import is_password_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

__all__ = [
    "BOOLEAN", "CERTIFICATE", "CLOCK", "CLOCK_END", "DAYS", "FOLDER", "MONEY", "PASSWORD", "PEER_SECRET", "PIN",
    "PRICE", "PRIVATE_KEY", "SECRET", "TEXT", "TIMEZONE", "WINDOW", "WORDS_OF_TOML", "Kind", "duration", "integer",
    "many", "matching", "off", "one_of", "size", "words",
]  # fmt: skip

LONGEST_S: Final = 3660 * 86400
"""Ten years: nothing here lasts longer, and sums stay far from what a clock can't show."""
LARGEST_BYTES: Final = 1 << 40
PEM_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a PEM file that are looked at: the system's bundle of authorities has a quarter of a MiB."""

WORDS_OF_TOML: Final[dict[type, str]] = {str: "a string", bool: "a boolean", int: "an integer", float: "a float",
                                         list: "an array", dict: "a table"}  # fmt: skip


class Kind(NamedTuple):
    """One way of writing a value.

    `takes`: TOML types; `read` makes the model's value of it or raises Unfit; `expected` describes it to a person.
    `suffix`: what the model's attribute adds to the key's name (`_s`, `_bytes`); `attribute`: its name, where it is
    another one altogether. `blank` stands in for a wrong value, so that the rest can still be checked. `array`: a
    list of these. `relative`: a path, relative to the configuration file's folder. `secret`: the value names a
    secret, and this is the form of the secret itself, with `secret_form` in words.
    """

    takes: tuple[type, ...]
    read: Callable[[Any], object]
    expected: str
    suffix: str = ""
    attribute: str = ""
    blank: object = ""
    array: bool = False
    relative: bool = False
    secret: str = ""
    secret_form: str = ""


def many(kind: Kind) -> Kind:
    """An array of these."""
    return kind._replace(array=True)


def off(kind: Kind) -> Kind:
    """The same, or "" for 'none', which is None in the model."""
    return kind._replace(
        read=lambda text: None if text == "" else kind.read(text),
        expected=f'{kind.expected}, or "" for none',
        blank=None,
    )


def matching(pattern: str, expected: str, what: str, *, empty: bool = False) -> Kind:
    """Text of this form; `what` says what a wrong one is not. `empty`: or ""."""
    form = re.compile(pattern)

    def read(text: str) -> str:
        if not (form.fullmatch(text) or (empty and not text)):
            raise Unfit(f"{quoted(text)} is no {what}" if text else "is empty")
        return text

    return Kind((str,), read, expected)


def one_of(*known: str) -> Kind:
    """One of these words."""

    def read(text: str) -> str:
        if text not in known:
            raise Unfit(f"unknown word {quoted(text)}")
        return text

    return Kind((str,), read, choice(list(known)))


def words(of: type[StrEnum]) -> Kind:
    """One of an enumeration's words."""
    kind = one_of(*(w.value for w in of))
    return kind._replace(read=lambda text: of(str(kind.read(text))), blank=next(iter(of)))


def integer(low: int, high: int) -> Kind:
    def read(number: int) -> int:
        if not low <= number <= high:
            raise Unfit(f"{shown(number)} is out of range")
        return number

    return Kind((int,), read, f"an integer from {low} to {high}", blank=low)


# Durations and sizes

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")


def duration(low_s: int = 0, high_s: int = LONGEST_S) -> Kind:
    """`90s`, `10m`, `2h`, `5d` as seconds."""

    def read(text: str) -> float:
        m = _DURATION.fullmatch(text)
        if not m:
            raise Unfit(f"{quoted(text)} is no duration")
        seconds = int(m[1]) * _SECONDS[m[2]]
        if seconds < low_s:
            raise Unfit(f"{quoted(text)} is too short", f"{low_s}s or more")
        if seconds > high_s:
            raise Unfit(f"{quoted(text)} is too long", f"{_in_words(high_s)} at most")
        return float(seconds)

    return Kind((str,), read, 'a duration such as "90s", "10m", "2h" or "5d"', suffix="_s", blank=float(low_s))


def _in_words(seconds: int) -> str:
    unit = next(u for u in "dhms" if seconds % _SECONDS[u] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def size(low: int = 0) -> Kind:
    """`200KiB`, `20MiB` as bytes."""

    def read(text: str) -> int:
        m = _SIZE.fullmatch(text)
        if not m:
            raise Unfit(f"{quoted(text)} is no size")
        amount = int(m[1]) * _BYTES[m[2]]
        if amount < low:
            raise Unfit(f"{quoted(text)} is too small", f"{low}B or more")
        if amount > LARGEST_BYTES:
            raise Unfit(f"{quoted(text)} is too large", "1024GiB at most")
        return amount

    return Kind((str,), read, 'a size such as "500B", "200KiB", "20MiB" or "2GiB"', suffix="_bytes", blank=low)


# Money

_MONEY = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


def _money(raw: str | int) -> Decimal:
    if not _MONEY.fullmatch(str(raw)):
        raise Unfit(f"{quoted(raw)} is no amount of money")
    return Decimal(raw)


def _amount(raw: str | int) -> Decimal:
    amount = _money(raw)
    if not amount:
        raise Unfit(f"{quoted(raw)} would forbid every call", 'an amount above 0, or "" for no limit')
    return amount


PRICE: Final = Kind((str, int), _money, 'an integer or a decimal string such as "0.15"', blank=Decimal(0))
MONEY: Final = off(PRICE._replace(read=_amount))


# Times

_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DAY_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EVERY_DAY: Final = frozenset(range(7))
_WINDOW = re.compile(r"(?:(.+)[ \t]+)?([0-9:]+)-([0-9:]+)")


def _clock(text: str) -> time:
    m = _TIME.fullmatch(text)
    if not m:
        raise Unfit(f"{quoted(text)} is no time of day")
    return time(int(m[1]), int(m[2]))


def _end(text: str) -> time:
    return time(0, 0) if text == "24:00" else _clock(text)


def _days(text: str) -> frozenset[int]:
    """`mon-fri`, `sat`, `mon,wed,fri`, `fri-mon`."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.strip().partition("-")
        for name in (first, last) if dash else (first,):
            if name not in _DAY_NAMES:
                raise Unfit(f"{quoted(name)} is no day of the week")
        start = _DAY_NAMES.index(first)
        span = (_DAY_NAMES.index(last) - start) % 7 if dash else 0
        days.update((start + i) % 7 for i in range(span + 1))
    return frozenset(days)


def _window(text: str) -> Window:
    m = _WINDOW.fullmatch(text.strip())
    if not m:
        raise Unfit(f"{quoted(text)} is no window")
    days, start, end = m.groups()
    return Window(_days(days) if days else _EVERY_DAY, _clock(start), _end(end))


def _timezone(text: str) -> str:
    if text == "UTC":  # holds without any zone data on the system
        return text
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        near = nearest(text, sorted(zoneinfo.available_timezones()))
        raise Unfit(f"{quoted(text)} is no time zone of this system", quoted(near) if near else "") from None
    return text


CLOCK: Final = Kind((str,), _clock, 'a time of day such as "07:30"', blank=None)
CLOCK_END: Final = CLOCK._replace(read=_end)
DAYS: Final = Kind((str,), _days, 'days such as "mon-fri", "sat" or "mon,wed,fri"', blank=_EVERY_DAY)
WINDOW: Final = Kind(
    (str,), _window, 'a window such as "mon-fri 07:00-22:00" or "sat 22:00-02:00"',
    blank=Window(frozenset(), time(0, 0), time(0, 0)),
)  # fmt: skip
TIMEZONE: Final = Kind((str,), _timezone, 'a zone such as "UTC" or "Asia/Tokyo"')


# Text, passwords, secrets

BOOLEAN: Final = Kind((bool,), lambda value: value, "true or false", blank=False)
TEXT: Final = matching(r"[^\x00-\x1f\x7f]*", "text without control characters", "text on one line", empty=True)


def _password(text: str) -> str:
    # Never shown: it may be the password itself.
    if text and not is_password_hash(text):
        raise Unfit("is no $7$ string")
    return text


PASSWORD: Final = Kind((str,), _password, "what `posthouse passwd` prints")

SECRET: Final = Kind(
    (str,), lambda text: text, "the name of a secret in secrets.toml",
    secret=r"[^\x00-\x1f\x7f]+", secret_form="text without control characters",
)  # fmt: skip
PEER_SECRET: Final = SECRET._replace(secret="[0-9A-Fa-f]{64}", secret_form="32 bytes in hex: 64 digits")
PIN: Final = SECRET._replace(secret="[0-9]{4,8}", secret_form="4 to 8 digits")


# Paths


def _pem(mark: bytes, name: str) -> Callable[[str], str]:
    def read(path: str) -> str:
        if not path:
            return path
        try:
            with Path(path).open("rb") as file:
                data = file.read(PEM_LIMIT)
        except (OSError, ValueError) as error:
            raise Unfit(f"{quoted(path)} can't be read: {getattr(error, 'strerror', error)}") from None
        if b"ENCRYPTED" in data:
            raise Unfit(f"{quoted(path)} is protected by a passphrase", "a key that can be read without one")
        if mark not in data:
            raise Unfit(f"{quoted(path)} has no {name} in it")
        return path

    return read


def _folder(path: str) -> Path:
    if not path:
        raise Unfit("is empty")
    return Path(path)


FOLDER: Final = Kind((str,), _folder, "a folder", blank=Path(), relative=True)
CERTIFICATE: Final = Kind(
    (str,), _pem(b"-----BEGIN CERTIFICATE-----", "PEM certificate"), "a PEM file with certificates", relative=True
)
PRIVATE_KEY: Final = Kind((str,), _pem(b"PRIVATE KEY-----", "PEM private key"), "a PEM file with a key", relative=True)
