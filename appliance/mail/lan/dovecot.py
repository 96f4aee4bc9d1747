"""Dovecot's configuration for IMAP on the LAN, as text, made of ours alone: the file that it starts from, in the syntax
of its version, and its users. Pure.

Dovecot serves the Maildirs of `mail.store.mailbox` as the user that Posthouse runs as, master and children alike: what
they may do is what a file's mode and the unit allow them. It reads nothing of the host's own Dovecot. Its users are
ours, by name and by every address, with the `$7$` strings of the configuration: no password is ever written. It looks
at its file of users itself when that has changed, so that a new user needs no restart.

2.3 (Debian 12) and 2.4 (Debian 13) share hardly a key; https://doc.dovecot.org/2.4.1/installation/upgrade/2.3-to-2.4.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.config.model import User

__all__ = ["IMAPS_PORT", "IMAP_PORT", "ImapSettings", "configuration", "users"]

IMAP_PORT: Final = 143
"""With STARTTLS."""
IMAPS_PORT: Final = 993
PASSWORD_SCHEME: Final = "CRYPT"
"""crypt(3): `$7$` is scrypt (`config.passwords`)."""
_NOT_IN_A_LINE: Final = frozenset(":\n\r\t\0")
"""What passwd-file(5) has no way to write; an address that has one logs in by its user's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapSettings:
    """`hosts`: addresses to listen on, "*" and "::" for all. `user`, `group`: names of those that Posthouse runs as.
    `folder`: Dovecot's own, for sockets; `users_file`: what `users` is written to."""

    hosts: Sequence[str]
    mail: str
    certificate: str
    key: str
    folder: str
    users_file: str
    user: str
    group: str
    plaintext_login: bool
    client_limit: int
    session_limit: int


def users(configured: Iterable[User]) -> str:
    """passwd-file: `login:{CRYPT}$7$…::::::user=NAME` for each name and address of those who have a password."""
    able = [user for user in configured if user.password]
    # A name goes before the same text as another's address, as it does for SMTP and POP3 (`mail.lan.logins`).
    logins = {a.casefold(): user for user in able for a in user.addresses} | {user.name: user for user in able}
    return "".join(
        f"{login}:{{{PASSWORD_SCHEME}}}{user.password}::::::user={user.name}\n"
        for login, user in logins.items()
        if not _NOT_IN_A_LINE & set(login)
    )


def configuration(settings: ImapSettings, version: tuple[int, int]) -> str:
    """The whole file, for Dovecot `version` (2, 3) or later."""
    new = version >= (2, 4)
    lines = [
        "# Written by Posthouse from its own configuration, whenever that changes. What is changed here is lost.",
        *(_OF_2_4 if new else _OF_2_3),
        _COMMON,
    ]
    cleartext = settings.plaintext_login
    values = {
        "listen": ", ".join(settings.hosts),
        "mail": settings.mail,
        "certificate": settings.certificate,
        "key": settings.key,
        "folder": settings.folder,
        "users_file": settings.users_file,
        "user": settings.user,
        "group": settings.group,
        "cleartext": ("yes" if cleartext else "no") if new else ("no" if cleartext else "yes"),
        "client_limit": settings.client_limit,
        "session_limit": settings.session_limit,
        "imap": IMAP_PORT,
        "imaps": IMAPS_PORT,
        "no_end": "unlimited" if new else "0",
        "ends_after": "restart_request_count" if new else "service_count",
    }
    text = "\n".join(lines)
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


_OF_2_3: Final = (
    "mail_location = maildir:@mail@/%u",
    "disable_plaintext_auth = @cleartext@",
    "auth_username_format = %Lu",
    "ssl = yes",
    "ssl_min_protocol = TLSv1.2",
    "ssl_cert = <@certificate@",
    "ssl_key = <@key@",
    "passdb {\n  driver = passwd-file\n  args = scheme=CRYPT @users_file@\n}",
    "userdb {\n  driver = static\n  args = uid=@user@ gid=@group@ home=@mail@/%u\n}",
)
_OF_2_4: Final = (
    "dovecot_config_version = 2.4.0",
    "dovecot_storage_version = 2.4.0",
    "mail_driver = maildir",
    "mail_path = @mail@/%{user}",
    "auth_allow_cleartext = @cleartext@",
    "auth_username_format = %{user | lower}",
    "ssl = yes",
    "ssl_min_protocol = TLSv1.2",
    "ssl_server_cert_file = @certificate@",
    "ssl_server_key_file = @key@",
    "passdb passwd-file {\n  passwd_file_path = @users_file@\n}",
    "userdb static {\n  fields {\n    uid = @user@\n    gid = @group@\n    home = @mail@/%{user}\n  }\n}",
)
_COMMON: Final = """\
protocols = imap
listen = @listen@
base_dir = @folder@
state_dir = @folder@
log_path = /dev/stderr
# Ours says who may log in, whatever letters are in a name.
auth_username_chars =
auth_mechanisms = plain login
first_valid_uid = 1
default_internal_user = @user@
default_internal_group = @group@
default_login_user = @user@
mail_max_userip_connections = @client_limit@
namespace inbox {
  inbox = yes
}
service imap-login {
  chroot =
  # One process for all connections: one each would not fit a small board.
  @ends_after@ = @no_end@
  process_min_avail = 0
  process_limit = 1
  client_limit = @session_limit@
  inet_listener imap {
    port = @imap@
  }
  inet_listener imaps {
    port = @imaps@
    ssl = yes
  }
}
service imap {
  process_limit = @session_limit@
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
"""
