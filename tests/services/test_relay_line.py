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
from appliance.relay import listener
from appliance.relay.connection import NOTSENT_LOWAT
from fakes.relay_house import House, house


def held(fd: int) -> int:
    """TCP_NOTSENT_LOWAT of that descriptor."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


def strangers(h: House) -> list[int]:
    """Descriptors of connections that have not said who they are."""
    owners = enumerate(h.server.epoll._owners)
    return [fd for fd, owner in owners if isinstance(owner, listener._Newcomer)]


async def test_a_connection_that_comes_in_over_a_line_has_the_time_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "AUTHENTICATION_S", 0.1)
    lines: set[str] = {"127.0.0.1"}
    async with house(tmp_path, over_line=lambda address: address in lines) as h:
        slow = await trio.open_tcp_stream("127.0.0.1", h.port)
        while not strangers(h):
            await trio.sleep(0.005)
        assert [held(fd) for fd in strangers(h)] == [NOTSENT_LOWAT]
        lines.clear()
        quick = await trio.open_tcp_stream("127.0.0.1", h.port)
        while len(strangers(h)) < 2:
            await trio.sleep(0.005)
        assert sorted(held(fd) for fd in strangers(h)) == [0, NOTSENT_LOWAT]
        assert await quick.receive_some() == b""
        assert h.server.listener.strangers == 1  # the one over the line, though it came first
        await slow.aclose()
        await quick.aclose()


def test_a_line_is_known_by_the_address_that_its_device_has_while_a_call_is_up() -> None:
    caller = SimpleNamespace(device="")
    house: Any = SimpleNamespace(caller_or_none=None)
    part = RelayPart(house)
    assert not part._over_line("127.0.0.1")
    house.caller_or_none = caller
    assert not part._over_line("127.0.0.1")
    caller.device = "lo"
    assert part._over_line("127.0.0.1") and not part._over_line("192.0.2.1")
    assert listener._bare("::ffff:127.0.0.1") == "127.0.0.1" and listener._bare("fe80::1%lo") == "fe80::1"
