"""What is wanted of the host's devices against what there is: the plan as a table, and that it leads there from
anywhere."""

from __future__ import annotations

import errno
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.model import Interface
from appliance.network.plan import Change, Device, Origin, Route, SeenAddress, State, Wanted, plan, retire, state
from appliance.network.settle import settle
from fakes.kernel import FakeKernel

IP = ipaddress.ip_interface
V4, V6 = IP("10.0.0.1/24"), IP("fd00::1/64")
VIA = Route.read("10.9.0.0/16 via 10.0.0.254")
CONNECTED = Route(ipaddress.ip_network("10.0.0.0/24"), origin=Origin.KERNEL)


def seen(*addresses: str, permanent: bool = True) -> tuple[SeenAddress, ...]:
    return tuple(SeenAddress(IP(a), permanent) for a in addresses)


def device(name: str = "e0", **fields: object) -> Device:
    return Device(**{"index": 2, "name": name, "up": True, "carrier": True, **fields})  # type: ignore[arg-type]


E0 = Wanted("lan", "e0")
WITH_ADDRESS = Wanted("lan", "e0", addresses=(V4,))
LEASED = Wanted("lan", "e0", addresses=(V4,), leased={V4: 600})
BRIDGE = Wanted.of(Interface(name="lan", device="br", ports=("p0",)))
BR = device("br", kind="bridge", index=9)

PLANS: list[tuple[str, tuple[Wanted, ...], list[Device], list[str]]] = [
    ("nothing wanted", (), [device()], []),
    ("absent", (E0,), [], []),
    ("as wanted", (E0,), [device()], []),
    ("down", (E0,), [device(up=False)], ["e0 was down"]),
    ("no address", (WITH_ADDRESS,), [device(routes=(CONNECTED,))], ["e0 lacked 10.0.0.1/24"]),
    ("down: no route yet", (WITH_ADDRESS,), [device(up=False)], ["e0 was down", "e0 lacked 10.0.0.1/24"]),
    ("a foreign address", (E0,), [device(addresses=seen("10.0.0.9/8"))], ["e0 had 10.0.0.9/8 too"]),
    ("link-local ones stay", (E0,), [device(addresses=seen("fe80::1/64", "169.254.1.1/16"))], []),
    ("a router's stay", (E0,), [device(addresses=seen("fd01::9/64", permanent=False))], []),
    ("a foreign lease", (E0,), [device(addresses=seen("10.0.0.9/8", permanent=False))], ["e0 had 10.0.0.9/8 too"]),
    ("a lease of before", (Wanted("lan", "e0", lease_unknown=True),),
     [device(addresses=seen("10.0.0.9/8", permanent=False),
             routes=(Route(ipaddress.ip_network("0.0.0.0/0"), origin=Origin.DHCP),))], []),
    ("a lease ends by itself", (LEASED,),
     [device(addresses=seen("10.0.0.1/24", permanent=False), routes=(CONNECTED,))], []),
    ("a configured one does not", (WITH_ADDRESS,),
     [device(addresses=seen("10.0.0.1/24", permanent=False), routes=(CONNECTED,))], ["e0 lacked 10.0.0.1/24"]),
    ("another length", (WITH_ADDRESS,), [device(addresses=seen("10.0.0.1/8"), routes=(CONNECTED,))],
     ["e0 had 10.0.0.1/8 too", "e0 lacked 10.0.0.1/24"]),
    ("a connected route gone", (WITH_ADDRESS,), [device(addresses=seen("10.0.0.1/24"))],
     ["e0 lacked the route 10.0.0.0/24"]),
    ("a host's address has none", (Wanted("lan", "e0", addresses=(IP("10.0.0.1/32"),)),),
     [device(addresses=seen("10.0.0.1/32"))], []),
    ("a route", (Wanted("lan", "e0", addresses=(V4,), routes=(VIA,)),),
     [device(addresses=seen("10.0.0.1/24"), routes=(CONNECTED,))], ["e0 lacked the route 10.9.0.0/16 via 10.0.0.254"]),
    ("connected ones first", (Wanted("lan", "e0", addresses=(V4,), routes=(VIA,)),),
     [device(addresses=seen("10.0.0.1/24"))],
     ["e0 lacked the route 10.0.0.0/24", "e0 lacked the route 10.9.0.0/16 via 10.0.0.254"]),
    ("a foreign route", (E0,), [device(routes=(VIA,))], ["e0 had the route 10.9.0.0/16 via 10.0.0.254 too"]),
    ("the kernel's own stay", (E0,), [device(routes=(CONNECTED,))], []),
    ("MTU", (Wanted("lan", "e0", mtu=1400),), [device()], ["e0 had MTU 1500, not 1400"]),
    ("the device's own MTU", (E0,), [device(mtu=9000)], []),
    ("a port of something else", (E0,), [device(master=9), BR], ["e0 was a port of another bridge"]),
    ("no bridge yet", BRIDGE, [device("p0")], ["bridge br was missing"]),
    ("no bridge, no port", BRIDGE, [], ["bridge br was missing"]),
    ("a port that waits", BRIDGE, [BR], []),
    ("a port", BRIDGE, [BR, device("p0")], ["p0 was no port of br"]),
    ("a bridge with its port", BRIDGE, [BR, device("p0", master=9)], []),
    ("a foreign port", BRIDGE, [BR, device("x0", master=9)], ["x0 was a port of br"]),
    ("a port with an address", BRIDGE, [BR, device("p0", master=9, addresses=seen("10.0.0.1/24"))],
     ["p0 had 10.0.0.1/24 too"]),
    ("STP", BRIDGE, [device("br", kind="bridge", stp=True)], ["br spoke the spanning tree protocol"]),
    ("no bridge at all", BRIDGE, [device("br")], ["br is there but is no bridge"]),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "devices", "changes"), [row[1:] for row in PLANS], ids=[row[0] for row in PLANS])
def test_plan(wanted: tuple[Wanted, ...], devices: list[Device], changes: list[str]) -> None:
    assert [str(c) for c in plan(wanted, {d.name: d for d in devices})] == changes


def test_a_renewed_lease_gets_its_time_anew() -> None:
    there = {"e0": device(addresses=seen("10.0.0.1/24", permanent=False), routes=(CONNECTED,))}
    (change,) = plan((LEASED,), there, renewed=frozenset({"e0"}))
    assert change == type(change)("e0", V4, 600)  # type: ignore[call-arg]


def test_what_an_interface_is() -> None:
    lan = Interface(
        name="lan", device="br", ports=("p0", "p1"), addresses=("10.0.0.1/24", "fd00::1/64"), dhcp=True, mtu=1400,
        routes=("10.9.0.0/16 via 10.0.0.254", "fd01::/64 via fd00::2"),
    )  # fmt: skip
    own, *ports = Wanted.of(lan)
    assert (own.bridge, own.ports, own.addresses, own.mtu, own.lease_unknown) == (
        True,
        ("p0", "p1"),
        (V4, V6),
        1400,
        True,
    )
    assert [(r.gateway, r.metric) for r in own.routes] == [(V4.ip + 253, 0), (V6.ip + 1, 1024)]
    assert [(p.device, p.master, p.mtu, p.bridge, p.addresses) for p in ports] == [
        ("p0", "br", 1400, False, ()), ("p1", "br", 1400, False, ()),
    ]  # fmt: skip


STATES = [
    ([], [], State.ABSENT),
    ([device()], ["x"], State.SETTING_UP),
    ([device(carrier=False)], [], State.NO_CARRIER),
    ([device()], [], State.UP),
]


@pytest.mark.parametrize(("devices", "left", "expected"), STATES)
def test_state(devices: list[Device], left: list[str], expected: State) -> None:
    assert state(E0, {d.name: d for d in devices}, [Change(x) for x in left]) is expected


def test_what_is_taken_back() -> None:
    old = (*BRIDGE, Wanted("office", "e0", addresses=(V4,), routes=(VIA,), lease_unknown=True))
    default = Route(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("10.0.0.2"), 1024, origin=Origin.DHCP)
    own = Route(ipaddress.ip_network("10.8.0.0/16"), ipaddress.ip_address("10.0.0.2"))
    e0 = device(
        addresses=(*seen("10.0.0.1/24", "10.5.0.1/24", "fe80::1/64"), *seen("10.6.0.1/24", permanent=False)),
        routes=(CONNECTED, VIA, default, own),
    )
    there = {d.name: d for d in (BR, device("p0", master=9), e0)}
    assert [str(c) for c in retire(old, (), there)] == [
        "bridge br is configured no more", "p0 was a port of br", "e0 had the route 10.9.0.0/16 via 10.0.0.254 too",
        "e0 had the route 0.0.0.0/0 via 10.0.0.2 too", "e0 had 10.0.0.1/24 too", "e0 had 10.6.0.1/24 too",
    ]  # fmt: skip
    assert retire(old, old, there) == []
    assert retire(old, (), {}) == []


# ---- from anywhere
NAMES = ("br", "p0", "p1", "e0", "x0")
LAN = Interface(
    name="lan", device="br", ports=("p0", "p1"), addresses=("10.0.0.1/24", "fd00::1/64"), mtu=1400,
    routes=("10.9.0.0/16 via 10.0.0.254", "fd01::/64 via fd00::2"),
)  # fmt: skip
OFFICE = Interface(name="office", device="e0", addresses=("10.5.0.1/24",), routes=("0.0.0.0/0 via 10.5.0.9",))
ALL = (*Wanted.of(LAN), *Wanted.of(OFFICE))

some_addresses = st.lists(
    st.sampled_from(
        ["10.0.0.1/24", "10.0.0.1/8", "10.0.0.2/24", "fd00::1/64", "fd00::1/48", "fe80::1/64", "10.5.0.1/24"]
    ),
    unique=True,
).map(lambda texts: seen(*texts))
some_routes = st.lists(
    st.sampled_from([VIA, CONNECTED, Route.read("0.0.0.0/0 via 10.5.0.1"), Route.read("10.9.0.0/16 via 10.0.0.7")]),
    unique_by=lambda r: (r.destination, r.metric),
).map(tuple)
some_devices = st.builds(
    device, up=st.booleans(), mtu=st.sampled_from([1400, 1500]), master=st.sampled_from([0, 1, 5, 77]), stp=st.booleans(),
    addresses=some_addresses, routes=some_routes,
)  # fmt: skip


@st.composite
def some_kernels(draw: st.DrawFn) -> FakeKernel:
    there = draw(st.lists(st.sampled_from(NAMES), unique=True))
    found = []
    for index, name in enumerate(there, 1):
        one = draw(some_devices)
        fields = {f: getattr(one, f) for f in ("up", "mtu", "stp", "addresses", "routes")}
        if not one.up:
            fields["routes"] = ()
        master = one.master if one.master != index else 0
        kind = "bridge" if name == "br" else ""
        found.append(Device(index, name, kind=kind, carrier=True, master=master, **fields))
    return FakeKernel(*found)


@settings(max_examples=300, deadline=None)
@given(some_kernels())
def test_from_anywhere_everything_ends_as_wanted(kernel: FakeKernel) -> None:
    stranger = kernel.devices.get("x0")
    settled = settle(kernel, ALL)
    assert settled.failed == []
    assert plan(ALL, kernel.observe()) == []
    asked = len(kernel.applied)
    assert settle(kernel, ALL).done == []
    assert len(kernel.applied) == asked
    if stranger is not None and "x0" in kernel.devices:  # nothing of it but that it is no port of ours
        after = kernel.devices["x0"]
        assert (after.addresses, after.routes, after.up, after.mtu) == (
            stranger.addresses, stranger.routes, stranger.up, stranger.mtu,
        )  # fmt: skip


def test_what_is_refused_is_left_and_the_rest_is_done() -> None:
    kernel = FakeKernel(device("e0", up=False, mtu=1300))
    kernel.refuses = {type(c): errno.EPERM for c in plan((Wanted("lan", "e0", mtu=1400),), {"e0": device()})}
    settled = settle(kernel, (Wanted("lan", "e0", mtu=1400, addresses=(V4,)),))
    assert [str(f) for f in settled.failed] == ["e0 had MTU 1300, not 1400: Operation not permitted"]
    assert kernel.devices["e0"].up
    assert len(kernel.applied) < 10
