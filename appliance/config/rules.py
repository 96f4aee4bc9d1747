"""What has to fit together in a configuration, but for mail (`rules_mail.py`): references, names that may be there
once, keys that need or exclude another.

Each rule is a function of the whole configuration that adds to the faults. Values that were already at fault are
blank here (empty names, no days); a rule passes them over. A rule forbids what can't work or can't be meant, not
what is merely unusual.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from appliance.config.addresses import split_listener
from appliance.config.faults import Faults, KeyPath, Unfit, choice, nearest, quoted, show
from appliance.config.model import LineKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import time

    from appliance.config.model import Config, Tariff

__all__ = ["check", "needs", "refers", "unique"]

DAY_MINUTES: Final = 24 * 60
WEEK_MINUTES: Final = 7 * DAY_MINUTES
WHOLE_WEEK: Final = (1 << WEEK_MINUTES) - 1


def check(config: Config, faults: Faults) -> None:
    for rule in _RULES:
        rule(config, faults)


# What rules share


def unique(places: Iterable[tuple[KeyPath, str]], faults: Faults, *, fold: bool = True) -> None:
    """No two of these names are the same."""
    seen: dict[str, KeyPath] = {}
    for path, name in places:
        folded = name.casefold() if fold else name
        if folded and seen.setdefault(folded, path) != path:
            faults.add(path, f"{quoted(name)} is {show(seen[folded])} already", "another one")


def refers(path: KeyPath, name: str, known: list[str], faults: Faults, *, of: str) -> None:
    """This name is one of the known ones."""
    if name in known:
        return
    known = [k for k in known if k]
    near = nearest(name, known)
    expected = quoted(near) if near else choice(known) if known else f"a {of}, and there is none"
    faults.add(path, f"{quoted(name)} is no {of}'s name", expected)


def needs(path: KeyPath, value: object, expected: str, faults: Faults) -> None:
    """This value is there."""
    if not value:
        faults.add(path, "is missing", expected)


# The line


def _site(config: Config, faults: Faults) -> None:
    if config.site.state == config.site.runtime and not faults.under(("site",)):
        faults.add(("site", "runtime"), "is the same folder as site.state", "another one, that a restart may empty")


def _lines(config: Config, faults: Faults) -> None:
    unique(((("line", i, "name"), line.name) for i, line in enumerate(config.line)), faults)
    for i, line in enumerate(config.line):
        at: KeyPath = ("line", i)
        if faults.under((*at, "kind")):
            continue
        if line.kind is LineKind.MODEM:
            needs((*at, "port"), line.port, 'a device such as "/dev/ttyS1", for kind = "modem"', faults)
            if line.profile != "gsm":  # which has a number of its own
                needs((*at, "numbers"), line.numbers, 'at least one number to dial, for kind = "modem"', faults)
        else:
            needs((*at, "device"), line.device, 'a network device such as "wwan0", for kind = "interface"', faults)
        cellular = line.kind is LineKind.MODEM and line.profile == "gsm"
        for key, value in (("apn", line.apn), ("pin", line.pin)):
            if value and not cellular and not faults.under((*at, "profile")):
                faults.add((*at, key), "is of no use to this line", 'kind = "modem" and profile = "gsm", or none')
        if line.ppp_login:
            needs((*at, "ppp_secret"), line.ppp_secret, "the name of the secret of ppp_login", faults)
        elif line.ppp_secret:
            needs((*at, "ppp_login"), line.ppp_login, "the login that ppp_secret is for", faults)
        if line.tariff:
            refers((*at, "tariff"), line.tariff, [t.name for t in config.tariff], faults, of="[[tariff]]")


# When, and what it costs


def week_mask(days: Iterable[int], start: time, end: time) -> int:
    """The minutes of the week (bit 0: Monday 0:00) from `start` on each of these days to `end`, which is on the next
    day where it is not later."""
    first = start.hour * 60 + start.minute
    length = (end.hour * 60 + end.minute - first) % DAY_MINUTES or DAY_MINUTES
    mask = 0
    for day in days:
        mask |= ((1 << length) - 1) << (day * DAY_MINUTES + first)
    return (mask | mask >> WEEK_MINUTES) & WHOLE_WEEK  # Sunday's night goes on in Monday's morning


def _schedule(config: Config, faults: Faults) -> None:
    schedule = config.schedule
    unique(((("schedule", "at", i), at.isoformat("minutes") if at else "") for i, at in enumerate(schedule.at)), faults)
    masks = [week_mask(w.days, w.start, w.end) for w in schedule.windows]
    for i, mask in enumerate(masks):
        for j in range(i):
            if mask & masks[j]:
                faults.add(
                    ("schedule", "windows", i), f"overlaps schedule.windows[{j}]", "windows apart from each other"
                )


def _tariffs(config: Config, faults: Faults) -> None:
    unique(((("tariff", i, "name"), t.name) for i, t in enumerate(config.tariff)), faults)
    for i, tariff in enumerate(config.tariff):
        at: KeyPath = ("tariff", i)
        by_volume = tariff.volume_unit_bytes is not None or faults.under((*at, "volume_unit"))
        if not tariff.periods and not by_volume:
            needs((*at, "periods"), (), "what a unit of time costs, or volume_unit and volume_price", faults)
        if tariff.volume_price and not by_volume:
            needs((*at, "volume_unit"), (), 'what volume_price is for, such as "10KiB"', faults)
        _periods(tariff, (*at, "periods"), faults)


def _periods(tariff: Tariff, at: KeyPath, faults: Faults) -> None:
    covered = 0
    for j, period in enumerate(tariff.periods):
        if (period.start is None) != (period.end is None):
            missing = "from" if period.start is None else "to"
            needs((*at, j, missing), (), "both from and to, or neither", faults)
        if faults.under((*at, j)):
            return
        if period.start is None or period.end is None:
            mask = sum(((1 << DAY_MINUTES) - 1) << day * DAY_MINUTES for day in period.days)
        else:
            mask = week_mask(period.days, period.start, period.end)
        if not mask & ~covered:
            faults.add((*at, j), "never applies: those before it cover all of it", "the special ones first")
        covered |= mask
    if tariff.periods and covered != WHOLE_WEEK:
        faults.add(at, f"nothing holds {_first_gap(covered)}", "a last one without days, from and to")


def _first_gap(covered: int) -> str:
    gap = ~covered & WHOLE_WEEK
    day, minute = divmod((gap & -gap).bit_length() - 1, DAY_MINUTES)
    return f"on {('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')[day]} at {minute // 60:02}:{minute % 60:02}"


def _budget(config: Config, faults: Faults) -> None:
    budget = config.budget
    if budget.urgent_reserve and budget.per_month is None:
        needs(("budget", "per_month"), (), "what urgent_reserve is a part of", faults)
    if budget.per_month is not None and budget.urgent_reserve > budget.per_month:
        faults.add(("budget", "urgent_reserve"), "is more than per_month", "a part of it")
    used = {line.tariff for line in config.line}
    currencies = sorted({t.currency for t in config.tariff if t.name in used and t.currency})
    if len(currencies) > 1 and (budget.per_day or budget.per_month):
        faults.add(
            ("budget",), f"the lines' tariffs have several currencies, {choice(currencies)}", "one for all lines"
        )


# The host's network


def _interfaces(config: Config, faults: Faults) -> None:
    unique(((("interface", i, "name"), x.name) for i, x in enumerate(config.interface)), faults)
    devices: list[tuple[KeyPath, str]] = []
    for i, interface in enumerate(config.interface):
        devices.append((("interface", i, "device"), interface.device))
        devices += ((("interface", i, "ports", j), port) for j, port in enumerate(interface.ports))
    unique(devices, faults, fold=False)
    for i, interface in enumerate(config.interface):
        at: KeyPath = ("interface", i, "dhcp_pool")
        if not interface.dhcp_pool or faults.under(("interface", i)):
            continue
        if interface.dhcp:
            faults.add(at, "dhcp = true makes this interface a client", "no pool, or dhcp = false")
        networks = [ipaddress.ip_interface(a).network for a in interface.addresses]
        ends = [ipaddress.ip_address(a) for a in interface.dhcp_pool.split("-")]
        if not any(all(end in network for end in ends) for network in networks):
            faults.add(at, "is in no network of interface.addresses", "a range within one of them")


def _listeners(config: Config, faults: Faults) -> None:
    """No two take the same port of the same address; 0.0.0.0 and :: take it of every one."""
    keys = (
        ("mail", "smtp", config.mail.smtp),
        ("mail", "pop3", config.mail.pop3),
        ("relay", "listen", config.relay.listen),
    )
    taken: list[tuple[KeyPath, ipaddress.IPv4Address | ipaddress.IPv6Address, int]] = []
    for table, key, listeners in keys:
        for i, text in enumerate(listeners):
            try:
                address, port = split_listener(text)
            except Unfit:
                continue
            path = (table, key, i)
            for other, its_address, its_port in taken:
                same = address == its_address or (
                    address.version == its_address.version and (address.is_unspecified or its_address.is_unspecified)
                )
                if same and port == its_port != 0:
                    faults.add(path, f"{quoted(text)} is taken by {show(other)} already", "another port or address")
            taken.append((path, address, port))


# Relay servers


def _relay(config: Config, faults: Faults) -> None:
    relay = config.relay
    unique(((("relay", "peer", i, "name"), p.name) for i, p in enumerate(relay.peer)), faults)
    terminals: list[tuple[KeyPath, str]] = [
        (("relay", "account", i, "name"), a.name) for i, a in enumerate(relay.account)
    ]
    terminals += ((("relay", "device", i, "name"), d.name) for i, d in enumerate(relay.device))
    unique(terminals, faults)
    for i, peer in enumerate(relay.peer):
        at: KeyPath = ("relay", "peer", i)
        if peer.name and peer.name == config.site.name:
            faults.add(
                (*at, "name"), f"{quoted(peer.name)} is this relay server's own name, site.name", "the other one's"
            )
        needs((*at, "secret"), peer.secret, "the name of the secret shared with this peer", faults)
        if peer.address:
            needs((*at, "fingerprint"), peer.fingerprint, "the peer's, as its `posthouse status` prints it", faults)


def _alerts(config: Config, faults: Faults) -> None:
    if config.alerts.every_s is not None:
        needs(("alerts", "to"), config.alerts.to, "the address that they are sent to", faults)


# The console


SSH_ADDRESSES: Final = 10
"""What its server, dropbear, listens on at most (DROPBEAR_MAX_PORTS): it would say nothing of one more."""


def ssh_hosts(config: Config) -> tuple[str, ...]:
    """Where the console is let in over ssh: this host's addresses on the LAN; where none is configured, those of the
    mail services."""
    lan = [str(ipaddress.ip_interface(a).ip) for x in config.interface for a in x.addresses]
    mail = [str(split_listener(listener)[0]) for listener in (*config.mail.smtp, *config.mail.pop3)]
    return tuple(dict.fromkeys(lan or mail))


def _console(config: Config, faults: Faults) -> None:
    at: KeyPath = ("console", "ssh")
    if not config.console.ssh:
        return
    if not config.console.password:
        faults.add(at, "would let in whoever asks: there is no console.password", "one, as `posthouse passwd` makes it")
    places: tuple[KeyPath, ...] = (("interface",), ("mail", "smtp"), ("mail", "pop3"))
    if not any(faults.under(place) for place in places):
        hosts = ssh_hosts(config)
        if not hosts:
            faults.add(at, "there is no address of this host on the LAN", "addresses of an [[interface]], or mail.smtp")
        if len(hosts) > SSH_ADDRESSES:
            faults.add(at, f"this host has {len(hosts)} addresses on the LAN", f"{SSH_ADDRESSES} at most")


_RULES: Final[tuple[Callable[[Config, Faults], None], ...]] = (
    _site, _lines, _schedule, _tariffs, _budget, _interfaces, _listeners, _relay, _alerts, _console,
)  # fmt: skip
