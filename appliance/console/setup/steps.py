"""The questions of the first start, in their order: what each asks, its default, and the places of the configuration
that its answer is. What a value may be says `config.keypath`, by the same kinds that check the file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appliance.config.keypath import entry_at, read_value
from appliance.config.passwords import hash_password
from appliance.config.units import Kind
from appliance.console.setup.draft import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.config.faults import KeyPath
    from appliance.console.setup.draft import Draft

__all__ = ["NONE", "STEPS", "Step"]

NONE: Final = "-"
"""Typed for nothing, where that is allowed."""

LINE: Final[KeyPath] = ("line", 0)
LAN: Final[KeyPath] = ("interface", 0)
SMARTHOST: Final[KeyPath] = ("mail", "smarthost", 0)
USER: Final[KeyPath] = ("user", 0)
ACCOUNT: Final[KeyPath] = (*USER, "account", 0)


def _nothing(draft: Draft) -> str:
    return ""


def _always(draft: Draft) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Step:
    """One question. `path`: the place that its answer is; `take` makes the answer where it is more than that, and
    raises PathError or ValueError in words. `heading`: printed before it, as a chapter begins. `hidden`: nothing of it
    is shown, `twice`: it is typed again. `optional`: `-` is no value. `also`: what is set with it."""

    key: str
    prompt: str
    help: str
    path: KeyPath
    default: Callable[[Draft], str] = _nothing
    when: Callable[[Draft], bool] = _always
    take: Callable[[Draft, str], Answer] | None = None
    heading: str = ""
    hidden: bool = False
    twice: bool = False
    optional: bool = False
    also: Sequence[tuple[KeyPath, object]] = ()

    def answer(self, draft: Draft, typed: str) -> Answer:
        """Raises PathError or ValueError."""
        if self.optional and typed == NONE:
            return Answer(NONE)
        if not typed:
            raise ValueError("nothing was typed; `-` is for none" if self.optional else "nothing was typed")
        if self.take is not None:
            return self.take(draft, typed)
        return Answer(typed, [*self.also, (self.path, _value(typed, self.path))])

    @property
    def expected(self) -> str:
        """How its value is written, in the words of the configuration."""
        if self.hidden:
            return ""
        entry = entry_at(self.path)
        many = "one or more, with blanks between them: each " if isinstance(entry, Kind) and entry.array else ""
        return f"{many}{entry.expected}" if isinstance(entry, Kind) else ""


def _value(typed: str, path: KeyPath) -> object:
    """Words with blanks between them are an array, where there may be one."""
    entry = entry_at(path)
    if not (isinstance(entry, Kind) and entry.array):
        return read_value(typed, path)
    return [read_value(word, (*path, i)) for i, word in enumerate(typed.replace(",", " ").split())]


def _password(path: KeyPath) -> Callable[[Draft, str], Answer]:
    def take(draft: Draft, typed: str) -> Answer:
        return Answer("", [(path, hash_password(typed))])

    return take


def _secret(path: KeyPath, name: str) -> Callable[[Draft, str], Answer]:
    """The value goes to `secrets.toml` under this name."""

    def take(draft: Draft, typed: str) -> Answer:
        return Answer("", [(path, name)], {name: typed})

    return take


def _given(key: str) -> Callable[[Draft], bool]:
    """Whether a question was answered with a value."""
    return lambda draft: draft.typed(key, NONE) != NONE


def _is(key: str, *words: str) -> Callable[[Draft], bool]:
    return lambda draft: draft.typed(key) in words


def _lan(draft: Draft) -> str:
    """The address of this host on the LAN, without its prefix; "" where Posthouse manages no network."""
    return draft.typed("address", "").partition("/")[0]


def _listen(*ports: int) -> Callable[[Draft], str]:
    return lambda draft: " ".join(f"{_lan(draft) or '0.0.0.0'}:{port}" for port in ports)


def _pool(draft: Draft) -> str:
    """The upper half of a network as most have it; none of one that is smaller."""
    try:
        network = ipaddress.ip_interface(draft.typed("address")).network
    except ValueError:
        return NONE
    if network.version != 4 or network.num_addresses != 256:
        return NONE
    return f"{network[100]}-{network[199]}"


def _tls(port: str) -> Callable[[Draft], str]:
    """By the port that was answered: RFC 8314 §7.3."""
    return lambda draft: "implicit" if draft.typed(port) in ("465", "993", "995") else "starttls"


def _account(draft: Draft, typed: str) -> Answer:
    return Answer(typed, [((*ACCOUNT, "protocol"), _value(typed, (*ACCOUNT, "protocol")))])


TLS_HELP: Final = (
    "implicit: TLS from the first byte; starttls: asked for in the clear; none: no provider should want it."
)

STEPS: Final[tuple[Step, ...]] = (
    Step("password", "Administrator's password",
         "Whoever sits at the console is asked for it. It is kept as a hash that nobody can turn back. Forgotten, it "
         "needs the failsafe start of the boot menu, or a factory reset.",
         ("console", "password"), take=_password(("console", "password")), hidden=True, twice=True,
         heading="This Posthouse"),
    Step("name", "Name of the site", "One word for this place. Other relay servers know it by this name.",
         ("site", "name")),
    Step("domain", "Mail domain of the site",
         "What stands behind the @ of this site's own mail addresses. Mail between them never uses the line.",
         ("site", "domain")),
    Step("timezone", "Time zone", "Times of calls are by this zone.", ("site", "timezone"), lambda d: "UTC"),
    Step("device", "Network device of the LAN",
         "The socket that the site's computers are connected to. Posthouse gives it its address and puts a firewall on "
         "it. `-` leaves the host's network as it is.",
         (*LAN, "device"), optional=True, also=[((*LAN, "name"), "lan")], heading="The LAN"),
    Step("address", "Address of this host on the LAN", "With the network's prefix.",
         (*LAN, "addresses"), lambda d: "192.168.77.1/24", _given("device")),
    Step("pool", "Addresses that computers there are given",
         "Posthouse answers DHCP and DNS with these. `-` where something else on the LAN does.",
         (*LAN, "dhcp_pool"), _pool, _given("device"), optional=True),
    Step("smtp", "Where mail programs submit", "SMTP: address and port of this host.", ("mail", "smtp"),
         _listen(25, 587)),
    Step("pop3", "Where mail programs read", "POP3: address and port of this host.", ("mail", "pop3"), _listen(110)),
    Step("port", "Serial port of the modem",
         "The number of one that was found, the path of another, or `search` to look again. Nothing is dialled.",
         (*LINE, "port"), heading="The line"),
    Step("profile", "Kind of modem", "hayes: a telephone modem; gsm: one with a SIM card; iridium: by satellite.",
         (*LINE, "profile"), lambda d: "hayes"),
    Step("pin", "PIN of the SIM card", "Never given to the SIM again once it was refused. `-`: it has none.",
         (*LINE, "pin"), lambda d: NONE, _is("profile", "gsm"), _secret((*LINE, "pin"), "sim-pin"), hidden=True,
         optional=True),
    Step("apn", "Access point name", "Of the SIM's contract; `-` leaves what the modem has.",
         (*LINE, "apn"), lambda d: NONE, _is("profile", "gsm"), optional=True),
    Step("numbers", "Number to dial", "The provider's. Several are tried in turn.", (*LINE, "numbers"),
         lambda d: "*99#" if d.typed("profile") == "gsm" else ""),
    Step("bearer", "On the line (ppp, none)",
         "ppp, with any provider. none: the network is simply there after CONNECT, as in a laboratory.",
         (*LINE, "bearer"), lambda d: "ppp"),
    Step("ppp-login", "PPP login", "As the provider gave it; `-` where it wants none.",
         (*LINE, "ppp_login"), lambda d: NONE if d.typed("profile") == "gsm" else "", _is("bearer", "ppp"),
         optional=True),
    Step("ppp-password", "PPP password", "As the provider gave it.",
         (*LINE, "ppp_secret"), when=lambda d: _is("bearer", "ppp")(d) and _given("ppp-login")(d),
         take=_secret((*LINE, "ppp_secret"), "ppp"), hidden=True),
    Step("at", "Times of calls",
         "At these times of day a call is made. Urgent mail is sent at once, whatever stands here. `-`: no times.",
         ("schedule", "at"), lambda d: "07:30 18:00", optional=True),
    Step("smarthost", "Provider's server for outgoing mail",
         "Its name. `-` where this site sends nothing to others.",
         (*SMARTHOST, "host"), optional=True, heading="The provider's mail servers"),
    Step("smarthost-port", "Port there", "465 has TLS from the first byte, 587 mostly STARTTLS.",
         (*SMARTHOST, "port"), lambda d: "465", _given("smarthost")),
    Step("smarthost-tls", "Encryption there (implicit, starttls, none)", TLS_HELP,
         (*SMARTHOST, "tls"), _tls("smarthost-port"), _given("smarthost")),
    Step("smarthost-login", "Login there", "`-` where it wants none.",
         (*SMARTHOST, "login"), when=_given("smarthost"), optional=True),
    Step("smarthost-password", "Password there", "As the provider gave it.",
         (*SMARTHOST, "secret"), when=lambda d: _given("smarthost")(d) and _given("smarthost-login")(d),
         take=_secret((*SMARTHOST, "secret"), "smarthost"), hidden=True),
    Step("user", "Name of the first user",
         "Logs in with it from the LAN. More users: `posthouse config set user[1].name NAME`.",
         (*USER, "name"), heading="The first user"),
    Step("user-password", "Password of that user", "For mail programs on the LAN.",
         (*USER, "password"), take=_password((*USER, "password")), hidden=True, twice=True),
    Step("addresses", "Mail addresses of that user", "The user may send as these, and gets their mail.",
         (*USER, "addresses"), lambda d: f"{d.typed('user')}@{d.typed('domain')}".lower()),
    Step("account", "Fetch that user's mail at the provider by (pop3, imap)", "`-`: nothing is fetched.",
         (*ACCOUNT, "protocol"), lambda d: "pop3", take=_account, optional=True),
    Step("account-host", "Server there", "The name of the provider's server for incoming mail.",
         (*ACCOUNT, "host"), when=_given("account")),
    Step("account-port", "Port there", "995 (POP3) and 993 (IMAP) have TLS from the first byte.",
         (*ACCOUNT, "port"), lambda d: "995" if d.typed("account") == "pop3" else "993", _given("account")),
    Step("account-tls", "Encryption there (implicit, starttls, none)", TLS_HELP,
         (*ACCOUNT, "tls"), _tls("account-port"), _given("account")),
    Step("account-login", "Login there", "The user's, at the provider.", (*ACCOUNT, "login"),
         lambda d: d.typed("user"), _given("account")),
    Step("account-password", "Password there", "The user's, at the provider.", (*ACCOUNT, "secret"),
         when=_given("account"), take=_secret((*ACCOUNT, "secret"), "account"), hidden=True),
    Step("backlog", "Mail that waits there already",
         "How old it may be to be fetched: 0d takes none of it, 30d what is younger than that, all takes everything.",
         (*ACCOUNT, "backlog"), lambda d: "0d", _given("account")),
)  # fmt: skip
