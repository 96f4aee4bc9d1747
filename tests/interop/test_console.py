"""`posthouse console` as a person types at it, on a dumb terminal and on a full one, beside a Posthouse that runs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from .console import console
from .product import PASSWORD, ROOT, Product, hashed, quick_lab, running
from .providers import wait_until


def product(root: Path, **more: object) -> Product:
    """A site with thirty users."""
    site = {"name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run"}
    users = [
        {"name": name, "addresses": [f"{name}@harbour.example"]} for name in ("hanako", *(f"u{n}" for n in range(29)))
    ]
    return Product(root, {"site": site, "user": users, **more}, {})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One that runs, for all tests that leave nothing behind."""
    one = product(tmp_path_factory.mktemp("site"))
    with running(one):
        yield one


@pytest.fixture
def file(site: Product) -> Iterator[Path]:
    """Its configuration, with nothing being edited."""
    yield site.file
    site.cli("config", "rollback")


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_person_looks_at_a_site(file: Path, term: str) -> None:
    with console(file, term=term) as person:
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


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_line_that_is_too_long_is_refused_and_not_obeyed_by_halves(file: Path, term: str) -> None:
    """On plain lines the kernel drops what is beyond 4095 bytes."""
    with console(file, term=term) as person:
        person.prompt()
        for beyond in (4100, 9000):
            person.child.send("set line[0].init " + "A" * beyond + "\r")
            person.wait("the line is too long: nothing was done; expected 4000 bytes at most")
            person.prompt()
        assert "nobody is editing" in person.type("show config status")
        person.child.send("x" * 2000 + "\r")
        person.wait("  x{60}…")
        assert "  ^ unknown word" in person.prompt()


def test_a_name_that_will_not_do_is_refused_before_a_password_is_asked_for(file: Path) -> None:
    with console(file) as person:
        person.prompt()
        for verb, said in (
            ("user passwd nobody", 'user has no "nobody"'),
            ("user add hanako x@harbour.example", "user has hanako already"),
            ("user add ../x x@harbour.example", 'user.name: "../x" is no name'),
            ("user add ken nowhere", "user.addresses: "),
        ):
            shown = person.type(verb)
            assert said in shown and "Password" not in shown
        assert "nobody is editing" in person.type("show config status")


def test_plain_lines_are_never_drawn_anew(file: Path) -> None:
    with console(file) as person:
        person.prompt()
        seen = person.type("show ?")
        assert re.search("  status +the line, the queue and the services", seen)
        assert "services  all running" in person.type("status")  # behind the words that stand in the prompt
        assert "\x1b" not in person.child.before
        person.child.send("show \t\r")
        assert re.search("  queue +what waits", person.prompt())


def test_a_full_terminal_completes_and_explains(file: Path) -> None:
    with console(file, term="xterm") as person:
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


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_ctrl_c_ends_what_was_asked_for_and_not_the_console(file: Path, term: str) -> None:
    with console(file, term=term) as person:
        person.prompt()
        person.child.send("watch\r")
        person.wait("idle ")
        person.child.sendintr()
        person.prompt()
        person.child.send("\x1c\x1a")
        assert "services  all running" in person.type("show status")


def test_a_long_answer_comes_by_the_page(file: Path) -> None:
    with console(file, size=(20, 80)) as person:
        person.prompt()
        person.child.send("show config\r")
        first = person.wait("-- more")
        assert 10 < first.count("\n") <= 20 and '"hanako"' in first and '"u28"' not in first
        person.child.send("\r")
        person.wait("-- more")
        person.child.send("q\r")
        assert '"u28"' not in person.prompt()


@pytest.mark.parametrize("term", ["dumb", pytest.param("xterm", marks=pytest.mark.long)])
def test_a_forgotten_console_locks_itself(tmp_path: Path, term: str) -> None:
    lock = {"password": hashed(PASSWORD), "idle": "4s"}
    one = product(tmp_path, console=lock)
    one.write()
    (one.root / "state").mkdir()
    with console(one.file, term=term) as person:
        person.wait("password: ")
        if term == "dumb":
            person.child.send("show status\r")
            person.wait("that is not the password")
            person.wait("password: ")
        person.child.sendintr()
        person.child.send(PASSWORD + "\r")
        assert PASSWORD not in person.prompt()
        assert "nobody is editing" in person.type("show config status")
        person.child.send("show")
        person.wait("locked: nobody has typed anything")
        person.wait("password: ")
        person.child.send("\x1c\x1a\x03")
        person.child.send(PASSWORD + "\r")
        person.prompt()
        assert PASSWORD not in (one.root / "state" / "console-history").read_text()


def test_a_program_that_takes_its_time_is_not_locked_out(tmp_path: Path) -> None:
    """As over ssh: who types has given the password."""
    one = product(tmp_path, console={"password": hashed(PASSWORD), "idle": "1s"})
    one.write()
    argv = [sys.executable, "-m", "appliance", "console", "--unlocked", "--config", str(one.file)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as program:
        assert program.stdin
        program.stdin.write("show config status\n")
        program.stdin.flush()
        time.sleep(3)
        said, _ = program.communicate("show staus\n", timeout=60)
    assert "nobody is editing" in said and "unknown word; expected calls" in said and "locked" not in said
    assert program.returncode == 2


def test_without_a_posthouse_the_stored_configuration_is_there_to_be_edited(tmp_path: Path) -> None:
    one = product(tmp_path)
    one.write()
    with console(one.file) as person:
        assert "no Posthouse runs here" in person.prompt()
        assert "no running Posthouse answers" in person.type("show status")
        assert "hanako@harbour.example" in person.type("show config user[hanako].addresses")
        person.type("set mail.client_limit 7")
        person.child.send("\r")
        person.wait(r"\*> ")
        person.type("commit")
        assert "client_limit = 7" in one.file.read_text()
        (tmp_path / "state" / "config" / "unconfirmed").write_text("")  # of a Posthouse that was killed
        person.child.send("\r")
        person.wait(r"harbour \(to confirm\)> ")
        person.type("confirm")
        assert "no commit waits" in person.type("confirm")


@pytest.mark.parametrize("term", [pytest.param("dumb", marks=pytest.mark.long), "xterm"])
def test_the_configuration_is_edited_compared_committed_and_confirmed(file: Path, term: str) -> None:
    with console(file, term=term) as person:
        person.prompt()
        assert "unknown key" in person.type("set mail.mesage_limit 1MiB")
        person.type('set schedule.at ["07:30", "18:00"]')
        person.type("edit user[hanako]")
        person.type("set quota 50MiB")
        assert 'user[0].quota = "50MiB"' in person.type("show config quota")
        person.type("edit")
        assert '+at = ["07:30", "18:00"]' in person.type("compare")
        person.child.send("commit confirm 10m comment smaller than before\r")
        assert "goes back by itself in 600 s" in person.prompt()
        assert "smaller than before" in person.type("revisions")
        person.child.send("\r")
        person.wait(r"harbour \(10 min to confirm\)>")
        person.prompt() if term == "xterm" else None
        assert "waits for `config confirm`" in person.type("commit")
        assert person.type("config confirm").strip() == ""  # as the messages have it
        assert "no commit waits" in person.type("confirm")
        person.type("rollback 1")
        assert '-quota = "50MiB"' in person.type("compare")
        person.type("commit")


@pytest.mark.long
def test_a_commit_that_nobody_confirms_goes_back_and_the_console_says_so(file: Path) -> None:
    with console(file) as person:
        person.prompt()
        person.type("set mail.message_limit 1MiB")
        person.type("commit confirm 2s")
        person.wait(r"the last commit was not confirmed in time: back to revision \d+")
        assert "1MiB" not in file.read_text()


def test_who_comes_is_told_who_edits(file: Path) -> None:
    with console(file) as one, console(file) as two:
        one.prompt()
        one.type("set mail.message_limit 1MiB")
        two.prompt()
        assert " is editing too" in two.type("set mail.client_limit 9")
        with console(file) as three:
            assert re.search(r"\w+ on pts/\d+ is editing the configuration", three.prompt())


def test_the_candidate_goes_to_a_file_and_comes_from_one(file: Path, tmp_path: Path) -> None:
    with console(file) as person:
        person.prompt()
        person.type(f"save {tmp_path / 'saved.toml'}")
        assert (tmp_path / "saved.toml").read_text() == file.read_text()
        (tmp_path / "saved.toml").write_text(file.read_text() + "\n[mail]\nclient_limit = 7\n")
        person.type(f"load {tmp_path / 'saved.toml'}")
        assert "+client_limit = 7" in person.type("compare")
        assert "No such file" in person.type("load /nowhere")


def test_a_user_and_a_terminal_come_and_go(file: Path) -> None:
    with console(file) as person:
        person.prompt()
        for verb in ("user add taro taro@harbour.example", "user passwd taro"):
            person.child.send(verb + "\r")
            person.wait("Password: ")
            person.child.send(PASSWORD + "\r")
            person.wait("Once more: ")
            person.child.send(PASSWORD + "\r")
            assert PASSWORD not in person.prompt()
        person.type("terminal add pc11")
        shown = person.type("compare")
        assert '+name = "taro"' in shown and '+password = "$7$' in shown and '+name = "pc11"' in shown
        person.child.send("user passwd taro\r")
        person.wait("Password: ")
        person.child.sendintr()
        person.prompt()
        person.type("user remove taro")
        person.type("terminal remove pc11")
        assert "+name" not in person.type("compare")


def test_the_line_the_modem_and_the_users_are_looked_at(tmp_path: Path) -> None:
    with quick_lab() as lab:
        modem = {
            "name": "pstn", "port": lab.lab.modem.port, "flow": "none", "numbers": ["0570000111"], "bearer": "none",
        }  # fmt: skip
        one = product(tmp_path, line=[modem], schedule={"linger": "0s"})
        with running(one), console(one.file, size=(60, 120)) as person:
            person.prompt()
            idle = r"pstn +modem +/dev/pts/\d+ +idle "
            wait_until(lambda: re.search(idle, person.type("show line")), "the line is idle")
            assert "no interface is configured" in person.type("show interfaces")
            assert re.search(r"hanako +no +0 +0 +- +hanako@harbour.example", person.type("show users"))
            assert "Laboratory modem" in person.type("modem ATI")
            assert "ATD dials: use `dial`" in person.type("modem ATE0DT1")
            assert "ERROR" in person.type("modem AT+NONSENSE")
            person.child.send("dial\r")
            person.wait(r"dialling +\S")  # each step as it comes
            person.wait("complete\r")
            person.prompt()
            assert one.ask("lines")[0]["state"] == "idle"
            assert [user["name"] for user in one.ask("users")][:2] == ["hanako", "u0"]
            assert "no line called x" in one.cli("modem", "--line", "x", "ATI").stderr


def test_what_can_not_be_undone_is_typed_out(file: Path) -> None:
    with console(file) as person:
        person.prompt()
        for verb in ("reboot", "factory-reset"):
            person.child.send(verb + "\r")
            person.wait(f"type {verb} once more to do it: ")
            person.child.send("yes\r")
            assert "nothing was done" in person.prompt()
            person.child.send(verb + "\r")
            person.wait("to do it: ")
            person.child.send(verb + "\r")
            assert "not started from an image" in person.prompt()


def test_a_bundle_for_support_has_no_secret(tmp_path: Path, site: Product) -> None:
    one = product(tmp_path, console={"password": hashed(PASSWORD)})
    one.config["mail"] = {"smarthost": [{"host": "smtp.isp.example", "login": "site", "secret": "isp"}]}
    one.secrets = {"isp": "geheim-wort-x"}
    one.write()
    done = one.cli("support")
    assert done.returncode == 0, done
    assert 'mail.smarthost[0].secret = "isp"' in done.stdout
    assert "geheim-wort-x" not in done.stdout and "$7$" not in done.stdout
    assert site.cli("support", str(tmp_path / "bundle.txt")).returncode == 0
    assert '"uptime_s"' in (tmp_path / "bundle.txt").read_text()
    assert (tmp_path / "bundle.txt").stat().st_mode & 0o777 == 0o600


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b2J\r\x08"


@contextlib.contextmanager
def a_posthouse_that_says(path: Path, answers: dict[str, object]) -> Iterator[None]:
    """Answers so at this control socket, and refuses all other verbs."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        verb = json.loads(client.recv(65536))["verb"]
                        answer = {"result": answers[verb]} if verb in answers else {"error": HOSTILE, "code": 1}
                        client.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_what_comes_from_outside_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """A modem's answer, a peer's reason, a server's refusal; and a file that somebody wrote."""
    one = product(tmp_path)
    one.write()
    with one.file.open("a", encoding="utf-8") as file:
        file.write("# \u202e\x9b2J\n")
    with console(one.file, size=(500, 80)) as person:
        person.prompt()
        shown = person.type("show config")
        assert "# \\u202e\\x9b2J" in shown
    answers: dict[str, object] = {"why": HOSTILE, "modem": [HOSTILE]}
    with a_posthouse_that_says(tmp_path / "run" / "control", answers), console(one.file) as person:
        person.prompt()
        for verb in ("why pc11", "modem ATI", "terminal enrol pc11", "show queue"):
            said = person.type(verb)
            assert "\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b2J\\x0d\\x08" in said
            shown += said
    assert all(c in "\r\n" or c.isprintable() for c in shown), shown
