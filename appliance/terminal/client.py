"""A command's way to the holder of the login: through the local socket of the one that runs, or by being it for its own
duration. Where the holder goes away before it has answered, the next one is asked the same thing again: the same id, so
that the relay server takes the request up."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.protocol.relay import fingerprint
from appliance.terminal import sentences
from appliance.terminal.dial import Endpoint, JoinRefused, Unreachable, join
from appliance.terminal.holder import Holder
from appliance.terminal.local import Gone, NoHolder, Refused, ask
from appliance.transport import circuit
from appliance.transport.sealing import SealingError, WrongCertificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from appliance.terminal.session import Credentials
    from appliance.terminal.state import State
    from appliance.transport.sealing import Sealed

__all__ = ["Client", "NoConnection", "Opened", "connecting"]

HOLDER_S: Final = 10.0
"""For another process that has the lock to open its socket, or to let go of both."""
LOOK_S: Final = 0.05


class NoConnection(Exception):
    """No circuit; the text says why in a sentence, `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Opened:
    """A circuit whose other end is connected to its service. Owned by whoever opened it."""

    socket: trio.socket.SocketType
    sealed: Sealed


@asynccontextmanager
async def connecting(
    state: State, credentials: Callable[[], Credentials], say: Callable[[str], None]
) -> AsyncIterator[Client]:
    """A client for the length of the block; `credentials` is called where this process has to log in by itself, and may
    raise NoConnection. What it held it logs out of at the end."""
    async with trio.open_nursery() as nursery:
        client = Client(state, credentials, say, nursery)
        try:
            yield client
        finally:
            with trio.CancelScope(shield=True):  # `stop` has its own bound
                await client.close()
            nursery.cancel_scope.cancel()


def _unheard(text: str) -> None:
    """A login for a command's own duration is not what the person asked for; if it fails, the command says why."""


class Client:
    """Asks the holder; several tasks may."""

    def __init__(
        self, state: State, credentials: Callable[[], Credentials], say: Callable[[str], None], nursery: trio.Nursery
    ) -> None:
        self._state = state
        self._credentials = credentials
        self._say = say
        self._nursery = nursery
        self._holder: Holder | None = None
        self._becoming = trio.Lock()

    async def close(self) -> None:
        if self._holder is not None:
            await self._holder.stop()

    async def ask(
        self, verb: str, arguments: Mapping[str, Any], on_progress: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """The holder's result. `wait` among the arguments counts from now. Raises NoConnection."""
        begun = trio.current_time()
        while True:
            given = dict(arguments)
            if "wait" in given:
                given["wait"] = max(0.0, given["wait"] - (trio.current_time() - begun))
            try:
                return await ask(self._state.socket, verb, given, on_progress)
            except NoHolder:
                await self._some_holder()
            except Gone:
                await trio.sleep(LOOK_S)
            except Refused as refused:
                raise NoConnection(str(refused), refused.code) from None

    async def _some_holder(self) -> None:
        """Returns when there is one to ask."""
        deadline = trio.current_time() + HOLDER_S
        async with self._becoming:
            while not await self._listens():
                lock = self._state.lock()
                if lock is not None:
                    await self._hold(lock)
                    return
                if trio.current_time() > deadline:
                    raise NoConnection(f"another process has locked {self._state.folder}, but does not answer", 3)
                await trio.sleep(LOOK_S)

    async def _listens(self) -> bool:
        try:
            stream = await trio.open_unix_socket(str(self._state.socket))
        except (OSError, RuntimeError):
            return False
        await trio.aclose_forcefully(stream)
        return True

    async def _hold(self, lock: int) -> None:
        """Is the holder from now on, beside what this process does; the lock is its own."""
        try:
            holder = Holder(self._state, self._credentials(), _unheard, temporary=True)
        except BaseException:
            self._state.unlock(lock)
            raise
        try:
            await self._nursery.start(self._held, holder, lock)
        except OSError as error:
            raise NoConnection(f"the local socket: {error}", sentences.FAILED) from error

    async def _held(self, holder: Holder, lock: int, *, task_status: trio.TaskStatus[None]) -> None:
        self._holder = holder
        try:
            await holder.hold(task_status=task_status)
        finally:
            self._holder = None
            self._state.unlock(lock)

    # ---- connections
    async def open(self, to: str, service: str, wait_s: float) -> Opened:
        """A circuit to that terminal's service, connected. Raises NoConnection."""
        said = await self._request(to, service, wait_s)
        other = bytes.fromhex(said["certificate"])
        shown = fingerprint(other)
        pin = self._state.terminal_pin(to)
        if pin not in (None, shown):
            raise self._changed(to, str(pin))
        try:
            sock = await join(Endpoint(*said["relay"]), said["name"], bytes.fromhex(said["ticket"]))
        except (Unreachable, JoinRefused) as error:
            raise NoConnection(f"{to}: no circuit: {error}", sentences.UNREACHABLE) from error
        try:
            sealed = await self._sealed(sock, to, service, other)
        except BaseException:
            sock.close()
            raise
        return Opened(sock, sealed)

    async def _request(self, to: str, service: str, wait_s: float) -> dict[str, Any]:
        def progress(what: dict[str, Any]) -> None:
            self._say(sentences.waiting(to, service, what.get("waiting") or {}))

        request = {"id": os.urandom(16).hex(), "to": to, "service": service, "wait": wait_s}
        answer = await self.ask("connect", request, progress)
        if "ready" not in answer:
            said = answer.get("unavailable") or {}
            raise NoConnection(sentences.refusal(to, service, said), sentences.code_of(str(said.get("reason"))))
        return dict(answer["ready"])

    def _changed(self, to: str, pin: str) -> NoConnection:
        return NoConnection(
            f"{to} has another certificate than before ({pin}): certificate-changed. If that is right, "
            f"`posthouse terminal forget {to}`",
            sentences.FAILED,
        )

    async def _sealed(self, sock: trio.socket.SocketType, to: str, service: str, other: bytes) -> Sealed:
        try:
            sealed = await circuit.seal(sock, self._state.key, other, caller=True)
            # A TLS 1.3 client is done before the server has taken its certificate; the byte says that it has.
            await circuit.wait_go(sock, sealed)
        except WrongCertificate as error:
            raise NoConnection(f"{to}: {error}", sentences.FAILED) from error
        except (circuit.NotConnected, SealingError) as error:
            raise NoConnection(
                f"{to} accepted, but its {service} was not connected: {error}", sentences.UNREACHABLE
            ) from error
        pinned = self._state.pin_terminal(to, fingerprint(other))
        if pinned != fingerprint(other):
            raise self._changed(to, pinned)
        return sealed
