"""The Internet provider in a virtual machine: pppd behind its modem, Postfix and Dovecot 2.4, a name server.

`prepare` configures and starts all of it in a machine; `Provider` is what a test then asks and does. Everything is
Debian's and configured by what stands here alone. Mail for the logins goes to their mailboxes, what is for any other
domain into the mailbox `WORLD`; both are Maildirs that Dovecot serves.
"""

from __future__ import annotations

from .guest import Guest

ADDRESS = "10.64.0.1"
"""Of the provider on the line; its servers listen there, and on every other interface."""
SITE_ADDRESS = "10.64.0.2"
SMTP_HOST = "smtp.isp.example"
POP3_HOST = "pop.isp.example"
SERVER = "198.51.100.7"
"""Where those names lead: a network behind the provider, which is reached by the default route alone."""
PPP_LOGIN = "harbour"
PPP_SECRET = "Sehr-geheim-7"
LOGINS = {"hanako": "Mandel-Ufer-3", "taro": "Kirsch-Bucht-8"}
WORLD = "world"
ECHO_S = 5
"""The provider's own LCP echo: it frees its modem when a site has gone without a word."""


def answering(tty: str, address: str) -> str:
    """pppd's options for one call by a modem that answers; `address` is the caller's. Its log is /var/log/pppd.log."""
    return f"""
{tty} 115200
local
crtscts
nodetach
connect "chat -t 100000 CONNECT '\\\\c'"
name isp
auth
refuse-eap
require-chap
{ADDRESS}:{address}
ms-dns {ADDRESS}
nodefaultroute
noproxyarp
lcp-echo-interval {ECHO_S}
lcp-echo-failure 3
debug
logfile /var/log/pppd.log
"""


_FILES = {
    "/etc/ppp/peers/access": answering("ttyS1", SITE_ADDRESS),
    "/etc/ppp/chap-secrets": f'{PPP_LOGIN} isp "{PPP_SECRET}" *\n',
    "/etc/ppp/pap-secrets": f'{PPP_LOGIN} isp "{PPP_SECRET}" *\n',
    "/usr/local/sbin/access": "#!/bin/sh\nwhile :; do pppd call access; sleep 0.2; done\n",
    "/etc/postfix/main.cf": f"""
compatibility_level = 3.6
maillog_file = /var/log/postfix.log
myhostname = mail.isp.example
mydestination =
inet_protocols = ipv4
mynetworks = {SITE_ADDRESS}/32
alias_maps =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
virtual_mailbox_domains = isp.example, world.example
virtual_mailbox_base = /srv/mail
virtual_mailbox_maps = regexp:/etc/postfix/boxes
virtual_minimum_uid = 1
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
message_size_limit = 52428800
virtual_mailbox_limit = 0
local_header_rewrite_clients =
disable_mime_input_processing = yes
""",
    "/etc/postfix/boxes": "".join(f"/^{n}@isp\\.example$/ {n}/Maildir/\n" for n in LOGINS) + f"/@world\\.example$/ {WORLD}/Maildir/\n",
    "/etc/dovecot/dovecot.conf": """
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
protocols = pop3 imap
listen = *
ssl = no
log_path = /var/log/dovecot.log
auth_allow_cleartext = yes
auth_failure_delay = 0
mail_driver = maildir
mail_path = /srv/mail/%{user}/Maildir
first_valid_uid = 1
pop3_uidl_format = %{guid}
passdb passwd-file {
  passwd_file_path = /etc/dovecot/users
}
userdb static {
  fields {
    uid = nobody
    gid = nogroup
    home = /srv/mail/%{user}
  }
}
namespace inbox {
  inbox = yes
}
""",
    "/etc/dovecot/users": "".join(f"{name}:{{PLAIN}}{word}\n" for name, word in LOGINS.items()),
    "/etc/dnsmasq.conf": f"""
no-resolv
no-hosts
log-queries
log-facility=/var/log/dnsmasq.log
address=/{SMTP_HOST}/{SERVER}
address=/{POP3_HOST}/{SERVER}
""",
}  # fmt: skip


def prepare(guest: Guest) -> None:
    """Makes a booted machine the provider: everything runs, and its modem answers."""
    for path, text in _FILES.items():
        guest.put(path, text.lstrip(), mode=0o755 if path.startswith("/usr") else 0o600 if "secrets" in path else 0o644)
    boxes = " ".join(f"/srv/mail/{n}/Maildir/{sub}" for n in (*LOGINS, WORLD) for sub in ("tmp", "new", "cur"))
    guest.sh(
        f"hostname mail.isp.example; modprobe -a ppp_async ppp_deflate bsd_comp; ip link add behind type dummy; ip addr add {SERVER}/32 dev behind;"
        f"ip link set behind up; mkdir -p {boxes}; chown -R nobody:nogroup /srv/mail; newaliases; postfix start;"
        "dovecot; dnsmasq"
    )
    guest.daemon("access", log="/var/log/access.log")
    for port in (25, 110, 53):
        guest.wait(f"ss -ltn | grep -q ':{port} '", f"a server listens on port {port}")


class Provider:
    """A prepared machine, while a test uses it."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def deliver(self, login: str, data: bytes) -> None:
        """A message into a mailbox, as its bytes are."""
        name = f"{abs(hash(data))}.{len(data)}"
        self.guest.put(f"/srv/mail/{login}/Maildir/tmp/{name}", data)
        self.guest.sh(f"cd /srv/mail/{login}/Maildir; chown nobody:nogroup tmp/{name}; mv tmp/{name} new/{name}")

    def waiting(self, login: str) -> list[bytes]:
        """What lies in a mailbox, or of `WORLD` what came for others; Postfix has delivered all that it took."""
        self.guest.wait("postqueue -p | grep -q 'queue is empty'", "Postfix's queue is empty")
        names = self.guest.sh(f"find /srv/mail/{login}/Maildir/new /srv/mail/{login}/Maildir/cur -type f").split()
        return [self.guest.get(name) for name in sorted(names)]

    def wait_free(self) -> None:
        """Until its modem waits for the next call: after a lost one it notices by LCP echo."""
        self.guest.wait(
            "test $(pgrep -c '^chat$') = 1 && ! ip link show ppp0 2>/dev/null", "the provider's modem is free"
        )

    def set_password(self, secret: str) -> None:
        """Of the site's PPP login, from its next call on."""
        self.guest.put("/etc/ppp/chap-secrets", f'{PPP_LOGIN} isp "{secret}" *\n', mode=0o600)

    def restart(self, script: str) -> None:
        """Its modem answers with what the script makes of the configuration."""
        self.guest.sh(f"old=$(pgrep -x chat); {script}; kill $old; while kill -0 $old 2>/dev/null; do sleep 0.1; done")
        self.wait_free()

    def logs(self) -> str:
        """For a test that failed."""
        return self.guest.sh("tail -n 60 /var/log/pppd.log /var/log/postfix.log /var/log/dovecot.log /var/log/dnsmasq.log", check=False)  # fmt: skip
