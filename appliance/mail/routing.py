"""Where a recipient's mail goes, and who may send as whom (DESIGN §2 Routing). Pure: configuration in, answer out.

An address of any user is local whatever its domain, compared case-folded and without `+tag`. What is not local and
not at `site.domain` is remote. Aliases lead to users, addresses and other aliases; mail that they would send round in a
circle is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from appliance.mail.stubs import token_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.config.model import Mail, Site, Smarthost, User
    from appliance.mail.store.fetched import Ask

__all__ = ["Refusal", "Route", "Router", "bare_address"]

MAX_ALIAS_DEPTH: Final = 10
"""Aliases that lead to aliases: more is a mistake, as every mail system's limit says."""

_PLAIN: Final = re.compile(r"[^\s\x00-\x1f\x7f()<>\[\]:;@\\,\"]+")
"""What a local part may be without quotes (RFC 5321 §4.1.2)."""


@dataclass(frozen=True, slots=True)
class Route:
    """Users (by name) that get it in their mailbox, and addresses that it has to be sent to."""

    users: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A permanent no, as a reply: code, enhanced status code (RFC 3463), text."""

    code: int
    status: str
    text: str


def bare_address(address: str) -> str:
    """Case-folded, without `+tag`, needless quotes (RFC 5321 §4.1.2: they mean nothing) and the domain's final dot, for
    comparing."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = domain, ""
    if local[:1] == local[-1:] == '"':
        plain = re.sub(r"\\(.)", r"\1", local[1:-1])
        local = plain if _PLAIN.fullmatch(plain) else local
    return (local.partition("+")[0] or local).casefold() + at + domain.casefold().removesuffix(".")


class Router:
    """One configuration's answers."""

    def __init__(self, site: Site, mail: Mail, users: Sequence[User]) -> None:
        self._domain = site.domain.casefold()
        self._mail = mail
        self._users = {u.name for u in users}
        self._user_of: dict[str, str] = {}
        for user in users:
            # A user without addresses is reached by his name at the site's domain.
            for address in user.addresses or (f"{user.name}@{site.domain}",):
                self._user_of.setdefault(bare_address(address), user.name)
        self._aliases = {bare_address(a.address): a.to for a in mail.alias}
        self.postmaster = mail.postmaster or (users[0].name if users else "")

    def route(self, address: str) -> Route | Refusal:
        """Where this recipient's copy goes."""
        users: dict[str, None] = {}
        remote: dict[str, None] = {}
        refusal = self._follow(address, users, remote, 0)
        return refusal or Route(tuple(users), tuple(remote))

    def _follow(self, address: str, users: dict[str, None], remote: dict[str, None], depth: int) -> Refusal | None:
        if depth > MAX_ALIAS_DEPTH:
            return Refusal(550, "5.4.6", f"the aliases of {address} lead in a circle")
        bare = bare_address(address)
        if bare in self._aliases:
            for to in self._aliases[bare]:
                if to in self._users:
                    users[to] = None
                elif refusal := self._follow(to, users, remote, depth + 1):
                    return refusal
            return None
        if bare in self._user_of:
            users[self._user_of[bare]] = None
            return None
        local, _, domain = bare.rpartition("@")
        if not local or domain == self._domain:
            if (local or domain) == "postmaster" and self.postmaster:  # RFC 5321 §4.5.1
                users[self.postmaster] = None
                return None
            if self._mail.unknown in self._users:
                users[self._mail.unknown] = None
                return None
            if self._mail.unknown != "upstream" or not local:
                return Refusal(550, "5.1.1", f"nobody here is called <{address}>")
        remote[address] = None
        return None

    def token(self, address: str) -> tuple[Ask, str] | None:
        """What a mail to that address asks for and the token, if it is get-TOKEN@ or delete-TOKEN@ the site's domain
        and nobody's own."""
        bare = bare_address(address)
        local, _, domain = bare.rpartition("@")
        if domain != self._domain or bare in self._aliases or bare in self._user_of:
            return None
        return token_of(local)

    def may_send_as(self, user: str, sender: str) -> bool:
        """Whether a logged-in user may give this MAIL FROM: one of his own addresses, or `<>`."""
        return not sender or self._user_of.get(bare_address(sender)) == user

    def may_send_without_login(self, sender: str) -> bool:
        """Whether a trusted client may give this MAIL FROM: one that a smarthost carries, or `<>`. A site without any
        smarthost has local mail only, and takes it from every sender."""
        return not sender or not self._mail.smarthost or bool(self.smarthosts(sender))

    def user_of(self, address: str) -> str:
        """The user whose address this is, or ""."""
        return self._user_of.get(bare_address(address), "")

    def smarthosts(self, sender: str) -> tuple[Smarthost, ...]:
        """Who may carry mail of this envelope sender, in the order of the configuration."""
        folded = sender.casefold()
        return tuple(h for h in self._mail.smarthost if _matches(folded, h.senders))


def _matches(address: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(address, p.casefold()) for p in patterns)
