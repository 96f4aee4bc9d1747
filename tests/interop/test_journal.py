"""The journal as systemd's own programs have it: the catalog compiled and shown by journalctl, entries written to a real
systemd-journald and read back, held against the table.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import events
from appliance.events.event import Event
from fakes.journald import Journald, journald

from . import clients, corpus
from .product import ROOT, Site, quick_lab
from .providers import HOST, AioSmtp

TABLE = events.table()
SHOWN = {e.message_id: e for e in TABLE.values() if e.message_id}
CATALOG = ROOT / "systemd/posthouse.catalog"
PRIORITIES = {logging.DEBUG: "7", logging.INFO: "6", logging.WARNING: "4", logging.ERROR: "3"}
HOSTILE = "\x1b]0;owned\x07\u202eevil\u200b\r\nMESSAGE=forged\x9b2J"
CLEANED = "\ufffd]0;owned\ufffd\ufffdevil\ufffd\ufffd\ufffdMESSAGE=forged\ufffd2J"

EMIT_ALL = f"""
import logging
from appliance import events
from appliance.host.systemd import log_to
log_to(logging.DEBUG)
for event in events.table().values():
    events.emit(event, **{{field: {HOSTILE!r} for field in event.fields}})
logging.getLogger("somebody.else").warning({HOSTILE!r})
"""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journald]:
    with journald(tmp_path_factory.mktemp("journald")) as it:
        yield it


def compiled(root: Path) -> list[str]:
    """Makes a catalog database under `root`; -> the arguments by which journalctl reads it."""
    folder = root / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (folder / CATALOG.name).write_bytes(CATALOG.read_bytes())
    done = subprocess.run(
        ["journalctl", "--update-catalog", f"--root={root}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [f"--root={root}"]


def own(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields that Posthouse gave it: not journald's, nor those that every program's entry has."""
    common = {"MESSAGE", "MESSAGE_ID", "EVENT", "PRIORITY", "SYSLOG_IDENTIFIER", "CODE_FILE", "CODE_LINE", "CODE_FUNC"}
    return {k: v for k, v in entry.items() if not k.startswith("_") and k not in common}


def holds_to_the_table(entry: dict[str, Any]) -> Event:
    event = TABLE[entry["EVENT"]]
    assert entry.get("MESSAGE_ID", "") == event.message_id
    assert entry["PRIORITY"] == PRIORITIES[event.level]
    assert set(own(entry)) <= {f.upper() for f in event.fields} | {"REPEATED", "CALL_ID"}
    assert entry["_TRANSPORT"] == "journal"
    return event


def test_journalctl_takes_the_catalog_and_has_every_text(tmp_path: Path) -> None:
    arguments = compiled(tmp_path)
    listed = subprocess.run(
        ["journalctl", *arguments, "--list-catalog"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(SHOWN)
    assert all(" Posthouse: " in line for line in listed.splitlines())
    dumped = subprocess.run(
        ["journalctl", *arguments, "--dump-catalog"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    texts = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- [0-9a-f]{32}|\Z)", dumped, re.M | re.S))
    for message_id, event in SHOWN.items():
        text = " ".join(texts[message_id].split())
        assert f"What follows: {event.follows}" in text
        assert f"What to do: {event.action or 'Nothing.'}" in text
        assert set(re.findall(r"@([A-Z_]+)@", text)) == {f.upper() for f in event.fields}


def test_every_event_arrives_with_its_fields_and_nothing_that_moves_a_cursor(journal: Journald) -> None:
    subprocess.run([sys.executable, "-c", EMIT_ALL], preexec_fn=journal.enter, cwd=ROOT, timeout=60, check=True)
    entries = journal.entries()
    told = [e for e in entries if "EVENT" in e]
    assert [e["EVENT"] for e in told] == list(TABLE)
    for entry in told:
        event = holds_to_the_table(entry)
        assert own(entry) == {f.upper(): CLEANED for f in event.fields}
        assert entry["MESSAGE"] == event.text.format_map(dict.fromkeys(event.fields, CLEANED))
        assert entry["CODE_FILE"] == "<string>"
    others = [e for e in entries if e.get("SYSLOG_IDENTIFIER") == "posthouse" and "EVENT" not in e]
    assert [e["MESSAGE"] for e in others] == [CLEANED.replace("\ufffd\ufffdMESSAGE", "\ufffd\nMESSAGE")]


def test_without_a_journal_lines_on_standard_error_are_as_clean() -> None:
    said = subprocess.run(
        [sys.executable, "-c", EMIT_ALL], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    lines = said.stderr.splitlines()
    assert len(lines) == len(TABLE) + 2  # the last one is another library's, and its line break is one
    assert all(line.isprintable() for line in lines)
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d [DIWE] ", line) for line in lines[:-1])


def test_journalctl_x_says_what_happened_what_follows_and_what_to_do(journal: Journald, tmp_path: Path) -> None:
    emit = """
import logging
from appliance import events
from appliance.host.systemd import log_to
log_to(logging.INFO)
events.emit(events.DIAL_FAILED, call_id=17, number="0570000111", outcome="no-dialtone", text="")
"""
    compiled(tmp_path)
    database = tmp_path / "var/lib/systemd/catalog/database"
    subprocess.run([sys.executable, "-c", emit], preexec_fn=journal.enter, cwd=ROOT, timeout=60, check=True)
    journal.inside("mkdir", "-p", "/var/lib/systemd/catalog")
    journal.inside("mount", "-t", "tmpfs", "tmpfs", "/var/lib/systemd/catalog")
    journal.inside("cp", str(database), "/var/lib/systemd/catalog/database")
    journal.journalctl("--sync")
    said = " ".join(journal.journalctl("-x", "CALL_ID=17").replace("░░", " ").split())
    assert "Subject: call 17: 0570000111: no-dialtone" in said
    assert "What follows: The next number, attempt or line is tried" in said
    assert "What to do: Nothing for a busy number. no-dialtone: is the telephone line plugged in?" in said


def test_a_program_of_the_image_tells_as_posthouse_does(journal: Journald, tmp_path: Path) -> None:
    """By its own script, standard error being a terminal, a file or nothing."""
    script = (ROOT / "rootfs-overlay/usr/lib/posthouse/tell").read_text()
    script = script.replace("/usr/bin/python3 -I", f"cd {ROOT} && exec {sys.executable}").replace("exec cd", "cd")
    for arguments, code in (
        (["update-refused", "why=refused: \x1b[2J no update"], 0),
        (["update-installed", "version=1.2.3"], 2),
        (["nothing"], 2),
        ([], 2),
    ):
        done = subprocess.run(
            ["sh", "-c", script, "tell", *arguments],
            preexec_fn=journal.join,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert (done.returncode, bool(done.stderr)) == (code, bool(code)), done.stderr
    (entry,) = journal.entries("EVENT=update-refused")[-1:]
    holds_to_the_table(entry)
    assert own(entry) == {"WHY": "refused: \ufffd[2J no update"}
    assert entry["MESSAGE"] == "no update is installed: refused: \ufffd[2J no update"


def test_a_run_with_a_call_is_in_the_journal(journal: Journald, tmp_path: Path, second_provider: AioSmtp) -> None:
    """From the start to the end, with a message that arrives and one that a hostile server refuses."""
    second_provider.refuse = lambda verb, argument: "550 5.1.1 \x1b[2Jgone" if argument.startswith("nobody") else None
    tariff = {"name": "t", "currency": "JPY", "setup": 7, "periods": [{"unit": "180s", "price": 10}]}
    with quick_lab() as lab:
        site = Site(
            tmp_path, lab, users=("hanako",), smtp_target=(HOST, second_provider.port), line={"tariff": "t"},
            more={"tariff": [tariff]},
        )  # fmt: skip
        site.start(preexec_fn=journal.enter)
        try:
            mail = corpus.make("plain", "told", "hanako@harbour.example", ["nobody@far.example", "some@far.example"])
            clients.SENDERS["smtplib"].submit(site.smtp, mail, site.login("hanako"), tmp_path)
            call = site.dial()
        finally:
            assert site.process
            assert site.stop() == 0
    assert site.journal() == ""  # nothing beside the journal
    entries = [e for e in journal.entries(f"_PID={site.process.pid}") if "EVENT" in e]
    for entry in entries:
        holds_to_the_table(entry)
    story = {e["EVENT"]: own(e) for e in entries}
    assert [e["EVENT"] for e in entries][-2:] == ["stopping", "stopped"]
    assert story["started"]["SITE"] == "harbour"
    assert story["accepted"]["SENDER"] == "hanako@harbour.example"
    assert story["sent"].keys() == {"MAIL_ID", "RECIPIENTS", "HOST", "REPLY", "CALL_ID"}
    assert story["bounced"]["MAIL_ID"] == story["sent"]["MAIL_ID"] == story["accepted"]["MAIL_ID"]
    assert story["bounced"]["REPLY"] == "550 5.1.1 \ufffd[2Jgone"
    number = str(call["id"])
    of_the_call = [e["EVENT"] for e in journal.entries(f"_PID={site.process.pid}", f"CALL_ID={number}")]
    assert of_the_call[:3] == ["call-started", "dialling", "connected"] and of_the_call[-1] == "call-ended"
    assert sorted(of_the_call[3:-1]) == ["bounced", "sent"]
    assert story["call-started"] == {"CALL_ID": number, "LINE": "pstn", "REASON": "by-hand"}
    assert story["dialling"]["NUMBER"] == call["number"]
    ended = story["call-ended"]
    assert (ended["OUTCOME"], ended["SENT"], ended["FAILED"]) == ("complete", str(call["sent"]), "1")
    assert (ended["COST"], ended["CURRENCY"]) == (call["cost"], "JPY") == ("17", "JPY")


def test_posthouse_journal_shows_the_last_entries(journal: Journald) -> None:
    program = (
        "import logging; from appliance import events; from appliance.host.systemd import log_to; log_to(logging.INFO)\n"
        f"for n in range(7): events.emit(events.LISTENING, service=f'service-{{n}}', address={HOSTILE!r})"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True, cwd=ROOT, preexec_fn=journal.enter)
    journal.journalctl("--sync")
    shown = journal.inside(sys.executable, "-m", "appliance", "journal", "--lines", "5")
    assert re.findall(r"service-\d", shown) == [f"service-{n}" for n in range(2, 7)]
    assert shown.replace("\n", "").isprintable()
