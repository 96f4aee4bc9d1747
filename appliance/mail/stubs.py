"""The messages that stay upstream because they are large, by the token that their stubs name (DESIGN §2 Stub).

It owns who may ask for one and how: its own user, by mail to get-TOKEN@ or delete-TOKEN@ the site's domain, or an
operator by hand. It knows neither how a message is fetched nor where: it writes what is asked for into the record of
the account, which the fetcher reads. Never is a mail's text looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance import events
from appliance.mail.store.fetched import Ask, FetchedRecord, KnownState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["StubTerms", "Stubs", "token_of"]

_ADDRESS: Final = re.compile(r"(get|delete)-([0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class StubTerms:
    """`limit`: bytes above which a message stays upstream; `domain`: the site's, where get-TOKEN@ is; `hostname`: ours
    in Message-IDs."""

    limit: int
    domain: str
    hostname: str


def token_of(local: str) -> tuple[Ask, str] | None:
    """What the local part of an address asks for, if it is such a one, and its token."""
    found = _ADDRESS.fullmatch(local.casefold())
    return (Ask(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True)
class _Account:
    user: str
    record: FetchedRecord


class Stubs:
    """`replace` says which accounts there are."""

    def __init__(self) -> None:
        self._accounts: tuple[_Account, ...] = ()

    def replace(self, accounts: Iterable[tuple[str, FetchedRecord]]) -> None:
        """(user, record) of every account."""
        self._accounts = tuple(_Account(user, record) for user, record in accounts)

    def _find(self, token: str) -> Iterator[tuple[_Account, str]]:
        for account in self._accounts:
            for known in account.record.known.values():
                if known.state is KnownState.STUB and known.token == token:
                    yield account, known.uid

    def owner(self, token: str) -> str | None:
        """Whose message it is; None when none waits upstream under that token."""
        return next((account.user for account, _ in self._find(token)), None)

    async def ask(self, token: str, what: Ask) -> bool:
        """Has it done with the next call, durably; whether there is such a message. Raises OSError."""
        found = list(self._find(token))
        for account, uid in found:
            await account.record.ask(uid, what)
            events.emit(events.STUB_ASKED, user=account.user, uid=uid, what=what.value)
        return bool(found)
