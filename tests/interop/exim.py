"""A private Exim as a provider, out of the folder that `scripts/exim-root` unpacks. Needs root.

`smtp` is plain and offers STARTTLS. A login of Dovecot's gets what is for it into its Maildir, anybody else at the
provider's domain is refused; what is for other domains is captured, one file a delivery.

Exim insists on a user Debian-exim, whom its package would make: it runs with a passwd and a group file of its own, in a
mount namespace of its own. There that user has the number of Dovecot's, for it may not become another (a configuration
that is not Debian's costs it its privilege).
"""

from __future__ import annotations

import email
import email.utils
import os
import re
import signal
import subprocess
from pathlib import Path

from fakes.ports import free_port

from .providers import DOMAIN, HOST, Captured, Certificates, Dovecot, end_process, greets, wait_until

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "exim-root"
_CONFIGURATION = """
exim_path = {program}
primary_hostname = mail.{domain}
qualify_domain = {domain}
spool_directory = {root}/spool
log_file_path = {root}/log/%slog
log_selector = +pipelining +smtp_confirmation
pid_file_path = {root}/pid
local_interfaces = {host}
daemon_smtp_ports = {port}
tls_certificate = {certificates.certificate}
tls_privatekey = {certificates.key}
tls_advertise_hosts = *
chunking_advertise_hosts = {chunking}
host_lookup =
rfc1413_hosts =
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
message_size_limit = 50M
never_users =
acl_smtp_rcpt = rcpt
keep_environment =

begin acl
rcpt:
  accept domains = ! {domain}
  accept local_parts = lsearch;{root}/boxes
  deny message = there is nobody of that name here

begin routers
boxes:
  driver = accept
  domains = {domain}
  local_parts = lsearch;{root}/boxes
  transport = box
far:
  driver = accept
  domains = ! {domain}
  transport = capture

begin transports
box:
  driver = appendfile
  directory = {dovecot.root}/mail/$local_part_data/Maildir
  maildir_format
  user = {dovecot.owner.pw_uid}
  group = {dovecot.owner.pw_gid}
capture:
  driver = appendfile
  directory = {root}/captured
  maildir_format
  user = {dovecot.owner.pw_uid}
  group = {dovecot.owner.pw_gid}
  batch_max = 1000
  return_path_add
  envelope_to_add
"""


class Exim:
    def __init__(self, root: Path, dovecot: Dovecot, certificates: Certificates, *, chunking: bool = True) -> None:
        self.root = root
        self.smtp = free_port()
        self.chunking = chunking
        self._process: subprocess.Popen[bytes] | None = None
        unpacked = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        assert unpacked.returncode == 0, unpacked.stderr
        self._program = f"{unpacked.stdout.strip()}/usr/sbin/exim4"
        owner = dovecot.owner
        for name in ("spool", "log", "captured"):
            (root / name).mkdir()
            os.chown(root / name, owner.pw_uid, owner.pw_gid)
        (root / "boxes").write_text("".join(f"{name}: {name}\n" for name in dovecot.logins))
        for name, line in (
            ("passwd", f"{owner.pw_uid}:{owner.pw_gid}::/:/usr/sbin/nologin"),
            ("group", f"{owner.pw_gid}:"),
        ):
            (root / name).write_text(Path("/etc", name).read_text() + f"Debian-exim:x:{line}\n")
        (root / "conf").write_text(
            _CONFIGURATION.format(
                program=self._program, root=root, domain=DOMAIN, host=HOST, port=self.smtp, certificates=certificates, dovecot=dovecot,
                chunking="*" if chunking else "",
            )
        )  # fmt: skip

    def start(self) -> Exim:
        own_users = f"mount --bind {self.root}/passwd /etc/passwd && mount --bind {self.root}/group /etc/group"
        argv = [self._program, "-C", f"{self.root}/conf", "-bdf", "-q1m"]
        with (self.root / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", f'{own_users} && exec "$@"', "sh", *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        wait_until(lambda: self._lives() and greets(self.smtp), "Exim answers")
        return self

    def _lives(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Exim ended: {(self.root / 'stderr').read_text()}"
        return True

    def stop(self) -> None:
        if self._process is not None:
            end_process(self._process, signal.SIGTERM)

    def clear(self) -> None:
        """Forgets what was captured and noted; waits until nothing is under way first."""
        self.settle()
        for path in (*(self.root / "captured" / "new").glob("*"), *(self.root / "log").glob("mainlog")):
            path.unlink()

    def arrivals(self) -> list[str]:
        """Exim's own line for each message that it took over the network: `K` where it came by BDAT."""
        return [
            line
            for line in (self.root / "log" / "mainlog").read_text().splitlines()
            if " <= " in line and " H=" in line
        ]

    def settle(self) -> None:
        """Waits until everything that Exim took is delivered."""
        wait_until(lambda: not [*(self.root / "spool" / "input").rglob("*-H")], "Exim's queue is empty")

    def captured(self) -> list[Captured]:
        """What was taken for other domains, each message once per delivery."""
        self.settle()
        out = []
        for path in sorted((self.root / "captured" / "new").glob("*")):
            data = path.read_bytes().replace(b"\n", b"\r\n")
            # Return-path and Envelope-to, on top.
            fields = re.match(rb"Return-path: <(.*)>\r\nEnvelope-to: ((?:.|\r\n[ \t])*)\r\n", data)
            assert fields, data[:200]
            recipients = [address for _, address in email.utils.getaddresses([fields[2].decode()])]
            out.append(Captured(fields[1].decode(), tuple(recipients), data[fields.end() :]))
        return out
