"""`posthouse console` as a person types at it, on a dumb terminal and on a full one, beside a Posthouse that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from .console import console
from .product import PASSWORD, Product, hashed, running


@contextlib.contextmanager
def house(root: Path, **more: object) -> Iterator[Product]:
    site = {"name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run"}
    user = {"name": "hanako", "addresses": ["hanako@harbour.example"]}
    product = Product(root, {"site": site, "user": [user], **more}, {})
    with running(product):
        yield product


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_person_looks_at_a_site(tmp_path: Path, term: str) -> None:
    with house(tmp_path) as product, console(product.file, term=term) as person:
        assert "for harbour" in person.prompt()
        assert "services  all running" in person.type("sh st")
        assert "no call was made yet" in person.type("show calls")
        person.child.send("show staus\r")
        shown = person.prompt()
        assert "       ^ unknown word; expected calls" in shown
        person.child.sendintr()
        person.prompt()
        assert "the queue is empty" in person.type("show queue")
        person.child.send("exit\r")
        person.child.expect(pexpect.EOF)
        assert not person.child.isalive()


def test_plain_lines_are_never_drawn_anew(tmp_path: Path) -> None:
    with house(tmp_path) as product, console(product.file) as person:
        person.prompt()
        seen = person.type("show ?")
        assert "  status     the line, the queue and the services" in seen
        assert "services  all running" in person.type("status")  # behind the words that stand in the prompt
        assert "\x1b" not in person.child.before
        person.child.send("show \t\r")
        assert "  queue      what waits" in person.prompt()


def test_a_full_terminal_completes_and_explains(tmp_path: Path) -> None:
    with house(tmp_path) as product, console(product.file, term="xterm") as person:
        person.prompt()
        person.child.send("sh\tst\t")
        person.wait("show status")
        person.child.send("\r")
        assert "services  all running" in person.prompt()
        person.child.send("show ?")
        assert "the version of Posthouse" in person.prompt()
        person.child.send("calls\r")  # the line stays as it was typed
        assert "no call was made yet" in person.prompt()
        person.child.send("\x1b[A\r")  # up: the last line again
        assert "no call was made yet" in person.prompt()


def test_ctrl_c_ends_what_was_asked_for_and_not_the_console(tmp_path: Path) -> None:
    with house(tmp_path) as product, console(product.file) as person:
        person.prompt()
        person.child.send("watch\r")
        person.wait("idle ")
        person.child.sendintr()
        person.prompt()
        person.child.send("\x1c\x1a")
        assert "services  all running" in person.type("show status")


def test_a_long_answer_comes_by_the_page(tmp_path: Path) -> None:
    users = [{"name": f"u{n}", "addresses": [f"u{n}@harbour.example"]} for n in range(30)]
    with house(tmp_path, user=users) as product, console(product.file, size=(20, 80)) as person:
        person.prompt()
        person.child.send("show config\r")
        first = person.wait("-- more")
        assert 10 < first.count("\n") <= 20 and '"u0"' in first and '"u29"' not in first
        person.child.send("\r")
        person.wait("-- more")
        person.child.send("q\r")
        assert '"u29"' not in person.prompt()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_forgotten_console_locks_itself(tmp_path: Path, term: str) -> None:
    lock = {"password": hashed(PASSWORD), "idle": "4s"}
    with house(tmp_path, console=lock) as product, console(product.file, term=term) as person:
        person.wait("password: ")
        person.child.send("show status\r")
        person.wait("that is not the password")
        person.wait("password: ")
        person.child.sendintr()
        person.child.send(PASSWORD + "\r")
        assert PASSWORD not in person.prompt()
        assert "services  all running" in person.type("show status")
        person.child.send("show")
        person.wait("locked: nobody has typed anything")
        person.wait("password: ")
        person.child.send("\x1c\x1a\x03")
        person.child.send(PASSWORD + "\r")
        person.prompt()
        assert PASSWORD not in (product.root / "state" / "console-history").read_text()


def test_without_a_posthouse_the_stored_configuration_is_there(tmp_path: Path) -> None:
    with house(tmp_path) as product:
        product.stop()
        with console(product.file) as person:
            assert "no Posthouse runs here" in person.prompt()
            assert "no running Posthouse answers" in person.type("show status")
            assert "hanako@harbour.example" in person.type("show config user[hanako].addresses")
