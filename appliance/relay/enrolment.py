"""Which certificate may log in under which name, and by which password a name gets one (RELAY §2).

It owns the enrolments, durable; the checks of passwords, one at a time; and the delays of those who guess. It must not
know connections.

A name has one certificate, or none. While it has none a good password enrols the one that comes with it: the account's
own, or the one-time password that `posthouse enrol` printed. Where it has one, another certificate is refused whatever
the password; the check is made all the same and its result thrown away, so that nobody learns which part was wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.relay.records import Records

__all__ = ["CheckBusy", "Enrolment", "Guesses", "SlowDown"]

QUEUE_LIMIT: Final = 64
"""RELAY §1: checks that wait, each 31 ms and 16 MiB on a PC."""
FREE_FAILURES: Final = 3
FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 60.0
"""RELAY §1: after three wrong ones a second, doubled up to a minute."""
FORGET_S: Final = 600.0
"""Failures count no longer after so long without another."""
PAIR_LIMIT: Final = 4096
"""Pairs of name and address that are remembered; the one that failed longest ago is forgotten first."""
ONE_TIME_BYTES: Final = 15
"""Of chance, 20 characters: nobody guesses it, so its digest may be a quick one."""
_NOBODYS: Final = "$7$C6..../....posthouse.nobody......$" + "." * 43
"""A string that no password fits: what is checked for a name that has no account."""


class CheckBusy(Exception):
    """Too many checks wait."""


class SlowDown(Exception):
    """This pair of name and address guessed too often; `seconds` until it may try again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong passwords; try again in {seconds:.0f} s")
        self.seconds = seconds


class Enrolment:
    """`verify(password, stored)` blocks and runs in a thread. `passwords`: name -> the account's string, of the
    configuration in force."""

    def __init__(self, records: Records, verify: Callable[[str, str], bool]) -> None:
        self.passwords: Mapping[str, str] = {}
        self._records = records
        self._verify = verify
        self._checking = trio.Lock()
        self._waiting = 0
        self._guesses = Guesses()

    def fingerprint(self, name: str) -> bytes | None:
        """Of the certificate that this name has (32 bytes), None where it has none."""
        digits = self._records.get(name).get("certificate")
        return bytes.fromhex(digits) if digits else None

    async def enrol(self, name: str, fingerprint: bytes, password: str, client: str) -> bool:
        """Whether this certificate is the name's now, durably. Raises SlowDown, CheckBusy, OSError."""
        self._guesses.may_try(name, client)
        good = await self._check(name, password)
        if good and self.fingerprint(name) is None and name in self.passwords:
            await self._records.put(name, {"certificate": fingerprint.hex()})
            return True
        self._guesses.failed(name, client)  # also a good one that comes too late: who guesses must not see it
        return False

    async def begin_anew(self, name: str) -> str:
        """Forgets the name's certificate; -> the one-time password for the next. Raises OSError."""
        password = secrets.token_urlsafe(ONE_TIME_BYTES)
        await self._records.put(name, {"one_time": _digest(password)})
        return password

    async def _check(self, name: str, password: str) -> bool:
        one_time = self._records.get(name).get("one_time")
        if one_time and hmac.compare_digest(one_time, _digest(password)):
            return True
        if self._waiting >= QUEUE_LIMIT:
            raise CheckBusy("too many logins are being checked")
        self._waiting += 1
        try:
            async with self._checking:
                stored = self.passwords.get(name) or _NOBODYS
                return await trio.to_thread.run_sync(self._verify, password, stored)
        finally:
            self._waiting -= 1


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode("utf-8", "surrogateescape")).hexdigest()


class Guesses:
    """Wrong passwords of pairs of name and address."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], tuple[int, float, float]] = OrderedDict()  # count, last, not before

    def may_try(self, name: str, client: str) -> None:
        """Raises SlowDown."""
        _, _, not_before = self._pairs.get((name, client), (0, 0.0, 0.0))
        now = trio.current_time()
        if now < not_before:
            raise SlowDown(not_before - now)

    def failed(self, name: str, client: str) -> None:
        now = trio.current_time()
        count, last, _ = self._pairs.pop((name, client), (0, 0.0, 0.0))
        count = count + 1 if now - last < FORGET_S else 1
        delay = 0.0
        if count >= FREE_FAILURES:
            delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count - FREE_FAILURES, 16))
        self._pairs[name, client] = (count, now, now + delay)
        if len(self._pairs) > PAIR_LIMIT:
            self._pairs.popitem(last=False)
