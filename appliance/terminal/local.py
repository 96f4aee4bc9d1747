"""The local socket of the one holder of a terminal's login: list, connect and forward ask it, and open their data
connections themselves, so that the holder moves no bytes for them. The words are those of the control socket.

    connect {id, to, service, wait}  progress {waiting}… result {ready: …} | {unavailable: …}
    list {watch}                     progress {entries}… result {}
    step-aside {}                    result {}: a `login` takes over from a command that held it for its own duration

Bytes (ids, tickets, certificates) are hex.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol.control import MAX_REQUEST, Decoder, encode
from appliance.protocol.errors import RemoteProtocolError
from appliance.transport.listen import accept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Verbs = Mapping[
        str, Callable[[Mapping[str, Any], Callable[[Mapping[str, Any]], Awaitable[None]]], Awaitable[dict[str, Any]]]
    ]

__all__ = ["Gone", "NoHolder", "Refused", "ask", "listen_at", "serve_local"]

REQUEST_S: Final = 10.0
SEND_S: Final = 30.0
CONNECT_S: Final = 5.0
MAX_ANSWER: Final = 16 * 1024 * 1024
"""A table of 20,000 entries (RELAY §1's limit for a peer) comes in frames of 500; one of them has a fraction of it."""
PATH_LIMIT: Final = 100
"""Of a Unix socket: 108 bytes with its final NUL on Linux, 104 on others (unix(7))."""


class NoHolder(Exception):
    """Nobody holds the login."""


class Gone(Exception):
    """The holder went away before it had answered: ask the next one again."""


class Refused(Exception):
    """The holder's sentence, and the exit code that goes with it."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


# ---- the holder
async def listen_at(path: Path) -> trio.SocketListener:
    """Only for whoever has the folder's lock: a socket there is then a dead one's. Raises OSError."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise OSError(f"the path {path} is too long for a socket; give a shorter --state")
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - a name in the state folder, and nothing else goes on yet
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.bind(str(path))
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(sock)


async def serve_local(listener: trio.SocketListener, verbs: Verbs) -> None:
    """Serves until cancelled. A verb gets its arguments and an async function for its progress, gives the result or
    raises Refused; it is cancelled when its client goes away."""
    async with listener, trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(_one_client, await accept("terminal", listener), verbs)


async def _one_client(stream: trio.SocketStream, verbs: Verbs) -> None:
    decoder = Decoder(MAX_REQUEST)
    try:
        async with stream:
            request = None
            with trio.move_on_after(REQUEST_S):
                while request is None and (data := await stream.receive_some()):
                    decoder.feed(data)
                    request = decoder.next()
            if request is not None:
                await _answer(stream, request, verbs)
    except* (OSError, trio.BrokenResourceError, trio.TooSlowError, RemoteProtocolError):
        pass  # the client is gone, or was none


async def _answer(
    stream: trio.SocketStream,
    request: Mapping[str, Any],
    verbs: Mapping[str, Callable[[Mapping[str, Any], Any], Awaitable[dict[str, Any]]]],
) -> None:
    verb, arguments = verbs.get(str(request.get("verb"))), request.get("arguments")
    async with trio.open_nursery() as nursery:

        async def cancel_when_gone() -> None:
            while await stream.receive_some():
                pass
            nursery.cancel_scope.cancel()

        async def show(what: Mapping[str, Any]) -> None:
            await _send(stream, {"progress": dict(what)})

        nursery.start_soon(cancel_when_gone)
        try:
            if verb is None or not isinstance(arguments, dict):
                raise Refused(f"the running `posthouse terminal login` knows no {request.get('verb')!r}", 2)
            answer: dict[str, Any] = {"result": await verb(arguments, show)}
        except Refused as refused:
            answer = {"error": str(refused), "code": refused.code}
        await _send(stream, answer)
        nursery.cancel_scope.cancel()


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    with trio.fail_after(SEND_S):
        await stream.send_all(encode(message))


# ---- its clients
async def ask(
    path: Path, verb: str, arguments: Mapping[str, Any], on_progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """One verb's result. Waits as long as the verb does. Raises NoHolder, Gone, Refused."""
    stream = await _open(path)
    decoder = Decoder(MAX_ANSWER)
    try:
        async with stream:
            await _send(stream, {"verb": verb, "arguments": dict(arguments)})
            while data := await stream.receive_some():
                decoder.feed(data)
                while (message := decoder.next()) is not None:
                    if "progress" in message:
                        on_progress(message["progress"])
                    elif "error" in message:
                        raise Refused(str(message["error"]), int(message.get("code", 1)))
                    else:
                        return dict(message.get("result") or {})
    except (trio.BrokenResourceError, trio.TooSlowError, RemoteProtocolError) as error:
        raise Gone from error
    raise Gone


async def _open(path: Path) -> trio.SocketStream:
    try:
        with trio.fail_after(CONNECT_S):
            return await trio.open_unix_socket(str(path))
    except (OSError, RuntimeError, trio.TooSlowError) as error:
        raise NoHolder from error
