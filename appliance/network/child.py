"""A program that was started for the network, and its end."""

from __future__ import annotations

import trio

__all__ = ["end"]


async def end(process: trio.Process, patience_s: float) -> None:
    """SIGTERM, and SIGKILL to what still lives `patience_s` seconds later; closes its pipes. Cancellation waits."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.terminate()
            with trio.move_on_after(patience_s):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                await stream.aclose()
