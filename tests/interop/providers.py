"""The Internet provider of the tests, made of real parts: a private Postfix, a private Dovecot 2.3, an aiosmtpd.

Each runs under a folder of its own on free loopback ports, configured by nothing outside that folder, and is gone when
`stop` returns. Postfix needs root. What Postfix takes for a domain other than the provider's own is captured: bytes and
envelope, one file each; what it takes for a login of Dovecot's lands in that login's Maildir.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from fakes.ports import free_port

HOST = "127.0.0.1"
DOMAIN = "isp.example"
PATIENCE_S = 30.0


def wait_until(true: Callable[[], Any], what: str, *, patience: float = PATIENCE_S) -> Any:
    """The first value of `true()` that is not false; AssertionError(what) when none comes."""
    end = time.monotonic() + patience
    while not (value := true()):
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.02)
    return value


def greets(port: int) -> bool:
    """Whether a server there says something within a second."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1) as s:
        return bool(s.recv(1))
    return False


def end_process(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> int:
    """Ends it, by SIGKILL if it does not listen; -> its exit code."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@dataclass(frozen=True)
class Certificates:
    """An authority of our own and one certificate for the loopback names, as PEM files."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        issued = authority.issue_cert(HOST, "localhost", f"mail.{DOMAIN}")
        out = cls(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")
        authority.cert_pem.write_to_path(str(out.ca))
        out.certificate.write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(out.key))
        return out

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


@contextlib.contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """Short, for unix sockets have at most 107 characters of path, and open to the daemons' own users."""
    folder = Path(tempfile.mkdtemp(prefix=f"ph-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Dovecot:
    """POP3 and IMAP for `logins` (name -> password), Maildirs under `root/mail/<login>`. Root or an ordinary user."""

    def __init__(self, root: Path, logins: dict[str, str], certificates: Certificates, *, uidl: str = "%g") -> None:
        """`uidl`: what POP3's unique-ids are made of; a file's name, so that they outlive `clear`."""
        self.root, self.logins = root, logins
        self.pop3, self.pop3s, self.imap, self.imaps = (free_port() for _ in range(4))
        self.auth_socket = root / "auth"
        self.log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        root_user = os.getuid() == 0
        me = pwd.getpwuid(os.getuid())
        self.owner = pwd.getpwnam("nobody") if root_user else me
        internal, login = ("dovecot", "dovenull") if root_user else (me.pw_name, me.pw_name)
        group = grp.getgrgid(self.owner.pw_gid).gr_name
        (root / "mail").mkdir()
        os.chown(root / "mail", self.owner.pw_uid, self.owner.pw_gid)
        (root / "passwd").write_text(
            "".join(f"{name}:{{PLAIN}}{word}::::{root}/mail/{name}\n" for name, word in logins.items())
        )
        (root / "passwd").chmod(0o644)
        (root / "dovecot.conf").write_text(f"""
base_dir = {root}/run
state_dir = {root}/state
log_path = {self.log}
protocols = imap pop3
listen = {HOST}
default_internal_user = {internal}
default_internal_group = {grp.getgrgid(pwd.getpwnam(internal).pw_gid).gr_name}
default_login_user = {login}
{"" if root_user else "service anvil { chroot = }"}
ssl = yes
ssl_cert = <{certificates.certificate}
ssl_key = <{certificates.key}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
mail_location = maildir:~/Maildir
mail_max_userip_connections = 100
first_valid_uid = 1
pop3_uidl_format = {uidl}
passdb {{
  driver = passwd-file
  args = {root}/passwd
}}
userdb {{
  driver = passwd-file
  args = {root}/passwd
  override_fields = uid={self.owner.pw_name} gid={group} home={root}/mail/%n
}}
protocol imap {{
  mail_plugins = imap_zlib
}}
service imap-login {{
  {"" if root_user else "chroot ="}
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  {"" if root_user else "chroot ="}
  inet_listener pop3 {{
    port = {self.pop3}
  }}
  inet_listener pop3s {{
    port = {self.pop3s}
    ssl = yes
  }}
}}
service auth {{
  unix_listener {self.auth_socket} {{
    mode = 0666
  }}
}}
""")
        for name in logins:
            self.clear(name)

    def start(self) -> Dovecot:
        self._process = subprocess.Popen(
            ["/usr/sbin/dovecot", "-F", "-c", str(self.root / "dovecot.conf")],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: self._process_lives() and greets(self.pop3) and greets(self.imap), "Dovecot answers")
        return self

    def _process_lives(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Dovecot ended: {self.log.read_text() if self.log.exists() else 'no log'}"
        return True

    def stop(self) -> None:
        if self._process is not None:
            end_process(self._process)

    # ---- the mailboxes, from beneath
    def maildir(self, login: str) -> Path:
        return self.root / "mail" / login / "Maildir"

    def clear(self, login: str) -> None:
        """An empty mailbox, its UIDLs forgotten."""
        shutil.rmtree(self.root / "mail" / login, ignore_errors=True)
        for sub in ("tmp", "new", "cur"):
            (self.maildir(login) / sub).mkdir(parents=True)
        for folder, _, _ in os.walk(self.root / "mail" / login):
            os.chown(folder, self.owner.pw_uid, self.owner.pw_gid)

    def deliver(self, login: str, data: bytes) -> None:
        """Puts a message into the mailbox as its bytes are."""
        name = f"{time.time_ns()}.M{threading.get_ident()}.{DOMAIN}"
        path = self.maildir(login) / "tmp" / name
        path.write_bytes(data)
        os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
        path.rename(self.maildir(login) / "new" / name)

    def waiting(self, login: str) -> list[bytes]:
        """What lies in the mailbox now."""
        box = self.maildir(login)
        return [p.read_bytes() for sub in ("new", "cur") for p in sorted((box / sub).iterdir())]


@dataclass(frozen=True)
class Captured:
    """One message as a server got it; `data` has CRLF line ends."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes


_CAPTURE = """#!/bin/sh
# queue-id sender recipient...
set -e
umask 077
id=$1-$$
shift
printf '%s\\n' "$@" > "{folder}/$id.env"
cat > "{folder}/$id.tmp"
mv "{folder}/$id.tmp" "{folder}/$id.eml"
"""


class Postfix:
    """`smtp` is plain and offers STARTTLS and, under it, AUTH; `submission` demands STARTTLS and AUTH; `smtps` is
    implicit TLS and demands AUTH. The logins are Dovecot's."""

    MASTER = "/usr/lib/postfix/sbin/master"

    def __init__(self, root: Path, dovecot: Dovecot, certificates: Certificates, *, main: str = "") -> None:
        self.root, self.dovecot = root, dovecot
        self.smtp, self.submission, self.smtps = (free_port() for _ in range(3))
        self._process: subprocess.Popen[bytes] | None = None
        self.log = root / "log"
        owner = pwd.getpwnam("nobody")
        for name in ("etc", "queue", "data", "captured"):
            (root / name).mkdir()
        os.chown(root / "data", pwd.getpwnam("postfix").pw_uid, -1)
        os.chown(root / "captured", owner.pw_uid, owner.pw_gid)
        script = root / "capture"
        script.write_text(_CAPTURE.format(folder=root / "captured"))
        script.chmod(0o755)
        boxes = "".join(f"{name}@{DOMAIN} {name}/Maildir/\n" for name in dovecot.logins)
        (root / "etc" / "boxes").write_text(boxes)
        (root / "etc" / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {self.log}
maillog_file_prefixes = {root}
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.{DOMAIN}
mydestination =
inet_interfaces = {HOST}
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_client_connection_count_limit = 0
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_base = {dovecot.root}/mail
virtual_mailbox_maps = texthash:{root}/etc/boxes
virtual_minimum_uid = 1
virtual_uid_maps = static:{dovecot.owner.pw_uid}
virtual_gid_maps = static:{dovecot.owner.pw_gid}
virtual_mailbox_limit = 0
default_transport = capture
capture_destination_recipient_limit = 1000
default_destination_recipient_limit = 1000
message_size_limit = 52428800
header_size_limit = 1024000
smtpd_sasl_type = dovecot
smtpd_sasl_path = {dovecot.auth_socket}
smtpd_tls_auth_only = yes
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificates.certificate}
smtpd_tls_key_file = {certificates.key}
# byte for byte: nothing is rewritten, dropped or added but the trace field
local_header_rewrite_clients =
message_drop_headers =
disable_mime_input_processing = yes
{main}
""")
        secure = "-o smtpd_sasl_auth_enable=yes -o smtpd_client_restrictions=permit_sasl_authenticated,reject"
        (root / "etc" / "master.cf").write_text(f"""
{HOST}:{self.smtp} inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes
{HOST}:{self.submission} inet n - n - - smtpd {secure} -o smtpd_tls_security_level=encrypt
{HOST}:{self.smtps} inet n - n - - smtpd {secure} -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
tlsmgr unix - - n 1000? 1 tlsmgr
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq unix n - n - - showq
flush unix n - n 1000? 0 flush
postlog unix-dgram n - n - 1 postlogd
capture unix - n n - 4 pipe flags= user=nobody null_sender= argv={script} ${{queue_id}} ${{sender}} ${{recipient}}
""")

    def start(self) -> Postfix:
        conf = str(self.root / "etc")
        checked = subprocess.run(
            ["/usr/sbin/postfix", "-c", conf, "check"],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert checked.returncode == 0, f"postfix check: {checked.stdout}{checked.stderr}"
        self._process = subprocess.Popen(
            [self.MASTER, "-c", conf, "-s"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: self._process_lives() and greets(self.smtp), "Postfix answers")
        return self

    def _process_lives(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Postfix ended: {self.log.read_text() if self.log.exists() else 'no log'}"
        return True

    def stop(self) -> None:
        if self._process is not None:
            end_process(self._process)

    def clear(self) -> None:
        """Forgets what was captured; waits until nothing is under way first."""
        self.settle()
        for path in (self.root / "captured").iterdir():
            path.unlink()

    def settle(self) -> None:
        """Waits until everything that Postfix took is delivered."""
        wait_until(lambda: not self.queued(), "Postfix's queue is empty")

    def queued(self) -> list[Path]:
        queue = self.root / "queue"
        return [
            p for sub in ("maildrop", "incoming", "active", "deferred") for p in (queue / sub).rglob("*") if p.is_file()
        ]

    def captured(self) -> list[Captured]:
        """What was taken for other domains, each message once per delivery."""
        self.settle()
        out = []
        for path in sorted((self.root / "captured").glob("*.eml")):
            sender, *recipients = path.with_suffix(".env").read_text().splitlines()
            data = path.read_bytes().replace(b"\n", b"\r\n")
            out.append(Captured(sender, tuple(recipients), data))
        return out


class _Roomy(SMTP):
    line_length_limit = 1 << 20
    """aiosmtpd's own 1001 would refuse what other servers take."""


class AioSmtp:
    """aiosmtpd in a thread: no PIPELINING, no CHUNKING, no enhanced codes. `refuse` maps (verb, argument) to a reply
    line, or None to go on; verbs are MAIL, RCPT and DATA (asked at the end of data)."""

    def __init__(
        self,
        *,
        certificates: Certificates | None = None,
        login: tuple[str, str] | None = None,
        refuse: Callable[[str, str], str | None] = lambda verb, argument: None,
        size_limit: int = 50 << 20,
    ) -> None:
        self.port = free_port()
        self.refuse = refuse
        self._login = login
        self._taken: list[Captured] = []
        self._controller = _Controller(
            self,
            hostname=HOST,
            port=self.port,
            data_size_limit=size_limit,
            enable_SMTPUTF8=True,
            server_hostname="second.example",
            tls_context=certificates.server_context() if certificates else None,
            authenticator=self._authenticate if login else None,
            auth_require_tls=certificates is not None and login is not None,
        )

    def start(self) -> AioSmtp:
        self._controller.start()
        return self

    def stop(self) -> None:
        self._controller.stop()

    def captured(self) -> list[Captured]:
        return list(self._taken)

    def clear(self) -> None:
        self._taken.clear()

    # ---- aiosmtpd's hooks, in its own thread
    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == self._login
        return AuthResult(success=right, handled=False)

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if said := self.refuse("MAIL", address):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if said := self.refuse("RCPT", address):
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if said := self.refuse("DATA", envelope.mail_from or ""):
            return said
        self._taken.append(Captured(envelope.mail_from or "", tuple(envelope.rcpt_tos), bytes(envelope.content or b"")))
        return "250 OK"


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Roomy(self.handler, **self.SMTP_kwargs)
