"""Single values: what each kind takes, what it makes of it, and what it refuses in which words."""

from __future__ import annotations

from datetime import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import addresses as a
from appliance.config import units as u
from appliance.config.faults import Unfit, nearest, show
from appliance.config.model import Window
from appliance.config.rules import WHOLE_WEEK, week_mask
from appliance.config.units import Kind
from appliance.events import clean
from appliance.transport.listen import parse_address

ALL = frozenset(range(7))
GOOD = [
    (u.duration(), "90s", 90.0),
    (u.duration(), "10m", 600.0),
    (u.duration(), "2h", 7200.0),
    (u.duration(), "5d", 432000.0),
    (u.duration(), "0s", 0.0),
    (u.off(u.duration(1)), "", None),
    (u.size(), "500B", 500),
    (u.size(), "200KiB", 204800),
    (u.size(), "20MiB", 20 << 20),
    (u.size(), "2GiB", 2 << 30),
    (u.PRICE, 10, Decimal(10)),
    (u.PRICE, "0.15", Decimal("0.15")),
    (u.MONEY, "", None),
    (u.CLOCK, "07:30", time(7, 30)),
    (u.CLOCK, "7:30", time(7, 30)),
    (u.CLOCK_END, "24:00", time(0, 0)),
    (u.DAYS, "mon-fri", frozenset(range(5))),
    (u.DAYS, "Sat", frozenset({5})),
    (u.DAYS, "mon, wed,fri", frozenset({0, 2, 4})),
    (u.DAYS, "fri-mon", frozenset({4, 5, 6, 0})),
    (u.WINDOW, "mon-fri 07:00-22:00", Window(frozenset(range(5)), time(7), time(22))),
    (u.WINDOW, "sat 22:00-02:00", Window(frozenset({5}), time(22), time(2))),
    (u.WINDOW, "08:00-24:00", Window(ALL, time(8), time(0))),
    (u.WINDOW, "mon, tue 00:00-00:00", Window(frozenset({0, 1}), time(0), time(0))),
    (u.TIMEZONE, "UTC", "UTC"),
    (u.TIMEZONE, "Asia/Tokyo", "Asia/Tokyo"),
    (a.LISTENER, "192.168.77.1:25", "192.168.77.1:25"),
    (a.LISTENER, "[fd00::1]:465", "[fd00::1]:465"),
    (a.LISTENER, "127.0.0.1:0", "127.0.0.1:0"),
    (a.HOST_PORT, "hub.example:7400", "hub.example:7400"),
    (a.HOST_PORT, "[fd00::1]:7400", "[fd00::1]:7400"),
    (a.HOST, "mail.isp.example", "mail.isp.example"),
    (a.HOST, "127.0.0.1", "127.0.0.1"),
    (a.HOST, "fd00::1", "fd00::1"),
    (a.NETWORK, "192.168.77.0/24", "192.168.77.0/24"),
    (a.NETWORK, "192.168.77.5", "192.168.77.5"),
    (a.NETWORK, "fd00::/8", "fd00::/8"),
    (a.ADDRESS, "o'hara+tag@sub.harbour.example", "o'hara+tag@sub.harbour.example"),
    (a.ADDRESS, "花子@例え.example", "花子@例え.example"),
    (a.SENDER, "*@isp.example", "*@isp.example"),
    (a.SENDER, "*", "*"),
    (a.DIAL_STRING, "0570000111", "0570000111"),
    (a.DIAL_STRING, "*99***1#", "*99***1#"),
    (a.DIAL_STRING, "T0,0570 000111", "T0,0570 000111"),
    (a.DIAL_STRING, "+881600005100", "+881600005100"),
    (a.INIT, "ATE0Q0V1X4&C1&D2", "ATE0Q0V1X4&C1&D2"),
    (a.ROUTE, "10.0.0.0/8 via 192.168.77.254", "10.0.0.0/8 via 192.168.77.254"),
    (a.FORWARD, "192.168.77.20 tcp 443", "192.168.77.20 tcp 443"),
    (a.POOL, "192.168.77.100-192.168.77.199", "192.168.77.100-192.168.77.199"),
    (a.SERVICES, {"modbus": "192.168.77.20:502"}, (("modbus", "192.168.77.20:502"),)),
    (a.LED, "apu2:green:1", "apu2:green:1"),
    (a.FINGERPRINT, "sha256:" + "ab" * 32, "sha256:" + "ab" * 32),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "raw", "value"), GOOD)
def test_taken(kind: Kind, raw: object, value: object) -> None:
    assert type(raw) in kind.takes
    assert kind.read(raw) == value


BAD = [
    (u.duration(), "2 hours", '"2 hours" is no duration'),
    (u.duration(), "90", '"90" is no duration'),
    (u.duration(), "1h30m", '"1h30m" is no duration'),
    (u.duration(), "-5s", '"-5s" is no duration'),
    (u.duration(), "1.5h", '"1.5h" is no duration'),
    (u.duration(), "", '"" is no duration'),
    (u.duration(), "٣s", '"٣s" is no duration'),
    (u.duration(1), "0s", '"0s" is too short; 1s or more'),
    (u.duration(0, 3600), "2h", '"2h" is too long; 1h at most'),
    (u.duration(), "99999d", '"99999d" is too long; 3660d at most'),
    (u.size(), "200KB", '"200KB" is no size'),
    (u.size(), "20", '"20" is no size'),
    (u.size(1024), "1000B", '"1000B" is too small; 1024B or more'),
    (u.size(), "2000GiB", '"2000GiB" is too large; 1024GiB at most'),
    (u.PRICE, "-1", '"-1" is no amount of money'),
    (u.PRICE, -1, '"-1" is no amount of money'),
    (u.PRICE, "0,15", '"0,15" is no amount of money'),
    (u.PRICE, "1e3", '"1e3" is no amount of money'),
    (u.PRICE, "nan", '"nan" is no amount of money'),
    (u.MONEY, 0, '"0" would forbid every call; an amount above 0, or "" for no limit'),
    (u.CLOCK, "24:00", '"24:00" is no time of day'),
    (u.CLOCK, "7.30", '"7.30" is no time of day'),
    (u.CLOCK, "07:30:00", '"07:30:00" is no time of day'),
    (u.DAYS, "monday", '"monday" is no day of the week'),
    (u.DAYS, "mon-", '"" is no day of the week'),
    (u.DAYS, "", '"" is no day of the week'),
    (u.WINDOW, "mon-fri", '"mon-fri" is no window'),
    (u.WINDOW, "", '"" is no window'),
    (u.WINDOW, "mo-fr 07:00-22:00", '"mo" is no day of the week'),
    (u.WINDOW, "mon 7-22", '"7" is no time of day'),
    (u.WINDOW, "mon 24:00-08:00", '"24:00" is no time of day'),
    (u.TIMEZONE, "Asia/Tokio", '"Asia/Tokio" is no time zone of this system; "Asia/Tokyo"'),
    (u.TIMEZONE, "Europe", None),
    (u.TIMEZONE, "../../etc/passwd", '"../../etc/passwd" is no time zone of this system'),
    (u.TIMEZONE, "", '"" is no time zone of this system'),
    (u.PASSWORD, "Blue-kettle-42", "is no $7$ string"),
    (u.integer(1, 100), 0, "0 is out of range"),
    (u.integer(1, 100), 10**400, "1" + "0" * 78 + "… is out of range"),
    (u.one_of("hayes", "gsm"), "hays", 'unknown word "hays"'),
    (a.LISTENER, "25", '"25" is no ADDRESS:PORT'),
    (a.LISTENER, ":25", '":25" is no ADDRESS:PORT'),
    (a.LISTENER, "localhost:25", '"localhost:25" is no ADDRESS:PORT'),
    (a.LISTENER, "fd00::1:25", '"fd00::1:25" is no ADDRESS:PORT'),
    (a.LISTENER, "[127.0.0.1]:25", '"[127.0.0.1]:25" is no ADDRESS:PORT'),
    (a.LISTENER, "127.0.0.1:65536", '"127.0.0.1:65536" is no ADDRESS:PORT'),
    (a.LISTENER, "127.0.0.1", '"127.0.0.1" is no ADDRESS:PORT'),
    (a.LISTENER, "127.0.0.1:٢٥", '"127.0.0.1:٢٥" is no ADDRESS:PORT'),
    (a.HOST_PORT, "hub.example", '"hub.example" is no HOST:PORT'),
    (a.HOST_PORT, "hub.example:0", '"hub.example:0" is no HOST:PORT'),
    (a.HOST_PORT, "http://hub:80", '"http://hub:80" is no HOST:PORT'),
    (a.HOST, "https://isp.example/", '"https://isp.example/" is no host'),
    (a.HOST, "isp.example:465", '"isp.example:465" is no host'),
    (a.HOST, "", "is empty"),
    (a.NETWORK, "192.168.77.1/24", '"192.168.77.1/24" is an address within a network; "192.168.77.0/24"'),
    (a.NETWORK, "lan", '"lan" is no network'),
    (a.NETWORK, "192.168.77.*", '"192.168.77.*" is no network'),
    (a.DEVICE_ADDRESS, "192.168.77.1", '"192.168.77.1" is no address with its network\'s length'),
    (a.ADDRESS, "hanako", '"hanako" is no mail address'),
    (a.ADDRESS, "hanako@", '"hanako@" is no mail address'),
    (a.ADDRESS, "Hanako <h@x.example>", '"Hanako <h@x.example>" is no mail address'),
    (a.ADDRESS, "a@b@c.example", '"a@b@c.example" is no mail address'),
    (a.ADDRESS, "a..b@c.example", '"a..b@c.example" is no mail address'),
    (a.ADDRESS, "x" * 65 + "@c.example", None),
    (a.ADDRESS, "a@" + "b." * 130 + "example", None),
    (a.DOMAIN, "-harbour.example", '"-harbour.example" is no domain'),
    (a.SENDER, "isp.example", '"isp.example" is no pattern of senders'),
    (a.USER, "../hanako", '"../hanako" is no name'),
    (a.USER, ".", '"." is no name'),
    (a.USER, "hana ko", '"hana ko" is no name'),
    (a.TERMINAL, "Harbour", '"Harbour" is no name'),
    (a.PORT_DEVICE, "ttyS1", '"ttyS1" is no device\'s path'),
    (a.DIAL_STRING, "0570-000-111", '"0570-000-111" is no number to dial'),
    (a.DIAL_STRING, "117;+CFUN=0", '"117;+CFUN=0" is no number to dial'),
    (a.DIAL_STRING, "117\rATZ", '"117\ufffdATZ" is no number to dial'),
    (a.INIT, "Z", '"Z" is no AT command'),
    (a.INIT, "ATZ\rATD1", '"ATZ\ufffdATD1" is no AT command'),
    (a.ROUTE, "10.0.0.0/8 192.168.77.254", '"10.0.0.0/8 192.168.77.254" is no route'),
    (a.ROUTE, "10.0.0.0/8 via gateway", '"gateway" is no address of a gateway'),
    (a.ROUTE, "10.0.0.0/8 via fd00::1", '"10.0.0.0/8 via fd00::1" mixes IPv4 and IPv6'),
    (a.FORWARD, "192.168.77.20", '"192.168.77.20" is no permission to forward'),
    (a.FORWARD, "192.168.77.20 icmp 1", '"icmp" is no protocol; "tcp" or "udp"'),
    (a.FORWARD, "192.168.77.20 tcp 0", '"0" is no port; 1 to 65535'),
    (a.POOL, "192.168.77.100", '"192.168.77.100" is no range of IPv4 addresses'),
    (a.POOL, "192.168.77.9-192.168.77.1", '"192.168.77.9-192.168.77.1" ends before it begins'),
    (a.DEVICE, "ethernet-number-0", '"ethernet-number-0" is no name of a network device'),
    (a.DEVICE, "..", '".." is no name of a network device'),
    (a.GPIO, "17", '"17" is no GPIO line'),
    (a.CURRENCY, "yen", '"yen" is no currency code (ISO 4217)'),
    (a.FINGERPRINT, "ab" * 32, None),
    (a.PHONE, "call me", '"call me" is no telephone number'),
    (a.APN, "an apn", '"an apn" is no access point name'),
    (u.TEXT, "a\nb", '"a\ufffdb" is no text on one line'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "raw", "said"), BAD)
def test_refused(kind: Kind, raw: object, said: str | None) -> None:
    with pytest.raises(Unfit) as refusal:
        kind.read(raw)
    unfit = refusal.value
    if said is not None:
        assert unfit.what + (f"; {unfit.expected}" if unfit.expected else "") == said
    assert len(unfit.what) < 200


STRINGS = st.text(max_size=30) | st.text(alphabet="0123456789.:-/@[]*+,; montuehd", max_size=30)
TEXT_KINDS = [k for k in {**vars(u), **vars(a)}.values() if isinstance(k, Kind) and str in k.takes]
TEXT_KINDS += [u.duration(), u.size(), u.off(u.duration(5))]


@given(st.sampled_from(TEXT_KINDS), STRINGS)
def test_any_text_is_taken_or_refused_in_words(kind: Kind, text: str) -> None:
    try:
        kind.read(text)
    except Unfit as unfit:
        assert unfit.what and clean(unfit.what) == unfit.what


@given(st.integers(0, 3000), st.sampled_from("smhd"))
def test_durations(number: int, unit: str) -> None:
    assert u.duration().read(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


@given(st.integers(0, 1000), st.sampled_from([("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30)]))
def test_sizes(number: int, unit: tuple[str, int]) -> None:
    assert u.size().read(f"{number}{unit[0]}") == number << unit[1]


@given(st.decimals(0, 10**9, places=4))
def test_money_is_exact(amount: Decimal) -> None:
    assert u.PRICE.read(str(amount)) == amount


@given(st.ip_addresses(), st.integers(0, 65535))
def test_listeners_are_what_transport_takes(address: object, port: int) -> None:
    text = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    assert a.LISTENER.read(text) == text
    assert parse_address(text).port == port
    assert parse_address(text).host == str(address)


@given(st.sets(st.integers(0, 6)), st.times(), st.times())
def test_week_mask_counts_minutes(days: set[int], start: time, end: time) -> None:
    """Against the minutes one by one."""
    first, last = start.hour * 60 + start.minute, end.hour * 60 + end.minute
    length = (last - first) % 1440 or 1440
    minutes = {(d * 1440 + first + i) % (7 * 1440) for d in days for i in range(length)}
    assert week_mask(days, start, end) == sum(1 << m for m in minutes)
    assert week_mask(range(7), start, start) == WHOLE_WEEK


def test_show() -> None:
    assert show(("user", 0, "account", 1, "protocol")) == "user[0].account[1].protocol"
    assert show(("site", "a b", "x\x1b")) == 'site."a b"."x\ufffd"'


def test_nearest() -> None:
    assert nearest("Min-Gap", ["min_gap", "max_call"]) == "min_gap"
    assert nearest("colour", ["min_gap", "max_call"]) == ""
