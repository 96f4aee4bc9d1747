"""Standard input and output as a circuit's local end, where it is broken off in the middle."""

from __future__ import annotations

import os

import trio

from appliance.terminal.standard import StandardStreams


async def test_a_read_that_is_broken_off_holds_on_to_nothing() -> None:
    source, far = os.pipe()
    streams = StandardStreams(source, far)
    buffer = bytearray(10)
    with trio.move_on_after(0.05) as scope, memoryview(buffer) as view:
        await streams.receive_into(view)
    assert scope.cancelled_caught
    buffer += b"x"  # BufferError, were it still in somebody's hands
    os.write(far, b"the thread ends")
    os.close(far)


async def test_a_write_that_is_broken_off_holds_on_to_nothing() -> None:
    far, sink = os.pipe()
    streams = StandardStreams(far, sink)
    buffer = bytearray(1 << 20)
    with trio.move_on_after(0.05) as scope, memoryview(buffer) as view, view[:7] as head, view[7:] as rest:
        await streams.send_all([head, rest])
    assert scope.cancelled_caught
    buffer += b"x"
    os.set_blocking(far, False)
    while True:  # the thread ends
        try:
            if not os.read(far, 1 << 20):
                break
        except BlockingIOError:
            await trio.sleep(0.01)
            streams.close()
    os.close(far)


async def test_what_goes_in_comes_out() -> None:
    source, feed = os.pipe()
    far, sink = os.pipe()
    streams = StandardStreams(source, sink)
    os.write(feed, b"to the circuit")
    buffer = bytearray(100)
    assert bytes(buffer[: await streams.receive_into(memoryview(buffer))]) == b"to the circuit"
    await streams.send_all([memoryview(b"from "), memoryview(b"it")])
    assert os.read(far, 100) == b"from it"
    for fd in (source, feed, far):
        os.close(fd)
