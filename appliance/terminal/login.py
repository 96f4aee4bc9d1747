"""Stays logged in: one session after the other, with a backoff between them, until it is stopped, replaced or refused.

The pause before another try doubles from `FIRST_S` to `LONGEST_S` and is drawn at random from its upper half, so that a
relay server that comes back is not met by all its terminals at once. It is cut short when this computer gets another
address, or when somebody asks for a connection.
"""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.events import clean
from appliance.terminal.dial import Unreachable
from appliance.terminal.fields import text
from appliance.terminal.network import AddressChanges, local_address
from appliance.terminal.sentences import FAILED, back
from appliance.terminal.session import Credentials, LoginRefused, Session, WrongRelay, log_in
from appliance.terminal.state import LastLogin, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.terminal.state import State

__all__ = ["Keeper", "LoginOver"]

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
LOOK_S: Final = 2.0
"""How soon a changed network cuts a pause short."""
SETTLE_S: Final = 0.2
"""An address is there a moment before its routes are."""
STEADY_S: Final = 30.0
"""A login that held so long was a good one: the next pause is the first again."""

_REFUSALS: Final = {
    "bad-login": "the relay server does not let {name} in: this name, password or certificate is not right there. If "
    "this computer's state is new, `posthouse enrol {name}` at the relay server lets it enrol",
    "enrol": "the relay server does not take this password for {name}",
    "duplicate": "{name} is logged in already, with another certificate, and the relay server lets the first one stay",
    "version": "the relay server speaks another version of the protocol",
    "slow-down": "too many wrong passwords for {name}; the relay server wants a pause",
    "limit": "the relay server has reached a limit",
    "counter": "the relay server knows a later login of {name}",
}


class LoginOver(Exception):
    """No login any more, and none to come; the text says why, `code` is the exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


class Keeper:
    """`session` is the one that is up, or None; `trouble` why there is none, `failures` how often that was
    found out; `over`: there will be none any more. `on_end` and `take` do not block."""

    def __init__(
        self,
        who: Credentials,
        state: State,
        say: Callable[[str], None],
        *,
        on_end: Callable[[], None],
        take: Callable[[Session, str, Mapping[str, Any]], None],
    ) -> None:
        self._who = who
        self._state = state
        self._say = say
        self._on_end = on_end
        self._take = take
        self._changed = trio.Event()
        self._hurry = trio.Event()
        self._stopping = False
        self._bye: Mapping[str, Any] | None = None
        self._error: Mapping[str, Any] | None = None
        self._pause_s = FIRST_S
        self.session: Session | None = None
        self.trouble = "not logged in yet"
        self.failures = 0
        self.over: LoginOver | None = None

    async def run(self) -> None:
        """Until `stop`. Raises LoginOver, which the credentials' functions may raise too."""
        try:
            await self._run()
        except LoginOver as over:
            self.over = over
            self._tell()
            raise
        except (OSError, StateError) as error:
            self.over = LoginOver(f"the state folder: {error}")
            self._tell()
            raise self.over from error

    async def _run(self) -> None:
        while not self._stopping:
            try:
                session = await log_in(self._who, self._state)
            except Unreachable as error:
                await self._try_again(str(error))
            except WrongRelay as shown:
                raise LoginOver(
                    f"{self._who.relay} shows the certificate {shown}; {self._who.pin} was expected: either it is "
                    "another relay server, or its key is new. `posthouse status` there prints its fingerprint, and "
                    "--fingerprint takes it"
                ) from None
            except LoginRefused as refused:
                form = _REFUSALS.get(refused.code, "the relay server says: {said}")
                why = form.format(name=self._who.name, said=refused)
                if refused.final:
                    raise LoginOver(clean(why)) from None
                await self._try_again(clean(why))
            else:
                await self._one_session(session)

    async def _one_session(self, session: Session) -> None:
        who = self._who
        self._state.pin_relay(str(who.relay), session.fingerprint)
        self._state.remember_login(LastLogin(str(who.relay), who.name))
        # From now on this certificate alone.
        self._who = Credentials(who.relay, who.name, who.services, session.fingerprint, who.confirm, who.password)
        offers = f"; offers {', '.join(who.services)}" if who.services else ""
        self._say(f"{who.name} is logged in at {clean(session.relay_name)} ({who.relay}){offers}")
        self._bye = self._error = None
        begun = trio.current_time()
        self.session = session
        self._tell()
        try:
            await session.run(lambda kind, body: self._message(session, kind, body))
        finally:
            self.session = None
            self._tell()
            self._on_end()
        if self._stopping:
            return
        if trio.current_time() - begun > STEADY_S:
            self._pause_s = FIRST_S
        await self._after(session)

    def _message(self, session: Session, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "bye":
            self._bye = body
        elif kind == "error":
            self._error = body
        else:
            self._take(session, kind, body)

    async def _after(self, session: Session) -> None:
        reason = text(self._bye, "reason") if self._bye else ""
        if reason == "replaced":
            why = "it has logged in elsewhere, or was given another enrolment"
            raise LoginOver(f"this login of {self._who.name} is replaced: {why}")
        if self._error is not None:
            said = clean(f"{text(self._error, 'code')} {text(self._error, 'text')}".strip())
            await self._try_again(f"the relay server ended the connection: {said}")
        elif self._bye is not None:
            when = back(self._bye.get("back_in"))
            await self._try_again(f"the relay server says good-bye ({clean(reason)})" + (f"; {when}" if when else ""))
        else:
            await self._try_again(session.why)

    async def _try_again(self, why: str) -> None:
        self.trouble = why
        self.failures += 1
        self._tell()
        if self._stopping:
            return
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._say(f"{why}; trying again in {max(1, round(pause_s))} s")
        # A try that was made early says nothing of how long it will take.
        if await self._pause(pause_s):
            self._pause_s = min(LONGEST_S, self._pause_s * 2)

    async def _pause(self, seconds: float) -> bool:
        """-> whether it lasted so long."""
        self._hurry = trio.Event()
        with trio.move_on_after(seconds) as pause, AddressChanges() as changes:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._moved, changes, nursery.cancel_scope)
                await self._hurry.wait()
                nursery.cancel_scope.cancel()
        return pause.cancelled_caught

    async def _moved(self, changes: AddressChanges, pause: trio.CancelScope) -> None:
        """Ends the pause, and those to come begin small again, when this computer is in another network."""
        now = self._own_address()
        while True:
            told = await changes.wait(LOOK_S)
            was, now = now, self._own_address()
            if told:
                await trio.sleep(SETTLE_S)
            if told or now not in (was, None):
                self._pause_s = FIRST_S
                pause.cancel()
                return

    def _own_address(self) -> str | None:
        # Looking the relay server's name up would block; which network this computer is in shows with any address.
        return local_address(("192.0.2.1", 9), socket.AF_INET) or local_address(("2001:db8::1", 9), socket.AF_INET6)

    # ---- for the others
    def hurry(self) -> None:
        """Somebody wants a connection: do not wait out the pause."""
        self._hurry.set()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Until `session`, `trouble` or `over` is another one."""
        await self._changed.wait()

    async def stop(self) -> None:
        """Logs out; `run` returns."""
        self._stopping = True
        self._hurry.set()
        if self.session is not None:
            await self.session.log_out()
