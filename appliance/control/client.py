"""The control socket from the other side: synchronous, for the command line and the console. Imports no Trio."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from appliance.protocol.control import MAX_ANSWER, SOCKET_NAME, Decoder, encode
from appliance.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = ["SOCKET_NAME", "NotRunning", "Refused", "Unanswered", "ask"]

CONNECT_S: Final = 5.0


class NotRunning(Exception):
    """No Posthouse answers at this socket."""


class Unanswered(NotRunning):
    """It was asked and ended without an answer: nobody knows whether the verb was done."""


class Refused(Exception):
    """The verb was refused; `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def ask(
    path: Path,
    verb: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    on_progress: Callable[[dict[str, Any]], None] = lambda what: None,
) -> Any:
    """Runs one verb and returns its result. Waits as long as the verb does. Raises NotRunning, Refused, and what
    `on_progress` raises."""
    with socket.socket(socket.AF_UNIX) as sock:
        for message in _messages(sock, path, {"verb": verb, "arguments": dict(arguments or {})}):
            if "progress" in message:
                on_progress(message["progress"])
            elif "error" in message:
                raise Refused(message["error"], int(message.get("code", 1)))
            else:
                return message.get("result")
    raise Unanswered("Posthouse stopped before it had answered")


def _messages(sock: socket.socket, path: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is answered, message by message, until the other side closes. Raises NotRunning."""
    asked = False
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(str(path))
        sock.settimeout(None)
        sock.sendall(encode(request))
        asked = True
        decoder = Decoder(MAX_ANSWER)
        while data := sock.recv(65536):
            decoder.feed(data)
            while (message := decoder.next()) is not None:
                yield message
    except PermissionError as error:
        raise NotRunning(f"no permission for {path}: be root or in the group posthouse") from error
    except RemoteProtocolError as error:
        raise NotRunning(f"what answers at {path} is no Posthouse: {error}") from error
    except OSError as error:
        if asked:
            return  # a connection that is reset: as one that is closed
        raise NotRunning(f"no running Posthouse answers at {path} ({error.strerror or error})") from error
