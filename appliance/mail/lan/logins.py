"""Who may log in on the LAN: one check of name and password for SMTP and POP3.

It owns the names, what was checked before, and the delays of clients that guess. It knows nothing of protocols.

How it works. scrypt takes tens of milliseconds of a core and 16 MiB: so one check at a time, in a thread, and a queue
of `QUEUE_LIMIT` behind it; who comes then is told to try later. Mail programs log in every few minutes: a check that
succeeded is remembered for the life of the process, as a digest under a random key of name, stored string and
password, so that the next one costs nothing and the password itself is not kept. An unknown name is checked against
another's string, so that it takes the same time as a known one.

Guessing. After `FREE_FAILURES` failures from one address each further one makes that address's next checks wait, twice
as long each time, remembered success included (else a guess would be known to be wrong at once, by its want of an
answer). Other addresses don't wait.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.config.model import User

__all__ = ["LoginBusy", "Logins"]

QUEUE_LIMIT: Final = 64
"""Checks that wait: some seconds' worth on a small board, more than a LAN's mail programs ask at once."""

FREE_FAILURES: Final = 3
"""A person who mistypes is not slowed down."""
FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 30.0
"""Half a minute: mail programs wait that long, and guessing is hopeless at that pace."""
FORGET_S: Final = 600.0
"""Failures count no longer after that long without another."""
CLIENT_LIMIT: Final = 1024
"""Addresses remembered for their failures; the one that failed longest ago is forgotten first."""

_NOBODYS: Final = "$7$C6..../....posthouse.nobody......$" + "." * 43
"""A string that no password fits, of the usual cost: what is checked where there is no user at all."""


class LoginBusy(Exception):
    """Too many logins wait to be checked: a temporary refusal."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    not_before: float


class Logins:
    """`check` is the one door. `replace` takes over another list of users (a changed configuration).
    `verify(password, stored)` is `config.passwords.verify_password`: it blocks, and runs in a thread."""

    def __init__(self, users: Sequence[User], *, verify: Callable[[str, str], bool]) -> None:
        self._verify = verify
        self._key = secrets.token_bytes(32)
        self._checking = trio.Lock()
        self._waiting = 0
        self._remembered: dict[str, bytes] = {}
        self._failures: dict[str, _Failures] = {}
        self._by_name: dict[str, User] = {}
        self._decoy = _NOBODYS
        self.replace(users)

    def replace(self, users: Sequence[User]) -> None:
        """From now on these log in. A name goes before the same text as another's address."""
        self._by_name = {a.casefold(): u for u in users for a in u.addresses} | {u.name.casefold(): u for u in users}
        self._decoy = next((u.password for u in users if u.password), _NOBODYS)
        self._remembered = {n: d for n, d in self._remembered.items() if n in {u.name for u in users}}

    async def check(self, name: str, password: str, *, service: str, client: str) -> User | None:
        """The user that these belong to, or None, which is in the journal then. `name` is a user's name or any of the
        addresses; `service` ("smtp", "pop3") and `client` (an address) are for the journal and the delays. Raises
        LoginBusy when too many wait."""
        failures = self._failures.get(client)
        if failures is not None:
            await trio.sleep_until(failures.not_before)
        user = self._by_name.get(name.casefold())
        if await self._matches(user, password):
            return user
        self._count_failure(client)
        events.emit(events.LOGIN_FAILED, service=service, client=client, user=name)
        return None

    async def _matches(self, user: User | None, password: str) -> bool:
        digest = self._digest(user, password) if user is not None else b""
        if user is not None and self._remembered.get(user.name) == digest:
            return True
        if self._waiting >= QUEUE_LIMIT:
            raise LoginBusy("too many logins at once")
        self._waiting += 1
        try:
            async with self._checking:
                if user is not None and self._remembered.get(user.name) == digest:
                    return True  # somebody ahead in the queue was the same
                stored = user.password if user is not None and user.password else self._decoy
                matches = await trio.to_thread.run_sync(self._verify, password, stored)
        finally:
            self._waiting -= 1
        if user is None or not user.password or not matches:
            return False
        self._remembered[user.name] = digest
        return True

    def _digest(self, user: User, password: str) -> bytes:
        parts = (user.name, user.password, password)
        fields = (p.encode("utf-8", "surrogateescape") for p in parts)
        return hashlib.blake2b(b"".join(b"%d:%b" % (len(f), f) for f in fields), key=self._key).digest()

    def _count_failure(self, client: str) -> None:
        now = trio.current_time()
        old = self._failures.pop(client, None)
        count = 1 + (old.count if old is not None and now - old.last < FORGET_S else 0)
        delay = 0.0
        if count > FREE_FAILURES:
            delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count - FREE_FAILURES - 1, 16))
        self._failures[client] = _Failures(count, now, now + delay)  # at the end: the dict is in order of failing
        if len(self._failures) > CLIENT_LIMIT:
            del self._failures[next(iter(self._failures))]
