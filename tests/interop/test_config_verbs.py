"""`posthouse config …` as a person types it, beside a Posthouse that runs: what is committed is in force at once, what is
not confirmed goes back, also over a kill."""

from __future__ import annotations

import contextlib
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ports import free_port

from .product import Product, running
from .providers import wait_until


@contextlib.contextmanager
def house(root: Path) -> Iterator[tuple[Product, int]]:
    smtp = free_port()
    site = {"name": "harbour", "domain": "harbour.example", "state": root / "state", "runtime": root / "run"}
    user = {"name": "hanako", "addresses": ["hanako@harbour.example"]}
    product = Product(root, {"site": site, "mail": {"smtp": [f"127.0.0.1:{smtp}"]}, "user": [user]}, {})
    with running(product):
        yield product, smtp


def config(product: Product, *arguments: str, code: int = 0) -> str:
    """-> standard output and standard error."""
    done = product.cli("config", *arguments)
    assert done.returncode == code, (arguments, done)
    return done.stdout + done.stderr


def size_of(port: int) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.ehlo()
        return client.esmtp_features["size"]


def test_a_commit_is_in_force_without_a_restart(tmp_path: Path) -> None:
    with house(tmp_path) as (product, port):
        before = size_of(port)
        config(product, "set", "mail.message_limit", "1MiB")
        config(product, "set", "user[1].name", "taro")
        assert size_of(port) == before
        assert '+message_limit = "1MiB"' in config(product, "compare")
        assert product.ask("config", "compare") == [
            {"path": "mail.message_limit", "before": None, "after": "1MiB"},
            {"path": "user[taro].name", "before": None, "after": "taro"},
        ]
        config(product, "commit", "--comment", "smaller")
        assert size_of(port) == str(1 << 20) != before
        assert product.status()["users"] == 2
        assert "there is nothing to commit" in config(product, "commit", code=1)
        assert "smaller" in config(product, "revisions")
        config(product, "rollback", "1")
        config(product, "commit")
        assert size_of(port) == before and product.status()["users"] == 1
        assert "revision 2 by " in product.journal()


def test_users_are_added_renewed_and_removed(tmp_path: Path) -> None:
    with house(tmp_path) as (product, _):

        def user(*arguments: str, password: str = "", code: int = 0) -> str:
            argv = [sys.executable, "-m", "appliance", "user", *arguments, "--config", str(product.file)]
            done = subprocess.run(argv, input=password + "\n", capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done
            return done.stdout + done.stderr

        user("add", "taro", "taro@harbour.example", password="Blau-Kessel-42")
        assert "user has taro already" in user("add", "taro", password="x", code=1)
        assert "empty" in user("add", "yuki", password="", code=1)
        assert "expected a name" in user("add", "../yuki", password="x", code=1)
        first = config(product, "show", "user[taro].password")
        assert first.startswith('user[1].password = "$7$') and "Blau" not in first
        user("passwd", "taro", password="Rot-Kessel-43")
        assert config(product, "show", "user[taro].password") != first
        assert "has no" in user("passwd", "nobody", password="x", code=1)
        config(product, "add", "relay.account", "pc11", "may_call=[]", "roams=true")
        config(product, "commit")
        assert product.status()["users"] == 2
        assert 'relay.account[0].name = "pc11"' in config(product, "show", "relay.account")
        assert "has no elements with names" in config(product, "add", "mail", "x", code=1)
        assert '"quota" has no value' in config(product, "add", "user", "x", "quota", code=2)
        user("remove", "taro")
        config(product, "commit")
        assert product.status()["users"] == 1


def test_a_secret_is_kept_and_in_force_at_once(tmp_path: Path) -> None:
    with house(tmp_path) as (product, _):

        def secret(*arguments: str, value: str = "", code: int = 0) -> str:
            argv = [sys.executable, "-m", "appliance", "config", "secret", *arguments, "--config", str(product.file)]
            done = subprocess.run(argv, input=value + "\n", capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done
            assert not value or value not in done.stdout + done.stderr + product.journal()
            return done.stderr

        file = tmp_path / "secrets.toml"
        file.write_text("# of the provider\nold = 'x'\n")
        secret("isp", value="geheim-wort-1")
        assert file.read_text() == "# of the provider\nold = 'x'\nisp = \"geheim-wort-1\"\n"
        assert file.stat().st_mode & 0o777 == 0o600
        config(product, "set", "mail.smarthost[0].host", "smtp.isp.example")
        config(product, "set", "mail.smarthost[0].login", "site")
        config(product, "set", "mail.smarthost[0].secret", "isp")
        config(product, "commit")
        product.journal()
        secret("isp", value="geheim-wort-2")
        assert "the secret isp was given another value" in product.journal()
        assert "mail.smarthost[0].secret: " in secret("isp", "--delete", code=1)
        assert "mail.smarthost[0].secret: the secret that it names has a wrong form" in secret(
            "isp", value="a\tb", code=1
        )
        assert "no secret nonsense is kept" in secret("nonsense", "--delete", code=1)
        secret("old", "--delete")
        assert file.read_text() == '# of the provider\nisp = "geheim-wort-2"\n'


def test_what_is_wrong_or_can_not_be_served_stays_out(tmp_path: Path) -> None:
    with house(tmp_path) as (product, port):
        assert 'expected "message_limit"' in config(product, "set", "mail.mesage_limit", "1MiB", code=1)
        config(product, "set", "mail.smarthost[0].login", "x")
        said = config(product, "commit", code=2)
        assert "candidate.toml" in said and "mail.smarthost[0].host: is missing" in said
        config(product, "rollback")
        config(product, "set", "site.name", "other")
        assert "takes effect at the next start" in config(product, "commit", code=1)
        config(product, "rollback", "1")
        config(product, "commit")
        assert product.status()["site"] == "harbour" and size_of(port)


def test_an_unconfirmed_commit_goes_back_by_itself(tmp_path: Path) -> None:
    with house(tmp_path) as (product, port):
        text, before = product.file.read_text(), size_of(port)
        config(product, "set", "mail.message_limit", "1MiB")
        assert "goes back by itself in 3 s" in config(product, "commit", "--confirm", "3s")
        assert size_of(port) == str(1 << 20)
        wait_until(lambda: "nobody confirmed it in time" in product.journal(), "it goes back")
        wait_until(lambda: "read again: smtp" in product.journal().partition("nobody confirmed")[2], "and is in force")
        assert size_of(port) == before
        assert product.file.read_text() == text
        config(product, "rollback", "1")
        assert " is editing since " in config(product, "status")
        config(product, "commit", "--confirm", "1m")
        assert "the last commit goes back by itself in " in config(product, "status")
        config(product, "confirm")
        assert config(product, "status") == "nobody is editing\n"
        wait_until(lambda: "was confirmed by" in product.journal(), "it stands")
        assert size_of(port) == str(1 << 20)
        assert "no commit waits for a confirmation" in config(product, "confirm", code=1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_an_unconfirmed_commit_outlives_no_end(tmp_path: Path, end: str) -> None:
    with house(tmp_path) as (product, port):
        before = size_of(port)
        config(product, "set", "mail.message_limit", "1MiB")
        config(product, "commit", "--confirm")
        assert "waits for `config confirm`" in config(product, "commit", code=1)
        getattr(product, end)()
        text = product.file.read_text()
        assert "1MiB" in text
        product.write = lambda: None  # type: ignore[method-assign]
        product.start()
        assert size_of(port) == before
        assert "Posthouse or the power ended before it was confirmed" in product.journal()
        assert "1MiB" not in product.file.read_text()


def test_without_a_posthouse_the_stored_files_are_edited(tmp_path: Path) -> None:
    with house(tmp_path) as (product, port):
        product.stop()
        product.file.write_text(product.file.read_text().replace("hanako@harbour.example", "hanako@"))  # faulty
        assert "hanako@" in config(product, "show", "user[hanako].addresses")
        config(product, "set", "user[hanako].addresses[0]", "hanako@harbour.example")
        config(product, "set", "mail.message_limit", "1MiB")
        assert "no Posthouse runs that could take it back" in config(product, "commit", "--confirm", code=1)
        assert product.ask("config", "compare", "0")[0]["path"] == "user[hanako].addresses"
        config(product, "commit")
        assert product.ask("config", "compare") == []
        (tmp_path / "state" / "config" / "unconfirmed").write_text("")  # of a Posthouse that was killed
        assert "goes back by itself as soon as Posthouse can, or at its next start" in config(product, "status")
        config(product, "confirm")
        product.write = lambda: None  # type: ignore[method-assign]
        product.start()
        assert size_of(port) == str(1 << 20)


@pytest.mark.parametrize("runs", [True, False])
def test_a_candidate_with_what_json_has_not_is_shown_all_the_same(runs: bool, tmp_path: Path) -> None:
    with house(tmp_path) as (product, _):
        if not runs:
            product.stop()
        argv = [sys.executable, "-m", "appliance", "config", "load", "--config", str(product.file)]
        text = product.file.read_text() + "\n[schedule]\nevery = 2026-11-28\n"
        subprocess.run(argv, input=text, text=True, timeout=60, check=True)
        assert "every = 2026-11-28" in config(product, "show")
        assert product.ask("config", "show")["schedule"] == {"every": "2026-11-28"}
        assert product.ask("config", "compare") == [{"path": "schedule.every", "before": None, "after": "2026-11-28"}]
        assert "schedule.every" in config(product, "commit", code=2)
        config(product, "rollback")


def test_a_disk_that_takes_nothing_back_yet_keeps_nobody_from_confirming_or_starting(tmp_path: Path) -> None:
    with house(tmp_path) as (product, port):
        config(product, "set", "mail.message_limit", "1MiB")
        config(product, "commit", "--confirm", "2s")
        in_the_way = tmp_path / "posthouse.toml.new"
        in_the_way.mkdir()  # nothing can be written there
        wait_until(lambda: "taken back yet" in product.journal(), "it can't be taken back")
        product.kill()
        product.write = lambda: None  # type: ignore[method-assign]
        product.start()
        assert size_of(port) == str(1 << 20)
        config(product, "confirm")
        in_the_way.rmdir()
        assert "back to revision" not in product.journal()
