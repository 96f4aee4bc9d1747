"""What has to fit together for mail: users, their addresses and accounts, aliases, smarthosts, certificates. As
`rules.py`, whose manner it follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.config.faults import Faults, KeyPath, quoted, show
from appliance.config.model import Tls
from appliance.config.rules import needs, refers, unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.config.model import Account, Config, Smarthost

__all__ = ["check"]

IMPLICIT_TLS_PORTS: Final = frozenset({465, 993, 995})
"""RFC 8314 §7.3: TLS from the first byte."""

UNKNOWN_WORDS: Final = frozenset({"reject", "upstream"})


def check(config: Config, faults: Faults) -> None:
    for rule in _RULES:
        rule(config, faults)


def _domain(config: Config, faults: Faults) -> None:
    mail = config.mail
    if config.user or mail.smtp or mail.pop3 or mail.alias:
        needs(
            ("site", "domain"), config.site.domain, "the domain whose mail is delivered here, as there is mail", faults
        )


def _certificate(config: Config, faults: Faults) -> None:
    mail = config.mail
    if mail.certificate:
        needs(("mail", "key"), mail.key, "the PEM file with the key of mail.certificate", faults)
    elif mail.key:
        needs(("mail", "certificate"), mail.certificate, "the PEM file with the certificate of mail.key", faults)


def _users(config: Config, faults: Faults) -> None:
    unique(((("user", i, "name"), user.name) for i, user in enumerate(config.user)), faults)
    unique(
        ((("user", i, "addresses", j), a) for i, user in enumerate(config.user) for j, a in enumerate(user.addresses)),
        faults,
    )
    for i, user in enumerate(config.user):
        if user.name in UNKNOWN_WORDS:
            faults.add(("user", i, "name"), f"{quoted(user.name)} is a word of mail.unknown", "another name")


def _references(config: Config, faults: Faults) -> None:
    names = [user.name for user in config.user]
    if config.mail.unknown not in UNKNOWN_WORDS:
        refers(("mail", "unknown"), config.mail.unknown, [*sorted(UNKNOWN_WORDS), *names], faults, of="user")
    if config.mail.postmaster:
        refers(("mail", "postmaster"), config.mail.postmaster, names, faults, of="user")


def _aliases(config: Config, faults: Faults) -> None:
    names = [user.name for user in config.user]
    users = {a.casefold(): i for i, user in enumerate(config.user) for a in user.addresses if a}
    aliases = {alias.address.casefold(): alias for alias in config.mail.alias if alias.address}
    unique(((("mail", "alias", i, "address"), a.address) for i, a in enumerate(config.mail.alias)), faults)
    for i, alias in enumerate(config.mail.alias):
        at: KeyPath = ("mail", "alias", i)
        folded = alias.address.casefold()
        if folded in users:
            faults.add(
                (*at, "address"), f"{quoted(alias.address)} is an address of user[{users[folded]}]", "another one"
            )
        needs((*at, "to"), alias.to, "at least one user or address", faults)
        for j, to in enumerate(alias.to):
            if to and "@" not in to:
                refers((*at, "to", j), to, names, faults, of="user")
        # Follow what it leads to; coming back to it, a message would go round for ever.
        seen, ahead = set(), [to.casefold() for to in alias.to]
        while ahead:
            to = ahead.pop()
            if to in aliases and to not in seen:
                seen.add(to)
                ahead += (t.casefold() for t in aliases[to].to)
        if folded in seen:
            faults.add(
                (*at, "to"), f"leads back to {quoted(alias.address)}", "users or addresses that are not this alias"
            )


def _logins(config: Config, faults: Faults) -> None:
    for i, smarthost in enumerate(config.mail.smarthost):
        at: KeyPath = ("mail", "smarthost", i)
        if smarthost.login:
            needs((*at, "secret"), smarthost.secret, "the name of the secret of this login", faults)
        elif smarthost.secret:
            needs((*at, "login"), smarthost.login, "the login that the secret is for", faults)
        needs((*at, "senders"), smarthost.senders, 'at least one pattern, such as "*"', faults)
        _port_and_tls(smarthost, at, faults)


def _accounts(config: Config, faults: Faults) -> None:
    """No maildrop is fetched twice: two would delete each other's mail before the other has it."""
    seen: dict[tuple[str, str, int, str, str], KeyPath] = {}
    for i, user in enumerate(config.user):
        for j, account in enumerate(user.account):
            at: KeyPath = ("user", i, "account", j)
            needs((*at, "login"), account.login, "the login at the account's server", faults)
            needs((*at, "secret"), account.secret, "the name of the secret of this login", faults)
            _port_and_tls(account, at, faults)
            if account.sent_folder and account.protocol != "imap":
                faults.add((*at, "sent_folder"), "is a folder of IMAP, and the account is POP3's", "none here")
            folder = account.folder if account.protocol == "imap" else ""
            maildrop = (account.protocol, account.host.casefold(), account.port, account.login, folder)
            if account.host and account.login and seen.setdefault(maildrop, at) != at:
                faults.add(at, f"is the same maildrop as {show(seen[maildrop])}", "each maildrop once")


def _port_and_tls(server: Account | Smarthost, at: KeyPath, faults: Faults) -> None:
    if server.port in IMPLICIT_TLS_PORTS and server.tls is not Tls.IMPLICIT and not faults.under((*at, "tls")):
        what = f"port {server.port} is TLS from the first byte"
        faults.add((*at, "tls"), what, '"implicit", or another port')


_RULES: Final[tuple[Callable[[Config, Faults], None], ...]] = (
    _domain, _certificate, _users, _references, _aliases, _logins, _accounts,
)  # fmt: skip
