"""The mail programs of a site: those on this machine submit to Posthouse and read from it, each in its own way.

smtplib and poplib are always there; curl, msmtp, swaks and fetchmail where they are installed. Each is given a whole
message, CRLF line ends, and what it needs to log in; nothing of this machine's or the user's own configuration is read.
"""

from __future__ import annotations

import os
import poplib
import re
import shutil
import smtplib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CONVERTING", "READERS", "SUBMITTERS", "ClientFailed", "Login", "found", "read", "submit"]

PATIENCE_S: Final = 20.0


class ClientFailed(Exception):
    """A mail program did not get its mail through; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Login:
    """A service as a user reaches it; `folder` is for what the program needs to write."""

    host: str
    port: int
    name: str
    password: str
    folder: Path


def found(programs: Mapping[str, Callable[..., object]]) -> list[str]:
    """Those of `SUBMITTERS` or `READERS` that this machine has."""
    return [name for name in programs if name in _PYTHON or shutil.which(name)]


def submit(program: str, login: Login, sender: str, recipient: str, data: bytes) -> None:
    """Blocks until the program has handed the message over. Raises ClientFailed."""
    try:
        SUBMITTERS[program](login, sender, recipient, data)
    except (OSError, smtplib.SMTPException, subprocess.SubprocessError) as error:
        raise ClientFailed(f"{program} could not submit a message: {_words(error)}") from error


def read(program: str, login: Login) -> list[bytes]:
    """All messages of a maildrop, which keeps them; blocks. Raises ClientFailed."""
    try:
        return READERS[program](login)
    except (OSError, poplib.error_proto, subprocess.SubprocessError) as error:
        raise ClientFailed(f"{program} could not read {login.name}'s mail: {_words(error)}") from error


def _words(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or error.stdout or b"").decode(errors="replace").strip().splitlines()
        return f"exit code {error.returncode}, {' / '.join(said[-3:])}"
    return str(error)


def _run(login: Login, argv: list[str], data: bytes = b"", *, good: tuple[int, ...] = (0,)) -> None:
    """Runs a program whose home is `login.folder`."""
    env = {**os.environ, "HOME": str(login.folder), "FETCHMAILHOME": str(login.folder), "LC_ALL": "C"}
    done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=PATIENCE_S, env=env)
    if done.returncode not in good:
        raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)


def _private(login: Login, name: str, text: str | bytes) -> Path:
    """A file that only its owner may read: curl, msmtp and fetchmail take passwords from such."""
    path = login.folder / name
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---- submitting


def _smtplib(login: Login, sender: str, recipient: str, data: bytes) -> None:
    with smtplib.SMTP(login.host, login.port, timeout=PATIENCE_S) as client:
        client.login(login.name, login.password)
        client.sendmail(sender, [recipient], data, mail_options=["BODY=8BITMIME"])


def _curl(login: Login, sender: str, recipient: str, data: bytes) -> None:
    settings = _private(login, "curl.conf", f'user = "{login.name}:{login.password}"\n')
    letter = _private(login, "letter", data)
    _run(
        login,
        ["curl", "--silent", "--show-error", "--config", str(settings), "--url", f"smtp://{login.host}:{login.port}",
         "--mail-from", sender, "--mail-rcpt", recipient, "--upload-file", str(letter)],
    )  # fmt: skip


def _msmtp(login: Login, sender: str, recipient: str, data: bytes) -> None:
    settings = _private(
        login,
        "msmtprc",
        f"account default\nhost {login.host}\nport {login.port}\ntls off\nauth plain\n"
        f"user {login.name}\npassword {login.password}\nfrom {sender}\n",
    )
    # Programs hand msmtp, as any sendmail, the system's line ends.
    _run(login, ["msmtp", f"--file={settings}", "--", recipient], data.replace(b"\r\n", b"\n"))


def _swaks(login: Login, sender: str, recipient: str, data: bytes) -> None:
    # It ends the last line itself, and makes every line end CRLF.
    letter = _private(login, "letter", data.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    _run(
        login,
        ["swaks", "--server", f"{login.host}:{login.port}", "--auth", "PLAIN", "--auth-user", login.name,
         "--auth-password", login.password, "--from", sender, "--to", recipient, "--data", f"@{letter}"],
    )  # fmt: skip


# ---- reading


def _poplib(login: Login) -> list[bytes]:
    client = poplib.POP3(login.host, login.port, timeout=PATIENCE_S)
    try:
        client.user(login.name)
        client.pass_(login.password)
        count, _ = client.stat()
        return [b"".join(line + b"\r\n" for line in client.retr(n)[1]) for n in range(1, count + 1)]
    finally:
        client.quit()


def _fetchmail(login: Login) -> list[bytes]:
    inbox = login.folder / "inbox"
    inbox.mkdir()
    settings = _private(
        login,
        "fetchmailrc",
        f"set invisible\npoll {login.host} service {login.port} protocol pop3 uidl auth password\n"
        f'user "{login.name}" password "{login.password}" keep fetchall no rewrite stripcr\n'
        f"mda \"cat > '{inbox}'/$$\" sslproto ''\n",
    )
    _run(login, ["fetchmail", "--fetchmailrc", str(settings), "--silent"], good=(0, 1))  # 1: no mail
    return [re.sub(rb"\r?\n", b"\r\n", file.read_bytes()) for file in sorted(inbox.iterdir())]


SUBMITTERS: Final[dict[str, Callable[[Login, str, str, bytes], None]]] = {
    "smtplib": _smtplib,
    "curl": _curl,
    "msmtp": _msmtp,
    "swaks": _swaks,
}
READERS: Final[dict[str, Callable[[Login], list[bytes]]]] = {"poplib": _poplib, "fetchmail": _fetchmail}
CONVERTING: Final = frozenset({"fetchmail", "msmtp", "swaks"})
"""Programs that work on the system's line ends and so on text of ASCII and ordinary lines only."""
_PYTHON: Final = frozenset({"smtplib", "poplib"})
