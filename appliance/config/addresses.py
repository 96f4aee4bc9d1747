"""How names and addresses are written: of hosts, networks, sockets, mail, users, terminals. Kinds as in `units.py`.

Mail addresses follow RFC 5321 §4.1.2 without quoted local parts, domains RFC 1123 §2.1, both with letters of any
script (RFC 6531).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from appliance.config.faults import Unfit, quoted
from appliance.config.units import Kind, matching
from appliance.protocol import names

__all__ = [
    "ADDRESS", "ADDRESS_OR_USER", "APN", "CURRENCY", "DEVICE", "DEVICE_ADDRESS", "DIAL_STRING", "DOMAIN", "FINGERPRINT",
    "FORWARD", "GPIO", "HOST", "HOST_PORT", "INIT", "LED", "LISTENER", "NAME", "NETWORK", "PATTERN", "PHONE", "POOL",
    "PORT_DEVICE", "ROUTE", "SENDER", "SERVICES", "TERMINAL", "USER", "optional", "split_listener",
]  # fmt: skip

_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*"
_ATOM = r"[\w!#$%&'*+/=?^`{|}~-]+"
_LOCAL = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS = re.compile(rf"(?=[^@]{{1,64}}@)({_LOCAL})@({_DOMAIN})")


def optional(kind: Kind) -> Kind:
    """The same, or "" where there is none; the model has "" too."""
    return kind._replace(read=lambda text: kind.read(text) if text else text)


# Names

NAME: Final = matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a name of letters, digits and - . _", "name")
TERMINAL: Final = matching(names.FORM, names.HOW, "name")
"""RELAY §1: relay servers', terminals', devices' and services' names."""
PATTERN: Final = matching(r"[a-z0-9.*-]{1,63}", 'a name, or a pattern with * such as "pc*"', "name or pattern")
USER: Final = NAME
"""Users' names are folders' names under mail/."""
DEVICE: Final = matching(
    r"(?!\.{1,2}\Z)[A-Za-z0-9_.@+-]{1,15}", 'a network device such as "eth0"', "name of a network device"
)
LED: Final = matching(r"(?!\.{1,2}\Z)[^\s/\x00-\x20]+", "a name under /sys/class/leds", "name of an LED")
GPIO: Final = matching(r"gpiochip[0-9]+:[0-9]+", 'a chip and a line such as "gpiochip0:17"', "GPIO line")
CURRENCY: Final = matching(r"[A-Z]{3}", 'a currency such as "JPY" or "EUR"', "currency code (ISO 4217)")
FINGERPRINT: Final = matching(
    r"sha256:[0-9a-f]{64}", "sha256: and 64 digits in lower-case hex, as `posthouse status` prints it", "fingerprint"
)

# The modem

PORT_DEVICE: Final = matching(r"/[^\x00-\x1f]+", 'a device such as "/dev/ttyS1"', "device's path")
DIAL_STRING: Final = matching(
    r"(?=.*[0-9])[0-9A-DTPWtpw*#+,@! ]{1,60}",
    'digits and the dial characters * # + , T P W @ ! (V.250 §6.3.1), such as "0570000111"',
    "number to dial",
)
"""`;` and letters are kept out: a number must not become another command."""
PHONE: Final = matching(r"\+?[0-9*#]{1,30}", 'digits such as "+81570000111"', "telephone number")
INIT: Final = matching(r"[Aa][Tt][\x20-\x7e]{0,200}", 'a command that begins with AT, such as "ATZ"', "AT command")
APN: Final = matching(_DOMAIN, 'an access point name such as "internet.example"', "access point name")

# Mail

DOMAIN: Final = matching(_DOMAIN, 'a domain such as "harbour.example"', "domain")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise Unfit(f"{quoted(text)} is no mail address" if text else "is empty")
    return text


def _address_or_user(text: str) -> str:
    return str((ADDRESS if "@" in text else USER).read(text))


ADDRESS: Final = Kind((str,), _address, 'an address such as "hanako@harbour.example"')
ADDRESS_OR_USER: Final = Kind((str,), _address_or_user, "a user's name or a mail address")
SENDER: Final = matching(
    r"\*|[^\s@\x00-\x20]+@[^\s@\x00-\x20]+",
    'an address or a pattern with *, such as "*" or "*@isp.example"',
    "pattern of senders",
)

# The network


def _port(text: str, low: int) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,5}", text) and low <= int(text) <= 65535 else None


def split_listener(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """`192.168.77.1:25` or `[fd00::1]:25`; raises Unfit. Port 0 is any free one."""
    host, colon, port_text = text.rpartition(":")
    port = _port(port_text, 0)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    if not colon or port is None or address is None or bracketed != (address.version == 6):
        raise Unfit(f"{quoted(text)} is no ADDRESS:PORT")
    return address, port


def _listener(text: str) -> str:
    split_listener(text)
    return text


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        split_listener(text)
    except Unfit:
        if not re.fullmatch(_DOMAIN, host):
            raise Unfit(f"{quoted(text)} is no HOST:PORT") from None
    if _port(port, 1) is None:
        raise Unfit(f"{quoted(text)} is no HOST:PORT")
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise Unfit(f"{quoted(text)} is no network") from None
        raise Unfit(f"{quoted(text)} is an address within a network", quoted(meant)) from None
    return text


def _device_address(text: str) -> str:
    try:
        if "/" not in text:
            raise ValueError
        ipaddress.ip_interface(text)
    except ValueError:
        raise Unfit(f"{quoted(text)} is no address with its network's length") from None
    return text


def _route(text: str) -> str:
    words = text.split()
    if len(words) != 3 or words[1] != "via":
        raise Unfit(f"{quoted(text)} is no route")
    _network(words[0])
    try:
        gateway = ipaddress.ip_address(words[2])
    except ValueError:
        raise Unfit(f"{quoted(words[2])} is no address of a gateway") from None
    if gateway.version != ipaddress.ip_network(words[0]).version:
        raise Unfit(f"{quoted(text)} mixes IPv4 and IPv6")
    return text


def _forward(text: str) -> str:
    words = text.split()
    if len(words) != 3:
        raise Unfit(f"{quoted(text)} is no permission to forward")
    _network(words[0])
    if words[1] not in ("tcp", "udp"):
        raise Unfit(f"{quoted(words[1])} is no protocol", '"tcp" or "udp"')
    if _port(words[2], 1) is None:
        raise Unfit(f"{quoted(words[2])} is no port", "1 to 65535")
    return text


def _pool(text: str) -> str:
    first, _, last = text.partition("-")
    try:
        low, high = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
    except ValueError:
        raise Unfit(f"{quoted(text)} is no range of IPv4 addresses") from None
    if low > high:
        raise Unfit(f"{quoted(text)} ends before it begins")
    return text


def _services(table: dict[str, object]) -> tuple[tuple[str, str], ...]:
    services = []
    for name, target in table.items():
        try:
            TERMINAL.read(name)
        except Unfit as unfit:
            raise Unfit(unfit.what, TERMINAL.expected, at=(name,)) from None
        if not isinstance(target, str):
            raise Unfit("is no string", HOST_PORT.expected, at=(name,))
        try:
            services.append((name, _host_port(target)))
        except Unfit as unfit:
            raise Unfit(unfit.what, HOST_PORT.expected, at=(name,)) from None
    return tuple(services)


LISTENER: Final = Kind(
    (str,), _listener, 'an address of this host and a port, such as "192.168.77.1:25" or "[fd00::1]:25"'
)
HOST: Final = matching(rf"{_DOMAIN}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+", 'a host such as "mail.isp.example"', "host")
HOST_PORT: Final = Kind((str,), _host_port, 'a host and a port such as "hub.example:7400"')
NETWORK: Final = Kind((str,), _network, 'a network such as "192.168.77.0/24"')
DEVICE_ADDRESS: Final = Kind((str,), _device_address, 'an address such as "192.168.77.1/24"')
ROUTE: Final = Kind((str,), _route, 'a route such as "10.0.0.0/8 via 192.168.77.254"')
FORWARD: Final = Kind((str,), _forward, 'an address, a protocol and a port such as "192.168.77.20 tcp 443"')
POOL: Final = Kind((str,), _pool, 'a range such as "192.168.77.100-192.168.77.199"')
SERVICES: Final = Kind((dict,), _services, 'a table such as { modbus = "192.168.77.20:502" }', blank=())
