"""The control socket: a Unix socket that runs verbs out of a dispatch table handed in by `app`.

It knows no verb. A verb is an async function of its arguments and a `Progress`; what it returns is the answer, a
`ControlError` the refusal. A client that goes away cancels its verb, which is how `status --watch` ends.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol.control import MAX_REQUEST, SOCKET_NAME, Decoder, encode
from appliance.protocol.errors import RemoteProtocolError
from appliance.transport.listen import accept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

__all__ = ["ControlError", "Progress", "serve_control"]

SOCKET_MODE: Final = 0o660
SOCKET_PATH_LIMIT: Final = 107
"""Bytes, of a unix socket's path (unix(7): sun_path has room for 108 with its end)."""
SOCKET_GROUP: Final = "posthouse"
REQUEST_S: Final = 10.0
SEND_S: Final = 30.0


class ControlError(Exception):
    """A refusal in one sentence, with the command line's exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Progress:
    """How a verb tells its client how it goes on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lock = trio.Lock()

    async def show(self, what: Mapping[str, Any]) -> None:
        """Sends one progress object. Several tasks may."""
        async with self._lock:
            await _send(self._stream, {"progress": what})


async def serve_control(
    runtime: Path,
    verbs: Mapping[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. Raises OSError where the socket can't be made."""
    path = runtime / SOCKET_NAME
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The lock on this folder (`app` has it) says that no other Posthouse lives: a socket here is a dead one's.
        path.unlink(missing_ok=True)
        old_mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
                raise OSError(f"{path}: longer than the {SOCKET_PATH_LIMIT} bytes that a socket's path may have")
            await sock.bind(str(path))
        finally:
            os.umask(old_mask)
        _give_to_group(runtime)
        _give_to_group(path)
        sock.listen(64)
        listener = trio.SocketListener(sock)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                stream = await accept("control", listener)
                nursery.start_soon(_one_client, stream, verbs)
    finally:
        sock.close()
        path.unlink(missing_ok=True)


def _give_to_group(path: Path) -> None:
    """The socket and the folder that it is in: who may not enter the folder can't reach the socket. A folder that
    everybody may enter stays as it is, it may be others' too."""
    try:
        if not path.stat().st_mode & stat.S_IXOTH:
            os.chown(path, -1, grp.getgrnam(SOCKET_GROUP).gr_gid)
    except (KeyError, PermissionError):
        pass  # no such group on this system, or not ours to give: the owner alone then


async def _one_client(
    stream: trio.SocketStream, verbs: Mapping[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]]
) -> None:
    async with stream:
        try:
            decoder = Decoder(MAX_REQUEST)
            request = None
            try:
                with trio.move_on_after(REQUEST_S):
                    while request is None:
                        data = await stream.receive_some()
                        if not data:
                            return
                        decoder.feed(data)
                        request = decoder.next()
            except RemoteProtocolError as error:
                await _send(stream, {"error": f"that is no request: {error}", "code": 2})
            if request is not None:
                await _answer(stream, request, verbs)
        except* (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass  # the client is gone


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    with trio.fail_after(SEND_S):
        await stream.send_all(encode(message))


async def _answer(
    stream: trio.SocketStream,
    request: Mapping[str, Any],
    verbs: Mapping[str, Callable[[Mapping[str, Any], Progress], Awaitable[Any]]],
) -> None:
    async with trio.open_nursery() as nursery:

        async def cancel_when_gone() -> None:
            while await stream.receive_some():
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_when_gone)
        try:
            verb = verbs.get(str(request.get("verb")))
            arguments = request.get("arguments") or {}
            if verb is None or not isinstance(arguments, dict):
                raise ControlError(f"this Posthouse has no verb {request.get('verb')!r}", 2)
            answer: dict[str, Any] = {"result": await verb(arguments, Progress(stream))}
        except ControlError as error:
            answer = {"error": str(error), "code": error.code}
        except OSError as error:  # of the disk's: those of this connection are trio's
            answer = {"error": f"it failed: {error}", "code": 1}
        await _send(stream, answer)
        nursery.cancel_scope.cancel()
