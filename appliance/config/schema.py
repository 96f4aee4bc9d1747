"""The tables and keys of `posthouse.toml` (DESIGN §5), each with how its value is written. Defaults, and which keys
must be there, are the model's: a field without a default is a key without one.

This is the one description: the reader, the offers for misspelt keys and the test that holds docs/configuration.md
true all go by it. What depends on more than one key is in `rules.py` and `rules_mail.py`.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.config import addresses as a
from appliance.config import model as m
from appliance.config import units as u
from appliance.config.faults import Unfit, quoted, shown
from appliance.config.units import Kind, duration, integer, many, off, one_of, size, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ROOT", "Entry", "Table", "Tables", "attribute", "required", "tables"]


class Table(NamedTuple):
    """A table: the dataclass made of it, and what may stand in it. `complete` may add values for keys left out
    whose default depends on another key."""

    target: type[Any]
    entries: Mapping[str, Entry]
    complete: Callable[[dict[str, object]], None] = lambda values: None


class Tables(NamedTuple):
    """An array of such tables."""

    each: Table


Entry = Kind | Table | Tables


def attribute(key: str, entry: Entry) -> str:
    """The model's name for a key."""
    if isinstance(entry, Kind):
        return entry.attribute or key + entry.suffix
    return key


def required(table: Table) -> list[str]:
    """The keys that may not be left out."""
    without = {f.name for f in fields(table.target) if f.default is MISSING and f.default_factory is MISSING}
    return [key for key, entry in table.entries.items() if attribute(key, entry) in without]


def tables(table: Table | None = None, name: str = "") -> Iterator[tuple[str, Table]]:
    """Every table there is with its name, `("user.account", …)`; the file itself is ""."""
    table = table or ROOT
    yield name, table
    for key, entry in table.entries.items():
        below = entry.each if isinstance(entry, Tables) else entry
        if isinstance(below, Table):
            yield from tables(below, f"{name}.{key}".lstrip("."))


HOUR, DAY = 3600, 86400
COUNT: Final = integer(1, 1_000_000)
PORT: Final = integer(1, 65535)
BAUD: Final = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1000000, 2000000,
               3000000, 4000000)  # fmt: skip
"""What a Linux serial port can be set to (termios.h), from the slowest modem's on."""
SMALLEST_MTU: Final = 68
"""RFC 791 §3.2."""


def _baud(rate: int) -> int:
    if rate not in BAUD:
        raise Unfit(f"{shown(rate)} is no rate of a serial port")
    return rate


def _mtu(mtu: int) -> int:
    if mtu and not SMALLEST_MTU <= mtu <= 65535:
        raise Unfit(f"{shown(mtu)} is out of range")
    return mtu


def _backlog(text: str) -> object:
    return None if text == "all" else duration().read(text)


def _unknown(text: str) -> str:
    try:
        return str(a.USER.read(text))
    except Unfit:
        raise Unfit(f"unknown word {quoted(text)}") from None


def _complete_account(values: dict[str, object]) -> None:
    """The port of an account that names none: that of its protocol (RFC 8314 §7.3, RFC 9051 §2.1, RFC 1939 §3)."""
    if "port" not in values:
        protocol = str(values.get("protocol", "imap"))
        implicit = values.get("tls", m.Tls.IMPLICIT) is m.Tls.IMPLICIT
        values["port"] = (993 if implicit else 143) if protocol == "imap" else (995 if implicit else 110)


TLS: Final = words(m.Tls)
CA: Final = u.CERTIFICATE

ROOT: Final = Table(m.Config, {
    "site": Table(m.Site, {
        "name": a.TERMINAL,
        "domain": a.optional(a.DOMAIN),
        "state": u.FOLDER,
        "runtime": u.FOLDER,
        "timezone": u.TIMEZONE,
    }),
    "interface": Tables(Table(m.Interface, {
        "name": a.NAME,
        "device": a.DEVICE,
        "ports": many(a.DEVICE),
        "addresses": many(a.DEVICE_ADDRESS),
        "dhcp": u.BOOLEAN,
        "routes": many(a.ROUTE),
        "mtu": Kind((int,), _mtu, f"0 for the device's own, or {SMALLEST_MTU} to 65535", blank=0),
        "dhcp_pool": a.optional(a.POOL),
    })),
    "firewall": Table(m.Firewall, {"forward": many(a.FORWARD)}),
    "line": Tables(Table(m.Line, {
        "name": a.NAME,
        "kind": words(m.LineKind),
        "device": a.optional(a.DEVICE),
        "port": a.optional(a.PORT_DEVICE),
        "baud": Kind((int,), _baud, "one of " + ", ".join(str(b) for b in BAUD), blank=BAUD[0]),
        "flow": one_of("hardware", "none"),
        "profile": one_of("hayes", "gsm", "iridium"),
        "init": many(a.INIT),
        "numbers": many(a.DIAL_STRING),
        "dial_timeout": duration(1, HOUR),
        "attempts": integer(1, 100),
        "redial_wait": duration(0, HOUR),
        "country": one_of("", "jp", "us", "eu"),
        "bearer": words(m.Bearer),
        "ppp_login": u.TEXT,
        "ppp_secret": u.SECRET,
        "apn": a.optional(a.APN),
        "pin": u.PIN,
        "power_gpio": a.optional(a.GPIO),
        "wake_numbers": many(a.PHONE),
        "tariff": u.TEXT,
    })),
    "schedule": Table(m.Schedule, {
        "urgent": u.BOOLEAN,
        "connection_request": u.BOOLEAN,
        "at": many(u.CLOCK),
        "every": off(duration(1)),
        "queued_messages": integer(0, 1_000_000),
        "queued_size": off(size(1)),
        "oldest_message": off(duration(1)),
        "windows": many(u.WINDOW),
        "min_gap": duration(),
        "retry": many(duration(1)),
        "linger": duration(0, DAY),
        "max_call": duration(1),
    }),
    "tariff": Tables(Table(m.Tariff, {
        "name": a.NAME,
        "currency": a.CURRENCY,
        "setup": u.PRICE,
        "minimum": duration(),
        "periods": Tables(Table(m.Period, {
            "days": u.DAYS,
            "from": u.CLOCK._replace(attribute="start"),
            "to": u.CLOCK_END._replace(attribute="end"),
            "unit": duration(1),
            "price": u.PRICE,
        })),
        "billed_before_connect": duration(0, HOUR),
        "hangup_margin": duration(0, HOUR),
        "free_per_month": duration(0, 31 * DAY),
        "month_day": integer(1, 28),
        "volume_unit": off(size(1)),
        "volume_price": u.PRICE,
        "fill_unit": u.BOOLEAN,
    })),
    "budget": Table(m.Budget, {"per_day": u.MONEY, "per_month": u.MONEY, "urgent_reserve": u.PRICE}),
    "mail": Table(m.Mail, {
        "smtp": many(a.LISTENER),
        "pop3": many(a.LISTENER),
        "imap": u.BOOLEAN,
        "certificate": u.CERTIFICATE,
        "key": u.PRIVATE_KEY,
        "require_login": u.BOOLEAN,
        "plaintext_login": u.BOOLEAN,
        "trusted_networks": many(a.NETWORK),
        "message_limit": size(1024),
        "recipient_limit": COUNT,
        "client_limit": COUNT,
        "session_limit": COUNT,
        "idle_timeout": duration(1),
        "unknown": Kind((str,), _unknown, '"reject", "upstream" or a user\'s name', blank="reject"),
        "postmaster": u.TEXT,
        "warn_after": duration(),
        "give_up_after": duration(),
        "bulk_size": size(),
        "bulk_max_age": duration(),
        "fetch_limit": size(),
        "alias": Tables(Table(m.Alias, {"address": a.ADDRESS, "to": many(a.ADDRESS_OR_USER)})),
        "smarthost": Tables(Table(m.Smarthost, {
            "host": a.HOST,
            "port": PORT,
            "tls": TLS,
            "ca": CA,
            "login": u.TEXT,
            "secret": u.SECRET,
            "senders": many(a.SENDER),
        })),
    }),
    "user": Tables(Table(m.User, {
        "name": a.USER,
        "password": u.PASSWORD,
        "addresses": many(a.ADDRESS),
        "quota": off(size(1)),
        "account": Tables(Table(m.Account, {
            "protocol": one_of("imap", "pop3"),
            "host": a.HOST,
            "port": PORT,
            "tls": TLS,
            "ca": CA,
            "login": u.TEXT,
            "secret": u.SECRET,
            "folder": u.TEXT,
            "sent_folder": u.TEXT,
            "keep": u.BOOLEAN,
            "backlog": Kind((str,), _backlog, 'a duration such as "0d" or "30d", or "all"', suffix="_s", blank=0.0),
            "check_every": off(duration(1)),
        }, _complete_account)),
    })),
    "relay": Table(m.Relay, {
        "listen": many(a.LISTENER),
        "duplicate_login": one_of("replace", "refuse"),
        "forget_after": duration(1),
        "idle_limit": off(duration(1)),
        "peer": Tables(Table(m.RelayPeer, {
            "name": a.TERMINAL,
            "address": a.optional(a.HOST_PORT),
            "fingerprint": a.optional(a.FINGERPRINT),
            "secret": u.PEER_SECRET,
            "connect": one_of("always", "call", "never"),
            "terminals": many(a.PATTERN),
        })),
        "account": Tables(Table(m.RelayAccount, {
            "name": a.TERMINAL,
            "password": u.PASSWORD,
            "may_call": many(a.PATTERN),
            "callers": many(a.PATTERN),
            "roams": u.BOOLEAN,
        })),
        "device": Tables(Table(m.RelayDevice, {
            "name": a.TERMINAL,
            "services": a.SERVICES,
            "callers": many(a.PATTERN),
        })),
    }),
    "alerts": Table(m.Alerts, {"to": a.optional(a.ADDRESS), "every": off(duration(1))}),
    "console": Table(m.Console, {"password": u.PASSWORD, "idle": duration(1), "ssh": u.BOOLEAN}),
    "leds": Table(m.Leds, {name: a.optional(a.LED) for name in ("power", "line", "mail", "fault")}),
})  # fmt: skip
