"""A backup of a site that takes mail in meanwhile, restored elsewhere: every message that was accepted before is there."""

from __future__ import annotations

import smtplib
import threading
from pathlib import Path

from fakes.ports import free_port

from .product import PASSWORD, Product, Table, hashed, running

COUNT = 20
BEFORE = 5


def config(folder: Path, smtp: int, pop3: int) -> Table:
    return {
        "site": {"name": "harbour", "domain": "harbour.example", "state": "state", "runtime": "run"},
        "mail": {"smtp": [f"127.0.0.1:{smtp}"], "pop3": [f"127.0.0.1:{pop3}"], "smarthost": [{"host": "smtp.example"}]},
        "user": [{"name": "hanako", "password": hashed(PASSWORD), "addresses": ["hanako@harbour.example"]}],
    }  # fmt: skip


def submit(port: int, accepted: list[int], done: threading.Event) -> None:
    """To hanako herself and to the world in turn, over one connection."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.login("hanako", PASSWORD)
            for number in range(COUNT):
                to = "hanako@harbour.example" if number % 2 else "somebody@world.example"
                client.sendmail("hanako@harbour.example", [to], f"Subject: m{number}\r\n\r\nbody {number}\r\n".encode())
                accepted.append(number)
    finally:
        done.set()


def mails(folder: Path) -> set[int]:
    found = [*folder.glob("state/mail/hanako/*/*"), *folder.glob("state/spool/queue/*.eml")]
    texts = [path.read_text() for path in found]
    return {int(t.partition("\nSubject: m")[2].partition("\n")[0]) for t in texts}


def test_a_backup_under_load(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    smtp = free_port()
    accepted: list[int] = []
    done, product = threading.Event(), Product(old, config(old, smtp, free_port()), {})
    with running(product):
        sender = threading.Thread(target=submit, args=(smtp, accepted, done))
        sender.start()
        while len(accepted) < BEFORE and not done.is_set():
            done.wait(0.01)
        before = list(accepted)
        made = product.cli("backup", str(tmp_path / "stick"))
        assert made.returncode == 0, made.stderr
        sender.join()
        assert not (old / "state/backup").exists()
        refused = product.cli("restore", str(tmp_path / "stick"))
        assert refused.returncode == 1 and "end it first" in refused.stderr
        assert product.stop() == 0
    assert len(accepted) == COUNT

    again = Product(new, config(new, smtp, free_port()), {})
    restored = again.cli("restore", str(tmp_path / "stick"))
    assert restored.returncode == 0, restored.stderr
    assert set(before) <= mails(new) <= set(range(COUNT))
    again.config["mail"]["pop3"] = product.config["mail"]["pop3"]
    with running(again):
        waiting = {entry["id"] for entry in again.queue()}
        assert len(waiting) >= len([n for n in before if n % 2 == 0])
        assert not list((new / "state/spool/corrupt").iterdir())
        assert set(before) <= mails(new)
        assert again.stop() == 0
