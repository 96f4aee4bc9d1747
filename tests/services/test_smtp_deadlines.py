"""Submission: silence, trickles and too many clients; stopping; memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.mail.lan import smtp as module
from appliance.transport.listen import ClientLimits
from fakes.smtp_house import ENVELOPE, LOGIN, WAIT, House, smtp_house


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "DEADLINE_STEP_S", 0.0)  # the deadlines of these tests are shorter
    async with smtp_house(tmp_path) as it:
        yield it


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "idle for too long"),
        (b"NOOP\r\n", "idle for too long"),
        (ENVELOPE, "idle for too long"),
        (ENVELOPE + b"BDAT 3\r\nabc", "the message comes too slowly"),
        (b"NOO", "the command was not completed"),
        (ENVELOPE + b"DATA\r\nx: y\r\n", "the message comes too slowly"),
        (ENVELOPE + b"BDAT 100\r\nx: y\r\n", "the message comes too slowly"),
        (b"AUTH LOGIN\r\n", "idle for too long"),
    ],
)
async def test_silence(house: House, said: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND_S", 0.2)
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.2)
    await house.start(idle_timeout_s=0.3)
    client = await house.hello(b"" if b"AUTH" in said else LOGIN)
    await client.stream.send_all(said)
    last = (await client.ends()).decode().split("\r\n")[-2]
    assert last.startswith("421 4.4.2 ")
    assert why in last
    assert not house.office.paths.incoming.exists() or not list(house.office.paths.incoming.iterdir())


@pytest.mark.parametrize(("pace", "why"), [(30, "the message comes too slowly"), (0, "the command was not completed")])
async def test_a_trickle(house: House, pace: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no progress, neither of a command nor of a message."""
    monkeypatch.setattr(module, "COMMAND_S", 0.3)
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.3)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    if pace:
        await client.say(ENVELOPE + b"DATA\r\n", 3)

    async def trickle() -> None:
        try:
            while True:
                await client.stream.send_all(b"x" * (pace or 1))
                await trio.sleep(0.02)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert why in await client.reply()
        nursery.cancel_scope.cancel()


async def test_a_trickle_of_chunks(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole in itself, and small: it is the message that has to make progress."""
    monkeypatch.setattr(module, "RATE_WINDOW_S", 0.3)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    await client.say(ENVELOPE, 2)
    with trio.fail_after(WAIT):
        while (answer := (await client.say(b"BDAT 1\r\nx"))[0]).startswith("250 "):
            await trio.sleep(0.02)
    assert "the message comes too slowly" in answer


async def test_a_command_behind_a_long_message_has_its_own_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND_S", 1.0)
    await house.start(idle_timeout_s=WAIT)
    client = await house.hello()
    await client.say(ENVELOPE + b"DATA\r\n", 3)
    for _ in range(6):
        await trio.sleep(0.2)
        await client.stream.send_all(b"x: y\r\n")
    assert await client.codes(b".\r\nNO") == ["250 2.0.0"]
    assert await client.codes(b"OP\r\n") == ["250 2.0.0"]


async def test_a_slow_line_that_keeps_the_rate_is_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATE_WINDOW_S", 1.0)
    monkeypatch.setattr(module, "RATE_BYTES", 10)
    await house.start(idle_timeout_s=0.1)  # silence between commands is something else
    client = await house.connect()
    await client.reply()
    await client.say(b"EHLO pc\r\n" + LOGIN + ENVELOPE + b"DATA\r\n", 5)
    await client.stream.send_all(b"x: y\r\n\r\n")
    for _ in range(10):
        await trio.sleep(0.15)
        await client.stream.send_all(b"z" * 20 + b"\r\n")
    assert await client.codes(b".\r\n") == ["250 2.0.0"]


@pytest.mark.parametrize("said", [b"", ENVELOPE + b"DATA\r\nx: y\r\n", ENVELOPE + b"BDAT 3\r\nabc", b"NOO"])
async def test_a_session_ends_at_last(house: House, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSION_S", 0.5)
    await house.start()
    client = await house.hello()
    await client.stream.send_all(said)
    last = (await client.ends()).decode().split("\r\n")[-2]
    assert last == "421 4.4.2 harbour.harbour.example closing: the session lasted too long"
    assert not list(house.office.paths.incoming.iterdir())


async def test_a_client_that_does_not_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.2)
    await house.start()
    client = await house.hello()
    with trio.fail_after(WAIT), pytest.raises(trio.BrokenResourceError):
        while True:
            await client.stream.send_all(b"HELP\r\n" * 10_000)


async def test_too_many_clients(house: House) -> None:
    await house.start(limits=ClientLimits(2, 100))
    first, _second, third = [await house.connect() for _ in range(3)]
    assert await third.ends() == (b"421 4.7.0 harbour.harbour.example too many connections from your address\r\n")
    await first.say(b"QUIT\r\n", 2)
    await first.ends()
    with trio.fail_after(WAIT):
        while not (await (await house.connect()).reply()).startswith("220 "):
            await trio.sleep(0.01)


# ---- stopping
async def test_drain_ends_sessions_between_messages_and_waits_for_the_others(house: House) -> None:
    await house.start()
    idle, busy = await house.hello(), await house.hello()
    await busy.say(ENVELOPE + b"DATA\r\n", 3)
    drained = trio.Event()

    async def drain() -> None:
        await house.service.drain()
        drained.set()

    house.nursery.start_soon(drain)
    assert (await idle.ends()).startswith(b"421 ")
    await busy.stream.send_all(b"x: y\r\n\r\nhi\r\n")
    assert not drained.is_set()
    assert await busy.codes(b".\r\n") == ["250 2.0.0"]
    assert b"421 " in await busy.ends()
    with trio.fail_after(WAIT):
        await drained.wait()
    assert len(house.sent()) == 1


async def test_drain_without_sessions_ends_at_once(house: House) -> None:
    await house.start()
    with trio.fail_after(WAIT):
        await house.service.drain()


# ---- memory
@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_memory_does_not_grow_with_the_message(house: House, verb: str) -> None:
    await house.start(message_limit_bytes=100 << 20, bulk_size_bytes=100 << 20)
    client = await house.hello()
    line = os.urandom(45).hex().encode() + b"\r\n"
    piece = line * 700
    count = (30 << 20) // len(piece)
    await client.say(ENVELOPE, 2)
    if verb == "DATA":
        await client.say(b"DATA\r\n")
    else:
        await client.stream.send_all(b"BDAT %d LAST\r\n" % (len(piece) * count + 8))
    await client.stream.send_all(b"x: y\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(count):
            await client.stream.send_all(piece)
        if verb == "DATA":
            await client.stream.send_all(b".\r\n")
        assert (await client.reply()).startswith("250 ")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (envelope,) = house.office.office.pending()
    assert envelope.size > 29 << 20
    assert peak < 2 << 20
