"""The mail programs of the LAN: swaks, curl, msmtp and fetchmail as they come from Debian, smtplib and poplib, and a
conversation by hand for what no program does.

`SENDERS` are the ways to submit. Each says what it cannot carry verbatim, whoever the server is; `sends` shows what
really goes out (`Mail.wire`, or `Mail.data` where a sender has BDAT).
"""

from __future__ import annotations

import base64
import os
import poplib
import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .corpus import Mail
from .providers import HOST

poplib._MAXLINE = 1 << 27  # type: ignore[attr-defined]  # long lines are what we want to see
PATIENCE_S = 120
NAME = "pc.harbour.example"


def any_certificate() -> ssl.SSLContext:
    """What a LAN client does with the appliance's self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Login:
    name: str
    password: str


class Refused(Exception):
    """The program was told no; the text is what it said."""


def _program(
    argv: list[str], data: bytes = b"", *, codes: tuple[int, ...] = (0,), env: dict[str, str] | None = None
) -> bytes:
    done = subprocess.run(argv, input=data, capture_output=True, timeout=PATIENCE_S, env={**os.environ, **(env or {})})
    if done.returncode not in codes:
        raise Refused(
            f"{argv[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:].decode(errors='replace')}"
        )
    return done.stdout


# ---- submitting
def by_smtplib(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    with smtplib.SMTP(HOST, port, local_hostname=NAME, timeout=PATIENCE_S) as s:
        s.ehlo()
        if login:
            s.starttls(context=any_certificate())
            s.ehlo()
            s.login(login.name, login.password)
        options = ["BODY=8BITMIME"] if s.has_extn("8bitmime") and not mail.data.isascii() else []
        if refused := s.sendmail(mail.sender, list(mail.recipients), mail.data, mail_options=options):
            raise Refused(str(refused))


def by_swaks(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    """Logs in without TLS, as a server may allow from loopback: its TLS needs a Perl package that nothing else does."""
    file = folder / f"swaks-{mail.ident}"
    # --no-data-fixup: swaks sends these bytes as they are, so the dots are doubled and the end is put here
    file.write_bytes(re.sub(rb"(?m)^\.", b"..", mail.wire) + b".")
    argv = ["swaks", "--server", HOST, "--port", str(port), "--helo", NAME, "--timeout", str(PATIENCE_S),
            "--from", mail.sender, "--to", ",".join(mail.recipients), "--data", f"@{file}",
            "--no-data-fixup"]  # fmt: skip
    if login:
        argv += ["--auth", "PLAIN", "--auth-user", login.name, "--auth-password", login.password]
    _program(argv)


def by_curl(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    file = folder / f"curl-{mail.ident}"
    file.write_bytes(mail.wire)
    argv = ["curl", "--silent", "--show-error", f"smtp://{HOST}:{port}/{NAME}", "--mail-from", mail.sender,
            "--upload-file", str(file), "--max-time", str(PATIENCE_S)]  # fmt: skip
    for recipient in mail.recipients:
        argv += ["--mail-rcpt", recipient]
    if login:
        argv += [
            "--ssl-reqd",
            "--insecure",
            "--user",
            f"{login.name}:{login.password}",
            "--login-options",
            "AUTH=LOGIN",
        ]
    _program(argv)


def by_msmtp(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    argv = ["msmtp", "--file=/dev/null", f"--host={HOST}", f"--port={port}", f"--from={mail.sender}",
            f"--domain={NAME}", "--remove-bcc-headers=off", "--undisclosed-recipients=off",
            f"--timeout={PATIENCE_S}"]  # fmt: skip
    if login:
        argv += ["--tls=on", "--tls-starttls=on", "--tls-certcheck=off", "--auth=plain", f"--user={login.name}",
                 f"--passwordeval=printf %s '{login.password}'"]  # fmt: skip
    _program([*argv, "--", *mail.recipients], mail.wire.replace(b"\r\n", b"\n"))


def by_bdat(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    """CHUNKING and PIPELINING by hand (RFC 3030, 2920): three chunks, the last of them empty."""
    with Conversation(port) as c:
        c.login(login)
        half = len(mail.data) // 2
        commands = [b"MAIL FROM:<%b> BODY=8BITMIME" % mail.sender.encode()]
        commands += [b"RCPT TO:<%b>" % r.encode() for r in mail.recipients]
        c.send(b"".join(x + b"\r\n" for x in commands))
        c.send(b"BDAT %d\r\n" % half + mail.data[:half])
        c.send(b"BDAT %d\r\n" % (len(mail.data) - half) + mail.data[half:] + b"BDAT 0 LAST\r\n")
        for what in [*commands, b"first BDAT", b"second BDAT", b"BDAT LAST"]:
            if not (said := c.reply()).startswith(b"250"):
                raise Refused(f"{what!r}: {said!r}")
        c.command(b"QUIT")


def by_pipeline(port: int, mail: Mail, login: Login | None, folder: Path) -> None:
    """PIPELINING by hand: MAIL, RCPT and DATA in one write (RFC 2920 §3.1)."""
    with Conversation(port) as c:
        c.login(login)
        commands = [b"MAIL FROM:<%b> BODY=8BITMIME SIZE=%d" % (mail.sender.encode(), len(mail.wire))]
        commands += [b"RCPT TO:<%b>" % r.encode() for r in mail.recipients]
        c.send(b"".join(x + b"\r\n" for x in [*commands, b"DATA"]))
        for what in commands:
            if not (said := c.reply()).startswith(b"250"):
                raise Refused(f"{what!r}: {said!r}")
        if not (said := c.reply()).startswith(b"354"):
            raise Refused(f"DATA: {said!r}")
        if not (said := c.data(mail.wire)).startswith(b"250"):
            raise Refused(f"end of data: {said!r}")
        c.command(b"QUIT")


@dataclass(frozen=True)
class Sender:
    """A way to submit. `submit(port, mail, login, folder)` raises when it was not taken; `login` goes over STARTTLS."""

    name: str
    submit: Callable[[int, Mail, Login | None, Path], None]
    spoils: frozenset[str] = frozenset()
    """Kinds of corpus that it alters by itself, so that they prove nothing of the server."""
    plain_login: bool = False
    """Gives its password without TLS."""
    chunks: bool = False
    """Needs CHUNKING, and carries a message without an end of its last line."""


SENDERS = {
    s.name: s
    for s in (
        Sender("smtplib", by_smtplib),
        Sender("swaks", by_swaks, plain_login=True),
        Sender("curl", by_curl),
        Sender("msmtp", by_msmtp, frozenset({"nul"})),
        Sender("pipeline", by_pipeline),
        Sender("bdat", by_bdat, chunks=True),
    )
}


# ---- reading
def read_by_poplib(port: int, login: Login, *, delete: bool = False, tls: bool = True) -> list[bytes]:
    """Every message of the maildrop, CRLF line ends, in order."""
    p = poplib.POP3(HOST, port, timeout=PATIENCE_S)
    try:
        if tls:
            p.stls(any_certificate())
        p.user(login.name)
        p.pass_(login.password)
        out = []
        for number in range(1, p.stat()[0] + 1):
            out.append(b"".join(line + b"\r\n" for line in p.retr(number)[1]))
            if delete:
                p.dele(number)
        p.quit()
        return out
    finally:
        p.close()


def read_by_curl(port: int, login: Login) -> list[bytes]:
    """The same by curl, a process per message, over STLS."""
    base = ["curl", "--silent", "--show-error", "--ssl-reqd", "--insecure", "--user", f"{login.name}:{login.password}",
            "--max-time", str(PATIENCE_S)]  # fmt: skip
    listed = _program([*base, f"pop3://{HOST}:{port}/"]).split()[::2]
    return [_program([*base, f"pop3://{HOST}:{port}/{number.decode()}"]) for number in listed]


def read_by_fetchmail(port: int, login: Login, folder: Path, *, keep: bool = True) -> list[bytes]:
    """The same by fetchmail, as it hands them to an MDA (LF made CRLF again), over STLS, in no certain order."""
    box = folder / f"fetchmail-{login.name}"
    box.mkdir(exist_ok=True)
    for old in box.iterdir():
        old.unlink()
    mda = box.with_suffix(".mda")
    mda.write_text(f'#!/bin/sh\nexec cat > "$(mktemp {box}/XXXXXX)"\n')
    mda.chmod(0o755)
    rc = box.with_suffix(".rc")
    rc.write_text(
        f'poll {HOST} service {port} protocol pop3 no dns user "{login.name}" password "{login.password}" fetchall '
        f'{"keep" if keep else "nokeep"} sslproto "auto" no sslcertck no rewrite mda "{mda}"\n'
    )
    rc.chmod(0o600)
    # 1 is "no mail waits"
    _program(["fetchmail", "-f", str(rc), "--nodetach", "--nosyslog", "--pidfile", f"{box}.pid", "--invisible"],
             codes=(0, 1), env={"FETCHMAILHOME": str(folder), "HOME": str(folder)})  # fmt: skip
    return [p.read_bytes().replace(b"\n", b"\r\n") for p in sorted(box.iterdir())]


class Conversation:
    """SMTP or POP3 by hand: bytes out, replies in."""

    def __init__(self, port: int, *, timeout: float = 20.0, source: str = HOST, greeting: bool = True) -> None:
        self._socket: socket.socket = socket.create_connection((HOST, port), timeout, source_address=(source, 0))
        self._file = self._socket.makefile("rb")
        try:
            self.greeting = self.reply() if greeting else b""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def line(self) -> bytes:
        """Without its end; EOFError once the server has closed."""
        line = self._file.readline()
        if not line:
            raise EOFError("the server closed the connection")
        return line.rstrip(b"\r\n")

    def reply(self) -> bytes:
        """A whole SMTP reply, its lines joined by LF; of POP3 one line."""
        lines = [self.line()]
        while re.match(rb"\d{3}-", lines[-1]):
            lines.append(self.line())
        return b"\n".join(lines)

    def command(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.reply()

    def ehlo(self) -> list[bytes]:
        """The extensions."""
        said = self.command(b"EHLO " + NAME.encode())
        assert said.startswith(b"250"), said
        return [line[4:] for line in said.split(b"\n")[1:]]

    def starttls(self) -> None:
        said = self.command(b"STARTTLS")
        assert said.startswith(b"220"), said
        self.go_secure()

    def go_secure(self) -> None:
        """The TLS handshake."""
        self._file.close()
        self._socket = any_certificate().wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def login(self, login: Login | None) -> None:
        """EHLO, and with a login STARTTLS and AUTH PLAIN too."""
        self.ehlo()
        if login:
            self.starttls()
            self.ehlo()
            secret = base64.b64encode(f"\0{login.name}\0{login.password}".encode())
            said = self.command(b"AUTH PLAIN " + secret)
            if not said.startswith(b"235"):
                raise Refused(said.decode(errors="replace"))

    def begin(self, sender: str, *recipients: str) -> None:
        """MAIL, RCPT and DATA, each of which must be granted."""
        said = [self.command(b"MAIL FROM:<%b>" % sender.encode())]
        said += [self.command(b"RCPT TO:<%b>" % r.encode()) for r in recipients]
        assert all(s.startswith(b"250") for s in said), said
        said = [self.command(b"DATA")]
        assert said[0].startswith(b"354"), said

    def data(self, wire: bytes) -> bytes:
        """The body with its dots doubled and its end; -> the reply."""
        self.send(re.sub(rb"(?m)^\.", b"..", wire) + b".\r\n")
        return self.reply()

    def closed(self) -> bool:
        """Whether the server closes, within the timeout, and nothing more comes."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True
