"""What else carries mail over a slow line, each as it is fastest: Postfix's queue over twenty connections, msmtp with
twenty at once, fetchmail, mpop, mbsync. Each takes (folder, port of the provider's server) and is waited for."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.interop.providers import HOST, Certificates, Dovecot, Postfix, wait_until

PACKAGES = {"fetchmail": "fetchmail", "mpop": "mpop", "mbsync": "isync", "msmtp": "msmtp", "postfix": "postfix"}
AT_ONCE = 20
PATIENCE_S = 3600.0
SENDER = "hanako@harbour.example"


def lacking() -> str:
    """How to install what is not there; "" where all is."""
    path = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin"
    packages = [package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None]
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


async def _run(*argv: str, data: bytes = b"") -> None:
    done = await trio.run_process(argv, check=False, stdin=data, capture_stderr=True, capture_stdout=True)
    assert done.returncode == 0, (argv, done.returncode, done.stderr, done.stdout)


def _secret(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


# ---- out
class PostfixQueue:
    """A Postfix with its queue full, all of it for the server at `to`; `flush` sends it."""

    def __init__(self, root: Path, dovecot: Dovecot, certificates: Certificates, to: int) -> None:
        self._postfix = Postfix(
            root,
            dovecot,
            certificates,
            main=f"default_transport = smtp\nrelayhost = [{HOST}]:{to}\nvirtual_mailbox_domains =\n"
            f"default_destination_concurrency_limit = {AT_ONCE}\ninitial_destination_concurrency = {AT_ONCE}\n"
            "smtp_tls_security_level = none\ndefer_transports = smtp\n",
        )
        self._etc = root / "etc"
        with (self._etc / "master.cf").open("a") as file:
            file.write("smtp unix - - n - - smtp\npickup unix n - n 60 1 pickup\n")

    @contextmanager
    def full_of(self, bodies: list[bytes]) -> Iterator[PostfixQueue]:
        self._postfix.start()
        try:
            with smtplib.SMTP(HOST, self._postfix.smtp, timeout=60) as client:
                for n, body in enumerate(bodies):
                    client.sendmail(SENDER, [f"office{n % 7}@far.example"], body)
            queue = self._postfix.root / "queue"
            wait_until(
                lambda: len([*(queue / "deferred").rglob("[0-9A-F]*[0-9A-F][0-9A-F]")]) >= len(bodies), "deferred"
            )
            yield self
        finally:
            self._postfix.stop()

    async def flush(self) -> None:
        conf = str(self._etc)
        text = (self._etc / "main.cf").read_text()
        (self._etc / "main.cf").write_text(text.replace("defer_transports = smtp", "defer_transports ="))
        await _run("/usr/sbin/postfix", "-c", conf, "reload")
        await _run("/usr/sbin/postqueue", "-c", conf, "-f")
        with trio.fail_after(PATIENCE_S):
            while self._postfix.queued():
                await trio.sleep(0.02)


async def msmtp(folder: Path, port: int, bodies: list[bytes]) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(n: int, body: bytes) -> None:
        async with limit:
            argv = ["msmtp", "-C", "/dev/null", f"--host={HOST}", f"--port={port}", "--tls=off", "--auth=off"]
            await _run(*argv, f"--from={SENDER}", f"office{n % 7}@far.example", data=body)

    async with trio.open_nursery() as nursery:
        for n, body in enumerate(bodies):
            nursery.start_soon(one, n, body)


# ---- in
async def fetchmail(folder: Path, port: int, protocol: str, login: str, password: str) -> None:
    rc = _secret(
        folder / "rc",
        f'poll {HOST} service {port} protocol {protocol.upper()} username {login} password "{password}" '
        f'sslproto "" fetchall expunge 0 mda "cat > /dev/null"\n',
    )
    ids, pid = str(folder / "ids"), str(folder / "pid")
    await _run("fetchmail", "-f", rc, "-i", ids, "--pidfile", pid, "-s")


async def mpop(folder: Path, port: int, login: str, password: str) -> None:
    rc = _secret(
        folder / "rc",
        f"account a\nhost {HOST}\nport {port}\nuser {login}\npassword {password}\ntls off\nauth plain\n"
        f"delivery mda cat > /dev/null\nkeep off\npipelining on\nreceived_header off\nuidls_file {folder}/uidls\n",
    )
    await _run("mpop", "-C", rc, "-Q", "a")


async def mbsync(folder: Path, port: int, login: str, password: str) -> None:
    """It leaves what it has fetched where it was."""
    box = folder / "box"
    box.mkdir()
    rc = _secret(
        folder / "rc",
        f"IMAPAccount a\nHost {HOST}\nPort {port}\nUser {login}\nPass {password}\nSSLType None\nAuthMechs LOGIN\n\n"
        f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {box}/\nInbox {box}/INBOX\n\n"
        "Channel c\nFar :far:\nNear :near:\nCreate Near\nSync Pull\nSyncState *\n",
    )
    await _run("mbsync", "-c", rc, "c")


def versions() -> str:
    """One line: which they are."""
    out = []
    for argv in (["mpop", "--version"], ["mbsync", "--version"], ["msmtp", "--version"], ["fetchmail", "--version"]):
        text = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
        out.append(text.splitlines()[0].strip() if text else argv[0])
    return "; ".join(out)
