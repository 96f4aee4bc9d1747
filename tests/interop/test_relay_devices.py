"""Things that can't log in, behind the whole product: `posthouse run` at two sites, a device at one, a terminal at the
other; what `terminals`, `peers` and `why` say of it (DESIGN §6)."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from fakes.ports import free_port

from .product import running
from .providers import wait_until
from .relay_world import Pc, RelaySite, Tcp

TERMINAL_KEYS = {"name", "presence", "relay", "path", "since", "services", "back_at"}
PEER_KEYS = {"name", "address", "state", "since", "back_at", "entries", "bytes_in", "bytes_out"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


def shout(sock: socket.socket) -> None:
    """Answers in capitals, until the end."""
    while data := sock.recv(65536):
        sock.sendall(data.upper())


def said(site: RelaySite, name: str) -> str:
    """`posthouse why`, one line."""
    (line,) = site.cli("why", name).stdout.splitlines()
    return str(line)


def test_a_device_is_called_from_another_site_and_shown_as_it_is(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        service = Tcp(shout)
        stack.callback(service.close)
        devices = [
            {"name": "plc1", "services": {"modbus": service.at}, "callers": ["pc11"]},
            {"name": "plc2", "services": {"modbus": f"127.0.0.1:{free_port()}"}, "callers": ["*"]},
            {"name": "plc3", "services": {"modbus": service.at}},
        ]
        b = RelaySite(tmp_path / "b", "b", peers={"a": None}, more={"device": devices})
        stack.enter_context(running(b))
        a = RelaySite(tmp_path / "a", "a", terminals=("pc11",), peers={"b": b})
        stack.enter_context(running(a))
        pc11 = Pc(tmp_path, "pc11", a)
        stack.callback(pc11.stop)
        pc11.login()
        wait_until(lambda: (a.shows("plc1"), a.shows("plc2")) == ("online", "offline"), "the devices are in a's table")
        done = pc11.terminal("connect", "plc1", "modbus", input=b"question")
        assert (done.returncode, done.stdout) == (0, b"QUESTION"), done.stderr
        done = pc11.terminal("connect", "plc2", "modbus")
        assert done.returncode == 3, done.stderr
        assert re.fullmatch(rb"posthouse: plc2 is offline: it is not logged in, since .*[0-9:]+\n", done.stderr)
        done = pc11.terminal("connect", "plc3", "modbus")  # its own site's terminals alone may call it
        assert done.returncode == 1, done.stderr
        rows = {row["name"]: row for row in a.ask("terminals")}
        assert set(rows) == {"pc11", "plc1", "plc2", "plc3"} and all(set(row) == TERMINAL_KEYS for row in rows.values())
        plc1 = rows["plc1"]
        assert (plc1["relay"], plc1["path"], plc1["services"], plc1["back_at"]) == ("b", ["b", "a"], ["modbus"], None)
        assert TIME.fullmatch(plc1["since"])
        (peer,) = a.ask("peers")
        assert set(peer) == PEER_KEYS
        assert (peer["name"], peer["address"], peer["state"], peer["entries"]) == ("b", b.at, "up", 3)
        assert TIME.fullmatch(peer["since"]) and peer["bytes_in"] > 0 and peer["bytes_out"] > 0
        assert said(a, "plc1") == "a call of plc1 rings now: it is logged in at b"
        assert said(a, "plc2").startswith("a call of plc2 is refused (offline): it has not been logged in at b since ")
        assert re.search("it is a device of this relay server, and it does not answer since [0-9:]+$", said(b, "plc2"))
        assert said(a, "plc9").endswith("is refused (not-registered): no terminal of that name has logged in")
