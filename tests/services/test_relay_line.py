"""Connections that go over a line, at the relay server: the time that they have, and what the kernel holds of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.app.relay import RelayPart
from appliance.control.server import ControlError
from appliance.relay import listener
from appliance.relay.connection import NOTSENT_LOWAT
from fakes.relay_house import House, house


def held(fd: int) -> int:
    """TCP_NOTSENT_LOWAT of that descriptor."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


def strangers(h: House) -> list[tuple[int, float]]:
    """(TCP_NOTSENT_LOWAT, seconds left) of connections that have not said who they are, the shortest first."""
    owners = enumerate(h.server.epoll._owners)
    found = [(fd, owner._timer) for fd, owner in owners if isinstance(owner, listener._Newcomer)]
    return sorted((held(fd), timer.seconds_left) for fd, timer in found if timer is not None)


async def test_a_connection_that_comes_in_over_a_line_has_the_time_of_a_line(tmp_path: Path) -> None:
    assert (listener.AUTHENTICATION_S, listener.LINE_AUTHENTICATION_S) == (10, 60)
    lines: set[str] = {"127.0.0.1"}
    async with house(tmp_path, over_line=lambda address: address in lines) as h:
        slow = await trio.open_tcp_stream("127.0.0.1", h.port)
        while not strangers(h):
            await trio.sleep(0.005)
        lines.clear()
        quick = await trio.open_tcp_stream("127.0.0.1", h.port)
        while len(strangers(h)) < 2:
            await trio.sleep(0.005)
        (net, net_s), (line, line_s) = strangers(h)
        assert (net, line) == (0, NOTSENT_LOWAT)
        assert net_s <= 10 < line_s <= 60
        await slow.aclose()
        await quick.aclose()


def sock(address: str) -> Any:
    """A connection to this address of ours."""
    return SimpleNamespace(getsockname=lambda: (address, 7400))


def test_a_line_is_known_by_the_address_that_its_device_has_while_a_call_is_up() -> None:
    caller = SimpleNamespace(device="")
    house: Any = SimpleNamespace(caller_or_none=None)
    part = RelayPart(house)
    here, elsewhere, mapped = (sock(a) for a in ("127.0.0.1", "192.0.2.1", "::ffff:127.0.0.1"))
    assert not part._over_line(here)
    house.caller_or_none = caller
    assert not part._over_line(here)
    caller.device = "lo"
    assert part._over_line(here) and part._over_line(mapped) and not part._over_line(elsewhere)
    assert listener.bare("fe80::1%lo") == "fe80::1"


@pytest.mark.parametrize("name", ["PC11", "", "a b", None, 7, ["pc11"]])
@pytest.mark.parametrize("verb", ["why", "enrol"])
async def test_a_name_that_is_none_is_not_looked_up(verb: str, name: object) -> None:
    part = RelayPart(SimpleNamespace(config=None))  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="is no name: a name is 1 to 63 of a-z 0-9 - .") as refused:
        await getattr(part, verb)({"name": name}, None)
    assert refused.value.code == 2
