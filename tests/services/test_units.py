"""Units over a real message bus, with a systemd of our own on it that answers as org.freedesktop.systemd1(5) says."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.trio import DBusConnection, DBusRouter, open_dbus_connection

from appliance.host import units
from appliance.host.units import BUS, Unit, UnitError, systemd_runs

NAME = "posthouse-dnsmasq.service"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>"""


class FakeSystemd:
    """`states`: unit -> its ActiveState in turn at each look, the last stays; `job`: how often its job is found until
    it is done; `refuse`: what it says instead. `looks`: at a unit's state so far."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}
        self.asked: list[tuple[str, ...]] = []
        self.refuse = ""
        self.job = 3
        self.silent = False
        self.looks = 0
        self.subscribers = 0
        self.daemon: trio.Process | None = None
        self.connection: DBusConnection | None = None

    async def run(self, connection: DBusConnection) -> None:
        while True:
            try:
                message = await connection.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            if message.header.message_type is not MessageType.method_call or self.silent:
                continue
            await connection.send(self.answer(message))

    def answer(self, message: Message) -> Message:
        member = message.header.fields[HeaderFields.member]
        path = message.header.fields[HeaderFields.path]
        if member == "Get" and "/job/" in path:
            self.job -= 1
            if self.job < 0:
                return new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "s", ("no such job",))
            return new_method_return(message, "v", (("s", "running"),))
        if member == "Get":
            _, name = message.body
            unit = path.rpartition("/")[2].replace("_", "-").replace("-service", ".service")
            if name == "LoadState":
                return new_method_return(message, "v", (("s", "loaded" if unit in self.states else "not-found"),))
            states = self.states[unit]
            self.looks += 1
            return new_method_return(message, "v", (("s", states.pop(0) if len(states) > 1 else states[0]),))
        if member == "LoadUnit":
            unit = message.body[0].replace("-", "_").replace(".", "_")
            return new_method_return(message, "o", (f"/org/freedesktop/systemd1/unit/{unit}",))
        if member == "Subscribe":
            self.subscribers += 1
            return new_method_return(message)
        self.asked.append((member, *message.body))
        if self.refuse:
            return new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", (self.refuse,))
        return new_method_return(message, "o", ("/org/freedesktop/systemd1/job/1",))

    async def change(self, unit: str, *states: str) -> None:
        """As systemd says it to who has subscribed."""
        self.states[unit] = list(states)
        path = "/org/freedesktop/systemd1/unit/" + unit.replace("-", "_").replace(".", "_")
        emitter = DBusAddress(path, interface=units.PROPERTIES)
        said = (f"{BUS}.Unit", {"ActiveState": ("s", states[0])}, [])
        assert self.connection and self.subscribers
        await self.connection.send(new_signal(emitter, "PropertiesChanged", "sa{sv}as", said))

    async def wait_looks(self, count: int) -> None:
        with trio.fail_after(10):
            while self.looks < count:
                await trio.sleep(0.01)


@pytest.fixture
async def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSystemd]:
    socket = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=socket))
    daemon = await trio.lowlevel.open_process(
        ["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--nopidfile"],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with trio.fail_after(10):
        while True:
            try:
                (await trio.open_unix_socket(socket)).socket.close()
                break
            except OSError:  # not there, or bound and not listening yet
                await trio.sleep(0.01)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={socket}")
    monkeypatch.setattr(units, "LOOK_S", 0.01)
    with trio.fail_after(10):
        connection = await open_dbus_connection("SYSTEM")
        async with connection.router() as router:
            await router.send_and_get_reply(message_bus.RequestName(BUS))
    fake = FakeSystemd()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.run, connection)
        fake.daemon, fake.connection = daemon, connection
        yield fake
        nursery.cancel_scope.cancel()
    await connection.aclose()
    daemon.terminate()
    await daemon.wait()


async def test_whether_there_is_one(systemd: FakeSystemd) -> None:
    systemd.states[NAME] = ["inactive"]
    assert await Unit(NAME).exists()
    assert not await Unit("nobody-knows.service").exists()


async def test_start(systemd: FakeSystemd) -> None:
    systemd.states[NAME] = ["active"]
    assert await Unit(NAME).start() == ""
    assert systemd.asked == [("RestartUnit", NAME, "replace")]
    assert systemd.job == -1


@pytest.mark.parametrize("states", [["inactive"], ["failed"]])
async def test_stop(systemd: FakeSystemd, states: list[str]) -> None:
    systemd.states[NAME] = states
    assert await Unit(NAME).stop() == ""
    assert systemd.asked == [("StopUnit", NAME, "replace")]


@pytest.mark.parametrize(
    ("state", "why"), [("inactive", ""), ("failed", f"{NAME} is failed: see `journalctl -u {NAME}`")]
)
async def test_one_that_does_its_work_and_ends(systemd: FakeSystemd, state: str, why: str) -> None:
    systemd.states[NAME] = [state]
    assert await Unit(NAME).run_once() == why
    assert systemd.asked == [("StartUnit", NAME, "replace")]


@pytest.mark.parametrize("state", ["failed", "inactive", "activating"])
async def test_one_that_fails(systemd: FakeSystemd, state: str) -> None:
    systemd.states[NAME] = [state]
    assert await Unit(NAME).start() == f"{NAME} is {state}: see `journalctl -u {NAME}`"


async def test_what_is_not_allowed(systemd: FakeSystemd) -> None:
    systemd.states[NAME] = ["inactive"]
    systemd.refuse = "Interactive authentication required."
    assert await Unit(NAME).start() == f"{NAME}: Interactive authentication required."
    assert await Unit(NAME).stop() == f"{NAME}: Interactive authentication required."


async def test_one_that_never_gets_there(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "CHANGE_S", 0.3)
    systemd.states[NAME] = ["activating"]
    systemd.job = 10**6
    assert await Unit(NAME).start() == f"{NAME} is not active after 0.3 s"


async def test_a_systemd_that_says_nothing(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "ASK_S", 0.2)
    systemd.silent = True
    assert (await Unit(NAME).start()).startswith(f"{NAME}: systemd does not answer")
    assert not await Unit(NAME).exists()


async def test_a_bus_that_goes_away(systemd: FakeSystemd) -> None:
    systemd.silent = True
    assert systemd.daemon

    async def kill() -> None:
        await trio.sleep(0.2)
        assert systemd.daemon
        systemd.daemon.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        assert "the system bus is gone" in await Unit(NAME).start()


async def test_one_that_ends(systemd: FakeSystemd) -> None:
    """Systemd says so: it is asked only then, over one connection."""
    systemd.states[NAME] = ["active"]
    why: list[str] = []

    async def wait() -> None:
        why.append(await Unit(NAME).wait_ended())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await systemd.wait_looks(1)
        for n, state in enumerate(("activating", "active", "deactivating"), 2):
            await systemd.change("another.service", "failed")
            await systemd.change(NAME, state)
            await systemd.wait_looks(n)
        await systemd.change(NAME, "failed")
        with trio.fail_after(10):
            while not why:
                await trio.sleep(0.01)
    assert (why, systemd.looks, systemd.subscribers) == ([f"{NAME} is failed"], 5, 1)


async def test_one_that_has_ended_before(systemd: FakeSystemd) -> None:
    systemd.states[NAME] = ["inactive"]
    with trio.fail_after(10):
        assert await Unit(NAME).wait_ended() == f"{NAME} is inactive"


async def test_one_that_ends_and_nobody_says_so(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "WATCH_S", 0.01)
    systemd.states[NAME] = ["active", "active", "activating", "active", "failed"]
    with trio.fail_after(10):
        assert await Unit(NAME).wait_ended() == f"{NAME} is failed"
    assert systemd.subscribers == 1


async def test_one_that_ends_while_the_bus_is_lost(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "AGAIN_S", 0.01)
    systemd.states[NAME] = ["active"]
    lost = 0
    with_systemd = units._with_systemd

    async def once_more(work: Callable[[DBusRouter], Awaitable[str]]) -> str:
        nonlocal lost
        if lost == 3:  # it is there again, and another one
            return "failed"
        try:
            return await with_systemd(work)
        except UnitError:
            lost += 1
            raise

    monkeypatch.setattr(units, "_with_systemd", once_more)

    async def kill() -> None:
        await systemd.wait_looks(1)
        assert systemd.daemon
        systemd.daemon.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        with trio.fail_after(10):
            assert await Unit(NAME).wait_ended() == f"{NAME} is failed"
    assert lost == 3


async def test_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    assert (await Unit(NAME).start()).startswith(f"{NAME}: no system bus: ")
    assert not await Unit(NAME).exists()


def test_whether_systemd_runs(tmp_path: Path) -> None:
    assert systemd_runs(tmp_path)
    assert not systemd_runs(tmp_path / "none")
