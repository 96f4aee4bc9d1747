"""PPP on a carrier, as the line sees it: from the port's descriptor to a network device, its name servers and its end.

It owns the connection to the root helper (`ppp_helper`, which owns pppd) and what is known of the call's network. It
must not know the modem. Where this process is root the helper is its child; else systemd starts it for the connection
to `posthouse-ppp.socket` (DESIGN §4). A `Ppp` is made for one call: `open` before the number is dialled, so that a
host without PPP pays for no call; `start` on CONNECT; `stop` before the modem is hung up, which gives the port back;
`aclose` once it is.

How pppd's exit becomes the call's outcome (DESIGN §6):

| pppd's exit                                    | outcome            |
|------------------------------------------------|--------------------|
| 11, 19: who we are was refused, or not proved   | login-refused      |
| 15: no answer to LCP echo; 16: the port hung up | carrier-lost       |
| 12: idle                                        | complete           |
| 13: its longest time                            | max-call           |
| 0, 5 once the network was up: the far end has closed it | carrier-lost |
| 8, 10, 17 and all others                        | negotiation-failed |
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance import events
from appliance.call import Outcome
from appliance.modem.ppp_helper import Refused, parse_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["HELPER", "HELPER_SOCKET", "Link", "Ppp", "PppError", "connect", "outcome_of", "spawn", "unfit"]

HELPER_SOCKET: Final = Path("/run/posthouse-ppp.socket")
HELPER: Final = (sys.executable, "-I", str(Path(__file__).with_name("ppp_helper.py")))
"""-I: neither the environment nor the working folder says what a root program imports."""
OPEN_S: Final = 15.0
"""To the helper's first word: an interpreter's start, 1.5 s on a slow board under load, and the kernel's modules."""
UP_S: Final = {"hayes": 60.0, "gsm": 60.0, "iridium": 90.0}
"""From CONNECT to an address: ten LCP requests, a login, ten IPCP requests; by satellite each takes longer."""
STOP_S: Final = {"hayes": 2.0, "gsm": 2.0, "iridium": 5.0}
"""For the far end's answer to Terminate-Request (RFC 1661 §5.5), a round trip that is paid. Then pppd is killed."""
END_S: Final = 3.0
"""From SIGKILL to the helper's report, with the port given back; a port that hangs keeps it longer."""
MESSAGE_LIMIT: Final = 4096

_EXITS: Final = {
    11: Outcome.LOGIN_REFUSED,
    12: Outcome.COMPLETE,
    13: Outcome.MAX_CALL,
    15: Outcome.CARRIER_LOST,
    16: Outcome.CARRIER_LOST,
    19: Outcome.LOGIN_REFUSED,
}
LOOPBACK: Final = 17
_ECHO_WORDS: Final = ("looped back", "Loopback detected", "our own echo-reply")
"""What pppd says where its own packets come back (LCP's magic number, RFC 1661 §6.4): a modem off the line echoes."""
_CLOSED: Final = frozenset({0, 5})
"""pppd's exits after a Terminate-Request of the far end's, and after a signal of somebody else's."""


class PppError(Exception):
    """PPP can't be had on this host; the text is a plain sentence."""


def outcome_of(code: int, *, was_up: bool) -> Outcome:
    """What pppd's exit code makes of the call."""
    if was_up and code in _CLOSED:
        return Outcome.CARRIER_LOST
    return _EXITS.get(code, Outcome.NEGOTIATION_FAILED)


class Link:
    """A connection to a helper of its own: messages both ways."""

    def __init__(self, sock: trio.socket.SocketType, child: trio.Process | None = None) -> None:
        self._sock = sock
        self._child = child

    async def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises OSError."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        await self._sock.sendmsg([json.dumps(message).encode()], rights)

    async def receive(self) -> dict[str, Any] | None:
        """The helper's next message; None when it has ended."""
        try:
            data = await self._sock.recv(MESSAGE_LIMIT)
            message = json.loads(data) if data else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    async def aclose(self) -> None:
        """The helper ends by itself once nobody listens to it, and pppd with it."""
        self._sock.close()
        child, self._child = self._child, None
        if child is None:
            return
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await child.wait()
            if child.returncode is None:
                child.kill()
                await child.wait()


def unfit(profile: str, login: str, secret: str) -> str:
    """Why pppd can't be given these, "" where it can."""
    try:
        parse_request(json.dumps({"profile": profile, "login": login, "secret": secret}).encode())
    except Refused as refusal:
        return str(refusal)
    return ""


async def connect(path: Path = HELPER_SOCKET, command: Sequence[str] = HELPER) -> Link:
    """Raises OSError."""
    if os.geteuid() == 0:
        return await spawn(command)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return Link(sock)


async def spawn(command: Sequence[str] = HELPER) -> Link:
    """The helper as a child, in a session of its own, so that no signal of a terminal reaches it. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        child = await trio.lowlevel.open_process(list(command), stdin=theirs, start_new_session=True, cwd="/")
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Link(trio.socket.from_stdlib_socket(ours), child)


class Ppp:
    """PPP of one call. `line` is the line's name, for the journal; `device`, `dns` and `ended` say what is known.

    Two tasks may wait at once (`wait_up`, `wait_ended`): whichever comes first reads for both."""

    def __init__(
        self,
        line: str,
        profile: str,
        login: str,
        secret: str,
        *,
        connect: Callable[[], Awaitable[Link]] = connect,
    ) -> None:
        self.device = ""
        self.dns: tuple[str, ...] = ()
        self.outcome: Outcome | None = None
        self._line = line
        self._request = {"profile": profile, "login": login, "secret": secret}
        self._up_s, self._stop_s = UP_S.get(profile, UP_S["hayes"]), STOP_S.get(profile, STOP_S["hayes"])
        self._connect = connect
        self._link: Link | None = None
        self._started = False
        self._echoed = False
        self._reading = trio.Lock()

    async def open(self) -> None:
        """Reaches the helper and hears that this host can do PPP. Raises PppError. Does nothing the second time."""
        if self._link is not None:
            return
        try:
            with trio.fail_after(OPEN_S):
                self._link = link = await self._connect()
                said = await link.receive() or {"why": "the PPP helper ended at once"}
        except OSError as error:
            raise PppError(f"the PPP helper can't be reached ({error}): does posthouse-ppp.socket run?") from None
        except trio.TooSlowError:
            await self.aclose()
            raise PppError(f"the PPP helper says nothing within {OPEN_S:g} s") from None
        if said.get("state") != "ready":
            await self.aclose()
            raise PppError(f"no PPP: {said.get('why', 'the helper says nothing')}")

    async def start(self, port: int) -> None:
        """Hands the port over: until `stop` has returned nobody else reads it or writes to it. Raises PppError."""
        await self.open()
        assert self._link is not None
        try:
            await self._link.send(self._request, [port])
        except OSError as error:
            raise PppError(f"the PPP helper is gone ({error})") from None
        self._started = True

    async def wait_up(self) -> Outcome | None:
        """None: the network is up. Else pppd has ended before it was, or did nothing for too long."""
        with trio.move_on_after(self._up_s):
            await self._wait(lambda: bool(self.device))
            return self.outcome
        events.emit(events.PPP_ENDED, line=self._line, code="none", text=f"no network within {self._up_s:g} s")
        return Outcome.NEGOTIATION_FAILED

    async def wait_ended(self) -> Outcome:
        """Returns once pppd has ended."""
        await self._wait(lambda: False)
        assert self.outcome is not None
        return self.outcome

    async def stop(self, *, gently: bool = True) -> None:
        """Ends pppd, which gives the port back. `gently`: with a word to the far end. Bounded in time; never raises.
        The helper itself may still be ending: the line need not wait for that, `aclose` does."""
        link = self._link
        if link is None or not self._started or self.outcome is not None:
            return
        seconds = self._stop_s if gently else 0.0
        try:
            with trio.CancelScope(shield=True), trio.move_on_after(seconds + END_S):
                await link.send({"stop": seconds})
                await self._wait(lambda: False)
        except OSError:
            pass  # it has ended meanwhile

    async def aclose(self) -> None:
        """Lets go of the helper, which ends by itself. Bounded in time; idempotent."""
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()

    # ---- what the helper says
    async def _wait(self, until: Callable[[], bool]) -> None:
        """Until that, or until pppd has ended."""
        while not until() and self.outcome is None:
            async with self._reading:
                if until() or self.outcome is not None:
                    return
                link = self._link
                self._take(await link.receive() if link is not None else None)

    def _take(self, message: dict[str, Any] | None) -> None:
        message = message or {"state": "ended", "code": "unknown", "text": "the PPP helper is gone"}
        match message.get("state"):
            case "log":
                text = str(message.get("text"))
                self._echoed = self._echoed or any(word in text for word in _ECHO_WORDS)
                events.emit(events.PPP_SAID, line=self._line, text=text)
            case "up":
                self.device = str(message.get("device"))
                self.dns = tuple(str(server) for server in message.get("dns", ()))
                servers = ", ".join(self.dns) or "none"
                address = message.get("address")
                events.emit(events.PPP_UP, line=self._line, device=self.device, address=address, servers=servers)
            case "ended" | "failed":
                code, text = message.get("code"), message.get("text") or message.get("why") or ""
                self.outcome = outcome_of(code if isinstance(code, int) else -1, was_up=bool(self.device))
                events.emit(events.PPP_ENDED, line=self._line, code=code, text=text)
                if self._echoed or code == LOOPBACK:
                    events.emit(events.MODEM_ECHOES, line=self._line)
