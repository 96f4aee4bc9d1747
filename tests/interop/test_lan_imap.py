"""`mail.imap`: Dovecot beside Posthouse on an ordinary PC, as a child, with this machine's Dovecot and real clients; in a
network namespace, since its ports are fixed. (Its configuration and the shared Maildirs: `test_maildir_dovecot`.)
"""

from __future__ import annotations

import imaplib
import os
import poplib
import pwd
import signal
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.netns import Namespace, namespace

from .product import PASSWORD, Product, Table, hashed
from .providers import wait_until

ORDINARY = pwd.getpwnam("nobody")
HOST = "127.0.0.1"
WAIT_S = 60.0
MAIL = b"Subject: one\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n"


class OrdinaryProduct(Product):
    """Runs as a user other than root that may listen on ports below 1024, and read this checkout wherever it lies."""

    command = (
        "setpriv", f"--reuid={ORDINARY.pw_uid}", f"--regid={ORDINARY.pw_gid}", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all,+net_bind_service,+dac_read_search", "--ambient-caps=+net_bind_service,+dac_read_search",
    )  # fmt: skip

    def write(self) -> None:
        super().write()
        for path in (self.root, self.file, self.root / "secrets.toml"):
            os.chown(path, ORDINARY.pw_uid, ORDINARY.pw_gid)


def user(name: str) -> Table:
    return {"name": name, "password": hashed(PASSWORD), "addresses": [f"{name}@harbour.example"]}


def config(folder: Path) -> Table:
    return {
        "site": {"name": "harbour", "domain": "harbour.example", "state": folder / "state", "runtime": folder / "run"},
        "mail": {"pop3": [f"{HOST}:110"], "imap": True},
        "user": [user("hanako")],
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """Whose parents an ordinary user may pass, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="posthouse-") as name:
        yield Path(name)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace("here") as here:
        here.ip("link", "set", "lo", "up")
        yield here


def log_in(host: Namespace, login: str) -> imaplib.IMAP4:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with host.inside():
        imap = imaplib.IMAP4(HOST, 143, timeout=WAIT_S)
    imap.starttls(tls)
    imap.login(login, PASSWORD)
    imap.select()
    return imap


def can_log_in(host: Namespace, login: str) -> bool:
    with host.inside():
        imap = imaplib.IMAP4(HOST, 143, timeout=WAIT_S)
    try:
        imap.authenticate("PLAIN", lambda _: f"\0{login}\0{PASSWORD}".encode())  # from this host also without TLS
        return True
    except imaplib.IMAP4.error:
        return False
    finally:
        imap.shutdown()


def count(imap: imaplib.IMAP4) -> int:
    imap.noop()
    return len(imap.search(None, "ALL")[1][0].split())


def test_one_mailbox_by_imap_and_pop3(host: Namespace, folder: Path) -> None:
    product = OrdinaryProduct(folder, config(folder), {})
    try:
        product.start(preexec_fn=host.enter)
        wait_until(lambda: "IMAP for the LAN by Dovecot" in product.journal(), "IMAP is ready", patience=WAIT_S)
        assert product.status()["services"]["imap"] == "running"
        imap = log_in(host, "hanako")
        imap.append("INBOX", "", None, MAIL)
        with host.inside():
            pop = poplib.POP3(HOST, 110, timeout=WAIT_S)
        pop.user("hanako@harbour.example")
        pop.pass_(PASSWORD)
        assert b"\r\n".join(pop.retr(1)[1]) + b"\r\n" == MAIL
        pop.dele(1)
        pop.quit()
        assert count(imap) == 0

        # Another user, and a session that is none the worse for it.
        product.config["user"].append(user("taro"))
        product.write()
        assert product.process is not None
        product.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration" in product.journal() and "taro" in users_of(product), "taro is a user")
        # Dovecot looks at its file once a second at most.
        wait_until(lambda: can_log_in(host, "Taro@harbour.example"), "taro can log in", patience=WAIT_S)
        imap.append("INBOX", "", None, MAIL)
        assert count(imap) == 1
        assert PASSWORD not in users_of(product)
        imap.shutdown()

        # Without it there is none.
        product.config["mail"]["imap"] = False
        product.write()
        product.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "imap" not in product.status()["services"], "IMAP is off")
        with pytest.raises(OSError):
            log_in(host, "hanako")
        assert product.stop() == 0
        assert " W " not in product.journal()
    except BaseException:
        print(product.journal()[-6000:], file=sys.stderr)
        raise
    finally:
        if product.alive:
            product.kill()


def users_of(product: Product) -> str:
    return (product.root / "run/dovecot.users").read_text()


def test_as_root_it_says_why_there_is_none_and_the_rest_runs(host: Namespace, tmp_path: Path) -> None:
    product = Product(tmp_path, config(tmp_path), {})
    try:
        product.start(preexec_fn=host.enter)
        assert "Dovecot serves no mail of root's" in product.journal()
        assert product.status()["services"]["pop3"] == "running"
        assert product.stop() == 0
    finally:
        if product.alive:
            product.kill()
