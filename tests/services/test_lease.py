"""What udhcpc's script hands over: whole and byte at a time, and what a server may say that makes no sense."""

from __future__ import annotations

import ipaddress
import os
import subprocess

import pytest

from appliance.config.model import Interface
from appliance.network.dhcp_client import SCRIPT
from appliance.network.lease import RECORD_LIMIT, BadLease, Lease, Records, read, with_lease
from appliance.network.plan import Origin, Wanted

BOUND = {
    "event": "bound", "interface": "e0", "ip": "172.20.1.7", "mask": "24", "subnet": "255.255.255.0", "lease": "600",
    "serverid": "172.20.1.1", "router": "172.20.1.1 172.20.1.2", "staticroutes": "", "message": "",
}  # fmt: skip


def script(event: str, **environment: str) -> bytes:
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([SCRIPT, event], env=environment, capture_output=True, timeout=30, check=True).stdout


def test_the_script_itself() -> None:
    given = {k: v for k, v in BOUND.items() if k != "event" and v}
    records = Records()
    data = script("bound", **given) + script("deconfig", interface="e0")
    found = [fields for byte in data for fields in records.feed(bytes([byte]))]
    assert found == Records().feed(data)
    assert found == [BOUND, {**dict.fromkeys(BOUND, ""), "event": "deconfig", "interface": "e0"}]


def test_a_server_can_t_add_a_field() -> None:
    evil = "x\nevent=bound\nip=1.2.3.4 $(id) `id` %s \\0 \\n"
    (fields,) = Records().feed(script("nak", message=evil, router=evil))
    assert (fields["event"], fields["ip"], fields["message"], fields["router"]) == ("nak", "", evil, evil)


def test_a_record_without_an_end() -> None:
    records = Records()
    with pytest.raises(BadLease):
        for _ in range(RECORD_LIMIT + 2):
            records.feed(b"x")


def lease(**fields: str) -> Lease:
    return read({**BOUND, **fields})


def test_a_lease() -> None:
    one = lease()
    assert (str(one.address), one.seconds, one.server) == ("172.20.1.7/24", 600, "172.20.1.1")
    (route,) = one.routes
    assert (str(route), route.metric, route.origin) == ("0.0.0.0/0 via 172.20.1.1", 1024, Origin.DHCP)


ROUTES = [
    ({"router": ""}, []),
    ({"router": "10.0.0.1"}, []),  # not on the link
    ({"router": "172.20.1.7"}, []),  # ourselves
    ({"router": "nonsense"}, []),
    ({"staticroutes": "10.0.0.0/8 172.20.1.5 0.0.0.0/0 172.20.1.6"},
     ["10.0.0.0/8 via 172.20.1.5", "0.0.0.0/0 via 172.20.1.6"]),
    ({"staticroutes": "10.0.0.0/8 172.20.1.5"}, ["10.0.0.0/8 via 172.20.1.5"]),  # RFC 3442: the router is ignored
    ({"staticroutes": "10.0.0.0/8"}, []),
    ({"staticroutes": "10.0.0.1/8 172.20.1.5 10.1.0.0/16 172.20.1.5"}, ["10.1.0.0/16 via 172.20.1.5"]),
    ({"staticroutes": "10.0.0.0/8 172.20.1.5 10.0.0.0/8 172.20.1.6"}, ["10.0.0.0/8 via 172.20.1.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "routes"), ROUTES)
def test_routes(fields: dict[str, str], routes: list[str]) -> None:
    assert [str(r) for r in lease(**fields).routes] == routes


@pytest.mark.parametrize(("text", "seconds"), [("600", 600), ("1", 60), ("0", 60), ("4294967295", 0)])
def test_times(text: str, seconds: int) -> None:
    assert lease(lease=text).seconds == seconds


BAD = [
    {"ip": ""}, {"ip": "1.2.3"}, {"ip": "0.0.0.0"}, {"ip": "224.0.0.1"}, {"ip": "127.0.0.1"}, {"ip": "fd00::1"},
    {"mask": "", "subnet": ""}, {"mask": "33"}, {"lease": ""}, {"lease": "soon"}, {"ip": "255.255.255.255"},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD)
def test_what_makes_no_sense(fields: dict[str, str]) -> None:
    with pytest.raises(BadLease):
        lease(**fields)


def test_the_mask_is_taken_as_dotted_too() -> None:
    assert str(lease(mask="").address) == "172.20.1.7/24"


def test_what_is_wanted_with_a_lease() -> None:
    own = Wanted.of(
        Interface(name="o", device="e0", dhcp=True, addresses=("10.0.0.1/24",), routes=("10.9.0.0/16 via 10.0.0.2",))
    )[0]
    leased = with_lease(own, lease())
    assert [str(a) for a in leased.addresses] == ["10.0.0.1/24", "172.20.1.7/24"]
    assert [str(r) for r in leased.routes] == ["10.9.0.0/16 via 10.0.0.2", "0.0.0.0/0 via 172.20.1.1"]
    assert leased.leased == {ipaddress.ip_interface("172.20.1.7/24"): 600}
    assert not leased.lease_unknown
    lost = with_lease(own, None)
    assert (lost.addresses, lost.routes, lost.lease_unknown) == (own.addresses, own.routes, False)
    forever = with_lease(own, lease(lease="4294967295"))
    assert forever.leased == {}
    # What is configured comes first: it never ends, and its routes are the ones.
    static = with_lease(own, lease(ip="10.0.0.1", staticroutes="10.9.0.0/16 10.0.0.7"))
    assert (static.addresses, static.routes, static.leased) == (own.addresses, own.routes, {})
