"""The configuration as frozen dataclasses, one a table of `posthouse.toml`, units in the names.

Attributes are named as the keys are, with `_s` (seconds) for durations and `_bytes` for sizes; money is
`Decimal`. An empty duration, size or amount ("off", "none") is None. `config/load.py` makes these from TOML
and is the only place that checks; a value here has been checked. Paths of files (`ca`, `certificate`, `key`) are
absolute, or "". A service is handed the slice it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

__all__ = [
    "Account", "Alerts", "Alias", "Bearer", "Budget", "Config", "Console", "Firewall", "Interface", "Leds", "Line",
    "LineKind", "Mail", "Period", "Relay", "RelayAccount", "RelayDevice", "RelayPeer", "Schedule", "Site",
    "Smarthost", "Tariff", "Tls", "User", "Window",
]  # fmt: skip

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
KIB, MIB = 1024, 1024 * 1024


class Tls(StrEnum):
    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"


class LineKind(StrEnum):
    MODEM = "modem"
    INTERFACE = "interface"


class Bearer(StrEnum):
    PPP = "ppp"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    name: str
    domain: str = ""
    state: Path = Path("/var/lib/posthouse")
    runtime: Path = Path("/run/posthouse")
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str
    device: str
    ports: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    dhcp: bool = False
    routes: tuple[str, ...] = ()
    mtu: int = 0
    dhcp_pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    forward: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    kind: LineKind = LineKind.MODEM
    device: str = ""
    port: str = ""
    baud: int | None = None
    """None, also below: the profile's."""
    flow: str = "hardware"
    profile: str = "hayes"
    init: tuple[str, ...] | None = None
    numbers: tuple[str, ...] = ()
    """(): the profile's, where it has any."""
    dial_timeout_s: float = 60.0
    attempts: int = 3
    redial_wait_s: float = 5.0
    country: str = ""
    bearer: Bearer = Bearer.PPP
    ppp_login: str = ""
    ppp_secret: str = ""
    apn: str = ""
    pin: str = ""
    power_gpio: str = ""
    wake_numbers: tuple[str, ...] = ()
    tariff: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """`days` as 0 Monday to 6 Sunday; from `start` to `end`, which is on the next day where it is not later."""

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    urgent: bool = True
    connection_request: bool = False
    at: tuple[time, ...] = ()
    every_s: float | None = None
    queued_messages: int = 0
    queued_size_bytes: int | None = None
    oldest_message_s: float | None = None
    windows: tuple[Window, ...] = ()
    min_gap_s: float = 10 * MINUTE
    retry_s: tuple[float, ...] = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR)
    linger_s: float = 2.0
    max_call_s: float = 30 * MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    unit_s: float
    price: Decimal
    days: frozenset[int] = frozenset(range(7))
    start: time | None = None
    end: time | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    name: str
    currency: str
    setup: Decimal = Decimal(0)
    minimum_s: float = 0.0
    periods: tuple[Period, ...] = ()
    billed_before_connect_s: float = 0.0
    hangup_margin_s: float = 3.0
    free_per_month_s: float = 0.0
    month_day: int = 1
    volume_unit_bytes: int | None = None
    volume_price: Decimal = Decimal(0)
    fill_unit: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    per_day: Decimal | None = None
    per_month: Decimal | None = None
    urgent_reserve: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    address: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smarthost:
    host: str
    port: int = 465
    tls: Tls = Tls.IMPLICIT
    ca: str = ""
    login: str = ""
    secret: str = ""
    senders: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    smtp: tuple[str, ...] = ()
    pop3: tuple[str, ...] = ()
    imap: bool = False
    certificate: str = ""
    key: str = ""
    require_login: bool = True
    plaintext_login: bool = False
    trusted_networks: tuple[str, ...] = ()
    message_limit_bytes: int = 20 * MIB
    recipient_limit: int = 1000
    client_limit: int = 100
    session_limit: int = 500
    idle_timeout_s: float = 5 * MINUTE
    unknown: str = "reject"
    postmaster: str = ""
    warn_after_s: float = DAY
    give_up_after_s: float = 5 * DAY
    bulk_size_bytes: int = MIB
    bulk_max_age_s: float = DAY
    fetch_limit_bytes: int = 100 * KIB
    alias: tuple[Alias, ...] = ()
    smarthost: tuple[Smarthost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    protocol: str = "imap"
    host: str
    port: int = 993
    """Left out, `config/load.py` puts in the protocol's own."""
    tls: Tls = Tls.IMPLICIT
    ca: str = ""
    login: str = ""
    secret: str = ""
    folder: str = "INBOX"
    sent_folder: str = ""
    keep: bool = False
    backlog_s: float | None = 0.0
    """None: "all"."""
    check_every_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    name: str
    password: str = field(default="", repr=False)
    addresses: tuple[str, ...] = ()
    quota_bytes: int | None = None
    account: tuple[Account, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPeer:
    name: str
    address: str = ""
    fingerprint: str = ""
    secret: str = ""
    connect: str = "call"
    terminals: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAccount:
    name: str
    password: str = field(default="", repr=False)
    may_call: tuple[str, ...] = ("*",)
    callers: tuple[str, ...] = ()
    roams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayDevice:
    name: str
    services: tuple[tuple[str, str], ...] = ()
    callers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    listen: tuple[str, ...] = ()
    duplicate_login: str = "replace"
    forget_after_s: float = 7 * DAY
    idle_limit_s: float | None = HOUR
    peer: tuple[RelayPeer, ...] = ()
    account: tuple[RelayAccount, ...] = ()
    device: tuple[RelayDevice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    to: str = ""
    every_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    password: str = field(default="", repr=False)
    idle_s: float = 10 * MINUTE
    ssh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leds:
    power: str = ""
    line: str = ""
    mail: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole file. `secrets`: name -> value, of `secrets.toml` and systemd's credentials; never printed."""

    site: Site
    interface: tuple[Interface, ...] = ()
    firewall: Firewall = Firewall()
    line: tuple[Line, ...] = ()
    schedule: Schedule = Schedule()
    tariff: tuple[Tariff, ...] = ()
    budget: Budget = Budget()
    mail: Mail = Mail()
    user: tuple[User, ...] = ()
    relay: Relay = Relay()
    alerts: Alerts = Alerts()
    console: Console = Console()
    leds: Leds = Leds()
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
