"""The serial port: what a port promises, held against the real one on a pty and the tests' fake; errors in words."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.modem.port import Port, PortError, open_serial
from fakes.modem import FakeModem, FakePort, modem_on_pty, modem_with_lines

Opener = Callable[[], "AsyncIterator[tuple[FakeModem, Port]]"]


@asynccontextmanager
async def real() -> AsyncIterator[tuple[FakeModem, Port]]:
    async with modem_on_pty() as (modem, path):
        port = await open_serial(path, 115200, "none")
        yield modem, port
        await port.aclose()


@asynccontextmanager
async def fake() -> AsyncIterator[tuple[FakeModem, Port]]:
    async with modem_with_lines() as modem:
        yield modem, FakePort(modem)


both = pytest.mark.parametrize("opened", [real, fake])


async def receive(port: Port, n: int) -> bytes:
    out = b""
    with trio.fail_after(10):
        while len(out) < n:
            out += await port.receive()
    return out


@both
async def test_bytes_pass_unchanged_both_ways(opened: Opener) -> None:
    async with opened() as (modem, port):
        every = bytes(range(256))
        modem.say(every)
        assert await receive(port, 256) == every
        modem.echo = False
        await port.send(b"AT\r")
        assert await receive(port, 6) == b"\r\nOK\r\n"
        assert modem.heard == ["AT"]


@both
async def test_no_data_is_not_the_end(opened: Opener) -> None:
    async with opened() as (modem, port):
        with trio.move_on_after(0.3) as waited:
            await port.receive()
        assert waited.cancelled_caught
        modem.say(b"x")
        assert await receive(port, 1) == b"x"


@both
async def test_a_hang_up_is_an_error(opened: Opener) -> None:
    async with opened() as (modem, port):
        modem.end()
        with trio.fail_after(10), pytest.raises(PortError):
            await port.receive()


@both
async def test_a_closed_port(opened: Opener) -> None:
    async with opened() as (_, port):
        await port.aclose()
        await port.aclose()
        with pytest.raises(PortError):
            await port.receive()
        with pytest.raises(PortError):
            await port.send(b"x")


@both
async def test_modem_lines(opened: Opener) -> None:
    async with opened() as (modem, port):
        modem.state = "online"
        assert await port.carrier() is port.has_lines
        await port.set_dtr(False)
        assert modem.on_hook is port.has_lines
        assert not await port.carrier()
        await port.set_dtr(True)


async def test_a_pty_has_no_modem_lines() -> None:
    async with real() as (_, port):
        assert not port.has_lines


async def test_closing_is_done_under_cancellation() -> None:
    async with modem_on_pty() as (_, path):
        port = await open_serial(path, 9600, "hardware")
        with trio.CancelScope() as scope:
            scope.cancel()
            await port.aclose()
        again = await open_serial(path, 9600, "none")
        await again.aclose()


async def test_a_port_in_use(tmp_path: Path) -> None:
    async with modem_on_pty() as (_, path):
        port = await open_serial(path, 115200, "none")
        with pytest.raises(PortError, match="in use by another program") as raised:
            await open_serial(path, 115200, "none")
        assert raised.value.busy
        await port.aclose()
        other = os.open(path, os.O_RDWR | os.O_NOCTTY)
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PortError, match="in use by another program"):
            await open_serial(path, 115200, "none")
        os.close(other)


async def test_errors_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "file"
    plain.write_bytes(b"")
    for path, words in [
        (tmp_path / "none", "there is no such port"),
        (tmp_path, "this is a folder"),
        (plain, "this is not a serial port"),
    ]:
        with pytest.raises(PortError, match=words):
            await open_serial(str(path), 115200, "none")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")  # root gets none from the kernel

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PortError, match="no permission"):
        await open_serial(str(plain), 115200, "none")


async def test_opening_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    let_go = threading.Event()
    done = threading.Event()
    fds: list[int] = []
    real_open = os.open

    async with modem_on_pty() as (_, path):

        def slow(name: object, *args: int) -> int:
            if name != path:
                return real_open(name, *args)  # type: ignore[arg-type]
            let_go.wait(10)
            fds.append(real_open(path, *args))
            return fds[0]

        real_close = os.close

        def close(fd: int) -> None:
            real_close(fd)
            if fd in fds:
                done.set()

        monkeypatch.setattr(os, "open", slow)
        monkeypatch.setattr(os, "close", close)
        with trio.move_on_after(0.1) as waited:
            await open_serial(path, 115200, "none")
        assert waited.cancelled_caught
        let_go.set()
        assert await trio.to_thread.run_sync(done.wait, 10), "the port that opened too late stays open"
